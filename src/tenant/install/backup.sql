-- What backups are made as: reads everything, changes nothing, and may begin and end a backup in the database `home`.
create or replace function pg_temp.pgward_backup(login name, home name, receives boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    part text;
begin
    if not (select r.rolsuper from pg_roles r where r.rolname = current_user) then
        raise exception using
            errcode = '42501',
            message = 'only a superuser can make a login that backups are made as',
            hint = 'Row security must not hide rows from a backup, and only superusers give BYPASSRLS.';
    end if;
    -- Who may replicate may read the log, and keep it from being removed.
    execute format('alter role %I bypassrls %s', login, case when receives then 'replication' else 'noreplication' end);
    -- pg_monitor: what waits to be archived, and what the server still has of its log.
    execute format('grant pg_read_all_data, pg_read_all_settings, pg_read_all_stats, pg_checkpoint, pg_monitor to %I', login);
    for part in select d.datname from pg_database d where d.datallowconn and not d.datistemplate loop
        execute format('grant connect on database %I to %I', part, login);
    end loop;
    for part in
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace = 'pg_catalog'::regnamespace and p.proname in
            ('pg_backup_start', 'pg_backup_stop', 'pg_switch_wal', 'pg_create_restore_point')
    loop
        execute format('grant execute on function %s to %I', part, login);
    end loop;
end
$$;
