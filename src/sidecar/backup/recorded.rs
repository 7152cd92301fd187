//! Baselines that were taken, kept for when the primary cannot be asked.

use std::fs;
use std::path::PathBuf;

use super::baseline::{self, Baseline};
use super::error::BackupError;
use super::pgbackrest::Progress;
use super::site::Site;
use crate::local::read_plain;

/// Older ones go.
const KEPT: usize = 10;

/// Takes a baseline on the primary and keeps it.
pub async fn record(site: &Site, progress: &mut dyn Progress) -> Result<Baseline, BackupError> {
    let (way, home) = site.way().await?;
    progress.step(&format!("taking a baseline of cluster {}", site.cluster().name));
    let taken = baseline::take(&way, home, progress).await;
    let baseline = taken.map_err(|source| BackupError::Baseline { cluster: site.cluster().name.clone(), source })?;
    let folder = folder(site);
    site.private_folder(&folder)?;
    let path = folder.join(format!("{}.json", baseline.point));
    let text = serde_json::to_string(&baseline).map_err(std::io::Error::from);
    site.private_file(&path, &text.map_err(BackupError::file("write", &path))?)?;
    let files = files(site);
    for old in files.iter().rev().skip(KEPT) {
        fs::remove_file(old).map_err(BackupError::file("remove", old))?;
    }
    Ok(baseline)
}

/// Those that are kept and can be read, the newest first.
pub fn recorded(site: &Site) -> impl Iterator<Item = Baseline> {
    let read = |path: PathBuf| {
        let text = read_plain(&path).ok()?;
        match Baseline::parse(&text) {
            Ok(baseline) => Some(baseline),
            Err(error) => {
                let why = crate::base::causes(&error);
                tracing::warn!(file = %path.display(), error = why, "a recorded baseline is passed over");
                None
            }
        }
    };
    files(site).into_iter().rev().filter_map(read)
}

fn folder(site: &Site) -> PathBuf {
    site.folder().join("baselines")
}

/// By the time in their names.
fn files(site: &Site) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(site)).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "json")).collect();
    files.sort();
    files
}
