use std::path::PathBuf;

use super::baseline::BaselineError;
use crate::base::{ClusterName, Region, RepositoryName};
use crate::local::ClusterError;
use crate::topology::{WayError, WritersError};

/// What kept a backup from being made, found, restored or let go.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("there is no cluster {0} in the configuration")]
    UnknownCluster(ClusterName),
    #[error("pgward makes no backups of cluster {0}: no repository of it has a path or s3 (clusters.{0}.repositories)")]
    NotConfigured(ClusterName),
    #[error("cluster {cluster} has no repository {repository} that pgward keeps backups in; it has {known}")]
    UnknownRepository { cluster: ClusterName, repository: RepositoryName, known: String },
    #[error("there is no tier {tier} (backup.tiers); there is {known}")]
    UnknownTier { tier: String, known: String },
    #[error("tier {tier} does not go to a repository that is meant (backup.tiers.{tier}.repositories)")]
    NotOfTier { tier: String },
    #[error("another command works on the backups of cluster {cluster} ({by}); nothing was done")]
    Busy { cluster: ClusterName, by: String },
    #[error("another pgward makes a backup of cluster {0} right now; nothing was done")]
    BusyElsewhere(ClusterName),
    #[error("cannot {doing} {}", .path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Local(#[from] ClusterError),
    #[error(transparent)]
    Writers(#[from] WritersError),
    #[error(transparent)]
    Way(#[from] WayError),
    #[error("the data of the server of cluster {cluster} that takes writes is not here{why}")]
    NoPrimary { cluster: ClusterName, why: String },
    #[error("no server of cluster {cluster} takes writes{why}")]
    NoWriter { cluster: ClusterName, why: String },
    #[error("cannot {doing} on cluster {cluster}")]
    Sql {
        doing: &'static str,
        cluster: ClusterName,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error(
        "{what} on the primary of cluster {cluster}, so its log is not archived and no backup would be whole; {mend}"
    )]
    Archiving { cluster: ClusterName, what: String, mend: String },
    #[error("{program} cannot be run ({said}); install the package pgbackrest, or say with backup.program where it is")]
    Program { program: String, said: String },
    #[error("pgbackrest {command} failed ({status}): {said}")]
    Pgbackrest { command: &'static str, status: String, said: String },
    #[error("what pgbackrest info says is not understood")]
    Info(#[source] serde_json::Error),
    #[error("repository {repository} of cluster {cluster} cannot be read: {trouble}")]
    Repository { cluster: ClusterName, repository: RepositoryName, trouble: String },
    #[error("cluster {cluster} has no backup {wanted}; `pgward backup list` shows what there is")]
    NoBackup { cluster: ClusterName, wanted: String },
    #[error("the copy of cluster {cluster} does not come up: {why}")]
    Scratch { cluster: ClusterName, why: String },
    #[error(
        "a copy of cluster {cluster} takes {needed} bytes, and {free} are free in {}; backup.directory has to have room for the \
         largest cluster", .folder.display()
    )]
    NoRoom { cluster: ClusterName, needed: u64, free: u64, folder: PathBuf },
    #[error("the log of cluster {cluster} is not received: {why}")]
    NotReceived { cluster: ClusterName, why: String },
    #[error("{0}")]
    Target(String),
    #[error("what cluster {cluster} holds cannot be recorded")]
    Baseline {
        cluster: ClusterName,
        #[source]
        source: BaselineError,
    },
    #[error(
        "cluster {cluster} is not restored here, in region {region}, where the data of some of its tenants may not be: {tenants}"
    )]
    NotHere { cluster: ClusterName, region: Region, tenants: String },
    #[error(
        "no baseline of cluster {0} is recorded here that could be read; `pgward backup verify --fresh` takes one on the primary"
    )]
    NoBaseline(ClusterName),
}

impl BackupError {
    /// Somebody else's command is at work: that is not for long, and no failure.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::BusyElsewhere(_))
    }

    /// What it is about is this machine, and nothing of the backup that was to be restored.
    pub(super) fn is_of_this_machine(&self) -> bool {
        let file = matches!(self, Self::File { .. } | Self::Local(ClusterError::File { .. }));
        file || matches!(self, Self::NoRoom { .. } | Self::NotHere { .. } | Self::Program { .. })
    }

    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_made_here_is_nothing_that_is_wrong_with_a_backup() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(BackupError::file("make the folder", "/x")(full()).is_of_this_machine());
        let cluster = ClusterName::parse("main").unwrap();
        let damaged = BackupError::Scratch { cluster, why: "invalid page".to_owned() };
        assert!(!damaged.is_of_this_machine());
    }
}
