-- Login roles, and what is one tenant's own. These functions last as long as the connection.

-- A role that can log in and nothing else, unless more is allowed, with these settings ('name=value') and no others.
create or replace function pg_temp.pgward_login(login name, home name, settings text[], allow_unsafe bool) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    setting text;
    elsewhere name;
begin
    if not exists (select from pg_roles r where r.rolname = login) then
        execute format('create role %I', login);
    end if;
    if allow_unsafe then
        null;
    elsif (select r.rolsuper from pg_roles r where r.rolname = current_user) then
        execute format('alter role %I nosuperuser nocreatedb nocreaterole noreplication nobypassrls', login);
    elsif exists (select from pg_roles r where r.rolname = login
        and (r.rolsuper or r.rolcreatedb or r.rolcreaterole or r.rolreplication or r.rolbypassrls))
    then
        raise exception using
            errcode = '42501',
            message = format('role %I can do more than log in', login),
            hint = 'Name another role in the configuration, or have a superuser take that from it.';
    end if;
    execute format('alter role %I login', login);
    for elsewhere in
        select d.datname from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
        join pg_roles r on r.oid = s.setrole where r.rolname = login
    loop
        execute format('alter role %I in database %I reset all', login, elsewhere);
    end loop;
    execute format('alter role %I reset all', login);
    foreach setting in array settings loop
        execute format('alter role %I set %I = %L', login, split_part(setting, '=', 1),
            substr(setting, strpos(setting, '=') + 1));
    end loop;
    execute format('grant connect on database %I to %I', home, login);
    if not has_database_privilege(login, home, 'connect') then
        raise exception using
            errcode = '42501',
            message = format('database %I does not let %I connect', home, login),
            hint = 'Have its owner grant CONNECT, or install as its owner.';
    end if;
end
$$;

-- Notes how a login is to be, for pgward.sound() and pgward.mend(). Without a tenant it is shared.
create or replace function pg_temp.pgward_known(login name, tenant text, verifier text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    insert into pgward.logins (role, tenant, verifier, settings) values (login, tenant, verifier, coalesce((
        select s.setconfig from pg_db_role_setting s join pg_roles r on r.oid = s.setrole
        where s.setdatabase = 0 and r.rolname = login), '{}'))
    on conflict (role) do update
        set tenant = excluded.tenant, verifier = excluded.verifier, settings = excluded.settings;
end
$$;

-- A schema that is open to these logins alone. The first owns it.
create or replace function pg_temp.pgward_schema(home name, logins name[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    super bool := (select r.rolsuper from pg_roles r where r.rolname = current_user);
    stranger bool := not pg_has_role(logins[1], 'member');
    login name;
    own regprocedure;
begin
    -- Only a member of a role can give it a schema; a superuser is one of all.
    if stranger then
        execute format('grant %I to current_user', logins[1]);
    end if;
    execute format('create schema if not exists %I authorization %I', home, logins[1]);
    execute format('revoke all on schema %I from public', home);
    foreach login in array logins loop
        execute format('grant usage on schema %I to %I', home, login);
        if super then
            -- What they show or end of a role is this tenant's alone.
            for own in select h from pgward.hazards() h where h::text ~ '^(lo|pg_cancel|pg_terminate|pg_stat_get)' loop
                execute format('grant execute on function %s to %I', own, login);
            end loop;
        end if;
    end loop;
    if stranger then
        execute format('revoke %I from current_user', logins[1]);
    end if;
end
$$;

-- A database that only its tenant's logins can connect to.
create or replace function pg_temp.pgward_database(home name) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('revoke connect on database %I from public', home);
    if has_database_privilege('public', home, 'connect') then
        raise exception using
            errcode = '42501',
            message = format('PUBLIC may connect to database %I', home),
            hint = 'Have its owner revoke CONNECT from PUBLIC, or install as its owner.';
    end if;
end
$$;
