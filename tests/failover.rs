//! Clusters whose primary dies, freezes, is replaced, or comes back as if nothing had happened: sessions follow the one
//! that takes the writes, and nobody writes anywhere else.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgward::local::Cluster;
use support::raw::{Raw, V3_0, errors, gists, password, query, startup, tags};
use support::replicated::{pair, promote, shown, signal_all};
use support::{Stage, code, furnish, one, replicated, until};

/// With so few backends that those which are lost are missed, and all of them at the primary.
async fn stage(cluster: &Cluster, more: &str, regions: &[&str]) -> Stage {
    replicated::stage(cluster, "[pool]\nmax_per_login = 3\n[reads]\nroute = \"primary\"\n", more, regions).await
}

/// Writes numbers one by one, connecting anew when a session is lost, until it is over. Says which were acknowledged.
async fn write(
    stage: Arc<Stage>,
    tenant: String,
    over: Arc<AtomicBool>,
    last: Arc<AtomicU64>,
) -> (Vec<u64>, Vec<String>) {
    let (mut acknowledged, mut errors) = (Vec::new(), Vec::new());
    let mut number = 0;
    let mut client = stage.connect(&tenant).await;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        let insert = format!("insert into orders (item, amount) values ('number', {number})");
        match client.batch_execute(&insert).await {
            Ok(()) => {
                acknowledged.push(number);
                last.fetch_max(number, Ordering::Relaxed);
            }
            Err(error) => {
                errors.push(code(&error));
                // Each of them ends the session.
                client = stage.connect(&tenant).await;
            }
        }
    }
    (acknowledged, errors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_follow_a_promotion_and_nothing_that_was_acknowledged_is_lost() {
    let mut cluster = pair("follow").await;
    let stage = Arc::new(stage(&cluster, "", &[]).await);
    let idle = stage.connect("acme").await;
    assert_eq!(one(&idle, "select count(*) from orders").await, "100");
    let (over, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..8)
        .map(|i| tokio::spawn(write(Arc::clone(&stage), format!("t{i}"), Arc::clone(&over), Arc::clone(&last))))
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.primary_mut().kill().await.unwrap();
    let killed = Instant::now();
    promote(&cluster.replicas()[0]).await;
    let before = last.load(Ordering::Relaxed);
    until("a write to the new primary", async || last.load(Ordering::Relaxed) > before + 8).await;
    println!("writes went on {:?} after the primary was killed", killed.elapsed());
    tokio::time::sleep(Duration::from_millis(500)).await;
    over.store(true, Ordering::Relaxed);
    let new = cluster.replicas()[0].connect("app").await.unwrap();
    for (i, writer) in writers.into_iter().enumerate() {
        let (acknowledged, errors) = writer.await.unwrap();
        let found = new
            .query(
                "select amount::text::bigint, count(*) from orders where tenant_id = $1 and item = 'number' group by 1",
                &[&format!("t{i}")],
            )
            .await
            .unwrap();
        let found: std::collections::HashMap<u64, i64> =
            found.iter().map(|row| (u64::try_from(row.get::<_, i64>(0)).unwrap(), row.get(1))).collect();
        for number in &acknowledged {
            assert_eq!(found.get(number), Some(&1), "t{i}: {number} was acknowledged");
        }
        // 57P01 is what a backend says that finds its postmaster gone.
        let told = |code: &String| ["08006", "08007", "57P01"].contains(&code.as_str());
        assert!(errors.len() <= 1 && errors.iter().all(told), "t{i}: {errors:?}");
    }
    assert_eq!(one(&idle, "select count(*) from orders").await, "100", "a session that was idle goes on");
    assert_eq!(shown(&stage, "follow-2").await, ["primary", "up", "yes"]);

    // It comes back as it was: a primary, of the timeline before.
    cluster.primary_mut().start().await.unwrap();
    until("the fence", async || shown(&stage, "follow-1").await == ["primary", "up", "fenced"]).await;
    idle.batch_execute("insert into orders (item) values ('where')").await.unwrap();
    let old = cluster.primary().connect("app").await.unwrap();
    let count = "select count(*)::text from orders where item = 'where'";
    assert_eq!(old.query_one(count, &[]).await.unwrap().get::<_, String>(0), "0");
    assert_eq!(new.query_one(count, &[]).await.unwrap().get::<_, String>(0), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_freezes_is_found_out_and_nobody_hangs() {
    let cluster = pair("freeze").await;
    let stage = stage(&cluster, "", &[]).await;
    let (open, busy, idle) = (stage.connect("acme").await, stage.connect("globex").await, stage.connect("t1").await);
    open.batch_execute("begin; insert into orders (item) values ('open')").await.unwrap();
    let mut ends = stage.raw("t2").await;
    ends.query("begin").await;
    // The last backend that there may be is idle by then, on the thread of the one that had it last.
    for client in [&idle, &busy] {
        client.simple_query("select 1").await.unwrap();
    }
    signal_all(cluster.primary(), "-STOP");
    let begin = Instant::now();
    // All were sent to a server that does not answer. The last one's insert stands behind the end of its transaction.
    let insert = "insert into orders (item) values ('in doubt')";
    ends.send(&[query("rollback"), query(insert)].concat()).await;
    let (open, busy) = tokio::join!(open.simple_query("select 1"), busy.batch_execute(insert));
    assert_eq!(gists(&ends.rest().await), ["E 08007"], "the insert may have been committed");
    assert_eq!(code(&open.unwrap_err()), "08006", "a transaction that nobody asked to commit");
    assert_eq!(code(&busy.unwrap_err()), "08007", "it may have been committed");
    let took = begin.elapsed();
    println!("sessions were told after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(shown(&stage, "freeze-1").await[1..], ["down", "no"]);
    let waiting = tokio::spawn(async move { idle.batch_execute("insert into orders (item) values ('waits')").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "there is no primary");
    promote(&cluster.replicas()[0]).await;
    waiting.await.unwrap().unwrap();
    signal_all(cluster.primary(), "-CONT");
    until("the fence", async || shown(&stage, "freeze-1").await == ["primary", "up", "fenced"]).await;
    assert_eq!(shown(&stage, "freeze-2").await, ["primary", "up", "yes"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_primary_gives_up_in_time_and_the_session_lives() {
    let mut cluster = pair("patience").await;
    let stage = stage(&cluster, "failover_timeout = \"2s\"", &[]).await;
    let client = stage.connect("acme").await;
    client.simple_query("select 1").await.unwrap();
    cluster.primary_mut().kill().await.unwrap();
    until("the end of the primary", async || shown(&stage, "patience-1").await[1] == "down").await;
    let begin = Instant::now();
    let error = client.simple_query("select 1").await.unwrap_err();
    assert_eq!(code(&error), "57P03");
    assert!((1..6).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    cluster.primary_mut().start().await.unwrap();
    until("the return of the primary", async || shown(&stage, "patience-1").await[2] == "yes").await;
    assert_eq!(one(&client, "select 2").await, "2");
}

/// Clients have a second to log in, and a primary is waited for longer.
async fn impatient(cluster: &Cluster, extra: &str) -> Stage {
    let stage = replicated::stage(cluster, extra, "failover_timeout = \"4s\"", &[]).await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let listen = "cores = 2, startup_timeout = \"1s\"";
    assert!(text.contains("cores = 2"));
    std::fs::write(&stage.path, text.replace("cores = 2", listen)).unwrap();
    stage.control.reload().await.unwrap();
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_needed_a_server_was_closed_without_a_word_while_there_was_no_primary() {
    let mut cluster = pair("word").await;
    let stage = impatient(&cluster, "").await;
    stage.connect("acme").await.simple_query("select 1").await.unwrap();
    cluster.primary_mut().kill().await.unwrap();
    until("the end of the primary", async || shown(&stage, "word-1").await[1] == "down").await;
    // What the server says of this setting is not known, so it has to be asked.
    let asks = |tenant| format!("{}?options=-c%20statement_timeout%3D77s", stage.url(tenant, "app"));
    let begin = Instant::now();
    let error = stage.try_connect(&asks("acme")).await.err().unwrap();
    assert_eq!(code(&error), "57P03", "{error:?}");
    assert!((2..8).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    // Who has told all that is asked of it and hangs up gives up its place. One byte more is not a hanging up.
    let mut gone = Raw::connect(stage.address).await;
    let options = "-c statement_timeout=77s";
    gone.send(startup(V3_0, &[("user", "acme"), ("database", "app"), ("options", options)])).await;
    gone.send(password(&stage.token("acme", "app"))).await;
    gone.send("Q").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(stage.control.client_count(), 1, "it waits");
    drop(gone);
    until("the end of who hung up", async || stage.control.client_count() == 0).await;
    // Who waits comes in as soon as there is a primary.
    let url = asks("globex");
    let waiting = tokio::spawn(async move { support::connect(&url).await });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!waiting.is_finished(), "there is no primary");
    cluster.primary_mut().start().await.unwrap();
    let client = waiting.await.unwrap().unwrap();
    assert_eq!(one(&client, "show statement_timeout").await, "77s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_whose_user_had_to_be_looked_up_was_closed_without_a_word_while_there_was_no_primary() {
    let mut cluster = pair("lookup").await;
    let owner = "create role seeker login superuser password 'seeker'; create role ann login password 'pencil'";
    cluster.primary().connect("app").await.unwrap().batch_execute(owner).await.unwrap();
    let plain = "
[plain]
superusers = [\"seeker\"]
lookup = { cluster = \"main\", database = \"app\", login = { role = \"seeker\", password = \"seeker\" } }
databases.books = { cluster = \"main\", database = \"app\" }
";
    let stage = impatient(&cluster, plain).await;
    let ann = stage.try_connect(&format!("postgresql://ann:pencil@{}/books", stage.address)).await.unwrap();
    assert_eq!(one(&ann, "select current_user").await, "ann");
    // Others are not known yet.
    cluster.primary_mut().kill().await.unwrap();
    until("the end of the primary", async || shown(&stage, "lookup-1").await[1] == "down").await;
    let mut other = Raw::connect(stage.address).await;
    other.send(startup(V3_0, &[("user", "bob"), ("database", "books")])).await;
    let begin = Instant::now();
    assert_eq!(errors(&other.rest().await), ["57P03"]);
    assert!((2..8).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    // One who has waited for a server still has its own time to answer, and no more than that.
    let mut late = Raw::connect(stage.address).await;
    late.send(startup(V3_0, &[("user", "carl"), ("database", "books")])).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    cluster.primary_mut().start().await.unwrap();
    let asked = late.next().await.unwrap();
    assert_eq!(asked.tag, b'R', "it is asked for its proof");
    let begin = Instant::now();
    assert_eq!(tags(&late.rest().await), "");
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(300) && took < Duration::from_millis(1500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_over_abroad_serves_only_those_who_may_be_there() {
    let mut cluster = pair("abroad").await;
    let stage = stage(&cluster, "", &["lk", "in"]).await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let wider = text.replace("[tenants.acme]\n", "[tenants.acme]\nregions = [\"lk\", \"in\"]\n");
    std::fs::write(&stage.path, wider).unwrap();
    stage.control.reload().await.unwrap();
    let (both, home) = (stage.connect("acme").await, stage.connect("globex").await);
    for client in [&both, &home] {
        client.simple_query("select 1").await.unwrap();
    }
    cluster.primary_mut().kill().await.unwrap();
    promote(&cluster.replicas()[0]).await;
    until("the new primary", async || shown(&stage, "abroad-2").await[2] == "yes").await;
    assert_eq!(one(&both, "select count(*) from orders").await, "100");
    for _ in 0..2 {
        let error = home.simple_query("select 1").await.unwrap_err();
        assert_eq!(code(&error), "42501", "{error:?}");
    }
    let refused = stage.try_connect(&stage.url("globex", "app")).await.err().unwrap();
    assert_eq!(code(&refused), "28000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_writes_while_two_say_that_they_are_the_primary() {
    let mut cluster = Cluster::builder("brain").replica("brain-2").replica("brain-3").start().await.unwrap();
    furnish(&cluster).await;
    cluster.caught_up().await.unwrap();
    let stage = stage(&cluster, "failover_timeout = \"1s\"", &[]).await;
    let client = stage.connect("acme").await;
    client.simple_query("select 1").await.unwrap();
    cluster.primary_mut().kill().await.unwrap();
    // By hand, on both sides of a network that was cut. Each begins timeline 2.
    tokio::join!(promote(&cluster.replicas()[0]), promote(&cluster.replicas()[1]));
    for server in ["brain-2", "brain-3"] {
        until("the doubt", async || shown(&stage, server).await == ["primary", "up", "fenced"]).await;
    }
    assert_eq!(code(&client.simple_query("select 1").await.unwrap_err()), "57P03");
    cluster.replicas_mut()[1].kill().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        code(&client.simple_query("select 1").await.unwrap_err()),
        "57P03",
        "the one that is gone may have writes"
    );
    // Whoever runs it has decided.
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let port = cluster.replicas()[1].port();
    let without = format!(
        "[[clusters.main.servers]]\nname = \"brain-3\"\nhost = \"127.0.0.1\"\nport = {port}\nregion = \"lk\"\nrole = \"replica\"\n"
    );
    assert!(text.contains(&without));
    std::fs::write(&stage.path, text.replace(&without, "")).unwrap();
    stage.control.reload().await.unwrap();
    until("the decision", async || shown(&stage, "brain-2").await[2] == "yes").await;
    assert_eq!(one(&client, "select count(*) from orders").await, "100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_added_by_a_reload_interrupts_nobody() {
    let cluster = pair("more").await;
    let stage = stage(&cluster, "", &[]).await;
    let client = stage.connect("acme").await;
    client.batch_execute("begin; insert into orders (item) values ('goes on')").await.unwrap();
    // Nothing listens there.
    let port = pgward::local::free_port().unwrap();
    let more = format!(
        "[[clusters.main.servers]]\nname = \"more-3\"\nhost = \"127.0.0.1\"\nport = {port}\nregion = \"lk\"\nrole = \"replica\"\n"
    );
    let text = std::fs::read_to_string(&stage.path).unwrap();
    std::fs::write(&stage.path, text.replace("[tenants.kandy]", &format!("{more}[tenants.kandy]"))).unwrap();
    stage.control.reload().await.unwrap();
    until("the third server's end", async || shown(&stage, "more-3").await[1] == "down").await;
    client.batch_execute("commit").await.unwrap();
    assert_eq!(one(&client, "select count(*) from orders where item = 'goes on'").await, "1");
}
