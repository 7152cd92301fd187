//! Damage that nobody has noticed is found, and named as far as it can be.

use pgward::sidecar::backup::Against;

use crate::place::{archive_by, dangers, files, finding, flip, passed, place, place_with};
use crate::support::{one, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_has_turned_in_a_backed_up_file_is_found_and_the_file_is_named() {
    let place = place("datafile").await;
    place.back_up().await;
    let largest = files(&place.repository("near/backup")).remove(0);
    flip(&largest, |bytes| bytes.len() / 2);
    let verified = place.verify(Against::Fresh).await;
    assert!(!verified.sound);
    assert!(finding(&verified, "not_restored").text.contains("restore"), "{:#?}", verified.findings);
    let named = finding(&verified, "file_damaged").object.clone().unwrap();
    assert!(named.starts_with("near: "), "{named}");
    assert!(largest.to_string_lossy().ends_with(named.trim_start_matches("near: ")), "{named}");
    place.assert_clean();
    // The other repository has what this one has lost.
    let verified = place.verify_in("far", Against::Fresh).await;
    assert!(verified.complete, "{:#?}", verified.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_has_turned_in_the_archived_log_is_found_and_the_segment_is_named() {
    let place = place("segment").await;
    place.back_up().await;
    place.run("insert into shop.orders (item) select 'later' from generate_series(1, 3000)").await;
    let first = place.verify(Against::Fresh).await;
    assert!(first.complete, "{:#?}", first.findings);
    // The segment which that needed.
    let baselines = files(&place.site.folder().join("baselines"));
    let recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(&baselines[0]).unwrap()).unwrap();
    let segment = recorded["segment"].as_str().unwrap();
    let archived = files(&place.repository("near/archive"));
    let archived = archived.iter().find(|file| file.to_string_lossy().contains(segment)).unwrap();
    flip(archived, |bytes| bytes.len() / 2);
    let verified = place.verify(Against::Fresh).await;
    assert!(!verified.sound);
    finding(&verified, "not_restored");
    assert!(finding(&verified, "file_damaged").text.contains(segment), "{:#?}", verified.findings);
    place.assert_clean();
}

/// Pages without checksums: what the primary has in its cache is right, what is on its disk and so in the backup is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_has_turned_on_the_primarys_disk_is_found_though_the_backup_is_as_the_disk_is() {
    let place = place("disk").await;
    let client = place.cluster.primary().connect("app").await.unwrap();
    for sql in ["vacuum freeze", "checkpoint"] {
        client.batch_execute(sql).await.unwrap();
    }
    let file = one(&client, "select pg_relation_filepath('shop.orders')").await;
    let rows = one(&client, "select count(*) from shop.orders").await;
    flip(&place.cluster.primary().data().join(file), |bytes| {
        bytes.windows(9).position(|window| window == b"item 1000").expect("a row of the table")
    });
    place.back_up().await;
    let verified = place.verify(Against::Fresh).await;
    // By the baseline, and since the index still knows what the row was.
    assert_eq!(dangers(&verified), ["damaged", "table_differs"], "{:#?}", verified.findings);
    let finding = finding(&verified, "table_differs");
    assert_eq!(finding.object.as_deref(), Some("app: shop.orders"));
    assert!(finding.text.contains(&format!("{rows} rows as before, with other contents")), "{}", finding.text);
    assert!(!passed(&verified, "comparison"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_stuck_is_found_and_the_backup_is_tried_all_the_same() {
    let place = place_with("stuck", "max_archive_lag = \"10s\"", "").await;
    place.back_up().await;
    let server = place.cluster.primary();
    let sound = place.verify(Against::Fresh).await;
    assert!(sound.complete, "{:#?}", sound.findings);
    archive_by(server, "false").await;
    let client = server.connect("postgres").await.unwrap();
    until("the new archive_command is in force", || async { one(&client, "show archive_command").await == "false" })
        .await;
    let verified = place.verify(Against::Fresh).await;
    assert_eq!(dangers(&verified), ["archive_stuck"], "{:#?}", verified.findings);
    let standard = verified.baseline.as_ref().unwrap();
    assert!(!standard.fresh, "what was recorded before counts");
    assert!(passed(&verified, "comparison"));
}
