//! The log, received as it is written: it goes on after whatever cuts it off, is let go when it is archived, and does not
//! get where it may not be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pgward::local::{Cluster, Stop};
use pgward::sidecar::backup::{Scratch, Target, Unseen, Wanted};
use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Place, place_of_that_receives, place_that_receives};
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

/// What has been written until now is on the disk of whoever receives.
async fn all_received(client: &tokio_postgres::Client) {
    let now = one(client, "select pg_current_wal_insert_lsn()").await;
    let sql = format!("select coalesce(max(flush_lsn) >= '{now}', false)::text from pg_stat_replication");
    eventually("the log to be received", PATIENT, async || one(client, &sql).await == "true").await;
}

/// A command, whether it succeeded, and what it said.
fn pgward(place: &Place, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
    let output = command.args(words).env("PGWARD_CONFIG", &place.file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// `pgward run`, and where it writes its log.
fn run(place: &Place, name: &str) -> (tokio::process::Child, PathBuf) {
    let log = place.repository(name);
    let file = fs::File::create(&log).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pgward"));
    command.arg("run").arg(&place.file).stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    (command.kill_on_drop(true).spawn().unwrap(), log)
}

async fn said(log: &Path, words: &str) {
    let found = || fs::read_to_string(log).unwrap().contains(words);
    eventually(&format!("{words:?} in the log"), PATIENT, async || found()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_comes_from_the_archive_and_it_is_gone_on_with_from_where_the_primary_is() {
    let place = place_that_receives("missed").await;
    place.back_up().await;
    let (folder, stage) = (place.repository("received"), Stage::at(place.file.clone()).await);
    received(&stage).await;
    place.run("insert into shop.same values (8)").await;
    let client = place.cluster.primary().connect("app").await.unwrap();
    all_received(&client).await;
    drop(stage);
    eventually("nobody to receive", PATIENT, async || receivers(&folder).is_empty()).await;
    let before = names(&folder);
    go_on(&place, 12).await;
    let gone = format!("select count(*) from pg_ls_waldir() where name = '{}'", &before[0][..24]);
    assert_eq!(one(&client, &gone).await, "0", "the primary has all of its log still, so nothing is tried");
    let stage = Stage::at(place.file.clone()).await;
    received(&stage).await;
    let aside = fs::read_dir(folder.join("aside")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(names(&aside), before);
    // In neither repository yet, and on a disk that is lost.
    client.batch_execute("insert into shop.same values (9)").await.unwrap();
    all_received(&client).await;
    assert_eq!(rows(&place).await, "17");
    let behind = "pgward_wal_receive_lag_bytes{cluster=\"main\"}";
    eventually("nothing to be missing", PATIENT, async || stage.metric(behind).await == 0.0).await;
    // A cluster that is restored to be started by hand takes it from there, too.
    let into = place.repository("into");
    let told = pgward(&place, &["backup", "restore", "--into", into.to_str().unwrap()]);
    assert!(told.0, "{}", told.1);
    let settings = fs::read_to_string(into.join("postgresql.auto.conf")).unwrap();
    assert!(settings.contains("archive-get") && settings.contains("/received''/%f.partial"), "{settings}");
    fs::rename(&folder, place.repository("elsewhere")).unwrap();
    let told = pgward(&place, &["backup", "restore", "--into", place.repository("again").to_str().unwrap()]);
    assert!(told.0 && told.1.contains("is not on this machine"), "{}", told.1);
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
    let client = place.cluster.primary().connect("app").await.unwrap();
    let streaming = "select count(*) from pg_stat_replication where application_name = 'pgward_receive'";
    let (mut first, _) = run(&place, "first.log");
    eventually("somebody to receive", PATIENT, async || one(&client, streaming).await == "1").await;
    let [before] = receivers(&folder)[..] else { panic!("{:?}", receivers(&folder)) };
    let (mut second, log) = run(&place, "second.log");
    said(&log, "pgward run, receiving the log").await;
    assert_eq!(receivers(&folder), [before]);
    first.kill().await.unwrap();
    said(&log, "the log is received as it is written").await;
    let [after] = receivers(&folder)[..] else { panic!("{:?}", receivers(&folder)) };
    assert_ne!(before, after);
    second.kill().await.unwrap();
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
    let (_running, log) = run(&place, "another.log");
    said(&log, "has the log of system 4711").await;
    assert!(receivers(&folder).is_empty());
    let status = pgward(&place, &["backup", "status", "--cluster", "main"]);
    assert!(!status.0 && status.1.contains("nobody receives the log as it is written"), "{}", status.1);
    fs::write(folder.join("system"), system).unwrap();
    said(&log, "the log is received as it is written").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_followed_and_an_old_primary_that_comes_back_is_not() {
    let let_in = "host replication pgward_backup 127.0.0.1/32 trust";
    let mut place = place_of_that_receives(Cluster::builder("turned").hba(let_in).replica("turned-2")).await;
    place.back_up().await;
    place.cluster.caught_up().await.unwrap();
    let (_running, log) = run(&place, "turned.log");
    said(&log, "the log is received as it is written").await;
    place.run("insert into shop.same values (8)").await;
    place.cluster.caught_up().await.unwrap();
    place.cluster.primary_mut().kill().await.unwrap();
    let promoted = place.cluster.replicas()[0].connect("app").await.unwrap();
    promoted.batch_execute("select pg_promote()").await.unwrap();
    promoted.batch_execute("insert into shop.same values (9)").await.unwrap();
    let streaming = "select count(*) from pg_stat_replication where application_name = 'pgward_receive'";
    eventually("it to be followed", PATIENT, async || one(&promoted, streaming).await == "1").await;
    all_received(&promoted).await;
    assert_eq!(rows(&place).await, "5");
    drop(promoted);
    place.cluster.replicas_mut()[0].stop(Stop::Immediate).await.unwrap();
    place.cluster.primary_mut().start().await.unwrap();
    said(&log, "takes writes on timeline 1, and the log was received up to timeline 2").await;
    assert_eq!(rows(&place).await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_received_by_tls_and_a_password() {
    let cluster = Cluster::builder("sealed").tls().setting("password_encryption", "scram-sha-256");
    let cluster = cluster.hba("hostssl replication pgward_backup 127.0.0.1/32 scram-sha-256");
    let place = place_of_that_receives(cluster.hba("hostnossl replication all all reject")).await;
    let stage = Stage::at(place.file.clone()).await;
    received(&stage).await;
    let client = place.cluster.primary().connect("app").await.unwrap();
    let ssl = "select ssl from pg_stat_ssl join pg_stat_replication using (pid)";
    assert_eq!(one(&client, ssl).await, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_no_standby_that_commits_wait_for_unless_it_is_named() {
    let place = place_that_receives("standby").await;
    let client = place.cluster.primary().connect("app").await.unwrap();
    let name = async |names: &str| {
        client.batch_execute(&format!("alter system set synchronous_standby_names = '{names}'")).await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
        eventually("the reload", PATIENT, async || one(&client, "show synchronous_standby_names").await == names).await;
    };
    client.batch_execute("set synchronous_commit = local").await.unwrap();
    name("*").await;
    let (_running, log) = run(&place, "standby.log");
    said(&log, "which would make it a standby that commits wait for").await;
    name("pgward_receive").await;
    said(&log, "the log is received as it is written").await;
    client.batch_execute("set synchronous_commit = on; insert into shop.same values (8)").await.unwrap();
    assert_eq!(one(&client, "select sync_state from pg_stat_replication").await, "sync");
}
