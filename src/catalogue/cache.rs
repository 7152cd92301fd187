//! The last good catalogue, in a file that only its owner can read: definitions may hold passwords.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{Catalogue, Snapshot};

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("{0} cannot be read")]
    Read(String, #[source] io::Error),
    /// Not the parser's own words, which could quote what stands there.
    #[error("{0} is not what pgward has written there; delete it")]
    Garbled(String),
    #[error("{path} is the cache of another catalogue ({found}); delete it")]
    Another { path: String, found: String },
}

#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    /// Of which table.
    catalogue: String,
    /// When it was read, in seconds since 1970.
    at: u64,
    tenants: std::borrow::Cow<'a, BTreeMap<String, String>>,
}

/// Whoever reads the file reads the old one or the new one, even after a crash.
pub fn write(path: &Path, catalogue: &Catalogue) -> io::Result<()> {
    let Snapshot { entries, at, .. } = &*catalogue.snapshot;
    let kept = Kept { catalogue: catalogue.place(), at: *at, tenants: std::borrow::Cow::Borrowed(entries) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // Its mode is 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(&kept)?)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

pub fn read(path: &Path, catalogue: &Catalogue) -> Result<Snapshot, CacheError> {
    let shown = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| CacheError::Read(shown.clone(), error))?;
    let kept: Kept<'_> = serde_json::from_slice(&bytes).map_err(|_| CacheError::Garbled(shown.clone()))?;
    if kept.catalogue != catalogue.place() {
        return Err(CacheError::Another { path: shown, found: format!("{:?}", kept.catalogue) });
    }
    Ok(Snapshot { entries: kept.tenants.into_owned(), at: kept.at, cached: true })
}
