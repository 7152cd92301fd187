-- Closes what guard.sql names. It takes a superuser; pgward.left_open() tells what could not be done without one.

do $do$ begin
    if (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user) then
        drop event trigger if exists pgward_guard;
        create event trigger pgward_guard on ddl_command_start
            when tag in ('DROP OWNED', 'ALTER DEFAULT PRIVILEGES', 'GRANT', 'REVOKE')
            execute function pgward.guard();
    end if;
end $do$;

-- Who has the duty keeps what PUBLIC loses.
do $do$
declare
    hazard pg_catalog.regprocedure;
    heir pg_catalog.text;
begin
    for hazard in select pgward.hazards() loop
        continue when not pg_catalog.has_function_privilege('public', hazard, 'execute');
        execute pg_catalog.format('revoke execute on function %s from public', hazard);
        if pg_catalog.has_function_privilege('public', hazard, 'execute') then
            continue;
        end if;
        insert into pgward.revoked values (pg_catalog.format('grant execute on function %s to public', hazard))
        on conflict do nothing;
        for heir in
            select r.rolname from pg_catalog.pg_roles r
            where r.oid = (select d.datdba from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
                and not exists (select from pgward.logins l where l.role = r.rolname)
            union
            select case when hazard::pg_catalog.text ~ '(cancel|terminate)' then 'pg_signal_backend' else 'pg_read_all_stats' end
            where hazard::pg_catalog.text !~ '(^|\.)lo'
        loop
            execute pg_catalog.format('grant execute on function %s to %I', hazard, heir);
        end loop;
    end loop;
end
$do$;
