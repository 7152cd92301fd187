//! Sessions that listen share one backend, and none of them notices.

mod support;

use support::raw::{Raw, bind, close, describe, errors, execute, extended, gists, parse, query, sync};
use support::{HEAD, Stage, cluster, configuration, one, until};

const TWO_BACKENDS: &str = "[pool]\nmax_per_login = 2\n";

/// Reads until a notification with this payload has come, and gives channels and payloads of all.
async fn until_heard(raw: &mut Raw, last: &str) -> Vec<String> {
    let messages = raw.until(|message| message.tag == b'A' && text(message).ends_with(last)).await;
    messages.iter().filter(|message| message.tag == b'A').map(text).collect()
}

/// Channel and payload.
fn text(message: &support::raw::Message) -> String {
    let texts: Vec<_> = message.body[4..].split(|byte| *byte == 0).take(2).map(String::from_utf8_lossy).collect();
    texts.join(" ")
}

/// The process of the one backend that listens, if there is one.
async fn listening_backend(stage: &Stage) -> Option<u32> {
    let backends = stage.control.backends().await;
    let listening: Vec<u32> = backends.iter().filter(|backend| backend.listens).map(|backend| backend.pid).collect();
    assert!(listening.len() <= 1, "{backends:?}");
    listening.first().copied()
}

/// A tenant with a database of its own on the stage's cluster: the configuration's part.
async fn database_of_its_own(tenant: &str) -> String {
    let server = cluster().await.primary();
    let create = format!("create role {tenant} login password 'listens'");
    server.connect("postgres").await.unwrap().batch_execute(&create).await.unwrap();
    server.run("postgres", "create the database", &format!("create database {tenant}")).await.unwrap();
    format!(
        "[tenants.{tenant}]\nisolation = \"database\"\ncluster = \"main\"\ndatabase = \"{tenant}\"\nhome = \"lk\"\nroles.app = {{ role = \"{tenant}\", password = \"listens\" }}\n"
    )
}

#[tokio::test]
async fn many_listeners_share_a_backend_and_hear_everything_once_and_in_order() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let mut listeners = Vec::new();
    for i in 0..24 {
        let mut raw = stage.raw("acme").await;
        if i % 2 == 0 {
            assert_eq!(gists(&raw.query("LISTEN news").await), ["C LISTEN\0", "Z I"]);
        } else {
            raw.send([extended("listen news"), sync()].concat()).await;
            assert_eq!(gists(&raw.ready().await), ["1", "2", "C LISTEN\0", "Z I"]);
        }
        listeners.push(raw);
    }
    let mut stranger = stage.raw("globex").await;
    stranger.query("listen news").await;
    assert!(stage.control.clients().await.iter().all(|client| client.pinned.is_none()));
    let backends = stage.control.backends().await;
    assert_eq!(backends.iter().filter(|backend| backend.listens).count(), 1);
    let server = cluster().await.primary().connect("app").await.unwrap();
    let shown = "select count(*) from pg_stat_activity where query ~* 'listen +\"' and pid <> pg_backend_pid()";
    assert_eq!(one(&server, shown).await, "0", "nobody is shown a channel's name");
    let mut sender = stage.raw("acme").await;
    for i in 0..500 {
        sender.query(&format!("notify news, '{i}'")).await;
        // Some go on working all the while.
        let busy = &mut listeners[i % 5];
        busy.send(query("select 1")).await;
    }
    let expected: Vec<String> = (0..500).map(|i| format!("news {i}")).collect();
    for raw in &mut listeners {
        assert_eq!(until_heard(raw, " 499").await, expected);
    }
    let mut strange_sender = stage.raw("globex").await;
    strange_sender.query("notify news, 'own'").await;
    assert_eq!(until_heard(&mut stranger, "own").await, ["news own"]);
}

#[tokio::test]
async fn what_is_not_listened_to_any_more_is_not_heard() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let (mut raw, mut sender) = (stage.raw("t1").await, stage.raw("t1").await);
    let ends = [
        "unlisten a",
        "UNLISTEN *; ",
        "select pg_advisory_unlock_all(); close all; unlisten *; reset all",
        "begin; unlisten a; commit",
        "discard all",
    ];
    for end in ends {
        raw.query("listen a; listen b").await;
        assert_eq!(errors(&raw.query(end).await), [""; 0], "{end}");
        raw.query("listen b").await;
        sender.query("notify a, 'unheard'; notify b, 'heard'").await;
        assert_eq!(until_heard(&mut raw, "heard").await, ["b heard"], "{end}");
        raw.query("unlisten *").await;
    }
    raw.query("listen a").await;
    raw.query("begin; unlisten a; rollback").await;
    sender.query("notify a, 'still there'").await;
    assert_eq!(until_heard(&mut raw, "there").await, ["a still there"]);
    // Prepared, and used in a transaction as well.
    raw.send([parse("l", "listen c"), describe('S', "l"), sync()].concat()).await;
    assert_eq!(gists(&raw.ready().await), ["1", "t", "n", "Z I"]);
    raw.send([bind("", "l", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(gists(&raw.ready().await), ["2", "C LISTEN\0", "Z I"]);
    sender.query("notify c, 'aside'").await;
    until_heard(&mut raw, "aside").await;
    raw.query("unlisten *").await;
    raw.query("begin").await;
    raw.send([bind("", "l", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(gists(&raw.ready().await), ["2", "C LISTEN\0", "Z T"]);
    raw.query("commit").await;
    sender.query("notify c, 'on its own backend'").await;
    until_heard(&mut raw, "backend").await;
    raw.send([close('S', "l"), sync()].concat()).await;
    raw.ready().await;
    raw.query("unlisten *").await;
}

#[tokio::test]
async fn notifications_wait_for_the_end_of_a_transaction() {
    let stage = Stage::new("[pool]\nmax_per_login = 3\n").await;
    let (mut raw, mut sender) = (stage.raw("t2").await, stage.raw("t2").await);
    raw.query("listen a").await;
    raw.query("begin").await;
    sender.query("notify a, 'early'").await;
    for _ in 0..20 {
        let messages = raw.query("select 1").await;
        assert!(messages.iter().all(|message| message.tag != b'A'));
    }
    raw.query("commit").await;
    assert_eq!(until_heard(&mut raw, "early").await, ["a early"]);
    // In one batch with other statements it takes a backend, and works as well.
    raw.send([extended("select 1"), extended("listen b"), sync()].concat()).await;
    assert_eq!(errors(&raw.ready().await), [""; 0]);
    sender.query("notify b, 'batch'").await;
    assert_eq!(until_heard(&mut raw, "batch").await, ["b batch"]);
    let mut first = stage.raw("t2").await;
    first.send([extended("listen b"), extended("select 1"), sync()].concat()).await;
    assert_eq!(errors(&first.ready().await), [""; 0]);
    sender.query("notify b, 'again'").await;
    assert_eq!(until_heard(&mut first, "again").await, ["b again"]);
}

#[tokio::test]
async fn listeners_are_told_when_the_backend_that_listens_is_lost() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let (mut one, mut two) = (stage.raw("kandy").await, stage.raw("kandy").await);
    one.query("listen a").await;
    two.query("listen b").await;
    let pid = listening_backend(&stage).await.unwrap();
    let server = cluster().await.primary().connect("app").await.unwrap();
    server.batch_execute(&format!("select pg_terminate_backend({pid})")).await.unwrap();
    assert_eq!(gists(&one.rest().await), ["E 08006"]);
    assert_eq!(gists(&two.rest().await), ["E 08006"]);
    let mut again = stage.raw("kandy").await;
    let mut sender = stage.raw("kandy").await;
    again.query("listen a").await;
    sender.query("notify a, 'anew'").await;
    assert_eq!(until_heard(&mut again, "anew").await, ["a anew"]);
    // The last one to go leaves nothing behind.
    drop(again);
    until("the hub's end", async || listening_backend(&stage).await.is_none()).await;
    let mut others = [stage.raw("kandy").await, stage.raw("kandy").await];
    for raw in &mut others {
        raw.query("begin").await;
    }
    for raw in &mut others {
        assert_eq!(raw.one("select count(*) from pg_listening_channels()").await, "0");
    }
}

#[tokio::test]
async fn a_listener_that_does_not_read_ends_and_holds_up_nobody() {
    let stage = Stage::new(TWO_BACKENDS).await;
    let (mut deaf, mut raw) = (stage.raw("t3").await, stage.raw("t3").await);
    deaf.query("listen flood").await;
    raw.query("listen flood").await;
    let mut sender = stage.raw("t3").await;
    let many = "select count(pg_notify('flood', i || repeat('x', 7000))) from generate_series(1, 2000) i";
    for round in 0..3 {
        let reads = async {
            for _ in 0..2000 {
                assert_eq!(raw.next().await.expect("the one that reads hears all").tag, b'A', "round {round}");
            }
        };
        let (sent, ()) = tokio::join!(sender.query(many), reads);
        assert_eq!(errors(&sent), [""; 0]);
    }
    // What was written to its socket before is still to be read.
    let last = deaf.rest().await;
    assert!(last.len() < 6000, "{}", last.len());
    until("the session is gone", async || stage.control.client_count() == 2).await;
}

#[tokio::test]
async fn one_backend_alone_is_kept_by_its_listener() {
    let own = database_of_its_own("lone").await;
    let one_backend = "[pool]\nmax_per_login = 1\n";
    let text = format!("{HEAD}{}{own}", configuration(cluster().await.primary().port(), one_backend));
    let stage = Stage::with(&text).await;
    let mut raw = stage.raw("lone").await;
    raw.query("listen a").await;
    assert_eq!(stage.control.clients().await[0].pinned, Some("listen"));
    raw.query("notify a, 'own'; unlisten a").await;
    raw.query("select 1").await;
    assert_eq!(stage.control.clients().await[0].pinned, None);
    // Where tenants share the database, another login of pgward's listens.
    let mut shared = stage.raw("t4").await;
    shared.query("listen a").await;
    shared.query("notify a, 'by the hub'").await;
    assert_eq!(until_heard(&mut shared, "hub").await, ["a by the hub"]);
    assert!(stage.control.clients().await.iter().all(|client| client.pinned.is_none()));
}

#[tokio::test]
async fn where_a_database_is_a_tenants_own_channels_have_their_own_names() {
    let own = database_of_its_own("own").await;
    let stage =
        Stage::with(&format!("{HEAD}{}{own}", configuration(cluster().await.primary().port(), TWO_BACKENDS))).await;
    let (mut raw, mut sender) = (stage.raw("own").await, stage.raw("own").await);
    raw.query("listen \"Odd \"\"Name\"").await;
    sender.query("do $$ begin perform pg_notify('Odd \"Name', 'from within'); end $$").await;
    assert_eq!(until_heard(&mut raw, "within").await, ["Odd \"Name from within"]);
    raw.query("RESET pgward.token").await;
    sender.query("notify \"Odd \"\"Name\", 'to nobody'").await;
    raw.query(&format!("SET pgward.token = '{}'", stage.token("own", "app"))).await;
    raw.query("listen b").await;
    sender.query("notify b, 'heard'").await;
    assert_eq!(until_heard(&mut raw, "heard").await, ["b heard"]);
}

#[tokio::test]
async fn a_notification_that_has_to_wait_costs_nothing_meanwhile() {
    let stage = Stage::new("[pool]\nmax_per_login = 3\n").await;
    let (mut raw, mut sender) = (stage.raw("t5").await, stage.raw("t5").await);
    raw.query("listen a").await;
    raw.query("begin").await;
    sender.query("notify a, 'early'").await;
    let spent = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // What other tests of this process spend is counted too, so the calmest second decides; who spins is never calm.
    let mut calmest = u64::MAX;
    for _ in 0..30 {
        let before = spent();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        calmest = calmest.min(spent() - before);
        if calmest < 30 {
            break;
        }
    }
    assert!(calmest < 30, "{calmest} ticks of 10 ms in the calmest second of waiting");
    raw.query("commit").await;
    until_heard(&mut raw, "early").await;
}

#[tokio::test]
async fn who_listens_both_ways_hears_once() {
    let stage = Stage::new("[pool]\nmax_per_login = 3\n").await;
    let (mut raw, mut sender) = (stage.raw("t6").await, stage.raw("t6").await);
    raw.query("listen a").await;
    raw.query("begin; listen a; commit").await;
    for i in 0..5 {
        sender.query(&format!("notify a, '{i}'")).await;
    }
    sender.query("notify a, 'end'").await;
    let heard = until_heard(&mut raw, "end").await;
    assert_eq!(heard, ["a 0", "a 1", "a 2", "a 3", "a 4", "a end"]);
}

#[tokio::test]
async fn listeners_leave_a_server_most_of_its_backends() {
    let text = format!("{HEAD}{}", configuration(cluster().await.primary().port(), TWO_BACKENDS));
    let stage = Stage::with(&text.replace("max_backends = 60", "max_backends = 2")).await;
    let (mut one, mut two) = (stage.raw("t7").await, stage.raw("kandy").await);
    one.query("listen a").await;
    assert_eq!(stage.control.clients().await.iter().filter(|client| client.pinned == Some("listen")).count(), 1);
    assert_eq!(two.one("select 1").await, "1");
    // Its name stays known however many others it tells.
    let mut stage_with_room = Stage::new(TWO_BACKENDS).await;
    stage_with_room.stopped.take();
    let mut raw = stage_with_room.raw("t8").await;
    let mut sender = stage_with_room.raw("t8").await;
    raw.query("listen kept").await;
    for chunk in 0..11 {
        let many: String = (0..1000).map(|i| format!("notify c{chunk}x{i};")).collect();
        assert_eq!(errors(&raw.query(&many).await), [""; 0]);
    }
    sender.query("notify kept, 'still'").await;
    until_heard(&mut raw, "still").await;
}
