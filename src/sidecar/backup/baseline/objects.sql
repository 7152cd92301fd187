-- $1: the database whose roles count, which all databases share.
with part(kind, object, text) as (
    select 'relation', oid,
        (to_jsonb(t.*) - '{relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid,relhasindex,relhasrules,relhastriggers,relhassubclass}'::text[])::text
        from pg_class t
    union all select 'relation', attrelid, concat('attribute', t.*) from pg_attribute t
    union all select 'relation', adrelid, concat('default', t.*) from pg_attrdef t
    union all select 'relation', conrelid, concat('constraint', t.*) from pg_constraint t
    union all select 'relation', indexrelid, concat('index', t.*) from pg_index t
    union all select 'relation', tgrelid, concat('trigger', t.*) from pg_trigger t
    union all select 'relation', polrelid, concat('policy', t.*) from pg_policy t
    union all select 'relation', ev_class, concat('rule', t.*) from pg_rewrite t
    union all select 'relation', inhrelid, concat('parent', t.*) from pg_inherits t
    union all select 'relation', partrelid, concat('partitions', t.*) from pg_partitioned_table t
    union all select 'relation', seqrelid, concat('sequence', t.*) from pg_sequence t
    union all select 'relation', stxrelid, concat('statistics', t.*) from pg_statistic_ext t
    union all select 'relation', ftrelid, concat('foreign', t.*) from pg_foreign_table t
    union all select 'type', oid, concat(t.*) from pg_type t
    union all select 'type', enumtypid, concat('label', t.*) from pg_enum t
    union all select 'type', rngtypid, concat('range', t.*) from pg_range t
    union all select 'type', contypid, concat('constraint', t.*) from pg_constraint t where contypid <> 0
    union all select 'function', oid, concat(t.*) from pg_proc t
    union all select 'function', aggfnoid::oid, concat('aggregate', t.*) from pg_aggregate t
    union all select 'schema', oid, concat(t.*) from pg_namespace t
    union all select 'extension', oid, concat(t.*) from pg_extension t
    union all select 'role', oid, (to_jsonb(t.*) - '{rolpassword}'::text[])::text from pg_authid t
        where current_database() = $1
    union all select 'role', member, concat('member', t.*) from pg_auth_members t where current_database() = $1
    union all select 'role', setrole, concat('setting', t.*) from pg_db_role_setting t where current_database() = $1
), named(kind, object, name) as (
    select 'relation', c.oid,
        format('%s %I.%I',
            case c.relkind when 'r' then 'table' when 'p' then 'table' when 'i' then 'index' when 'I' then 'index'
                when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                when 'c' then 'type' when 'f' then 'foreign table' else 'relation' end,
            n.nspname, c.relname)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid >= 16384 and n.nspname <> 'pg_toast'
    -- A table's row and an array of something are not somebody's making.
    union all select 'type', t.oid, format('type %I.%I', n.nspname, t.typname)
        from pg_type t join pg_namespace n on n.oid = t.typnamespace
        where t.oid >= 16384 and t.typrelid = 0 and t.typcategory <> 'A'
    union all select 'function', p.oid, format('function %I.%I(%s)', n.nspname, p.proname, oidvectortypes(p.proargtypes))
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace where p.oid >= 16384
    union all select 'schema', oid, format('schema %I', nspname) from pg_namespace
        where oid >= 16384 and nspname !~ '^pg_(toast_)?temp_'
    union all select 'extension', oid, format('extension %I', extname) from pg_extension
    union all select 'role', oid, format('role %I', rolname) from pg_authid where current_database() = $1
)
select name, count(*) as rows, sum(hashtextextended(text collate "C", 0))::text as sum
from named join part using (kind, object)
group by kind, object, name
