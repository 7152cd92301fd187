//! Three servers under Patroni, and the etcd that it keeps its lock in. All of it in one folder and under PostgreSQL's
//! user, and gone when it is dropped or this process is.

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use pgward::local::Host;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::eventually;

/// Nothing that is done to the cluster takes so long.
const PATIENCE: Duration = Duration::from_secs(90);

/// As short as Patroni's documentation allows, which is how long a leader may be gone before another is elected.
pub const TTL: Duration = Duration::from_secs(20);

pub struct Patroni {
    pub nodes: Vec<Node>,
    place: Place,
    etcd: Child,
    supervisor: Child,
    /// Its end tells the supervisor to end everything.
    held: Option<ChildStdin>,
}

/// A server and the Patroni that looks after it.
pub struct Node {
    pub name: String,
    pub port: u16,
    pub api: u16,
    patroni: Option<Child>,
}

/// A member as Patroni shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub role: String,
    pub state: String,
    pub timeline: u64,
}

/// What is the same for all nodes.
struct Place {
    host: Host,
    folder: PathBuf,
    scope: String,
    password: String,
    etcd: u16,
}

impl Patroni {
    /// The first leads, and `furnish` is done with the port it is at and its superuser's password before the others copy it.
    pub async fn start(name: &str, furnish: impl AsyncFnOnce(u16, &str)) -> Self {
        let host = Host::find().unwrap();
        let folder = host.folder(None, name).unwrap();
        let (mut supervisor, held) = supervise(&host, &folder);
        let password = format!("{:032x}", rand::random::<u128>());
        let ports = ports::<8>();
        let place = Place { host, folder, scope: name.to_owned(), password, etcd: ports[0] };
        let etcd = match place.start_etcd(ports[1]) {
            Ok(etcd) => etcd,
            Err(error) => {
                drop(held);
                supervisor.wait().unwrap();
                panic!("etcd (Debian: etcd-server): {error}");
            }
        };
        let node =
            |i: usize| Node { name: format!("{name}-{i}"), port: ports[2 * i], api: ports[2 * i + 1], patroni: None };
        let mut patroni = Self { nodes: (1..=3).map(node).collect(), place, etcd, supervisor, held: Some(held) };
        eventually("etcd", PATIENCE, async || get(patroni.place.etcd, "health").await.is_some()).await;
        patroni.launch(0);
        eventually("a leader", PATIENCE, async || patroni.leader().await == Some(0)).await;
        furnish(patroni.nodes[0].port, &patroni.place.password).await;
        patroni.launch(1);
        patroni.launch(2);
        patroni.complete().await;
        patroni
    }

    /// Waits until there are a leader, a replica that has what the leader acknowledges, and another replica.
    pub async fn complete(&self) {
        eventually("three members", PATIENCE, async || {
            let members = self.members().await;
            let on = |role: &str| members.iter().filter(|member| member.role == role && member.runs(&members)).count();
            (on("leader"), on("sync_standby"), on("replica")) == (1, 1, 1)
        })
        .await;
    }

    /// As any of the nodes tells.
    pub async fn members(&self) -> Vec<Member> {
        for node in self.nodes.iter().filter(|node| node.patroni.is_some()) {
            let Some(answer) = get(node.api, "cluster").await else { continue };
            let Some(members) = answer["members"].as_array() else { continue };
            let text = |member: &Value, key: &str| member[key].as_str().unwrap_or_default().to_owned();
            let member = |member: &Value| Member {
                name: text(member, "name"),
                role: text(member, "role"),
                state: text(member, "state"),
                timeline: member["timeline"].as_u64().unwrap_or_default(),
            };
            return members.iter().map(member).collect();
        }
        Vec::new()
    }

    /// Who leads, and runs as a primary: a promotion may still be under way where there is a leader.
    pub async fn leader(&self) -> Option<usize> {
        let members = self.members().await;
        let name = &members.iter().find(|member| member.role == "leader")?.name;
        let at = self.nodes.iter().position(|node| node.name == *name)?;
        get(self.nodes[at].api, "primary").await.map(|_| at)
    }

    /// The node is a replica that streams, on the leader's timeline.
    pub async fn follows(&self, at: usize) -> bool {
        let members = self.members().await;
        let found = members.iter().find(|member| member.name == self.nodes[at].name);
        found.is_some_and(|member| member.role != "leader" && member.runs(&members))
    }

    pub fn url(&self, at: usize, database: &str) -> String {
        let (port, password) = (self.nodes[at].port, &self.place.password);
        format!("postgresql://postgres:{password}@127.0.0.1:{port}/{database}")
    }

    /// kill -9 of a node's Patroni and of all of its PostgreSQL's processes.
    pub fn kill(&mut self, at: usize) {
        let mut patroni = self.nodes[at].patroni.take().unwrap();
        patroni.kill().unwrap();
        let postgres = working_in(&self.place.data(&self.nodes[at]));
        assert!(!postgres.is_empty(), "PostgreSQL does not run");
        for pid in postgres {
            // One that is gone by now has seen that its postmaster is.
            let _ = kill_process(pid, Signal::KILL);
        }
        patroni.wait().unwrap();
    }

    /// Has another node lead, as whoever runs the cluster does.
    pub async fn switchover(&self) {
        let mut command = self.place.command("patronictl", "patronictl");
        command.arg("-c").arg(self.place.configuration(&self.nodes[0]));
        command.args(["switchover", "--force", &self.place.scope]);
        let status = tokio::process::Command::from(command).status().await.unwrap();
        assert!(status.success(), "{}", tail(&self.place.log("patronictl")));
    }

    /// Starts a node's Patroni, which does what it thinks fit to its server.
    pub fn launch(&mut self, at: usize) {
        let node = &self.nodes[at];
        assert!(node.patroni.is_none(), "{} runs already", node.name);
        let path = self.place.configuration(node);
        let text = self.place.settings(node).to_string();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self.place.host.own(&path).unwrap();
        let mut command = self.place.command("patroni", &node.name);
        let patroni = command.arg(path).spawn();
        self.nodes[at].patroni = Some(patroni.unwrap_or_else(|error| panic!("patroni: {error}")));
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- {}:\n{}", node.name, tail(&self.place.log(&node.name)));
            }
        }
        self.held = None;
        // It has no other child to wait for than what it kills, and those are ours: they are reaped here.
        let _ = self.supervisor.wait();
        for child in self.nodes.iter_mut().filter_map(|node| node.patroni.as_mut()).chain([&mut self.etcd]) {
            let _ = child.wait();
        }
    }
}

impl Member {
    fn runs(&self, all: &[Self]) -> bool {
        let highest = all.iter().map(|member| member.timeline).max();
        ["running", "streaming"].contains(&self.state.as_str()) && Some(self.timeline) == highest
    }
}

impl Place {
    fn data(&self, node: &Node) -> PathBuf {
        self.folder.join(&node.name)
    }

    fn configuration(&self, node: &Node) -> PathBuf {
        self.folder.join(format!("{}.yml", node.name))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// A program that works in the folder, which is how the supervisor knows it.
    fn command(&self, program: &str, log: &str) -> Command {
        let log = File::options().create(true).append(true).open(self.log(log)).unwrap();
        let mut command = self.host.command(program);
        command.current_dir(&self.folder).env("HOME", &self.folder).process_group(0);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    fn start_etcd(&self, peers: u16) -> std::io::Result<Child> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut command = self.command("etcd", "etcd");
        command.arg("--data-dir").arg(self.folder.join("etcd"));
        command.args(["--listen-client-urls", &url(self.etcd), "--advertise-client-urls", &url(self.etcd)]);
        command.args(["--listen-peer-urls", &url(peers), "--initial-advertise-peer-urls", &url(peers)]);
        command.args(["--initial-cluster", &format!("default={}", url(peers))]);
        command.spawn()
    }

    /// What docs/failover.md says of patroni.yml, and what a cluster in a test needs besides. JSON is YAML.
    fn settings(&self, node: &Node) -> Value {
        let at = |port: u16| format!("127.0.0.1:{port}");
        json!({
            "scope": self.scope,
            "name": node.name,
            // Where pgward may use it for whom.
            "tags": { "region": "lk" },
            "restapi": { "listen": at(node.api), "connect_address": at(node.api) },
            "etcd3": { "host": at(self.etcd) },
            "bootstrap": {
                "dcs": {
                    "ttl": TTL.as_secs(),
                    "loop_wait": 2,
                    "retry_timeout": 3,
                    "synchronous_mode": true,
                    "postgresql": {
                        "use_pg_rewind": true,
                        "parameters": {
                            "max_connections": 100,
                            "shared_buffers": "32MB",
                            "unix_socket_directories": "",
                            "wal_receiver_status_interval": "1s",
                            // Processes are killed here, and no machine.
                            "fsync": "off",
                        },
                    },
                },
                "initdb": [{ "encoding": "UTF8" }, { "locale": "C.UTF-8" }, "no-sync"],
            },
            "postgresql": {
                "listen": at(node.port),
                "connect_address": at(node.port),
                "data_dir": self.data(node),
                "bin_dir": self.host.binary(""),
                "pgpass": self.folder.join(format!("{}.pgpass", node.name)),
                "authentication": {
                    "superuser": { "username": "postgres", "password": self.password },
                    "replication": { "username": "replicator", "password": self.password },
                },
                "pg_hba": [
                    "host all all 127.0.0.1/32 scram-sha-256",
                    "host replication replicator 127.0.0.1/32 scram-sha-256",
                ],
                "remove_data_directory_on_rewind_failure": true,
                "remove_data_directory_on_diverged_timelines": true,
                "basebackup": { "checkpoint": "fast" },
            },
        })
    }
}

fn supervise(host: &Host, folder: &Path) -> (Child, ChildStdin) {
    let mut command = host.command("/bin/sh");
    command.arg("-c").arg(include_str!("supervise.sh")).arg("supervise").arg(folder);
    let mut shell = command.stdin(Stdio::piped()).process_group(0).spawn().unwrap();
    let held = shell.stdin.take().unwrap();
    (shell, held)
}

/// Processes whose current folder is this one; those of PostgreSQL work in their data folder.
fn working_in(folder: &Path) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pid = |name: &std::ffi::OsStr| Pid::from_raw(name.to_str()?.parse().ok()?);
    let here = processes.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|at| at == folder));
    here.filter_map(|entry| pid(&entry.file_name())).collect()
}

/// Ports that nobody has, and none of those that the kernel gives to whoever connects somewhere: a node that was killed
/// is to have its own again.
fn ports<const N: usize>() -> [u16; N] {
    let mut found = HashSet::new();
    while found.len() < N {
        let port = 10_000 + rand::random::<u16>() % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            found.insert(port);
        }
    }
    let mut found = found.into_iter();
    [(); N].map(|()| found.next().unwrap())
}

/// An answer of Patroni or etcd, if it is a good one.
async fn get(port: u16, path: &str) -> Option<Value> {
    let ask = async {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/{path}")).await.ok()?;
        serde_json::from_str(&answer.error_for_status().ok()?.text().await.ok()?).ok()
    };
    tokio::time::timeout(Duration::from_secs(2), ask).await.ok()?
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
