//! A tenant's cluster as it was, beside it.

use std::sync::Arc;

use super::Failure;
use crate::cli::backup::Shown;
use crate::cli::output::{say, warn};
use crate::config::{Settings, Tenant};
use crate::sidecar::backup::{Scratch, Site, Target, Wanted, end_segment};

/// Gone when it is dropped.
pub(super) async fn aside(settings: &Settings, tenant: &Tenant, wanted: &Wanted) -> Result<(Site, Scratch), Failure> {
    let site = Site::open(&Arc::new(settings.clone()), &tenant.cluster)?;
    // A moment ago is on the primary alone, until a segment is full or archive_timeout is over.
    if wanted.target != Target::Consistent
        && let Err(why) = end_segment(&site).await
    {
        warn(format_args!("the newest part of the log is not archived, and may be missed: {why}"));
    }
    let scratch = Scratch::restore(&site, wanted, &mut Shown::new(false)).await?;
    let (backup, took) = (scratch.backup(), scratch.took());
    say(format_args!(
        "restored cluster {} aside {}, from backup {} of repository {}, in {:.1} s",
        tenant.cluster,
        wanted.target,
        backup.label,
        backup.repository,
        (took.restore + took.replay).as_secs_f64()
    ));
    Ok((site, scratch))
}
