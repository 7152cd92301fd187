//! What only reads goes to replicas, and shows what it must.

#[path = "support/log.rs"]
mod log;
mod support;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pgward::local::{Cluster, Server};
use support::raw::{Raw, bind, describe, execute, gists, parse, query, sync};
use support::replicated::{self, promote, shown, signal_all};
use support::{LONG, Stage, code, furnish, one, until};
use tokio_postgres::Client;

/// A primary with so many replicas, the tests' tenants, and what reads of the tests need.
async fn cluster(name: &str, replicas: usize) -> Cluster {
    let builder = Cluster::builder(name).setting("max_connections", "100");
    let builder = (2..2 + replicas).fold(builder, |builder, i| builder.replica(&format!("{name}-{i}")));
    let mut cluster = builder.start().await.unwrap();
    furnish(&cluster).await;
    let objects = "
        create table t (a int, b text);
        create sequence s;
        create table notes (n bigint);
        create view counted as select nextval('s') as number;
        create function random_writer() returns int language sql volatile as 'insert into notes values (1); select 1';
        create function where_am_i() returns int language sql stable as 'select inet_server_port()';
        create function note(n int) returns int language sql volatile as 'insert into notes values (n); select n';
        create operator !@ (rightarg = int, function = note);
        insert into t select n, 'x' from generate_series(1, 10) n;
        grant all on t, s, notes, counted to public;";
    cluster.primary().run("app", "make what reads need", objects).await.unwrap();
    cluster.caught_up().await.unwrap();
    cluster
}

async fn stage(cluster: &Cluster, reads: &str) -> Stage {
    let stage = replicated::stage(cluster, &format!("[reads]\n{reads}\n"), "slow_start = \"0s\"", &[]).await;
    ready(&stage, cluster).await;
    stage
}

/// Until all replicas are known to be up, and the database's functions are known.
async fn ready(stage: &Stage, cluster: &Cluster) {
    for server in cluster.replicas() {
        until("the replica", async || shown(stage, server.name()).await == ["replica", "up", "no"]).await;
    }
    let client = stage.connect("t49").await;
    let primary = cluster.primary().port();
    until("a call on a replica", async || port(&client).await != primary).await;
}

const WHERE: &str = "select where_am_i()::text";

/// Of the server that serves a read.
async fn port(client: &Client) -> u16 {
    one(client, WHERE).await.parse().unwrap()
}

/// Once the replica has come as far as what the session has done.
async fn back_at(client: &Client, at: u16) {
    until("the session's return", async || port(client).await == at).await;
}

async fn raw_back_at(session: &mut Raw, at: u16) {
    let back = async {
        while session.one(WHERE).await != at.to_string() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, back).await.expect("the session did not come back");
}

async fn delay(server: &Server, delay: &str) {
    let text = format!("alter system set recovery_min_apply_delay = '{delay}'");
    server.run("postgres", "hold the replica back", &text).await.unwrap();
    server.run("postgres", "reload", "select pg_reload_conf()").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mix_that_mostly_reads_is_mostly_served_by_replicas_and_evenly() {
    let cluster = cluster("mix", 2).await;
    let stage = Arc::new(stage(&cluster, "").await);
    let mut tasks = Vec::new();
    for i in 0..20 {
        let client = stage.connect(&format!("t{i}")).await;
        tasks.push(tokio::spawn(async move {
            let (mut served, mut wrote): (HashMap<(u16, bool), usize>, _) = (HashMap::new(), Instant::now());
            let by_name = client.prepare("select where_am_i(), count(*) from orders").await.unwrap();
            for round in 0..200 {
                if round % 20 == 0 {
                    client.execute("insert into orders (item) values ('mix')", &[]).await.unwrap();
                    wrote = Instant::now();
                }
                let long_since = wrote.elapsed() > Duration::from_millis(50);
                let port: i32 = match round % 3 {
                    0 => one(&client, WHERE).await.parse().unwrap(),
                    1 => client.query_one("select where_am_i()", &[]).await.unwrap().get(0),
                    _ => client.query_one(&by_name, &[]).await.unwrap().get(0),
                };
                *served.entry((u16::try_from(port).unwrap(), long_since)).or_default() += 1;
                // Behind a write the primary serves until servers have said how far they are, which takes some 10 ms, however
                // fast the machine is.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            served
        }));
    }
    let (mut served, mut primary) = (HashMap::<u16, usize>::new(), [0, 0]);
    let mut long_since_all = 0;
    for ((port, long_since), count) in join_all(tasks).await.into_iter().flat_map(Result::unwrap) {
        *served.entry(port).or_default() += count;
        primary[usize::from(long_since)] += if port == cluster.primary().port() { count } else { 0 };
        long_since_all += if long_since { count } else { 0 };
    }
    println!("by the primary soon after a write, and long since: {primary:?}, of {long_since_all}");
    assert!(long_since_all > 500 && primary[1] * 20 < long_since_all, "{primary:?} of {long_since_all}");
    let share = |port: u16| *served.get(&port).unwrap_or(&0) as f64 / 4_000.0;
    let replicas: Vec<f64> = cluster.replicas().iter().map(|server| share(server.port())).collect();
    println!("shares of the replicas: {replicas:?}");
    assert!(replicas.iter().sum::<f64>() >= 0.8, "{served:?}");
    assert!(replicas.iter().all(|share| *share > 0.25), "{served:?}");
    let lines = stage.metric("pgward_replica_transactions_total").await;
    assert!(lines >= 3_200.0, "{lines}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_reads_what_it_wrote_and_others_read_what_the_replica_has() {
    let cluster = cluster("delay", 1).await;
    delay(&cluster.replicas()[0], "2s").await;
    // As far behind as that is not too far.
    let stage = stage(&cluster, "max_lag = \"1m\"").await;
    let (writer, reader) = (stage.connect("acme").await, stage.connect("acme").await);
    let count = "select count(*)::text from orders where item = 'own'";
    let begin = Instant::now();
    for n in 1..=20 {
        writer.batch_execute("insert into orders (item) values ('own')").await.unwrap();
        assert_eq!(one(&writer, count).await, n.to_string());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let early = begin.elapsed() < Duration::from_millis(1_900);
    let seen: u64 = one(&reader, count).await.parse().unwrap();
    assert!(!early || seen == 0, "a session that wrote nothing reads from the replica, which has {seen} by now");
    let (primary, replica) = (cluster.primary().port(), cluster.replicas()[0].port());
    assert_eq!(port(&writer).await, primary);
    until("the writer's return to the replica", async || port(&writer).await == replica).await;
    assert!(begin.elapsed() > Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(one(&writer, count).await, "20");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_consistency_tenant_another_session_at_another_pgward_sees_it_at_once() {
    let cluster = cluster("tenant", 1).await;
    let nodes = [
        stage(&cluster, "consistency = \"tenant\"").await,
        // They know nothing of each other.
        stage(&cluster, "consistency = \"tenant\"").await,
    ];
    let (writer, reader) = (nodes[0].connect("acme").await, nodes[1].connect("acme").await);
    let count = "select count(*)::text || ' ' || where_am_i() from orders where item = 'shared'";
    let replica = cluster.replicas()[0].port().to_string();
    let mut by_replica = 0;
    for n in 1..=100 {
        writer.batch_execute("insert into orders (item) values ('shared')").await.unwrap();
        let answer = one(&reader, count).await;
        let (seen, port) = answer.split_once(' ').unwrap();
        assert_eq!(seen, n.to_string());
        by_replica += usize::from(port == replica);
    }
    assert!(by_replica >= 80, "{by_replica} of 100");
    delay(&cluster.replicas()[0], "1h").await;
    writer.batch_execute("insert into orders (item) values ('shared')").await.unwrap();
    let primary = cluster.primary().port().to_string();
    let n = Cell::new(101);
    until("a read from the primary", async || {
        let answer = one(&reader, count).await;
        let (seen, port) = answer.split_once(' ').unwrap();
        assert_eq!(seen, n.get().to_string());
        n.set(n.get() + 1);
        writer.batch_execute("insert into orders (item) values ('shared')").await.unwrap();
        port == primary
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_too_far_behind_serves_nobody_until_it_has_caught_up() {
    let cluster = cluster("lag", 1).await;
    let stage = stage(&cluster, "consistency = \"eventual\"\nmax_lag = \"500ms\"").await;
    let (primary, replica) = (cluster.primary().port(), cluster.replicas()[0].port());
    let (reader, writer) = (stage.connect("acme").await, stage.connect("acme").await);
    assert_eq!(port(&reader).await, replica);
    delay(&cluster.replicas()[0], "1h").await;
    until("the replica's lag", async || {
        writer.batch_execute("insert into orders (item) values ('lag')").await.unwrap();
        port(&reader).await == primary
    })
    .await;
    delay(&cluster.replicas()[0], "0").await;
    until("the replica's return", async || port(&reader).await == replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_refuses_is_done_by_the_primary_and_remembered() {
    let cluster = cluster("refuse", 1).await;
    let stage = stage(&cluster, "").await;
    let client = stage.connect("acme").await;
    let retries = async || stage.metric("pgward_replica_retries_total").await;
    for (text, expected) in [("select number::text from counted", "2"), ("select (!@ 7)::text", "7")] {
        back_at(&client, cluster.replicas()[0].port()).await;
        let served = async || stage.metric("pgward_replica_transactions_total").await;
        let (before, served_before) = (retries().await, served().await);
        one(&client, text).await;
        assert_eq!(retries().await, before + 1.0, "{text}");
        assert_eq!(served().await, served_before, "what was refused was not served");
        assert_eq!(one(&client, text).await, expected);
        assert_eq!(retries().await, before + 1.0, "{text} is known by now");
    }
    // By the extended protocol, prepared and not; what is answered before the refusal does not reach the client twice.
    let before = retries().await;
    let other = stage.connect("globex").await;
    back_at(&other, cluster.replicas()[0].port()).await;
    let row = other.query_one("select number, 'extended' from counted", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 3);
    let statement = other.prepare("select number + 1000 from counted").await.unwrap();
    back_at(&other, cluster.replicas()[0].port()).await;
    for n in [1_004, 1_005] {
        assert_eq!(other.query_one(&statement, &[]).await.unwrap().get::<_, i64>(0), n);
    }
    assert_eq!(retries().await, before + 2.0);
    assert_eq!(
        code(&other.simple_query("select 1 / 0").await.unwrap_err()),
        "22012",
        "another error is not tried again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_declared_read_only_are_at_a_replica_and_others_at_the_primary() {
    let cluster = cluster("declared", 1).await;
    let stage = stage(&cluster, "").await;
    let (primary, replica) = (cluster.primary().port(), cluster.replicas()[0].port());
    let client = stage.connect("acme").await;
    for (begin, at) in [
        ("begin", primary),
        ("begin read only", replica),
        ("start transaction isolation level repeatable read, read only", replica),
        ("begin isolation level serializable, read only", primary),
        ("begin read write", primary),
    ] {
        back_at(&client, replica).await;
        client.batch_execute(begin).await.unwrap();
        assert_eq!(port(&client).await, at, "{begin}");
        assert_eq!(port(&client).await, at, "{begin}");
        client.batch_execute("commit").await.unwrap();
    }
    back_at(&client, replica).await;
    client.batch_execute("begin read only").await.unwrap();
    let error = client.batch_execute("insert into orders (item) values ('no')").await.unwrap_err();
    assert_eq!(code(&error), "25006");
    client.batch_execute("rollback").await.unwrap();
    client.batch_execute("set default_transaction_read_only = on").await.unwrap();
    back_at(&client, replica).await;
    client.batch_execute("begin").await.unwrap();
    assert_eq!(port(&client).await, replica, "all of the session's are");
    client.batch_execute("commit; reset default_transaction_read_only").await.unwrap();
    client.batch_execute("insert into orders (item) values ('yes')").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_says_where_it_reads_and_so_do_tenants_and_roles() {
    let cluster = cluster("says", 1).await;
    let stage = stage(&cluster, "").await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let text = text
        .replace("readonly = \"pgward_readonly\"", "readonly = { role = \"pgward_readonly\", route = \"replica\" }");
    let text = text.replace("[tenants.t1]\n", "[tenants.t1]\nreads.route = \"primary\"\n");
    std::fs::write(&stage.path, text).unwrap();
    stage.control.reload().await.unwrap();
    let (primary, replica) = (cluster.primary().port(), cluster.replicas()[0].port());
    let client = stage.connect("acme").await;
    for (said, at) in [("primary", primary), ("replica", replica), ("auto", replica), ("nonsense", primary)] {
        client.batch_execute(&format!("set pgward.route = '{said}'")).await.unwrap();
        back_at(&client, at).await;
        assert_eq!(port(&client).await, at, "{said}");
        assert_eq!(one(&client, "show pgward.route").await, said);
    }
    client.batch_execute("reset pgward.route").await.unwrap();
    back_at(&client, replica).await;
    client.batch_execute("set pgward.route = 'replica'").await.unwrap();
    let error = client.batch_execute("insert into orders (item) values ('no')").await.unwrap_err();
    assert_eq!(code(&error), "25006", "all of it goes to replicas");
    assert_eq!(port(&stage.connect("t1").await).await, primary);
    let analyst = stage.try_connect(&stage.url("globex", "readonly")).await.unwrap();
    assert_eq!(one(&analyst, "select pg_is_in_recovery()::text").await, "true");
    assert_eq!(one(&client, "select pg_is_in_recovery()::text").await, "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_or_freezes_costs_no_read() {
    let mut cluster = cluster("die", 2).await;
    let stage = Arc::new(stage(&cluster, "").await);
    let primary = cluster.primary().port();
    let mut tasks = Vec::new();
    for i in 0..8 {
        let client = stage.connect(&format!("t{i}")).await;
        tasks.push(tokio::spawn(async move {
            let (begin, mut longest) = (Instant::now(), Duration::ZERO);
            let statement = client.prepare("select count(*) from orders where item <> $1").await.unwrap();
            while begin.elapsed() < Duration::from_secs(6) {
                let asked = Instant::now();
                assert_eq!(one(&client, "select count(*)::text from orders").await, "100");
                assert_eq!(client.query_one(&statement, &[&"x"]).await.unwrap().get::<_, i64>(0), 100);
                longest = longest.max(asked.elapsed());
            }
            longest
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.replicas_mut()[0].kill().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    signal_all(&cluster.replicas()[1], "-STOP");
    for task in tasks {
        let longest = task.await.unwrap();
        println!("the longest pair of reads took {longest:?}");
        assert!(longest < Duration::from_secs(4), "{longest:?}");
    }
    let client = stage.connect("acme").await;
    assert_eq!(port(&client).await, primary, "nobody else is left");
    signal_all(&cluster.replicas()[1], "-CONT");
    cluster.replicas_mut()[0].start().await.unwrap();
    for server in cluster.replicas() {
        until("the replica's return", async || port(&stage.connect("acme").await).await == server.port()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_while_there_is_no_primary() {
    let mut cluster = cluster("headless", 2).await;
    let stage = stage(&cluster, "").await;
    let (client, writer) = (stage.connect("acme").await, stage.connect("acme").await);
    port(&client).await;
    cluster.primary_mut().kill().await.unwrap();
    until("the end of the primary", async || shown(&stage, "headless-1").await[1] == "down").await;
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(one(&client, "select count(*)::text from orders").await, "100");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
    let waiting = tokio::spawn(async move {
        writer.batch_execute("insert into orders (item) values ('later')").await.unwrap();
        one(&writer, "select count(*)::text from orders").await
    });
    promote(&cluster.replicas()[0]).await;
    assert_eq!(waiting.await.unwrap(), "101", "what it wrote to the new primary");
    // The other one follows the old timeline until it is made to follow the new one: it serves nobody.
    assert_eq!(port(&client).await, cluster.replicas()[0].port());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_without_a_primary_also_on_a_later_timeline() {
    let mut cluster = cluster("later", 2).await;
    let stage = stage(&cluster, "").await;
    cluster.primary_mut().kill().await.unwrap();
    let [new, other] = cluster.replicas() else { panic!("two replicas") };
    promote(new).await;
    for setting in [format!("primary_conninfo = '{}'", new.url()), "primary_slot_name = ''".to_owned()] {
        other.run("postgres", "follow the new primary", &format!("alter system set {setting}")).await.unwrap();
    }
    other.run("postgres", "reload", "select pg_reload_conf()").await.unwrap();
    let port_of_other = other.port();
    until("a read at the other one", async || port(&stage.connect("acme").await).await == port_of_other).await;
    cluster.replicas_mut()[0].kill().await.unwrap();
    until("the end of the primary", async || shown(&stage, "later-2").await[1] == "down").await;
    // It receives nothing any more, and its last restart point was on the timeline before.
    let client = stage.connect("acme").await;
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(port(&client).await, port_of_other);
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_come_and_go_by_reload_and_nobody_notices() {
    let cluster = cluster("come", 2).await;
    let stage = Arc::new(stage(&cluster, "").await);
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let last = &cluster.replicas()[1];
    let begin = text.find(&format!("[[clusters.main.servers]]\nname = \"{}\"", last.name())).unwrap();
    let end = begin + text[begin..].find("[tenants.kandy]").unwrap();
    let without = format!("{}{}", &text[..begin], &text[end..]);
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut tasks = Vec::new();
    for i in 0..6 {
        let (client, over) = (stage.connect(&format!("t{i}")).await, Arc::clone(&over));
        tasks.push(tokio::spawn(async move {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(one(&client, "select count(*)::text from orders").await, "100");
            }
        }));
    }
    let reached = async || port(&stage.connect("acme").await).await == last.port();
    for _ in 0..2 {
        std::fs::write(&stage.path, &without).unwrap();
        stage.control.reload().await.unwrap();
        for _ in 0..20 {
            assert!(!reached().await, "it is not configured any more");
        }
        std::fs::write(&stage.path, &text).unwrap();
        stage.control.reload().await.unwrap();
        until("a read at the replica that was added", reached).await;
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
}

/// The server's answers to one statement, within a time that nobody would call a hang.
async fn answers(session: &mut Raw, sql: &str) -> Vec<String> {
    let answered = tokio::time::timeout(Duration::from_secs(10), session.query(sql));
    gists(&answered.await.unwrap_or_else(|_| panic!("{sql} was not answered")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_replica_can_do_was_tried_there_for_ever_by_who_reads_from_replicas_only() {
    let cluster = cluster("only", 1).await;
    let unlogged = "create unlogged table u (a int); grant all on u to public";
    cluster.primary().run("app", "make what a standby cannot read", unlogged).await.unwrap();
    let stage = stage(&cluster, "").await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let text = text.replace("[tenants.t2]\n", "[tenants.t2]\nmode = \"session\"\nreads.route = \"replica\"\n");
    std::fs::write(&stage.path, text).unwrap();
    stage.control.reload().await.unwrap();
    let mut session = stage.raw("acme").await;
    answers(&mut session, "set pgward.route = 'replica'").await;
    assert_eq!(answers(&mut session, "select * from u").await, ["E 0A000", "Z I"]);
    assert_eq!(answers(&mut session, "select number from counted").await, ["T", "E 25006", "Z I"]);
    // Its backend stays with it.
    let mut session = stage.raw("t2").await;
    for sql in ["select * from u", "select number from counted", "select 1"] {
        let last = answers(&mut session, sql).await;
        assert_eq!(last.last().map(String::as_str), Some("Z I"), "{sql}: {last:?}");
    }
    // Whoever may be served by the primary is, and the next one at once.
    let client = stage.connect("acme").await;
    back_at(&client, cluster.replicas()[0].port()).await;
    assert_eq!(one(&client, "select count(*) from u").await, "0");
    let retries = stage.metric("pgward_replica_retries_total").await;
    assert_eq!(one(&client, "select count(*) from u").await, "0");
    assert_eq!(stage.metric("pgward_replica_retries_total").await, retries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_wrote_was_forgotten_with_its_route_its_token_or_its_notifications() {
    let cluster = cluster("forget", 1).await;
    delay(&cluster.replicas()[0], "3s").await;
    let stage = stage(&cluster, "max_lag = \"1m\"").await;
    let count = "select count(*)::text from orders where item = 'kept'";
    let insert = "insert into orders (item) values ('kept')";
    let client = stage.connect("acme").await;
    client.batch_execute("set pgward.route = 'primary'").await.unwrap();
    client.batch_execute(insert).await.unwrap();
    client.batch_execute("set pgward.route = 'auto'").await.unwrap();
    assert_eq!(one(&client, count).await, "1", "after another route");
    client.batch_execute(insert).await.unwrap();
    client.batch_execute(&format!("set pgward.token = '{}'", stage.token("acme", "app"))).await.unwrap();
    assert_eq!(one(&client, count).await, "2", "after another token");
    client.batch_execute("set pgward.route = 'replica'").await.unwrap();
    assert_eq!(one(&client, count).await, "0", "it did not insist");
    client.batch_execute("set pgward.route = 'auto'").await.unwrap();
    assert_eq!(one(&client, count).await, "2", "it does again");
    // Told of something, it looks for it.
    let mut listener = stage.raw("acme").await;
    listener.query("listen news").await;
    client.batch_execute(&format!("begin; {insert}; notify news; commit")).await.unwrap();
    listener.until(|message| message.tag == b'A').await;
    assert_eq!(listener.one(count).await, "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_from_replicas_only_does_not_write_while_the_cluster_is_paused() {
    let cluster = cluster("pausing", 1).await;
    let stage = Arc::new(stage(&cluster, "").await);
    let client = stage.connect("acme").await;
    client.batch_execute("set pgward.route = 'replica'").await.unwrap();
    let console = stage.console().await;
    console.batch_execute("pause cluster main").await.unwrap();
    let waiting = tokio::spawn(async move {
        let error = client.batch_execute("insert into orders (item) values ('no')").await.unwrap_err();
        code(&error)
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    console.batch_execute("resume cluster main").await.unwrap();
    assert_eq!(waiting.await.unwrap(), "25006");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_took_a_replica_from_all_by_ending_its_own_backend() {
    let cluster = cluster("selfish", 1).await;
    let stage = stage(&cluster, "").await;
    let replica = cluster.replicas()[0].port();
    let other = stage.connect("globex").await;
    for _ in 0..5 {
        let client = stage.connect("acme").await;
        back_at(&client, replica).await;
        client.batch_execute("begin read only").await.unwrap();
        client.simple_query("select pg_terminate_backend(pg_backend_pid())").await.unwrap_err();
        assert_eq!(shown(&stage, "selfish-2").await, ["replica", "up", "no"]);
        back_at(&other, replica).await;
        assert_eq!(shown(&stage, "selfish-2").await, ["replica", "up", "no"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_behind_a_read_that_was_asked_again_was_not_audited() {
    let (cluster, log) = (cluster("audited", 1).await, log::Log::new());
    let stage = replicated::stage(&cluster, &log.table(""), "slow_start = \"0s\"", &[]).await;
    ready(&stage, &cluster).await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let text = text.replace("[tenants.acme]\n", "[tenants.acme]\naudit = \"statements\"\n");
    std::fs::write(&stage.path, text).unwrap();
    stage.control.reload().await.unwrap();
    let mut session = stage.raw("acme").await;
    raw_back_at(&mut session, cluster.replicas()[0].port()).await;
    let behind = "delete from orders where item = 'behind'";
    session.send([query("select number from counted"), query(behind)].concat()).await;
    assert_eq!(gists(&session.ready_times(2).await), ["T", "D 1", "C SELECT 1\0", "Z I", "C DELETE 0\0", "Z I"]);
    assert_eq!(stage.metric("pgward_replica_retries_total").await, 1.0);
    log.await_line("statement", &[("statement", "delete from orders where item = ?")]).await;
    let asked = log.of("statement").iter().filter(|line| line["statement"] == "select number from counted").count();
    assert_eq!(asked, 2, "it has been sent to two servers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_held_back_came_behind_an_error_of_pgwards_own() {
    let mut cluster = cluster("held", 1).await;
    let stage = stage(&cluster, "consistency = \"eventual\"").await;
    let mut session = stage.raw("acme").await;
    cluster.primary().run("app", "make a table", "create table p (a int); grant all on p to public").await.unwrap();
    cluster.caught_up().await.unwrap();
    raw_back_at(&mut session, cluster.replicas()[0].port()).await;
    session
        .send([parse("s", "select a from p"), describe('S', "s"), bind("", "s", &[]), execute("", 0), sync()].concat())
        .await;
    assert_eq!(gists(&session.ready().await), ["1", "t", "T", "2", "C SELECT 0\0", "Z I"]);
    cluster.primary().run("app", "alter it", "alter table p alter a type bigint").await.unwrap();
    cluster.caught_up().await.unwrap();
    let retries = stage.metric("pgward_replica_retries_total").await;
    session.send([bind("", "s", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(gists(&session.ready().await), ["E 0A000", "Z I"]);
    session.send([parse("", "select 1"), bind("", "s", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(gists(&session.ready().await), ["1", "E 0A000", "Z I"]);
    assert_eq!(stage.metric("pgward_replica_retries_total").await, retries, "the primary's plan is no better");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_says_where_it_is_to_be_before_it_is_elsewhere() {
    let cluster = cluster("local", 1).await;
    let stage = stage(&cluster, "").await;
    let client = stage.connect("acme").await;
    let (primary, replica) = (cluster.primary().port(), cluster.replicas()[0].port());
    for (begin, route, at) in [
        ("begin", "primary", Some(primary)),
        ("begin", "auto", Some(primary)),
        ("begin", "replica", None),
        ("begin read only", "replica", Some(replica)),
        ("begin read only", "auto", Some(replica)),
        ("begin read only", "primary", None),
        ("begin read only", "nonsense", None),
    ] {
        let set = format!("set local pgward.route = '{route}'");
        for extended in [false, true] {
            back_at(&client, replica).await;
            client.batch_execute(begin).await.unwrap();
            let said =
                if extended { client.execute(&set, &[]).await.map(drop) } else { client.batch_execute(&set).await };
            match at {
                Some(at) => {
                    said.unwrap();
                    assert_eq!(port(&client).await, at, "{begin}, {route}");
                }
                None => assert_eq!(code(&said.unwrap_err()), "25001", "{begin}, {route}"),
            }
            client.batch_execute("rollback").await.unwrap();
        }
    }
}
