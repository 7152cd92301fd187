-- The catalogue: the tenants of several pgwards. It has a schema of its own, which no tenant may use, so that what
-- `pgward install` and `pgward uninstall` do with the schema pgward does not touch it. Safe to run again.

-- What is not ours must not become ours: whoever owns the table says who is a tenant.
do $do$
declare
    home pg_catalog.pg_namespace := (select n from pg_catalog.pg_namespace n where n.nspname = 'pgward_catalogue');
    -- Not by membership: a superuser has everybody's.
    mine pg_catalog.bool := (select r.rolname = current_user or r.rolsuper
        and (select s.rolsuper from pg_catalog.pg_roles s where s.rolname = current_user)
        from pg_catalog.pg_roles r where r.oid = home.nspowner);
begin
    if home.oid is not null and (not mine
        or exists (select from pg_catalog.pg_class c where c.relnamespace = home.oid and c.relowner <> home.nspowner)
        or exists (select from pg_catalog.pg_proc p where p.pronamespace = home.oid and p.proowner <> home.nspowner))
    then
        raise exception using
            errcode = '42501',
            message = 'there is a schema pgward_catalogue here, and it or something in it belongs to somebody else',
            hint = 'Install as the role that installed it. If nobody did, find out who made it, and drop it.';
    end if;
end
$do$;

create schema if not exists pgward_catalogue;
comment on schema pgward_catalogue is 'pgward 1: the catalogue of tenants';

create table if not exists pgward_catalogue.tenants (
    name pg_catalog.text primary key check (pg_catalog.octet_length(name) between 1 and 128),
    -- The TOML that would stand under [tenants.NAME].
    definition pg_catalog.text not null check (pg_catalog.octet_length(definition) <= 65536),
    changed_at pg_catalog.timestamptz not null default pg_catalog.now(),
    changed_by pg_catalog.text not null default session_user
);
comment on table pgward_catalogue.tenants is 'pgward: each tenant with the TOML that would stand under [tenants.NAME]';

create or replace function pgward_catalogue.sign() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    new.changed_at := now();
    new.changed_by := session_user;
    return new;
end
$$;

-- Says that something has changed, and nothing about what.
create or replace function pgward_catalogue.tell() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_notify('pgward_catalogue', '');
    return null;
end
$$;

drop trigger if exists sign on pgward_catalogue.tenants;
create trigger sign before insert or update on pgward_catalogue.tenants
    for each row execute function pgward_catalogue.sign();
drop trigger if exists tell on pgward_catalogue.tenants;
create trigger tell after insert or update or delete or truncate on pgward_catalogue.tenants
    for each statement execute function pgward_catalogue.tell();

-- Nobody but the owner has anything, whatever default privileges gave away or somebody granted.
do $do$
declare
    grantee pg_catalog.text;
begin
    for grantee in
        select distinct case when a.grantee = 0 then 'public' else pg_catalog.quote_ident(r.rolname) end
        from (
            select n.nspowner as owner, (pg_catalog.aclexplode(n.nspacl)).grantee
            from pg_catalog.pg_namespace n where n.nspname = 'pgward_catalogue'
            union all
            select c.relowner, (pg_catalog.aclexplode(c.relacl)).grantee
            from pg_catalog.pg_class c where c.relnamespace = 'pgward_catalogue'::pg_catalog.regnamespace
            union all
            select c.relowner, (pg_catalog.aclexplode(t.attacl)).grantee
            from pg_catalog.pg_class c join pg_catalog.pg_attribute t on t.attrelid = c.oid
            where c.relnamespace = 'pgward_catalogue'::pg_catalog.regnamespace
            union all
            select p.proowner, (pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)))).grantee
            from pg_catalog.pg_proc p where p.pronamespace = 'pgward_catalogue'::pg_catalog.regnamespace
        ) a left join pg_catalog.pg_roles r on r.oid = a.grantee
        where a.grantee <> a.owner and (a.grantee = 0 or r.oid is not null)
    loop
        execute 'revoke all on schema pgward_catalogue from ' || grantee;
        execute 'revoke all on all tables in schema pgward_catalogue from ' || grantee;
        execute 'revoke all on all functions in schema pgward_catalogue from ' || grantee;
    end loop;
end
$do$;
