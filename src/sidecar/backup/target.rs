//! Up to where a copy is to be replayed, and from which backup.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::BackupError;
use super::info::{Holdings, Kept};
use crate::base::{Lsn, RepositoryName, clock};
use crate::config::Cluster;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All that is archived.
    End,
    /// The end of the backup itself.
    Consistent,
    /// What was committed before it.
    Time(SystemTime),
    Lsn(Lsn),
    /// By pg_create_restore_point.
    Name(String),
    /// With it.
    Transaction(u32),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End => f.write_str("to its end"),
            Self::Consistent => f.write_str("to the end of the backup"),
            Self::Time(at) => write!(f, "to {}", clock::rfc3339(*at)),
            Self::Lsn(lsn) => write!(f, "to {lsn}"),
            Self::Name(name) => write!(f, "to restore point {name}"),
            Self::Transaction(id) => write!(f, "to transaction {id}"),
        }
    }
}

/// `2026-11-01T08:00:00Z`, or with any other offset and fractions of a second.
pub fn moment(text: &str) -> Result<SystemTime, String> {
    let wrong = || format!("{text:?} is no moment; write it as 2026-11-01T08:00:00Z, or with an offset such as +05:30");
    let joined = text.trim().replacen(' ', "T", 1);
    let at = OffsetDateTime::parse(&joined, &Rfc3339).map_err(|_| wrong())?;
    let nanos = u64::try_from(at.unix_timestamp_nanos()).map_err(|_| wrong())?;
    Ok(UNIX_EPOCH + Duration::from_nanos(nanos))
}

impl Target {
    pub fn lsn(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no position in the log; write it as 0/3000060");
        Lsn::parse(text).map(Self::Lsn).ok_or_else(wrong)
    }

    /// As pgBackRest's restore is told of it.
    pub(super) fn options(&self) -> Vec<String> {
        let target = |kind: &str, target: &str| {
            vec![format!("--type={kind}"), format!("--target={target}"), "--target-action=promote".to_owned()]
        };
        match self {
            Self::End => Vec::new(),
            Self::Consistent => vec!["--type=immediate".to_owned(), "--target-action=promote".to_owned()],
            Self::Time(at) => target("time", &of_postgres(*at)),
            Self::Lsn(lsn) => target("lsn", &lsn.to_string()),
            Self::Name(name) => target("name", name),
            Self::Transaction(id) => target("xid", &id.to_string()),
        }
    }
}

/// With all the digits that PostgreSQL takes.
fn of_postgres(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = clock::timestamp(since.as_secs());
    format!("{}.{:06}+00", second.trim_end_matches(" UTC"), since.subsec_micros())
}

/// What is to be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `None`: any.
    pub repository: Option<RepositoryName>,
    /// The backup's label. `None`: the latest that the target can be reached from.
    pub set: Option<String>,
    pub target: Target,
    /// Whether what was received of the log is replayed where the archive ends.
    pub received: bool,
}

impl Wanted {
    pub fn latest() -> Self {
        Self { repository: None, set: None, target: Target::End, received: true }
    }

    /// Of one repository, with what is in it and nothing else.
    pub(super) fn archived(repository: Option<RepositoryName>, set: Option<String>, target: Target) -> Self {
        Self { repository, set, target, received: false }
    }

    /// The backup to begin from.
    pub(super) fn choose<'a>(&self, cluster: &Cluster, holdings: &'a [Holdings]) -> Result<&'a Kept, BackupError> {
        let meant = |of: &&Holdings| self.repository.as_ref().is_none_or(|wanted| of.repository == *wanted);
        let named = |kept: &&Kept| self.set.as_ref().is_none_or(|label| kept.label == *label);
        let reaches = |kept: &&Kept| match &self.target {
            Target::Time(at) => UNIX_EPOCH + Duration::from_secs(kept.stopped) <= *at,
            Target::Lsn(lsn) => Lsn::parse(&kept.lsn).is_some_and(|stop| stop <= *lsn),
            _ => true,
        };
        let all = || holdings.iter().filter(meant).flat_map(|of| &of.backups);
        if let Some(kept) = all().filter(named).filter(reaches).max_by_key(|kept| (kept.stopped, &kept.label)) {
            return Ok(kept);
        }
        if let Some(of) = holdings.iter().filter(meant).find(|of| of.trouble.is_some()) {
            let trouble = of.trouble.clone().unwrap_or_default();
            return Err(BackupError::Repository {
                cluster: cluster.name.clone(),
                repository: of.repository.clone(),
                trouble,
            });
        }
        let wanted = match (&self.set, all().find(named)) {
            (Some(set), None) => format!("called {set}"),
            (_, None) => "at all".to_owned(),
            (_, Some(oldest)) => {
                let first = clock::timestamp(oldest.stopped);
                format!("that ended before the log comes {}; the oldest ended at {first}", self.target)
            }
        };
        Err(BackupError::NoBackup { cluster: cluster.name.clone(), wanted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_taken_with_their_offset_and_told_to_postgresql_in_utc() {
        let at = moment("2026-11-01 13:30:00.25+05:30").unwrap();
        assert_eq!(of_postgres(at), "2026-11-01 08:00:00.250000+00");
        assert_eq!(Target::Time(at).options()[1], "--target=2026-11-01 08:00:00.250000+00");
        for wrong in ["", "yesterday", "2026-11-01", "2026-11-01T08:00:00", "1969-01-01T00:00:00Z"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
