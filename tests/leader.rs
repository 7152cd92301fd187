//! Clusters whose leader somebody else knows: pgward heeds what Patroni's REST API says, as long as it says something.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use pgward::local::Cluster;
use serde_json::{Value, json};
use support::replicated::{self, behind_patroni, pair, promote, shown};
use support::{Stage, code, connect, furnish, one, until};

/// Stands for Patroni: says what a test wants it to say.
struct Oracle {
    port: u16,
    says: Arc<Mutex<Option<Value>>>,
}

impl Oracle {
    async fn new() -> Self {
        let says: Arc<Mutex<Option<Value>>> = Arc::default();
        let answer = Arc::clone(&says);
        let cluster = async move || match &*answer.lock().unwrap() {
            Some(value) => (StatusCode::OK, value.to_string()),
            None => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/cluster", get(cluster))).await });
        Self { port, says }
    }

    /// Of the cluster's servers that one leads, or none does.
    fn says(&self, cluster: &Cluster, leader: Option<&str>) {
        self.says_of(members(cluster, leader), false);
    }

    fn says_of(&self, members: Vec<Value>, paused: bool) {
        *self.says.lock().unwrap() = Some(json!({ "members": members, "pause": paused }));
    }

    fn is_silent(&self) {
        *self.says.lock().unwrap() = None;
    }

    /// For the cluster's table of a configuration that has its servers.
    fn table(&self) -> String {
        let port = self.port;
        format!("patroni = {{ urls = \"http://127.0.0.1:{port}\", interval = \"100ms\", timeout = \"500ms\" }}\n")
    }
}

fn members(cluster: &Cluster, leader: Option<&str>) -> Vec<Value> {
    let member = |name: &str, port: u16| {
        let role = if Some(name) == leader { "leader" } else { "replica" };
        json!({ "name": name, "host": "127.0.0.1", "port": port, "role": role, "tags": { "region": "lk" } })
    };
    cluster.servers().map(|server| member(server.name(), server.port())).collect()
}

async fn writes(stage: &Stage, server: &str) -> String {
    let [_, _, writes] = shown(stage, server).await;
    writes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_primaries_on_one_timeline_the_one_that_holds_the_lock_gets_the_writes() {
    let mut cluster = Cluster::builder("locked").replica("locked-2").replica("locked-3").start().await.unwrap();
    furnish(&cluster).await;
    cluster.caught_up().await.unwrap();
    let oracle = Oracle::new().await;
    oracle.says(&cluster, Some("locked-1"));
    let more = format!("failover_timeout = \"20s\"\n{}", oracle.table());
    let stage = replicated::stage(&cluster, "", &more, &[]).await;
    let client = stage.connect("acme").await;
    assert_eq!(one(&client, "select count(*) from orders").await, "100");
    cluster.primary_mut().kill().await.unwrap();
    oracle.says(&cluster, Some("locked-3"));
    tokio::join!(promote(&cluster.replicas()[0]), promote(&cluster.replicas()[1]));
    client.batch_execute("insert into orders (item) values ('locked')").await.unwrap();
    until("the fence", async || shown(&stage, "locked-2").await == ["primary", "up", "fenced"]).await;
    assert_eq!(shown(&stage, "locked-3").await, ["primary", "up", "yes"]);
    let there = connect(&cluster.replicas()[1].url_of("app")).await.unwrap();
    assert_eq!(one(&there, "select count(*) from orders where item = 'locked'").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_has_lost_the_lock_gets_no_writes_unless_patroni_is_silent_or_paused() {
    let cluster = pair("lost").await;
    let oracle = Oracle::new().await;
    oracle.says(&cluster, Some("lost-1"));
    let more = format!("failover_timeout = \"500ms\"\n{}", oracle.table());
    let stage = replicated::stage(&cluster, "[reads]\nroute = \"primary\"\n", &more, &[]).await;
    let client = stage.connect("acme").await;
    assert_eq!(one(&client, "select count(*) from orders").await, "100");
    let refused = async || {
        until("the fence", async || writes(&stage, "lost-1").await == "fenced").await;
        assert_eq!(code(&client.simple_query("select 1").await.unwrap_err()), "57P03");
    };
    let served = async || {
        until("the writes", async || writes(&stage, "lost-1").await == "yes").await;
        assert_eq!(one(&client, "select 1").await, "1");
    };
    // Nobody holds it, or who has not been promoted yet.
    for leader in [None, Some("lost-2")] {
        oracle.says(&cluster, leader);
        refused().await;
        oracle.says(&cluster, Some("lost-1"));
        served().await;
    }
    oracle.says(&cluster, None);
    refused().await;
    oracle.says_of(members(&cluster, None), true);
    served().await;
    oracle.says(&cluster, None);
    refused().await;
    // It keeps no one from writing for longer than it is there itself.
    oracle.is_silent();
    served().await;
    // Somebody leads whom pgward does not know.
    let stranger = json!({ "name": "other", "host": "10.0.0.1", "port": 5432, "role": "leader" });
    oracle.says_of(vec![stranger], false);
    refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_come_and_go_as_patroni_tells_and_none_without_a_region() {
    let cluster = pair("told").await;
    let oracle = Oracle::new().await;
    let all = members(&cluster, Some("told-1"));
    oracle.says_of(vec![all[0].clone()], false);
    let stage = behind_patroni(&[oracle.port], "").await;
    let client = stage.connect("acme").await;
    assert_eq!(one(&client, "select count(*) from orders").await, "100");
    client.batch_execute("begin; insert into orders (item) values ('told')").await.unwrap();
    let count = async || stage.control.shared.topology.boards().remove(0).snapshot().servers.len();
    oracle.says_of(all.clone(), false);
    until("the replica", async || count().await == 2 && shown(&stage, "told-2").await == ["replica", "up", "no"]).await;
    let mut nowhere = all.clone();
    nowhere[1]["tags"] = json!({});
    for without in [nowhere, vec![all[0].clone()]] {
        oracle.says_of(without, false);
        until("the replica's end", async || count().await == 1).await;
        oracle.says_of(all.clone(), false);
        until("the replica's return", async || count().await == 2).await;
    }
    let view = || stage.control.shared.topology.boards().remove(0).snapshot().servers[1].clone();
    stage.console().await.batch_execute("drain server main.told-2").await.unwrap();
    oracle.says_of(vec![all[0].clone()], false);
    until("the replica's end", async || count().await == 1).await;
    oracle.says_of(all.clone(), false);
    until("the replica's return", async || count().await == 2).await;
    assert!(view().held, "it is held until somebody resumes it");
    // A configuration that is read again has no servers either.
    stage.control.reload().await.unwrap();
    assert_eq!(count().await, 2);
    client.batch_execute("commit").await.unwrap();
    assert_eq!(one(&client, "select count(*) from orders where item = 'told'").await, "1", "nobody noticed");
}

/// What `pgward residency explain` says of a tenant at that moment.
async fn explained(stage: &Stage) -> Value {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pgward"));
    command.args(["residency", "explain", "--json", "--tenant", "acme", "--config"]).arg(&stage.path);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_serve_a_tenant_is_asked_of_patroni_too() {
    let cluster = pair("oracle").await;
    let oracle = Oracle::new().await;
    oracle.says(&cluster, Some("oracle-1"));
    let stage = behind_patroni(&[oracle.port], "").await;
    let said = explained(&stage).await;
    assert_eq!((&said["writes"], &said["reads"]), (&"oracle-1".into(), &json!(["oracle-2"])), "{said:#}");
    // It still says that it is the primary.
    oracle.says(&cluster, None);
    let said = explained(&stage).await;
    assert_eq!((&said["writes"], &said["servers"][0]["role"]), (&Value::Null, &"primary".into()), "{said:#}");
    assert!(said["servers"][0]["no_writes"].as_str().unwrap().contains("Patroni says"), "{said:#}");
    oracle.is_silent();
    let said = explained(&stage).await;
    assert!(
        said["servers"] == json!([]) && said["notes"].to_string().contains("Patroni could not be asked"),
        "{said:#}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_two_addresses_was_taken_for_two_primaries() {
    let cluster = pair("twins").await;
    let oracle = Oracle::new().await;
    // The configuration has 127.0.0.1.
    let mut all = members(&cluster, Some("twins-1"));
    all[0]["host"] = json!("localhost");
    all[0]["name"] = json!("first");
    oracle.says_of(all, false);
    let stage = replicated::stage(&cluster, "", &oracle.table(), &[]).await;
    until("what it is", async || {
        let snapshot = stage.control.shared.topology.boards().remove(0).snapshot();
        let twin = snapshot.servers.iter().find(|view| view.server.name.as_str() == "first");
        twin.and_then(|twin| twin.trouble.clone()).is_some_and(|why| why.contains("it is server twins-1"))
    })
    .await;
    let client = stage.connect("acme").await;
    client.batch_execute("insert into orders (item) values ('twin')").await.unwrap();
    assert_eq!(writes(&stage, "twins-1").await, "yes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_patroni_was_stopped_in_a_pause_was_taken_out_of_the_cluster() {
    let cluster = pair("upgrade").await;
    let oracle = Oracle::new().await;
    let all = members(&cluster, Some("upgrade-1"));
    oracle.says_of(all.clone(), false);
    let stage = behind_patroni(&[oracle.port], "").await;
    let client = stage.connect("acme").await;
    client.batch_execute("begin; insert into orders (item) values ('upgrade')").await.unwrap();
    // Its key in the store runs out; then the store is empty for a moment.
    for (members, paused) in [(vec![all[1].clone()], true), (Vec::new(), false)] {
        oracle.says_of(members, paused);
        // An interval of 200 ms, and ten of them.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(one(&client, "select count(*) from orders where item = 'upgrade'").await, "1");
    }
    oracle.says_of(all, false);
    client.batch_execute("commit").await.unwrap();
    let highest = stage.control.shared.topology.boards().remove(0).snapshot().timeline;
    assert_eq!(highest, 1);
}
