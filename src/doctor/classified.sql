-- Goes on where prelude.sql ends: by which ways roles read the columns that they may not see.
-- Roles that a column is hidden from; 0 is PUBLIC.
barred (oid, attnum, role, name, class) as (
    select distinct c.oid, c.attnum, r.oid, r.name, c.class
    from classified c cross join jsonb_array_elements_text(c.hidden_from) h
    join role_name r on r.name = quote_ident(h)
    where c.attnum is not null
),
takes (role, holder) as (
    select role, role from barred
    union
    select t.role, m.roleid from takes t
    cross join lateral (
        select m.roleid from pg_catalog.pg_auth_members m where m.member = t.holder
        union all
        select o.oid from pg_catalog.pg_database d join pg_catalog.pg_roles o on o.rolname = 'pg_database_owner'
        where d.datname = current_database() and d.datdba = t.holder
    ) m
),
-- Each of these roles, and whose privileges it has or can take by SET ROLE.
barred_reach (role, holder) as (
    select role, holder from takes union select role, 0::oid from barred
),
marked as (
    select e ->> 'schema' as schema, e ->> 'view' as view, e ->> 'kind' as kind, (e ->> 'k')::int as k,
        e -> 'quasi_identifiers' as quasi_identifiers, e ->> 'counted' as counted,
        v.oid, v.relowner, n.nspowner, format('%I.%I', e ->> 'schema', e ->> 'view') as name
    from input cross join jsonb_array_elements(given -> 'export_views') e
    left join pg_catalog.pg_namespace n on n.nspname = e ->> 'schema'
    left join pg_catalog.pg_class v on v.relnamespace = n.oid and v.relname = e ->> 'view' and v.relkind in ('v', 'm')
),
-- Views that read the column, through any depth, but not through one that is vouched for. Where a view names a whole
-- row, the catalogue does not tell which columns it reads: all.
seen (oid, attnum, view) as (
    select p.oid, p.attnum, r.ev_class
    from place p
    join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = p.relation
        and d.classid = 'pg_catalog.pg_rewrite'::regclass
    join pg_catalog.pg_rewrite r on r.oid = d.objid and r.ev_type = '1' and r.ev_class <> p.relation
    where d.refobjsubid = p.number or r.ev_action::text ~ ':varattno 0 '
    union
    select s.oid, s.attnum, r.ev_class
    from seen s
    join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = s.view
        and d.classid = 'pg_catalog.pg_rewrite'::regclass
    join pg_catalog.pg_rewrite r on r.oid = d.objid and r.ev_type = '1' and r.ev_class <> s.view
    where s.view not in (select m.oid from marked m where m.oid is not null)
),
-- Braces of the tree that a view is stored as, and the ends of its columns with where each comes from, in their order.
piece as (
    select r.ev_class as view, t.at, t.words,
        sum(case t.words[1] when '{' then 1 when '}' then -1 else 0 end) over (partition by r.oid order by t.at) as depth,
        r.ev_action::text ~ ':setOperations \{' as united
    from pg_catalog.pg_rewrite r
    cross join regexp_matches(r.ev_action::text,
        '(\\.|[{}]|:resno (\d+) :resname (?:[^ \\]|\\.)+ :ressortgroupref \d+ :resorigtbl (\d+) :resorigcol (-?\d+) :resjunk false)',
        'g') with ordinality t (words, at)
    where r.ev_type = '1' and r.ev_class in (select s.view from seen s)
),
-- Columns of views that are columns of other relations, unchanged. With UNION and the like those of its parts count.
plain (view, number, origin, origin_number) as (
    select p.view, p.words[2]::int, p.words[3]::oid, p.words[4]::int
    from piece p
    where p.words[3] <> '0' and (p.depth = 2 or p.united)
),
shown (oid, attnum, relation, number) as (
    select oid, attnum, relation, number::int from place
    union
    select s.oid, s.attnum, p.view, p.number
    from shown s join plain p on p.origin = s.relation and p.origin_number = s.number
),
-- Views that are vouched for, and those that read them.
above (marked, view) as (
    select m.oid, m.oid from marked m where m.oid is not null
    union
    select a.marked, r.ev_class
    from above a
    join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = a.view
        and d.classid = 'pg_catalog.pg_rewrite'::regclass
    join pg_catalog.pg_rewrite r on r.oid = d.objid and r.ev_type = '1' and r.ev_class <> a.view
),
watched (relation) as (
    select relation from place union select view from seen union select view from above
),
-- What is granted on the whole (number 0) or on one column.
granted (relation, number, grantee, privilege) as (
    select c.oid, 0, a.grantee, a.privilege_type
    from pg_catalog.pg_class c cross join aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
    where c.oid in (select relation from watched)
    union
    select t.attrelid, t.attnum, a.grantee, a.privilege_type
    from pg_catalog.pg_attribute t cross join aclexplode(t.attacl) a
    where t.attrelid in (select relation from watched) and not t.attisdropped
),
-- Views that a role reads with somebody else's rights, or whose rows are stored.
barred_view (role, view, grantee) as (
    select r.role, v.oid, g.grantee
    from granted g
    join pg_catalog.pg_class v on v.oid = g.relation and v.relkind in ('v', 'm')
    join barred_reach r on r.holder = g.grantee
    where g.privilege = 'SELECT'
    and (v.relkind = 'm' or not (
        coalesce((select x.option_value::bool from pg_options_to_table(v.reloptions) x
            where x.option_name = 'security_invoker'), false)
        or exists (select from barred_reach o where o.role = r.role and o.holder = v.relowner)))
),
-- What views that are vouched for show all the same; no number where it is a whole row, or cannot be told.
exposed (oid, attnum, view, number) as (
    select s.oid, s.attnum, m.oid, s.number
    from shown s join marked m on m.oid = s.relation
    union
    select s.oid, s.attnum, s.view, null
    from seen s join marked m on m.oid = s.view join pg_catalog.pg_rewrite r on r.ev_class = s.view and r.ev_type = '1'
    where r.ev_action::text ~ ':varattno 0 ' or r.ev_action::text !~ ':resorigtbl '
),
-- SECURITY DEFINER functions whose body PostgreSQL keeps as a tree, so that it knows what they read.
telling (oid, attnum, function) as (
    select w.oid, w.attnum, f.oid
    from (
        select oid, attnum, relation, number::int from place
        union all
        select oid, attnum, view, null from seen where view not in (select m.oid from marked m where m.oid is not null)
        union all
        select e.oid, e.attnum, a.view, null from exposed e join above a on a.marked = e.view
    ) w
    join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = w.relation
        and d.classid = 'pg_catalog.pg_proc'::regclass
    join pg_catalog.pg_proc f on f.oid = d.objid and f.prosecdef
    where w.number is null or d.refobjsubid = w.number or f.prosqlbody::text ~ ':varattno 0 '
),
barred_function (role, function, grantee) as (
    select r.role, f.oid, a.grantee
    from pg_catalog.pg_proc f cross join aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a
    join barred_reach r on r.holder = a.grantee
    where f.prosecdef and a.privilege_type = 'EXECUTE'
    and not exists (select from barred_reach o where o.role = r.role and o.holder = f.proowner)
),
leak (oid, attnum, role, name, class, how, object, grantee) as (
    select b.oid, b.attnum, b.role, b.name, b.class,
        case when g.privilege = 'TRIGGER' then 'trigger' when g.number = 0 then 'table' else 'column' end,
        p.relation, g.grantee
    from barred b
    join place p on p.oid = b.oid and p.attnum = b.attnum
    join granted g on g.relation = p.relation and (g.privilege = 'SELECT' and g.number in (0, p.number)
        or g.privilege = 'TRIGGER')
    join barred_reach r on r.role = b.role and r.holder = g.grantee
    join pg_catalog.pg_class c on c.oid = p.relation and c.relowner <> g.grantee
    union
    select b.oid, b.attnum, b.role, b.name, b.class, 'owner', p.relation, c.relowner
    from barred b
    join place p on p.oid = b.oid and p.attnum = b.attnum
    join pg_catalog.pg_class c on c.oid = p.relation
    join barred_reach r on r.role = b.role and r.holder = c.relowner
    union
    select b.oid, b.attnum, b.role, b.name, b.class, 'power', b.oid, o.oid
    from barred b
    join barred_reach r on r.role = b.role
    join pg_catalog.pg_roles o on o.oid = r.holder
    -- Before PostgreSQL 16, CREATEROLE makes its bearer a member of whatever it likes.
    where o.rolsuper or o.rolreplication or o.rolcreaterole and current_setting('server_version_num')::int < 160000
    or o.rolname in ('pg_read_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
    union
    select b.oid, b.attnum, b.role, b.name, b.class, 'view', s.view, v.grantee
    from barred b
    join seen s on s.oid = b.oid and s.attnum = b.attnum
    join barred_view v on v.role = b.role and v.view = s.view
    where s.view not in (select m.oid from marked m where m.oid is not null)
    union
    select b.oid, b.attnum, b.role, b.name, b.class, 'marked', e.view, v.grantee
    from barred b
    join exposed e on e.oid = b.oid and e.attnum = b.attnum
    join above a on a.marked = e.view
    join barred_view v on v.role = b.role and v.view = a.view
    union
    select b.oid, b.attnum, b.role, b.name, b.class, 'function', t.function, f.grantee
    from barred b
    join telling t on t.oid = b.oid and t.attnum = b.attnum
    join barred_function f on f.role = b.role and f.function = t.function
)
