use std::path::{Path, PathBuf};

use super::Failure;
use super::arguments::{ClusterArguments, TargetArguments};
use super::shown::Shown;
use crate::cli::output::{say, warn};
use crate::cli::record::{Act, Deed};
use crate::cli::runtime;
use crate::sidecar::backup::{self, Place, Restored, Site};

/// Restore a cluster's data, as it was at any moment since its oldest backup
///
/// Into a folder that a new server is started on, or in place of the data of the server that is there, which has to be stopped.
/// The server replays the log when it is started; this command starts none.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    clusters: ClusterArguments,

    #[command(flatten)]
    target: TargetArguments,

    /// A folder that is empty or is not there. The server on it does not archive its log unless you have it do so
    #[arg(long, value_name = "FOLDER", required_unless_present = "in_place")]
    into: Option<PathBuf>,

    /// The data_directory of the configuration's primary, where it is on this machine and stopped. Files that are the same stay
    #[arg(long, conflicts_with = "into", requires = "yes")]
    in_place: bool,

    /// With --in-place: do it
    #[arg(long)]
    yes: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.clusters.load()?;
    let site = arguments.clusters.site(&settings)?;
    let name = &site.cluster().name;
    let place = match &arguments.into {
        Some(folder) => Place::Folder(std::path::absolute(folder)?),
        None => Place::InPlace,
    };
    let work = async {
        let _lock = site.lock("pgward backup restore")?;
        Ok(backup::restore(&site, &arguments.target.wanted(), &place, &mut Shown::new(false)).await?)
    };
    let restored = runtime()?.block_on(Act::at(&settings, Deed::RestoreBackup, name.as_str()).recorded(work))?;
    tell(&site, &restored);
    Ok(())
}

fn tell(site: &Site, restored: &Restored) {
    let (label, repository) = (&restored.backup.label, &restored.backup.repository);
    let data: &Path = &restored.data;
    say(format_args!(
        "cluster {} is in {} from backup {label} of repository {repository}, in {:.1} s. It replays the log {} when it is \
         started:\n\n  {} -D {} start\n",
        site.cluster().name,
        data.display(),
        restored.took.as_secs_f64(),
        restored.target,
        site.host().binary("pg_ctl").display(),
        data.display()
    ));
    for erasure in &restored.erased {
        let (tenant, at) = (&erasure.tenant, &erasure.at);
        warn(format_args!(
            "tenant {tenant} was erased at {at}, and may be in it again; erase it there before anybody is let in"
        ));
    }
}
