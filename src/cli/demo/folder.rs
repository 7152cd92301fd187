//! The demo's folder: one demo at a time, and nothing left of one that was killed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::super::failure::Failure;
use crate::local::postmaster;

pub(super) struct DemoFolder {
    path: PathBuf,
    /// Held by the kernel until this process ends, however it ends.
    _lock: File,
}

impl DemoFolder {
    pub fn lock(wanted: &Path) -> Result<Self, Failure> {
        let cannot =
            |doing: &str, error: std::io::Error| Failure::said(format!("cannot {doing} {}: {error}", wanted.display()));
        fs::create_dir_all(wanted).map_err(|error| cannot("create the folder", error))?;
        let path = wanted.canonicalize().map_err(|error| cannot("find the folder", error))?;
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join("lock"))
            .map_err(|error| cannot("open the lock file in", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = lock.read_to_string(&mut owner);
                return Err(Failure::said(format!(
                    "a demo is already running in {} (process {}); stop it, or use another folder with --dir",
                    path.display(),
                    owner.trim()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(cannot("lock", error)),
        }
        lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()))?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A new file that only we can read, whatever was there.
    pub fn private(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.file(name);
        let part = self.file(&format!(".{name}.part"));
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&part, &path)?;
        Ok(path)
    }

    /// Remembers where a cluster's data went, which may be outside this folder.
    pub fn link(&self, name: &str, data: &Path) -> Result<(), Failure> {
        let link = self.file(name);
        let _ = fs::remove_file(&link);
        Ok(symlink(data, link)?)
    }

    /// The variables, for shells: there when everything is ready, and whole.
    pub fn publish(&self, variables: &[(&str, String)]) -> Result<(), Failure> {
        let quoted = |value: &str| value.replace('\'', "'\\''");
        let lines: String = variables.iter().map(|(key, value)| format!("{key}='{}'\n", quoted(value))).collect();
        self.private("env", &lines).map(|_| ())
    }

    pub fn unpublish(&self) {
        let _ = fs::remove_file(self.file("env"));
    }

    /// After everything stopped: only logs and the configuration stay.
    pub fn clear(&self) {
        for name in super::stage::LINKS {
            let _ = fs::remove_file(self.file(name));
        }
        let _ = fs::remove_file(self.file("pgward.pid"));
    }

    /// Stops and removes what an earlier demo left when it was killed.
    pub fn sweep(&self) -> Result<(), Failure> {
        self.unpublish();
        let config = self.file("pgward.toml");
        if let Some(pid) = read_pid(&self.file("pgward.pid"))
            && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                line.split(|byte| *byte == 0).any(|word| word == config.as_os_str().as_encoded_bytes())
            })
        {
            end(pid, Signal::TERM)?;
        }
        let linked = super::stage::LINKS.iter().filter_map(|name| fs::read_link(self.file(name)).ok());
        let here = fs::read_dir(&self.path)?.flatten().map(|entry| entry.path()).filter(|path| !path.is_symlink());
        for folder in linked.chain(here) {
            let ours = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgward-"));
            if ours && folder.is_dir() {
                remove_data(&folder)?;
            }
        }
        self.clear();
        Ok(())
    }
}

/// Removes a cluster's folder, stopping servers that still run in it.
fn remove_data(folder: &Path) -> Result<(), Failure> {
    for data in fs::read_dir(folder)?.flatten().map(|entry| entry.path()) {
        if let Some(pid) = postmaster(&data)
            && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data)
        {
            end(pid, Signal::QUIT)?;
        }
    }
    let begin = Instant::now();
    loop {
        // The killed demo's supervisor may be removing the same files right now.
        match fs::remove_dir_all(folder) {
            Ok(()) => return Ok(()),
            Err(_) if !folder.exists() => return Ok(()),
            Err(error) if begin.elapsed() > Duration::from_secs(5) => {
                return Err(Failure::said(format!("cannot remove {}: {error}", folder.display())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn read_pid(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Signals a process that is not our child and waits until it is gone.
fn end(pid: u32, signal: Signal) -> Result<(), Failure> {
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let begin = Instant::now();
    let mut signal = signal;
    // An error means that there is no such process any more.
    while kill_process(process, signal).is_ok() {
        let patience = Instant::now();
        while patience.elapsed() < Duration::from_secs(8) {
            if gone(pid) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        signal = Signal::KILL;
        if begin.elapsed() > Duration::from_secs(20) {
            return Err(Failure::said(format!("process {pid}, left by an earlier demo, does not end; kill it")));
        }
    }
    Ok(())
}

/// No process, or one that ended and whose new parent is slow to notice, as in some containers.
fn gone(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}
