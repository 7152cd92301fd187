//! A session's own state over backends that it shares: settings, prepared statements, and what keeps it on
//! its backend.

mod support;

use support::raw::{
    Raw, bind, close, describe, errors, execute, extended, function_call_with, gists, parse, query, sync,
};
use support::{HEAD, Stage, cluster, configuration, until};

const ONE_BACKEND: &str = "[pool]\nmax_per_login = 1\n";
const TWO_BACKENDS: &str = "[pool]\nmax_per_login = 2\n";

async fn backend(raw: &mut Raw) -> String {
    raw.one("select pg_backend_pid()").await
}

/// Why each session that is pinned is.
async fn pins(stage: &Stage) -> Vec<&'static str> {
    stage.control.clients().await.iter().filter_map(|client| client.pinned).collect()
}

// ------------------------------------------------------------------------------------------ settings

#[tokio::test]
async fn settings_stay_with_their_session_over_one_backend() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut sessions = Vec::new();
    for i in 0..4 {
        let mut raw = stage.raw("acme").await;
        raw.query(&format!("set application_name = 'app {i}'")).await;
        raw.query(&format!("select set_config('app.user', 'user {i}', false)")).await;
        raw.query(&format!("set work_mem = '{}MB'; set timezone to 'Etc/GMT+{i}'", i + 1)).await;
        raw.query("set session characteristics as transaction isolation level repeatable read").await;
        sessions.push(raw);
    }
    let mut plain = stage.raw("acme").await;
    let mut other = stage.raw("globex").await;
    let pid = backend(&mut plain).await;
    let all = "select concat_ws('|', current_setting('application_name'), current_setting('app.user', true), \
        current_setting('work_mem'), current_setting('timezone'), current_setting('transaction_isolation'))";
    for _ in 0..5 {
        for (i, raw) in sessions.iter_mut().enumerate() {
            let expected = format!("app {i}|user {i}|{}MB|Etc/GMT+{i}|repeatable read", i + 1);
            assert_eq!(raw.one(all).await, expected);
            assert_eq!(backend(raw).await, pid);
        }
        for untouched in [&mut plain, &mut other] {
            let found = untouched.one(all).await;
            assert!(found.starts_with("pgward||4MB|") && found.ends_with("|read committed"), "{found}");
        }
    }
    assert_eq!(pins(&stage).await, [""; 0], "settings pin nobody");
}

#[tokio::test]
async fn settings_of_a_transaction_that_is_rolled_back_are_gone() {
    let stage = Stage::new(ONE_BACKEND).await;
    let (mut one, mut two) = (stage.raw("acme").await, stage.raw("acme").await);
    one.query("set app.x = 'kept'").await;
    for (text, app, zone) in [
        ("begin; set app.x = 'lost'; set timezone = 'Asia/Colombo'; rollback", "kept", "Etc/UTC"),
        ("begin; set app.x = 'lost'; select 1/0", "kept", "Etc/UTC"),
        ("rollback", "kept", "Etc/UTC"),
        (
            "begin; set timezone = 'Asia/Tokyo'; savepoint a; set app.x = 'lost'; rollback to a; commit",
            "kept",
            "Asia/Tokyo",
        ),
        ("set local app.x = 'lost'", "kept", "Asia/Tokyo"),
        ("begin; set local app.x = 'lost'; commit", "kept", "Asia/Tokyo"),
        ("select set_config('timezone', 'Asia/Dhaka', false)", "kept", "Asia/Dhaka"),
        ("set timezone = default", "kept", "Etc/UTC"),
        ("begin; set app.x = 'new'; commit", "new", "Etc/UTC"),
        ("reset all", "", "Etc/UTC"),
    ] {
        one.query(text).await;
        if text.ends_with("1/0") {
            continue;
        }
        let at_once = one.one("select current_setting('app.x', true) || ' ' || current_setting('timezone')").await;
        assert_eq!(errors(&two.query("select 1").await), [""; 0]);
        let later = one.one("select current_setting('app.x', true) || ' ' || current_setting('timezone')").await;
        let found = (
            at_once.replace("UTC", "Etc/UTC").replace("Etc/Etc", "Etc"),
            later.replace("UTC", "Etc/UTC").replace("Etc/Etc", "Etc"),
        );
        let expected = format!("{app} {zone}");
        assert_eq!(found, (expected.clone(), expected), "{text}");
    }
}

#[tokio::test]
async fn what_is_reset_is_as_the_session_began() {
    let stage = Stage::new(ONE_BACKEND).await;
    let url = stage.url("acme", "app");
    let options = [("TimeZone", "Asia/Colombo"), ("options", "-c statement_timeout=77s")];
    let (mut one, mut two) = (Raw::open_with(&url, &options).await, stage.raw("acme").await);
    let zone = "select current_setting('timezone') || ' ' || current_setting('statement_timeout')";
    assert_eq!(one.one(zone).await, "Asia/Colombo 77s");
    one.query("set timezone = 'Asia/Tokyo'; set statement_timeout = '5min'").await;
    two.query("select 1").await;
    assert_eq!(one.one(zone).await, "Asia/Tokyo 5min");
    one.query("reset timezone").await;
    assert_eq!(one.one(zone).await, "Asia/Colombo 5min");
    one.query("reset all").await;
    two.query("select 1").await;
    assert_eq!(one.one(zone).await, "Asia/Colombo 77s");
    assert_eq!(one.one("select pgward.tenant()").await, "acme");
    assert_eq!(two.one("select current_setting('statement_timeout')").await, "0");
}

#[tokio::test]
async fn a_setting_bound_as_a_parameter_is_kept_too() {
    let stage = Stage::new(ONE_BACKEND).await;
    let (mut one, mut two) = (stage.raw("acme").await, stage.raw("acme").await);
    let set = parse("", "select set_config('app.user', $1, false)");
    one.send([set, bind("", "", &["o'hara"]), execute("", 0), sync()].concat()).await;
    one.ready().await;
    two.query("select 1").await;
    assert_eq!(one.one("select current_setting('app.user')").await, "o'hara");
    assert_eq!(two.one("select coalesce(current_setting('app.user', true), '')").await, "");
    // And by a statement that was prepared under a name, again and again.
    one.send([parse("s", "select set_config('app.user', $1, false)"), sync()].concat()).await;
    one.ready().await;
    for i in 0..5 {
        let value = format!("u{i}");
        one.send([bind("", "s", &[&value]), execute("", 0), sync()].concat()).await;
        one.ready().await;
        two.query("select 1").await;
        assert_eq!(one.one("select current_setting('app.user')").await, value);
    }
}

#[tokio::test]
async fn a_client_is_told_of_settings_that_it_must_know() {
    let stage = Stage::new(ONE_BACKEND).await;
    let (mut one, mut two) = (stage.raw("acme").await, stage.raw("acme").await);
    let told = |messages: &[support::raw::Message]| -> Vec<(String, String)> {
        messages.iter().filter_map(support::raw::Message::parameter).collect()
    };
    let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_eq!(told(&one.query("set timezone = 'Asia/Tokyo'").await), pair("TimeZone", "Asia/Tokyo"));
    assert_eq!(told(&two.query("select 1").await), [], "another session's is none of its business");
    assert_eq!(told(&one.query("select 1").await), [], "it knows");
    assert_eq!(told(&two.query("set timezone = 'Asia/Dhaka'").await), pair("TimeZone", "Asia/Dhaka"));
    assert_eq!(told(&one.query("select 1").await), []);
}

// ------------------------------------------------------------------------------- prepared statements

#[tokio::test]
async fn statements_of_sql_move_with_their_session() {
    let stage = Stage::new(ONE_BACKEND).await;
    let (mut one, mut two, mut three) = (stage.raw("acme").await, stage.raw("acme").await, stage.raw("globex").await);
    one.query("prepare p as select 'one'").await;
    two.query("prepare p (int) as select 'two ' || $1").await;
    two.query("prepare \"Q \"\"x\" as select 'quoted'").await;
    for _ in 0..3 {
        assert_eq!(one.one("execute p").await, "one");
        assert_eq!(two.one("execute p (7)").await, "two 7");
        assert_eq!(two.one("execute \"Q \"\"x\"").await, "quoted");
        assert_eq!(errors(&three.query("execute p").await), ["26000"]);
    }
    assert_eq!(pins(&stage).await, [""; 0]);
    two.query("deallocate p").await;
    one.query("select 1").await;
    assert_eq!(errors(&two.query("execute p (1)").await), ["26000"]);
    assert_eq!(two.one("execute \"Q \"\"x\"").await, "quoted");
    two.query("deallocate all").await;
    assert_eq!(one.one("execute p").await, "one");
    assert_eq!(errors(&two.query("execute \"Q \"\"x\"").await), ["26000"]);
    for text in ["begin", "deallocate p", "prepare p as select 'in vain'", "rollback"] {
        one.query(text).await;
    }
    two.query("select 1").await;
    assert_eq!(one.one("execute p").await, "in vain", "prepared statements are not rolled back");
}

#[tokio::test]
async fn a_prepared_statement_that_cannot_be_made_again_does_not_end_its_session() {
    let stage = Stage::new(ONE_BACKEND).await;
    let (mut one, mut two) = (stage.raw("kandy").await, stage.raw("kandy").await);
    one.query("create table doomed (a int); insert into doomed values (1)").await;
    one.query("prepare p as select a from doomed").await;
    assert_eq!(one.one("execute p").await, "1");
    two.query("prepare p as select 2").await;
    two.query("drop table doomed").await;
    assert!(!errors(&one.query("execute p").await).is_empty());
    assert_eq!(one.one("select 'alive'").await, "alive");
    assert_eq!(two.one("execute p").await, "2");
}

#[tokio::test]
async fn a_statement_of_the_protocol_can_be_deallocated_by_sql() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let (mut one, mut two) = (stage.raw("acme").await, stage.raw("acme").await);
    let prepare = [parse("S_1", "select 'shared'"), sync()].concat();
    let run = [bind("", "S_1", &[]), execute("", 0), sync()].concat();
    for raw in [&mut one, &mut two] {
        raw.send(&prepare).await;
        assert_eq!(gists(&raw.ready().await), ["1", "Z I"]);
    }
    for deallocate in ["DEALLOCATE \"S_1\"", "deallocate all", "discard all"] {
        for raw in [query(deallocate), [extended(deallocate), sync()].concat()] {
            one.send(raw).await;
            let answers = one.ready().await;
            assert_eq!(errors(&answers), [""; 0], "{deallocate}");
            let word = deallocate.split(' ').next().unwrap().to_uppercase();
            assert!(gists(&answers).iter().any(|gist| gist.starts_with(&format!("C {word}"))), "{answers:?}");
            one.send(&run).await;
            assert_eq!(errors(&one.ready().await), ["26000"], "{deallocate}");
            one.send(&prepare).await;
            assert_eq!(errors(&one.ready().await), [""; 0], "{deallocate}: the name is free again");
            two.send(&run).await;
            assert!(gists(&two.ready().await).contains(&"D shared".to_owned()), "{deallocate}");
        }
    }
    one.query("begin").await;
    one.query("select 1/0").await;
    assert_eq!(errors(&one.query("deallocate \"S_1\"").await), ["25P02"]);
    one.query("rollback").await;
    one.send(&run).await;
    assert!(gists(&one.ready().await).contains(&"D shared".to_owned()), "it was not deallocated");
    one.send([close('S', "S_1"), sync()].concat()).await;
    one.ready().await;
}

#[tokio::test]
async fn a_plan_that_no_longer_fits_is_made_anew() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let (mut one, mut two, mut three) = (stage.raw("kandy").await, stage.raw("kandy").await, stage.raw("kandy").await);
    one.query("drop table if exists changing; create table changing (a int); insert into changing values (1)").await;
    let prepare = [parse("s", "select * from changing"), describe('S', "s"), sync()].concat();
    let run = [bind("", "s", &[]), describe('P', ""), execute("", 0), sync()].concat();
    for raw in [&mut one, &mut two] {
        raw.send(&prepare).await;
        raw.ready().await;
    }
    // So that both backends know the statement.
    for raw in [&mut one, &mut two] {
        raw.query("begin").await;
    }
    for raw in [&mut one, &mut two] {
        raw.send(&run).await;
        assert_eq!(errors(&raw.ready().await), [""; 0]);
    }
    for raw in [&mut one, &mut two] {
        raw.query("commit").await;
    }
    one.query("alter table changing add b text default 'x'").await;
    for raw in [&mut one, &mut two] {
        for _ in 0..4 {
            raw.send(&run).await;
            assert_eq!(gists(&raw.ready().await), ["2", "T", "D 1,x", "C SELECT 1\0", "Z I"]);
        }
    }
    three.send(&prepare).await;
    assert_eq!(errors(&three.ready().await), [""; 0], "who prepares it now gets a plan of now");
    three.send(&run).await;
    assert!(gists(&three.ready().await).contains(&"D 1,x".to_owned()));
    one.query("drop table changing").await;
}

#[tokio::test]
async fn a_batch_is_run_again_only_where_nothing_of_it_happened_and_nobody_is_misled() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut raw = stage.raw("kandy").await;
    raw.query("drop table if exists healing; create table healing (a int); insert into healing values (1)").await;
    let unfit = [bind("", "s", &[]), execute("", 0), sync()].concat();
    let fit = [bind("", "s", &[]), describe('P', ""), execute("", 0), sync()].concat();
    let insert = [bind("", "i", &[]), execute("", 0)].concat();
    let mut columns = 0;
    let mut alter = || {
        columns += 1;
        format!("alter table healing add c{columns} int")
    };
    raw.send([parse("s", "select * from healing"), parse("i", "insert into healing default values"), sync()].concat())
        .await;
    raw.ready().await;
    // It was never told what the rows look like, so it cannot be misled.
    raw.send(&unfit).await;
    raw.ready().await;
    raw.query(&alter()).await;
    raw.send(&unfit).await;
    assert_eq!(gists(&raw.ready().await), ["2", "D 1,NULL", "C SELECT 1\0", "Z I"]);
    // Behind something that was run, in a transaction, or with another batch behind it, it is not run again.
    let behind = [&insert[..], &unfit].concat();
    raw.send(&behind).await;
    assert_eq!(errors(&raw.ready().await), [""; 0]);
    for (batch, times) in [(behind, 1), ([&unfit[..], &insert, &sync()].concat(), 2)] {
        // So that the backend knows it as it is now.
        raw.send(&fit).await;
        raw.ready().await;
        raw.query(&alter()).await;
        raw.send(&batch).await;
        assert_eq!(errors(&raw.ready_times(times).await), ["0A000"]);
    }
    raw.send(&fit).await;
    raw.ready().await;
    raw.query(&alter()).await;
    raw.query("begin").await;
    raw.send(&fit).await;
    assert_eq!(gists(&raw.ready().await), ["E 0A000", "Z E"]);
    raw.query("rollback").await;
    let rows = raw.one("select count(*) from healing").await;
    assert_eq!(rows, "3", "the insert in front was rolled back, the one behind was not");
    // One that was told hears of it, unless it asks anew.
    raw.send([describe('S', "s"), sync()].concat()).await;
    raw.ready().await;
    raw.query(&alter()).await;
    raw.send(&unfit).await;
    assert_eq!(errors(&raw.ready().await), ["0A000"]);
    raw.send(&fit).await;
    assert_eq!(errors(&raw.ready().await), [""; 0]);
    raw.query("drop table healing").await;
    raw.send(&fit).await;
    assert_eq!(errors(&raw.ready().await), ["42P01"]);
}

// ---------------------------------------------------------------------------------------------- pins

#[tokio::test]
async fn a_session_is_pinned_as_long_as_it_must_be() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let mut raw = stage.raw("acme").await;
    for (reason, does, undoes) in [
        ("temporary_table", "create temp table t (a int)", "drop table t"),
        ("temporary_table", "create temp table t (a int)", "discard temp"),
        ("temporary_table", "begin; create temp table t (a int); commit", "discard all"),
        ("advisory_lock", "select pg_advisory_lock(1)", "select pg_advisory_unlock(1)"),
        ("advisory_lock", "select pg_try_advisory_lock(2)", "select pg_advisory_unlock_all()"),
        ("hold_cursor", "declare c cursor with hold for select 1", "close c"),
        ("hold_cursor", "declare c cursor with hold for select 1", "close all"),
        ("listen", "begin; listen a; commit", "unlisten *"),
        ("asked", "set pgward.pin = on", "set pgward.pin = off"),
        ("asked", "select set_config('pgward.pin', 'on', false)", "reset pgward.pin"),
        ("unknown", "do $$ begin execute 'select 1'; end $$", "discard all"),
    ] {
        assert_eq!(errors(&raw.query(does).await), [""; 0], "{does}");
        let pid = backend(&mut raw).await;
        assert_eq!(pins(&stage).await, [reason], "{does}");
        assert_eq!(backend(&mut raw).await, pid);
        assert_eq!(errors(&raw.query(undoes).await), [""; 0], "{undoes}");
        raw.query("select 1").await;
        assert_eq!(pins(&stage).await, [""; 0], "{undoes}");
        stage.at_rest(1).await;
    }
    for undone in [
        "begin; create temp table t (a int); rollback",
        "begin; declare c cursor with hold for select 1; rollback",
        "begin; listen a; rollback",
        "create temp table t (a int); drop table t",
        "select pg_advisory_lock(1); select pg_advisory_unlock(1)",
    ] {
        raw.query(undone).await;
        raw.query("select 1").await;
        assert_eq!(pins(&stage).await, [""; 0], "{undone}");
    }
}

#[tokio::test]
async fn a_tenant_pins_no_more_sessions_than_it_may() {
    let stage = Stage::new("[limits]\nmax_pinned = 1\n").await;
    let (mut one, mut two) = (stage.raw("acme").await, stage.raw("acme").await);
    let mut other = stage.raw("globex").await;
    one.query("create temp table t (a int)").await;
    other.query("begin; listen a; commit").await;
    two.query("create temp table t (a int) on commit drop; set app.x = 1").await;
    two.query("select 1").await;
    assert_eq!(pins(&stage).await.len(), 2, "one each");
    two.send(query("select pg_advisory_lock(101)")).await;
    assert_eq!(errors(&two.rest().await), ["53400"]);
    let locks = "select count(*) from pg_locks where locktype = 'advisory' and objid = 101";
    let mut free = false;
    while !free {
        free = other.one(locks).await == "0";
    }
    one.query("drop table t").await;
    // Its next request waits until it is known what the one before left.
    one.query("select 1").await;
    let mut three = stage.raw("acme").await;
    three.query("begin; listen a; commit").await;
    assert_eq!(three.one("select 'alive'").await, "alive");
}

#[tokio::test]
async fn a_session_of_mode_session_keeps_its_backend_to_its_end() {
    let text = format!("{HEAD}{}", configuration(cluster().await.primary().port(), TWO_BACKENDS));
    let text = text.replace("[tenants.kandy]\n", "[tenants.kandy]\nmode = \"session\"\n");
    let stage = Stage::with(&text).await;
    let (mut one, mut two) = (stage.raw("kandy").await, stage.raw("kandy").await);
    let (first, second) = (backend(&mut one).await, backend(&mut two).await);
    one.query("create temp table t (a int); set work_mem = '7MB'").await;
    one.query("load 'plpgsql'").await;
    assert_eq!(pins(&stage).await, ["mode", "mode"]);
    two.query("select 1").await;
    assert_eq!((backend(&mut one).await, backend(&mut two).await), (first.clone(), second));
    assert_eq!(one.one("select count(*) from t").await, "0");
    one.query("reset timezone").await;
    assert_eq!(one.one("show work_mem").await, "7MB", "RESET of one setting leaves the others");
    one.query("discard all").await;
    assert_eq!(one.one("show work_mem").await, "4MB");
    assert_eq!(one.one("show search_path").await, "\"kandy\"");
    drop(one);
    until("the session has gone", async || stage.control.client_count() == 1).await;
    let mut three = stage.raw("kandy").await;
    assert_eq!(backend(&mut three).await, first);
}

#[tokio::test]
async fn a_session_of_mode_session_gets_a_backend_that_others_left_clean() {
    let text = format!("{HEAD}{}", configuration(cluster().await.primary().port(), ONE_BACKEND));
    let stage = Stage::with(&text.replace("[tenants.acme]\n", "[tenants.acme]\nmode = \"session\"\n")).await;
    let mut left = stage.raw("globex").await;
    let hidden = "create function public.leave() returns void language plpgsql as \
        $$ begin set work_mem = '9MB'; execute 'prepare le' || 'ft as select 1'; end $$";
    cluster().await.primary().connect("app").await.unwrap().batch_execute(hidden).await.unwrap();
    // The text does not show what the function does, so it pins nothing.
    left.query("select public.leave()").await;
    let pid = backend(&mut left).await;
    assert_eq!(pins(&stage).await, [""; 0]);
    let mut kept = stage.raw("acme").await;
    assert_eq!(kept.one("show work_mem").await, "4MB");
    assert_eq!(kept.one("select count(*) from pg_prepared_statements").await, "0");
    assert_eq!(kept.one("select pgward.tenant()").await, "acme");
    assert_eq!(backend(&mut kept).await, pid);
}

#[tokio::test]
async fn a_pinned_session_keeps_its_statements_when_it_resets_a_setting() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut raw = stage.raw("acme").await;
    raw.query("create temp table t (a int)").await;
    raw.query("prepare p as select 'prepared'").await;
    assert_eq!(pins(&stage).await, ["temporary_table"]);
    let pid = backend(&mut raw).await;
    for reset in ["reset work_mem", "reset all", "set work_mem to default"] {
        raw.query(reset).await;
        assert_eq!(raw.one("execute p").await, "prepared", "{reset}");
        assert_eq!(raw.one("select pgward.tenant()").await, "acme", "{reset}");
        assert_eq!(backend(&mut raw).await, pid, "{reset}");
    }
    raw.query("set work_mem = '7MB'; reset timezone").await;
    assert_eq!(raw.one("show work_mem").await, "7MB");
    raw.query("reset all; drop table t").await;
    assert_eq!(raw.one("execute p").await, "prepared");
    raw.query("discard all").await;
    assert_eq!(errors(&raw.query("execute p").await), ["26000"]);
}

#[tokio::test]
async fn what_pinned_a_session_is_gone_for_the_next() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut one = stage.raw("acme").await;
    one.query(
        "create temp table mine (a int); set app.x = 'mine'; prepare p as select 1; select pg_advisory_lock(102)",
    )
    .await;
    let pid = backend(&mut one).await;
    drop(one);
    stage.at_rest(0).await;
    let mut two = stage.raw("acme").await;
    assert_eq!(backend(&mut two).await, pid);
    assert_eq!(two.one("select count(*) from pg_locks where locktype = 'advisory' and objid = 102").await, "0");
    assert_eq!(errors(&two.query("select * from mine").await), ["42P01"]);
    assert_eq!(errors(&two.query("execute p").await), ["26000"]);
    assert_eq!(two.one("select coalesce(current_setting('app.x', true), '')").await, "");
}

// ------------------------------------------------------------------------------------- large objects

#[tokio::test]
async fn large_objects_work_by_the_fast_path_in_a_database_of_ones_own() {
    let own = "[tenants.own]\nisolation = \"database\"\ncluster = \"main\"\ndatabase = \"objects\"\nhome = \"lk\"\nroles.app = { role = \"objector\", password = \"objects\" }\n";
    let create = "create role objector login password 'objects'";
    cluster().await.primary().connect("app").await.unwrap().batch_execute(create).await.unwrap();
    cluster().await.primary().run("postgres", "create the database", "create database objects").await.unwrap();
    let text = format!("{HEAD}{}{own}", configuration(cluster().await.primary().port(), ONE_BACKEND));
    let stage = Stage::with(&text).await;
    let (mut raw, mut other) = (stage.raw("own").await, stage.raw("own").await);
    let named = "'lo_open','lo_close','loread','lowrite','lo_lseek','lo_creat','lo_create','lo_tell','lo_truncate', \
        'lo_unlink','lo_lseek64','lo_tell64','lo_truncate64'";
    let numbers = format!("select string_agg(oid::text, ' ' order by oid) from pg_proc where proname in ({named})");
    assert_eq!(raw.one(&numbers).await, "715 952 953 954 955 956 957 958 964 1004 3170 3171 3172");
    let number = |messages: &[support::raw::Message]| {
        let answer = messages.iter().find(|message| message.tag == b'V').expect("an answer").body.clone();
        u32::from_be_bytes(answer[4..8].try_into().unwrap())
    };
    raw.send(function_call_with(957, &[&(-1i32).to_be_bytes()])).await;
    let object = number(&raw.ready().await);
    other.query("select 1").await;
    raw.query("begin").await;
    raw.send(function_call_with(952, &[&object.to_be_bytes(), &0x6_0000u32.to_be_bytes()])).await;
    let descriptor = number(&raw.ready().await);
    raw.send(function_call_with(955, &[&descriptor.to_be_bytes(), b"written by the fast path"])).await;
    assert_eq!(number(&raw.ready().await), 24);
    raw.query("commit").await;
    other.query("select 1").await;
    assert_eq!(raw.one(&format!("select convert_from(lo_get({object}), 'utf8')")).await, "written by the fast path");
    for (oid, state) in [(964, ""), (964, "42704"), (2026, "0A000")] {
        raw.send(function_call_with(oid, &[&object.to_be_bytes()])).await;
        assert_eq!(errors(&raw.ready().await).join(""), state, "{oid}");
    }
    let mut shared = stage.raw("kandy").await;
    shared.send(function_call_with(957, &[&(-1i32).to_be_bytes()])).await;
    assert_eq!(errors(&shared.ready().await), ["0A000"]);
}
