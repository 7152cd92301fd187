//! pgward as a process of its own, for what cannot be measured from within.

#![allow(dead_code, reason = "each user of this file needs its own part of it")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgward::auth::mint;
use pgward::base::{Access, TenantId};
use pgward::config::{self, Settings};
use pgward::local::free_port;
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};

/// `pgward run` with a configuration in a folder of its own; ended when dropped.
pub struct Spawned {
    pub address: SocketAddr,
    pub settings: Settings,
    pub pid: u32,
    child: Child,
    folder: tempfile::TempDir,
}

impl Spawned {
    /// `text` listens on `127.0.0.1:0`, which becomes a free port. `wrapper` is put in front of the
    /// command, as `strace` is.
    pub fn start(binary: &Path, wrapper: &[&str], text: &str) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())), binary, wrapper, text)
    }

    /// The same at an address that is the wrapper's.
    pub fn start_at(address: SocketAddr, binary: &Path, wrapper: &[&str], text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = text.replacen("127.0.0.1:0", &address.to_string(), 1);
        let path = folder.path().join("pgward.toml");
        fs::write(&path, &text).unwrap();
        let settings = config::load(&path).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut words: Vec<&std::ffi::OsStr> = wrapper.iter().map(std::ffi::OsStr::new).collect();
        words.extend([binary.as_os_str(), "run".as_ref(), path.as_os_str()]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", words[0]));
        let mut spawned = Self { address, settings, pid: child.id(), child, folder };
        spawned.ready();
        if !wrapper.is_empty() {
            let children = format!("/proc/{0}/task/{0}/children", spawned.child.id());
            // Some wrappers become what they wrap.
            spawned.pid = fs::read_to_string(children).unwrap().trim().parse().unwrap_or(spawned.pid);
        }
        spawned
    }

    fn ready(&mut self) {
        let begin = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.try_wait().unwrap();
            let patient = ended.is_none() && begin.elapsed() < Duration::from_secs(30);
            assert!(patient, "pgward is not ready ({ended:?}):\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn token(&self, tenant: &str) -> String {
        self.token_with(tenant, serde_json::json!({}))
    }

    /// With more claims.
    pub fn token_with(&self, tenant: &str, claims: serde_json::Value) -> String {
        let (tenant, role) = (TenantId::parse(tenant).unwrap(), Access::parse("app").unwrap());
        let (ttl, now) = (Duration::from_secs(24 * 3600), std::time::SystemTime::now());
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        mint(&self.settings.issuers[0], &tenant, &role, ttl, claims.as_object().unwrap(), now).unwrap()
    }

    /// Reads the configuration anew, after `change`.
    pub fn reload(&self, change: impl Fn(String) -> String) {
        let path = self.folder.path().join("pgward.toml");
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
        kill_process(Pid::from_raw(self.pid as i32).unwrap(), Signal::HUP).unwrap();
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("pgward.toml")
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let begin = Instant::now();
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        while matches!(self.child.try_wait(), Ok(None)) {
            if begin.elapsed() > Duration::from_secs(10) {
                let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// KiB of memory that a process holds.
pub fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// The most that it has held so far.
pub fn peak_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Lets this process, and those it starts, have `wanted` open files, as far as the system permits.
pub fn raise_open_files(wanted: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted.min(maximum));
        setrlimit(Resource::Nofile, limit).unwrap();
    }
    assert!(maximum >= wanted, "{wanted} open files are needed and {maximum} allowed: raise `ulimit -Hn`");
}
