//! Hurting others (lines 17 to 20): while it is tried, the others are served within their time.

use std::time::{Duration, Instant};

use crate::case::{Case, Told, run, sql};
use crate::place::{PATIENCE, login};
use crate::support::raw::{Message, V3_0, V3_2, cancel_request, errors, message, parse, query, startup, sync};
use crate::tap::{Hostile, Wire, ask, first, held, leave};

pub fn cases() -> Vec<Case> {
    let mut cases = signals();
    cases.extend(cancels());
    cases.extend(crowds());
    cases.extend(files());
    cases
}

/// Others' logins and statements, in the time that they may take at most.
pub async fn others_are_served(h: &Hostile) -> Result<(), String> {
    for tenant in ["t1", "globex", "kandy"] {
        let begin = Instant::now();
        let served = async {
            // Not by the tap: what these see is their own.
            let mut wire = crate::support::raw::Raw::connect(h.place.address).await;
            let said =
                wire.log_in(V3_0, &[("user", tenant), ("database", "app")], &h.place.password(&login(tenant))).await;
            if said.last().map(|last| last.tag) != Some(b'Z') {
                return Err(format!("{tenant} cannot log in: {:?}", errors(&said)));
            }
            let said = wire.query("select count(*) from orders").await;
            if errors(&said).is_empty() { Ok(()) } else { Err(format!("{tenant} gets {:?}", errors(&said))) }
        };
        let served: Result<(), String> = tokio::time::timeout(PATIENCE, served)
            .await
            .map_err(|_| format!("{tenant} is not served in {:?}", begin.elapsed()))?;
        served?;
    }
    Ok(())
}

fn signals() -> Vec<Case> {
    let hurt = |id, what, texts: &[&'static str]| sql(id, 19, what, texts).may_end();
    vec![
        hurt("signal.terminate", "pg_terminate_backend of another's backend", &["select pg_terminate_backend({pid})"]).denied("42501"),
        hurt("signal.terminate-wait", "the same with a time to wait", &["select pg_terminate_backend({pid}, 1000)"]).denied("42501"),
        hurt("signal.terminate-all", "pg_terminate_backend of all that there are", &["do $$ declare p int; begin for p in select pid from pg_stat_activity where pid <> pg_backend_pid() loop begin perform pg_terminate_backend(p); exception when others then null; end; end loop; end $$"]),
        hurt("signal.terminate-range", "pg_terminate_backend of a range of processes", &["do $$ begin for p in {pid} - 40 .. {pid} + 40 loop begin if p <> pg_backend_pid() then perform pg_terminate_backend(p); end if; exception when others then null; end; end loop; end $$"]),
        hurt("signal.terminate-locks", "pg_terminate_backend of those in pg_locks", &["do $$ declare p int; begin for p in select pid from pg_locks where pid <> pg_backend_pid() loop begin perform pg_terminate_backend(p); exception when others then null; end; end loop; end $$"]),
        hurt("signal.terminate-do", "pg_terminate_backend in DO", &["do $$ begin execute 'select pg_term' || 'inate_backend({pid})'; end $$"]).denied("42501"),
        hurt("signal.terminate-definer", "pg_terminate_backend in a function of its own",
            &["create function pg_temp.f() returns boolean language sql security definer as 'select pg_terminate_backend({pid})'", "select pg_temp.f()"]).denied("42501"),
        hurt("signal.terminate-aggregate", "pg_terminate_backend in an operator",
            &["create operator pg_temp.! (rightarg = int, function = pg_cancel_backend)", "select operator(pg_temp.!) {pid}"]).denied("42501"),
        hurt("signal.terminate-temp-default", "pg_terminate_backend as a default",
            &["create temp table t (x int, y boolean default pg_terminate_backend({pid}))", "insert into t (x) values (1)"]).denied("42501"),
        hurt("signal.cancel", "pg_cancel_backend", &["select pg_cancel_backend({pid})"]).denied("42501"),
        hurt("signal.cancel-all", "pg_cancel_backend of all", &["do $$ declare p int; begin for p in select pid from pg_stat_activity where pid <> pg_backend_pid() loop begin perform pg_cancel_backend(p); exception when others then null; end; end loop; end $$"]),
        hurt("signal.own", "pg_terminate_backend of its own backend", &["select pg_terminate_backend(pg_backend_pid())", "select 1"]),
        hurt("signal.reload", "pg_reload_conf", &["select pg_reload_conf()"]).denied("42501"),
        hurt("signal.rotate", "pg_rotate_logfile", &["select pg_rotate_logfile()"]).denied("42501"),
        hurt("signal.promote", "pg_promote, pg_wal_replay_pause, pg_switch_wal", &["select pg_promote()"]).denied("42501"),
        hurt("signal.switch-wal", "pg_switch_wal", &["select pg_switch_wal()"]).denied("42501"),
        hurt("signal.backup", "pg_backup_start", &["select pg_backup_start('x')"]).denied("42501"),
        hurt("signal.checkpoint", "CHECKPOINT", &["checkpoint"]).denied("42501"),
        hurt("signal.restore-point", "pg_create_restore_point", &["select pg_create_restore_point('x')"]).denied("42501"),
        hurt("setting.superusers", "settings that are superusers'", &["set session_replication_role = replica"]).denied("42501"),
        hurt("setting.log", "the log's settings", &["set log_statement = 'all'"]).denied("42501"),
        hurt("setting.deadlock", "deadlock_timeout", &["set deadlock_timeout = '1ms'"]).denied("42501"),
        hurt("setting.library", "dynamic_library_path", &["set dynamic_library_path = '/tmp'"]).denied("42501"),
        hurt("setting.zero-damaged", "zero_damaged_pages, allow_system_table_mods", &["set zero_damaged_pages = on"]).denied("42501"),
        hurt("setting.system-mods", "allow_system_table_mods", &["set allow_system_table_mods = on"]).denied("42501"),
        hurt("setting.temp-limit", "temp_file_limit", &["set temp_file_limit = -1"]).denied("42501"),
        hurt("deep.parentheses", "thousands of parentheses for whoever reads the text", &["set app.x = '1'; select {deep}"]),
        hurt("deep.sum", "a sum of thousands", &["set app.x = '1'; select {sum}"]),
        hurt("deep.json", "deep JSON", &["select repeat('[', 100000)::json"]).denied("54001 22P02"),
        hurt("deep.recursion", "a function that calls itself without end",
            &["create function pg_temp.f() returns int language plpgsql as $$ begin return pg_temp.f(); end $$", "select pg_temp.f()"]).denied("54001"),
        hurt("deep.regexp", "a regular expression that is too large", &["select 'x' ~ repeat('(x{1,200}){1,200}', 10)"]).denied("2201B"),
        hurt("deep.cache", "hundreds of shapes of text, to fill what pgward keeps", &["do $$ begin null; end $$; set app.x = '1'; select 1 as a, 2 as b, 3 as c, 4 as d"]),
    ]
}

/// A session of the hostile tenant's, and the key to it.
async fn with_key(h: &Hostile, version: u32) -> (Wire, u32, Vec<u8>) {
    let mut wire = h.connect().await;
    let me = h.place.level.hostile_login();
    let said = wire.log_in(version, &[("user", &me.user), ("database", &me.database)], &h.place.password(&me)).await;
    let body = key_of(&said);
    (wire, u32::from_be_bytes(body[..4].try_into().unwrap()), body[4..].to_vec())
}

fn key_of(said: &[Message]) -> Vec<u8> {
    said.iter().find(|message| message.tag == b'K').map(|message| message.body.clone()).unwrap_or_default()
}

async fn send_cancel(h: &Hostile, pid: u32, key: &[u8]) {
    let mut wire = h.connect().await;
    wire.try_send(cancel_request(pid, key)).await;
    wire.rest().await;
}

/// Another tenant's statement that runs while `attempt` is made; it must come to its own end.
async fn beside_a_statement(h: &Hostile, attempt: impl Future<Output = ()>) -> Told {
    let mut other = crate::support::raw::Raw::connect(h.place.address).await;
    let said = other.log_in(V3_0, &[("user", "t2"), ("database", "app")], &h.place.password(&login("t2"))).await;
    held(said.last().map(|last| last.tag) == Some(b'Z'), "t2 logs in")?;
    other.send(query("select 'its own end' from pg_sleep(0.7)")).await;
    attempt.await;
    let said = other.ready().await;
    held(
        errors(&said).is_empty() && first(&said) == "its own end",
        format!("nobody else was hit {}", errors(&said).join(" ")).trim_end(),
    )
}

fn cancels() -> Vec<Case> {
    vec![
        run("cancel.guesses", 17, "cancel requests with guessed keys", |h| {
            Box::pin(async move {
                beside_a_statement(&h, async {
                    let (wire, pid, _) = with_key(&h, V3_0).await;
                    for n in 0..60_u32 {
                        send_cancel(&h, pid.wrapping_add(n), &rand::random::<u32>().to_be_bytes()).await;
                        send_cancel(&h, rand::random(), &[0; 4]).await;
                    }
                    leave(wire).await;
                })
                .await
            })
        })
        .of_pgward(),
        run("cancel.server-pids", 17, "cancel requests with the server's process ids", |h| {
            Box::pin(async move {
                beside_a_statement(&h, async {
                    let pid: u32 = h.words("{pid}").parse().unwrap_or_default();
                    for n in 0..40 {
                        send_cancel(&h, (pid + n).wrapping_sub(20), &[0; 4]).await;
                    }
                })
                .await
            })
        })
        .of_pgward(),
        run("cancel.own-when-idle", 17, "its own key, when its backend has gone on to another", |h| {
            Box::pin(async move {
                let (mut wire, pid, key) = with_key(&h, V3_2).await;
                ask(&mut wire, "select 1").await;
                let told = beside_a_statement(&h, async {
                    for _ in 0..30 {
                        send_cancel(&h, pid, &key).await;
                    }
                })
                .await;
                leave(wire).await;
                told
            })
        })
        .of_pgward(),
        run("cancel.after-the-end", 17, "a key whose session has ended", |h| {
            Box::pin(async move {
                let (mut wire, pid, key) = with_key(&h, V3_0).await;
                ask(&mut wire, "select 1").await;
                leave(wire).await;
                beside_a_statement(&h, async {
                    for _ in 0..30 {
                        send_cancel(&h, pid, &key).await;
                    }
                })
                .await
            })
        })
        .of_pgward(),
        run("cancel.races", 17, "its own key at every moment of short transactions, another's behind each", |h| {
            Box::pin(async move {
                let (mut wire, pid, key) = with_key(&h, V3_0).await;
                let mut other = h.log_in(&login("t2"), &[]).await.0;
                for n in 0..30_u64 {
                    wire.send(query("select pg_sleep(0.002)")).await;
                    tokio::time::sleep(Duration::from_micros(n * 150)).await;
                    let request = cancel_request(pid, &key);
                    let mut shot = h.connect().await;
                    shot.try_send(request).await;
                    wire.ready().await;
                    let said = ask(&mut other, "select count(*) from orders").await;
                    held(errors(&said).is_empty(), format!("the other got {:?}", errors(&said)))?;
                }
                leave(wire).await;
                leave(other).await;
                Ok("nobody else was hit".to_owned())
            })
        })
        .of_pgward(),
        run("cancel.lengths", 17, "cancel requests of wrong lengths", |h| {
            Box::pin(async move {
                let (wire, pid, key) = with_key(&h, V3_2).await;
                for cut in [0, 1, 3, 4, 31] {
                    send_cancel(&h, pid, &key[..cut.min(key.len())]).await;
                }
                send_cancel(&h, pid, &vec![0; 5000]).await;
                leave(wire).await;
                others_are_served(&h).await?;
                Ok("nothing".to_owned())
            })
        })
        .of_pgward(),
    ]
}

fn crowds() -> Vec<Case> {
    vec![
        run("crowd.sleepers", 18, "pg_sleep in as many sessions as it may have backends, and more", |h| Box::pin(async move {
            let mut all = Vec::new();
            for _ in 0..6 {
                let mut wire = h.session().await;
                wire.send(query("select pg_sleep(60)")).await;
                all.push(wire);
            }
            others_are_served(&h).await?;
            drop(all);
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.idle-transactions", 18, "idle transactions", |h| Box::pin(async move {
            let mut all = Vec::new();
            for _ in 0..2 {
                let mut wire = h.session().await;
                ask(&mut wire, "begin; select 1").await;
                all.push(wire);
            }
            others_are_served(&h).await?;
            drop(all);
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.pinned", 18, "sessions that keep their backends", |h| Box::pin(async move {
            let mut all = Vec::new();
            for _ in 0..2 {
                let mut wire = h.session().await;
                ask(&mut wire, "create temp table t (x int); select pg_advisory_lock_shared(5)").await;
                all.push(wire);
            }
            others_are_served(&h).await?;
            drop(all);
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.unread", 18, "huge results that are not read", |h| Box::pin(async move {
            let mut all = Vec::new();
            for _ in 0..2 {
                let mut wire = h.session().await;
                wire.send(query("select repeat('x', 1000000) from generate_series(1, 300)")).await;
                all.push(wire);
            }
            others_are_served(&h).await?;
            drop(all);
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.large-query", 18, "a query of twenty megabytes", |h| Box::pin(async move {
            let mut wire = h.session().await;
            let text = format!("select length('{}')", "x".repeat(20_000_000));
            let said = ask(&mut wire, &text).await;
            held(first(&said) == "20000000", "it is answered")?;
            others_are_served(&h).await?;
            leave(wire).await;
            Ok("answered, and others are served".to_owned())
        })).of_pgward(),
        run("crowd.large-parse", 18, "a prepared statement longer than pgward keeps", |h| Box::pin(async move {
            let mut wire = h.session().await;
            let text = format!("select length('{}')", "x".repeat(17_000_000));
            wire.try_send([parse("", &text), sync()].concat()).await;
            let said = wire.rest().await;
            others_are_served(&h).await?;
            held(said.is_empty() || errors(&said) == ["54000"], format!("refused, {}", errors(&said).join(" ")))
        })).of_pgward(),
        run("crowd.half-messages", 18, "large messages that never end, in many sessions", |h| Box::pin(async move {
            let mut all = Vec::new();
            for _ in 0..20 {
                let mut wire = h.session().await;
                let text = parse("s", &format!("select '{}'", "x".repeat(1_000_000)));
                wire.send(&text[..900_000]).await;
                all.push(wire);
            }
            others_are_served(&h).await?;
            drop(all);
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.slow-startup", 18, "a hundred connections that say one byte at a time", |h| Box::pin(async move {
            let bytes = startup(V3_0, &[("user", h.place.level.hostile()), ("database", "app")]);
            let mut all = Vec::new();
            for n in 0..100 {
                let mut wire = h.connect().await;
                wire.send(&bytes[..n % bytes.len()]).await;
                all.push(wire);
            }
            others_are_served(&h).await?;
            drop(all);
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.silent-passwords", 18, "a hundred logins that stop at the password", |h| Box::pin(async move {
            let mut all = Vec::new();
            for _ in 0..100 {
                let mut wire = h.connect().await;
                wire.send(startup(V3_0, &[("user", h.place.level.hostile()), ("database", "app")])).await;
                all.push(wire);
            }
            others_are_served(&h).await?;
            drop(all);
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.failed-logins", 18, "a flood of bad logins", |h| Box::pin(async move {
            for n in 0..150 {
                let code = h.refused(h.place.level.hostile(), "app", &format!("no token {n}"), &[]).await;
                held(code.as_deref() == Some("28000"), format!("{code:?}"))?;
            }
            others_are_served(&h).await?;
            Ok("refused, and others are served".to_owned())
        })).of_pgward(),
        run("crowd.connections", 18, "two hundred sessions of one tenant", |h| Box::pin(async move {
            let mut all = Vec::new();
            for _ in 0..200 {
                all.push(h.session().await);
            }
            others_are_served(&h).await?;
            drop(all);
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.come-and-go", 18, "sessions that come, ask and go without a word", |h| Box::pin(async move {
            for n in 0..60 {
                let mut wire = h.session().await;
                wire.send(query("select pg_sleep(0.05)")).await;
                if n % 3 == 0 {
                    wire.next().await;
                }
            }
            others_are_served(&h).await?;
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.backends-lost", 18, "backends that end themselves, again and again", |h| Box::pin(async move {
            for _ in 0..15 {
                let mut wire = h.session().await;
                ask(&mut wire, "set idle_session_timeout = 1").await;
                ask(&mut wire, "set idle_in_transaction_session_timeout = 1; begin").await;
                leave(wire).await;
            }
            others_are_served(&h).await?;
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.copy-slow", 18, "COPY FROM that goes on for ever, slowly", |h| Box::pin(async move {
            let mut all = Vec::new();
            for _ in 0..2 {
                let mut wire = h.session().await;
                wire.send(query("create temp table t (a text)")).await;
                wire.ready().await;
                wire.send(query("copy t from stdin")).await;
                wire.until(|message| message.tag == b'G').await;
                all.push(wire);
            }
            others_are_served(&h).await?;
            drop(all);
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.notifications", 18, "a listener that reads nothing while it is told much", |h| Box::pin(async move {
            let mut deaf = h.session().await;
            ask(&mut deaf, "listen loud").await;
            let mut loud = h.session().await;
            for _ in 0..5 {
                ask(&mut loud, "do $$ begin for i in 1..1500 loop perform pgward.pg_notify('loud', i || repeat('x', 3000)); end loop; end $$").await;
            }
            others_are_served(&h).await?;
            drop(deaf);
            leave(loud).await;
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.nobody-reads", 18, "pipelines of thousands whose answers nobody reads", |h| Box::pin(async move {
            let mut all = Vec::new();
            for _ in 0..3 {
                let mut wire = h.session().await;
                let many = query("select repeat('x', 2000)").repeat(2000);
                let _ = tokio::time::timeout(Duration::from_secs(1), wire.try_send(many)).await;
                all.push(wire);
            }
            others_are_served(&h).await?;
            drop(all);
            Ok("others are served".to_owned())
        })).of_pgward(),
        run("crowd.syncs", 18, "a hundred thousand Syncs and Flushes", |h| Box::pin(async move {
            let mut wire = h.session().await;
            let many = [message(b'H', b""), sync()].concat().repeat(20_000);
            let _ = tokio::time::timeout(Duration::from_secs(2), wire.try_send(many)).await;
            others_are_served(&h).await?;
            drop(wire);
            Ok("others are served".to_owned())
        })).of_pgward(),
    ]
}

fn files() -> Vec<Case> {
    let file = |id, what, texts: &[&'static str]| sql(id, 20, what, texts).denied("42501");
    vec![
        file("file.copy-program", "COPY FROM PROGRAM", &["create temp table t (a text)", "copy t from program 'id'"]),
        file("file.copy-to-program", "COPY TO PROGRAM", &["copy (select 1) to program 'cat > /tmp/x'"]),
        file(
            "file.copy-from",
            "COPY FROM a server's file",
            &["create temp table t (a text)", "copy t from '/etc/passwd'"],
        ),
        file("file.copy-to", "COPY TO a server's file", &["copy (select 1) to '/tmp/x'"]),
        file(
            "file.copy-do",
            "the same in DO",
            &["do $$ begin execute 'copy (select 1) to pro' || 'gram ''id'''; end $$"],
        ),
        file("file.read", "pg_read_file", &["select pg_read_file('postgresql.conf')"]),
        file("file.read-binary", "pg_read_binary_file", &["select pg_read_binary_file('global/pg_control')"]),
        file("file.list", "pg_ls_dir", &["select pg_ls_dir('.')"]),
        file("file.list-log", "pg_ls_logdir, pg_ls_waldir, pg_ls_tmpdir", &["select pg_ls_waldir()"]),
        file("file.list-tmp", "pg_ls_tmpdir", &["select pg_ls_tmpdir()"]),
        file("file.stat", "pg_stat_file", &["select pg_stat_file('/etc/passwd')"]),
        file("file.write", "pg_file_write of adminpack", &["select pg_file_write('x', 'y', false)"])
            .denied("42501 42883"),
        file("file.tablespace", "CREATE TABLESPACE", &["create tablespace x location '/tmp'"]),
        file("file.database", "CREATE DATABASE", &["create database eve template app_clean"]),
        file("file.drop-database", "DROP DATABASE", &["drop database app_clean"]),
        file("file.wrapper", "CREATE FOREIGN DATA WRAPPER", &["create foreign data wrapper x"]),
        file("file.server", "CREATE SERVER", &["create server s foreign data wrapper postgres_fdw"])
            .denied("42501 42704"),
        file("file.fdw", "CREATE EXTENSION postgres_fdw and file_fdw", &["create extension postgres_fdw"]),
        file("file.file-fdw", "CREATE EXTENSION file_fdw", &["create extension file_fdw"]),
        file(
            "file.dblink",
            "dblink back to the server",
            &["select * from dblink('host=127.0.0.1 dbname=app', 'select 1') x(a int)"],
        )
        .denied("42883"),
        file("file.dblink-connect", "dblink_connect", &["select dblink_connect('x', 'host=127.0.0.1')"])
            .denied("42883"),
        file("file.user-mapping", "CREATE USER MAPPING", &["create user mapping for current_user server s"])
            .denied("42704 42501"),
        file("file.foreign-table", "CREATE FOREIGN TABLE", &["create foreign table pg_temp.f (x int) server s"])
            .denied("42704 42501 42P16"),
        file("file.replication-slot", "replication slots", &["select pg_create_physical_replication_slot('s')"]),
        file(
            "file.slot-peek",
            "pg_logical_slot_peek_changes",
            &["select pg_logical_slot_peek_changes('s', null, null)"],
        )
        .denied("42501 42704 55000"),
        file(
            "file.import-schema",
            "IMPORT FOREIGN SCHEMA",
            &["import foreign schema public from server s into pg_temp"],
        )
        .denied("42704 42501 3F000"),
        file("file.replication-command", "replication commands as queries", &["IDENTIFY_SYSTEM"]).denied("42601"),
        file("file.base-backup", "BASE_BACKUP as a query", &["BASE_BACKUP (LABEL 'x')"]).denied("42601"),
        run("file.replication", 20, "replication as a startup parameter", |h| {
            Box::pin(async move {
                let me = h.place.level.hostile_login();
                let token = h.place.password(&me);
                for value in ["true", "database", "on", "1", "yes", "t", "TRUE", "Database", "y", "tru", " true", "ON"]
                {
                    let code = h.refused(&me.user, "app", &token, &[("replication", value)]).await;
                    held(code.as_deref() == Some("0A000"), format!("replication={value}: {code:?}"))?;
                }
                for (name, value) in
                    [("options", "-c replication=database"), ("REPLICATION", "database"), ("Replication", "true")]
                {
                    let code = h.refused(&me.user, "app", &token, &[(name, value)]).await;
                    held(code.is_some(), format!("{name}={value}: {code:?}"))?;
                }
                Ok("refused, 0A000".to_owned())
            })
        })
        .of_pgward(),
    ]
}
