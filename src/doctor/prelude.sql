-- What every check of the doctor begins with: who is a tenant, and what is a tenants' table. $1 is the question.
with recursive
input as (
    select $1::text::jsonb as given
),
-- Roles that tenants' backends log in as, over all of the cluster.
login as (
    select r.oid, r.rolname as name, l ->> 'level' as level, l ->> 'tenant' as tenant, (l ->> 'here')::bool as here,
        l -> 'databases' as databases
    from input, jsonb_array_elements(given -> 'logins') l
    join pg_catalog.pg_roles r on r.rolname = l ->> 'role'
),
-- Each login, and each role whose privileges it has or can take by SET ROLE, and the first step on the way.
reach (login, role, step) as (
    select oid, oid, null::oid from login
    union
    select r.login, m.roleid, coalesce(r.step, m.roleid)
    from reach r join pg_catalog.pg_auth_members m on m.member = r.role
),
-- Roles whose privileges all tenants at level rows have here; 0 is PUBLIC.
shared (role) as (
    select r.role from reach r join login l on l.oid = r.login where l.here and l.level = 'rows'
    union
    select 0::oid from input where (given ->> 'rows')::bool
),
-- The same of every tenant that shares this database with others.
sharing (role) as (
    select r.role from reach r join login l on l.oid = r.login where l.here and l.level in ('rows', 'schema')
    union
    select 0::oid from input where (given ->> 'shares')::bool
),
-- The same of every tenant in this database, alone in it or not.
anybody (role) as (
    select r.role from reach r join login l on l.oid = r.login where l.here
    union
    select 0::oid from input, jsonb_array_elements(given -> 'logins') l where (l ->> 'here')::bool
),
-- Schemas of one tenant's own.
own_schema as (
    select n.oid, s ->> 'schema' as name, s ->> 'tenant' as tenant
    from input, jsonb_array_elements(given -> 'own_schemas') s
    join pg_catalog.pg_namespace n on n.nspname = s ->> 'schema'
),
-- Whose privileges each role is here; no tenant: everybody at level rows, or PUBLIC.
holder (role, tenant) as (
    select r.role, l.tenant from reach r join login l on l.oid = r.login where l.here
    union
    select 0::oid, null
),
-- Where people's own objects are, but for those of one tenant alone.
common_schema as (
    select n.oid, n.nspname, n.nspowner, n.nspacl from pg_catalog.pg_namespace n
    where n.nspname not in ('pg_catalog', 'information_schema', 'pgward') and n.nspname !~ '^pg_'
    and n.oid not in (select oid from own_schema)
),
open_schema (oid, role) as (
    select n.oid, a.grantee from pg_catalog.pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
    where a.privilege_type = 'USAGE'
),
extension_member (class, object, extension) as (
    select d.classid, d.objid, e.extname from pg_catalog.pg_depend d
    join pg_catalog.pg_extension e on e.oid = d.refobjid
    where d.refclassid = 'pg_catalog.pg_extension'::regclass and d.deptype = 'e'
),
relation as (
    select c.*, format('%I.%I', n.nspname, c.relname) as name
    from pg_catalog.pg_class c join common_schema n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relpersistence <> 't'
),
relation_grant as (
    select c.oid as relation, a.grantee, a.privilege_type as privilege
    from pg_catalog.pg_class c,
        aclexplode(coalesce(c.relacl, acldefault((case c.relkind when 'S' then 's' else 'r' end)::"char", c.relowner))) a
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
),
-- What all tenants at level rows may do with a relation, by which grants.
shared_grant as (
    select g.relation, g.privilege, g.grantee from relation_grant g where g.grantee in (select role from shared)
),
-- What they can name and use in any way.
reachable (oid) as (
    select c.oid from pg_catalog.pg_class c
    where c.relnamespace in (select oid from open_schema where role in (select role from shared))
    and (c.oid in (select relation from shared_grant) or exists (
        select from pg_catalog.pg_attribute t, aclexplode(t.attacl) a
        where t.attrelid = c.oid and not t.attisdropped and a.grantee in (select role from shared)))
),
role_name (oid, name) as (
    select oid, quote_ident(rolname) from pg_catalog.pg_roles union all select 0, 'public'
),
-- Functions that say whose session it is.
sealed_function (oid) as (
    select p from unnest(array[to_regprocedure('pgward.tenant()'), to_regprocedure('pgward.claims()')]) p
    where p is not null
),
sealed_policy as (
    select p.oid, p.polrelid as relation from pg_catalog.pg_policy p
    where exists (
        select from pg_catalog.pg_depend d
        where d.classid = 'pg_catalog.pg_policy'::regclass and d.objid = p.oid
        and d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid in (select oid from sealed_function))
),
-- Tables with the tenant's column, or with a policy that asks for the tenant.
tenant_table as (
    select t.*, a.attnum as tenant_attnum, quote_ident(a.attname) as tenant_column,
        format_type(a.atttypid, null) as tenant_type
    from (
        select r.*, coalesce(
            (select a.attnum from pg_catalog.pg_attribute a, input
             where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped and given -> 'tenant_columns' ? a.attname
             order by a.attnum limit 1),
            (select min(d.refobjsubid) from pg_catalog.pg_depend d join sealed_policy p on p.oid = d.objid
             where p.relation = r.oid and d.classid = 'pg_catalog.pg_policy'::regclass
             and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = r.oid and d.refobjsubid > 0
             having count(distinct d.refobjsubid) = 1)) as attnum
        from relation r where r.relkind in ('r', 'p')
    ) t
    cross join input
    left join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attnum = t.attnum
    where (given ->> 'rows')::bool
    and (t.attnum is not null or t.oid in (select relation from sealed_policy))
    and t.relowner not in (select oid from login where tenant is not null)
),
-- Which relations a view reads, through any depth.
reads (view, relation) as (
    select r.ev_class, d.refobjid
    from pg_catalog.pg_rewrite r
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
        and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> r.ev_class
    union
    select v.view, d.refobjid
    from reads v
    join pg_catalog.pg_rewrite r on r.ev_class = v.relation
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
        and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> r.ev_class
),
-- Functions other than PostgreSQL's own, and tenants' grants on functions of all kinds.
routine as (
    select p.*, format('%I.%I(%s)', n.nspname, p.proname, oidvectortypes(p.proargtypes)) as name,
        n.nspname, o.rolsuper or o.rolbypassrls as mighty, quote_ident(o.rolname) as owner
    from pg_catalog.pg_proc p join common_schema n on n.oid = p.pronamespace
    join pg_catalog.pg_roles o on o.oid = p.proowner
    where p.proowner not in (select oid from login where tenant is not null)
),
routine_grant as (
    select p.oid as routine, a.grantee
    from pg_catalog.pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    where a.privilege_type = 'EXECUTE' and a.grantee in (select role from anybody)
    and p.pronamespace in (select oid from open_schema where role in (select role from anybody))
),
-- What pgward.classification says of columns; without attnum there is no such column.
classified as (
    select c ->> 'schema' as schema, c ->> 'relation' as relation, c ->> 'column_name' as column_name,
        c ->> 'class' as class, c -> 'hidden_from' as hidden_from, c ->> 'note' as note, t.oid, a.attnum
    from input cross join jsonb_array_elements(given -> 'classification') c
    left join pg_catalog.pg_namespace n on n.nspname = c ->> 'schema'
    left join pg_catalog.pg_class t on t.relnamespace = n.oid and t.relname = c ->> 'relation'
        and t.relkind in ('r', 'p', 'v', 'm', 'f')
    left join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attname = c ->> 'column_name'
        and a.attnum > 0 and not a.attisdropped
),
inheriting (root, relation) as (
    select oid, oid from classified where attnum is not null
    union
    select i.root, h.inhrelid from inheriting i join pg_catalog.pg_inherits h on h.inhparent = i.relation
),
inherited (root, relation) as (
    select oid, oid from classified where attnum is not null
    union
    select i.root, h.inhparent from inherited i join pg_catalog.pg_inherits h on h.inhrelid = i.relation
),
-- Tables where its values can be asked for by name: its own, and those below and above it by inheritance.
place (oid, attnum, relation, number) as (
    select c.oid, c.attnum, r.relation, a.attnum
    from classified c
    join (select * from inheriting union select * from inherited) r on r.root = c.oid
    join pg_catalog.pg_attribute a on a.attrelid = r.relation and a.attname = c.column_name
        and a.attnum > 0 and not a.attisdropped
    where c.attnum is not null
)
