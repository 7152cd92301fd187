//! PostgreSQL clusters of our own: a primary and its streaming replicas, on free ports of 127.0.0.1, in
//! a folder that goes when they go. The demo runs on them, and so do the integration tests.
//!
//! Only the superuser can log in at first, with a random password; nothing is trusted, and there is no
//! Unix socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::error::ClusterError;
use super::host::Host;
use super::server::{Server, Stop};
use super::tls::Authority;

/// Settings every server gets: small, quick to start, and able to feed replicas. Durability is given up,
/// since the data never outlives the process.
const SETTINGS: [(&str, &str); 10] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "32MB"),
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("hot_standby", "on"),
    ("wal_receiver_status_interval", "1s"),
    ("log_line_prefix", "%m [%p] %u@%d "),
];

pub struct Builder {
    name: String,
    parent: Option<PathBuf>,
    logs: Option<PathBuf>,
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    tls: bool,
    replicas: Vec<String>,
    deadline: Duration,
}

/// Fields drop in order: the replicas first, then what they stream from, then the folder of both.
pub struct Cluster {
    name: String,
    replicas: Vec<Server>,
    primary: Server,
    authority: Option<Authority>,
    template: Template,
    folder: Folder,
}

/// What a further server of the cluster needs.
struct Template {
    host: Host,
    logs: PathBuf,
    password: String,
    deadline: Duration,
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // The servers are gone, but a killed initdb's last child may still be writing.
        for _ in 0..40 {
            if fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Builder {
    /// Where the data folder is made, if PostgreSQL's user can get there; a temporary folder otherwise.
    #[must_use]
    pub fn parent(mut self, folder: &Path) -> Self {
        self.parent = Some(folder.to_owned());
        self
    }

    /// Where the logs go, to stay after the cluster; beside the data otherwise.
    #[must_use]
    pub fn logs(mut self, folder: &Path) -> Self {
        self.logs = Some(folder.to_owned());
        self
    }

    /// A line of `postgresql.conf`, for all servers.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A line of `pg_hba.conf` ahead of the usual ones, such as `hostnossl all alice all reject`.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// The servers speak TLS, with certificates for `localhost` and `127.0.0.1`, and accept client
    /// certificates of [`Cluster::authority`].
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    #[must_use]
    pub fn replica(mut self, name: &str) -> Self {
        self.replicas.push(name.to_owned());
        self
    }

    /// How long each server may take to answer.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub async fn start(self) -> Result<Cluster, ClusterError> {
        let host = Host::find()?;
        let folder = Folder(host.folder(self.parent.as_deref(), &self.name)?);
        let logs = self.logs.clone().unwrap_or_else(|| folder.0.clone());
        let password = format!("{:032x}", rand::random::<u128>());
        let template = Template { host, logs, password, deadline: self.deadline };
        let primary_name = format!("{}-1", self.name);
        let data = folder.0.join(&primary_name);
        initdb(&template, &folder.0, &data).await?;
        let authority = if self.tls { Some(self.certificates(&template.host, &data)?) } else { None };
        self.configure(&data)?;
        let mut primary = template.server(&primary_name, data);
        primary.start().await?;
        let mut cluster = Cluster { name: self.name, replicas: Vec::new(), primary, authority, template, folder };
        for name in &self.replicas {
            cluster.add_replica(name).await?;
        }
        Ok(cluster)
    }

    fn certificates(&self, host: &Host, data: &Path) -> Result<Authority, ClusterError> {
        let authority = Authority::new(&format!("{} test authority", self.name))?;
        let server = authority.server(&["localhost", "127.0.0.1"])?;
        for (name, text) in
            [("ca.crt", authority.pem()), ("server.crt", server.certificate), ("server.key", server.key)]
        {
            private_file(host, &data.join(name), &text)?;
        }
        Ok(authority)
    }

    fn configure(&self, data: &Path) -> Result<(), ClusterError> {
        let mut text = String::from("\n# Of pgward's making; later lines win.\n");
        let fixed = SETTINGS.iter().map(|(name, value)| (*name, *value));
        let tls = [("ssl", "on"), ("ssl_ca_file", "ca.crt")];
        let asked = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in fixed.chain(tls.into_iter().filter(|_| self.tls)).chain(asked) {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        let path = data.join("postgresql.conf");
        let old = fs::read_to_string(&path).map_err(ClusterError::file("read", &path))?;
        fs::write(&path, old + &text).map_err(ClusterError::file("write", &path))?;
        let mut lines = self.hba.clone();
        lines.push("host all all 127.0.0.1/32 scram-sha-256".to_owned());
        lines.push("host replication postgres 127.0.0.1/32 scram-sha-256".to_owned());
        let path = data.join("pg_hba.conf");
        fs::write(&path, lines.join("\n") + "\n").map_err(ClusterError::file("write", &path))
    }
}

impl Cluster {
    /// The primary will be called `NAME-1`.
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            parent: None,
            logs: None,
            settings: Vec::new(),
            hba: Vec::new(),
            tls: false,
            replicas: Vec::new(),
            deadline: Duration::from_secs(60),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    pub fn primary(&self) -> &Server {
        &self.primary
    }

    pub fn primary_mut(&mut self) -> &mut Server {
        &mut self.primary
    }

    pub fn replicas(&self) -> &[Server] {
        &self.replicas
    }

    pub fn replicas_mut(&mut self) -> &mut [Server] {
        &mut self.replicas
    }

    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }

    pub fn servers_mut(&mut self) -> impl Iterator<Item = &mut Server> {
        std::iter::once(&mut self.primary).chain(&mut self.replicas)
    }

    /// Who signed the servers' certificates, when the cluster has TLS.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// A further replica by base backup, streaming through a slot of its own. Returns once it answers.
    pub async fn add_replica(&mut self, name: &str) -> Result<(), ClusterError> {
        let data = self.folder.0.join(name);
        let slot: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let mut command = self.template.host.command(self.template.host.binary("pg_basebackup"));
        command.args(["--write-recovery-conf", "--create-slot", "--slot", &slot.to_ascii_lowercase()]);
        command.args(["--wal-method=stream", "--checkpoint=fast", "--no-sync", "--pgdata"]).arg(&data);
        let to = format!("host={} port={} user=postgres", self.primary.host(), self.primary.port());
        command.args(["--dbname", &format!("{to} application_name={name}")]);
        command.env("PGPASSWORD", &self.template.password);
        tool("pg_basebackup", command).await?;
        let mut server = self.template.server(name, data);
        server.start().await?;
        self.replicas.push(server);
        self.caught_up().await
    }

    /// Waits until every running replica has replayed what the primary has written by now.
    pub async fn caught_up(&mut self) -> Result<(), ClusterError> {
        let doing = "read the WAL position";
        let sql = |name: &str| {
            let name = name.to_owned();
            move |source| ClusterError::Sql { doing, name, source }
        };
        let client = self.primary.connect("postgres").await?;
        let row = client.query_one("select pg_current_wal_lsn()::text", &[]).await;
        let lsn: String = row.map_err(sql(self.primary.name()))?.get(0);
        for replica in &mut self.replicas {
            if !replica.is_running() {
                continue;
            }
            let client = replica.connect("postgres").await?;
            let begin = Instant::now();
            loop {
                let question = "select coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, true)";
                let row = client.query_one(question, &[&lsn]).await.map_err(sql(replica.name()))?;
                if row.get(0) {
                    break;
                }
                if begin.elapsed() > self.template.deadline {
                    return Err(ClusterError::NotReady {
                        name: replica.name().to_owned(),
                        seconds: self.template.deadline.as_secs(),
                        last: format!("has not replayed {lsn}"),
                        log: replica.log_tail(),
                    });
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// Stops everything in order and removes the data. Dropping a cluster does the same, less gently.
    pub async fn shut_down(mut self) -> Result<(), ClusterError> {
        for replica in &mut self.replicas {
            replica.stop(Stop::Immediate).await?;
        }
        self.primary.stop(Stop::Immediate).await
    }
}

impl Template {
    fn server(&self, name: &str, data: PathBuf) -> Server {
        let log = self.logs.join(format!("{name}.log"));
        Server::new(self.host.clone(), name, data, log, &self.password, self.deadline)
    }
}

async fn initdb(template: &Template, folder: &Path, data: &Path) -> Result<(), ClusterError> {
    let password = folder.join("superuser-password");
    private_file(&template.host, &password, &template.password)?;
    let mut command = template.host.command(template.host.binary("initdb"));
    command.arg("--pgdata").arg(data).arg("--pwfile").arg(&password);
    command.args(["--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256"]);
    command.args(["--no-sync", "--no-instructions"]);
    let done = tool("initdb", command).await;
    fs::remove_file(&password).map_err(ClusterError::file("remove", &password))?;
    done
}

/// A file that only PostgreSQL's user can read.
fn private_file(host: &Host, path: &Path, text: &str) -> Result<(), ClusterError> {
    fs::write(path, text).map_err(ClusterError::file("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(ClusterError::file("close", path))?;
    host.own(path)
}

/// Runs a program to its end; dropping the future kills it.
async fn tool(program: &str, command: Command) -> Result<(), ClusterError> {
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let output = command
        .output()
        .await
        .map_err(|source| ClusterError::Spawn { program: format!("{program} through setpriv"), source })?;
    if output.status.success() {
        return Ok(());
    }
    let output_text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ClusterError::Tool { program: program.to_owned(), status: output.status.to_string(), output: output_text })
}
