//! What pgBackRest says is in its repositories (`info --output=json`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::conf::Numbered;
use super::error::BackupError;
use crate::base::{ClusterName, RepositoryName};
use crate::config::BackupKind;

/// A backup that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub label: String,
    pub repository: RepositoryName,
    pub kind: BackupKind,
    /// The tier that it was made for. `None`: made by hand, or by somebody else.
    pub tier: Option<String>,
    /// Unix time.
    pub started: u64,
    pub stopped: u64,
    /// Backups that it is no good without.
    pub needs: Vec<String>,
    /// Bytes of the cluster, and of what this one added to the repository.
    pub size: u64,
    pub stored: u64,
    /// Whether pgBackRest found pages whose checksums are wrong.
    pub damaged_pages: bool,
    pub lsn: String,
    pub first_segment: String,
}

/// One repository as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    pub repository: RepositoryName,
    /// Why nothing is known of it.
    pub trouble: Option<String>,
    /// The oldest first.
    pub backups: Vec<Kept>,
    /// The first and last segment of the log, of the newest system.
    pub archive: Option<(String, String)>,
    /// The folder that it is in.
    pub archive_id: Option<String>,
}

impl Holdings {
    pub(super) fn unknown(repository: &RepositoryName, trouble: String) -> Self {
        Self {
            repository: repository.clone(),
            trouble: Some(trouble),
            backups: Vec::new(),
            archive: None,
            archive_id: None,
        }
    }

    /// An error, if nothing is known of it.
    pub(super) fn known(self, cluster: &ClusterName) -> Result<Self, BackupError> {
        match self.trouble {
            None => Ok(self),
            Some(trouble) => {
                Err(BackupError::Repository { cluster: cluster.clone(), repository: self.repository, trouble })
            }
        }
    }
}

/// The key that a backup is marked with.
pub(super) const TIER: &str = "pgward-tier";

#[derive(Deserialize)]
struct Stanza {
    name: String,
    #[serde(default)]
    archive: Vec<Archive>,
    #[serde(default)]
    backup: Vec<Backup>,
    #[serde(default)]
    repo: Vec<Repo>,
    status: Status,
}

#[derive(Deserialize)]
struct Archive {
    id: String,
    database: OfDatabase,
    min: Option<String>,
    max: Option<String>,
}

#[derive(Deserialize)]
struct OfDatabase {
    #[serde(rename = "repo-key")]
    repository: usize,
}

#[derive(Deserialize)]
struct Backup {
    label: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    annotation: BTreeMap<String, String>,
    reference: Option<Vec<String>>,
    timestamp: Timestamp,
    archive: Segments,
    lsn: Option<Positions>,
    info: Sizes,
    error: Option<bool>,
    database: OfDatabase,
}

#[derive(Deserialize)]
struct Segments {
    start: Option<String>,
}

#[derive(Deserialize)]
struct Positions {
    stop: Option<String>,
}

#[derive(Deserialize)]
struct Timestamp {
    start: u64,
    stop: u64,
}

#[derive(Deserialize)]
struct Sizes {
    size: u64,
    repository: InRepository,
}

#[derive(Deserialize)]
struct InRepository {
    delta: u64,
}

#[derive(Deserialize)]
struct Repo {
    key: usize,
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    code: i64,
    message: String,
}

/// What a repository without a stanza is told as.
const NOT_THERE: &str =
    "it knows nothing of the cluster; `pgward backup setup` prepares it, unless it should have been there already";

pub(super) fn read(text: &str, stanza: &str, repository: Numbered<'_>) -> Result<Holdings, serde_json::Error> {
    // With a wrong passphrase its messages quote what that makes of a file.
    let text = text.replace(char::is_control, " ");
    let stanzas: Vec<Stanza> = serde_json::from_str(&text)?;
    let found = stanzas.into_iter().find(|found| found.name == stanza);
    Ok(holdings(found.as_ref(), repository))
}

fn holdings(stanza: Option<&Stanza>, numbered: Numbered<'_>) -> Holdings {
    let repository = numbered.name.clone();
    let Some(stanza) = stanza else {
        return Holdings::unknown(&repository, NOT_THERE.to_owned());
    };
    let status = stanza.repo.iter().find(|repo| repo.key == numbered.number).map(|repo| &repo.status);
    let status = status.unwrap_or(&stanza.status);
    // 2: there is no backup yet. 1 and 3: nor is there a stanza.
    let trouble = match status.code {
        0 | 2 => None,
        1 | 3 => Some(NOT_THERE.to_owned()),
        _ => Some(status.message.clone()),
    };
    let here = |of: &OfDatabase| of.repository == numbered.number;
    let mut backups: Vec<Kept> = stanza
        .backup
        .iter()
        .filter(|backup| here(&backup.database))
        .filter_map(|backup| kept(backup, &repository))
        .collect();
    backups.sort_by(|a, b| (a.stopped, &a.label).cmp(&(b.stopped, &b.label)));
    let archive = stanza.archive.iter().rfind(|archive| here(&archive.database));
    let archive_id = archive.map(|archive| archive.id.clone());
    let archive = archive.and_then(|archive| archive.min.clone().zip(archive.max.clone()));
    Holdings { repository, trouble, backups, archive, archive_id }
}

fn kept(backup: &Backup, repository: &RepositoryName) -> Option<Kept> {
    let kind = BackupKind::ALL.into_iter().find(|(name, _)| *name == backup.kind)?.1;
    Some(Kept {
        label: backup.label.clone(),
        repository: repository.clone(),
        kind,
        tier: backup.annotation.get(TIER).cloned(),
        started: backup.timestamp.start,
        stopped: backup.timestamp.stop,
        needs: backup.reference.clone().unwrap_or_default(),
        size: backup.info.size,
        stored: backup.info.repository.delta,
        damaged_pages: backup.error.unwrap_or(false),
        lsn: backup.lsn.as_ref().and_then(|lsn| lsn.stop.clone()).unwrap_or_default(),
        first_segment: backup.archive.start.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Region;
    use crate::config::Repository;

    #[test]
    fn a_message_with_control_characters_is_trouble_and_no_riddle() {
        let text = "[{\"name\":\"main\",\"status\":{\"code\":99,\"message\":\"other\"},\"repo\":[{\"key\":1,\
                    \"status\":{\"code\":99,\"message\":\"invalid \u{1}\u{7f}\n header\"}}]}]";
        let name = RepositoryName::parse("near").unwrap();
        let repository = Repository { region: Region::parse("lk").unwrap(), store: None };
        let numbered = Numbered { number: 1, name: &name, repository: &repository };
        let found = read(text, "main", numbered).unwrap();
        assert_eq!(found.trouble.as_deref(), Some("invalid     header"));
    }
}
