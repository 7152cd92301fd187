//! The proxies that pgward is compared with, as processes of their own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use pgward::cli::demo::cluster::{Host, free_port};

use super::stage::{PASSWORD, PLAIN, POOL};

/// Runs until it is dropped, as PostgreSQL's user, since PgBouncer does not run as root.
pub struct Peer {
    pub address: SocketAddr,
    pub pid: u32,
    child: Child,
    folder: PathBuf,
}

impl Peer {
    /// Transaction pooling in front of the server at this port.
    pub fn pgbouncer(server: u16, auth: &str) -> Self {
        Self::start("pgbouncer", |folder, port| {
            let users = folder.join("users.txt");
            let settings = format!(
                "[databases]\napp = host=127.0.0.1 port={server} dbname=app\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = {auth}\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = {POOL}\n\
                 max_client_conn = 15000\nlog_connections = 0\nlog_disconnections = 0\n",
                users.display()
            );
            let settings = Given { name: "pgbouncer.ini", text: settings };
            let users = Given { name: "users.txt", text: format!("\"{PLAIN}\" \"{PASSWORD}\"\n") };
            (vec![settings, users], vec!["-q"])
        })
    }

    /// Passes bytes on and nothing else: a server's connection for each client's.
    pub fn haproxy(server: u16) -> Self {
        Self::start("haproxy", |_, port| {
            let text = format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 10m\n \
                 timeout server 10m\nfrontend in\n bind 127.0.0.1:{port}\n default_backend out\n\
                 backend out\n server one 127.0.0.1:{server}\n"
            );
            (vec![Given { name: "haproxy.cfg", text }], vec!["-f"])
        })
    }

    /// The first of its files is what it is started with.
    fn start(program: &str, files: impl FnOnce(&Path, u16) -> (Vec<Given>, Vec<&'static str>)) -> Self {
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
        let mut command = host.command(program);
        command.args(words).arg(folder.join(files[0].name)).stdout(log.try_clone().unwrap()).stderr(log);
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
    let of = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split(' ').next().unwrap_or_default().parse::<f64>().unwrap_or(0.0)
    };
    // Nanoseconds, where the process's own file counts hundredths of a second.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.map(|thread| of(thread.unwrap().path().join("schedstat"))).sum::<f64>() / 1e3
}
