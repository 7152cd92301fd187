//! How much is lost with a primary and its disk: when the archive alone is left, and when the log was received, too.

use std::time::{Duration, Instant};

use pgward::sidecar::backup::{Scratch, Target, Unseen, Wanted};

use crate::place::{Place, place, place_that_receives};
use crate::support::{Stage, eventually, one};

/// Writes a little all the time, longer than may be lost, and returns when the last was acknowledged. Then the server is
/// killed and its disk is gone.
async fn lose(place: &mut Place, archive_timeout: &str) -> String {
    let client = place.cluster.primary().connect("app").await.unwrap();
    let set = format!("alter system set archive_timeout = '{archive_timeout}'");
    for sql in [set.as_str(), "select pg_reload_conf()", "create table shop.writes (at timestamptz primary key)"] {
        client.batch_execute(sql).await.unwrap();
    }
    place.back_up().await;
    let (begin, mut acknowledged) = (Instant::now(), String::new());
    while begin.elapsed() < Duration::from_secs(20) {
        acknowledged = one(&client, "insert into shop.writes values (clock_timestamp()) returning at").await;
        // No segment is to be full before it is time to archive it.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    place.cluster.primary_mut().kill().await.unwrap();
    std::fs::remove_dir_all(place.cluster.primary().data()).unwrap();
    acknowledged
}

/// How many seconds of writes do not come back.
async fn lost(place: &Place, acknowledged: &str, received: bool) -> f64 {
    let wanted = Wanted { repository: None, set: None, target: Target::End, received };
    let copy = Scratch::restore(&place.site, &wanted, &mut Unseen).await.unwrap();
    let client = copy.connect("app").await.unwrap();
    let sql = format!("select extract(epoch from '{acknowledged}'::timestamptz - max(at))::float8 from shop.writes");
    let (lost, came_back) = (one(&client, &sql).await, one(&client, "select count(*) from shop.writes").await);
    println!("of writes until {acknowledged}, {came_back} came back; lost: the last {lost:?} s");
    // None came back: more is lost than was written in.
    lost.parse().unwrap_or(f64::INFINITY)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_under_writes_and_loses_its_disk_takes_seconds_with_it() {
    let mut place = place("loss").await;
    let acknowledged = lose(&mut place, "5s").await;
    let lost = lost(&place, &acknowledged, false).await;
    assert!((0.0..10.0).contains(&lost), "{lost} s are lost of 20, and the log was to be archived every 5 s");
}

/// No segment is archived before it is full, so that the archive alone has nothing of what was written here.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_whose_log_was_received_takes_next_to_nothing_with_it() {
    let mut place = place_that_receives("received").await;
    let stage = Stage::at(place.file.clone()).await;
    let receiving = "pgward_wal_receiving{cluster=\"main\"}";
    eventually("the log to be received", Duration::from_secs(60), async || stage.metric(receiving).await == 1.0).await;
    let acknowledged = lose(&mut place, "0").await;
    eventually("the loss to be noticed", Duration::from_secs(60), async || stage.metric(receiving).await == 0.0).await;
    let (archived, received) = (lost(&place, &acknowledged, false).await, lost(&place, &acknowledged, true).await);
    assert!(archived > 10.0, "{archived} s are lost with the archive alone, so nothing is shown");
    assert!((0.0..5.0).contains(&received), "{received} s are lost, though the log was received as it was written");
}
