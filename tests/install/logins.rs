//! Logins of tenants: what a tenant changes about the one that it shares is mended before the next backend is lent,
//! and one that could get around isolation is not used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Client;

use super::{Place, Stage, cluster, code, install, one, parse};
use crate::support::until;

/// One backend at a time, each for one session: every login opens anew.
const FRESH: &str = "[pool]\nlifetime = \"0s\"\n";

#[tokio::test]
async fn settings_that_a_tenant_gives_the_shared_login_reach_nobody() {
    let place = Place::with("poisoned", &format!("{FRESH}[audit]\nfile = \"audit.jsonl\"\n")).await;
    place.install().await;
    let stage = place.stage().await;
    let usual = "select current_setting('work_mem') || ' ' || current_setting('default_transaction_read_only') || ' ' \
        || current_setting('statement_timeout') || ' ' || current_setting('lock_timeout')";
    let before = one(&stage.connect("globex").await, usual).await;
    for poison in [
        "alter role poisoned_app set work_mem = '64kB'",
        "alter role current_user set default_transaction_read_only = on",
        "alter role poisoned_app in database poisoned set statement_timeout = 1",
        "alter role session_user set lock_timeout = 1",
        "alter role poisoned_app set idle_session_timeout = 1",
        "alter role poisoned_app set local_preload_libraries = 'nothing'",
        "do $$ begin execute 'alter role poisoned_app set search_path = pg_temp' ; end $$",
        "alter role poisoned_app set role = 'none'; alter role poisoned_app set client_min_messages = error",
    ] {
        let hostile = stage.connect("acme").await;
        hostile.batch_execute(poison).await.unwrap_or_else(|error| panic!("{poison}: {error:?}"));
        drop(hostile);
        let witness = stage.connect("globex").await;
        assert_eq!(one(&witness, usual).await, before, "{poison}");
        assert_eq!(one(&witness, "select pgward.tenant()").await, "globex", "{poison}");
        let left = "select count(*) from pg_db_role_setting s join pg_roles r on r.oid = s.setrole where rolname = 'poisoned_app'";
        assert_eq!(one(&witness, left).await, "0", "{poison}");
    }
    let recorded = async || {
        let text = std::fs::read_to_string(stage.path.with_file_name("audit.jsonl")).unwrap();
        // Those of one second are one line.
        text.lines().any(|line| line.contains("\"login_role\":\"poisoned_app\"") && line.contains("\"mended\""))
    };
    until("it is recorded", recorded).await;
}

/// What acme does in a session that stays, while globex begins new ones.
async fn besieged(name: &'static str, siege: &str) {
    let place = Place::with(name, FRESH).await;
    place.install().await;
    let stage = place.stage().await;
    let usual = "select current_setting('work_mem')";
    let before = one(&stage.connect("globex").await, usual).await;
    let siege = siege.replace("{role}", &format!("{name}_app"));
    // Mending may end it.
    let lay = |hostile: Client| {
        let siege = siege.clone();
        tokio::spawn(async move { drop(hostile.batch_execute(&siege).await) })
    };
    let mut sieges = [lay(stage.connect("acme").await), lay(stage.connect("acme").await)];
    for round in 0..15 {
        let witness = stage.connect("globex").await;
        assert_eq!(one(&witness, usual).await, before, "{round}");
        for siege in &mut sieges {
            if siege.is_finished() {
                *siege = lay(stage.connect("acme").await);
            }
        }
    }
}

#[tokio::test]
async fn settings_that_come_and_go_while_sessions_begin_reach_nobody() {
    let siege = "do $$ begin loop
        alter role {role} set work_mem = '64kB'; commit; perform pg_sleep(0.004);
        alter role {role} reset all; commit; perform pg_sleep(0.004);
        end loop; end $$";
    besieged("toggled", siege).await;
}

#[tokio::test]
async fn a_login_whose_settings_are_set_again_and_again_can_be_used() {
    let siege = "do $$ begin loop
        begin alter role {role} set work_mem = '64kB'; exception when others then null; end; commit;
        end loop; end $$";
    besieged("again", siege).await;
}

#[tokio::test]
async fn a_login_whose_password_is_set_again_and_again_can_be_used() {
    let siege = "do $$ begin loop
        begin alter role {role} password 'taken over'; exception when others then null; end; commit;
        end loop; end $$";
    besieged("retaken", siege).await;
}

#[tokio::test]
async fn a_login_whose_settings_are_being_changed_for_hours_can_be_used() {
    let siege = "do $$ begin
        alter role {role} set work_mem = '64kB'; commit; alter role {role} set work_mem = '65kB'; perform pg_sleep(3600);
        end $$";
    besieged("hours", siege).await;
}

#[tokio::test]
async fn a_login_that_cannot_be_mended_at_once_is_mended_when_it_can() {
    let place = Place::with("hindered", FRESH).await;
    place.install().await;
    let stage = place.stage().await;
    stage.connect("acme").await.batch_execute("alter role hindered_app set work_mem = '64kB'").await.unwrap();
    let other = place.admin().await;
    // As the mending of another login does, and others after it.
    other.batch_execute("begin; lock table pg_catalog.pg_db_role_setting in share mode").await.unwrap();
    let end = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        other.batch_execute("commit").await.unwrap();
    });
    assert_eq!(one(&stage.connect("globex").await, "show work_mem").await, "4MB");
    end.await.unwrap();
}

/// Passes a server's bytes on, and its answer to `pgward.sound()` together with what comes soon behind.
async fn relay_late(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move {
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let asked = Arc::new(AtomicBool::new(false));
                let seen = Arc::clone(&asked);
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(n @ 1..) = from_client.read(&mut bytes).await {
                        if bytes[..n].windows(12).any(|part| part == b"pgward.sound") {
                            seen.store(true, Ordering::Relaxed);
                        }
                        let _ = to_server.write_all(&bytes[..n]).await;
                    }
                });
                let mut bytes = vec![0; 65_536];
                while let Ok(mut n @ 1..) = from_server.read(&mut bytes).await {
                    if asked.swap(false, Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(400)).await;
                        n += from_server.try_read(&mut bytes[n..]).unwrap_or(0);
                    }
                    let _ = to_client.write_all(&bytes[..n]).await;
                }
            });
        }
    });
    address.port()
}

#[tokio::test]
async fn a_backend_that_times_out_while_it_is_vetted_is_mended_like_others() {
    let place = Place::with("hasty", FRESH).await;
    place.install().await;
    place.admin().await.batch_execute("alter role hasty_app set idle_session_timeout = '200ms'").await.unwrap();
    let port = cluster().await.primary().port();
    let text = place.text.replace(&format!("port = {port}"), &format!("port = {}", relay_late(port).await));
    let stage = Place { text, ..place }.stage().await;
    assert_eq!(one(&stage.connect("acme").await, "show idle_session_timeout").await, "0");
}

#[tokio::test]
async fn a_password_that_a_tenant_gives_the_shared_login_locks_nobody_out() {
    let place = Place::with("locked", FRESH).await;
    place.install().await;
    let stage = place.stage().await;
    for statement in [
        "alter role locked_app password 'taken over'",
        "alter user current_user password null",
        "alter role session_user with encrypted password 'SCRAM-SHA-256$4096:AAAA$BBBB:CCCC'",
    ] {
        stage.connect("acme").await.batch_execute(statement).await.unwrap();
        assert_eq!(one(&stage.connect("globex").await, "select pgward.tenant()").await, "globex", "{statement}");
    }
}

#[tokio::test]
async fn settings_of_the_configuration_are_the_logins_and_others_are_removed_and_named() {
    let place = Place::new("settled").await;
    let with = "app = { role = \"settled_app\", settings = { work_mem = \"9MB\", \"app.region\" = \"lk's\" } }";
    let text = place.text.replace("app = \"settled_app\"", with);
    let place = Place { text, ..place };
    place.install().await;
    let stage = place.stage().await;
    let shown = "select current_setting('work_mem') || ' ' || current_setting('app.region')";
    assert_eq!(one(&stage.connect("acme").await, shown).await, "9MB lk's");
    let admin = place.admin().await;
    admin
        .batch_execute("alter role settled_app set jit = off; alter role settled_app set work_mem = '1MB'")
        .await
        .unwrap();
    assert_eq!(place.install().await.settings_removed, ["settled_app: jit"]);
    assert_eq!(one(&place.stage().await.connect("acme").await, shown).await, "9MB lk's");
}

#[tokio::test]
async fn a_login_that_could_get_around_isolation_is_not_used_unless_it_is_allowed_to() {
    let place = Place::with("unsafe", FRESH).await;
    place.install().await;
    let admin = place.admin().await;
    admin
        .batch_execute("create role mighty bypassrls; create role boss superuser; create table plots (a int)")
        .await
        .unwrap();
    let stage = place.stage().await;
    let login = async |stage: &Stage| match stage.try_connect(&stage.url("acme", "app")).await {
        // What the server says of itself may be known from before: then the first statement opens the backend.
        Ok(client) => match client.query_one("select pgward.tenant()", &[]).await {
            Ok(row) => row.get(0),
            Err(error) => code(&error),
        },
        Err(error) => code(&error),
    };
    for (make, undo) in [
        ("alter role unsafe_app bypassrls", "alter role unsafe_app nobypassrls"),
        ("alter role unsafe_app superuser", "alter role unsafe_app nosuperuser"),
        ("alter role unsafe_app createrole", "alter role unsafe_app nocreaterole"),
        ("alter role unsafe_app replication", "alter role unsafe_app noreplication"),
        ("grant mighty to unsafe_app", "revoke mighty from unsafe_app"),
        ("alter role unsafe_app noinherit; grant boss to unsafe_app", "revoke boss from unsafe_app"),
        ("grant pg_write_server_files to unsafe_app", "revoke pg_write_server_files from unsafe_app"),
        (
            "alter table plots enable row level security, owner to unsafe_app",
            "alter table plots force row level security",
        ),
    ] {
        admin.batch_execute(make).await.unwrap();
        assert_eq!(login(&stage).await, "F0000", "{make}");
        let allowing = place.text.replace("\"unsafe_app\"", "{ role = \"unsafe_app\", allow_unsafe = true }");
        assert_eq!(login(&Stage::with(&allowing).await).await, "acme", "{make}");
        if make.starts_with("alter role unsafe_app") && !make.contains(';') {
            install(&parse(&allowing), &admin, place.name).await.unwrap();
            assert_eq!(login(&stage).await, "F0000", "installing leaves what is allowed: {make}");
        }
        admin.batch_execute(undo).await.unwrap();
        assert_eq!(login(&stage).await, "acme", "{undo}");
    }
}

#[tokio::test]
async fn a_database_that_is_not_prepared_says_so() {
    let place = Place::new("bare").await;
    let admin = place.admin().await;
    place.install().await;
    admin.batch_execute("drop event trigger pgward_guard; drop schema pgward cascade").await.unwrap();
    let stage = place.stage().await;
    let error = stage.try_connect(&stage.url("acme", "app")).await.unwrap_err();
    assert_eq!(code(&error), "F0000");
    assert!(error.as_db_error().unwrap().hint().unwrap().contains("pgward install"));
    // With an old one as well; and it is used as soon as it is there.
    admin.batch_execute(include_str!("version-1.sql")).await.unwrap();
    assert_eq!(code(&stage.try_connect(&stage.url("acme", "app")).await.unwrap_err()), "F0000");
    install(&place.settings(), &admin, place.name).await.unwrap();
    assert_eq!(one(&stage.connect("acme").await, "select pgward.tenant()").await, "acme");
}

#[tokio::test]
async fn tenants_cannot_strip_end_or_watch_what_they_share() {
    let place = Place::with("shared", "[pool]\nmax_per_login = 3\n").await;
    place.install().await;
    let admin = place.admin().await;
    let tables = "create table things (thing text); select pgward.protect('things', add_column => true);
        grant select, insert on things to shared_app";
    admin.batch_execute(tables).await.unwrap();
    let stage = place.stage().await;
    let (hostile, witness) = (stage.connect("acme").await, stage.connect("globex").await);
    witness.batch_execute("insert into things values ('secret of globex')").await.unwrap();
    let object = "select lo_from_bytea(0, 'x')";
    for refused in [
        "drop owned by current_user",
        "drop owned by shared_app cascade",
        "do $$ begin execute 'drop owned by current_user'; end $$",
        "alter default privileges grant all on tables to public",
        "revoke select on things from shared_app",
        "grant select on things to public",
        "select pg_terminate_backend(pid) from pg_locks",
        "select pg_cancel_backend(1)",
        "select query from pg_stat_activity",
        "select pg_stat_get_backend_activity(1)",
        "select * from pg_prepared_xacts",
        "select pgward.mend('shared_app')",
        "select * from pgward.keys",
        "select * from pgward.logins",
        object,
    ] {
        assert_eq!(code(&hostile.simple_query(refused).await.unwrap_err()), "42501", "{refused}");
    }
    assert_eq!(one(&witness, "select count(*) from things").await, "1");
    // A tenant whose login is its own keeps its large objects, and nothing else of these.
    let own = stage.connect("shared_own").await;
    own.simple_query(object).await.unwrap();
    for files in ["select lo_import('/etc/passwd')", "select lo_export(1, '/tmp/x')"] {
        assert_eq!(code(&own.simple_query(files).await.unwrap_err()), "42501", "{files}");
    }
    let others =
        "select count(*) from pg_stat_activity where usename is distinct from current_user and query !~ 'insufficient'";
    assert_eq!(one(&own, others).await, one(&own, &format!("{others} and query = ''")).await, "texts of its own alone");
    assert_eq!(
        one(
            &own,
            "select count(*) > 0 from pg_stat_activity where usename = current_user and query ~ 'pg_stat_activity'"
        )
        .await,
        "t"
    );
    assert_eq!(code(&own.simple_query("select * from pg_prepared_xacts").await.unwrap_err()), "42501");
    // Who has the duty can still look.
    admin.batch_execute("create role monitor; grant pg_monitor to monitor; set role monitor; select count(query) from pg_stat_activity").await.unwrap();
}

#[tokio::test]
async fn two_cores_that_find_a_login_spoilt_mend_it_and_go_on() {
    let place = Place::with("stormy", FRESH).await;
    place.install().await;
    let stage = place.stage().await;
    let hostile = stage.connect("acme").await;
    let poisoning = tokio::spawn(async move {
        for i in 0..40 {
            hostile.batch_execute(&format!("alter role stormy_app set work_mem = '{}kB'", 64 + i)).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let usual = one(&cluster().await.primary().connect("stormy").await.unwrap(), "show work_mem").await;
    while !poisoning.is_finished() {
        let logins = (0..4).map(|_| async { stage.try_connect(&stage.url("globex", "app")).await });
        for client in futures_util::future::join_all(logins).await.into_iter().flatten() {
            // Somebody who never stops can keep new backends from being opened, but not have one lent that is spoilt.
            if let Ok(row) = client.query_one("select current_setting('work_mem')", &[]).await {
                assert_eq!(row.get::<_, String>(0), usual);
            }
        }
    }
    poisoning.await.unwrap();
    until("all is well again", async || stage.try_connect(&stage.url("globex", "app")).await.is_ok()).await;
}
