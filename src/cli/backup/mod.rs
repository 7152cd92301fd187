//! `pgward backup`: backups of whole clusters by pgBackRest, and what they are worth.

mod arguments;
mod drill;
mod list;
mod prune;
mod restore;
mod run;
mod setup;
mod shown;
mod status;
mod verify;

pub(super) use arguments::TargetArguments;
pub(super) use shown::Shown;

use super::ConfigArgument;
use super::failure::Failure;

/// Make, list, prove and restore backups of whole clusters
///
/// By pgBackRest, as [backup] and clusters.NAME.repositories of the configuration have it. One tenant alone is exported and
/// restored by `pgward tenant`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Setup(setup::Arguments),
    Run(run::Arguments),
    List(list::Arguments),
    Status(status::Arguments),
    Prune(prune::Arguments),
    Verify(verify::Arguments),
    Restore(Box<restore::Arguments>),
    Drill(drill::Arguments),
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Setup(arguments) => setup::command(arguments),
        Command::Run(arguments) => run::command(arguments),
        Command::List(arguments) => list::command(arguments),
        Command::Status(arguments) => status::command(arguments),
        Command::Prune(arguments) => prune::command(arguments),
        Command::Verify(arguments) => verify::command(arguments),
        Command::Restore(arguments) => restore::command(arguments),
        Command::Drill(arguments) => drill::command(arguments),
    }
}
