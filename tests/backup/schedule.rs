//! What `pgward run` does by itself.

use std::time::Duration;

use pgward::base::clock;

use crate::place::Place;
use crate::support::{Stage, eventually};

const PATIENT: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_made_and_a_failure_is_told_and_tried_again() {
    let place = Place::new("due").await;
    // The folder that the repository is to be made in is a file: as with a disk that is full, nothing can be written.
    let (near, aside) = (place.folder.join("near"), place.folder.join("aside"));
    std::fs::rename(&near, &aside).unwrap();
    std::fs::write(&near, "").unwrap();
    let stage = Stage::at(place.config.clone()).await;
    let failing = "pgward_backup_failing{cluster=\"main\"}";
    eventually("the failure to be told", PATIENT, async || stage.metric(failing).await == 1.0).await;
    assert!(stage.metric("pgward_backup_failures_total{cluster=\"main\"}").await >= 1.0);
    // Clients notice nothing.
    let acme = stage.connect("acme").await;
    let rows = acme.query("select item from orders", &[]).await.unwrap();
    assert_eq!(rows.len(), 100);
    std::fs::remove_file(&near).unwrap();
    std::fs::rename(&aside, &near).unwrap();
    let last = "pgward_backup_last_seconds{cluster=\"main\",repository=\"near\"}";
    eventually("a backup", PATIENT, async || stage.metric(last).await > 0.0).await;
    eventually("the failure to be over", PATIENT, async || stage.metric(failing).await == 0.0).await;
    assert_eq!(place.labels("near").await.len(), 1);
    assert_eq!(stage.metric("pgward_backup_overdue{cluster=\"main\",repository=\"near\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_backup_is_tried_by_itself_when_that_is_due() {
    // The minute after next, in UTC.
    let at = (clock::unix_now() / 60 + 2) % (24 * 60);
    let verify_at = format!("verify_at = \"{:02}:{:02}\"\n", at / 60, at % 60);
    let place = Place::with("tried", &verify_at, "").await;
    place.done(&["backup", "run"]).await;
    let stage = Stage::at(place.config.clone()).await;
    let verified = "pgward_backup_verified_seconds{cluster=\"main\"}";
    assert_eq!(stage.metric(verified).await, 0.0);
    eventually("a trial", 2 * PATIENT, async || stage.metric(verified).await > 0.0).await;
    assert_eq!(stage.metric("pgward_backup_unsound{cluster=\"main\"}").await, 0.0);
    assert!(stage.metric("pgward_backup_rto_seconds{cluster=\"main\"}").await > 0.0);
    let status = place.done(&["backup", "status"]).await;
    assert!(status.contains("sound") && !status.contains("NOT SOUND"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_not_archived_is_an_alert() {
    let place = Place::with("stuck", "max_archive_lag = \"1s\"\n", "").await;
    place.done(&["backup", "run"]).await;
    place.archive_by("false archive-push").await;
    place.postgres("app").await.batch_execute("create table waits (); select pg_switch_wal()").await.unwrap();
    let stage = Stage::at(place.config.clone()).await;
    let alert = "pgward_archive_alert{cluster=\"main\"}";
    eventually("the alert", PATIENT, async || stage.metric(alert).await == 1.0).await;
    assert!(stage.metric("pgward_archive_waiting_bytes{cluster=\"main\"}").await > 0.0);
    let refused = place.refused(&["backup", "status"]).await;
    assert!(refused.contains("archived too slowly"), "{refused}");
    place.archived().await;
    eventually("the alert to be over", PATIENT, async || stage.metric(alert).await == 0.0).await;
    // For programs, too: a segment waits until it is full.
    let status = place.done(&["backup", "status", "--json"]).await;
    assert!(status.contains("\"archive_timeout\":0.0"), "{status}");
}
