//! One PostgreSQL server that belongs to us: it lives no longer than this process.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;

use tokio_postgres::{Client, Config, NoTls};

use super::error::ClusterError;
use super::host::{Host, open_plain, read_plain};

const SUPERVISE: &str = include_str!("supervise.sh");
const POLL: Duration = Duration::from_millis(10);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// Between asking for a free port and PostgreSQL's bind somebody else may take it.
const PORT_ATTEMPTS: usize = 8;

/// How a server is told to stop (PostgreSQL documentation, "Shutting Down the Server").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are ended, transactions rolled back, a checkpoint written.
    Fast,
    /// As in a crash, but without leaving anything running.
    Immediate,
}

pub struct Server {
    name: String,
    host: Host,
    data: PathBuf,
    log: PathBuf,
    door: Door,
    deadline: Duration,
    port: Option<u16>,
    supervisor: Option<Supervisor>,
}

/// How its superuser gets in.
enum Door {
    /// By a port of 127.0.0.1.
    Tcp { password: String },
    /// By a Unix socket in a folder that is closed to others, without a password.
    Socket { folder: PathBuf, superuser: String, settings: Vec<(String, String)> },
}

/// In the name of a socket only: nobody listens at this port.
const SOCKET_PORT: u16 = 5432;

/// The shell around the server; what is written to it are names of signals.
struct Supervisor {
    shell: Child,
    signals: ChildStdin,
}

impl Server {
    pub(super) fn new(host: Host, name: &str, data: PathBuf, log: PathBuf, password: &str, deadline: Duration) -> Self {
        let (name, door) = (name.to_owned(), Door::Tcp { password: password.to_owned() });
        Self { name, host, data, log, door, deadline, port: None, supervisor: None }
    }

    /// One that nobody reaches but by a socket in `folder`, and whose settings are these whatever its files say. It may
    /// take all of `deadline` until it lets anybody in.
    pub fn secluded(
        host: Host,
        name: &str,
        [data, log, folder]: [PathBuf; 3],
        superuser: &str,
        settings: Vec<(String, String)>,
        deadline: Duration,
    ) -> Self {
        let door = Door::Socket { folder, superuser: superuser.to_owned(), settings };
        Self { name: name.to_owned(), host, data, log, door, deadline, port: Some(SOCKET_PORT), supervisor: None }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// Stays the same when the server is started again.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or_default()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The superuser's URL of the database `postgres`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    pub fn url_of(&self, database: &str) -> String {
        match &self.door {
            Door::Tcp { password } => {
                format!("postgresql://postgres:{password}@{}:{}/{database}", self.host(), self.port())
            }
            Door::Socket { folder, superuser, .. } => {
                let port = self.port();
                format!("postgresql://{superuser}@/{database}?host={}&port={port}", folder.display())
            }
        }
    }

    fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.dbname(database).port(self.port());
        match &self.door {
            Door::Tcp { password } => config.host(self.host()).user("postgres").password(password),
            Door::Socket { folder, superuser, .. } => config.host_path(folder).user(superuser),
        };
        config
    }

    /// A superuser's connection, driven by a task of the current runtime until the client is dropped.
    pub async fn connect(&self, database: &str) -> Result<Client, ClusterError> {
        let (client, connection) = self
            .config(database)
            .connect(NoTls)
            .await
            .map_err(|source| ClusterError::Connect { name: self.name.clone(), source })?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements as superuser.
    pub async fn run(&self, database: &str, doing: &'static str, sql: &str) -> Result<(), ClusterError> {
        let client = self.connect(database).await?;
        client.batch_execute(sql).await.map_err(|source| ClusterError::Sql { doing, name: self.name.clone(), source })
    }

    /// Starts the server and waits until it answers a query.
    pub async fn start(&mut self) -> Result<(), ClusterError> {
        let fixed = self.port;
        let mut attempts = PORT_ATTEMPTS;
        loop {
            let port = match fixed {
                Some(port) => port,
                None => free_port().map_err(ClusterError::file("bind a port of", self.host()))?,
            };
            self.port = Some(port);
            let written = std::fs::metadata(&self.log).map_or(0, |file| file.len());
            self.spawn(port)?;
            let failed = match self.ready(written).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.halt();
            attempts -= 1;
            let taken = log_since(&self.log, written).contains("could not create any TCP/IP sockets");
            if attempts == 0 || !taken {
                return Err(failed);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn spawn(&mut self, port: u16) -> Result<(), ClusterError> {
        let log = open_plain(OpenOptions::new().create(true).append(true), &self.log);
        let log = log.map_err(ClusterError::file("open the log", &self.log))?;
        let again = log.try_clone().map_err(ClusterError::file("open the log", &self.log))?;
        let mut command = self.host.command("/bin/sh");
        command.arg("-c").arg(SUPERVISE).arg("supervise").arg(&self.data);
        command.arg(self.host.binary("postgres")).arg("-D").arg(&self.data);
        command.arg("-p").arg(port.to_string());
        if let Door::Socket { settings, .. } = &self.door {
            for (name, value) in settings {
                command.arg("-c").arg(format!("{name}={value}"));
            }
        }
        // A group of its own: Ctrl-C is for us, who stop the servers in order.
        command.stdin(Stdio::piped()).stdout(log).stderr(again).process_group(0);
        let broken = |source| ClusterError::Spawn { program: "setpriv and sh".to_owned(), source };
        let mut shell = command.spawn().map_err(broken)?;
        match shell.stdin.take() {
            Some(signals) => {
                self.supervisor = Some(Supervisor { shell, signals });
                Ok(())
            }
            None => Err(broken(std::io::ErrorKind::BrokenPipe.into())),
        }
    }

    async fn ready(&mut self, written: u64) -> Result<(), ClusterError> {
        let begin = Instant::now();
        loop {
            if self.exited().is_some() {
                let log = tail(&log_since(&self.log, written));
                return Err(ClusterError::Ended { name: self.name.clone(), log });
            }
            let answer = tokio::time::timeout(self.deadline, async {
                self.connect("postgres").await?.simple_query("select 1").await.map_err(|source| ClusterError::Sql {
                    doing: "ask for an answer",
                    name: self.name.clone(),
                    source,
                })
            });
            let last = match answer.await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if begin.elapsed() > self.deadline {
                let (name, seconds) = (self.name.clone(), self.deadline.as_secs());
                return Err(ClusterError::NotReady { name, seconds, last, log: self.log_tail() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends a signal to the postmaster by its name: `HUP`, `KILL`, `STOP`, `CONT`, ...
    pub fn signal(&mut self, signal: &str) {
        if let Some(supervisor) = &mut self.supervisor {
            // A supervisor that is gone has taken its server along.
            let _ = supervisor.signals.write_all(format!("{signal}\n").as_bytes());
        }
    }

    pub async fn stop(&mut self, how: Stop) -> Result<(), ClusterError> {
        self.signal(match how {
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        });
        self.await_end().await
    }

    /// As a crash of the machine: nothing is written or said any more.
    pub async fn kill(&mut self) -> Result<(), ClusterError> {
        self.signal("KILL");
        self.await_end().await
    }

    async fn await_end(&mut self) -> Result<(), ClusterError> {
        let begin = Instant::now();
        while self.supervisor.is_some() && self.exited().is_none() {
            if begin.elapsed() > STOP_DEADLINE {
                let (name, seconds) = (self.name.clone(), STOP_DEADLINE.as_secs());
                return Err(ClusterError::NotStopped { name, seconds });
            }
            tokio::time::sleep(POLL).await;
        }
        self.supervisor = None;
        Ok(())
    }

    pub fn is_running(&mut self) -> bool {
        self.supervisor.is_some() && self.exited().is_none()
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.supervisor.as_mut()?.shell.try_wait().ok().flatten()
    }

    /// The postmaster's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        postmaster(&self.data)
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let length = std::fs::metadata(&self.log).map_or(0, |file| file.len());
        tail(&log_since(&self.log, length.saturating_sub(4096)))
    }

    /// Stops at once and waits, without a runtime; for `Drop` and failed starts.
    fn halt(&mut self) {
        self.signal("QUIT");
        let Some(mut supervisor) = self.supervisor.take() else { return };
        let begin = Instant::now();
        let mut killed = false;
        while matches!(supervisor.shell.try_wait(), Ok(None)) && begin.elapsed() < STOP_DEADLINE {
            if !killed && begin.elapsed() > Duration::from_secs(5) {
                killed = supervisor.signals.write_all(b"KILL\n").is_ok();
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.halt();
    }
}

/// The process that a data folder's lock file names.
pub(crate) fn postmaster(data: &Path) -> Option<u32> {
    read_plain(&data.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

/// A port nobody has at this moment.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn log_since(log: &Path, offset: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = open_plain(OpenOptions::new().read(true), log)
        && file.seek(SeekFrom::Start(offset)).is_ok()
    {
        // What could be read before an error is still worth showing.
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(12)).copied().collect::<Vec<_>>().join("\n")
}
