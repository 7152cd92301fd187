//! Sessions over shared backends: clients that vanish, servers that fail, cancel requests, draining,
//! state that outlives a transaction, and much data.

mod support;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use pgward::local::{Cluster, Stop};
use support::raw::{
    Raw, bind, cancel_request, close, copy_data, copy_done, describe, errors, execute, extended, gists, parse, query,
    sync,
};
use support::{HEAD, Stage, cluster, code, configuration, furnish, one, until};
use tokio_postgres::{AsyncMessage, Client, NoTls};

const ONE_BACKEND: &str = "[pool]\nmax_per_login = 1\n";
const TWO_BACKENDS: &str = "[pool]\nmax_per_login = 2\n";

async fn watch() -> Client {
    cluster().await.primary().connect("app").await.unwrap()
}

async fn pid(raw: &mut Raw) -> String {
    raw.one("select pg_backend_pid()").await
}

/// Waits until the backend is in this state: `idle`, `active`, `idle in transaction`, or `gone`.
async fn in_state(watch: &Client, pid: &str, state: &str) {
    let sql = format!("select coalesce((select state from pg_stat_activity where pid = {pid}), 'gone')");
    until(&format!("state '{state}' of the backend"), async || one(watch, &sql).await == state).await;
}

// ------------------------------------------------------------------------------- clients that vanish

#[tokio::test]
async fn a_client_that_vanishes_leaves_its_backend_clean_and_in_the_pool() {
    let stage = Stage::new(ONE_BACKEND).await;
    let watch = watch().await;
    let insert = "insert into orders (item) values ('vanished')";
    let copy = "copy s from stdin";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("in a transaction", query(&format!("begin; {insert}")), "idle in transaction"),
        ("in a failed transaction", query("begin; select 1/0"), "idle in transaction (aborted)"),
        ("in a batch", [extended(insert), support::raw::flush()].concat(), "active"),
        (
            "in a pipeline",
            [query("begin"), extended(insert), sync(), extended("select pg_sleep(60)"), sync()].concat(),
            "active",
        ),
        ("while its statement runs", query(&format!("begin; {insert}; select pg_sleep(60)")), "active"),
        (
            "in a COPY",
            [query(&format!("create temp table s (a text); {copy}")), copy_data(b"half a li")].concat(),
            "active",
        ),
        (
            "in a COPY of the extended protocol",
            [query("create temp table s (a text)"), extended(copy), sync(), copy_data(b"x\n")].concat(),
            "active",
        ),
        ("with a result it does not read", query("select repeat('x', 100000) from generate_series(1, 2000)"), "active"),
        ("with a lock", query("select pg_advisory_lock(77)"), "idle"),
    ];
    for (what, bytes, state) in cases {
        let mut raw = stage.raw("t3").await;
        let pid = pid(&mut raw).await;
        raw.send(bytes).await;
        if what == "in a batch" {
            raw.until(|message| message.tag == b'C').await;
        }
        in_state(&watch, &pid, state).await;
        if what == "with a lock" {
            raw.ready().await;
        }
        drop(raw);
        in_state(&watch, &pid, "idle").await;
        stage.at_rest(0).await;
        let mut next = stage.raw("t4").await;
        assert_eq!(self::pid(&mut next).await, pid, "{what}: the same backend serves the next one");
        assert_eq!(next.one("select pgward.tenant()").await, "t4");
        assert_eq!(next.one("select pg_try_advisory_lock(77) and pg_advisory_unlock(77)").await, "t", "{what}");
        assert_eq!(next.one("select to_regclass('s') is null").await, "t", "{what}");
        let left = one(&watch, "select count(*) from orders where item = 'vanished'").await;
        assert_eq!(left, "0", "{what}: it was rolled back");
        drop(next);
        stage.at_rest(0).await;
    }
}

#[tokio::test]
async fn a_client_that_vanishes_while_it_waits_for_a_backend_takes_none() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut holder = stage.raw("t3").await;
    let mut waiting = stage.raw("t4").await;
    holder.query("begin").await;
    waiting.send(query("select 1")).await;
    until("the wait", async || stage.control.pools().await[0].0.waiting == 1).await;
    drop(waiting);
    holder.query("commit").await;
    assert_eq!(stage.raw("t5").await.one("select 1").await, "1");
    drop(holder);
    stage.at_rest(0).await;
}

// --------------------------------------------------------------------------------- servers that fail

#[tokio::test]
async fn a_backend_killed_while_idle_is_replaced_unseen() {
    let stage = Stage::new(ONE_BACKEND).await;
    let (watch, mut raw) = (watch().await, stage.raw("acme").await);
    for _ in 0..5 {
        let pid = pid(&mut raw).await;
        in_state(&watch, &pid, "idle").await;
        one(&watch, &format!("select pg_terminate_backend({pid})")).await;
        in_state(&watch, &pid, "gone").await;
        assert_ne!(self::pid(&mut raw).await, pid);
    }
}

#[tokio::test]
async fn a_backend_killed_in_use_says_so_to_its_client() {
    let stage = Stage::new(ONE_BACKEND).await;
    let watch = watch().await;
    for (sql, state) in [("select pg_sleep(60)", "active"), ("begin", "idle in transaction")] {
        let mut raw = stage.raw("acme").await;
        let pid = pid(&mut raw).await;
        raw.send(query(sql)).await;
        in_state(&watch, &pid, state).await;
        one(&watch, &format!("select pg_terminate_backend({pid})")).await;
        let messages = raw.rest().await;
        assert_eq!(errors(&messages), ["57P01"], "{sql}: {messages:?}");
        assert_eq!(stage.raw("acme").await.one("select 1").await, "1");
    }
    stage.at_rest(0).await;
}

#[tokio::test]
async fn a_server_that_is_down_is_told_of_and_used_again_when_it_is_back() {
    let mut own = Cluster::builder("restarted").start().await.unwrap();
    furnish(&own).await;
    let stage = Stage::with(&format!("{HEAD}{}", configuration(own.primary().port(), ""))).await;
    let (mut open, mut idle) = (stage.raw("acme").await, stage.raw("globex").await);
    open.query("begin").await;
    idle.query("select 1").await;
    own.primary_mut().stop(Stop::Fast).await.unwrap();
    assert_eq!(errors(&open.rest().await), ["57P01"], "the server's own word");
    let told = errors(&idle.query("select 1").await);
    assert!(told == ["08006"] || told == ["57P03"], "{told:?}");
    let mut late = stage.raw("acme").await;
    let told = errors(&late.query("select 1").await);
    assert!(told == ["08006"] || told == ["57P03"], "{told:?}");
    drop(late);
    own.primary_mut().start().await.unwrap();
    assert_eq!(idle.one("select pgward.tenant()").await, "globex", "the same session goes on");
    assert_eq!(stage.raw("acme").await.one("select pgward.tenant()").await, "acme");
    own.primary_mut().kill().await.unwrap();
    own.primary_mut().start().await.unwrap();
    assert_eq!(idle.one("select pgward.tenant()").await, "globex", "after a crash, too");
    drop(idle);
    stage.at_rest(0).await;
}

// ----------------------------------------------------------------------------------- cancel requests

#[tokio::test]
async fn a_cancel_request_stops_the_statement_and_a_wrong_or_dead_key_does_nothing() {
    let stage = Stage::new(ONE_BACKEND).await;
    let watch = watch().await;
    let acme = stage.connect("acme").await;
    let pid = one(&acme, "select pg_backend_pid()").await;
    let token = acme.cancel_token();
    let running = tokio::spawn(async move {
        let error = acme.simple_query("select pg_sleep(60)").await.unwrap_err();
        (acme, code(&error))
    });
    in_state(&watch, &pid, "active").await;
    // A number that is somebody's, with another key; and numbers that are nobody's.
    let id = stage.control.clients().await[0].profile.id;
    for request in [cancel_request(id, &[0; 4]), cancel_request(id, &[0; 32]), cancel_request(id ^ 1, &[0; 4])] {
        let mut raw = Raw::connect(stage.address).await;
        raw.send(request).await;
        assert!(raw.rest().await.is_empty(), "nothing is said to a cancel request");
    }
    assert_eq!(stage.metric("pgward_cancels_total").await, 0.0);
    assert!(!running.is_finished());
    token.cancel_query(NoTls).await.unwrap();
    let (acme, error) = running.await.unwrap();
    assert_eq!(error, "57014");
    assert_eq!(one(&acme, "select 1").await, "1", "the session goes on");
    drop(acme);
    stage.at_rest(0).await;
    let mut next = stage.raw("acme").await;
    assert_eq!(self::pid(&mut next).await, pid);
    next.send(query("select pg_sleep(0.3)")).await;
    in_state(&watch, &pid, "active").await;
    token.cancel_query(NoTls).await.unwrap();
    assert!(errors(&next.ready().await).is_empty(), "a key is dead after its session");
}

#[tokio::test]
async fn a_cancel_request_ends_a_wait_for_a_backend_and_only_that_one() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut holder = stage.raw("t3").await;
    let acme = stage.connect("acme").await;
    holder.query("begin").await;
    let token = acme.cancel_token();
    let waiting = tokio::spawn(async move {
        let error = acme.simple_query("select 1").await.unwrap_err();
        (acme, code(&error))
    });
    until("the wait", async || stage.control.pools().await[0].0.waiting == 1).await;
    token.cancel_query(NoTls).await.unwrap();
    let (acme, error) = waiting.await.unwrap();
    assert_eq!(error, "57014");
    holder.query("commit").await;
    assert_eq!(one(&acme, "select 2").await, "2");
}

#[tokio::test]
async fn cancel_requests_never_hit_somebody_elses_statement() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let mut tasks = Vec::new();
    for i in 0..2 {
        let client = stage.connect("acme").await;
        tasks.push(tokio::spawn(async move {
            for round in 0..200u64 {
                let token = client.cancel_token();
                let running = client.simple_query("select pg_sleep(0.002)");
                let cancel = async {
                    tokio::time::sleep(Duration::from_micros((round * 37 + i * 500) % 3000)).await;
                    token.cancel_query(NoTls).await.unwrap();
                };
                let (outcome, ()) = tokio::join!(running, cancel);
                if let Err(error) = outcome {
                    assert_eq!(code(&error), "57014");
                }
            }
        }));
    }
    let witnesses = [stage.connect("globex").await, stage.connect("t1").await];
    let mut rounds = 0;
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        for (client, tenant) in witnesses.iter().zip(["globex", "t1"]) {
            let row = client.query_one("select pgward.tenant() from pg_sleep(0.001)", &[]).await;
            let row = row.unwrap_or_else(|error| panic!("{tenant} was hit after {rounds} rounds: {error:?}"));
            assert_eq!(row.get::<_, String>(0), tenant);
        }
        rounds += 1;
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(rounds > 5, "{rounds}");
    assert!(stage.metric("pgward_cancels_total").await > 20.0);
}

// ------------------------------------------------------------------------------------------ draining

#[tokio::test]
async fn draining_lets_a_transaction_finish_and_tells_the_idle() {
    let mut stage = Stage::new("").await;
    let (mut idle, mut open, mut running) =
        (stage.raw("acme").await, stage.raw("acme").await, stage.raw("globex").await);
    open.query("begin").await;
    running.send(query("select 'finished' from pg_sleep(0.5)")).await;
    until("the statement's start", async || {
        stage.control.clients().await.iter().filter(|client| client.phase.as_str() == "active").count() == 1
    })
    .await;
    stage.control.shutdown();
    let told = idle.rest().await;
    assert_eq!(errors(&told), ["57P01"]);
    assert_eq!(open.one("select 'still open'").await, "still open");
    assert_eq!(gists(&open.query("commit").await), ["C COMMIT\0", "Z I"]);
    assert_eq!(errors(&open.rest().await), ["57P01"]);
    let messages = running.rest().await;
    assert_eq!(gists(&messages)[1], "D finished");
    assert_eq!(errors(&messages), ["57P01"]);
    stage.stopped.take().unwrap().await.unwrap();
    assert!(tokio::net::TcpStream::connect(stage.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_transaction_that_outlasts_the_drain_is_ended_and_rolled_back() {
    let head = HEAD.replace("drain_timeout = \"5s\"", "drain_timeout = \"300ms\"");
    let text = configuration(cluster().await.primary().port(), "");
    let mut stage = Stage::with(&format!("{head}{text}")).await;
    let (watch, mut open) = (watch().await, stage.raw("t6").await);
    let pid = pid(&mut open).await;
    open.query("begin; insert into orders (item) values ('drained')").await;
    stage.control.shutdown();
    assert_eq!(errors(&open.rest().await), ["57P01"]);
    stage.stopped.take().unwrap().await.unwrap();
    in_state(&watch, &pid, "gone").await;
    assert_eq!(one(&watch, "select count(*) from orders where item = 'drained'").await, "0");
}

// --------------------------------------------------------------------------------- state of a session

#[tokio::test]
async fn prepared_statements_follow_their_sessions_over_fewer_backends() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let mut tasks = Vec::new();
    for i in 0..12i32 {
        let tenant = ["acme", "globex", "t1"][usize::try_from(i).unwrap() % 3];
        let client = stage.connect(tenant).await;
        tasks.push(tokio::spawn(async move {
            // The first is the same for all, the second is each client's own.
            let shared = client.prepare("select pgward.tenant(), $1::int").await.unwrap();
            let own = client.prepare(&format!("select {i} + $1::int")).await.unwrap();
            for n in 0..40 {
                let row = client.query_one(&shared, &[&n]).await.unwrap();
                assert_eq!((row.get::<_, String>(0).as_str(), row.get::<_, i32>(1)), (tenant, n));
                assert_eq!(client.query_one(&own, &[&n]).await.unwrap().get::<_, i32>(0), i + n);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    stage.at_rest(0).await;
}

#[tokio::test]
async fn a_description_that_came_late_was_taken_for_the_statement_that_had_replaced_its_own() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    let (mut raw, mut other) = (stage.raw("acme").await, stage.raw("globex").await);
    for name in ["", "named"] {
        raw.send(
            [
                parse(name, "select generate_series(1, 3)"),
                describe('S', name),
                close('S', name),
                parse(name, "select 'a'"),
                sync(),
            ]
            .concat(),
        )
        .await;
        assert_eq!(errors(&raw.ready().await), [""; 0]);
        // On a backend that another had meanwhile, the statement is made anew.
        other.query("select 1").await;
        raw.send([bind("", name, &[]), execute("", 0), sync()].concat()).await;
        assert_eq!(gists(&raw.ready().await), ["2", "D a", "C SELECT 1\0", "Z I"], "{name:?}");
    }
}

#[tokio::test]
async fn the_unnamed_statement_outlives_its_sync_on_whatever_backend() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let (mut raw, mut other, mut holder) = (stage.raw("acme").await, stage.raw("globex").await, stage.raw("t1").await);
    raw.send([parse("", "select 'mine ' || pgward.tenant()"), describe('S', ""), sync()].concat()).await;
    raw.ready().await;
    for round in 0..6 {
        if round % 2 == 0 {
            holder.query("begin").await;
        }
        other.query("select 1").await;
        raw.send([bind("", "", &[]), execute("", 0), sync()].concat()).await;
        assert_eq!(gists(&raw.ready().await), ["2", "D mine acme", "C SELECT 1\0", "Z I"]);
        if round % 2 == 1 {
            holder.query("commit").await;
        }
    }
    raw.query("select 1").await;
    raw.send([bind("", "", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(errors(&raw.ready().await), ["26000"], "a simple query drops it, as in PostgreSQL");
}

#[tokio::test]
async fn what_a_session_sets_is_its_own() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let (mut one_, mut two) = (stage.raw("acme").await, stage.raw("acme").await);
    for set in ["set statement_timeout = '7s'", "select set_config('statement_timeout', '7s', false)"] {
        assert!(errors(&one_.query(set).await).is_empty());
        for _ in 0..4 {
            assert_eq!(one_.one("show statement_timeout").await, "7s");
            assert_eq!(two.one("show statement_timeout").await, "0");
        }
        drop(std::mem::replace(&mut one_, stage.raw("acme").await));
        stage.at_rest(2).await;
        for _ in 0..3 {
            assert_eq!(one_.one("show statement_timeout").await, "0", "{set} went with its session");
            assert_eq!(two.one("show statement_timeout").await, "0");
        }
    }
    one_.query("begin; set local statement_timeout = '7s'; commit").await;
    assert_eq!(one_.one("show statement_timeout").await, "0");
    assert!(stage.control.clients().await.iter().all(|client| client.pinned.is_none()), "SET LOCAL pins nobody");
}

#[tokio::test]
async fn a_temporary_table_and_a_lock_last_as_long_as_their_session() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let (mut one_, mut two) = (stage.raw("acme").await, stage.raw("acme").await);
    one_.query("create temp table orders as select 'shadow' as item").await;
    assert_eq!(one_.one("select pg_try_advisory_lock(4711)").await, "t");
    for _ in 0..3 {
        assert_eq!(one_.one("select item from orders").await, "shadow");
        assert_eq!(two.one("select count(*) from orders").await, "100");
        assert_eq!(two.one("select pg_try_advisory_xact_lock(4711)").await, "f");
    }
    let pinned: Vec<_> = stage.control.clients().await.iter().map(|client| client.pinned).collect();
    assert!(pinned.contains(&Some("temporary_table")), "{pinned:?}");
    drop(one_);
    stage.at_rest(1).await;
    assert_eq!(two.one("select pg_try_advisory_xact_lock(4711)").await, "t");
    let mut three = stage.raw("acme").await;
    for raw in [&mut two, &mut three] {
        assert_eq!(raw.one("select count(*) from orders").await, "100", "nobody is left with the shadow");
    }
}

#[tokio::test]
async fn notifications_reach_the_session_that_listens_and_no_other() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let url = stage.url("acme", "app");
    let (listener, mut connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message {
                sender.send(notification.payload().to_owned()).unwrap();
            }
        }
    });
    listener.simple_query("listen news").await.unwrap();
    let mut notifier = stage.raw("acme").await;
    for i in 0..3 {
        let messages = notifier.query(&format!("notify news, 'item {i}'")).await;
        assert!(messages.iter().all(|message| message.tag != b'A'), "the notifier does not listen");
        // It comes without the listener's asking.
        let item = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await.unwrap().unwrap();
        assert_eq!(item, format!("item {i}"));
    }
    drop(listener);
    stage.at_rest(1).await;
    for _ in 0..3 {
        let messages = notifier.query("notify news, 'late'").await;
        assert!(messages.iter().all(|message| message.tag != b'A'), "nobody listens any more");
    }
}

// ------------------------------------------------------------------------------------------ much data

/// What it takes of memory is looked at in tests/streaming.rs, in a process that does nothing else.
#[tokio::test]
async fn much_data_arrives_whole_beside_a_client_that_does_not_read() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let mut raw = stage.raw("kandy").await;
    // A client that does not read its result holds up its own session only.
    let mut lazy = stage.raw("kandy").await;
    lazy.send(query("select repeat('x', 1000) from generate_series(1, 200000)")).await;
    assert_eq!(lazy.next().await.unwrap().tag, b'T');

    raw.send(query("select repeat('x', 1000) from generate_series(1, 200000)")).await;
    let (mut rows, mut bytes) = (0, 0);
    loop {
        let message = raw.next().await.unwrap();
        rows += usize::from(message.tag == b'D');
        bytes += message.body.len();
        if message.tag == b'Z' {
            break;
        }
    }
    assert!(rows == 200_000 && bytes > 200_000_000, "{rows} rows, {bytes} bytes");

    // 20 MB of query, sent piece by piece.
    let (front, back) = (b"select length('", b"')\0");
    let chunk = vec![b'y'; 1 << 16];
    let mut header = vec![b'Q'];
    header.extend(u32::try_from(4 + front.len() + 320 * chunk.len() + back.len()).unwrap().to_be_bytes());
    raw.send([&header[..], front].concat()).await;
    for _ in 0..320 {
        raw.send(&chunk).await;
    }
    raw.send(back).await;
    assert_eq!(gists(&raw.ready().await)[1], format!("D {}", 320 << 16));

    // 50 MB of COPY, in a table that goes with the transaction.
    raw.query("begin").await;
    raw.query("create temp table t (a text) on commit drop").await;
    raw.send(query("copy t from stdin")).await;
    raw.until(|message| message.tag == b'G').await;
    let piece = copy_data(&[&[b'z'; 9_999][..], b"\n"].concat().repeat(5));
    for _ in 0..1_000 {
        raw.send(&piece).await;
    }
    raw.send(copy_done()).await;
    assert_eq!(gists(&raw.ready().await)[0], "C COPY 5000\0");
    assert_eq!(raw.one("select sum(length(a)) from t").await, (5_000 * 9_999).to_string());
    raw.query("rollback").await;

    drop(lazy);
    drop(raw);
    stage.at_rest(0).await;
}

/// The server's error ends the COPY while the client is in the middle of a message: what is left of it still
/// belongs to that backend.
#[tokio::test]
async fn a_message_cut_by_the_end_of_its_copy_is_finished_before_the_backend_is_lent() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut copier = stage.raw("kandy").await;
    copier.query("drop table if exists cut; create table cut (a int)").await;
    copier.send(query("copy cut from stdin")).await;
    copier.until(|message| message.tag == b'G').await;
    let long = copy_data(&[b'x'; 100]);
    copier.send([&copy_data(b"bad\n"), long.get(..5).unwrap()].concat()).await;
    assert_eq!(errors(&copier.ready().await), ["22P02"]);
    let mut other = stage.raw("kandy").await;
    other.send(query("select 'own answer'")).await;
    copier.send(long.get(5..).unwrap()).await;
    assert!(gists(&other.ready().await).contains(&"D own answer".to_owned()));
    assert_eq!(copier.one("select count(*) from cut").await, "0");
}

#[tokio::test]
async fn copying_by_a_driver_works_both_ways() {
    let stage = Stage::new(ONE_BACKEND).await;
    let kandy = stage.connect("kandy").await;
    let neighbour = stage.connect("globex").await;
    let sink = kandy.copy_in("copy orders (item) from stdin").await.unwrap();
    let mut sink = Box::pin(sink);
    for i in 0..1000 {
        sink.send(bytes::Bytes::from(format!("copied {i}\n"))).await.unwrap();
    }
    assert_eq!(sink.as_mut().finish().await.unwrap(), 1000);
    assert_eq!(one(&neighbour, "select pgward.tenant()").await, "globex");
    let stream = kandy.copy_out("copy (select item from orders where item like 'copied %') to stdout").await.unwrap();
    let pieces: Vec<_> = Box::pin(stream).map(Result::unwrap).collect().await;
    assert_eq!(pieces.concat().iter().filter(|byte| **byte == b'\n').count(), 1000);
    kandy.simple_query("delete from orders where item like 'copied %'").await.unwrap();
}
