//! The command line: one file per command. Exit codes: 0 done, 1 failed (the reason is on standard
//! error), 2 called wrongly. `doctor` has more to say by them.

mod audit;
mod backup;
mod catalogue;
mod check;
mod classification;
mod connect;
pub mod demo;
mod doctor;
mod failure;
mod health;
mod install;
mod output;
mod record;
mod residency;
mod run;
mod tenant;
mod token;
mod uninstall;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::catalogue as shared;
use crate::config::{self, Draft, Settings};
use failure::Failure;

/// A PostgreSQL proxy for many tenants: a JWT is the password, and a connection sees one tenant.
///
/// Applications connect to pgward as they would to PostgreSQL. The password is a JSON Web Token that
/// names the tenant; pgward checks it, finds the tenant's servers and lets PostgreSQL itself keep the
/// tenants apart.
///
/// To see it at work, run `make demo` or `pgward demo`. To run it for real: write a configuration
/// (conf/pgward.toml explains every key), `pgward check` it, `pgward install` it into the databases,
/// then `pgward run` it.
#[derive(Debug, Parser)]
#[command(name = "pgward", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Arguments),
    Run(run::Arguments),
    Token(token::Arguments),
    Tenant(tenant::Arguments),
    Catalogue(catalogue::Arguments),
    Install(install::Arguments),
    Uninstall(uninstall::Arguments),
    Doctor(doctor::Arguments),
    Classification(classification::Arguments),
    Backup(backup::Arguments),
    Health(health::Arguments),
    Audit(audit::Arguments),
    Residency(residency::Arguments),
    Demo(demo::Arguments),
}

#[derive(Debug, Args)]
struct ConfigArgument {
    /// The configuration file
    #[arg(long = "config", env = "PGWARD_CONFIG", value_name = "FILE")]
    path: PathBuf,
}

impl ConfigArgument {
    /// With all tenants. Not for those who are in a runtime already.
    fn load(&self) -> Result<Settings, Failure> {
        runtime()?.block_on(self.load_now())
    }

    /// The same.
    async fn load_now(&self) -> Result<Settings, Failure> {
        shared::load(&self.path).await.map_err(Failure::load)
    }

    /// For whoever has nothing to do with tenants, or is there to make the catalogue.
    fn outline(&self) -> Result<Settings, Failure> {
        outline(&self.path)
    }
}

/// Without the tenants of the catalogue.
fn outline(path: &Path) -> Result<Settings, Failure> {
    let outline = Draft::read(path).and_then(|draft| draft.outline());
    outline.map_err(|problems| Failure::Config { path: path.to_owned(), problems })
}

pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Check(arguments) => check::command(&arguments),
        Command::Run(arguments) => run::command(&arguments),
        Command::Token(arguments) => token::command(&arguments),
        Command::Tenant(arguments) => tenant::command(&arguments),
        Command::Catalogue(arguments) => catalogue::command(&arguments),
        Command::Install(arguments) => install::command(&arguments),
        Command::Uninstall(arguments) => uninstall::command(&arguments),
        Command::Audit(arguments) => audit::command(&arguments),
        Command::Residency(arguments) => residency::command(&arguments),
        Command::Backup(arguments) => backup::command(&arguments),
        Command::Doctor(arguments) => return doctor::command(&arguments),
        Command::Classification(arguments) => classification::command(&arguments),
        Command::Health(arguments) => health::command(&arguments),
        Command::Demo(arguments) => demo::command(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::warn(failure);
            ExitCode::FAILURE
        }
    }
}

/// A time on the command line.
fn duration(text: &str) -> Result<std::time::Duration, &'static str> {
    config::parse_duration(text).ok_or("write a number and ms, s, m, h or d, such as 90s or 12h")
}

/// A runtime for commands that talk to servers.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_argument_is_explained() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        let named = |command: &&clap::Command| command.get_name() != "help";
        let nested = cli.get_subcommands().filter(named).flat_map(clap::Command::get_subcommands);
        for command in cli.get_subcommands().chain(nested).filter(named) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
        }
    }
}
