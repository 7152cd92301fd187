//! PAUSE, DRAIN and RESUME at the console: requests wait, sessions end between transactions, and nobody gets an error for
//! what was under way.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::raw::{Raw, gists};
use support::replicated::{self, pair, shown, signal_all};
use support::{Stage, code, one, until};

/// Writes all the time until it is over; says how often.
async fn write(stage: Arc<Stage>, tenant: String, over: Arc<AtomicBool>, done: Arc<AtomicUsize>) {
    let client = stage.connect(&tenant).await;
    while !over.load(Ordering::Relaxed) {
        client.batch_execute("begin; insert into orders (item) values ('gate'); commit").await.unwrap();
        assert_eq!(one(&client, "select count(*) > 0 from orders where item = 'gate'").await, "t");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_cluster_is_paused_nothing_runs_and_nobody_gets_an_error() {
    let cluster = pair("paused").await;
    let stage = Arc::new(replicated::stage(&cluster, "", "", &[]).await);
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers: Vec<_> = (0..8)
        .map(|i| tokio::spawn(write(Arc::clone(&stage), format!("t{i}"), Arc::clone(&over), Arc::clone(&done))))
        .collect();
    let console = stage.console().await;
    let running = "select count(*)::text from pg_stat_activity where usename = 'pgward_app' and state <> 'idle'";
    for _ in 0..5 {
        let before = done.load(Ordering::Relaxed);
        until("some writes", async || done.load(Ordering::Relaxed) > before + 20).await;
        console.batch_execute("pause cluster main").await.unwrap();
        assert_eq!(replicated_held(&stage).await, "paused");
        let paused = done.load(Ordering::Relaxed);
        for server in cluster.servers() {
            let client = server.connect("postgres").await.unwrap();
            assert_eq!(one(&client, running).await, "0");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(done.load(Ordering::Relaxed), paused, "nothing runs");
        console.batch_execute("resume cluster main").await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn replicated_held(stage: &Stage) -> String {
    let rows = stage.console().await.simple_query("show clusters").await.unwrap();
    let held = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get("held").map(ToOwned::to_owned),
        _ => None,
    });
    held.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_waits_for_the_transaction_under_way_and_gives_up_in_time() {
    let stage = Arc::new(Stage::new("").await);
    let text = std::fs::read_to_string(&stage.path).unwrap();
    std::fs::write(&stage.path, text.replace("[clusters.main]\n", "[clusters.main]\nfailover_timeout = \"1s\"\n"))
        .unwrap();
    stage.control.reload().await.unwrap();
    let (open, other) = (stage.connect("acme").await, stage.connect("globex").await);
    open.batch_execute("begin; insert into orders (item) values ('open')").await.unwrap();
    let at = stage.console().await;
    let error = at.batch_execute("pause").await.unwrap_err();
    assert_eq!(code(&error), "55006");
    assert_eq!(one(&other, "select 1").await, "1", "they go on");
    let pausing = tokio::spawn(async move { at.batch_execute("pause cluster main").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waiting = tokio::spawn(async move { one(&other, "select 2").await });
    assert_eq!(one(&open, "select 3").await, "3", "a transaction under way goes on");
    assert!(!pausing.is_finished() && !waiting.is_finished());
    open.batch_execute("commit").await.unwrap();
    pausing.await.unwrap().unwrap();
    assert!(!waiting.is_finished());
    stage.console().await.batch_execute("resume").await.unwrap();
    assert_eq!(waiting.await.unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_at_a_pause_without_an_end_is_told_in_time() {
    let text = format!(
        "{}{}",
        support::HEAD,
        support::configuration(support::cluster().await.primary().port(), "[pool]\nacquire_timeout = \"1s\"\n")
    );
    let stage = Stage::with(&text).await;
    let client = stage.connect("acme").await;
    stage.console().await.batch_execute("pause tenant acme").await.unwrap();
    let begin = Instant::now();
    let error = client.simple_query("select 1").await.unwrap_err();
    assert_eq!(code(&error), "53300");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(one(&stage.connect("globex").await, "select 1").await, "1", "another tenant's go on");
    stage.console().await.batch_execute("resume tenant acme").await.unwrap();
    assert_eq!(one(&client, "select 1").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_drained_has_nobody_left_and_nobody_is_let_in() {
    let stage = Stage::new("").await;
    let (mut idle, open, other) = (stage.raw("t7").await, stage.connect("t7").await, stage.connect("globex").await);
    open.batch_execute("begin; insert into orders (item) values ('last')").await.unwrap();
    let at = stage.console().await;
    let draining = tokio::spawn(async move { at.batch_execute("drain tenant t7").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!draining.is_finished(), "a transaction is under way");
    open.batch_execute("commit").await.unwrap();
    draining.await.unwrap().unwrap();
    assert_eq!(gists(&idle.rest().await), ["E 57P01"]);
    assert!(open.simple_query("select 1").await.is_err());
    let refused = stage.try_connect(&stage.url("t7", "app")).await.err().unwrap();
    assert_eq!(code(&refused), "57P03");
    assert_eq!(one(&other, "select 1").await, "1");
    stage.console().await.batch_execute("resume tenant t7").await.unwrap();
    assert_eq!(one(&stage.connect("t7").await, "select count(*) from orders where item = 'last'").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_from_a_replica_that_is_drained_and_the_primary_cannot_be() {
    let cluster = pair("drained").await;
    let stage = replicated::stage(&cluster, "", "slow_start = \"0s\"", &[]).await;
    until("the replica", async || shown(&stage, "drained-2").await == ["replica", "up", "no"]).await;
    let client = stage.connect("acme").await;
    let console = stage.console().await;
    let by_replica = async || stage.metric("pgward_replica_transactions_total").await;
    until("a read on the replica", async || {
        one(&client, "select 1").await;
        by_replica().await > 0.0
    })
    .await;
    console.batch_execute("drain server main.drained-2").await.unwrap();
    let before = by_replica().await;
    for _ in 0..20 {
        one(&client, "select 1").await;
    }
    assert_eq!(by_replica().await, before);
    console.batch_execute("resume server main.drained-2").await.unwrap();
    until("the replica's return", async || {
        one(&client, "select 1").await;
        by_replica().await > before
    })
    .await;
    for (command, state) in [
        ("drain server main.drained-1", "55000"),
        ("pause server main.nobody", "42704"),
        ("pause cluster nowhere", "42704"),
        ("pause tenant nobody", "42704"),
        ("pause everything", "42601"),
    ] {
        assert_eq!(code(&console.batch_execute(command).await.unwrap_err()), state, "{command}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_was_under_way_when_its_tenant_was_drained_came_in() {
    let cluster = pair("entering").await;
    let stage = Arc::new(replicated::stage(&cluster, "[reads]\nroute = \"primary\"\n", "", &[]).await);
    assert_eq!(one(&stage.connect("acme").await, "select 1").await, "1");
    stage.at_rest(0).await;
    signal_all(cluster.primary(), "-STOP");
    // It tries its settings at a backend.
    let url = stage.url("t8", "app");
    let coming = tokio::spawn(async move { Raw::open_with(&url, &[("work_mem", "1MB")]).await.rest().await });
    let trying = async || stage.control.pools().await.iter().any(|(row, idle)| row.open > *idle);
    until("the login's turn", trying).await;
    let at = stage.console().await;
    let draining = tokio::spawn(async move { at.batch_execute("drain tenant t8").await });
    until("the drain", async || stage.try_connect(&stage.url("t8", "app")).await.is_err()).await;
    signal_all(cluster.primary(), "-CONT");
    assert_eq!(gists(&coming.await.unwrap()), ["E 57P01"]);
    draining.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_all_clusters_left_their_idle_backends_open() {
    let stage = Stage::new("").await;
    let client = stage.connect("acme").await;
    assert_eq!(one(&client, "select 1").await, "1");
    let open = async || stage.control.pools().await.iter().map(|(row, _)| row.open).sum::<usize>();
    assert!(open().await > 0);
    let console = stage.console().await;
    console.batch_execute("pause").await.unwrap();
    until("the end of the backends", async || open().await == 0).await;
    console.batch_execute("resume").await.unwrap();
    assert_eq!(one(&client, "select 1").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_with_settings_of_its_own_was_refused_where_a_request_waits_out_a_pause() {
    let text = "[pool]\nacquire_timeout = \"1s\"\n";
    let cluster = pair("logins").await;
    let stage = Arc::new(replicated::stage(&cluster, text, "failover_timeout = \"10s\"", &[]).await);
    assert_eq!(one(&stage.connect("acme").await, "select 1").await, "1");
    let console = stage.console().await;
    console.batch_execute("pause cluster main").await.unwrap();
    let url = stage.url("t9", "app");
    let coming =
        tokio::spawn(async move { Raw::open_with(&url, &[("work_mem", "2MB")]).await.one("show work_mem").await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!coming.is_finished());
    console.batch_execute("resume cluster main").await.unwrap();
    assert_eq!(coming.await.unwrap(), "2MB");
}
