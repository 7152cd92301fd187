//! `pgward demo`: two clusters, five tenants' URLs and a running pgward, from nothing, in one folder.
//!
//! `folder` holds the demo's files, its lock and what a killed demo left; `data` is the demo's SQL;
//! `stage` puts it all together and takes it down again; `sheet` tells the user.

mod data;
mod folder;
mod proxy;
mod sheet;
mod stage;

use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;
use super::output::{say, warn};
use folder::DemoFolder;
use stage::Stage;

/// Start everything needed to try pgward: PostgreSQL clusters, data, tenants and pgward itself
///
/// Needs PostgreSQL's server binaries (Debian: postgresql-15). Starts two clusters of its own on free
/// ports, loads demo tenants, runs pgward in front of them and prints psql lines to paste. Everything
/// is in one folder, and each start builds it anew. Stays in the foreground; Ctrl-C stops all of it.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The demo's folder; `env` in it holds the URLs while the demo runs
    #[arg(long, default_value = "target/demo")]
    dir: PathBuf,

    /// Where pgward listens on 127.0.0.1; another free port is used when it is taken
    #[arg(long, default_value_t = 6432)]
    port: u16,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    super::runtime()?.block_on(async {
        let mut end = End::new()?;
        let folder = DemoFolder::lock(&arguments.dir)?;
        folder.sweep()?;
        let stage = tokio::select! {
            stage = Stage::build(&folder, arguments.port) => stage?,
            () = end.told() => {
                say("stopped before the demo was ready");
                return Ok(());
            }
        };
        play(stage, &folder, &mut end).await
    })
}

async fn play(mut stage: Stage, folder: &DemoFolder, end: &mut End) -> Result<(), Failure> {
    folder.publish(&sheet::variables(&stage)?)?;
    say(sheet::text(&stage, folder));
    let outcome = tokio::select! {
        failure = stage.watch() => Err(failure),
        () = end.told() => Ok(()),
    };
    folder.unpublish();
    say("stopping");
    let stopped = stage.take_down().await;
    folder.clear();
    match (&outcome, &stopped) {
        (Err(_), Err(second)) => warn(second),
        (Ok(()), Ok(())) => say("everything is stopped"),
        _ => {}
    }
    outcome.and(stopped)
}

/// The signals that end a demo.
struct End {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl End {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
