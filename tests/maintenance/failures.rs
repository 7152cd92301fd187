//! What goes wrong is seen, said and tried again, and clients go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgward::sidecar::maintenance::Verdict;

use crate::place::{Place, word};
use crate::support::{one, until};

#[tokio::test]
async fn a_client_that_keeps_its_transaction_open_stops_neither_others_nor_the_next_turn() {
    let place = Place::new("locked_out").await;
    place.write(
        &place
            .text("maintenance = { lock_timeout = \"100ms\" }\n")
            .replace("column = \"at\"\nretention", "column = \"at\"\npremake = 8\nretention"),
    );
    let stage = place.serving().await;
    let holder = stage.connect("a").await;
    holder.batch_execute("begin; select * from events").await.unwrap();
    // Writes all the while.
    let stop = Arc::new(AtomicBool::new(false));
    let writer = stage.connect("b").await;
    let stopped = Arc::clone(&stop);
    let writing = tokio::spawn(async move {
        let (mut slowest, mut writes) = (Duration::ZERO, 0);
        while !stopped.load(Ordering::Relaxed) {
            let begin = Instant::now();
            writer.batch_execute("insert into events (at, body) values (now(), 'traffic')").await.unwrap();
            slowest = slowest.max(begin.elapsed());
            writes += 1;
        }
        (slowest, writes)
    });
    let turn = place.turn("events").await;
    stop.store(true, Ordering::Relaxed);
    let (slowest, writes) = writing.await.unwrap();
    assert_eq!(word(&turn), "lock_timeout", "{turn:?}");
    assert!(slowest < Duration::from_secs(2) && writes > 10, "{writes} writes, the slowest took {slowest:?}");
    assert_eq!(place.one("select failed from partman.pgward_state where label = 'events'").await, "lock_timeout");
    holder.batch_execute("commit").await.unwrap();
    let turn = place.turn("events").await;
    assert_eq!((&turn.verdict, turn.deeds.made), (&Verdict::Done, 4), "{turn:?}");
    assert_eq!(place.one("select failures from partman.pgward_state where label = 'events'").await, "0");
}

#[tokio::test]
async fn a_lock_that_goes_in_time_is_waited_for_within_the_turn() {
    let place = Place::new("locked_briefly").await;
    place.write(
        &place
            .text("maintenance = { lock_timeout = \"100ms\" }\n")
            .replace("column = \"at\"\nretention", "column = \"at\"\npremake = 8\nretention"),
    );
    let holder = place.admin().await;
    holder.batch_execute("begin; lock table events_default in access share mode").await.unwrap();
    let turn = place.turn("events");
    let release = async {
        place.until_waited_for(&holder, "events_default").await;
        holder.batch_execute("commit").await.unwrap();
    };
    let (turn, ()) = tokio::join!(turn, release);
    assert_eq!(turn.verdict, Verdict::Done, "{turn:?}");
}

/// A tenant that dates a row ahead would keep its partition from being made, and one that dates it far ahead would have
/// one made for every day until then.
#[tokio::test]
async fn a_row_dated_ahead_keeps_no_partition_from_being_made() {
    let place = Place::new("dated_ahead").await;
    let stage = place.serving().await;
    let client = stage.connect("a").await;
    let ahead = "insert into events (at, body) values (now() + interval '6 days', 'soon'), ('9999-01-01', 'never'),
        ('1990-01-01', 'long ago')";
    client.batch_execute(ahead).await.unwrap();
    let turn = place.turn("events").await;
    // The one that is too old is gone by its class.
    assert_eq!((turn.deeds.made, turn.deeds.rows), (0, 1), "{turn:?}");
    assert_eq!(turn.standing.unwrap().default_rows, 2);
    place.change("column = \"at\"\nretention", "column = \"at\"\npremake = 8\nretention");
    let turn = place.turn("events").await;
    assert_eq!((&turn.verdict, turn.deeds.made), (&Verdict::Done, 4), "{turn:?}");
    assert_eq!(turn.standing.unwrap().default_rows, 1);
    assert_eq!(
        one(&client, "select tableoid::regclass <> 'events_default'::regclass from events where body = 'soon'").await,
        "t"
    );
    assert_eq!(one(&client, "select double from events where body = 'soon'").await, "soonsoon");
    let status = String::from_utf8(place.command("status").await.stderr).unwrap();
    assert!(status.contains("public.events has 1 rows that fit into no partition"), "{status}");
}

#[tokio::test]
async fn rows_that_others_refer_to_are_not_moved_by_themselves() {
    let place = Place::new("referred_to").await;
    let sql = "create table notes (tenant_id text, id bigint, at timestamptz,
            foreign key (tenant_id, id, at) references events on delete cascade);
        insert into events (at, tenant_id) values (now() + interval '6 days', 'a');
        insert into notes select tenant_id, id, at from events";
    place.admin().await.batch_execute(sql).await.unwrap();
    place.change("column = \"at\"\nretention", "column = \"at\"\npremake = 8\nretention");
    assert_eq!(word(&place.turn("events").await), "rows_in_the_way");
    assert_eq!(place.one("select count(*) from notes").await, "1");
}

#[tokio::test]
async fn tables_that_cannot_be_kept_are_said_and_the_others_are_kept() {
    let place = Place::bare("unkept").await;
    let said = place.fails("run").await;
    assert!(said.contains("pgward maintenance setup"), "{said}");
    place.admin().await.batch_execute("alter table events owner to postgres").await.unwrap();
    let said = place.fails("setup").await;
    assert!(said.contains("belongs to postgres, a superuser"), "{said}");
    place.admin().await.batch_execute("alter table events owner to unkept_app").await.unwrap();
    let said = place.fails("setup").await;
    assert!(said.contains("belongs to unkept_app, a login of tenants"), "{said}");
    place.admin().await.batch_execute("alter table events owner to unkept_owner").await.unwrap();
    place.done("setup").await;
    place.admin().await.batch_execute("alter table events rename to other").await.unwrap();
    let turns = place.turns().await;
    let verdict = |label: &str| turns.iter().find(|turn| turn.label.as_str() == label).unwrap();
    assert_eq!(word(verdict("events")), "no_table");
    assert_eq!(verdict("log").verdict, Verdict::Done);
    place.admin().await.batch_execute("create table events (at timestamptz, tenant_id text)").await.unwrap();
    assert_eq!(word(&place.turn("events").await), "not_partitioned");
    let sql = "drop table events; alter table other rename to events";
    place.admin().await.batch_execute(sql).await.unwrap();
    place.change("table = \"public.events\"\ncolumn = \"at\"", "table = \"public.events\"\ncolumn = \"id\"");
    assert_eq!(word(&place.turn("events").await), "column");
    place.change("column = \"id\"", "column = \"at\"");
    place.kept().await;
}

/// Whoever owns it decides what runs when it is changed.
#[tokio::test]
async fn a_shared_table_of_one_tenants_login_was_kept_as_it_wanted() {
    let place = Place::new("owned_by_one").await;
    place.admin().await.batch_execute("alter table events owner to owned_by_one_kandy").await.unwrap();
    let turn = place.turn("events").await;
    assert_eq!(word(&turn), "owner", "{turn:?}");
    let said = place.fails("setup").await;
    assert!(said.contains("belongs to owned_by_one_kandy, a login of tenants"), "{said}");
}

/// pg_partman takes a month for 30 days, and counted too many as ahead.
#[tokio::test]
async fn too_few_partitions_of_a_month_were_made_far_ahead() {
    let place = Place::bare("made_monthly").await;
    place.done("setup").await;
    place.change("column = \"at\"\nretention", "column = \"at\"\nevery = \"1 month\"\nretention");
    place.kept().await;
    place.change("every = \"1 month\"", "every = \"1 month\"\npremake = 100");
    let turn = place.turn("events").await;
    assert_eq!(turn.verdict, Verdict::Done, "{turn:?}");
    assert!(turn.deeds.made > 90 && turn.standing.unwrap().ahead >= 100);
    // Each is as closed as its table.
    let open = "select count(*) from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'events'::regclass and not c.relrowsecurity";
    assert_eq!(place.one(open).await, "0");
}

/// Another length went unheeded, and pg_partman's own book decided what was dropped.
#[tokio::test]
async fn partitions_of_another_length_than_is_said_are_a_failure_and_go_by_what_they_are() {
    let place = Place::new("lengthened").await;
    place.change("column = \"at\"\nretention", "column = \"at\"\nevery = \"1 week\"\nretention");
    assert_eq!(word(&place.turn("events").await), "interval");
    place.change("every = \"1 week\"\n", "");
    // A partition that is longer than pg_partman believes would go while it has rows that are kept.
    let longer = "create table events_long partition of events
        for values from (date_trunc('day', now() - interval '60 days')) to (date_trunc('day', now() - interval '10 days'));
        insert into events (at, tenant_id) values (now() - interval '11 days', 'b')";
    let admin = place.admin().await;
    admin.batch_execute(longer).await.unwrap();
    admin.batch_execute("alter table events_long owner to lengthened_owner").await.unwrap();
    place.day(65).await;
    let turn = place.turn("events").await;
    assert_eq!((&turn.verdict, turn.deeds.dropped), (&Verdict::Done, 1), "{turn:?}");
    assert_eq!(place.left(11).await, "b");
}

#[tokio::test]
async fn a_pg_partman_that_is_another_or_was_upgraded_is_not_driven() {
    let place = Place::new("upgraded").await;
    let admin = place.admin().await;
    let version = place.one("select extversion from pg_extension where extname = 'pg_partman'").await;
    let call_it = async |version: &str| {
        let sql = format!("update pg_extension set extversion = '{version}' where extname = 'pg_partman'");
        admin.batch_execute(&sql).await.unwrap();
    };
    call_it("5.1.0").await;
    assert_eq!(word(&place.turn("events").await), "version");
    let said = place.fails("setup").await;
    assert!(said.contains("pg_partman is 5.1.0 in database upgraded, and pgward drives 4.7"), "{said}");
    call_it(&version).await;
    // As an upgrade leaves it.
    let definer = "alter function partman.check_name_length(text, text, boolean) security definer";
    admin.batch_execute(definer).await.unwrap();
    assert_eq!(word(&place.turn("events").await), "not_set_up");
    place.done("setup").await;
    place.kept().await;
    admin.batch_execute("drop extension pg_partman").await.unwrap();
    assert_eq!(word(&place.turn("events").await), "not_set_up");
}

/// A turn of a shared table had no end where its server did not answer.
#[tokio::test]
async fn a_turn_that_takes_too_long_is_cut_short_and_others_have_theirs() {
    let place = Place::new("cut_short").await;
    place.write(&place.text("maintenance = { turn_timeout = \"6s\", lock_timeout = \"1m\" }\n"));
    let holder = place.admin().await;
    holder.batch_execute("begin; lock table events in access exclusive mode").await.unwrap();
    let turns = place.turns().await;
    let of = |label: &str| turns.iter().find(|turn| turn.label.as_str() == label).unwrap();
    assert_eq!(word(of("events")), "timeout", "{turns:?}");
    assert_eq!(of("log").verdict, Verdict::Done, "{turns:?}");
    holder.batch_execute("rollback").await.unwrap();
    until("it has a turn", async || place.turn("events").await.verdict == Verdict::Done).await;
}

/// As after a failover: another node may have the lock of the new primary by then.
#[tokio::test]
async fn whoever_loses_the_lock_went_on_with_the_other_tables() {
    let place = Place::new("lock_lost").await;
    place.write(&place.text("maintenance = { lock_timeout = \"1m\" }\n"));
    let holder = place.admin().await;
    holder.batch_execute("begin; lock table events in access exclusive mode").await.unwrap();
    let lose = async {
        let admin = place.admin().await;
        let here = "datname = current_database() and application_name = 'pgward maintenance'";
        let waits = format!("select count(*) > 0 from pg_stat_activity where {here} and wait_event_type = 'Lock'");
        until("the turn waits", async || one(&admin, &waits).await == "t").await;
        let guard = format!("from pg_stat_activity where {here} and state = 'idle in transaction'");
        assert_eq!(one(&admin, &format!("select pg_terminate_backend(pid) {guard}")).await, "t");
        until("the lock is lost", async || one(&admin, &format!("select count(*) {guard}")).await == "0").await;
        holder.batch_execute("rollback").await.unwrap();
    };
    let (turns, ()) = tokio::join!(place.turns(), lose);
    assert!(turns.iter().all(|turn| word(turn) == "connection"), "{turns:?}");
    assert!(turns.iter().all(|turn| turn.succeeded.is_some() == (turn.label.as_str() == "events")), "{turns:?}");
    place.kept().await;
}

#[tokio::test]
async fn only_one_works_on_a_database_at_a_time() {
    let place = Place::new("two_at_once").await;
    place.change("column = \"at\"\nretention", "column = \"at\"\npremake = 8\nretention");
    let (one, other, third) = tokio::join!(place.turns(), place.turns(), place.turns());
    let verdicts: Vec<&Verdict> = [&one, &other, &third].into_iter().flatten().map(|turn| &turn.verdict).collect();
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Done | Verdict::Elsewhere)), "{verdicts:?}");
    let holder = place.admin().await;
    holder.batch_execute("begin; lock table partman.pgward_state in share update exclusive mode").await.unwrap();
    let busy = place.turns().await;
    assert!(busy.iter().all(|turn| turn.verdict == Verdict::Elsewhere), "{busy:?}");
    // No tenant can keep others from it.
    let login = place.serving().await;
    let client = login.connect("a").await;
    assert!(client.batch_execute("lock table partman.pgward_state in access share mode").await.is_err());
    holder.batch_execute("rollback").await.unwrap();
    place.kept().await;
}
