//! The demo's pgward: this same program, as a child that dies with us.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::super::failure::Failure;
use super::super::health;
use super::folder::DemoFolder;

const READY: Duration = Duration::from_secs(60);
const HTTP_PORT: u16 = 9930;

#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub postgres: u16,
    pub http: u16,
}

pub(super) struct Proxy {
    pub binary: PathBuf,
    pub config: PathBuf,
    pub ports: Ports,
    pub pid: u32,
    log: PathBuf,
    child: Child,
}

impl Proxy {
    /// Starts pgward with the configuration that `configure` writes for the ports it is given.
    pub async fn start(
        folder: &DemoFolder,
        port: u16,
        configure: impl Fn(Ports) -> Result<PathBuf, Failure>,
    ) -> Result<Self, Failure> {
        let mut attempts = 3;
        loop {
            let ports = Ports { postgres: free(port)?, http: free(HTTP_PORT)? };
            let mut proxy = Self::spawn(folder, ports, configure(ports)?)?;
            let Err(failure) = proxy.ready().await else { return Ok(proxy) };
            attempts -= 1;
            let taken = proxy.child.try_wait().is_ok_and(|status| status.is_some())
                && [ports.postgres, ports.http].iter().any(|port| bind(*port).is_err());
            if attempts == 0 || !taken {
                return Err(failure);
            }
        }
    }

    fn spawn(folder: &DemoFolder, ports: Ports, config: PathBuf) -> Result<Self, Failure> {
        let binary = std::env::current_exe()?;
        let log = folder.file("pgward.log");
        let output = File::create(&log)?;
        // The parent-death signal goes with the thread that spawns, which here is the main one.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(&binary).arg("run").arg(&config);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn()?;
        let pid = child.id().unwrap_or_default();
        folder.private("pgward.pid", &format!("{pid}\n"))?;
        Ok(Self { binary, config, ports, pid, log, child })
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        let begin = Instant::now();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.http));
        loop {
            if let Some(failure) = self.ended() {
                return Err(failure);
            }
            let answer = tokio::time::timeout(Duration::from_secs(2), health::ready(address)).await;
            if matches!(answer, Ok(Ok(200))) {
                return Ok(());
            }
            if begin.elapsed() > READY {
                return Err(Failure::said(format!(
                    "pgward was not ready within {} s; its log ends with:\n{}",
                    READY.as_secs(),
                    self.log_tail()
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Why it is gone, when it is.
    pub fn ended(&mut self) -> Option<Failure> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(Failure::said(format!("pgward ended ({status}); its log ends with:\n{}", self.log_tail())))
    }

    fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(12)).copied().collect::<Vec<_>>().join("\n")
    }

    /// SIGTERM, which lets transactions finish, then by force.
    pub async fn stop(mut self) -> Result<(), Failure> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        match tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await {
            Ok(status) => status.map(|_| ()).map_err(Failure::from),
            Err(_) => {
                self.child.kill().await?;
                Err(Failure::said("pgward did not stop within 10 s and was killed"))
            }
        }
    }
}

fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// The port itself when nobody has it, else any free one.
fn free(wanted: u16) -> Result<u16, Failure> {
    let listener = bind(wanted).or_else(|_| bind(0))?;
    Ok(listener.local_addr()?.port())
}
