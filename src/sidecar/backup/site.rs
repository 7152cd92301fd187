//! One cluster's backups: where they are, what is remembered of them here, and how pgBackRest is told.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tempfile::NamedTempFile;
use tokio_postgres::Client;

use super::conf::{Conf, Numbered};
use super::error::BackupError;
use super::info::{self, Holdings};
use super::pgbackrest::{Pgbackrest, Progress};
use crate::base::{ClusterName, RepositoryName, causes};
use crate::config::{self, Cluster, ClusterBackup, Repository, Server, ServerRole, ServerTlsMode, Settings, Tier};
use crate::local::{Host, open_plain, read_plain};
use crate::residency;
use crate::tenant::login_password;
use crate::topology::{self, Errand, Way, WayError};

/// What servers know us by.
const APPLICATION: &str = "pgward backup";

pub struct Site {
    settings: Arc<Settings>,
    cluster: Arc<Cluster>,
    backup: config::Backup,
    own: ClusterBackup,
    host: Host,
    folder: PathBuf,
}

/// Held as long as one command works on a cluster's backups, however it ends.
pub struct Lock {
    file: File,
}

impl Lock {
    /// For a program that it is to be held by, too, as that one's standard input.
    pub(super) fn share(&self) -> std::io::Result<Stdio> {
        Ok(self.file.try_clone()?.into())
    }
}

impl Site {
    /// Makes the cluster's folder, if it is not there.
    pub fn open(settings: &Arc<Settings>, name: &ClusterName) -> Result<Self, BackupError> {
        let cluster = settings.clusters.get(name).ok_or_else(|| BackupError::UnknownCluster(name.clone()))?;
        let driven = cluster.repositories.values().any(|repository| repository.store.is_some());
        let (Some(backup), Some(own), true) = (&settings.backup, &cluster.backup, driven) else {
            return Err(BackupError::NotConfigured(name.clone()));
        };
        let host = Host::find()?;
        let parent = std::path::absolute(&backup.directory).map_err(BackupError::file("find", &backup.directory))?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&parent);
        made.map_err(BackupError::file("make the folder", &parent))?;
        let folder = parent.join(name.as_str());
        let site = Self {
            settings: Arc::clone(settings),
            cluster: Arc::clone(cluster),
            backup: backup.clone(),
            own: own.clone(),
            host,
            folder,
        };
        site.make_folder(&site.folder)?;
        for part in ["lock", "log", "spool"] {
            site.private_folder(&site.folder.join(part))?;
        }
        Ok(site)
    }

    /// The clusters whose backups pgward makes.
    pub fn clusters(settings: &Settings) -> impl Iterator<Item = &ClusterName> {
        let driven = |cluster: &Cluster| cluster.repositories.values().any(|repository| repository.store.is_some());
        let all = settings.clusters.values().filter(move |cluster| driven(cluster) && settings.backup.is_some());
        all.map(|cluster| &cluster.name)
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    pub fn rules(&self) -> &config::Backup {
        &self.backup
    }

    /// Into which folder the log is received as it is written.
    pub fn receive_wal(&self) -> Option<&Path> {
        self.own.receive_wal.as_deref()
    }

    /// What servers know whoever receives the log here by (pg_stat_replication, synchronous_standby_names).
    pub(super) fn receiver(&self) -> String {
        let node = self.settings.node.as_ref().map(|name| format!("_{name}"));
        format!("pgward_receive{}", node.unwrap_or_default())
    }

    /// Files of the archive in one repository whose names begin with these 16 digits.
    pub(super) async fn archived_in(&self, numbered: &Numbered<'_>, part: &str) -> Result<Vec<String>, BackupError> {
        let Some(archive) = self.held(numbered).await?.archive_id else { return Ok(Vec::new()) };
        let folder = format!("archive/{}/{archive}/{part}", self.cluster.name);
        let options = [format!("--repo={}", numbered.number), folder];
        let text = self.pgbackrest()?.output("repo-ls", &options).await?;
        Ok(text.lines().map(|line| line.trim().to_owned()).collect())
    }

    /// Whether what receives the log for one can go on for the other.
    pub(super) fn receives_as(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.own == other.own && self.may_be_here().is_ok()
    }

    /// What is remembered of the cluster's backups: ours and PostgreSQL's user's alone.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A folder of PostgreSQL's user, closed to all others, within one of that user's own, who may have put a link there.
    pub(super) fn private_folder(&self, path: &Path) -> Result<(), BackupError> {
        self.make_folder(path)?;
        let metadata = fs::symlink_metadata(path).map_err(BackupError::file("look at", path))?;
        if metadata.is_dir() {
            return Ok(());
        }
        Err(BackupError::file("use as a folder", path)(std::io::ErrorKind::NotADirectory.into()))
    }

    fn make_folder(&self, path: &Path) -> Result<(), BackupError> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => Ok(self.host.own(path)?),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(BackupError::file("make the folder", path)(error)),
        }
    }

    /// The same where the operator has named it, and may have made it, empty, as somebody else.
    pub(super) fn named_folder(&self, path: &Path) -> Result<(), BackupError> {
        self.make_folder(path)?;
        let mut entries = fs::read_dir(path).map_err(BackupError::file("look into", path))?;
        if entries.next().is_none() {
            self.host.own(path)?;
        }
        Ok(())
    }

    /// Puts a file in its place as a whole, for PostgreSQL's user alone.
    pub(super) fn private_file(&self, path: &Path, text: &str) -> Result<(), BackupError> {
        let folder = path.parent().unwrap_or(&self.folder);
        let put = || {
            let mut file = NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        let file = put().map_err(BackupError::file("write", path))?;
        self.host.own_file(file.as_file(), path)?;
        file.persist(path).map_err(|error| BackupError::file("write", path)(error.error))?;
        Ok(())
    }

    /// `doing`: what others are told who come meanwhile.
    pub fn lock(&self, doing: &str) -> Result<Lock, BackupError> {
        self.lock_at(&self.folder.join("command.lock"), doing)
    }

    /// The same of other work than a command's, by a lock of its own.
    pub(super) fn lock_at(&self, path: &Path, doing: &str) -> Result<Lock, BackupError> {
        let failed = |source| BackupError::File { doing: "lock", path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let mut file = open_plain(&mut options, path).map_err(failed)?;
        self.host.own_file(&file, path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut by = String::new();
                let _ = file.read_to_string(&mut by);
                return Err(BackupError::Busy { cluster: self.cluster.name.clone(), by: by.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let text = format!("process {}: {doing}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(failed)?;
        Ok(Lock { file })
    }

    /// The repositories that pgward keeps backups in, by pgBackRest's numbers.
    pub(super) fn repositories(&self) -> Vec<Numbered<'_>> {
        let all = self.cluster.repositories.iter().filter(|(_, repository)| repository.store.is_some());
        all.enumerate().map(|(at, (name, repository))| Numbered { number: at + 1, name, repository }).collect()
    }

    pub(super) fn repository(&self, wanted: &RepositoryName) -> Result<Numbered<'_>, BackupError> {
        let all = self.repositories();
        let found = all.iter().find(|numbered| numbered.name == wanted).copied();
        found.ok_or_else(|| BackupError::UnknownRepository {
            cluster: self.cluster.name.clone(),
            repository: wanted.clone(),
            known: all.iter().map(|numbered| numbered.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Where backups are and in which region, by name.
    pub fn stores(&self) -> BTreeMap<&RepositoryName, &Repository> {
        self.repositories().into_iter().map(|numbered| (numbered.name, numbered.repository)).collect()
    }

    pub fn tier(&self, name: &str) -> Result<&Tier, BackupError> {
        self.backup.tiers.get(name).ok_or_else(|| BackupError::UnknownTier {
            tier: name.to_owned(),
            known: self.backup.tiers.keys().map(|name| name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    fn errand<'a>(&'a self, database: &'a str) -> Errand<'a> {
        let (cluster, login) = (&self.cluster.name, &self.own.login);
        Errand { cluster, database, login, application_name: APPLICATION }
    }

    /// The server that takes writes and whose data pgBackRest can read, and a connection to it.
    pub async fn primary(&self) -> Result<Primary, BackupError> {
        let Writer { server, client, data } = self.writer().await?;
        match data {
            Ok(data) => Ok(Primary { server, data, client }),
            Err(why) => {
                let why = format!(" (server {}: {why})", server.name);
                Err(BackupError::NoPrimary { cluster: self.cluster.name.clone(), why })
            }
        }
    }

    /// The server that takes writes, wherever its data is, and a connection to it.
    pub async fn writer(&self) -> Result<Writer, BackupError> {
        let mut why = String::new();
        for server in topology::writers(&self.cluster).await?.servers {
            let way = Way::to_server(&self.settings, self.errand(&self.own.database), &server)?;
            match way.connect().await {
                Ok(client) => {
                    let data = self.data_of(&server, &client).await?;
                    return Ok(Writer { server, client, data });
                }
                Err(error) => why = format!(" (server {}: {})", server.name, causes(&error)),
            }
        }
        Err(BackupError::NoWriter { cluster: self.cluster.name.clone(), why })
    }

    async fn data_of(&self, server: &Server, client: &Client) -> Result<Result<PathBuf, String>, BackupError> {
        // Patroni tells where a server is, the configuration where its data is.
        let known = self.cluster.servers.iter().find(|known| known.host == server.host && known.port == server.port);
        let Some(data) = known.and_then(|known| known.data_directory.clone()) else {
            return Ok(Err("it has no data_directory in the configuration".to_owned()));
        };
        let here = self.is_data_of(client, &data).await?;
        Ok(if here { Ok(data) } else { Err(format!("{} on this machine is not its data", data.display())) })
    }

    /// A replica's files, or those of a server that was stopped, may be at the same place of another machine: who the server
    /// is that holds the data here, its lock file says (miscadmin.h: LOCK_FILE_LINE_START_TIME, LOCK_FILE_LINE_PORT).
    async fn is_data_of(&self, client: &Client, data: &Path) -> Result<bool, BackupError> {
        let sql = "select extract(epoch from pg_catalog.pg_postmaster_start_time())::bigint, \
                   pg_catalog.current_setting('port')";
        let row = client.query_one(sql, &[]).await.map_err(self.sql("ask when the server was started"))?;
        let (started, port): (i64, String) = (row.get(0), row.get(1));
        let text = read_plain(&data.join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let at = lines.get(2).and_then(|at| at.parse::<i64>().ok());
        // The one is the second in which it began to start, the other a moment later.
        Ok(at.is_some_and(|at| started.abs_diff(at) <= 2) && lines.get(3) == Some(&port.as_str()))
    }

    /// The data of the server that is configured as the primary.
    pub(super) fn configured_data(&self) -> Result<PathBuf, BackupError> {
        let mut servers: Vec<&Arc<Server>> = self.cluster.servers.iter().collect();
        servers.sort_by_key(|server| server.role != ServerRole::Primary);
        let found = servers.into_iter().find_map(|server| server.data_directory.clone());
        found.ok_or_else(|| BackupError::NotConfigured(self.cluster.name.clone()))
    }

    /// A connection to a database of the server that takes writes, as the one who reads everything.
    pub async fn connect(&self, database: &str) -> Result<Client, BackupError> {
        let way = Way::find(&self.settings, self.errand(database)).await?;
        way.connect().await.map_err(self.sql("connect"))
    }

    /// The same for several connections to one server, and where backups are begun on it.
    pub(super) async fn way(&self) -> Result<(Way, &str), BackupError> {
        let server = self.primary().await?.server;
        let database = self.own.database.as_str();
        Ok((Way::to_server(&self.settings, self.errand(database), &server)?, database))
    }

    /// A copy holds the data of all tenants of the cluster, and this machine may be where those of some may not be.
    pub(super) fn may_be_here(&self) -> Result<(), BackupError> {
        let Some(region) = &self.settings.region else { return Ok(()) };
        let tenants = self.settings.tenants.values().filter(|tenant| tenant.cluster == self.cluster.name);
        let not_here = tenants.filter(|tenant| !residency::allows(&tenant.regions, region));
        let names: Vec<&str> = not_here.map(|tenant| tenant.id.as_str()).take(10).collect();
        if names.is_empty() {
            return Ok(());
        }
        let (cluster, region) = (self.cluster.name.clone(), region.clone());
        Err(BackupError::NotHere { cluster, region, tenants: names.join(", ") })
    }

    pub(super) fn sql(&self, doing: &'static str) -> impl Fn(tokio_postgres::Error) -> BackupError + '_ {
        move |source| BackupError::Sql { doing, cluster: self.cluster.name.clone(), source }
    }

    /// For what needs no server.
    pub(super) fn pgbackrest(&self) -> Result<Pgbackrest<'_>, BackupError> {
        let repositories = self.repositories();
        let conf = Conf { folder: &self.folder, backup: &self.own, repositories: &repositories };
        let (path, text) = (self.folder.join("pgbackrest.conf"), conf.text());
        if read_plain(&path).ok().as_ref() != Some(&text) {
            self.private_file(&path, &text)?;
        }
        Ok(Pgbackrest {
            host: &self.host,
            program: &self.backup.program,
            conf: path,
            stanza: self.cluster.name.as_str(),
            server: Vec::new(),
            environment: Vec::new(),
        })
    }

    pub(super) fn pgbackrest_at(&self, primary: &Primary) -> Result<Pgbackrest<'_>, BackupError> {
        let server = vec![
            format!("--pg1-path={}", primary.data.display()),
            format!("--pg1-port={}", primary.server.port),
            format!("--pg1-user={}", self.own.login.role),
            format!("--pg1-database={}", self.own.database),
        ];
        Ok(Pgbackrest { server, environment: self.environment(&primary.server, APPLICATION)?, ..self.pgbackrest()? })
    }

    /// What libpq goes by in the programs that are run.
    pub(super) fn environment(
        &self,
        server: &Server,
        application: &str,
    ) -> Result<Vec<(&'static str, String)>, BackupError> {
        let (login, name) = (&self.own.login, &self.cluster.name);
        let password = login_password(self.settings.master_key.as_ref(), name, login);
        let password = password.ok_or_else(|| WayError::NoPassword(login.role.clone()))?;
        let mode = match self.cluster.tls.mode {
            ServerTlsMode::Off => "disable",
            ServerTlsMode::Require => "require",
            ServerTlsMode::VerifyFull => "verify-full",
        };
        let mut variables = vec![
            ("PGHOST", server.host.clone()),
            ("PGPORT", server.port.to_string()),
            ("PGUSER", login.role.clone()),
            ("PGPASSWORD", String::from_utf8_lossy(password.expose()).into_owned()),
            ("PGSSLMODE", mode.to_owned()),
            ("PGAPPNAME", application.to_owned()),
        ];
        let tls = &self.cluster.tls;
        for (name, file) in [("PGSSLROOTCERT", &tls.ca), ("PGSSLCERT", &tls.certificate), ("PGSSLKEY", &tls.key)] {
            variables.extend(file.as_ref().map(|file| (name, file.display().to_string())));
        }
        Ok(variables)
    }

    /// How a server calls pgBackRest, by its settings.
    pub(super) fn command_line(&self) -> String {
        let program = shell_quoted(&self.backup.program.display().to_string());
        let config = shell_quoted(&self.folder.join("pgbackrest.conf").display().to_string());
        format!("{program} --config={config} --stanza={}", self.cluster.name)
    }

    /// What is in each repository.
    pub async fn holdings(&self) -> Result<Vec<Holdings>, BackupError> {
        let repositories = self.repositories();
        let mut all = Vec::new();
        for numbered in &repositories {
            // One at a time: one that cannot be reached tells nothing of the others.
            all.push(self.holdings_of(numbered).await?);
        }
        Ok(all)
    }

    /// What one of them has. An error, if that cannot be known.
    pub(super) async fn held(&self, numbered: &Numbered<'_>) -> Result<Holdings, BackupError> {
        self.holdings_of(numbered).await?.known(&self.cluster.name)
    }

    async fn holdings_of(&self, numbered: &Numbered<'_>) -> Result<Holdings, BackupError> {
        let output = ["--output=json".to_owned(), format!("--repo={}", numbered.number)];
        match self.pgbackrest()?.output("info", &output).await {
            Ok(text) => {
                let read = info::read(&text, self.cluster.name.as_str(), *numbered);
                Ok(read.unwrap_or_else(|error| Holdings::unknown(numbered.name, causes(&BackupError::Info(error)))))
            }
            Err(BackupError::Pgbackrest { said, .. }) => Ok(Holdings::unknown(numbered.name, said)),
            Err(error) => Err(error),
        }
    }

    /// Has every repository know the cluster, which takes its log only then. Can be repeated.
    pub async fn prepare(&self, primary: &Primary, progress: &mut dyn Progress) -> Result<(), BackupError> {
        self.pgbackrest_at(primary)?.run("stanza-create", &[], progress).await
    }
}

/// For a shell that PostgreSQL starts, to which a per cent sign is something else.
pub(super) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''").replace('%', "%%"))
}

/// The server that takes writes, and where its data is on this machine, or why it is not.
pub struct Writer {
    pub server: Arc<Server>,
    /// To the database that backups are begun in.
    pub client: Client,
    pub data: Result<PathBuf, String>,
}

/// The same, with its data here.
pub struct Primary {
    pub server: Arc<Server>,
    pub data: PathBuf,
    pub client: Client,
}
