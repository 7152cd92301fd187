//! A client at a node where its tenant may not be is forwarded to one where it may, if the tenant's rule says so.

#[path = "../support/log.rs"]
mod log;
mod nodes;
#[path = "../support/mod.rs"]
mod support;
mod through;
mod trouble;

use std::time::{Duration, Instant};

use nodes::{Nodes, Rules};
use support::raw::{Raw, V3_0, V3_2, cancel_request, errors, gists, query};
use support::{code, one, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_abroad_is_served_by_the_node_at_home() {
    let nodes = Nodes::start(Rules::default()).await;
    let client = nodes.abroad.connect("acme").await;
    assert_eq!(one(&client, "select count(*) from orders").await, "100");
    assert_eq!(one(&client, "select count(*) from orders where tenant_id <> 'acme'").await, "0");
    let statement = client.prepare("select $1::text || repeat('x', $2)").await.unwrap();
    for length in [10, 1_000_000] {
        let row = client.query_one(&statement, &[&"a", &length]).await.unwrap();
        assert_eq!(row.get::<_, String>(0).len(), 1 + length as usize);
    }
    let rows = client.simple_query("select state, tenant from (values (1)) v(state), (values (2)) w(tenant)").await;
    assert_eq!(rows.unwrap().len(), 3);

    // The node abroad has asked no server for anything, and kept nothing.
    let pools = nodes.abroad.control.pools().await;
    assert!(pools.iter().all(|(pool, _)| pool.open == 0), "{pools:?}");
    assert_eq!(nodes.shown(&nodes.abroad).await, [["acme", "forwarded", ""]]);
    assert_eq!(nodes.shown(&nodes.home).await, [["acme", "idle", "mumbai"]]);
    let (node, region) = (("forwarded_to", "colombo"), ("region", "lk"));
    let passed = nodes.abroad_log.await_line("forwarded", &[("tenant", "acme"), node, region]).await;
    assert_eq!(passed["direct_tls"], false);
    let login = nodes.home_log.await_line("login", &[("tenant", "acme"), ("came_by", "mumbai")]).await;
    // The home knows whose connection it is.
    assert_eq!(login["peer"], passed["peer"]);
    assert_eq!(nodes.abroad.metric("pgward_logins_total{outcome=\"forwarded\"}").await, 1.0);
    drop(client);
    nodes.home.at_rest(0).await;
    nodes.abroad.at_rest(0).await;
    nodes.home_log.await_line("session_end", &[("tenant", "acme"), ("came_by", "mumbai")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pipelined_and_every_protocol_version_come_through() {
    let nodes = Nodes::start(Rules::default()).await;
    for version in [V3_0, V3_2, 196_610 + 7] {
        let mut raw = Raw::connect(nodes.abroad.address).await;
        let parameters = [("user", "acme"), ("database", "app"), ("application_name", "app/1"), ("_pq_.x", "1")];
        let login = raw.log_in(version, &parameters, &nodes.abroad.token("acme", "app")).await;
        let tags: String = login.iter().map(|message| char::from(message.tag)).collect();
        assert!(tags.trim_start_matches('v').starts_with("RR") || tags.starts_with("vRR"), "{version}: {tags}");
        assert_eq!(tags.matches('v').count(), 1, "{version}: {tags}");
        assert_eq!(tags.matches('K').count(), 1);
        assert_eq!(raw.one("show application_name").await, "app/1");
        let burst: Vec<u8> = (0..50).flat_map(|n| query(&format!("select {n}"))).collect();
        raw.send(burst).await;
        let answers = raw.ready_times(50).await;
        assert_eq!(gists(&answers).iter().filter(|gist| *gist == "Z I").count(), 50);
    }
}

/// PostgreSQL forgets a request for what has not begun, so it is the one to be asked; nobody else runs this statement.
async fn begun(statement: &str) {
    let watch = support::cluster().await.primary().connect("app").await.unwrap();
    let sql = format!("select count(*) from pg_stat_activity where state = 'active' and query = '{statement}'");
    until("the statement's begin", async || support::one(&watch, &sql).await == "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_request_reaches_its_session_whichever_node_it_comes_to() {
    let nodes = Nodes::start(Rules::default()).await;
    let forwarded = nodes.abroad.connect("acme").await;
    let at_home = nodes.home.connect("acme").await;
    // One by the node that it came by, one by the other one, which knows nothing of it.
    for (client, statement) in [(&forwarded, "select pg_sleep(33)"), (&at_home, "select pg_sleep(34)")] {
        let (token, address) = (client.cancel_token(), nodes.abroad.address);
        let running = client.batch_execute(statement);
        let cancel = async {
            begun(statement).await;
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            token.cancel_query_raw(stream, tokio_postgres::NoTls).await.unwrap();
        };
        let begin = Instant::now();
        let (ended, ()) = tokio::join!(running, cancel);
        assert_eq!(code(&ended.unwrap_err()), "57014");
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
    // A key with the right number and the wrong secret: refused where the session is, and nothing is hit.
    let mut raw = Raw::connect(nodes.abroad.address).await;
    let login = raw.log_in(V3_0, &nodes::ACME, &nodes.abroad.token("acme", "app")).await;
    let key = &login.iter().find(|message| message.tag == b'K').unwrap().body;
    let mut other = Raw::connect(nodes.abroad.address).await;
    raw.send(query("select pg_sleep(0.5)")).await;
    other.send(cancel_request(u32::from_be_bytes(key[..4].try_into().unwrap()), b"nope")).await;
    assert!(other.rest().await.is_empty());
    assert!(errors(&raw.ready().await).is_empty());
    nodes.home_log.await_line("cancel_refused", &[]).await;
    assert!(nodes.abroad_log.of("cancel_refused").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tenants_rule_decides_on_both_sides() {
    // Neither: as without forwarding.
    let off = Nodes::start(Rules { abroad: "off", home: "any" }).await;
    let refused = off.abroad.try_connect(&off.abroad.url("acme", "app")).await.err().unwrap();
    assert_eq!(code(&refused), "28000");
    assert!(refused.as_db_error().unwrap().hint().unwrap().contains("pg.lk.example.com"));
    // Only where TLS goes through, which it does not.
    let direct = Nodes::start(Rules { abroad: "direct-tls", home: "any" }).await;
    let refused = direct.abroad.try_connect(&direct.abroad.url("acme", "app")).await.err().unwrap();
    assert_eq!(
        refused.as_db_error().unwrap().message(),
        "this pgward is in region in, where the tenant's data may not be"
    );
    // A node abroad of other rules forwards what the home does not take.
    let home_off = Nodes::start(Rules { abroad: "any", home: "off" }).await;
    let refused = home_off.abroad.try_connect(&home_off.abroad.url("acme", "app")).await.err().unwrap();
    let report = refused.as_db_error().unwrap();
    assert_eq!(
        (code(&refused).as_str(), report.message()),
        ("28000", "connections to this database may not be forwarded by another pgward")
    );
    home_off.home_log.await_line("login_refused", &[("reason", "not_forwarded"), ("came_by", "mumbai")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_session_gets_nothing_that_the_home_would_not_give() {
    let nodes = Nodes::start(Rules::default()).await;
    // A token that is not good is refused abroad, and the home is not called.
    let forged = nodes.abroad.token("acme", "app").replace('.', ".x");
    let refused = nodes.abroad.try_connect(&nodes.abroad.url_with("acme", &forged)).await.err().unwrap();
    assert_eq!(code(&refused), "28000");
    assert!(nodes.home_log.of("login_refused").is_empty());
    // What the home refuses, the client is told as the home says it.
    let url = nodes.abroad.url("acme", "app").replace("/app", "/app?options=-c%20no_such_setting=1");
    assert!(nodes.abroad.try_connect(&url).await.is_err());
    // A session that has come by another node takes no tenant's token whose rule is against it.
    let mut raw = nodes.abroad.raw("acme").await;
    let switch = |tenant: &str| format!("set pgward.token = '{}'", nodes.abroad.token(tenant, "app"));
    assert_eq!(errors(&raw.query(&switch("t1")).await), ["28000"]);
    assert_eq!(gists(&raw.query(&switch("acme")).await), ["C SET\0", "Z I"]);
    assert_eq!(raw.one("select count(*) from orders").await, "100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_of_both_logs_tells_who_was_forwarded() {
    let nodes = Nodes::start(Rules::default()).await;
    let client = nodes.abroad.connect("acme").await;
    one(&client, "select count(*) from orders").await;
    drop(client);
    nodes.home_log.await_line("session_end", &[("tenant", "acme")]).await;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pgward"));
    command.args(["residency", "report", "--json", "--tenant", "acme", "--config"]).arg(&nodes.home.path);
    command.arg("--audit").arg(&nodes.home_log.path).arg("--audit").arg(&nodes.abroad_log.path);
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(done.status.success(), "{report:#}");
    let acme = &report["tenants"][0];
    let [passed] = acme["forwarded"].as_array().unwrap().as_slice() else { panic!("{acme:#}") };
    let gist = ["node", "node_region", "forwarded_to", "region"].map(|key| passed[key].as_str().unwrap());
    assert_eq!((gist, &passed["direct_tls"]), (["mumbai", "in", "colombo", "lk"], &serde_json::json!(false)));
    // By the node at home alone, of which nothing is wrong.
    let [served] = acme["served"].as_array().unwrap().as_slice() else { panic!("{acme:#}") };
    assert_eq!((served["node"].as_str(), served["came_by"].as_str()), (Some("colombo"), Some("mumbai")));
    assert_eq!(served["allowed"], true);
}
