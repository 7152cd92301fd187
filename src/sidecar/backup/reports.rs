//! Reports of trials, kept as JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use super::error::BackupError;
use super::site::Site;
use crate::local::read_plain;

/// Of each kind; older ones go.
const KEPT: usize = 100;

/// `at`: RFC 3339.
pub(super) fn write(site: &Site, kind: &str, at: &str, report: &impl Serialize) -> Result<PathBuf, BackupError> {
    let folder = site.folder().join("reports");
    site.private_folder(&folder)?;
    let path = folder.join(format!("{kind}-{}.json", at.replace(':', "")));
    let text = serde_json::to_string_pretty(report).map_err(std::io::Error::from);
    site.private_file(&path, &text.map_err(BackupError::file("write", &path))?)?;
    for old in of_kind(&folder, kind).iter().rev().skip(KEPT) {
        fs::remove_file(old).map_err(BackupError::file("remove", old))?;
    }
    Ok(path)
}

/// Those that are kept, the oldest first.
pub(super) fn files(site: &Site, kind: &str) -> Vec<PathBuf> {
    of_kind(&site.folder().join("reports"), kind)
}

/// When one was written, by Unix time, and what it says. `None`: it cannot be read.
pub(super) fn read(path: &Path) -> Option<(u64, serde_json::Value)> {
    let written = fs::symlink_metadata(path).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((written.as_secs(), serde_json::from_str(&read_plain(path).ok()?).ok()?))
}

/// By the time in their names.
fn of_kind(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let named = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with(&format!("{kind}-")) && name.ends_with(".json")
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(named).collect();
    files.sort();
    files
}

/// In milliseconds.
pub(super) fn seconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// A duration as seconds.
pub(super) fn as_seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(seconds(*took))
}
