//! The log, received as it is written (pg_receivewal): what a lost primary had not archived yet. No replication slot is
//! used, so that nothing fills the primary's disk when nobody receives; what is missed then is in the archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio_postgres::Client;

use super::error::BackupError;
use super::scratch::control_data;
use super::site::{Lock, Site, Writer};
use super::wal::{self, Segment};
use crate::base::clock;
use crate::config::Server;
use crate::local::read_plain;

/// How often the primary is asked how far it has come.
const LOOK: Duration = Duration::from_secs(5);

/// How long the repositories may take to say what they have, and the primary how far it has come.
const ASKING: Duration = Duration::from_secs(20);

const ENDING: Duration = Duration::from_secs(10);

/// How often in a row the primary may refuse to go on from what was received.
const REFUSALS: u32 = 3;

/// How far receiving has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Receiving {
    pub streaming: bool,
    /// What the primary has written and is not on the disk here. `None`: not known.
    pub behind_bytes: Option<u64>,
}

/// pg_receivewal at work. Dropping it ends it, as the end of this process does.
pub(super) struct Receiver {
    child: Child,
    writer: Writer,
    _lock: Lock,
}

impl Drop for Receiver {
    /// It is to end by itself: what it is in the middle of writing is not to be cut.
    fn drop(&mut self) {
        self.signal();
    }
}

impl Receiver {
    /// `refused`: how often in a row one ended before anything came.
    pub async fn begin(site: &Site, refused: u32) -> Result<Self, BackupError> {
        site.may_be_here()?;
        let folder = folder(site)?;
        site.named_folder(folder)?;
        site.private_folder(&wal::aside(folder))?;
        let lock = site.lock_at(&folder.join("receive.lock"), "pgward run, receiving the log")?;
        let writer = site.writer().await?;
        let primary = Standing::of(site, &writer.client).await?;
        same_system(site, folder, &primary.system)?;
        primary.takes(site, &writer.server, folder)?;
        wal::remove_torn(folder, primary.segment_size)?;
        if let Some(next) = wal::next(folder)
            && primary.cannot_go_on(site, &writer.client, &next, refused).await?
        {
            tracing::warn!(cluster = %site.cluster().name, %next, "the primary does not go on from what was received, so \
                that is moved aside");
            wal::set_aside(site, folder, clock::unix_now())?;
        }
        let mut command = tokio::process::Command::from(site.host().command("setpriv"));
        command.args(["--pdeathsig", "INT", "--"]).arg(site.host().binary("pg_receivewal"));
        command.args(["--synchronous", "--no-loop", "--no-password", "--status-interval=5", "--directory"]).arg(folder);
        command.envs(site.environment(&writer.server, &site.receiver())?);
        // The lock goes with whoever writes there, for as long as it does.
        command.stdin(lock.share().map_err(BackupError::file("lock", folder))?);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(BackupError::file("run", "pg_receivewal"))?;
        Ok(Self { child, writer, _lock: lock })
    }

    /// Waits a moment and says how it stands. An error: it has ended.
    pub async fn look(&mut self, site: &Site) -> Result<Receiving, BackupError> {
        if let Ok(ended) = tokio::time::timeout(LOOK, self.child.wait()).await {
            let mut said = String::new();
            if let Some(mut errors) = self.child.stderr.take() {
                let _ = errors.read_to_string(&mut said).await;
            }
            let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let said: Vec<&str> = said.lines().map(str::trim).collect();
            return Err(not_received(site, format!("pg_receivewal ended ({status}): {}", said.join("; "))));
        }
        let slow = |_| not_received(site, format!("the primary did not answer within {} s", ASKING.as_secs()));
        tokio::time::timeout(ASKING, receiving(site, &self.writer.client)).await.map_err(slow)?
    }

    /// What it is in the middle of is finished.
    pub async fn end(mut self) {
        self.signal();
        let _ = tokio::time::timeout(ENDING, self.child.wait()).await;
    }

    fn signal(&self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::INT);
        }
    }

    /// Whether it is still this server that takes writes.
    pub async fn is_led(&self, site: &Site) -> bool {
        let same =
            |now: Writer| now.server.host == self.writer.server.host && now.server.port == self.writer.server.port;
        // While nobody does, there is nothing better to receive from.
        site.writer().await.map_or(true, same)
    }
}

/// As the primary tells it.
pub async fn receiving(site: &Site, primary: &Client) -> Result<Receiving, BackupError> {
    let sql = "select pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), flush_lsn)::bigint \
               from pg_catalog.pg_stat_replication \
               where application_name = $1 and usename = current_user and state = 'streaming'";
    let rows = primary.query(sql, &[&site.receiver()]).await.map_err(site.sql("ask how the log is received"))?;
    let behind = rows.iter().filter_map(|row| row.get::<_, Option<i64>>(0)).min();
    // What was received since the question is no lag.
    let behind_bytes = behind.map(|behind| u64::try_from(behind).unwrap_or(0));
    Ok(Receiving { streaming: !rows.is_empty(), behind_bytes })
}

fn folder(site: &Site) -> Result<&Path, BackupError> {
    site.receive_wal().ok_or_else(|| not_received(site, "clusters.NAME.backup.receive_wal names no folder".to_owned()))
}

fn not_received(site: &Site, why: String) -> BackupError {
    BackupError::NotReceived { cluster: site.cluster().name.clone(), why }
}

/// What a primary says of itself.
struct Standing {
    system: String,
    timeline: u32,
    /// The segment that it writes.
    segment: String,
    segment_size: u64,
    synchronous: String,
}

impl Standing {
    async fn of(site: &Site, primary: &Client) -> Result<Self, BackupError> {
        let sql = "select s.system_identifier::text, pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()), \
                       pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')), \
                       pg_catalog.current_setting('synchronous_standby_names') \
                   from pg_catalog.pg_control_system() s";
        let row = primary.query_one(sql, &[]).await.map_err(site.sql("ask for its log"))?;
        let (segment, size): (String, i64) = (row.get(1), row.get(2));
        let timeline = segment.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
        let segment_size = u64::try_from(size).unwrap_or_default();
        Ok(Self { system: row.get(0), timeline, segment, segment_size, synchronous: row.get(3) })
    }

    /// Whether this is one to receive from.
    fn takes(&self, site: &Site, server: &Server, folder: &Path) -> Result<(), BackupError> {
        let received = wal::newest_timeline(folder);
        if received > self.timeline {
            let (name, ours) = (&server.name, self.timeline);
            let why = format!(
                "server {name} takes writes on timeline {ours}, and the log was received up to timeline {received}"
            );
            return Err(not_received(site, why));
        }
        // It has the log and not the data: commits that waited for it alone would not be on another server.
        if self.synchronous.contains('*') {
            let name = site.receiver();
            let why = format!(
                "synchronous_standby_names is {}, which would make it a standby that commits wait for; name the servers \
                 that are meant there, and {name} beside them if it is",
                self.synchronous
            );
            return Err(not_received(site, why));
        }
        Ok(())
    }

    /// Whether there is no use in asking for this segment: it is gone from the primary; or the primary, which refuses, is
    /// not where it was.
    async fn cannot_go_on(
        &self,
        site: &Site,
        primary: &Client,
        next: &Segment,
        refused: u32,
    ) -> Result<bool, BackupError> {
        let sql = "select exists (select from pg_catalog.pg_ls_waldir() \
                   where pg_catalog.length(name) = 24 and pg_catalog.substr(name, 9) = $1)";
        let row = primary.query_one(sql, &[&next.position]).await.map_err(site.sql("list its log"))?;
        let (there, now): (bool, Option<&str>) = (row.get(0), self.segment.get(8..));
        let behind = now.is_some_and(|now| next.position.as_str() < now);
        let elsewhere = next.timeline != self.timeline || now.is_some_and(|now| next.position.as_str() > now);
        Ok((behind && !there) || (elsewhere && refused >= REFUSALS))
    }
}

/// The log of another cluster would be of no use to this one, and in its way.
fn same_system(site: &Site, folder: &Path, system: &str) -> Result<(), BackupError> {
    let path: PathBuf = folder.join("system");
    match read_plain(&path) {
        Ok(text) if text.trim() == system => Ok(()),
        Ok(text) => Err(not_received(
            site,
            format!(
                "{} has the log of system {}, and the cluster is system {system}; move that away, or name another folder",
                folder.display(),
                text.trim()
            ),
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => site.private_file(&path, &format!("{system}\n")),
        Err(error) => Err(BackupError::file("read", path)(error)),
    }
}

/// Lets go of what every repository has. pg_receivewal is writing what ends in .partial. Returns the bytes that are there.
pub(super) async fn clean(site: &Site) -> Result<u64, BackupError> {
    let folder = folder(site)?;
    let whole: Vec<PathBuf> = wal::whole(folder);
    if !whole.is_empty() {
        let slow = |_| not_received(site, format!("the repositories did not answer within {} s", ASKING.as_secs()));
        let archived = tokio::time::timeout(ASKING, archived_everywhere(site, &whole)).await.map_err(slow)??;
        for path in archived {
            fs::remove_file(path).map_err(BackupError::file("remove", path))?;
        }
    }
    wal::remove_useless(folder);
    Ok(wal::size(folder))
}

/// Those that are in each of the cluster's repositories by name.
async fn archived_everywhere<'a>(site: &Site, whole: &'a [PathBuf]) -> Result<Vec<&'a PathBuf>, BackupError> {
    let mut kept: Vec<&PathBuf> = whole.iter().collect();
    for numbered in site.repositories() {
        let mut listed: Vec<String> = Vec::new();
        let mut parts: Vec<String> =
            kept.iter().filter_map(|path| wal::name(path)?.get(..16).map(str::to_owned)).collect();
        parts.dedup();
        for part in parts {
            listed.extend(site.archived_in(&numbered, &part).await?);
        }
        kept.retain(|path| wal::name(path).is_some_and(|name| wal::lists(&listed, name)));
    }
    Ok(kept)
}

async fn segment_size(site: &Site, data: &Path) -> Result<u64, BackupError> {
    let text = control_data(site.host(), data).await?;
    let found = text.lines().find_map(|line| line.strip_prefix("Bytes per WAL segment:")?.trim().parse().ok());
    found.ok_or_else(|| BackupError::Scratch {
        cluster: site.cluster().name.clone(),
        why: "pg_controldata does not say how large a segment of its log is".to_owned(),
    })
}

/// Has a restored cluster replay what was received where its archive ends.
pub(super) async fn replay_received(site: &Site, data: &Path) -> Result<Option<String>, BackupError> {
    let Some(folder) = site.receive_wal() else { return Ok(None) };
    if !folder.is_dir() {
        return Ok(Some(format!(
            "{} (receive_wal) is not on this machine, so what was received of the log is not replayed; bring it here first, if \
             what the archive lacks is wanted",
            folder.display()
        )));
    }
    let path = data.join("postgresql.auto.conf");
    let text = read_plain(&path).map_err(BackupError::file("read", &path))?;
    let others = text.lines().filter(|line| !line.starts_with("restore_command"));
    let command = wal::restore_command(&site.command_line(), folder, segment_size(site, data).await?);
    let ours = format!("restore_command = '{}'", command.replace('\'', "''"));
    let lines: Vec<&str> = others.chain([ours.as_str()]).collect();
    site.private_file(&path, &(lines.join("\n") + "\n"))?;
    Ok(None)
}
