//! `pgward residency`: what can be shown of where tenants' data is. It needs no running pgward.

mod classified;
mod explain;
mod live;
mod logs;
mod report;

use super::ConfigArgument;
use super::failure::Failure;

/// Show where tenants' data is, what served it, and what would serve it now
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Report(report::Arguments),
    Explain(explain::Arguments),
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Report(arguments) => report::command(arguments),
        Command::Explain(arguments) => explain::command(arguments),
    }
}
