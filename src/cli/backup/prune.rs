use serde_json::json;

use super::Failure;
use super::arguments::ClusterArguments;
use super::shown::Shown;
use crate::base::clock;
use crate::cli::output::say;
use crate::cli::record::{Act, Deed};
use crate::cli::runtime;
use crate::sidecar::backup::{self, BackupError, Kept, Pruned, Site};

/// Let go of backups that are older than their tier is kept, and of the log that nothing needs any more
///
/// `pgward run` does it after each backup that it makes. The last full backup of a repository always stays, and so does
/// everything while a tenant of the cluster is under a legal hold.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    clusters: ClusterArguments,

    /// Only say what would go
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object for each cluster
    #[arg(long)]
    json: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.clusters.load()?;
    for site in arguments.clusters.sites(&settings)? {
        let name = &site.cluster().name;
        let work = async { Ok(arguments.prune(&site).await?) };
        let act = Act::at(&settings, Deed::PruneBackup, name.as_str());
        let pruned = match arguments.dry_run {
            true => runtime()?.block_on(work)?,
            false => runtime()?.block_on(act.recorded(work))?,
        };
        match arguments.json {
            true => say(json!({
                "cluster": name.as_str(),
                "gone": labels(&pruned.gone),
                "held": labels(&pruned.held),
                "held_for": pruned.for_tenants,
                "dry_run": arguments.dry_run,
            })),
            false => tell(&site, &pruned, arguments.dry_run),
        }
        if let Some(error) = pruned.failed {
            return Err(error.into());
        }
    }
    Ok(())
}

impl Arguments {
    async fn prune(&self, site: &Site) -> Result<Pruned, BackupError> {
        let _lock = site.lock("pgward backup prune")?;
        let mut progress = Shown::new(self.json || self.dry_run);
        backup::prune(site, clock::unix_now(), self.dry_run, &mut progress).await
    }
}

fn labels(kept: &[Kept]) -> Vec<String> {
    kept.iter().map(|kept| format!("{}/{}", kept.repository, kept.label)).collect()
}

fn tell(site: &Site, pruned: &Pruned, dry: bool) {
    let name = &site.cluster().name;
    let gone = labels(&pruned.gone).join(", ");
    match (pruned.gone.is_empty(), dry) {
        (true, _) => say(format_args!("cluster {name}: nothing is too old")),
        (false, true) => say(format_args!("cluster {name}: these would go: {gone}")),
        (false, false) => say(format_args!("cluster {name}: these are gone: {gone}")),
    }
    if !pruned.held.is_empty() {
        let (held, tenants) = (labels(&pruned.held).join(", "), pruned.for_tenants.join(", "));
        say(format_args!("cluster {name}: too old, but under a legal hold for {tenants}: {held}"));
    }
}
