//! A world of its own: hosts in network namespaces, PostgreSQL and pgward on them, and what passes the borders counted.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use pgward::local::Host;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::until;

/// Where hosts are, and the number that ends their address.
pub const HOSTS: [(&str, u8); 5] = [("lk", 11), ("in", 12), ("de", 13), ("colombo", 21), ("mumbai", 22)];

pub fn address(host: &str) -> Ipv4Addr {
    let (_, number) = HOSTS.iter().find(|(name, _)| *name == host).unwrap();
    Ipv4Addr::new(10, 77, 0, *number)
}

/// Runs the test that calls it once more in namespaces of its own (network, processes, mounts), where it is alone and
/// nothing outlives it. `false`: this is that one.
pub fn leave_for_another(test: &str) -> bool {
    const INSIDE: &str = "PGWARD_BORDERS_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
    command.arg("mount -t tmpfs tmpfs /run && PATH=$PATH:/usr/sbin:/sbin exec \"$@\"").arg("sh");
    command.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]).env(INSIDE, "1");
    assert!(command.status().expect("unshare is of util-linux").success(), "it failed in there: see above");
    true
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// All hosts on one wire, with this process as another one.
pub fn wire() {
    for arguments in ["link set lo up", "link add br0 type bridge", "addr add 10.77.0.1/24 dev br0", "link set br0 up"]
    {
        ip(arguments);
    }
    for (host, _) in HOSTS {
        ip(&format!("netns add {host}"));
        ip(&format!("link add v-{host} type veth peer name eth0 netns {host}"));
        ip(&format!("link set v-{host} master br0 up"));
        ip(&format!("-n {host} addr add {}/24 dev eth0", address(host)));
        ip(&format!("-n {host} link set eth0 up"));
        ip(&format!("-n {host} link set lo up"));
    }
}

/// A PostgreSQL server on a host.
pub struct Server {
    pub host: &'static str,
    process: Child,
    data: PathBuf,
}

pub const PORT: u16 = 5432;

/// The programs of PostgreSQL, as its user, on a host.
fn on(programs: &Host, host: &str, program: &str) -> Command {
    let inner = programs.command(programs.binary(program));
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host]).arg(inner.get_program()).args(inner.get_args());
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    command
}

fn done(mut command: Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Server {
    pub async fn primary(programs: &Host, folder: &Path, host: &'static str) -> Self {
        let data = folder.join(host);
        let mut initdb = on(programs, host, "initdb");
        initdb.args(["--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync"]);
        initdb.arg("--pgdata").arg(&data);
        done(initdb);
        let hba = "host all postgres 10.77.0.0/24 trust\nhost replication postgres 10.77.0.0/24 trust\nhost all all 10.77.0.0/24 scram-sha-256\n";
        fs::write(data.join("pg_hba.conf"), hba).unwrap();
        Self::start(programs, host, data).await
    }

    /// A replica of the server on another host.
    pub async fn replica(programs: &Host, folder: &Path, host: &'static str, of: &str) -> Self {
        let data = folder.join(host);
        let mut copy = on(programs, host, "pg_basebackup");
        copy.args(["--write-recovery-conf", "--create-slot", "--slot", host, "--wal-method=stream"]);
        copy.args(["--checkpoint=fast", "--no-sync", "--pgdata"]).arg(&data);
        copy.args(["--dbname", &format!("host={} port={PORT} user=postgres", address(of))]);
        done(copy);
        Self::start(programs, host, data).await
    }

    async fn start(programs: &Host, host: &'static str, data: PathBuf) -> Self {
        let log = fs::File::create(data.with_extension("log")).unwrap();
        let mut command = on(programs, host, "postgres");
        let settings = [
            format!("listen_addresses={}", address(host)),
            "unix_socket_directories=".to_owned(),
            "fsync=off".to_owned(),
            "hot_standby_feedback=on".to_owned(),
            "log_statement=all".to_owned(),
            "log_connections=on".to_owned(),
            "log_line_prefix=%h %u@%d ".to_owned(),
        ];
        command.arg("-D").arg(&data).args(["-p", &PORT.to_string()]);
        command.args(settings.iter().flat_map(|setting| ["-c", setting.as_str()]));
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = Self { host, process, data };
        until("the server's first answer", async || crate::support::connect(&server.url("postgres")).await.is_ok())
            .await;
        server
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@{}:{PORT}/{database}", address(self.host))
    }

    pub async fn run(&self, sql: &str) {
        crate::support::connect(&self.url("postgres")).await.unwrap().batch_execute(sql).await.unwrap();
    }

    /// What it has been asked, and by whom.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.with_extension("log")).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.process.id() as i32).unwrap(), signal).unwrap();
    }

    /// Each process of it: as if the host had lost its network.
    pub fn signal_all(&self, signal: Signal) {
        let children = Command::new("pgrep").args(["-P", &self.process.id().to_string()]).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        for pid in children.split_whitespace() {
            // Some end meanwhile.
            let _ = kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), signal);
        }
        self.signal(signal);
    }

    pub fn kill(&mut self) {
        self.signal(Signal::QUIT);
        self.signal_all(Signal::CONT);
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// Counts what arrives at a host from each of some others: IPv4, and the question who has its address (ARP), which is
/// asked before anything is sent.
pub struct Counter {
    counts: Arc<Vec<(Ipv4Addr, AtomicU64)>>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Counter {
    pub fn at(host: &'static str, from: &[&str]) -> Self {
        let counts = Arc::new(from.iter().map(|host| (address(host), AtomicU64::new(0))).collect::<Vec<_>>());
        let over = Arc::new(AtomicBool::new(false));
        let (ready, begun) = mpsc::channel();
        let thread = std::thread::spawn({
            let (counts, over) = (Arc::clone(&counts), Arc::clone(&over));
            move || count(host, &counts, &over, &ready)
        });
        begun.recv().expect("the counter has not begun");
        Self { counts, over, thread: Some(thread) }
    }

    pub fn from(&self, host: &str) -> u64 {
        let (_, count) = self.counts.iter().find(|(from, _)| *from == address(host)).unwrap();
        count.load(Ordering::Relaxed)
    }
}

fn count(host: &str, counts: &[(Ipv4Addr, AtomicU64)], over: &AtomicBool, ready: &mpsc::Sender<()>) {
    let namespace = fs::File::open(format!("/run/netns/{host}")).unwrap();
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network)).unwrap();
    let everything = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let mut socket = Socket::new(Domain::from(libc::AF_PACKET), Type::RAW, Some(everything)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    ready.send(()).unwrap();
    let mut frame = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut frame) else { continue };
        let frame = &frame[..length];
        let own = address(host).octets();
        // Ethernet: type at 12. IPv4: source at 26, destination at 30. ARP: sender at 28, target at 38.
        let from = match frame.get(12..14) {
            Some([0x08, 0x00]) if frame.get(30..34) == Some(&own) => frame.get(26..30),
            Some([0x08, 0x06]) if frame.get(38..42) == Some(&own) => frame.get(28..32),
            _ => None,
        };
        if let Some((_, count)) = counts.iter().find(|(other, _)| from == Some(&other.octets())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

pub fn socket(host: &str, port: u16) -> SocketAddr {
    (address(host), port).into()
}
