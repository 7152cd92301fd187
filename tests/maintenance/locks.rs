//! pg_partman does nothing while somebody has its advisory lock, which any tenant can have, and says so by a notice alone.

use pgward::sidecar::maintenance::{Turn, Verdict};

use crate::place::{Place, word};
use crate::support::{one, until};

const MAKING: &str = "pg_partman run_maintenance";
const DROPPING: &str = "pg_partman drop_partition_time";

/// What is said names the process and its login, so that somebody can end it.
fn names(turn: &Turn, lock: &str, process: &str, login: &str) {
    let Verdict::Failed { text, .. } = &turn.verdict else { panic!("{turn:?}") };
    assert!(text.contains(&format!("process {process}, logged in as {login}")) && text.contains(lock), "{text}");
}

#[tokio::test]
async fn a_tenant_that_holds_pg_partmans_lock_is_no_success_and_stops_no_partitions() {
    let place = Place::new("lock_taken").await;
    let stage = place.serving().await;
    let client = stage.connect("a").await;
    client.batch_execute(&format!("select pg_advisory_lock(hashtext('{MAKING}'))")).await.unwrap();
    let process = one(&client, "select pg_backend_pid()").await;
    place.change("column = \"at\"\nretention", "column = \"at\"\npremake = 8\nretention");
    let turn = place.turn("events").await;
    assert_eq!(word(&turn), "locked", "{turn:?}");
    let ahead = "select count(*) from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'events'::regclass and c.relrowsecurity
            and substring(pg_get_expr(c.relpartbound, c.oid) from 'FROM \\(''([^'']+)''\\)')::timestamptz > now()";
    assert_eq!(place.one(ahead).await, "8");
    names(&turn, MAKING, &process, "lock_taken_app");
    assert_eq!(place.one("select failed from partman.pgward_state where label = 'events'").await, "locked");
    drop(client);
    until("the lock is gone", async || place.turn("events").await.verdict == Verdict::Done).await;
}

/// It was a success, with nothing dropped: what pg_partman says of it is a notice.
#[tokio::test]
async fn a_tenant_that_holds_pg_partmans_lock_for_dropping_was_not_seen() {
    let place = Place::new("lock_on_drop").await;
    let stage = place.serving().await;
    for ago in [40, 20] {
        place.day(ago).await;
        place.rows(ago, &["a", "b", "z"]).await;
    }
    let before = place.partitions().await;
    let client = stage.connect("a").await;
    // Shared, it is in the way all the same.
    client.batch_execute(&format!("select pg_advisory_lock_shared(hashtext('{DROPPING}'))")).await.unwrap();
    let process = one(&client, "select pg_backend_pid()").await;
    let turn = place.turn("events").await;
    assert_eq!((word(&turn), turn.deeds.dropped), ("locked", 0), "{turn:?}");
    names(&turn, DROPPING, &process, "lock_on_drop_app");
    // Nobody's rows are kept longer by it.
    assert_eq!((place.left(40).await, place.left(20).await), (String::new(), "b".to_owned()));
    drop(client);
    until("the lock is gone", async || place.turn("events").await.verdict == Verdict::Done).await;
    assert_eq!(place.partitions().await, before - 1);
}

/// What one tenant holds is not to keep another's rows.
#[tokio::test]
async fn rows_of_a_tenants_own_table_go_although_its_partitions_cannot_be_dropped() {
    let place = Place::new("lock_on_own").await;
    let kandy = "lock_on_own_kandy";
    let old = format!(
        "set role {kandy}; set timezone to 'UTC';
         select partman.create_partition_time('{kandy}.log', array[date_trunc('day', now() - interval '9 days')]);
         insert into {kandy}.log values (now() - interval '9 days', 'nine'), (now(), 'now')"
    );
    place.admin().await.batch_execute(&old).await.unwrap();
    let stage = place.serving().await;
    let client = stage.connect("a").await;
    client.batch_execute(&format!("select pg_advisory_lock(hashtext('{DROPPING}'))")).await.unwrap();
    let turn = place.turn("log").await;
    assert_eq!((word(&turn), turn.deeds.rows), ("locked", 1), "{turn:?}");
    assert_eq!(place.one(&format!("select string_agg(body, ' ') from {kandy}.log")).await, "now");
}
