//! Seeing others from inside PostgreSQL (line 14).

use crate::case::{Case, Expected, run, sql};
use crate::tap::{ask, held, leave};

/// It may be refused or show nothing of others: the bytes that come back are searched for what is theirs.
pub fn cases() -> Vec<Case> {
    let mut cases = activity();
    cases.extend(large_objects());
    cases.extend(other());
    cases
}

fn activity() -> Vec<Case> {
    let see = |id, what, texts: &[&'static str]| sql(id, 14, what, texts);
    vec![
        see("see.activity", "pg_stat_activity: others' statements", &["select pid, query from pg_stat_activity"]),
        see("see.activity-state", "pg_stat_activity: all columns", &["select a::text from pg_stat_activity a"]),
        see("see.get-activity", "pg_stat_get_activity", &["select a::text from pg_stat_get_activity(null) a"]),
        see("see.get-activity-pid", "pg_stat_get_activity of one process", &["select a::text from pg_stat_get_activity({pid}) a"]),
        see("see.backend-activity", "pg_stat_get_backend_activity", &["select pg_stat_get_backend_activity(i) from pg_stat_get_backend_idset() i"]),
        see("see.backend-activity-range", "the same without the list", &["select pg_stat_get_backend_activity(i) from generate_series(1, 300) i"]),
        see("see.backend-start", "pg_stat_get_backend_activity_start, userid, client_addr", &["select pg_stat_get_backend_userid(i), pg_stat_get_backend_activity_start(i), pg_stat_get_backend_client_addr(i) from pg_stat_get_backend_idset() i"]),
        see("see.activity-xml", "pg_stat_activity by query_to_xml", &["select query_to_xml('select query from pg_stat_activity', true, true, '')"]),
        see("see.activity-function", "pg_stat_activity in a function of its own", &["create function pg_temp.f() returns setof text language sql as 'select query from pg_stat_activity'", "select pg_temp.f()"]),
        see("see.activity-view", "a temporary view over it", &["create temp view v as select * from pg_stat_activity", "select query from v"]),
        see("see.activity-copy", "COPY of it", &["copy (select query from pg_stat_activity) to stdout"]),
        see("see.activity-copy-xml", "schema_to_xml of pg_catalog's part of it", &["select table_to_xml('pg_catalog.pg_stat_activity', true, true, '')"]),
        see("see.ssl", "pg_stat_ssl, pg_stat_gssapi", &["select s::text from pg_stat_ssl s", "select s::text from pg_stat_gssapi s"]),
        see("see.replication", "pg_stat_replication, pg_stat_wal_receiver", &["select s::text from pg_stat_replication s", "select s::text from pg_stat_wal_receiver s"]),
        see("see.progress", "pg_stat_progress_copy and others", &["select s::text from pg_stat_progress_copy s", "select s::text from pg_stat_progress_vacuum s", "select s::text from pg_stat_progress_create_index s"]),
        see("see.progress-function", "pg_stat_get_progress_info", &["select s::text from pg_stat_get_progress_info('COPY') s"]),
        see("see.statements", "pg_stat_statements: others' statements", &["select query from watching.pg_stat_statements"]),
        see("see.statements-function", "the function behind it", &["select query from watching.pg_stat_statements(true)"]),
        run("see.while-it-runs", 14, "pg_stat_activity while others' statements run", |h| Box::pin(async move {
            let mut wire = h.session().await;
            for _ in 0..20 {
                ask(&mut wire, "select query from pg_stat_activity union all select pg_stat_get_backend_activity(i) from generate_series(1, 50) i").await;
            }
            leave(wire).await;
            Ok("no text of others".to_owned())
        })).of_pgward(),
    ]
}

fn large_objects() -> Vec<Case> {
    let lo = |id, what, texts: &[&'static str]| sql(id, 14, what, texts).denied("42501 42704 42883");
    vec![
        lo("lo.get", "lo_get of another's large object", &["select lo_get({notes})"]),
        lo("lo.get-all", "lo_get of all there are", &["select lo_get(oid) from pg_largeobject_metadata"]),
        lo("lo.get-part", "lo_get of a part", &["select lo_get({notes}, 0, 100)"]),
        lo("lo.open", "lo_open and loread", &["begin; select lo_open({notes}, 262144)", "select loread(0, 1000)"]),
        lo(
            "lo.open-write",
            "lo_open to write",
            &["begin; select lo_open({notes}, 131072)", "select lowrite(0, 'mine')"],
        ),
        lo("lo.put", "lo_put", &["select lo_put({notes}, 0, 'mine')"]),
        lo("lo.truncate", "lo_open and lo_truncate", &["begin; select lo_truncate(lo_open({notes}, 131072), 0)"]),
        lo("lo.unlink", "lo_unlink", &["select lo_unlink({notes})"]),
        lo("lo.unlink-all", "lo_unlink of all", &["select lo_unlink(oid) from pg_largeobject_metadata"]),
        lo("lo.table", "pg_largeobject", &["select data from pg_largeobject"]),
        lo("lo.import", "lo_import", &["select lo_import('/etc/passwd')"]),
        lo("lo.export", "lo_export", &["select lo_export({notes}, '/tmp/x')"]),
        lo("lo.do", "lo_get in DO", &["do $$ begin raise notice '%', lo_get({notes}); end $$"]),
        lo(
            "lo.definer",
            "lo_get in a function of its own",
            &[
                "create function pg_temp.f() returns bytea language sql security definer as 'select lo_get({notes})'",
                "select pg_temp.f()",
            ],
        ),
        lo("lo.owner", "ALTER LARGE OBJECT OWNER", &["alter large object {notes} owner to pgward_readonly"]),
        lo(
            "lo.grant",
            "GRANT on another's large object",
            &["begin; grant all on large object {notes} to public; rollback; select lo_get({notes})"],
        ),
        lo(
            "lo.grant-kept",
            "GRANT on another's large object, kept",
            &["grant select on large object {notes} to public", "select lo_get({notes})"],
        ),
        lo(
            "lo.revoke",
            "REVOKE on another's large object",
            &["revoke all on large object {notes} from {victim_role}", "select lo_get({notes})"],
        ),
        lo("lo.comment", "COMMENT ON LARGE OBJECT", &["comment on large object {notes} is 'mine'"])
            .no_row()
            .at_schema(Expected::Denied("42501")),
        lo("lo.compat", "lo_compat_privileges", &["set lo_compat_privileges = on", "select lo_get({notes})"]),
        run("lo.fast-path", 14, "large objects by function call messages", |h| {
            Box::pin(async move {
                let mut wire = h.session().await;
                ask(&mut wire, "begin").await;
                let notes: u32 = h.words("{notes}").parse().unwrap();
                let open =
                    crate::support::raw::function_call_with(952, &[&notes.to_be_bytes(), &262_144_u32.to_be_bytes()]);
                let read =
                    crate::support::raw::function_call_with(954, &[&0_u32.to_be_bytes(), &1000_u32.to_be_bytes()]);
                let said = crate::tap::answers(&mut wire, open).await;
                held(said.iter().all(|message| message.tag != b'V'), "lo_open")?;
                ask(&mut wire, "rollback").await;
                let said = crate::tap::answers(&mut wire, read).await;
                leave(wire).await;
                held(said.iter().all(|message| message.tag != b'V'), "refused, 0A000")
            })
        })
        .of_pgward(),
    ]
}

fn other() -> Vec<Case> {
    let see = |id, what, texts: &[&'static str]| sql(id, 14, what, texts);
    vec![
        see("see.prepared", "pg_prepared_statements", &["select statement from pg_prepared_statements"]),
        see("see.prepared-function", "the function behind it", &["select p::text from pg_prepared_statement() p"]),
        see("see.cursors", "pg_cursors", &["select c::text from pg_cursor() c"]),
        see("see.locks", "pg_locks has no text of others", &["select l::text from pg_locks l"]),
        see("see.lock-status", "pg_lock_status, pg_blocking_pids", &["select l::text from pg_lock_status() l", "select pg_blocking_pids({pid})", "select pg_safe_snapshot_blocking_pids({pid})"]),
        see("see.channels", "pg_listening_channels", &["select pg_listening_channels()"]).no_row(),
        see("see.settings", "others' settings", &["select s::text from pg_settings s", "show all"]),
        see("see.their-setting", "the value of a setting that another made", &["select coalesce(current_setting('app.own', true), '')"]).shows(""),
        see("see.token", "a token among the settings", &["select current_setting('pgward.token', true) is not null and current_setting('pgward.token', true) <> ''"]).shows("f").of_pgward(),
        see("see.temp-schemas", "others' temporary tables", &["select note from pg_temp.scratch"]).denied("42P01 3F000"),
        see("see.temp-by-name", "others' temporary tables by their schema", &["do $$ declare n text; t text; begin for n in select nspname from pg_namespace where nspname like 'pg_temp_%' loop begin execute format('select note from %I.scratch', n) into t; raise notice '%', t; exception when others then raise notice '%', sqlstate; end; end loop; end $$"]),
        see("see.temp-drop", "dropping others' temporary tables by their schema", &["do $$ declare n text; begin for n in select nspname from pg_namespace where nspname like 'pg_temp_%' loop begin execute format('drop table %I.scratch cascade', n); exception when others then null; end; end loop; end $$"]),
        see("see.temp-alter", "renaming them, or changing them", &["do $$ declare n text; begin for n in select nspname from pg_namespace where nspname like 'pg_temp_%' loop begin execute format('alter table %I.scratch rename to x', n); exception when others then null; end; begin execute format('comment on table %I.scratch is ''mine''', n); exception when others then null; end; end loop; end $$"]),
        see("see.temp-trigger", "a trigger on them", &["create function pg_temp.f() returns trigger language plpgsql as $$ begin return null; end $$; do $$ declare n text; begin for n in select nspname from pg_namespace where nspname like 'pg_temp_%' loop begin execute format('create trigger t before insert on %I.scratch for each row execute function pg_temp.f()', n); exception when others then null; end; end loop; end $$"]),
        see("see.temp-truncate", "TRUNCATE and LOCK of them", &["do $$ declare n text; begin for n in select nspname from pg_namespace where nspname like 'pg_temp_%' loop begin execute format('truncate %I.scratch', n); exception when others then null; end; end loop; end $$"]),
        see("see.temp-create", "creating in others' temporary schemas", &["do $$ declare n text; begin for n in select nspname from pg_namespace where nspname like 'pg_temp_%' and oid <> pg_my_temp_schema() loop begin execute format('create table %I.orders (x int)', n); raise exception 'created' using errcode = 'P0001'; exception when insufficient_privilege or invalid_table_definition or invalid_schema_name or feature_not_supported then null; end; end loop; end $$"]).no_row(),
        see("see.schema", "another's schema", &["select * from kandy.orders"]).denied("42501"),
        see("see.function", "another's function", &["select kandy.ours()"]).denied("42501"),
        see("see.relation-file", "where others' data lies", &["select pg_read_file(pg_relation_filepath('public.orders'))"]).denied("42501"),
        see("see.shadow", "pg_authid, pg_shadow", &["select rolpassword from pg_authid"]).denied("42501"),
        see("see.pg-shadow", "pg_shadow", &["select passwd from pg_shadow"]).denied("42501"),
        see("see.user-mappings", "pg_user_mapping", &["select umoptions from pg_user_mapping"]).denied("42501"),
        see("see.hba", "pg_hba_file_rules, pg_file_settings", &["select * from pg_hba_file_rules"]).denied("42501"),
        see("see.file-settings", "pg_file_settings", &["select * from pg_file_settings"]).denied("42501"),
        see("see.log", "the server's log", &["select pg_current_logfile()"]).denied("42501"),
        see("see.shmem", "shared memory", &["select * from pg_shmem_allocations"]).denied("42501"),
        see("see.memory", "other processes' memory", &["select pg_log_backend_memory_contexts({pid})"]).denied("42501"),
        see("see.wal", "the WAL", &["select pg_walfile_name(pg_current_wal_lsn()) is null", "select * from pg_get_wal_records_info('0/1', '0/2')"]).denied("42501 42883"),
        see("see.pages", "pages of a table", &["select get_raw_page('public.orders', 0)"]).denied("42501 42883"),
        see("see.xact", "pg_prepared_xacts", &["select gid from pg_prepared_xacts"]).denied("42501"),
        see("see.explain", "EXPLAIN VERBOSE of others' rows", &["explain (verbose, costs off) {peek}"]).at_schema(Expected::Denied("42501")),
        see("see.ts-stat", "ts_stat over others' rows", &["select word from ts_stat('select to_tsvector(''simple'', item) from {theirs}') where word like 'zq%'"]).no_row().at_schema(Expected::Denied("42501")),
        see("see.unique", "an error that quotes another's row", &["insert into handles values ('taken')"]).denied("23505 42501 42P01"),
    ]
}
