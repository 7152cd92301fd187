//! The log, received as it is written: it goes on after whatever cuts it off, is let go when it is archived, and does not
//! get where it may not be.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgward::sidecar::backup::{Scratch, Target, Unseen, Wanted};
use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Place, place_that_receives};
use crate::support::{Stage, eventually, one};

const PATIENT: Duration = Duration::from_secs(120);

const RECEIVING: &str = "pgward_wal_receiving{cluster=\"main\"}";

async fn received(stage: &Stage) {
    eventually("the log to be received", PATIENT, async || stage.metric(RECEIVING).await == 1.0).await;
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| name.len() >= 24);
    names.sort();
    names
}

/// Whoever receives into this folder.
fn receivers(folder: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let words = format!("--directory\0{}\0", folder.display());
    let is_one = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(words.len()).any(|part| part == words.as_bytes())
    };
    pids.filter(is_one).filter_map(Pid::from_raw).collect()
}

/// So many segments are filled, archived, and not on the primary's disk any more.
async fn go_on(place: &Place, segments: usize) {
    let client = place.cluster.primary().connect("app").await.unwrap();
    for _ in 0..segments {
        client.batch_execute("insert into shop.same values (8)").await.unwrap();
        client.batch_execute("select pg_switch_wal()").await.unwrap();
    }
    let last = one(&client, "select pg_walfile_name(pg_switch_wal())").await;
    let archived = format!("select coalesce(last_archived_wal >= '{last}', false)::text from pg_stat_archiver");
    eventually("the log to be archived", PATIENT, async || one(&client, &archived).await == "true").await;
    client.batch_execute("checkpoint").await.unwrap();
}

async fn rows(place: &Place) -> String {
    let wanted = Wanted { repository: None, set: None, target: Target::End, received: true };
    let copy = Scratch::restore(&place.site, &wanted, &mut Unseen).await.unwrap();
    one(&copy.connect("app").await.unwrap(), "select count(*) from shop.same").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_comes_from_the_archive_and_it_is_gone_on_with_from_where_the_primary_is() {
    let place = place_that_receives("missed").await;
    place.back_up().await;
    let (folder, stage) = (place.repository("received"), Stage::at(place.file.clone()).await);
    received(&stage).await;
    place.run("insert into shop.same values (8)").await;
    eventually("what was written", PATIENT, async || !names(&folder).is_empty()).await;
    drop(stage);
    eventually("nobody to receive", PATIENT, async || receivers(&folder).is_empty()).await;
    let before = names(&folder);
    go_on(&place, 12).await;
    let client = place.cluster.primary().connect("app").await.unwrap();
    let gone = format!("select count(*) from pg_ls_waldir() where name = '{}'", &before[0][..24]);
    assert_eq!(one(&client, &gone).await, "0", "the primary has all of its log still, so nothing is tried");
    let stage = Stage::at(place.file.clone()).await;
    received(&stage).await;
    assert_eq!(names(&folder.join("aside")), before);
    // In neither repository yet, and on a disk that is lost.
    client.batch_execute("insert into shop.same values (9)").await.unwrap();
    let behind = "pgward_wal_receive_lag_bytes{cluster=\"main\"}";
    eventually("the last of it", PATIENT, async || stage.metric(behind).await == 0.0).await;
    assert_eq!(rows(&place).await, "17");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_receiver_is_started_again_and_what_every_repository_has_is_let_go() {
    let place = place_that_receives("killed").await;
    place.back_up().await;
    let (folder, stage) = (place.repository("received"), Stage::at(place.file.clone()).await);
    received(&stage).await;
    let first = receivers(&folder);
    assert_eq!(first.len(), 1, "{first:?}");
    kill_process(first[0], Signal::KILL).unwrap();
    let another = || receivers(&folder).iter().any(|pid| *pid != first[0]);
    eventually("another receiver", PATIENT, async || another()).await;
    received(&stage).await;
    go_on(&place, 3).await;
    let whole = || names(&folder).into_iter().filter(|name| name.len() == 24).count();
    eventually("what is archived to be let go", PATIENT, async || whole() == 0).await;
    assert!(!names(&folder).is_empty(), "what is being written is let go, too");
    let client = place.cluster.primary().connect("app").await.unwrap();
    assert_eq!(one(&client, "select count(*) from pg_replication_slots").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pgward_that_is_killed_leaves_no_receiver_and_the_next_goes_on() {
    let place = place_that_receives("orphan").await;
    let folder = place.repository("received");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pgward"));
    command.arg("run").arg(&place.file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let client = place.cluster.primary().connect("app").await.unwrap();
    let streaming = "select count(*) from pg_stat_replication where application_name = 'pgward_receive'";
    let mut pgward = command.kill_on_drop(true).spawn().unwrap();
    eventually("somebody to receive", PATIENT, async || one(&client, streaming).await == "1").await;
    // A second one is told that it is not its turn.
    let stage = Stage::at(place.file.clone()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((one(&client, streaming).await.as_str(), receivers(&folder).len()), ("1", 1));
    pgward.kill().await.unwrap();
    received(&stage).await;
    assert_eq!(receivers(&folder).len(), 1);
    drop(stage);
    eventually("nobody to receive", PATIENT, async || receivers(&folder).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_another_cluster_is_not_mixed_with_this_ones_and_traffic_goes_on() {
    let place = place_that_receives("another").await;
    let folder = place.repository("received");
    fs::create_dir(&folder).unwrap();
    let before = Stage::at(place.file.clone()).await;
    received(&before).await;
    drop(before);
    eventually("nobody to receive", PATIENT, async || receivers(&folder).is_empty()).await;
    let system = fs::read_to_string(folder.join("system")).unwrap();
    fs::write(folder.join("system"), "4711\n").unwrap();
    let stage = Stage::at(place.file.clone()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(stage.metric(RECEIVING).await, 0.0);
    assert!(receivers(&folder).is_empty());
    let status = Command::new(env!("CARGO_BIN_EXE_pgward"))
        .args(["backup", "status", "--cluster", "main"])
        .env("PGWARD_CONFIG", &place.file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&status.stdout);
    assert!(said.contains("nobody receives the log as it is written"), "{said}");
    assert_eq!(status.status.code(), Some(1));
    fs::write(folder.join("system"), system).unwrap();
    received(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_not_received_where_a_tenants_data_may_not_be() {
    let place = place_that_receives("abroad").await;
    let text = fs::read_to_string(&place.file).unwrap();
    let problems = |text: &str| {
        let file = place.file.with_file_name("changed.toml");
        fs::write(&file, text).unwrap();
        format!("{:?}", pgward::config::load(&file).unwrap_err())
    };
    let found = problems(&text.replacen("region = \"lk\"\n", "region = \"in\"\n", 1));
    assert!(found.contains("log that is received by this pgward"), "{found}");
    let found = problems(&text.replacen("region = \"lk\"\n", "", 1));
    assert!(found.contains("clusters.main.backup.receive_wal"), "{found}");
}
