//! What a restore must know that was interrupted: that it was.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::Failure;
use super::super::files::{beside, failed, put};
use crate::config::Tenant;

/// A file beside the folder that the tenant's state of before is kept in.
pub(super) struct Journal {
    path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    tenant: String,
}

impl Journal {
    /// That of an earlier attempt, if there is one.
    pub fn find(keep: &Path, tenant: &Tenant) -> Result<Option<Self>, Failure> {
        let path = path(keep)?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::said(format!("cannot read {}: {error}", path.display()))),
        };
        let entry: Entry = serde_json::from_slice(&text)
            .map_err(|error| Failure::said(format!("{} is not what a restore writes: {error}", path.display())))?;
        if entry.tenant != tenant.id.as_str() {
            let (path, other) = (path.display(), &entry.tenant);
            return Err(Failure::said(format!(
                "{path} is of a restore of tenant {other}; name another folder with --keep"
            )));
        }
        Ok(Some(Self { path }))
    }

    pub fn begin(keep: &Path, tenant: &Tenant) -> Result<Self, Failure> {
        let path = path(keep)?;
        let entry = Entry { tenant: tenant.id.to_string() };
        put(&path, &serde_json::to_string(&entry)?)?;
        Ok(Self { path })
    }

    pub fn end(self) -> Result<(), Failure> {
        fs::remove_file(&self.path).map_err(failed("remove", &self.path))
    }
}

fn path(keep: &Path) -> Result<PathBuf, Failure> {
    Ok(beside(&std::path::absolute(keep)?, "restoring"))
}
