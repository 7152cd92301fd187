//! What a tenant is held for stays, whenever the hold is set.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgward::config::Settings;
use pgward::sidecar::maintenance::{Answer, InForce, Verdict};
use tokio_postgres::Client;

use crate::place::{Place, word};
use crate::support::{Stage, until};

/// Puts the tenants of class bronze, `a` and the one with a schema, on hold, or lifts that.
fn hold(place: &Place, on_hold: bool) {
    let free = "class = \"bronze\"\ncluster";
    let held = "class = \"bronze\"\nlegal_hold = \"a court's order\"\ncluster";
    let (from, to) = if on_hold { (free, held) } else { (held, free) };
    place.change(from, to);
}

/// A client that reads the one partition in which `a` has rows, and so keeps it from being dropped; and that partition.
async fn reading(place: &Place) -> (Client, String) {
    let partition = place.partition_of("a", 40).await;
    let holder = place.admin().await;
    holder.batch_execute(&format!("begin; lock table only {partition} in access share mode")).await.unwrap();
    (holder, partition)
}

/// Until a turn is over that began after this.
async fn until_another_turn(place: &Place) {
    let turns = "select succeeded_at from partman.pgward_state where label = 'events'";
    // One may be under way.
    for _ in 0..2 {
        let before = place.one(turns).await;
        until("a turn is over", async || place.one(turns).await != before).await;
    }
}

/// Says this so many times, and then that.
struct Then {
    first: Arc<Settings>,
    times: AtomicUsize,
    then: Option<Arc<Settings>>,
}

impl InForce for Then {
    fn now(&self) -> Answer<'_> {
        let one_less = |left: usize| left.checked_sub(1);
        let first = self.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        Box::pin(std::future::ready(if first { Some(Arc::clone(&self.first)) } else { self.then.clone() }))
    }
}

/// Of a place whose tenants are put on hold after so many answers.
fn held_after(place: &Place, times: usize) -> Then {
    let first = Arc::new(place.settings());
    hold(place, true);
    let then = Some(Arc::new(place.settings()));
    hold(place, false);
    Then { first, times: AtomicUsize::new(times), then }
}

#[tokio::test]
async fn a_hold_that_is_set_during_a_turn_did_not_stop_the_drop() {
    let place = Place::new("held_drop").await;
    for ago in [40, 41] {
        place.day(ago).await;
        place.rows(ago, &["a", "b"]).await;
    }
    let kandy = "insert into held_drop_kandy.log select now() - interval '90 days'";
    place.admin().await.batch_execute(kandy).await.unwrap();
    let before = place.partitions().await;
    let turns = place.turns_by(&held_after(&place, 1)).await;
    assert!(turns.iter().all(|turn| turn.verdict == Verdict::Done), "{turns:?}");
    assert_eq!(turns.iter().map(|turn| turn.deeds.dropped).sum::<u64>(), 0, "{turns:?}");
    assert_eq!(place.partitions().await, before);
    // Those who are not held lose theirs, row by row.
    assert_eq!((place.left(40).await, place.left(41).await), ("a".to_owned(), "a".to_owned()));
    assert_eq!(place.one("select count(*) from held_drop_kandy.log").await, "1");
    assert_eq!(place.turn("events").await.deeds.dropped, 2);
}

#[tokio::test]
async fn a_hold_that_is_set_during_a_turn_did_not_stop_the_deleting() {
    let place = Place::new("held_rows").await;
    place.write(&place.text("maintenance = { batch = 10 }\n"));
    place.day(20).await;
    let many = "insert into events (at, body, tenant_id)
        select now() - interval '20 days', n::text, 'a' from generate_series(1, 100) n";
    place.admin().await.batch_execute(many).await.unwrap();
    // The first answer is for the turn as a whole.
    let turns = place.turns_by(&held_after(&place, 4)).await;
    let turn = turns.into_iter().find(|turn| turn.label.as_str() == "events").unwrap();
    assert_eq!((&turn.verdict, turn.deeds.rows), (&Verdict::Done, 30), "{turn:?}");
    assert_eq!(place.one("select count(*) from events where tenant_id = 'a'").await, "70");
}

/// Nobody knows whether it was a hold that cannot be read.
#[tokio::test]
async fn nothing_goes_while_it_is_in_doubt_what_may() {
    let place = Place::new("held_in_doubt").await;
    place.day(40).await;
    place.rows(40, &["a", "b"]).await;
    let before = place.partitions().await;
    let doubt = |times| Then { first: Arc::new(place.settings()), times: AtomicUsize::new(times), then: None };
    let turns = place.turns_by(&doubt(0)).await;
    assert!(turns.iter().all(|turn| turn.verdict == Verdict::Done), "{turns:?}");
    let turns = place.turns_by(&doubt(1)).await;
    let turn = turns.iter().find(|turn| turn.label.as_str() == "events").unwrap();
    assert_eq!(word(turn), "in_doubt", "{turn:?}");
    assert_eq!((place.partitions().await, place.left(40).await), (before, "a b".to_owned()));
}

/// The drop waited for a client's lock, and went on by what had been in force before that.
#[tokio::test]
async fn a_hold_that_is_set_while_the_drop_waits_for_a_client_is_heeded() {
    let place = Place::new("held_waiting").await;
    place.day(40).await;
    place.rows(40, &["a", "b"]).await;
    let before = place.partitions().await;
    let (holder, partition) = reading(&place).await;
    place.write(&place.text("maintenance = { interval = \"1s\", lock_timeout = \"1m\" }\n"));
    let stage = place.keeping().await;
    place.until_waited_for(&holder, &partition).await;
    hold(&place, true);
    stage.control.reload().await.unwrap();
    holder.batch_execute("commit").await.unwrap();
    until("the others' rows go", async || place.left(40).await == "a").await;
    assert_eq!(place.partitions().await, before);
}

/// A command had read the configuration once, when it began.
#[tokio::test]
async fn a_hold_that_is_set_while_a_command_waits_is_heeded() {
    let place = Place::new("held_command").await;
    place.write(&place.text("maintenance = { lock_timeout = \"1m\" }\n"));
    place.day(40).await;
    place.rows(40, &["a", "b"]).await;
    let before = place.partitions().await;
    let (holder, partition) = reading(&place).await;
    let holding = async {
        place.until_waited_for(&holder, &partition).await;
        hold(&place, true);
        holder.batch_execute("commit").await.unwrap();
    };
    tokio::join!(place.done("run"), holding);
    assert_eq!((place.partitions().await, place.left(40).await), (before, "a".to_owned()));
    hold(&place, false);
    place.done("run").await;
    assert_eq!(place.partitions().await, before - 1);
}

/// A catalogue beside the tenants of the configuration.
async fn with_catalogue(place: &Place) {
    let name = place.name;
    let sql = format!("create role {name}_reader login");
    place.admin().await.batch_execute(&sql).await.unwrap();
    let catalogue = format!(
        "maintenance = {{ interval = \"1s\" }}
         catalogue = {{ cluster = \"main\", database = \"{name}\", login = \"{name}_reader\", cache = \"cache\", poll = \"1s\" }}\n"
    );
    place.write(&place.text(&catalogue));
    let output = place.pgward("catalogue install").await;
    assert!(output.status.success(), "{}", crate::place::said(&output));
}

/// How many of the rows that are long past their time are left.
async fn left(place: &Place) -> String {
    place.one("select count(*) from events where tenant_id = 'a'").await
}

#[tokio::test]
async fn nothing_goes_by_a_catalogue_that_is_known_from_its_cache_alone() {
    let place = Place::new("held_cached").await;
    with_catalogue(&place).await;
    let first = Stage::at(place.path()).await;
    let cache = place.path().with_file_name("cache");
    until("there is a cache", async || cache.exists()).await;
    drop(first);
    place.rows(20_000, &["a"]).await;
    let reader = |can: &str| format!("alter role held_cached_reader {can}");
    place.admin().await.batch_execute(&reader("nologin")).await.unwrap();
    let stage = place.keeping().await;
    assert!(stage.settings.catalogue.as_ref().unwrap().snapshot.cached);
    until_another_turn(&place).await;
    assert_eq!(left(&place).await, "1");
    // It was in doubt for ever where the table said what the cache had said.
    place.admin().await.batch_execute(&reader("login")).await.unwrap();
    until("the row goes once the table was read", async || left(&place).await == "0").await;
}

#[tokio::test]
async fn nothing_goes_while_the_catalogue_cannot_be_read_any_more() {
    let place = Place::new("held_unread").await;
    with_catalogue(&place).await;
    let stage = place.keeping().await;
    let standing = stage.control.catalogue.clone().unwrap();
    until("the catalogue is watched", async || standing.is_told()).await;
    let admin = place.admin().await;
    let gone = "alter role held_unread_reader nologin;
        select pg_terminate_backend(pid) from pg_stat_activity where usename = 'held_unread_reader'";
    admin.batch_execute(gone).await.unwrap();
    until("the catalogue is not watched", async || !standing.is_told()).await;
    place.rows(20_000, &["a"]).await;
    until_another_turn(&place).await;
    assert_eq!(left(&place).await, "1");
    admin.batch_execute("alter role held_unread_reader login").await.unwrap();
    until("the row goes once it is read again", async || left(&place).await == "0").await;
}
