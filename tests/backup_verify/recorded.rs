//! Without the primary, what was recorded counts.

use pgward::local::Stop;
use pgward::sidecar::backup::{Against, Trial, Unseen, verify};

use crate::place::{dangers, finding, passed, place};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_primary_a_backup_is_compared_with_what_was_recorded() {
    let mut place = place("gone").await;
    let trial = Trial { repository: None, set: None, against: Against::Recorded, files: false };
    place.back_up().await;
    let error = verify(&place.site, &trial, &mut Unseen).await.unwrap_err().to_string();
    assert!(error.contains("no baseline of cluster main is recorded"), "{error}");
    assert!(place.verify(Against::Fresh).await.complete);
    place.cluster.primary_mut().stop(Stop::Fast).await.unwrap();
    let verified = place.verify(Against::FreshIfPossible).await;
    assert_eq!(dangers(&verified), Vec::<&str>::new(), "{:#?}", verified.findings);
    finding(&verified, "no_fresh_baseline");
    assert!(verified.sound && !verified.complete);
    assert!(!verified.baseline.as_ref().unwrap().fresh);
    assert!(passed(&verified, "comparison"));
    assert!(verified.comparison.as_ref().unwrap().equal > 60);
}

/// A backup that ended after the baseline cannot be brought to it: that is said, and it is tried as far as it goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_younger_than_the_baseline_is_not_called_verified() {
    let place = place("younger").await;
    place.back_up().await;
    assert!(place.verify(Against::Fresh).await.complete);
    place.run("delete from shop.same").await;
    place.back_up().await;
    let newest = place.site.holdings().await.unwrap().remove(0).backups.pop().unwrap();
    let trial =
        Trial { repository: Some(newest.repository), set: Some(newest.label), against: Against::Recorded, files: true };
    let verified = verify(&place.site, &trial, &mut Unseen).await.unwrap();
    finding(&verified, "not_compared");
    assert!(verified.sound && !verified.complete, "{:#?}", verified.findings);
    assert!(passed(&verified, "log") && passed(&verified, "pg_amcheck") && passed(&verified, "files"));
}
