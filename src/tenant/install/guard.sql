-- What PostgreSQL lets everybody do, and tenants that share a login are not to do to each other.

-- Statements by which a login could drop or open what it owns: temporary tables of other tenants that share it, too.
create or replace function pgward.guard() returns event_trigger
language plpgsql security definer
as $$
begin
    if exists (
        select from pgward.logins l where l.role operator(pg_catalog.=) session_user and l.tenant is null
    ) then
        raise exception using
            errcode = '42501',
            message = pg_catalog.format('pgward: %s is not for logins that tenants share', tg_tag);
    end if;
end
$$;
revoke all on function pgward.guard() from public;

-- Functions that end or show sessions of the same role (which may be another tenant's), that read large objects
-- (which belong to the role), or that show two-phase transactions.
create or replace function pgward.hazards() returns setof regprocedure
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace
        and (p.proname in ('pg_cancel_backend', 'pg_terminate_backend', 'pg_stat_get_activity',
                'pg_stat_get_backend_activity', 'pg_prepared_xact', 'loread', 'lowrite')
            -- Not lo_import and lo_export, which read and write the server's files and are nobody's anyway.
            or p.proname like 'lo\_%' and p.proname not in ('lo_import', 'lo_export'))
    union all
    select d.objid::regprocedure from pg_depend d join pg_extension e on e.oid = d.refobjid
    where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and d.classid = 'pg_proc'::regclass
        and e.extname = 'pg_stat_statements'
$$;

-- What is still open, for a person to read.
create or replace function pgward.left_open() returns setof text
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select format('PUBLIC may execute %s', hazard) from pgward.hazards() hazard
    where has_function_privilege('public', hazard, 'execute')
    union all
    select 'there is no event trigger pgward_guard that keeps shared logins from DROP OWNED'
    where not exists (select from pg_event_trigger e where e.evtname = 'pgward_guard' and e.evtenabled <> 'D')
    order by 1
$$;

-- Whether this session's login has the settings that it was installed with, and no others. A role can give itself
-- some, and each later session would begin with them.
create or replace function pgward.sound() returns boolean
language plpgsql stable security definer
as $$
declare
    approved pg_catalog.text[];
    actual pg_catalog.text[] := array(
        select pg_catalog.unnest(s.setconfig)
        from pg_catalog.pg_db_role_setting s join pg_catalog.pg_roles r on r.oid operator(pg_catalog.=) s.setrole
        where r.rolname operator(pg_catalog.=) session_user and (s.setdatabase operator(pg_catalog.=) 0
            or s.setdatabase operator(pg_catalog.=)
                (select d.oid from pg_catalog.pg_database d where d.datname operator(pg_catalog.=) pg_catalog.current_database())));
begin
    select l.settings into approved from pgward.logins l where l.role operator(pg_catalog.=) session_user;
    return not found
        or actual operator(pg_catalog.@>) approved and approved operator(pg_catalog.@>) actual;
end
$$;
grant execute on function pgward.sound() to public;

-- Gives a login back its password and its settings. For pgward itself, by its service login.
create or replace function pgward.mend(login name) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    known pgward.logins;
    setting text;
    home name;
begin
    select l.* into known from pgward.logins l where l.role = login;
    if not found then
        raise exception using errcode = '42704', message = format('%I is no login of tenants here', login);
    end if;
    for home in
        select d.datname from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
        join pg_roles r on r.oid = s.setrole where r.rolname = login
    loop
        execute format('alter role %I in database %I reset all', login, home);
    end loop;
    execute format('alter role %I reset all', login);
    foreach setting in array known.settings loop
        execute format('alter role %I set %I = %L', login, split_part(setting, '=', 1),
            substr(setting, strpos(setting, '=') + 1));
    end loop;
    if known.verifier is not null then
        execute format('alter role %I password %L', login, known.verifier);
    end if;
end
$$;
revoke all on function pgward.mend(name) from public;
