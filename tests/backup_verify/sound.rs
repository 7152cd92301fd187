//! What is sound is found sound, whatever is in it and whatever goes on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgward::sidecar::backup::{Against, Severity};

use crate::place::{dangers, passed, place};
use crate::support::one;

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_backup_is_found_sound_and_the_report_says_what_was_looked_at() {
    let place = place("sound").await;
    place.back_up().await;
    // What the copy has only from the log.
    place.run("update shop.orders set item = 'new' where id < 50; create table shop.late as select 1 as one").await;
    let verified = place.verify(Against::Fresh).await;
    assert!(verified.sound && verified.complete, "{:#?}", verified.findings);
    let comparison = verified.comparison.as_ref().unwrap();
    assert_eq!((comparison.moving, comparison.open), (0, 0));
    assert!(comparison.rows > 10_000, "{comparison:?}");
    for check in ["baseline", "archive", "comparison", "pg_amcheck", "checksums"] {
        assert!(passed(&verified, check), "{check}: {:#?}", verified.checks);
    }
    let (rto, rpo) = (verified.rto.as_ref().unwrap(), verified.rpo.as_ref().unwrap());
    assert!(!rto.restore.is_zero() && !rto.replay.is_zero() && rto.total == rto.restore + rto.replay);
    assert!(rpo.newest_commit.is_some() && rpo.behind_seconds.is_some_and(|behind| behind < 60.0), "{rpo:?}");
    let reports: Vec<_> = std::fs::read_dir(place.site.folder().join("reports")).unwrap().collect();
    let report = std::fs::read_to_string(reports[0].as_ref().unwrap().path()).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["sound"], true);
    assert_eq!(report["backup"]["repository"], "near");
    assert_eq!(report["backup"]["region"], "lk");
    assert!(report["rto"]["total_seconds"].as_f64().unwrap() > 0.0);
    place.assert_clean();
}

/// What is written around the restore point is no damage, and no damage is hidden by it: where the copy differs, it is
/// said that it was not shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_written_to_all_the_time_is_not_called_damaged() {
    let place = Arc::new(place("busy").await);
    place.back_up().await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..4).map(|writer| {
        let (place, stop) = (Arc::clone(&place), Arc::clone(&stop));
        tokio::spawn(async move {
            let client = place.cluster.primary().connect("app").await.unwrap();
            let mut written = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let sql = format!(
                    "begin; update shop.orders set weight = weight + 1 where id = {}; \
                     insert into shop.orders (item) values ('w{writer}'); \
                     delete from shop.orders where item = 'w{writer}' and random() < 0.5; commit; \
                     begin; savepoint s; insert into shop.same values ({writer}); release s; commit; \
                     select nextval('shop.down')",
                    written % 1_000 + 1
                );
                client.batch_execute(&sql).await.unwrap();
                written += 1;
                // A table that is emptied under the reader's feet.
                if writer == 0 && written.is_multiple_of(50) {
                    client.batch_execute("truncate shop.nothing").await.unwrap();
                    client.batch_execute("vacuum full shop.same").await.unwrap();
                }
            }
            written
        })
    });
    let writers: Vec<_> = writers.collect();
    let verified = place.verify(Against::Fresh).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 10);
    }
    assert!(verified.sound, "{:#?}", verified.findings);
    let comparison = verified.comparison.as_ref().unwrap();
    assert!(comparison.equal > 60, "{comparison:?}");
    if !verified.complete {
        assert!(verified.findings.iter().all(|finding| finding.severity == Severity::Warning));
        assert!(comparison.moving > 0 || verified.findings.iter().all(|finding| finding.kind == "table_not_compared"));
    }
    place.assert_clean();
}

/// Who reads everything must not run what the owner of a table has made: a cast of its rows to text, for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_does_not_run_what_tenants_have_made() {
    let place = place("trap").await;
    place
        .run(
            "create table shop.seen_as (who text);
             grant insert on shop.seen_as to public;
             create function shop.trap(shop.orders) returns text language plpgsql as $$
                 begin insert into shop.seen_as values (current_user); raise exception 'caught'; end $$;
             create cast (shop.orders as text) with function shop.trap(shop.orders) as implicit;
             create function public.concat(shop.orders) returns text language plpgsql as $$
                 begin raise exception 'caught'; end $$;
             create function public.count(shop.orders) returns bigint language plpgsql as $$
                 begin raise exception 'caught'; end $$;
             create role maker; grant usage, create on schema shop to maker;
             set role maker;
             create table shop.planned as select n from generate_series(1, 10) n;
             create function shop.made(int) returns int immutable language plpgsql as $$
                 begin if current_user <> 'maker' then raise exception 'caught'; end if; return $1; end $$;
             create index on shop.planned ((n + shop.made(1)));
             create statistics shop.made_of on (n + shop.made(2)) from shop.planned",
        )
        .await;
    place.back_up().await;
    let verified = place.verify(Against::Fresh).await;
    assert!(verified.complete, "{:#?}", verified.findings);
    assert_eq!(dangers(&verified), Vec::<&str>::new());
    let client = place.cluster.primary().connect("app").await.unwrap();
    assert_eq!(one(&client, "select count(*) from shop.seen_as").await, "0");
}

/// It could be given an index between the look at it and the question, and the question would run that.
#[tokio::test(flavor = "multi_thread")]
async fn a_materialized_view_that_may_get_an_index_of_others_meanwhile_is_not_asked_for() {
    let place = place("view").await;
    place
        .run(
            "create role maker login; create role kept; create role member in role kept; create role nobody;
             create materialized view shop.of_maker as select 1 as n; alter materialized view shop.of_maker owner to maker;
             create materialized view shop.of_kept as select 1 as n; alter materialized view shop.of_kept owner to kept;
             create materialized view shop.of_nobody as select 1 as n; alter materialized view shop.of_nobody owner to nobody",
        )
        .await;
    place.back_up().await;
    let compared = async |not: &[&str]| {
        let verified = place.verify(Against::Fresh).await;
        assert!(verified.sound, "{:#?}", verified.findings);
        let said = |finding: &pgward::sidecar::backup::Finding| format!("{} {:?}", finding.kind, finding.object);
        let expected: Vec<String> =
            not.iter().map(|view| format!("table_not_compared Some(\"app: shop.{view}\")")).collect();
        assert_eq!(verified.findings.iter().map(said).collect::<Vec<_>>(), expected);
    };
    compared(&["of_maker"]).await;
    place.run("alter role member login").await;
    compared(&["of_kept", "of_maker"]).await;
}
