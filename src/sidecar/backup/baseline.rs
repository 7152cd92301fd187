//! What a cluster holds at one moment, in digests: so that a copy which was restored to that moment can be told from
//! one that is damaged.
//!
//! The moment has a name in the write-ahead log, a restore point, which is written after each database's snapshot was
//! taken. So whatever a snapshot sees is in the log before that point. What is there before it and a snapshot does
//! not see are transactions that committed in between: the copy knows exactly which these are ([`copy::moving`]).
//! [`moment`] looks for a moment at which there are none.

mod compare;
mod copy;
mod moment;
mod read;
mod seat;

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use compare::{Comparison, compare};
pub use copy::{Copy, look_at_copy};
pub use moment::take;

/// Of the file. A baseline of another one is not compared with anything.
const FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    #[error("database {database} cannot be reached")]
    Connect { database: String, source: tokio_postgres::Error },
    #[error("cannot {doing} in database {database}")]
    Sql { doing: &'static str, database: String, source: tokio_postgres::Error },
    #[error("the baseline is of format {0}, and this pgward reads format {FORMAT}: take a new one")]
    Format(u32),
    #[error("the baseline cannot be read: it is no longer what was written")]
    Damaged(#[source] serde_json::Error),
    #[error("no database of the cluster could be read: {0}")]
    NothingRead(String),
}

/// One cluster at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    format: u32,
    /// The restore point.
    pub point: String,
    /// Where it stands in the write-ahead log.
    pub lsn: String,
    /// The segment that it is in.
    pub segment: String,
    /// When, by the server's clock, in RFC 3339.
    pub taken: String,
    /// Of the cluster, as PostgreSQL numbers them.
    pub system: String,
    pub server_version: u32,
    /// The database in which what all databases share was read: roles, settings, databases.
    pub home: String,
    /// How old the end of the archive was just then, in seconds: what came after it was on the primary alone. `None`: all
    /// was archived, or nothing ever.
    pub archive_age: Option<f64>,
    /// Nothing ended between the snapshots and the restore point, as far as the primary could tell.
    pub quiet: bool,
    pub databases: BTreeMap<String, Database>,
    /// Databases that could not be read, and why.
    pub unread: BTreeMap<String, String>,
}

/// What one database holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// As pg_current_snapshot() has it.
    pub snapshot: String,
    /// By their quoted names. PostgreSQL's own catalogues are tables, too: together they are the schema.
    pub tables: BTreeMap<String, Reading>,
    pub sequences: BTreeMap<String, Sequence>,
    /// What people have made: tables with all that belongs to them, functions, types, schemas, roles.
    pub objects: BTreeMap<String, Digest>,
}

/// Rows and the sum of their hashes, in which their order does not show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub rows: i64,
    pub sum: String,
}

/// What came of reading a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    Read(Digest),
    /// It was dropped, renamed, emptied or written anew after the snapshot: what was read is not what it was.
    Moved,
    /// Somebody held a lock on it for longer than is waited for.
    Locked,
    /// To ask for it could be to run what others than superusers have made.
    Planned,
    /// PostgreSQL's error.
    Failed(String),
}

/// Sequences do not belong to transactions: the first and the last value that was seen around the restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// `None`: it has not been used.
    pub before: Option<i64>,
    pub after: Option<i64>,
    /// How far the log is ahead of the values that were given out.
    pub ahead: i64,
    pub cycles: bool,
}

impl Baseline {
    pub fn parse(text: &str) -> Result<Self, BaselineError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_str(text).map_err(BaselineError::Damaged)?;
        if head.format != FORMAT {
            return Err(BaselineError::Format(head.format));
        }
        serde_json::from_str(text).map_err(BaselineError::Damaged)
    }

    pub fn tables(&self) -> usize {
        self.databases.values().map(|database| database.tables.len()).sum()
    }

    pub fn rows(&self) -> i64 {
        let readings = self.databases.values().flat_map(|database| database.tables.values());
        let rows = readings.filter_map(|reading| match reading {
            Reading::Read(digest) => Some(digest.rows),
            _ => None,
        });
        rows.fold(0, i64::saturating_add)
    }
}

/// A name for a restore point that no other has. PostgreSQL takes 63 bytes.
fn point_name() -> String {
    let seconds = crate::base::clock::unix_now();
    format!("pgward-{seconds}-{:08x}", rand::random::<u32>())
}

/// PostgreSQL's clock as text, from seconds.
fn moment_text(seconds: f64) -> String {
    let since = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    crate::base::clock::rfc3339(SystemTime::UNIX_EPOCH + since)
}
