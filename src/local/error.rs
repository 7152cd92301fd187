use std::path::PathBuf;

/// What kept a PostgreSQL server from being where it should be.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "no PostgreSQL server binaries (initdb, postgres, pg_basebackup) in {looked}; install postgresql-15, \
         or name their folder in PGWARD_PG_BIN"
    )]
    NoBinaries { looked: String },

    #[error(
        "PostgreSQL does not run as root, and there is no user `postgres` to run it as; \
         create one (useradd --system postgres) or run this as an ordinary user"
    )]
    NoAccount,

    #[error("the user {user} can enter none of {tried}, so PostgreSQL could not keep its data there; set TMPDIR")]
    NoPlace { user: String, tried: String },

    #[error("cannot {doing} {path}")]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },

    #[error("cannot run {program}; is the package util-linux installed?")]
    Spawn { program: String, source: std::io::Error },

    #[error("{program} failed ({status}): {output}")]
    Tool { program: String, status: String, output: String },

    #[error("server {name} ended while it was starting; its log ends with:\n{log}")]
    Ended { name: String, log: String },

    #[error("server {name} was not ready within {seconds} s ({last}); its log ends with:\n{log}")]
    NotReady { name: String, seconds: u64, last: String, log: String },

    #[error("server {name} did not stop within {seconds} s")]
    NotStopped { name: String, seconds: u64 },

    #[error("cannot connect to server {name}")]
    Connect { name: String, source: tokio_postgres::Error },

    #[error("cannot {doing} on server {name}")]
    Sql { doing: &'static str, name: String, source: tokio_postgres::Error },

    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
}

impl ClusterError {
    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}
