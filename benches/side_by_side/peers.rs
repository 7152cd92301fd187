//! The proxies that pgward is compared with, as processes of their own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use pgward::local::{Host, Identity, free_port};

use super::relay;
use super::stage::{PASSWORD, PLAIN, POOL};

/// Runs until it is dropped; those of others as PostgreSQL's user, since PgBouncer does not run as root.
pub struct Peer {
    pub address: SocketAddr,
    pub pid: u32,
    child: Child,
    folder: PathBuf,
}

impl Peer {
    /// Transaction pooling.
    pub fn pgbouncer(bouncer: &Bouncer<'_>) -> Self {
        Self::pgbouncer_within(&[], bouncer)
    }

    /// As an argument of these words, as of `valgrind`.
    pub fn pgbouncer_within(wrapper: &[&str], bouncer: &Bouncer<'_>) -> Self {
        let Bouncer { server, auth, stored, tls, resets } = bouncer;
        Self::start(wrapper, "pgbouncer", |folder, port| {
            let file = |name: &str| folder.join(name).display().to_string();
            let mut settings = format!(
                "[databases]\napp = host=127.0.0.1 port={server} dbname=app\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = {auth}\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = {POOL}\n\
                 max_client_conn = 15000\nlog_connections = 0\nlog_disconnections = 0\n",
                file("users.txt")
            );
            if *resets {
                settings += "server_reset_query = DISCARD ALL\nserver_reset_query_always = 1\n";
            }
            let mut files = vec![Given { name: "users.txt", text: format!("\"{PLAIN}\" \"{stored}\"\n") }];
            if let Some(Identity { certificate, key }) = tls {
                let (certificate_file, key_file) = (file("server.crt"), file("server.key"));
                settings += &format!(
                    "client_tls_sslmode = require\nclient_tls_cert_file = {certificate_file}\n\
                     client_tls_key_file = {key_file}\n"
                );
                files.push(Given { name: "server.crt", text: certificate.clone() });
                files.push(Given { name: "server.key", text: key.clone() });
            }
            files.insert(0, Given { name: "pgbouncer.ini", text: settings });
            (files, vec!["-q"])
        })
    }

    /// Passes bytes on and nothing else: a server's connection for each client's.
    pub fn haproxy(server: u16) -> Self {
        Self::start(&[], "haproxy", |_, port| {
            let text = format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 10m\n \
                 timeout server 10m\nfrontend in\n bind 127.0.0.1:{port}\n default_backend out\n\
                 backend out\n server one 127.0.0.1:{server}\n"
            );
            (vec![Given { name: "haproxy.cfg", text }], vec!["-f"])
        })
    }

    /// The same with nothing that could be left out, see [`super::relay`].
    pub fn relay(server: u16) -> Self {
        let (host, port) = (Host::find().unwrap(), free_port().unwrap());
        let folder = host.folder(None, "relay").unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(relay::FLAG).args([port.to_string(), server.to_string()]).stderr(log);
        Self::await_ready("relay", command, port, folder)
    }

    /// The first of its files is what it is started with.
    fn start(
        wrapper: &[&str],
        program: &str,
        files: impl FnOnce(&Path, u16) -> (Vec<Given>, Vec<&'static str>),
    ) -> Self {
        let host = Host::find().unwrap();
        let folder = host.folder(None, program).unwrap();
        let port = free_port().unwrap();
        let (files, words) = files(&folder, port);
        for Given { name, text } in &files {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            host.own(&path).unwrap();
        }
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut whole = wrapper.iter().copied().chain([program]);
        let mut command = host.command(whole.next().unwrap_or(program));
        command.args(whole).args(words).arg(folder.join(files[0].name)).stdout(log.try_clone().unwrap()).stderr(log);
        Self::await_ready(program, command, port, folder)
    }

    fn await_ready(program: &str, mut command: Command, port: u16, folder: PathBuf) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            let patient = child.try_wait().unwrap().is_none() && begin.elapsed() < Duration::from_secs(10);
            assert!(patient, "{program}: {}", fs::read_to_string(folder.join("log")).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(20));
        }
        // setpriv becomes what it starts, so the process is the same.
        Self { address, pid: child.id(), child, folder }
    }
}

/// What PgBouncers differ in here.
pub struct Bouncer<'a> {
    pub server: u16,
    pub auth: &'a str,
    /// What the file of users holds: the password, or what SCRAM keeps of it.
    pub stored: &'a str,
    pub tls: Option<&'a Identity>,
    /// Between any two transactions a backend is sent DISCARD ALL.
    pub resets: bool,
}

impl Bouncer<'_> {
    /// In front of the server at this port.
    pub fn new(server: u16) -> Self {
        Self { server, auth: "scram-sha-256", stored: PASSWORD, tls: None, resets: false }
    }
}

/// A file of a program's.
struct Given {
    name: &'static str,
    text: String,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// CPU time that a process has used so far, of the threads that it has now, in microseconds.
pub fn cpu_micros(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.map(|thread| used_micros(&thread.unwrap().path())).sum()
}

/// The same of the thread that asks.
pub fn own_cpu_micros() -> f64 {
    used_micros(Path::new("/proc/thread-self"))
}

/// From nanoseconds, where a process's own file counts hundredths of a second.
fn used_micros(thread: &Path) -> f64 {
    let text = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    text.split(' ').next().unwrap_or_default().parse::<f64>().unwrap_or(0.0) / 1e3
}
