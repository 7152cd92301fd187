//! A running pgward gives tables their turns by itself, and shows how they are.

use pgward::sidecar::maintenance::Verdict;

use crate::place::Place;
use crate::support::{Stage, until};

/// A gauge of one name of the configuration.
fn gauge(stage: &Stage, family: &str, table: &str) -> Option<f64> {
    let samples = stage.control.shared.telemetry.published();
    let of = |sample: &&pgward::telemetry::Sample| {
        sample.family.0 == family && sample.labels.contains(&("table", table.to_owned()))
    };
    samples.iter().find(of).map(|sample| sample.value)
}

const OFTEN: &str = "maintenance = { interval = \"1s\", alert_after = 2 }\n";

#[tokio::test]
async fn a_running_pgward_keeps_tables_and_counts_and_records_what_has_gone() {
    let place = Place::bare("kept_running").await;
    place.done("setup").await;
    let audit = place.path().with_file_name("audit.jsonl");
    place.write(&place.text(&format!("{OFTEN}audit.file = \"{}\"\n", audit.display())));
    let stage = place.keeping().await;
    until("partitions are there", async || gauge(&stage, "pgward_partitions_ahead", "events") >= Some(4.0)).await;
    assert!(stage.metric("pgward_partitions_made_total{cluster=\"main\",table=\"events\"}").await > 4.0);
    place.rows(20_000, &["a"]).await;
    let expired = "pgward_rows_expired_total{cluster=\"main\",table=\"events\"}";
    until("a row's time is up", async || stage.metric(expired).await == 1.0).await;
    until("that is recorded", async || {
        let lines = std::fs::read_to_string(&audit).unwrap();
        lines.lines().any(|line| line.contains("\"event\":\"expired\"") && line.contains("\"table\":\"public.events\""))
    })
    .await;
    assert_eq!(gauge(&stage, "pgward_maintenance_overdue", "events"), Some(0.0));
    assert!(gauge(&stage, "pgward_maintenance_success_timestamp_seconds", "log") > Some(1e9));
}

/// Whoever was killed in the middle of a turn had recorded nothing of what was gone by then.
#[tokio::test]
async fn what_a_turn_removes_was_not_recorded_before_its_end() {
    let place = Place::new("kept_in_steps").await;
    place.day(20).await;
    place.day(10).await;
    // It closes the new partitions, for which the second must not be locked yet.
    place.kept().await;
    place.rows(20, &["a"]).await;
    place.rows(10, &["a"]).await;
    let holder = place.admin().await;
    let later = place.partition_of("a", 10).await;
    holder.batch_execute(&format!("begin; lock table only {later} in exclusive mode")).await.unwrap();
    let audit = place.path().with_file_name("audit.jsonl");
    place.write(&place.text(&format!(
        "maintenance = {{ interval = \"1s\", lock_timeout = \"1m\" }}\naudit.file = \"{}\"\n",
        audit.display()
    )));
    let stage = place.keeping().await;
    place.until_waited_for(&holder, &later).await;
    assert_eq!((place.left(20).await, place.left(10).await), (String::new(), "a".to_owned()));
    let recorded = || {
        let text = std::fs::read_to_string(&audit).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter(|line| line["event"] == "expired").map(|line| line["rows"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    until("the first row is recorded", async || recorded() == [1]).await;
    let expired = "pgward_rows_expired_total{cluster=\"main\",table=\"events\"}";
    assert_eq!(stage.metric(expired).await, 1.0);
    holder.batch_execute("rollback").await.unwrap();
    until("the second row is recorded", async || recorded() == [1, 1]).await;
    assert_eq!(stage.metric(expired).await, 2.0);
}

#[tokio::test]
async fn a_table_that_is_not_kept_is_overdue_until_it_is_again() {
    let place = Place::new("kept_late").await;
    place.write(&place.text(OFTEN));
    let stage = place.keeping().await;
    until("it is kept", async || gauge(&stage, "pgward_maintenance_overdue", "events") == Some(0.0)).await;
    place.admin().await.batch_execute("alter table events rename to other").await.unwrap();
    until("it fails", async || gauge(&stage, "pgward_maintenance_failing", "events") == Some(1.0)).await;
    until("it is overdue", async || gauge(&stage, "pgward_maintenance_overdue", "events") == Some(1.0)).await;
    assert_eq!(gauge(&stage, "pgward_maintenance_overdue", "log"), Some(0.0));
    assert!(stage.metric("pgward_maintenance_failures_total{cluster=\"main\",table=\"events\"}").await > 0.0);
    place.admin().await.batch_execute("alter table other rename to events").await.unwrap();
    until("it is kept again", async || gauge(&stage, "pgward_maintenance_overdue", "events") == Some(0.0)).await;
    assert_eq!(gauge(&stage, "pgward_maintenance_failing", "events"), Some(0.0));
}

/// A second cluster beside the place's own, whose table another holds.
fn with_slow(place: &Place, slow: &Place) -> String {
    let port = place.settings().clusters.values().next().unwrap().servers[0].port;
    let other = format!(
        "[clusters.aslow]
         maintenance = {{ role = \"{0}_maintenance\", password = \"slow\" }}
         tls.mode = \"off\"
         servers = [{{ name = \"slow-1\", host = \"127.0.0.1\", port = {port}, region = \"lk\" }}]
         partitions.slow = {{ database = \"{0}\", table = \"public.events\", column = \"at\" }}
         [classes.bronze]",
        slow.name
    );
    place.text(OFTEN).replace("[classes.bronze]", &other)
}

/// Its tables were a secret until the last of another cluster had had its turn.
#[tokio::test]
async fn a_cluster_that_hangs_kept_the_others_waiting_and_was_not_seen() {
    let (place, slow) = (Place::new("kept_beside").await, Place::new("kept_slowly").await);
    place.write(&with_slow(&place, &slow).replace("alert_after = 2", "alert_after = 2, lock_timeout = \"1m\""));
    let holder = slow.admin().await;
    holder.batch_execute("alter role kept_slowly_maintenance password 'slow'").await.unwrap();
    holder.batch_execute("begin; lock table events in access exclusive mode").await.unwrap();
    let kept = "select extract(epoch from succeeded_at)::text from partman.pgward_state where label = 'events'";
    let before = place.one(kept).await;
    let stage = place.keeping().await;
    until("one is kept", async || place.one(kept).await != before).await;
    until("that is shown", async || gauge(&stage, "pgward_partitions_ahead", "events") >= Some(4.0)).await;
    let waits = "select count(*) > 0 from pg_locks where not granted
        and database = (select oid from pg_database where datname = current_database())";
    until("the other hangs", async || slow.one(waits).await == "t").await;
    until("the other is overdue", async || gauge(&stage, "pgward_maintenance_overdue", "slow") == Some(1.0)).await;
    let before = place.one(kept).await;
    until("one is kept again", async || place.one(kept).await != before).await;
    assert_eq!(gauge(&stage, "pgward_maintenance_overdue", "events"), Some(0.0));
    holder.batch_execute("rollback").await.unwrap();
    until("both are kept", async || gauge(&stage, "pgward_maintenance_overdue", "slow") == Some(0.0)).await;
    // What is not kept any more is not shown.
    place.write(&place.text(OFTEN));
    stage.control.reload().await.unwrap();
    until("one is gone", async || gauge(&stage, "pgward_maintenance_overdue", "slow").is_none()).await;
}

#[tokio::test]
async fn what_is_known_was_shown_only_when_every_table_had_had_its_turn() {
    let place = Place::new("kept_shown").await;
    place.write(&place.text("maintenance = { interval = \"1s\", lock_timeout = \"1m\" }\n"));
    let holder = place.admin().await;
    holder.batch_execute("begin; lock table kept_shown_kandy.log in access exclusive mode").await.unwrap();
    let stage = place.keeping().await;
    until("what is known is shown", async || gauge(&stage, "pgward_partitions_ahead", "events") >= Some(4.0)).await;
    assert!(gauge(&stage, "pgward_partitions_ahead", "log").unwrap().is_nan());
    holder.batch_execute("rollback").await.unwrap();
    until("the rest follows", async || gauge(&stage, "pgward_partitions_ahead", "log") >= Some(2.0)).await;
}

#[tokio::test]
async fn two_nodes_keep_the_same_tables_and_a_reload_is_followed() {
    let place = Place::new("kept_by_two").await;
    place.write(
        &place
            .text(OFTEN)
            .replace("[clusters.main.partitions.log]\ntable = \"*.log\"\ncolumn = \"at\"\npremake = 2\n", ""),
    );
    let (one, other) = (place.keeping().await, place.keeping().await);
    for stage in [&one, &other] {
        until("both know", async || gauge(stage, "pgward_partitions_ahead", "events") >= Some(4.0)).await;
        assert_eq!(gauge(stage, "pgward_partitions_ahead", "log"), None);
    }
    place.write(&place.text(OFTEN).replace("premake = 2", "premake = 6"));
    one.control.reload().await.unwrap();
    until("the new table is kept", async || gauge(&one, "pgward_partitions_ahead", "log") >= Some(6.0)).await;
    until("as told by the state", async || gauge(&one, "pgward_maintenance_overdue", "log") == Some(0.0)).await;
    for stage in [&one, &other] {
        assert_eq!(gauge(stage, "pgward_maintenance_failing", "events"), Some(0.0));
    }
    place.write(&place.text(OFTEN).replace("[clusters.main.partitions.events]", "[clusters.main.partitions.renamed]"));
    one.control.reload().await.unwrap();
    until("what is gone shows nothing", async || gauge(&one, "pgward_partitions_ahead", "events").is_none()).await;
}

#[tokio::test]
async fn status_shows_each_table_and_json_is_for_programs() {
    let place = Place::new("shown").await;
    let text = place.done("status --cluster main").await;
    assert!(text.lines().any(|line| line.contains("public.events") && line.contains(" ok ")), "{text}");
    let rows: serde_json::Value = serde_json::from_str(&place.done("run --json").await).unwrap();
    let events = rows.as_array().unwrap().iter().find(|row| row["name"] == "events").unwrap();
    assert!(events["state"] == "done" && events["standing"]["ahead"].as_i64() >= Some(4), "{rows:#}");
    let said = place.fails("run --cluster other").await;
    assert!(said.contains("there is no cluster other"), "{said}");
    let again: serde_json::Value = serde_json::from_str(&place.done("status --json").await).unwrap();
    assert!(again[0]["next_in_seconds"].as_u64() > Some(3_000), "{again:#}");
    assert!(place.turns().await.iter().all(|turn| turn.verdict == Verdict::Done));
}
