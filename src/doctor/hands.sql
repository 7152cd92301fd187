-- Goes on where classified.sql ends: what views that are vouched for are made of and belongs to tenants' logins, whose
-- code would run in a reader's session and could show anything.
ingredient (view, relation) as (
    select m.oid, m.oid from marked m where m.oid is not null
    union
    select r.view, r.relation from reads r where r.view in (select m.oid from marked m)
),
-- The expressions that are run: those of views, and of the policies of tables.
expression (view, class, object) as (
    select i.view, 'pg_catalog.pg_rewrite'::regclass::oid, r.oid
    from ingredient i join pg_catalog.pg_rewrite r on r.ev_class = i.relation and r.ev_type = '1'
    union all
    select i.view, 'pg_catalog.pg_policy'::regclass::oid, p.oid
    from ingredient i join pg_catalog.pg_policy p on p.polrelid = i.relation
),
used (view, class, object) as (
    select distinct e.view, d.refclassid, d.refobjid
    from expression e join pg_catalog.pg_depend d on d.classid = e.class and d.objid = e.object
),
called (view, function) as (
    select u.view, u.object from used u where u.class = 'pg_catalog.pg_proc'::regclass
    union
    select u.view, o.oprcode::oid
    from used u join pg_catalog.pg_operator o on u.class = 'pg_catalog.pg_operator'::regclass and o.oid = u.object
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
    select c.view, f.proowner, format('function %I.%I(%s)', n.nspname, f.proname, oidvectortypes(f.proargtypes))
    from called c
    join pg_catalog.pg_proc f on f.oid = c.function
    join pg_catalog.pg_namespace n on n.oid = f.pronamespace
    where f.proowner in (select role from anybody)
    union
    -- A domain's checks are its owner's.
    select u.view, t.typowner, format('type %s', format_type(t.oid, null))
    from used u join pg_catalog.pg_type t on u.class = 'pg_catalog.pg_type'::regclass and t.oid = u.object
    where t.typowner in (select role from anybody)
)
