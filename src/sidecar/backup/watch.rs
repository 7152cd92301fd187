//! How the log gets to the archive: how much of it waits, since when, and what keeps it.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_postgres::Client;

use super::error::BackupError;
use super::reports::as_seconds;
use super::site::{Site, Writer};
use crate::base::causes;

/// The archiving of one cluster's log, as the server that writes it tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Archiving {
    pub archived: i64,
    pub last_archived: Option<String>,
    pub failures: i64,
    /// Whether the last attempt failed.
    pub failing: bool,
    pub last_failed: Option<String>,
    /// What waits to be archived.
    pub waiting_segments: i64,
    pub waiting_bytes: u64,
    /// How long the oldest of it has waited.
    #[serde(serialize_with = "as_seconds")]
    pub lag: Duration,
    /// Why none of it can get to a repository.
    pub unarchived: Option<Unarchived>,
    /// 0: a segment is archived when it is full, however long that takes.
    #[serde(rename = "archive_timeout", serialize_with = "as_seconds")]
    pub timeout: Duration,
    /// Of the file system that the log is on, where this machine can see it.
    pub free_bytes: Option<u64>,
}

/// A server that does not archive as pgward's backups need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unarchived {
    Off,
    Elsewhere,
    /// pgBackRest is a command; there is no such library of it.
    Library,
}

impl Unarchived {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "archive_mode is off",
            Self::Elsewhere => "archive_command does not call pgbackrest's archive-push",
            Self::Library => "archive_library is set, so archive_command is not called",
        }
    }

    /// `client`: to the server. `None`: it does.
    pub async fn of(site: &Site, client: &Client) -> Result<Option<Self>, BackupError> {
        let sql = "select pg_catalog.current_setting('archive_mode') = 'off', \
                   coalesce(pg_catalog.current_setting('archive_library', true), '') <> '', \
                   pg_catalog.strpos(pg_catalog.current_setting('archive_command'), 'archive-push') = 0";
        let row = client.query_one(sql, &[]).await.map_err(site.sql("ask for the archiving"))?;
        Ok(match (row.get(0), row.get(1), row.get(2)) {
            (true, _, _) => Some(Self::Off),
            (false, true, _) => Some(Self::Library),
            (false, false, true) => Some(Self::Elsewhere),
            (false, false, false) => None,
        })
    }
}

const STATE: &str = "
    select s.archived_count, s.last_archived_wal, s.failed_count, s.last_failed_wal,
        s.last_failed_time is not null and s.last_failed_time > coalesce(s.last_archived_time, '-infinity') as failing,
        w.waiting, w.waiting * pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) as bytes,
        extract(epoch from pg_catalog.clock_timestamp() - w.since)::float8 as lag,
        extract(epoch from pg_catalog.current_setting('archive_timeout')::interval)::float8 as timeout
    from pg_catalog.pg_stat_archiver s,
        (select count(*) as waiting, min(modification) as since
         from pg_catalog.pg_ls_archive_statusdir() where name like '%.ready') w";

pub async fn archiving(site: &Site, writer: &Writer) -> Result<Archiving, BackupError> {
    let row = writer.client.query_one(STATE, &[]).await.map_err(site.sql("ask for the archiving"))?;
    let lag: Option<f64> = row.get("lag");
    let seconds =
        |seconds: Option<f64>| seconds.and_then(|of| Duration::try_from_secs_f64(of).ok()).unwrap_or_default();
    let bytes: i64 = row.get("bytes");
    let free = writer.data.iter().find_map(|data| rustix::fs::statvfs(data.join("pg_wal")).ok());
    Ok(Archiving {
        archived: row.get("archived_count"),
        last_archived: row.get("last_archived_wal"),
        failures: row.get("failed_count"),
        failing: row.get("failing"),
        last_failed: row.get("last_failed_wal"),
        waiting_segments: row.get("waiting"),
        waiting_bytes: u64::try_from(bytes).unwrap_or(0),
        lag: seconds(lag),
        unarchived: Unarchived::of(site, &writer.client).await?,
        timeout: seconds(row.get("timeout")),
        free_bytes: free.map(|free| free.f_bavail.saturating_mul(free.f_frsize)),
    })
}

impl Archiving {
    /// What a person must see to, before the disk is full.
    pub fn alert(&self, site: &Site) -> Option<String> {
        let rules = site.rules();
        if let Some(unarchived) = self.unarchived {
            let (name, why) = (&site.cluster().name, unarchived.as_str());
            return Some(format!("the log of cluster {name} is not archived: {why}; `pgward backup setup` says how"));
        }
        let why = if self.lag > rules.max_archive_lag {
            format!("the oldest segment has waited for {} s", self.lag.as_secs())
        } else if self.waiting_bytes > rules.max_archive_backlog {
            format!("{} bytes wait", self.waiting_bytes)
        } else if self.free_bytes.is_some_and(|free| free < self.waiting_bytes) {
            "less is free on its disk than waits already".to_owned()
        } else {
            return None;
        };
        let failed = match &self.last_failed {
            Some(segment) if self.failing => format!("; archiving {segment} failed, and the server's log says why"),
            _ => String::new(),
        };
        Some(format!("the log of cluster {} is archived too slowly: {why}{failed}", site.cluster().name))
    }
}

const POLL: Duration = Duration::from_millis(100);

/// Waits for a segment to be archived, and says why it is not.
pub(super) async fn archived(site: &Site, client: &Client, segment: &str) -> Result<(), String> {
    let begin = Instant::now();
    let patience = site.rules().max_archive_lag;
    // Within a timeline, names are in the order of the log.
    let sql = "select coalesce(pg_catalog.substr(last_archived_wal, 9, 16) >= pg_catalog.substr($1, 9, 16), false), \
                   last_failed_wal, coalesce(last_failed_time > last_archived_time, last_failed_time is not null) \
               from pg_catalog.pg_stat_archiver";
    loop {
        let row = client.query_one(sql, &[&segment]).await.map_err(|error| causes(&error))?;
        let answer: Result<(bool, Option<String>, bool), tokio_postgres::Error> =
            (|| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))();
        let (archived, failed, failing) = answer.map_err(|error| causes(&error))?;
        if archived {
            return Ok(());
        }
        if begin.elapsed() > patience {
            let seconds = patience.as_secs();
            let waits = format!("segment {segment} was not archived within {seconds} s");
            return Err(match failed.filter(|_| failing) {
                Some(failed) => format!("{waits}, and archive_command fails on {failed}; the server's log says why"),
                None => format!("{waits}; is archive_mode on, and is the archiver that far behind?"),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Has what was written until now archived, so that a copy can be had of it. An error: why it cannot be.
pub async fn end_segment(site: &Site) -> Result<(), String> {
    let client = site.writer().await.map_err(|error| causes(&error))?.client;
    if let Some(unarchived) = Unarchived::of(site, &client).await.map_err(|error| causes(&error))? {
        return Err(unarchived.as_str().to_owned());
    }
    let sql = "select pg_catalog.pg_walfile_name(pg_catalog.pg_switch_wal())";
    let row = client.query_one(sql, &[]).await.map_err(|error| causes(&error))?;
    let segment: String = row.try_get(0).map_err(|error| causes(&error))?;
    archived(site, &client, &segment).await
}
