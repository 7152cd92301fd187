//! How much is lost with a primary and its disk, when the archive alone is left.

use std::time::{Duration, Instant};

use pgward::sidecar::backup::{Scratch, Target, Unseen, Wanted};

use crate::place::place;
use crate::support::one;

/// What is aimed at. The log is archived every `archive_timeout` at the latest.
const GOAL: f64 = 30.0;
const ARCHIVED_EVERY: &str = "5s";
const WRITTEN_FOR: Duration = Duration::from_secs(14);

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_under_writes_and_loses_its_disk_takes_seconds_with_it() {
    let mut place = place("loss").await;
    let client = place.cluster.primary().connect("app").await.unwrap();
    let set = format!("alter system set archive_timeout = '{ARCHIVED_EVERY}'");
    for sql in [set.as_str(), "select pg_reload_conf()", "create table shop.writes (at timestamptz primary key)"] {
        client.batch_execute(sql).await.unwrap();
    }
    place.back_up().await;
    let (begin, mut acknowledged) = (Instant::now(), String::new());
    while begin.elapsed() < WRITTEN_FOR {
        acknowledged = one(&client, "insert into shop.writes values (clock_timestamp()) returning at").await;
    }
    place.cluster.primary_mut().kill().await.unwrap();
    std::fs::remove_dir_all(place.cluster.primary().data()).unwrap();

    let wanted = Wanted { repository: None, set: None, target: Target::End };
    let copy = Scratch::restore(&place.site, &wanted, &mut Unseen).await.unwrap();
    let client = copy.connect("app").await.unwrap();
    let lost = one(
        &client,
        &format!("select extract(epoch from '{acknowledged}'::timestamptz - max(at))::float8 from shop.writes"),
    )
    .await;
    let recovered = one(&client, "select count(*) from shop.writes").await;
    println!("of writes until {acknowledged}, {recovered} came back; lost: the last {lost} s");
    let lost: f64 = lost.parse().expect("some of what was written came back");
    assert!((0.0..GOAL).contains(&lost), "{lost} s are lost, and the goal is {GOAL} s");
    assert!(copy.recovered().last_commit.is_some());
}
