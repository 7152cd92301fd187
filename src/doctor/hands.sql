-- Goes on where classified.sql ends: what views that are vouched for are made of and belongs to tenants' logins, whose
-- code would run in a reader's session and could show anything.
ingredient (view, relation) as (
    select m.oid, m.oid from marked m where m.oid is not null
    union
    select r.view, r.relation from reads r where r.view in (select m.oid from marked m)
),
hand (view, owner, what) as (
    select i.view, c.relowner, format('%s %I.%I',
        case c.relkind when 'v' then 'view' when 'm' then 'materialized view' else 'table' end, n.nspname, c.relname)
    from ingredient i
    join pg_catalog.pg_class c on c.oid = i.relation
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    -- A table's owner has code run by its policies alone.
    where c.relowner in (select role from anybody) and (c.relkind in ('v', 'm') or c.relrowsecurity)
    union
    select m.oid, m.nspowner, format('schema %I', m.schema)
    from marked m where m.nspowner in (select role from anybody)
    union
    select i.view, f.proowner, format('function %I.%I(%s)', n.nspname, f.proname, oidvectortypes(f.proargtypes))
    from ingredient i
    join pg_catalog.pg_rewrite r on r.ev_class = i.relation and r.ev_type = '1'
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
        and d.refclassid = 'pg_catalog.pg_proc'::regclass
    join pg_catalog.pg_proc f on f.oid = d.refobjid
    join pg_catalog.pg_namespace n on n.oid = f.pronamespace
    where f.proowner in (select role from anybody)
)
