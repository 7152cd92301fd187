//! Where what a tenant had is taken from: a copy of its cluster as it was, or an export.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::super::Failure;
use super::super::export::{KeyArguments, Manifest, decrypt};
use crate::config::Tenant;
use crate::sidecar::backup::{Scratch, Site};

pub(super) enum Origin {
    /// The site goes with it.
    Copy(Box<(Site, Scratch)>),
    Export(Box<Opened>),
}

/// An export that is what it was, and that can be read.
pub(super) struct Opened {
    pub folder: PathBuf,
    pub manifest: Manifest,
}

/// A folder of ours for what a restore puts down on its way; gone when it is dropped, or with the next attempt.
pub(super) struct Workshop(PathBuf);

impl Drop for Workshop {
    fn drop(&mut self) {
        // The next attempt tries again.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Workshop {
    /// Beside an export, or within a copy's folder. Nobody else works on this tenant meanwhile.
    pub fn new(parent: &Path, tenant: &Tenant) -> Result<Self, Failure> {
        let path = parent.join(format!(".pgward-restore-{}", tenant.id));
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::said(format!("cannot remove {}: {error}", path.display())));
            }
            _ => {}
        }
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| Failure::said(format!("cannot make the folder {}: {error}", path.display())))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Opened {
    /// Makes sure that it is this tenant's and whole; what is encrypted is decrypted into the workshop.
    pub fn new(folder: &Path, keys: &KeyArguments, tenant: &Tenant, work: &Workshop) -> Result<Self, Failure> {
        let outside = Manifest::read(folder)?;
        let same = [
            ("tenant", outside.tenant.as_str(), tenant.id.as_str()),
            ("level", outside.isolation.as_str(), tenant.isolation.as_str()),
        ];
        for (what, then, now) in same {
            if then != now {
                return Err(Failure::said(format!(
                    "the export {} is of {what} {then}, and what is to be restored is of {what} {now}",
                    folder.display()
                )));
            }
        }
        outside.check(folder)?;
        let (folder, manifest) = if outside.encrypted.is_some() {
            let into = work.path().join("export");
            let manifest = decrypt(folder, &outside, &keys.opener(folder)?, &into)?;
            (into, manifest)
        } else {
            (folder.to_owned(), outside)
        };
        let (then, now) = (manifest.search_path.first(), tenant.search_path.first());
        if tenant.isolation == crate::config::Isolation::Schema && then != now {
            return Err(Failure::said(format!(
                "the export is of schema {}, and the tenant's is {} now",
                then.map_or("", String::as_str),
                now.map_or("", String::as_str)
            )));
        }
        Ok(Self { folder, manifest })
    }
}
