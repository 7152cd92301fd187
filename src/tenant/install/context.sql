-- The sealed context: whose session this is.

-- Checks the session's context and returns its parts: version, kid, pid, time, tenant, claims, mac. The transaction must
-- have begun within five minutes of the time, before or behind it, since clocks may differ.
create or replace function pgward.unseal() returns text[]
language plpgsql stable security definer parallel restricted
as $$
declare
    sealed pg_catalog.text := pg_catalog.current_setting('pgward.context', true);
    parts pg_catalog.text[];
    key pgward.keys;
    mac pg_catalog.bytea;
begin
    if sealed is null or sealed operator(pg_catalog.=) '' then
        return null;
    end if;
    parts := pg_catalog.string_to_array(sealed, '.');
    if pg_catalog.array_length(parts, 1) operator(pg_catalog.=) 7
        and parts[1] operator(pg_catalog.=) '2'
        and parts[3] operator(pg_catalog.=) pg_catalog.pg_backend_pid()::pg_catalog.text
    then
        select k.* into key from pgward.keys k where k.kid operator(pg_catalog.=) parts[2];
        if found then
            mac := pg_catalog.sha256(key.outer_block operator(pg_catalog.||) pg_catalog.sha256(
                key.inner_block operator(pg_catalog.||)
                pg_catalog.convert_to(pg_catalog.array_to_string(parts[1:6], '.'), 'UTF8')));
            -- Both sides are hashed with the key once more, so that the time of the comparison tells nothing.
            if pg_catalog.sha256(key.outer_block operator(pg_catalog.||) pg_catalog.convert_to(parts[7], 'UTF8'))
                operator(pg_catalog.=)
                pg_catalog.sha256(key.outer_block operator(pg_catalog.||)
                    pg_catalog.convert_to(pg_catalog.encode(mac, 'hex'), 'UTF8'))
            then
                -- What the time is, is known only now that it is known to be pgward's.
                if pg_catalog.abs(extract(epoch from pg_catalog.transaction_timestamp())
                    operator(pg_catalog.-) parts[4]::pg_catalog.numeric) operator(pg_catalog.<=) 300
                then
                    return parts;
                end if;
            end if;
        end if;
    end if;
    raise exception using
        errcode = '28000',
        message = 'pgward: the tenant context of this session is not genuine',
        hint = 'The setting pgward.context belongs to pgward; reconnect to get a sound session.';
end
$$;
revoke all on function pgward.unseal() from public;

-- The tenant of this session, NULL without one. For policies: tenant_id = (select pgward.tenant()).
create or replace function pgward.tenant() returns text
language plpgsql stable security definer parallel restricted
as $$
begin
    return pg_catalog.convert_from(pg_catalog.decode((pgward.unseal())[5], 'hex'), 'UTF8');
end
$$;
grant execute on function pgward.tenant() to public;

-- The token's claims that the configuration seals (context.claims).
create or replace function pgward.claims() returns jsonb
language plpgsql stable security definer parallel restricted
as $$
begin
    return pg_catalog.convert_from(pg_catalog.decode((pgward.unseal())[6], 'hex'), 'UTF8')::pg_catalog.jsonb;
end
$$;
grant execute on function pgward.claims() to public;

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
