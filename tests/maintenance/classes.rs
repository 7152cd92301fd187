//! Rows are kept as long as their tenants' classes say.

use pgward::sidecar::maintenance::Verdict;

use crate::place::Place;
use crate::support::until;

#[tokio::test]
async fn rows_go_when_their_tenants_time_is_up_and_partitions_with_the_last_of_them() {
    let place = Place::new("kept_by_class").await;
    for ago in [40, 20, 10, 5] {
        place.day(ago).await;
        // Nobody knows `z`, so that the table's own 14 days hold for it as for `c`.
        place.rows(ago, &["a", "b", "c", "z"]).await;
    }
    let before = place.partitions().await;
    let turn = place.turn("events").await;
    assert_eq!((turn.deeds.dropped, turn.deeds.rows), (1, 4), "{turn:?}");
    assert_eq!(place.partitions().await, before - 1);
    for (ago, left) in [(40, ""), (20, "b"), (10, "b c z"), (5, "a b c z")] {
        assert_eq!(place.left(ago).await, left, "{ago} days ago");
    }
    let again = place.turn("events").await;
    assert_eq!((again.deeds.dropped, again.deeds.rows, again.deeds.made), (0, 0, 0), "{again:?}");
}

/// Old partitions are many and large, and mostly nothing is left to delete in them.
#[tokio::test]
async fn a_partition_is_read_again_only_once_it_was_written_to() {
    let place = Place::new("kept_once").await;
    place.day(20).await;
    place.rows(20, &["a", "b"]).await;
    assert_eq!(place.turn("events").await.deeds.rows, 1);
    let partition = place.partition_of("b", 20).await;
    // Whoever looks for rows to delete in it now waits for the lock, and in vain.
    let unread = async || {
        let holder = place.admin().await;
        holder.batch_execute(&format!("begin; lock table only {partition} in exclusive mode")).await.unwrap();
        let turn = place.turn("events").await;
        holder.batch_execute("rollback").await.unwrap();
        turn.verdict == Verdict::Done
    };
    // Connections tell what they have written a while later.
    until("it is not read again", unread).await;
    place.rows(20, &["a"]).await;
    until("a late row goes", async || place.turn("events").await.deeds.rows == 1).await;
    assert_eq!(place.left(20).await, "b");
}

/// Statistics begin anew at another server after a failover, and came to the number that had been noted.
#[tokio::test]
async fn a_late_row_was_overlooked_once_statistics_had_begun_anew() {
    let place = Place::new("kept_anew").await;
    place.day(20).await;
    let admin = place.admin().await;
    let old = "insert into events (at, tenant_id) select now() - interval '20 days', t from unnest($1::text[]) t";
    let written = async |tenants: &[&str]| {
        admin.execute(old, &[&tenants]).await.unwrap();
        admin.batch_execute("select pg_stat_force_next_flush()").await.unwrap();
        admin.batch_execute("select").await.unwrap();
    };
    written(&["b", "b"]).await;
    let partition = place.partition_of("b", 20).await;
    let writes = format!("select pg_stat_get_tuples_inserted('{partition}'::regclass)");
    until("they are counted", async || place.one(&writes).await == "2").await;
    assert_eq!(place.turn("events").await.deeds.rows, 0);
    admin.batch_execute("select pg_stat_reset()").await.unwrap();
    written(&["a", "a"]).await;
    until("they are counted anew", async || place.one(&writes).await == "2").await;
    assert_eq!(place.turn("events").await.deeds.rows, 2);
}

/// They were kept until the whole partition was old.
#[tokio::test]
async fn rows_outlived_their_time_where_it_is_shorter_than_a_partition() {
    let place = Place::bare("kept_shortly").await;
    place.done("setup").await;
    place.change("retention = \"7d\"", "retention = \"1h\"");
    place.change("column = \"at\"\nretention = \"14d\"", "column = \"at\"\nevery = \"1 month\"\nretention = \"14d\"");
    place.kept().await;
    // Nothing is subtracted from for ever.
    let early = "create table events_early partition of events for values from ('-infinity') to ('2001-01-01');
        alter table events_early owner to kept_shortly_owner";
    place.admin().await.batch_execute(early).await.unwrap();
    let rows = "insert into events (at, body, tenant_id)
        select now() - age, age::text, t from unnest('{a,b}'::text[]) t, unnest('{02:00,00:10}'::interval[]) age";
    place.admin().await.batch_execute(rows).await.unwrap();
    let left = "select string_agg(tenant_id || ' ' || body, ', ' order by tenant_id, body) from events";
    let turn = place.turn("events").await;
    assert_eq!((&turn.verdict, turn.deeds.dropped, turn.deeds.rows), (&Verdict::Done, 1, 1), "{turn:?}");
    assert_eq!(place.one(left).await, "a 00:10:00, b 00:10:00, b 02:00:00");
    // And once more of the same partition.
    place
        .admin()
        .await
        .batch_execute("update events set at = at - interval '1 hour' where tenant_id = 'a'")
        .await
        .unwrap();
    assert_eq!(place.turn("events").await.deeds.rows, 1);
    assert_eq!(place.one(left).await, "b 00:10:00, b 02:00:00");
}

#[tokio::test]
async fn a_tenant_on_hold_loses_nothing_and_others_lose_their_rows_all_the_same() {
    let place = Place::new("kept_on_hold").await;
    let hold = "class = \"bronze\"\nlegal_hold = \"a court's order\"";
    place.change("class = \"bronze\"", hold);
    let kandy = "insert into kept_on_hold_kandy.log select now() - interval '90 days'";
    place.admin().await.batch_execute(kandy).await.unwrap();
    place.day(40).await;
    place.rows(40, &["a", "b", "c", "z"]).await;
    // Far too old for any partition.
    place.rows(20_000, &["a", "b"]).await;
    let turns = place.kept().await;
    assert_eq!(turns.iter().map(|turn| turn.deeds.dropped).sum::<u64>(), 0, "{turns:?}");
    assert_eq!((place.left(40).await, place.left(20_000).await), ("a".to_owned(), "a".to_owned()));
    assert_eq!(place.one("select count(*) from kept_on_hold_kandy.log").await, "1");
    // And when it is lifted, what was held goes.
    place.change(hold, "class = \"bronze\"");
    let turn = place.turn("events").await;
    assert_eq!((turn.deeds.dropped, turn.deeds.rows), (1, 1), "{turn:?}");
    assert_eq!(place.one("select count(*) from kept_on_hold_kandy.log").await, "0");
}

#[tokio::test]
async fn without_a_retention_of_the_table_nothing_goes_but_what_a_class_says() {
    let place = Place::new("kept_for_ever").await;
    place.change("retention = \"14d\"\n", "");
    place.day(400).await;
    place.rows(400, &["a", "b", "c", "z"]).await;
    let turn = place.turn("events").await;
    assert_eq!((turn.deeds.dropped, turn.deeds.rows), (0, 2), "{turn:?}");
    assert_eq!(place.left(400).await, "c z");
}

#[tokio::test]
async fn one_run_deletes_no_more_than_it_may_and_waits_for_no_row_that_somebody_holds() {
    let place = Place::new("kept_in_batches").await;
    place.write(&place.text("maintenance = { batch = 3, max_rows = 10 }\n"));
    place.day(20).await;
    place.kept().await;
    let many = "insert into events (at, body, tenant_id)
        select now() - interval '20 days', n::text, 'a' from generate_series(1, 25) n";
    let admin = place.admin().await;
    admin.batch_execute(many).await.unwrap();
    // Else it tells of its writes a while later.
    admin.batch_execute("select pg_stat_force_next_flush()").await.unwrap();
    let holder = place.admin().await;
    holder.batch_execute("begin; select from events where body = '1' for update").await.unwrap();
    for left in [15, 5, 1, 1] {
        place.kept().await;
        assert_eq!(place.one("select count(*) from events where tenant_id = 'a'").await, left.to_string());
    }
    holder.batch_execute("commit").await.unwrap();
    place.kept().await;
    assert_eq!(place.one("select count(*) from events where tenant_id = 'a'").await, "0");
}

#[tokio::test]
async fn tenants_are_told_apart_by_a_column_that_is_no_text() {
    let place = Place::bare("kept_by_number").await;
    let sql = "alter table events add column tenant_no int not null default 0";
    place.admin().await.batch_execute(sql).await.unwrap();
    place.change("retention = \"14d\"", "retention = \"14d\"\ntenant_column = \"tenant_no\"");
    place.change("[tenants.a]", "[tenants.7]\nclass = \"bronze\"\ncluster = \"main\"\ndatabase = \"kept_by_number\"\nhome = \"lk\"\n[tenants.a]");
    place.done("setup").await;
    place.kept().await;
    place.day(10).await;
    place.rows(10, &["x", "y"]).await;
    place.admin().await.batch_execute("update events set tenant_no = 7 where tenant_id = 'x'").await.unwrap();
    place.kept().await;
    assert_eq!(place.left(10).await, "y");
    place.change("tenant_column = \"tenant_no\"", "tenant_column = \"nobody\"");
    assert_eq!(crate::place::word(&place.turn("events").await), "column");
}

#[tokio::test]
async fn a_tenant_is_added_with_its_class() {
    let place = Place::bare("kept_added").await;
    place.write(&place.text("tenants_file = \"tenants.toml\"\n"));
    std::fs::write(place.path().with_file_name("tenants.toml"), "").unwrap();
    let tenant = async |line: &str| {
        let output = place.pgward(&format!("tenant {line}")).await;
        assert!(output.status.success(), "{line}: {}", crate::place::said(&output));
        crate::place::said(&output)
    };
    tenant("add new --isolation rows --cluster main --database kept_added --home lk --class gold").await;
    assert_eq!(place.settings().tenants["new"].class.as_ref().map(|class| class.as_str()), Some("gold"));
    let shown = tenant("show new --json").await;
    assert!(shown.contains("\"class\": \"gold\""), "{shown}");
}
