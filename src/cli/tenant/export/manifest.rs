//! What an export says of itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::Failure;
use super::super::files::sync;
use super::private;
use crate::tenant::restore::{Column, TableSource};

pub(in crate::cli::tenant) const MANIFEST: &str = "manifest.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::cli::tenant) struct Manifest {
    pub tenant: String,
    pub isolation: String,
    pub cluster: String,
    pub made: String,
    /// The moment whose state it has, where that is not when it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// `None` beside what is encrypted, which has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search_path: Vec<String>,
    /// At level `rows`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableFile>,
    /// How to read the rest. `None`: as it lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<Encrypted>,
    pub sha256: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::cli::tenant) struct TableFile {
    pub table: String,
    #[serde(default)]
    pub schema: String,
    #[serde(default)]
    pub name: String,
    pub file: String,
    pub rows: u64,
    #[serde(default)]
    pub columns: Vec<Column>,
}

impl TableFile {
    pub fn source(&self) -> TableSource {
        TableSource { schema: self.schema.clone(), name: self.name.clone(), columns: self.columns.clone() }
    }
}

/// Which file has the key to the others, and which the manifest of what is in them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::cli::tenant) struct Encrypted {
    pub by: String,
    pub key: String,
    pub contents: String,
}

impl Manifest {
    /// The last file to be written: an export that has it is whole.
    pub fn write(&self, folder: &Path) -> Result<(), Failure> {
        let mut file = private(&folder.join(MANIFEST))?;
        file.write_all(self.text()?.as_bytes())?;
        file.sync_all()?;
        Ok(sync(folder)?)
    }

    pub fn text(&self) -> Result<String, Failure> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(MANIFEST);
        let bytes = fs::read(&path).map_err(|error| {
            Failure::said(format!("{} is no export: cannot read {MANIFEST}: {error}", folder.display()))
        })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::said(format!("{} is not what an export has: {error}", path.display())))
    }

    /// The same of what is encrypted beside it: as if nothing were.
    pub fn outside(&self, encrypted: Encrypted, sha256: BTreeMap<String, String>) -> Self {
        Self {
            database: None,
            search_path: Vec::new(),
            tables: Vec::new(),
            encrypted: Some(encrypted),
            sha256,
            ..self.clone()
        }
    }

    /// Makes sure that each file is what it was. A file that it does not name is none of the export's.
    pub fn check(&self, folder: &Path) -> Result<(), Failure> {
        let mut found = BTreeMap::new();
        list(folder, "", &mut found)?;
        found.remove(MANIFEST);
        for (name, digest) in &self.sha256 {
            match found.remove(name) {
                Some(now) if now == *digest => {}
                Some(_) => {
                    return Err(Failure::said(format!(
                        "{} of the export {} is not what it was when it was written: its SHA-256 is another. The file is \
                         damaged, or somebody has changed it",
                        name,
                        folder.display()
                    )));
                }
                None => {
                    return Err(Failure::said(format!("{name} is missing from the export {}", folder.display())));
                }
            }
        }
        match found.keys().next() {
            Some(strange) => {
                Err(Failure::said(format!("{strange} does not belong to the export {}", folder.display())))
            }
            None => Ok(()),
        }
    }
}

/// Every file below a folder with its SHA-256; each is on the disk by then.
pub(in crate::cli::tenant) fn list(
    folder: &Path,
    below: &str,
    files: &mut BTreeMap<String, String>,
) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), files)?;
            continue;
        }
        let mut file = File::open(entry.path())?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                n => hash.update(chunk.get(..n).unwrap_or_default()),
            }
        }
        file.sync_all()?;
        files.insert(name, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
    }
    sync(folder)
}
