-- The sealed context: whose session this is.

-- Whether a context is genuine stands in the checks of two domains. The server plans a domain's check once for a
-- connection, but what stands in a function again after each DISCARD ALL, of which there is one between any two tenants:
-- it took longer there than all else that a transaction does. A check that is neither true nor false would let pass, so
-- whatever is not true is refused by name.
create or replace function pgward.not_genuine() returns boolean
language plpgsql volatile parallel restricted
as $$
begin
    raise exception using
        errcode = '28000',
        message = 'pgward: the tenant context of this session is not genuine',
        hint = 'The setting pgward.context belongs to pgward; reconnect to get a sound session.';
end
$$;
revoke all on function pgward.not_genuine() from public;

-- Made once: what is dropped would be missed by sessions that are about to ask.
do $do$
declare
    owner pg_catalog.name := (select n.nspowner::pg_catalog.regrole from pg_catalog.pg_namespace n where n.nspname = 'pgward');
    kind pg_catalog.text;
begin
    if pg_catalog.to_regtype('pgward.genuine') is not null then
        return;
    end if;
    -- The context, and the blocks of its key.
    create type pgward.evidence as (
        inner_block pg_catalog.bytea,
        outer_block pg_catalog.bytea,
        -- version.kid.pid.time.tenant.claims.mac; the mac is of all before it and has 64 digits.
        sealed pg_catalog.text
    );
    create domain pgward.genuine as pgward.evidence;
    create domain pgward.mac as pg_catalog.text;
    -- Another superuser's otherwise, who installs over what the first one did.
    execute pg_catalog.format('alter function pgward.not_genuine() owner to %s', owner);
    foreach kind in array array['evidence', 'genuine', 'mac'] loop
        execute pg_catalog.format('revoke all on type pgward.%I from public', kind);
        execute pg_catalog.format('alter type pgward.%I owner to %s', kind, owner);
    end loop;
end
$do$;

-- The MAC that the context should have, once its hash is that of the one it has: compared by themselves, the time would
-- tell how much of a guess was right.
alter domain pgward.mac drop constraint if exists likely;
alter domain pgward.mac add constraint likely check (
    case
        when pg_catalog.hashtextextended(value, 0) operator(pg_catalog.=) pg_catalog.hashtextextended(
            pg_catalog.split_part(pg_catalog.current_setting('pgward.context', true), '.', 7), 0)
        then true
        else pgward.not_genuine()
    end
);

alter domain pgward.genuine drop constraint if exists genuine;
alter domain pgward.genuine add constraint genuine check (
    case
        -- The MAC first: before it is known to be right, nothing else is read.
        when pg_catalog.encode(pg_catalog.sha256((value).outer_block operator(pg_catalog.||) pg_catalog.sha256(
                (value).inner_block operator(pg_catalog.||)
                pg_catalog.convert_to(pg_catalog.left((value).sealed, -65), 'UTF8'))), 'hex')::pgward.mac
            operator(pg_catalog.=) pg_catalog.split_part((value).sealed, '.', 7)
            and pg_catalog.starts_with((value).sealed, '2.')
            and pg_catalog.split_part((value).sealed, '.', 3)::pg_catalog.int4
                operator(pg_catalog.=) pg_catalog.pg_backend_pid()
            -- The transaction began within five minutes of the time, before or behind it, since clocks may differ.
            and pg_catalog.abs(pg_catalog.date_part('epoch', pg_catalog.transaction_timestamp())
                operator(pg_catalog.-) pg_catalog.split_part((value).sealed, '.', 4)::pg_catalog.float8)
                operator(pg_catalog.<=) 300::pg_catalog.float8
        then true
        else pgward.not_genuine()
    end
);

-- The tenant of this session, NULL without one. For policies: tenant_id = (select pgward.tenant()). It runs in every
-- statement that such a policy guards, so its parts are few: what is absent falls through to the end.
create or replace function pgward.tenant() returns text
language plpgsql stable security definer parallel restricted
as $$
declare
    sealed pg_catalog.text := pg_catalog.current_setting('pgward.context', true);
    tenant pg_catalog.text;
begin
    -- Read from what has passed the check, so that there is no way around it.
    select pg_catalog.convert_from(pg_catalog.decode(pg_catalog.split_part(
            ((k.inner_block, k.outer_block, sealed)::pgward.genuine).sealed, '.', 5), 'hex'), 'UTF8') into tenant
    from pgward.keys k where k.kid operator(pg_catalog.=) pg_catalog.split_part(sealed, '.', 2);
    if tenant is not null then
        return tenant;
    end if;
    if sealed is null or sealed operator(pg_catalog.=) '' then
        return null;
    end if;
    perform pgward.not_genuine();
end
$$;
grant execute on function pgward.tenant() to public;

-- The token's claims that the configuration seals (context.claims).
create or replace function pgward.claims() returns jsonb
language plpgsql stable security definer parallel restricted
as $$
begin
    if pgward.tenant() is null then
        return null;
    end if;
    return pg_catalog.convert_from(pg_catalog.decode(
        pg_catalog.split_part(pg_catalog.current_setting('pgward.context'), '.', 6), 'hex'), 'UTF8')::pg_catalog.jsonb;
end
$$;
grant execute on function pgward.claims() to public;

drop function if exists pgward.unseal();

-- The server's name for a notification channel of this session's tenant. PostgreSQL's channels belong to the
-- database, so each tenant's are spelled in a way that no other can guess.
create or replace function pgward.channel(channel text) returns text
language plpgsql stable security definer parallel restricted
as $$
declare
    owner pg_catalog.text := pgward.tenant();
    key pgward.keys;
begin
    if channel is null or pg_catalog.octet_length(channel) operator(pg_catalog.=) 0
        or pg_catalog.octet_length(channel) operator(pg_catalog.>) 63
    then
        raise exception using errcode = '22023', message = 'a channel name has 1 to 63 bytes';
    end if;
    if owner is null then
        select l.tenant into owner from pgward.logins l where l.role operator(pg_catalog.=) session_user;
    end if;
    select k.* into key from pgward.keys k where k.kid operator(pg_catalog.=) 'for channels';
    if owner is null or key.kid is null then
        raise exception using
            errcode = '28000',
            message = 'pgward: this session has no tenant whose channel this could be',
            hint = 'Run pgward install, and connect through pgward.';
    end if;
    return 'pgward_' operator(pg_catalog.||) pg_catalog.left(pg_catalog.encode(
        pg_catalog.sha256(key.outer_block operator(pg_catalog.||) pg_catalog.sha256(
            key.inner_block operator(pg_catalog.||) pg_catalog.convert_to(owner, 'UTF8')
            operator(pg_catalog.||) pg_catalog.decode('00', 'hex')
            operator(pg_catalog.||) pg_catalog.convert_to(channel, 'UTF8'))), 'hex'), 32);
end
$$;
grant execute on function pgward.channel(text) to public;

-- pg_notify on a channel of this session's tenant. pgward puts it in place of pg_notify in what clients send;
-- functions and triggers call it by its name.
create or replace function pgward.pg_notify(channel text, payload text) returns void
language plpgsql volatile security definer parallel unsafe
as $$
begin
    perform pg_catalog.pg_notify(pgward.channel(channel), payload);
end
$$;
grant execute on function pgward.pg_notify(text, text) to public;
