//! pgward in front of a cluster that Patroni looks after: three servers, synchronous replication, an etcd. In one test
//! pgward knows one URL of Patroni's REST API and no server, in the other the servers and nothing of Patroni.

mod support;

#[path = "patroni/clients.rs"]
mod clients;
#[path = "patroni/place.rs"]
mod place;

use std::cell::Cell;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use clients::{Clients, Kind, Told, verify};
use place::{Patroni, TTL};
use support::replicated::{behind_patroni, in_front_of, shown};
use support::{LONG, Stage, connect, eventually, furnish_server, one, until};
use tokio_postgres::Client;

/// For how long clients write.
const WRITING: Duration = Duration::from_secs(60);
/// Until the leader is killed.
const BEFORE: Duration = Duration::from_secs(5);
/// From another leader until the one that was killed comes back.
const BETWEEN: Duration = Duration::from_secs(3);
/// For Patroni to elect and to promote once the leader's lock has run out, and for pgward to find out.
const ELECTION: Duration = Duration::from_secs(15);

/// The cluster is for one test after the other. It goes with the last that wants it.
static SHARED: Mutex<Weak<Shared>> = Mutex::new(Weak::new());
type Shared = tokio::sync::Mutex<Option<Patroni>>;

async fn with_patroni(test: impl AsyncFnOnce(&mut Patroni)) {
    let shared = shared();
    let mut slot = shared.lock().await;
    let mut patroni = match slot.take() {
        Some(patroni) => patroni,
        None => patroni().await,
    };
    // A panic drops it, and another test has one of its own.
    test(&mut patroni).await;
    *slot = Some(patroni);
}

fn shared() -> Arc<Shared> {
    let mut shared = SHARED.lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let fresh = Arc::default();
        *shared = Arc::downgrade(&fresh);
        fresh
    })
}

async fn patroni() -> Patroni {
    let begin = Instant::now();
    let patroni = Patroni::start("patroni", async |port, password| {
        let url = |database: &str| format!("postgresql://postgres:{password}@127.0.0.1:{port}/{database}");
        furnish_server(port, url).await;
        let sql = "create function where_am_i() returns int language sql stable as 'select inet_server_port()'";
        connect(&url("app")).await.unwrap().batch_execute(sql).await.unwrap();
    })
    .await;
    println!("the cluster was there after {:?}", begin.elapsed());
    patroni
}

/// Waiting has to last longer than an election does.
const RULES: &str = "failover_timeout = \"60s\"\nslow_start = \"1s\"";

/// Who leads, once somebody does who is not this one.
async fn another_leader(patroni: &Patroni, old: Option<usize>) -> usize {
    let found = Cell::new(None);
    eventually("another leader", TTL + ELECTION, async || {
        found.set(patroni.leader().await.filter(|at| Some(*at) != old));
        found.get().is_some()
    })
    .await;
    found.get().unwrap()
}

/// Waits until a read is served by this node.
async fn serves_reads(client: &Client, port: u16) {
    let port = port.to_string();
    until("a read from the node", async || one(client, "select where_am_i()").await == port).await;
}

/// Only what says that the server went or is not there yet, or to try again; and what is said not to have been done was not.
fn assert_told(told: &Told) {
    for (code, (_, there)) in told {
        let expected = ["08006", "08007", "57P01", "57P03"].contains(&code.as_str()) || code.starts_with("40");
        assert!(expected, "{told:?}");
        assert!(code == "08007" || *there == 0, "{code} was said of a write that is there: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_follow_what_patroni_decides_and_nothing_that_was_acknowledged_is_lost() {
    with_patroni(a_leader_is_killed).await;
}

async fn a_leader_is_killed(patroni: &mut Patroni) {
    let first = another_leader(patroni, None).await;
    // Whose API will be gone.
    let stage = Arc::new(behind_patroni(&[patroni.nodes[first].api], RULES).await);
    let idle = [stage.connect("acme").await, stage.connect("globex").await];
    for client in &idle {
        assert_eq!(one(client, "select count(*) from orders").await, "100");
    }
    let writers = Clients::start(&stage, Kind::Write, (0..8).map(|i| format!("t{i}")));
    let readers = Clients::start(&stage, Kind::Read, (10..12).map(|i| format!("t{i}")));
    let begin = Instant::now();
    tokio::time::sleep(BEFORE).await;
    let old = another_leader(patroni, None).await;
    patroni.kill(old);
    let (killed, before) = (Instant::now(), writers.pace.count());
    let new = another_leader(patroni, Some(old)).await;
    println!("another leader ran {:?} after the leader was killed", killed.elapsed());
    eventually("a write to the new leader", ELECTION, async || writers.pace.count() > before + 8).await;
    println!("writes went on {:?} after the leader was killed", killed.elapsed());
    assert_eq!(shown(&stage, &patroni.nodes[new].name).await, ["primary", "up", "yes"]);
    let reader = stage.connect("t49").await;
    serves_reads(&reader, patroni.nodes[3 - old - new].port).await;
    println!("the replica that is left served a read {:?} after the leader was killed", killed.elapsed());

    tokio::time::sleep(BETWEEN).await;
    let back = Instant::now();
    patroni.launch(old);
    eventually("the killed one's return", 2 * LONG, async || patroni.follows(old).await).await;
    println!("the killed one was a replica {:?} after its Patroni was started again", back.elapsed());
    serves_reads(&reader, patroni.nodes[old].port).await;
    println!("it served a read {:?} after its Patroni was started again", back.elapsed());
    tokio::time::sleep(WRITING.saturating_sub(begin.elapsed())).await;
    over(patroni, &stage, [writers, readers]).await;
    for client in &idle {
        assert_eq!(one(client, "select count(*) from orders").await, "100", "a session that was idle goes on");
        client.batch_execute("insert into orders (item) values ('idle')").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_a_switchover_between_pause_and_resume() {
    with_patroni(a_leader_hands_over).await;
}

async fn a_leader_hands_over(patroni: &mut Patroni) {
    patroni.complete().await;
    let servers: Vec<(&str, u16)> = patroni.nodes.iter().map(|node| (node.name.as_str(), node.port)).collect();
    let stage = Arc::new(in_front_of(&servers, "", RULES, &[]).await);
    let console = stage.console().await;
    let writers = Clients::start(&stage, Kind::Write, (20..28).map(|i| format!("t{i}")));
    let readers = Clients::start(&stage, Kind::Read, (30..32).map(|i| format!("t{i}")));
    until("writes", async || writers.pace.count() > 1_000).await;
    let old = another_leader(patroni, None).await;
    let begin = Instant::now();
    console.simple_query("PAUSE CLUSTER main").await.unwrap();
    println!("PAUSE took {:?}", begin.elapsed());
    patroni.switchover().await;
    let new = &patroni.nodes[another_leader(patroni, Some(old)).await].name;
    until("what pgward knows of it", async || shown(&stage, new).await == ["primary", "up", "yes"]).await;
    println!("another leader ran {:?} after PAUSE", begin.elapsed());
    console.simple_query("RESUME CLUSTER main").await.unwrap();
    let before = writers.pace.count();
    until("writes to the new leader", async || writers.pace.count() > before + 1_000).await;
    // The one that led comes back while they write.
    patroni.complete().await;
    for told in over(patroni, &stage, [writers, readers]).await {
        assert_eq!(told, Told::new(), "somebody noticed");
    }
}

/// Stops clients that write and clients that read, and looks at what became of their work.
async fn over(patroni: &Patroni, stage: &Stage, [writers, readers]: [Clients; 2]) -> [Told; 2] {
    let (longest, count) = (writers.pace.longest(), writers.pace.count());
    println!("{count} writes were acknowledged; the longest time without one was {longest:?}");
    let (pause, reads) = (readers.pace.longest(), readers.pace.count());
    println!("{reads} reads were answered; the longest time without one was {pause:?}");
    assert!(longest < TTL + ELECTION, "{longest:?}");
    assert!(pause < TTL / 2, "{pause:?} without a read, and replicas were there");
    let (written, read) = (writers.stop().await, readers.stop().await);
    let leader = another_leader(patroni, None).await;
    let leader = connect(&patroni.url(leader, "app")).await.unwrap();
    let told = [verify(&leader, &written).await, verify(&leader, &read).await];
    println!("errors of writers and of readers, and how many of such writes are there: {told:?}");
    told.iter().for_each(assert_told);
    let counts: u64 = written.iter().map(|(_, tally)| tally.reads).sum();
    let replicas = stage.metric("pgward_replica_transactions_total").await;
    println!("{counts} counts of writers' were right; replicas served {replicas} transactions");
    assert!(counts > 0 && replicas > 0.0);
    told
}
