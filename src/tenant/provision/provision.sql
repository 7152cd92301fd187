-- What is a new tenant's own, and known to be. These functions last as long as the connection.

-- Makes a role for a tenant. One that is there already must be this tenant's: its comment says so, or the
-- installation does. Tenants cannot change comments of roles.
create or replace function pg_temp.pgward_claim(login name, tenant text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    mark text := 'pgward: tenant ' || tenant;
    found text := (select split_part(shobj_description(r.oid, 'pg_authid'), ';', 1) from pg_roles r where r.rolname = login);
    known bool := false;
begin
    if found = mark then
        return;
    elsif not exists (select from pg_roles r where r.rolname = login) then
        execute format('create role %I', login);
    else
        if to_regclass('pgward.logins') is not null then
            execute 'select exists (select from pgward.logins l where l.role = $1 and l.tenant = $2)' into known using login, tenant;
        end if;
        if not known then
            raise exception using
                errcode = '42710',
                message = format('there is a role %I already, and nothing says that it is tenant %s''s', login, tenant),
                hint = format('Name another with --role. If it is meant: comment on role %I is %L', login, mark);
        end if;
    end if;
    execute format('comment on role %I is %L', login, mark);
end
$$;

-- A schema that is there already must be the role's.
create or replace function pg_temp.pgward_claim_schema(home name, owner name) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    found name := (select pg_get_userbyid(n.nspowner) from pg_namespace n where n.nspname = home);
begin
    if found <> owner then
        raise exception using
            errcode = '42P06',
            message = format('there is a schema %I already, and it belongs to %I', home, found),
            hint = 'Name another with --schema.';
    end if;
end
$$;

-- Where the tables are in a database of the tenant's own. The first login makes them, and the others can look.
create or replace function pg_temp.pgward_home(home name, logins name[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    login name;
begin
    execute format('create schema if not exists %I', home);
    execute format('grant create on schema %I to %I', home, logins[1]);
    foreach login in array logins loop
        execute format('grant usage on schema %I to %I', home, login);
    end loop;
end
$$;

-- Whether a text can be a value of this type; null where there is no type.
create or replace function pg_temp.pgward_fits(value text, type text) returns bool
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if type is null then
        return null;
    end if;
    execute format('select %L::%s', value, type);
    return true;
exception when data_exception then
    return false;
end
$$;
