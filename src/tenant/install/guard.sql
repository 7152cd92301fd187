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

-- Whether this session's login has the settings that it was installed with, and no others, and the session began with
-- those. A role can give itself settings, and take them away again while other sessions begin.
create or replace function pgward.sound() returns boolean
language plpgsql volatile security definer
as $$
declare
    approved pg_catalog.text[];
    actual pg_catalog.text[] := array(
        select pg_catalog.unnest(s.setconfig)
        from pg_catalog.pg_db_role_setting s join pg_catalog.pg_roles r on r.oid operator(pg_catalog.=) s.setrole
        where r.rolname operator(pg_catalog.=) session_user and (s.setdatabase operator(pg_catalog.=) 0
            or s.setdatabase operator(pg_catalog.=)
                (select d.oid from pg_catalog.pg_database d where d.datname operator(pg_catalog.=) pg_catalog.current_database())));
    setting pg_catalog.text;
    variable pg_catalog.text;
    began pg_catalog.text;
begin
    select l.settings into approved from pgward.logins l where l.role operator(pg_catalog.=) session_user;
    if not found then
        return true;
    end if;
    if not (actual operator(pg_catalog.@>) approved and approved operator(pg_catalog.@>) actual) then
        return false;
    end if;
    -- pg_settings leaves "role" out, and custom settings, which only superusers can give a role.
    if not exists (select from pg_catalog.unnest(approved) a where a operator(pg_catalog.~~*) 'role=%')
        and pg_catalog.current_setting('role') operator(pg_catalog.<>) 'none'
        or exists (
            select from pg_catalog.pg_settings s where s.source in ('user', 'database user') and not exists (
                select from pg_catalog.unnest(approved) a
                where pg_catalog.lower(pg_catalog.split_part(a, '=', 1)) operator(pg_catalog.=) pg_catalog.lower(s.name)))
    then
        return false;
    end if;
    foreach setting in array approved loop
        variable := pg_catalog.split_part(setting, '=', 1);
        -- pgward itself says these when it logs in.
        continue when pg_catalog.lower(variable) in ('application_name', 'client_encoding');
        began := pg_catalog.current_setting(variable, true);
        setting := pg_catalog.substr(setting, pg_catalog.strpos(setting, '=') operator(pg_catalog.+) 1);
        if began is distinct from setting then
            -- The same may be spelled in other units. What is set for a function's duration only is undone at its end.
            begin
                setting := pg_catalog.set_config(variable, setting, true);
            exception when others then
                return false;
            end;
            if began is distinct from setting then
                return false;
            end if;
        end if;
    end loop;
    return true;
end
$$;
grant execute on function pgward.sound() to public;

-- Ends sessions of a login that are changing roles: tenants' sessions have nothing to do there, and could keep others
-- waiting for as long as their transaction is open.
create or replace function pgward.end_changes(login name) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_terminate_backend(l.pid, 1000) from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'relation' and l.mode = 'RowExclusiveLock'
        and l.relation in ('pg_db_role_setting'::regclass, 'pg_authid'::regclass)
        and a.usename = login;
exception when insufficient_privilege then
    null;
end
$$;
revoke all on function pgward.end_changes(name) from public;

-- Gives a login back its password and its settings. For pgward itself, by its service login.
create or replace function pgward.mend(login name) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '250ms'
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
    for try in 1 .. 5 loop
        begin
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
            return;
        exception
            -- The login itself changed the same row meanwhile, or goes on doing so.
            when internal_error or lock_not_available or deadlock_detected then
                if try = 5 then
                    raise;
                end if;
                perform pgward.end_changes(login);
        end;
    end loop;
end
$$;
revoke all on function pgward.mend(name) from public;

-- Keeps every role's settings and password as they are until the transaction ends, so that a session can begin
-- meanwhile, however often a login changes its own. Does nothing where the owner may not. For pgward itself, by its service login.
create or replace function pgward.hold(login name) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '250ms'
as $$
begin
    begin
        lock table pg_db_role_setting, pg_authid in share mode;
    exception when lock_not_available then
        perform pgward.end_changes(login);
        lock table pg_db_role_setting, pg_authid in share mode;
    end;
exception when insufficient_privilege or lock_not_available then
    null;
end
$$;
revoke all on function pgward.hold(name) from public;
