//! Which tenants of a cluster were erased, and when: whoever restores an older backup brings them back, and is to know.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::base::clock;
use crate::local::{open_plain, own_as_folder, read_plain};

/// One tenant, erased once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    pub tenant: String,
    /// RFC 3339, in UTC, so that texts compare as moments do.
    pub at: String,
    pub isolation: String,
    pub database: String,
    /// Of the certificate.
    pub sha256: String,
}

/// Of one cluster: lines of JSON in the folder where its backups are remembered, which is PostgreSQL's user's.
pub struct Erasures {
    folder: PathBuf,
    path: PathBuf,
}

impl Erasures {
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), path: folder.join("erasures.jsonl") }
    }

    /// To find out whether something can be noted before there is something to note.
    pub fn open(&self) -> std::io::Result<File> {
        let file = open_plain(OpenOptions::new().create(true).append(true).read(true).mode(0o600), &self.path)?;
        own_as_folder(&file, &self.folder)?;
        Ok(file)
    }

    /// On the disk when this returns. Told twice of the same, it notes it once.
    pub fn add(&self, erasure: &Erasure) -> std::io::Result<()> {
        let mut file = self.open()?;
        file.lock()?;
        if self.all()?.contains(erasure) {
            return Ok(());
        }
        // What a crash has cut off stays a line of its own, which nobody can read.
        let line = format!("\n{}\n", serde_json::to_string(erasure)?);
        file.write_all(line.as_bytes())?;
        file.sync_all()
    }

    /// Tenants that a copy of the cluster as of this moment still has.
    pub fn since(&self, moment: SystemTime) -> std::io::Result<Vec<Erasure>> {
        let moment = clock::rfc3339(moment);
        Ok(self.all()?.into_iter().filter(|erasure| erasure.at >= moment).collect())
    }

    fn all(&self) -> std::io::Result<Vec<Erasure>> {
        match read_plain(&self.path) {
            Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_copy_of_before_an_erasure_has_the_tenant_and_one_of_after_it_has_not() {
        let folder = tempfile::tempdir().unwrap();
        let (erasures, begin) = (Erasures::of(folder.path()), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        assert_eq!(erasures.since(begin).unwrap(), []);
        let erasure = |tenant: &str, after: u64| Erasure {
            tenant: tenant.to_owned(),
            at: clock::rfc3339(begin + Duration::from_secs(after)),
            isolation: "rows".to_owned(),
            database: "app".to_owned(),
            sha256: "0".repeat(64),
        };
        for (tenant, after) in [("acme", 10), ("globex", 20), ("acme", 10)] {
            erasures.add(&erasure(tenant, after)).unwrap();
        }
        // Killed in the middle of a line.
        let mut file = OpenOptions::new().append(true).open(folder.path().join("erasures.jsonl")).unwrap();
        file.write_all(b"{\"tenant\":\"ini").unwrap();
        erasures.add(&erasure("initech", 30)).unwrap();
        let since = |after: u64| {
            let found = erasures.since(begin + Duration::from_secs(after)).unwrap();
            found.into_iter().map(|erasure| erasure.tenant).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(since(0), "acme globex initech");
        assert_eq!(since(11), "globex initech");
        assert_eq!(since(31), "");
    }

    /// Whoever is PostgreSQL's user can put a link there.
    #[test]
    fn a_link_is_not_followed_and_the_file_is_of_whom_the_folder_is() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, path) = (folder.path().join("victim"), folder.path().join("erasures.jsonl"));
        std::fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let erasures = Erasures::of(folder.path());
        assert!(erasures.open().is_err() && erasures.since(SystemTime::UNIX_EPOCH).is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
        std::fs::remove_file(&path).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(folder.path(), Some(65_534), Some(65_534)).unwrap();
        }
        erasures.open().unwrap();
        assert_eq!(path.metadata().unwrap().uid(), folder.path().metadata().unwrap().uid());
    }
}
