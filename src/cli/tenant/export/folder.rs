//! The folder that an export goes to. It is made beside the folder and takes its place when it is whole.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::super::Failure;
use super::super::files::{beside, failed, sync};
use super::manifest::{Encrypted, Manifest, list};
use super::seal::{KEY, Seal};
use super::source::Source;
use crate::base::{TenantId, clock};
use crate::cli::output::warn;
use crate::config::Isolation;

/// In an encrypted export: the manifest of what is in the other files.
const CONTENTS: &str = "contents.json";

pub(in crate::cli::tenant) struct Export {
    folder: PathBuf,
    tenant: TenantId,
    seal: Option<Seal>,
}

impl Export {
    /// Nothing that is there may be overwritten, but for an export of this tenant, which is moved aside.
    pub fn into(folder: &Path, tenant: &TenantId, seal: Option<Seal>) -> Result<Self, Failure> {
        let export = Self { folder: std::path::absolute(folder)?, tenant: tenant.clone(), seal };
        sweep(&export.folder);
        let empty = match fs::read_dir(folder) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => true,
                ErrorKind::NotADirectory => false,
                _ => return Err(failed("look into", folder)(error)),
            },
        };
        if !empty && !export.is_there() {
            return Err(Failure::said(format!("{} is there already; name a folder that is not", folder.display())));
        }
        Ok(export)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it has an export of this tenant, which is whole because its manifest is written last.
    pub fn is_there(&self) -> bool {
        Manifest::read(&self.folder).is_ok_and(|manifest| manifest.tenant == self.tenant.as_str())
    }

    /// Says how many rows each table had, at level `rows`.
    pub async fn run(&self, source: &Source<'_>) -> Result<BTreeMap<String, u64>, Failure> {
        let (partial, _used) = self.partial()?;
        let made = self.fill(source, &partial).await;
        if made.is_err() {
            // Half an export is of no use; the error at hand is the one to tell.
            let _ = fs::remove_dir_all(&partial);
        }
        let counts = made?;
        if self.is_there() {
            let mut aside = (1..).map(|n| beside(&self.folder, &format!("earlier-{n}"))).filter(|path| !path.exists());
            if let Some(aside) = aside.next() {
                fs::rename(&self.folder, aside).map_err(failed("move aside", &self.folder))?;
            }
        }
        let put_there = |error| {
            let (partial, folder) = (partial.display(), self.folder.display());
            Failure::said(format!(
                "the export is whole, but in {partial}, which cannot be renamed to {folder}: {error}; move it away, for the \
                 next command that names {folder} removes it"
            ))
        };
        fs::rename(&partial, &self.folder).map_err(put_there)?;
        sync(self.folder.parent().unwrap_or_else(|| Path::new("/")))?;
        Ok(counts)
    }

    /// A new folder, and what shows others that it is in use.
    fn partial(&self) -> Result<(PathBuf, File), Failure> {
        loop {
            let path = beside(&self.folder, &format!("{PARTIAL}{:08x}", rand::random::<u32>()));
            let failed = |doing: &str, error: std::io::Error| {
                Failure::said(format!("cannot {doing} the folder {}: {error}", path.display()))
            };
            DirBuilder::new().mode(0o700).create(&path).map_err(|error| failed("make", error))?;
            let used = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened.map_err(|error| failed("open", error))?,
            };
            match used.try_lock() {
                Ok(()) if path.exists() => return Ok((path, used)),
                // Swept before it was known to be used.
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed("lock", error)),
            }
        }
    }

    async fn fill(&self, source: &Source<'_>, partial: &Path) -> Result<BTreeMap<String, u64>, Failure> {
        let tenant = source.tenant;
        let tables = match tenant.isolation {
            Isolation::Rows => source.rows(partial).await?,
            Isolation::Schema => source.schema(partial).await.map(|()| Vec::new())?,
            Isolation::Database | Isolation::Cluster => source.database(partial).await.map(|()| Vec::new())?,
        };
        let counts = tables.iter().map(|table| (table.table.clone(), table.rows)).collect();
        let mut sha256 = BTreeMap::new();
        list(partial, "", &mut sha256)?;
        let manifest = Manifest {
            tenant: tenant.id.to_string(),
            isolation: tenant.isolation.as_str().to_owned(),
            cluster: tenant.cluster.to_string(),
            made: clock::timestamp(clock::unix_now()),
            as_of: source.as_of.clone(),
            database: Some(tenant.database.clone()),
            search_path: tenant.search_path.clone(),
            tables,
            encrypted: None,
            sha256,
        };
        self.finish(&manifest, partial)?;
        Ok(counts)
    }

    fn finish(&self, manifest: &Manifest, partial: &Path) -> Result<(), Failure> {
        let Some(seal) = &self.seal else { return manifest.write(partial) };
        seal.folder(partial)?;
        seal.file(&partial.join(CONTENTS), &manifest.text()?)?;
        let mut sha256 = BTreeMap::new();
        list(partial, "", &mut sha256)?;
        let encrypted = Encrypted {
            by: "age-encryption.org/v1".to_owned(),
            key: KEY.to_owned(),
            contents: format!("{CONTENTS}.age"),
        };
        manifest.outside(encrypted, sha256).write(partial)
    }
}

/// What an export is being made in has its name, this, and some digits.
const PARTIAL: &str = "partial-";

/// Others may put things in a folder's place: a link leads elsewhere, and a pipe would have whoever opens it wait.
#[allow(clippy::cast_possible_wrap, reason = "flags")]
const FOLDER: i32 = (OFlags::DIRECTORY.bits() | OFlags::NOFOLLOW.bits()) as i32;

/// Removes what exports into this folder have left that were killed: it may not have been encrypted yet. What is in use is
/// locked.
pub(in crate::cli::tenant) fn sweep(folder: &Path) {
    let prefix = beside(folder, PARTIAL).file_name().unwrap_or_default().to_owned();
    let parent = folder.parent().unwrap_or_else(|| Path::new("/"));
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let digits = name.as_bytes().strip_prefix(prefix.as_bytes());
        if !digits.is_some_and(|digits| digits.len() == 8 && digits.iter().all(u8::is_ascii_hexdigit)) {
            continue;
        }
        let opened = OpenOptions::new().read(true).custom_flags(FOLDER).open(&path);
        let removed = opened.and_then(|folder| match folder.try_lock() {
            Ok(()) => fs::remove_dir_all(&path),
            Err(TryLockError::WouldBlock) => Ok(()),
            Err(TryLockError::Error(error)) => Err(error),
        });
        if let Err(error) = removed {
            let path = path.display();
            warn(format_args!(
                "an export that was killed has left {path}, which cannot be removed: {error}; remove it"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_waited_for_ever_at_a_pipe_in_the_place_of_half_an_export() {
        let folder = tempfile::tempdir().unwrap();
        let [export, pipe, link, half] =
            ["export", "export.partial-00000000", "export.partial-00000001", "export.partial-00000002"]
                .map(|name| folder.path().join(name));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        fs::create_dir(&half).unwrap();
        let (done, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            sweep(&export);
            done.send(()).unwrap();
        });
        end.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        assert!(!half.exists() && elsewhere.path().exists());
    }

    #[test]
    fn a_file_was_taken_for_a_folder_that_is_not_there_yet() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let Err(failure) = Export::into(file.path(), &TenantId::parse("acme").unwrap(), None) else { panic!() };
        assert!(failure.to_string().contains("is there already"), "{failure}");
    }
}
