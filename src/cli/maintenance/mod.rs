//! `pgward maintenance`: tables that are partitioned by time, kept by pg_partman.

mod run;
mod setup;
mod show;
mod status;

use super::failure::Failure;
use super::{ConfigArgument, runtime};
use crate::base::ClusterName;
use crate::config::{Cluster, Settings};

/// Keep tables that are partitioned by time: partitions ahead, and rows gone when their time is up
///
/// The tables are those of clusters.NAME.partitions; pg_partman makes their partitions. A running pgward does what `run`
/// does every maintenance.interval. docs/maintenance.md has the rest.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Setup(setup::Arguments),
    Run(run::Arguments),
    Status(status::Arguments),
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Setup(arguments) => setup::command(arguments),
        Command::Run(arguments) => run::command(arguments),
        Command::Status(arguments) => status::command(arguments),
    }
}

/// Whose tables, and how they are shown.
#[derive(Debug, clap::Args)]
struct Asked {
    #[command(flatten)]
    config: ConfigArgument,

    /// The cluster, as the configuration names it; all that have partitions unless named
    #[arg(long, value_parser = ClusterName::parse)]
    cluster: Option<ClusterName>,

    /// As a JSON array
    #[arg(long)]
    json: bool,
}

impl Asked {
    /// Those with partitions, of which there has to be one.
    fn clusters<'a>(&self, settings: &'a Settings) -> Result<Vec<&'a Cluster>, Failure> {
        let named = |cluster: &&Cluster| self.cluster.as_ref().is_none_or(|name| *name == cluster.name);
        let all: Vec<&Cluster> = settings.clusters.values().map(AsRef::as_ref).filter(named).collect();
        if let (Some(name), []) = (&self.cluster, all.as_slice()) {
            return Err(Failure::said(format!("there is no cluster {name} in the configuration")));
        }
        let kept: Vec<&Cluster> = all.into_iter().filter(|cluster| !cluster.upkeep.partitions.is_empty()).collect();
        if kept.is_empty() {
            return Err(Failure::said("no table is said to be partitioned there (clusters.NAME.partitions)"));
        }
        Ok(kept)
    }
}
