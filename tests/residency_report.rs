//! What `pgward residency` shows is what happened: its report is compared with what the servers' own logs and
//! pg_stat_activity saw, and what it says would serve a tenant with what does.

#[path = "support/log.rs"]
mod log;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use log::Log;
use pgward::audit::{Audit, Event, Here};
use pgward::auth::mint;
use pgward::base::{Access, TenantId};
use pgward::config;
use pgward::local::{Cluster, Server};
use pgward::telemetry::Telemetry;
use serde_json::Value;
use support::replicated::{self, promote, shown};
use support::{Stage, code, furnish, until};

const NODES: &str = "
[nodes.colombo]
region = \"lk\"
address = \"pg.lk.example.com:6432\"
[nodes.mumbai]
region = \"in\"
address = \"pg.in.example.com:6432\"
";

/// A node in front of a primary in `lk` and a replica in `in`. `acme` may be in both, `globex` at home alone.
async fn node(cluster: &Cluster, name: &str, log: &Log) -> Stage {
    let extra = format!("node = \"{name}\"\n{}{NODES}", log.table(""));
    let stage = replicated::stage(cluster, &extra, "slow_start = \"0s\"", &["lk", "in"]).await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    std::fs::write(&stage.path, text.replace("[tenants.acme]\n", "[tenants.acme]\nregions = [\"lk\", \"in\"]\n"))
        .unwrap();
    stage.control.reload().await.unwrap();
    // Commands are run when it is gone, too.
    std::fs::copy(&stage.path, configuration(log)).unwrap();
    let replica = cluster.replicas()[0].name();
    until("the replica", async || shown(&stage, replica).await == ["replica", "up", "no"]).await;
    stage
}

fn configuration(log: &Log) -> PathBuf {
    log.folder.path().join("pgward.toml")
}

/// `pgward residency` with a configuration and these arguments.
async fn residency(config: &Path, what: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
    command.args(["residency", what, "--config"]).arg(config).args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Its exit code and JSON.
async fn json(config: &Path, what: &str, arguments: &[&str]) -> (i32, Value) {
    let output = residency(config, what, &[&["--json"], arguments].concat()).await;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said())))
}

async fn end(mut stage: Stage) {
    stage.control.shutdown();
    stage.stopped.take().unwrap().await.unwrap();
}

/// Which statements of a tenant's a server says that it ran.
fn ran(server: &Server, tenant: &str) -> u64 {
    let text = std::fs::read_to_string(server.log()).unwrap();
    text.lines().filter(|line| line.contains(&format!("/* by {tenant} ")) && !line.contains("ERROR")).count() as u64
}

/// Reads and writes, each a transaction, each with a mark that the servers log. Until a replica has served a read, if one may.
async fn traffic(stage: &Stage, cluster: &Cluster, tenant: &str, abroad: bool) -> tokio_postgres::Client {
    let client = stage.connect(tenant).await;
    let mut n = 0;
    let run = async |sql: &str, n: &mut usize| {
        *n += 1;
        client.batch_execute(&format!("/* by {tenant} {n} */ {sql}")).await.unwrap();
    };
    for _ in 0..5 {
        run("insert into orders (item) values ('x')", &mut n).await;
        for _ in 0..3 {
            run("select count(*) from orders", &mut n).await;
        }
    }
    let replica = &cluster.replicas()[0];
    while abroad && ran(replica, tenant) == 0 {
        assert!(n < 10_000, "no replica serves {tenant}");
        run("select count(*) from orders", &mut n).await;
    }
    client
}

/// From the report: by server, how often it served the tenant.
fn served(report: &Value, tenant: &str) -> BTreeMap<String, u64> {
    let tenants = report["tenants"].as_array().unwrap();
    let found = tenants.iter().find(|found| found["tenant"] == tenant).unwrap();
    let mut servers = BTreeMap::new();
    for row in found["served"].as_array().unwrap() {
        assert_eq!(row["allowed"], true, "{row}");
        *servers.entry(row["server"].as_str().unwrap().to_owned()).or_default() += row["backends"].as_u64().unwrap();
    }
    servers
}

/// From the servers' logs: the same.
fn logged(cluster: &Cluster, tenant: &str) -> BTreeMap<String, u64> {
    let servers = cluster.servers().map(|server| (server.name().to_owned(), ran(server, tenant)));
    servers.filter(|(_, count)| *count > 0).collect()
}

/// Whose statements the backends at a server ran last, by the mark.
async fn seen_in_activity(server: &Server, tenant: &str) -> bool {
    let client = server.connect("app").await.unwrap();
    let sql = "select exists (select from pg_stat_activity where usename = 'pgward_app' and query like '/* by ' || $1 || ' %')";
    client.query_one(sql, &[&tenant]).await.unwrap().get(0)
}

fn findings(report: &Value, severity: &str) -> Vec<String> {
    let found = report["findings"].as_array().unwrap().iter().filter(|found| found["severity"] == severity);
    found.map(|found| format!("{}: {}", found["kind"].as_str().unwrap(), found["text"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_says_what_the_servers_saw() {
    let builder = Cluster::builder("proof").setting("log_statement", "all").setting("max_connections", "100");
    let mut cluster = builder.replica("proof-2").start().await.unwrap();
    furnish(&cluster).await;
    cluster.caught_up().await.unwrap();
    let (one, two) = (Log::new(), Log::new());
    let (colombo, mumbai) = (node(&cluster, "colombo", &one).await, node(&cluster, "mumbai", &two).await);
    let mut clients = vec![traffic(&colombo, &cluster, "acme", true).await];
    clients.push(traffic(&colombo, &cluster, "globex", false).await);
    clients.push(traffic(&mumbai, &cluster, "acme", false).await);
    // They go on, and are in the log.
    for (server, region) in [("proof-1", "lk"), ("proof-2", "in")] {
        let members = [("tenant", "acme"), ("server", server), ("region", region), ("node", "colombo"), ("here", "lk")];
        let line = one.await_line("served", &members).await;
        assert_eq!(line["regions"], serde_json::json!(["in", "lk"]), "{line}");
    }
    assert!(one.of("session_end").iter().all(|line| line["tenant"].is_null()));
    // Globex may not be there: by the node, by its token.
    assert_eq!(code(&mumbai.try_connect(&mumbai.url("globex", "app")).await.err().unwrap()), "28000");
    let claims = serde_json::json!({ "region": "in" }).as_object().unwrap().clone();
    let (tenant, role) = (TenantId::parse("globex").unwrap(), Access::parse("app").unwrap());
    let (ttl, now) = (Duration::from_secs(600), support::unix_now());
    let token = mint(&colombo.settings.issuers[0], &tenant, &role, ttl, &claims, now).unwrap();
    assert_eq!(code(&colombo.try_connect(&colombo.url_with("globex", &token)).await.err().unwrap()), "28000");
    two.await_line("residency_refused", &[("tenant", "globex")]).await;
    one.await_line("residency_refused", &[("tenant", "globex")]).await;

    let config = configuration(&one);
    let logs = ["--audit", one.path.to_str().unwrap(), "--audit", two.path.to_str().unwrap()];
    let (status, report) =
        json(&config, "report", &[&logs[..], &["--tenant", "acme", "--tenant", "globex"]].concat()).await;
    assert_eq!((status, findings(&report, "danger")), (0, vec![]), "{report:#}");
    for tenant in ["acme", "globex"] {
        for server in cluster.servers() {
            let reported = served(&report, tenant).contains_key(server.name());
            assert_eq!(reported, ran(server, tenant) > 0, "{tenant} at {}: {report:#}", server.name());
            if seen_in_activity(server, tenant).await {
                assert!(reported, "{tenant} at {} by pg_stat_activity: {report:#}", server.name());
            }
        }
    }
    assert!(seen_in_activity(cluster.primary(), "globex").await || seen_in_activity(cluster.primary(), "acme").await);

    drop(clients);
    end(colombo).await;
    end(mumbai).await;
    let (status, report) = json(&config, "report", &logs).await;
    assert_eq!((status, findings(&report, "danger")), (0, vec![]), "{report:#}");
    for tenant in ["acme", "globex"] {
        assert_eq!(served(&report, tenant), logged(&cluster, tenant), "{tenant}: {report:#}");
    }
    assert_eq!(served(&report, "globex").keys().collect::<Vec<_>>(), ["proof-1"]);
    assert_eq!(served(&report, "t0"), BTreeMap::new());
    let of =
        |tenant: &str| report["tenants"].as_array().unwrap().iter().find(|found| found["tenant"] == tenant).unwrap();
    let rows: Vec<String> = of("acme")["served"].as_array().unwrap().iter().map(row).collect();
    assert!(rows.iter().any(|row| row == "proof-2 in through colombo in lk: 1 sessions"), "{rows:?}");
    assert!(rows.iter().any(|row| row == "proof-1 lk through mumbai in in: 1 sessions"), "{rows:?}");
    let refusals: Vec<String> =
        of("globex")["refusals"].as_array().unwrap().iter().map(|row| row["reason"].to_string()).collect();
    assert_eq!(refusals, ["\"node_region\"", "\"token_region\""], "{report:#}");
    let place = &of("globex")["place"];
    assert_eq!(
        (&place["home"], &place["regions"], &place["cluster"]),
        (&"lk".into(), &serde_json::json!(["lk"]), &"main".into())
    );
    assert_eq!(
        (&place["servers"][1]["role"], &place["servers"][1]["allowed"]),
        (&"replica".into(), &false.into()),
        "{place:#}"
    );
    assert_eq!((&place["nodes"][0]["allowed"], &place["nodes"][1]["allowed"]), (&true.into(), &false.into()));
    // PostgreSQL replicates all of a cluster.
    assert!(
        findings(&report, "warning")
            .iter()
            .any(|text| text.starts_with("copy_outside: server proof-2") && text.contains("globex"))
    );
    assert_eq!(json(&config, "report", &[&logs[..], &["--strict"]].concat()).await.0, 1);

    holes_are_told(&config, &one, &two).await;
}

fn row(row: &Value) -> String {
    let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
    format!(
        "{} {} through {} in {}: {} sessions",
        text("server"),
        text("region"),
        text("node"),
        text("node_region"),
        row["sessions"]
    )
}

/// What a report is not sound without.
async fn holes_are_told(config: &Path, one: &Log, two: &Log) {
    let (own, other) = (one.path.to_str().unwrap(), two.path.to_str().unwrap());
    let (status, report) = json(config, "report", &[]).await;
    let dangers = findings(&report, "danger");
    assert!(status == 1 && dangers.len() == 1 && dangers[0].contains("no log of node mumbai"), "{dangers:?}");
    let text = one.text();
    let changed =
        text.replacen("\"server\":\"proof-2\",\"region\":\"in\"", "\"server\":\"proof-1\",\"region\":\"lk\"", 1);
    assert_ne!(text, changed);
    std::fs::write(&one.path, &changed).unwrap();
    let output = residency(config, "report", &["--audit", own, "--audit", other]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the proof has a hole") && said.contains("was changed"), "{said}");
    // A line that is gone, a log that is gone, a time from before the log.
    let mut lines: Vec<&str> = text.lines().collect();
    lines.remove(4);
    std::fs::write(&one.path, lines.join("\n") + "\n").unwrap();
    let (status, report) = json(config, "report", &["--audit", own, "--audit", other]).await;
    assert!(status == 1 && findings(&report, "danger")[0].contains("was removed"), "{report:#}");
    // As it would be put aside, and with what a command has written beside it.
    let (first, rest) = text.split_at(text.find("{\"seq\":6,").unwrap());
    std::fs::write(one.folder.path().join("audit.jsonl.000000000001"), first).unwrap();
    std::fs::write(&one.path, rest).unwrap();
    suspended(config, one).await;
    let page = one.folder.path().join("page.html");
    let arguments = ["--audit", own, "--audit", other, "--since", "1d", "--html", page.to_str().unwrap()];
    let (status, report) = json(config, "report", &arguments).await;
    assert_eq!((status, report["sound"].as_bool()), (0, Some(true)), "{report:#}");
    let logs: Vec<_> = report["logs"].as_array().unwrap().iter().map(|log| (&log["kind"], &log["files"])).collect();
    let expected = [("sessions", 2), ("commands", 1), ("sessions", 1)].map(|(kind, files)| (kind.into(), files.into()));
    assert_eq!(logs, expected.iter().map(|(kind, files)| (kind, files)).collect::<Vec<(&Value, &Value)>>());
    let acme = report["tenants"].as_array().unwrap().iter().find(|found| found["tenant"] == "acme").unwrap();
    assert_eq!(acme["administration"][0]["act"], "tenant_suspend", "{acme:#}");
    assert!(findings(&report, "warning").iter().any(|text| text.starts_with("log_begins_late")), "{report:#}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<h2>Tenant globex</h2>") && page.contains("token_region"), "{page}");
    std::fs::remove_file(&two.path).unwrap();
    let (status, report) = json(config, "report", &["--audit", own, "--audit", other]).await;
    assert!(status == 1 && findings(&report, "danger").iter().any(|text| text.contains(other)), "{report:#}");
    assert_eq!(residency(config, "report", &["--tenant", "initech"]).await.status.code(), Some(1));
}

/// What the command that suspends a tenant records.
async fn suspended(config: &Path, log: &Log) {
    let settings = config::load(config).unwrap();
    let file = log.folder.path().join("audit.admin.jsonl");
    let rules = config::Audit { file, ..settings.audit.clone().unwrap() };
    let audit = Audit::start(Some(&rules), Here::from(&settings), &Arc::new(Telemetry::new())).unwrap();
    let tenant = Some(TenantId::parse("acme").unwrap());
    let (act, outcome) = ("tenant_suspend", "done");
    audit.record(|| Event::Administration { act, tenant, place: None, operator: None, outcome });
    audit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_serve_a_tenant_is_what_does_before_and_after_a_failover() {
    let mut cluster = replicated::pair("explained").await;
    let log = Log::new();
    let stage = node(&cluster, "colombo", &log).await;
    let config = configuration(&log);
    let server = |said: &Value, at: usize, what: &str| said["servers"][at][what].clone();
    let (status, said) = json(&config, "explain", &["--tenant", "acme"]).await;
    assert_eq!((status, &said["refused"]), (0, &Value::Null), "{said:#}");
    assert_eq!(
        (&said["writes"], &said["reads"]),
        (&"explained-1".into(), &serde_json::json!(["explained-2"])),
        "{said:#}"
    );
    assert_eq!(server(&said, 1, "no_writes"), "it is a replica");
    let (status, said) = json(&config, "explain", &["--tenant", "globex"]).await;
    assert_eq!(
        (status, &said["writes"], &said["reads"]),
        (0, &"explained-1".into(), &serde_json::json!(["explained-1"]))
    );
    assert_eq!(server(&said, 1, "no_reads"), "it is in a region where the tenant's data may not be");
    // What it says is what happens.
    drop(traffic(&stage, &cluster, "globex", false).await);
    for (arguments, why) in [
        (["--node", "mumbai"], "this pgward is in region in"),
        (["--token-region", "in"], "the token allows region in only"),
        (["--role", "nobody"], "no login for access nobody"),
    ] {
        let output = residency(&config, "explain", &[&["--tenant", "globex"][..], &arguments].concat()).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(why), "{arguments:?}: {text}");
    }

    cluster.primary_mut().kill().await.unwrap();
    let (status, said) = json(&config, "explain", &["--tenant", "acme"]).await;
    assert_eq!((status, &said["writes"], &said["reads"]), (1, &Value::Null, &serde_json::json!([])), "{said:#}");
    assert!(said["notes"].to_string().contains("there is no primary"), "{said:#}");
    promote(&cluster.replicas()[0]).await;
    until("the new primary", async || shown(&stage, "explained-2").await[2] == "yes").await;
    let (status, said) = json(&config, "explain", &["--tenant", "acme"]).await;
    assert_eq!(
        (status, &said["writes"], &said["reads"]),
        (0, &"explained-2".into(), &serde_json::json!(["explained-2"])),
        "{said:#}"
    );
    assert!(
        server(&said, 0, "no_writes").as_str().unwrap().starts_with("it does not answer (cannot connect"),
        "{said:#}"
    );
    stage.connect("acme").await.batch_execute("insert into orders (item) values ('x')").await.unwrap();
    let own = ["--audit", log.path.to_str().unwrap(), "--tenant", "acme"];
    let (_, report) = json(&config, "report", &own).await;
    let servers = &report["clusters"][0]["servers"];
    assert_eq!((&servers[1]["role"], &servers[1]["writes"]), (&"primary".into(), &true.into()), "{report:#}");
    assert!(findings(&report, "warning").iter().any(|text| text.contains("what server explained-1 is")), "{report:#}");
    let (status, said) = json(&config, "explain", &["--tenant", "globex"]).await;
    assert_eq!(status, 1, "{said:#}");
    assert_eq!(said["refused"], "server explained-2 is in region in, where the tenant's data may not be");
    assert_eq!(code(&stage.try_connect(&stage.url("globex", "app")).await.err().unwrap()), "28000");
}

#[tokio::test]
async fn a_session_that_only_listens_and_one_that_changes_its_tenant_are_in_the_log_by_tenant() {
    let log = Log::new();
    let stage = Stage::new(&log.table("")).await;
    let mut listens = stage.raw("t7").await;
    listens.query("listen told").await;
    log.await_line("served", &[("tenant", "t7"), ("server", "main-1"), ("region", "lk")]).await;
    let mut raw = stage.raw("acme").await;
    for _ in 0..3 {
        raw.query("select count(*) from orders").await;
    }
    raw.query(&format!("set pgward.token = '{}'", stage.token("globex", "app"))).await;
    let first = log.await_line("served_again", &[("tenant", "acme"), ("times", "2")]).await;
    assert!(first["until"].as_str() <= first["time"].as_str() && first["node"].is_null(), "{first}");
    raw.query("select count(*) from orders").await;
    log.await_line("served", &[("tenant", "globex")]).await;
    raw.query("select count(*) from orders").await;
    raw.query("reset pgward.token").await;
    log.await_line("served_again", &[("tenant", "globex"), ("times", "1")]).await;
    drop(raw);
    log.await_line("session_end", &[("session", &first["session"].to_string())]).await;
    assert_eq!((log.of("served").len(), log.of("served_again").len()), (3, 2), "{}", log.text());
    end(stage).await;
    log::assert_good(&[&log.path]);
}
