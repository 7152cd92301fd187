//! What is let go, and what is not: under a legal hold, and where one of two repositories is broken.

use pgward::base::clock;
use pgward::sidecar::backup::{BackupError, Unseen, prune};

use crate::place::Place;

const DAY: u64 = 86_400;

const DAILY: &str = "tiers.daily = { type = \"full\", keep = \"2d\" }\n";

const TWO: &str = "[clusters.main.repositories.broken]\nregion = \"lk\"\npath = \"{folder}/broken\"\nencrypted = false\n\
                   [clusters.main.repositories.near]\nregion = \"lk\"\npath = \"{folder}/near\"\nencrypted = false\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_tenant_is_under_a_legal_hold_no_backup_of_its_cluster_goes() {
    let mut place = Place::with("held", DAILY, "").await;
    for _ in 0..2 {
        place.done(&["backup", "run", "--type", "full"]).await;
    }
    let before = place.labels("near").await;
    let later = clock::unix_now() + 3 * DAY;
    let text = std::fs::read_to_string(&place.config).unwrap();
    let held = text.replace("[tenants.globex]\n", "[tenants.globex]\nlegal_hold = \"case 4711\"\n");
    assert_ne!(held, text);
    place.change(&held);
    let pruned = prune(&place.site(), later, false, &mut Unseen).await.unwrap();
    assert_eq!((pruned.gone.len(), pruned.held.len(), pruned.for_tenants), (0, 1, vec!["globex".to_owned()]));
    assert_eq!(place.labels("near").await, before);
    place.change(&text);
    assert_eq!(prune(&place.site(), later, false, &mut Unseen).await.unwrap().gone.len(), 1);
    assert_eq!(place.labels("near").await, before[1..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_repository_keeps_the_other_from_nothing() {
    let place = Place::with("broken", DAILY, TWO).await;
    for _ in 0..2 {
        place.done(&["backup", "run", "--type", "full"]).await;
    }
    let before = place.labels("near").await;
    std::fs::remove_dir_all(place.folder.join("broken/backup")).unwrap();
    let error = prune(&place.site(), clock::unix_now() + 3 * DAY, false, &mut Unseen).await.unwrap_err();
    assert!(matches!(&error, BackupError::Repository { repository, .. } if repository.as_str() == "broken"), "{error}");
    assert_eq!(place.labels("near").await, before[1..]);
    let status = place.refused(&["backup", "status"]).await;
    assert!(
        status.contains("repository broken cannot be read") && status.contains("repository near: last"),
        "{status}"
    );
    // A copy comes from the other one.
    place.done(&["backup", "run", "--repository", "near", "--type", "full"]).await;
    assert_eq!(place.labels("near").await.len(), 2);
}
