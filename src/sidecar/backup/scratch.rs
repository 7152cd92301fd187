//! A copy of a cluster, restored aside: a server of our own that nobody else reaches, gone when it is dropped.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::Client;

use super::error::BackupError;
use super::info::Kept;
use super::pgbackrest::Progress;
use super::restore::{aside, put};
use super::site::Site;
use super::target::{Target, Wanted};
use crate::local::{ClusterError, Host, Server, Stop, open_plain, postmaster, read_plain};

/// Replaying takes as long as it takes; this ends a recovery that hangs.
const LIMIT: Duration = Duration::from_secs(24 * 3_600);

const PREFIX: &str = "scratch-";

/// Fields drop in order: the server before its folder.
pub struct Scratch {
    server: Server,
    sockets: PathBuf,
    superuser: String,
    backup: Kept,
    archived: Option<String>,
    took: Took,
    recovered: Recovered,
    folder: Folder,
}

/// How long each part of a recovery took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took {
    pub restore: Duration,
    /// From the server's start to its first answer.
    pub replay: Duration,
}

/// How far a recovery came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The end of the log that was replayed. Empty where none was.
    pub lsn: String,
    /// When the last transaction that was replayed had committed. `None`: none was.
    pub last_commit: Option<SystemTime>,
}

/// Removed however we end: the lock tells others that nobody uses it any more.
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(folder = %self.path.display(), %error, "a restored copy could not be removed");
        }
    }
}

impl Scratch {
    /// Restores what is wanted, replays the log up to there, and opens it.
    pub async fn restore(site: &Site, wanted: &Wanted, progress: &mut dyn Progress) -> Result<Self, BackupError> {
        site.may_be_here()?;
        sweep(site.folder());
        let holdings = site.holdings().await?;
        let backup = wanted.choose(site.cluster(), &holdings)?.clone();
        room(site, &backup)?;
        let folder = Folder::new(site)?;
        let [data, sockets] = ["data", "s"].map(|name| folder.path.join(name));
        for path in [&data, &sockets] {
            site.private_folder(path)?;
        }
        let of = holdings.iter().find(|of| of.repository == backup.repository);
        let archived = of.and_then(|of| of.archive.as_ref()).map(|(_, newest)| newest.clone());
        let begin = Instant::now();
        put(site, wanted, (&backup, &data), aside(&folder.path.join("tablespaces")), progress).await?;
        let restore = begin.elapsed();
        progress.step(&format!("replaying the log {}", wanted.target));
        let begin = Instant::now();
        let superuser = site.rules().superuser.clone();
        let settings = settings(site, &folder.path, &sockets, &data).await?;
        let (host, log) = (site.host().clone(), folder.path.join("server.log"));
        let mut server = Server::secluded(host, "copy", [data, log, sockets.clone()], &superuser, settings, LIMIT);
        server.start().await.map_err(|error| failed(site, &wanted.target, error))?;
        let recovered = recovered(site, &server).await?;
        let took = Took { restore, replay: begin.elapsed() };
        Ok(Self { server, sockets, superuser, backup, archived, took, recovered, folder })
    }

    /// As superuser.
    pub async fn connect(&self, database: &str) -> Result<Client, BackupError> {
        Ok(self.server.connect(database).await?)
    }

    /// What PostgreSQL's programs go by.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("PGHOST", self.sockets.clone().into_os_string()),
            ("PGPORT", self.server.port().to_string().into()),
            ("PGUSER", self.superuser.clone().into()),
        ]
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    /// For what is to go with the copy.
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// What it was made of.
    pub fn backup(&self) -> &Kept {
        &self.backup
    }

    /// The newest segment that its repository had before it was made: what comes later may have come too late for it.
    pub(super) fn archived(&self) -> Option<&str> {
        self.archived.as_deref()
    }

    pub fn took(&self) -> Took {
        self.took
    }

    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Stops the server cleanly, so that its files can be looked at.
    pub async fn stop(&mut self) -> Result<(), BackupError> {
        Ok(self.server.stop(Stop::Fast).await?)
    }
}

impl Folder {
    fn new(site: &Site) -> Result<Self, BackupError> {
        let path = site.folder().join(format!("{PREFIX}{:08x}", rand::random::<u32>()));
        site.private_folder(&path)?;
        let name = path.join("used");
        let file = File::create_new(&name).map_err(BackupError::file("make", &name))?;
        file.try_lock().map_err(|error| BackupError::file("lock", &name)(error.into()))?;
        Ok(Self { path, _lock: file })
    }
}

/// A copy is not to fill a disk that others need, with some more for the log.
pub(super) fn room(site: &Site, backup: &Kept) -> Result<(), BackupError> {
    let needed = backup.size.saturating_add(backup.size / 10);
    let Ok(disk) = rustix::fs::statvfs(site.folder()) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= needed {
        return Ok(());
    }
    let (cluster, folder) = (site.cluster().name.clone(), site.folder().to_owned());
    Err(BackupError::NoRoom { cluster, needed, free, folder })
}

/// Removes copies whose command is gone.
pub(super) fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let lock = open_plain(OpenOptions::new().read(true), &path.join("used"));
        // One without that file was being made or unmade when its command was killed.
        if lock.is_ok_and(|lock| lock.try_lock().is_err()) {
            continue;
        }
        if let Some(pid) =
            postmaster(&path.join("data")).and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)
            && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == path.join("data"))
        {
            // It ends with its command in any case, and a moment later.
            let _ = kill_process(pid, Signal::QUIT);
        }
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(folder = %path.display(), %error, "what is left of a restored copy could not be removed");
        }
    }
}

/// Whatever the cluster's own files say: nothing leaves the copy, nothing comes in, and nothing changes by itself.
async fn settings(
    site: &Site,
    folder: &Path,
    sockets: &Path,
    data: &Path,
) -> Result<Vec<(String, String)>, BackupError> {
    of_recovery_only(site, data)?;
    let [config, hba, ident] = ["copy.conf", "hba.conf", "ident.conf"].map(|name| folder.join(name));
    site.private_file(&config, "")?;
    site.private_file(&hba, "local all all trust\n")?;
    site.private_file(&ident, "")?;
    let shown = |path: &Path| path.display().to_string();
    let mut settings: Vec<(String, String)> = [
        ("config_file", shown(&config)),
        ("hba_file", shown(&hba)),
        ("ident_file", shown(&ident)),
        ("unix_socket_directories", shown(sockets)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let fixed = [
        ("listen_addresses", ""),
        ("unix_socket_permissions", "0700"),
        ("ssl", "off"),
        ("archive_mode", "off"),
        ("primary_conninfo", ""),
        ("archive_cleanup_command", ""),
        ("recovery_end_command", ""),
        ("shared_buffers", "128MB"),
        ("huge_pages", "off"),
        ("synchronous_standby_names", ""),
        ("hot_standby", "off"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("shared_preload_libraries", ""),
        ("session_preload_libraries", ""),
        ("local_preload_libraries", ""),
        ("autovacuum", "off"),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("max_wal_size", "8GB"),
    ];
    settings.extend(fixed.map(|(name, value)| (name.to_owned(), value.to_owned())));
    settings.extend(controlled(site.host(), data).await?);
    Ok(settings)
}

/// What the cluster was told by ALTER SYSTEM is not for the copy.
fn of_recovery_only(site: &Site, data: &Path) -> Result<(), BackupError> {
    let path = data.join("postgresql.auto.conf");
    // That it is not there is not this machine's doing.
    let broken = |error| {
        let why = format!("its postgresql.auto.conf cannot be read: {error}");
        BackupError::Scratch { cluster: site.cluster().name.clone(), why }
    };
    let text = read_plain(&path).map_err(broken)?;
    let ours = |line: &&str| line.starts_with("restore_command") || line.starts_with("recovery_target");
    let kept: Vec<&str> = text.lines().filter(ours).collect();
    site.private_file(&path, &(kept.join("\n") + "\n"))
}

/// Settings of the cluster that its log cannot be replayed under less than, as its control file has them.
async fn controlled(host: &Host, data: &Path) -> Result<Vec<(String, String)>, BackupError> {
    let text = control_data(host, data).await?;
    let of = |line: &str, name: &str| Some(line.strip_prefix(name)?.trim_start_matches(':').trim().to_owned());
    let known = [
        ("max_connections setting", "max_connections"),
        ("max_worker_processes setting", "max_worker_processes"),
        ("max_wal_senders setting", "max_wal_senders"),
        ("max_prepared_xacts setting", "max_prepared_transactions"),
        ("max_locks_per_xact setting", "max_locks_per_transaction"),
        ("track_commit_timestamp setting", "track_commit_timestamp"),
    ];
    let found = |line: &str| known.iter().find_map(|(name, setting)| Some(((*setting).to_owned(), of(line, name)?)));
    Ok(text.lines().filter_map(found).collect())
}

/// Lines of a name and a value.
pub(super) async fn control_data(host: &Host, data: &Path) -> Result<String, BackupError> {
    let mut command = tokio::process::Command::from(host.command(host.binary("pg_controldata")));
    let output = command.arg(data).kill_on_drop(true).output().await;
    let output = output.map_err(BackupError::file("read the control file of", data))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn recovered(site: &Site, server: &Server) -> Result<Recovered, BackupError> {
    let client = server.connect("postgres").await?;
    let sql = "select coalesce(pg_last_wal_replay_lsn()::text, ''), pg_last_xact_replay_timestamp()";
    let row = client.query_one(sql, &[]).await.map_err(site.sql("ask how far a copy came"))?;
    Ok(Recovered { lsn: row.get(0), last_commit: row.get(1) })
}

/// PostgreSQL says it in its log, in words that need some more.
fn failed(site: &Site, target: &Target, error: ClusterError) -> BackupError {
    let text = error.to_string();
    let cluster = site.cluster().name.clone();
    if text.contains("recovery ended before configured recovery target was reached") {
        let why = format!(
            "the archived log ends before it comes {target}; is that later than what is archived, or earlier than the \
             backup (name another with --set)?"
        );
        return BackupError::Scratch { cluster, why };
    }
    BackupError::Scratch { cluster, why: text }
}
