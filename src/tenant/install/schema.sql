-- pgward, version 3: what a database needs so that row-level-security policies can ask whose session this
-- is. Safe to run again, and over an older version. Everything is fully qualified, operators too, because
-- these functions run with their owner's rights while the caller chooses the search_path.

-- What is not ours must not become ours: "create or replace" leaves a function to whoever made it first.
do $do$
declare
    home pg_catalog.pg_namespace := (select n from pg_catalog.pg_namespace n where n.nspname = 'pgward');
    found pg_catalog.text := pg_catalog.obj_description(home.oid, 'pg_namespace');
    mine pg_catalog.bool := (select r.rolname = current_user or r.rolsuper
        and (select s.rolsuper from pg_catalog.pg_roles s where s.rolname = current_user)
        from pg_catalog.pg_roles r where r.oid = home.nspowner);
begin
    if home.oid is null then
        return;
    end if;
    if not mine or exists (select from pg_catalog.pg_proc p where p.pronamespace = home.oid and p.proowner <> home.nspowner)
        or exists (select from pg_catalog.pg_class c where c.relnamespace = home.oid and c.relowner <> home.nspowner)
        or exists (select from pg_catalog.pg_type t where t.typnamespace = home.oid and t.typowner <> home.nspowner)
    then
        raise exception using
            errcode = '42501',
            message = 'there is a schema pgward here, and it or something in it belongs to somebody else',
            hint = 'Install as the role that installed it. If nobody did, find out who made it, and drop it.';
    end if;
    if pg_catalog.substring(found, '^pgward ([0-9]{1,9})\y')::pg_catalog.int4 > 3 then
        raise exception using
            errcode = '55000',
            message = pg_catalog.format('schema pgward is newer here than version 3: "%s"', found),
            hint = 'Use the pgward that installed it, or a newer one.';
    end if;
end
$do$;

create schema if not exists pgward;
revoke all on schema pgward from public;
grant usage on schema pgward to public;
comment on schema pgward is 'pgward 3: the sealed tenant context';

-- HMAC keys as the two blocks of RFC 2104 (key xor ipad, key xor opad). Only the owner reads them.
create table if not exists pgward.keys (
    kid text primary key,
    inner_block bytea not null,
    outer_block bytea not null
);
revoke all on pgward.keys from public;

-- What tenants' sessions log in as. Only the owner reads it.
create table if not exists pgward.logins (role name primary key, tenant text);
-- The tenant whose own it is (isolation level schema); null where tenants share it (level rows).
alter table pgward.logins alter column tenant drop not null;
-- What its password is checked by.
alter table pgward.logins add column if not exists verifier text;
-- Its settings, as pg_db_role_setting has them. There are to be no others.
alter table pgward.logins add column if not exists settings text[] not null default '{}';
revoke all on pgward.logins from public;

-- Tenants of level rows that a template was applied to, which is done once.
create table if not exists pgward.applied (tenant text primary key, template text not null, at timestamptz not null default now());
revoke all on pgward.applied from public;

-- What was taken from PUBLIC, as the statement that gives it back.
create table if not exists pgward.revoked (statement text primary key);
revoke all on pgward.revoked from public;
