-- Takes back what the installation did. Tables must not use it any more: what they would lose is named.

do $do$
declare
    users pg_catalog.text;
    statement pg_catalog.text;
    written pg_catalog.text;
    filled pg_catalog.bool;
begin
    if pg_catalog.to_regnamespace('pgward') is null then
        return;
    end if;
    select pg_catalog.string_agg(distinct pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid), ', ') into users
    from pg_catalog.pg_depend d join pg_catalog.pg_proc p on p.oid = d.refobjid
    where d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
        and p.pronamespace = 'pgward'::pg_catalog.regnamespace
        and d.classid <> 'pg_catalog.pg_event_trigger'::pg_catalog.regclass
        -- The checks of pgward's own domains.
        and not exists (select from pg_catalog.pg_constraint c
            where d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass and c.oid = d.objid
                and c.connamespace = 'pgward'::pg_catalog.regnamespace);
    if users is not null then
        raise exception using
            errcode = '2BP01',
            message = 'schema pgward is still used',
            detail = 'By ' || users || '.',
            hint = 'For a table: select pgward.unprotect(''table''). It stays closed to all but its owner until you disable row level security.';
    end if;
    -- What people wrote there is nowhere else.
    foreach written in array array['classification', 'export_view'] loop
        continue when pg_catalog.to_regclass('pgward.' || written) is null;
        execute pg_catalog.format('select exists (select from pgward.%I)', written) into filled;
        if filled then
            raise exception using
                errcode = '2BP01',
                message = pg_catalog.format('pgward.%s has rows, which would be lost', written),
                hint = pg_catalog.format('Keep them if you need them (pg_dump --table=pgward.%s), then: delete from pgward.%1$s', written);
        end if;
    end loop;
    if pg_catalog.to_regclass('pgward.revoked') is not null then
        for statement in select r.statement from pgward.revoked r loop
            execute statement;
        end loop;
    end if;
    drop event trigger if exists pgward_guard;
    drop schema pgward cascade;
end
$do$;
