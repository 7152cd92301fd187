//! A cluster's data put where a server is to be started on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::error::BackupError;
use super::info::Kept;
use super::pgbackrest::Progress;
use super::receive::replay_received;
use super::site::Site;
use super::target::{Target, Wanted};
use crate::sidecar::erasures::{Erasure, Erasures};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Empty, or not there.
    Folder(PathBuf),
    /// The data of the configured primary, which is stopped.
    InPlace,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub data: PathBuf,
    pub backup: Kept,
    pub target: Target,
    pub took: Duration,
    /// Tenants that were erased later than what is restored, and may be in it again.
    pub erased: Vec<Erasure>,
}

/// The caller has the cluster's lock.
pub async fn restore(
    site: &Site,
    wanted: &Wanted,
    place: &Place,
    progress: &mut dyn Progress,
) -> Result<Restored, BackupError> {
    let holdings = site.holdings().await?;
    let backup = wanted.choose(site.cluster(), &holdings)?.clone();
    let (data, how) = match place {
        Place::Folder(folder) => {
            prepare(site, folder)?;
            let tablespaces = PathBuf::from(format!("{}.tablespaces", folder.display()));
            (folder.clone(), aside(&tablespaces))
        }
        Place::InPlace => (site.configured_data()?, vec!["--delta".to_owned()]),
    };
    let begin = Instant::now();
    put(site, wanted, (&backup, &data), how, progress).await?;
    let (target, took) = (wanted.target.clone(), begin.elapsed());
    let erased = Erasures::of(site.folder()).since(since(&target, &backup));
    let erased = erased.map_err(BackupError::file("read", site.folder()))?;
    Ok(Restored { data, backup, target, took, erased })
}

/// How pgBackRest is told of a copy. One that archived into the cluster's repositories would spoil them.
pub(super) fn aside(tablespaces: &Path) -> Vec<String> {
    vec!["--archive-mode=off".to_owned(), format!("--tablespace-map-all={}", tablespaces.display())]
}

/// Has pgBackRest put a backup there: whoever starts a server on it has it replay the log up to what is wanted.
pub(super) async fn put(
    site: &Site,
    wanted: &Wanted,
    (backup, data): (&Kept, &Path),
    mut options: Vec<String>,
    progress: &mut dyn Progress,
) -> Result<(), BackupError> {
    let numbered = site.repository(&backup.repository)?;
    options.extend([format!("--repo={}", numbered.number), format!("--set={}", backup.label)]);
    options.push(format!("--pg1-path={}", data.display()));
    options.extend(wanted.target.options());
    progress.step(&format!("restoring backup {} from repository {}", backup.label, backup.repository));
    site.pgbackrest()?.run("restore", &options, progress).await?;
    if wanted.received
        && let Some(warning) = replay_received(site, data).await?
    {
        progress.warning(&warning);
    }
    Ok(())
}

/// What is restored is no older than this. The end of the log may be earlier than an erasure, too.
fn since(target: &Target, backup: &Kept) -> SystemTime {
    match target {
        Target::Time(at) => *at,
        _ => UNIX_EPOCH + Duration::from_secs(backup.stopped),
    }
}

fn prepare(site: &Site, folder: &PathBuf) -> Result<(), BackupError> {
    let parent = folder.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(BackupError::file("make the folder", parent))?;
    site.named_folder(folder)?;
    let mut entries = fs::read_dir(folder).map_err(BackupError::file("look into", folder))?;
    if entries.next().is_some() {
        let taken = std::io::Error::new(std::io::ErrorKind::DirectoryNotEmpty, "there is something in it already");
        return Err(BackupError::file("restore into", folder)(taken));
    }
    Ok(())
}
