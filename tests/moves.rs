//! Sessions go on at another of pgward's threads: they keep what they have, and nothing that ends sessions misses them.

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgward::base::{Party, TenantId};
use pgward::session::{Command, Kick};
use support::raw::{Raw, bind, cancel_request, describe, execute, gists, parse, pause, sync, tags};
use support::{Stage, cluster, until};
use tokio::net::TcpStream;

/// Takes the first core's attention: whoever logs in while this one has said nothing does so at the second.
async fn silent(stage: &Stage) -> TcpStream {
    let cores = &stage.control.cores;
    let logins = async || cores.iter().map(|core| core.logins.load(Ordering::Relaxed)).collect::<Vec<_>>();
    // A login is over a moment after its client has been told.
    until("the end of other logins", async || logins().await == [0, 0]).await;
    let silent = TcpStream::connect(stage.address).await.unwrap();
    until("the silent one's login", async || logins().await == [1, 0]).await;
    silent
}

async fn moved(stage: &Stage) -> f64 {
    stage.metric("pgward_sessions_moved_total").await
}

/// Has the session do something now and then until it, or another, has moved since so many had.
async fn until_it_moves(stage: &Stage, before: f64, session: &mut Raw) {
    let begin = Instant::now();
    while moved(stage).await <= before {
        assert!(begin.elapsed() < Duration::from_secs(60), "no session moves");
        assert_eq!(session.one("select 1").await, "1");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_moves_keeps_its_settings_and_statements() {
    let stage = Stage::new("").await;
    let _silent = silent(&stage).await;
    let before = moved(&stage).await;
    let mut session = stage.raw("acme").await;
    let prepared = parse("of_amount", "select item from orders where amount = $1");
    session.send([prepared, parse("", "select $1 || '!'"), sync()].concat()).await;
    session.ready().await;
    session.query("set app.note = 'kept'; set work_mem = '7MB'").await;
    session.query("prepare mine as select pgward.tenant()").await;
    session.send([parse("", "select $1 || '!'"), sync()].concat()).await;
    session.ready().await;
    // By the protocol alone, since a simple query would drop the statement without a name.
    let ask = |statement: &str, value: &str| [bind("", statement, &[value]), execute("", 0), sync()].concat();
    while moved(&stage).await <= before {
        session.send(ask("", "still here")).await;
        assert_eq!(gists(&session.ready().await)[1], "D still here!");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    session.send(ask("", "and here")).await;
    assert_eq!(gists(&session.ready().await)[1], "D and here!");
    session.send(ask("of_amount", "7")).await;
    assert_eq!(gists(&session.ready().await)[1], "D acme 7");
    assert_eq!(session.one("show app.note").await, "kept");
    assert_eq!(session.one("show work_mem").await, "7MB");
    assert_eq!(session.one("execute mine").await, "acme");
}

/// Where it goes on, backends may have the same statement from before a table was altered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_moved_was_answered_by_a_statement_from_before_a_change() {
    let stage = Stage::new("").await;
    let server = cluster().await.primary().connect("app").await.unwrap();
    server.batch_execute("set role kandy; create table kandy.moving as select 1 as a; reset role").await.unwrap();
    let prepare = [parse("s", "select * from moving"), describe('S', "s"), sync()].concat();
    let mut resident = stage.raw("kandy").await;
    let _silent = silent(&stage).await;
    // At the other core, which it may leave at any moment from now on.
    let before = moved(&stage).await;
    let mut session = stage.raw("kandy").await;
    resident.send(&prepare).await;
    assert_eq!(tags(&resident.ready().await), "1tTZ");
    server.batch_execute("alter table kandy.moving add b int default 2").await.unwrap();
    session.send(&prepare).await;
    assert_eq!(tags(&session.ready().await), "1tTZ");
    until_it_moves(&stage, before, &mut session).await;
    session.send([bind("", "s", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(gists(&session.ready().await), ["2", "D 1,2", "C SELECT 1\0", "Z I"]);
    server.batch_execute("drop table kandy.moving").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_request_finds_a_session_that_has_moved() {
    let stage = Stage::new("").await;
    let _silent = silent(&stage).await;
    let before = moved(&stage).await;
    let mut session = Raw::connect(stage.address).await;
    let parameters = [("user", "acme"), ("database", "app")];
    let messages = session.log_in(support::raw::V3_0, &parameters, &stage.token("acme", "app")).await;
    let key = messages.iter().find(|message| message.tag == b'K').unwrap().body.clone();
    until_it_moves(&stage, before, &mut session).await;
    session.send(support::raw::query("select pg_sleep(30)")).await;
    pause().await;
    let pid = u32::from_be_bytes(key[..4].try_into().unwrap());
    Raw::connect(stage.address).await.send(cancel_request(pid, &key[4..])).await;
    assert_eq!(support::raw::errors(&session.ready().await), ["57014"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_that_moves_escapes_the_end_of_all() {
    let stage = Stage::new("").await;
    let _silent = silent(&stage).await;
    // By then the second core sends on whoever logs in there.
    let before = moved(&stage).await;
    until_it_moves(&stage, before, &mut stage.raw("acme").await).await;
    let (acme, before) = (TenantId::parse("acme").unwrap(), moved(&stage).await);
    let parties = Arc::new(HashSet::from([Party::Tenant(acme)]));
    for _ in 0..200 {
        let mut session = stage.raw("acme").await;
        for core in stage.control.cores.iter() {
            core.send(Command::KickOf(Arc::clone(&parties), Kick::Suspended));
        }
        let messages = tokio::time::timeout(Duration::from_secs(5), session.rest()).await;
        let messages = messages.expect("a session that moved while all were ended goes on");
        assert_eq!(support::raw::errors(&messages).len(), 1, "{messages:?}");
    }
    assert!(moved(&stage).await > before);
}
