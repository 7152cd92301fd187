//! The clusters that every other integration test stands on: they come up, and nothing of them stays.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgward::local::{Cluster, Stop};

async fn one(server: &pgward::local::Server, sql: &str) -> String {
    server.connect("postgres").await.unwrap().query_one(sql, &[]).await.unwrap().get(0)
}

fn alive(pid: u32) -> bool {
    // A zombie that nobody has reaped yet is not running.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_replica_shows_what_the_primary_wrote_and_both_go_with_the_cluster() {
    let mut cluster =
        Cluster::builder("pair").replica("pair-2").setting("max_connections", "37").start().await.unwrap();
    cluster.primary().run("postgres", "write", "create table t as select 42::text as answer").await.unwrap();
    cluster.caught_up().await.unwrap();
    let replica = &cluster.replicas()[0];
    assert_eq!(one(replica, "select answer from t").await, "42");
    assert_eq!(one(replica, "select pg_is_in_recovery()::text").await, "true");
    assert_eq!(one(replica, "show max_connections").await, "37");
    assert_eq!(one(cluster.primary(), "select count(*)::text from pg_replication_slots where active").await, "1");

    let pids: Vec<u32> = cluster.servers().map(|server| server.pid().unwrap()).collect();
    let folder = cluster.folder().to_owned();
    assert!(pids.iter().all(|pid| alive(*pid)));
    drop(cluster);
    assert!(!pids.iter().any(|pid| alive(*pid)), "a server outlived its cluster");
    assert!(!folder.exists(), "data outlived its cluster");
}

#[tokio::test]
async fn a_server_comes_back_on_its_own_port_after_a_stop_and_after_a_crash() {
    let mut cluster = Cluster::builder("phoenix").start().await.unwrap();
    let server = cluster.primary_mut();
    let port = server.port();
    server.stop(Stop::Fast).await.unwrap();
    assert!(!server.is_running() && server.connect("postgres").await.is_err());
    server.start().await.unwrap();
    server.kill().await.unwrap();
    server.start().await.unwrap();
    assert_eq!(server.port(), port);
    assert_eq!(one(server, "select 'back'").await, "back");
}

#[tokio::test]
async fn a_cluster_with_tls_answers_under_its_own_authority() {
    let cluster = Cluster::builder("sealed").tls().start().await.unwrap();
    assert!(cluster.authority().unwrap().client("alice").is_ok());
    assert_eq!(one(cluster.primary(), "show ssl").await, "on");
}

#[tokio::test]
async fn a_setting_that_the_server_refuses_is_told_with_the_servers_own_words() {
    let error = Cluster::builder("wrong").setting("work_mem", "plenty").start().await.err().unwrap().to_string();
    assert!(error.contains("work_mem"), "{error}");
}

/// Not a test by itself: what `a_killed_owner_leaves_nothing` kills.
#[tokio::test]
async fn victim() {
    let Some(report) = std::env::var_os("VICTIM_REPORT").map(PathBuf::from) else { return };
    let cluster = Cluster::builder("victim").replica("victim-2").start().await.unwrap();
    let pids: Vec<String> = cluster.servers().map(|server| server.pid().unwrap().to_string()).collect();
    let text = format!("{}\n{}\n", cluster.folder().display(), pids.join("\n"));
    std::fs::write(report.with_extension("part"), text).unwrap();
    std::fs::rename(report.with_extension("part"), report).unwrap();
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_owner_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim"])
        .env("VICTIM_REPORT", &report)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the victim's start", || report.exists());
    let text = std::fs::read_to_string(&report).unwrap();
    let mut lines = text.lines();
    let data = Path::new(lines.next().unwrap()).to_owned();
    let pids: Vec<u32> = lines.map(|line| line.parse().unwrap()).collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| alive(*pid)));
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_for("the servers' end", || !pids.iter().any(|pid| alive(*pid)));
    wait_for("the data's end", || !data.exists());
}
