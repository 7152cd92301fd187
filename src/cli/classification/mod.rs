//! `pgward classification`: which columns are personal, sensitive or the like, whether they are hidden from whom they
//! are to be hidden from, and whether views that are given away point at anybody.

mod anonymity;
mod import;
mod list;

use tokio_postgres::Client;

use super::ConfigArgument;
use super::connect::AdministrationArguments;
use super::failure::Failure;
use crate::config::{Cluster, Settings};

/// List classified columns, take them up from comments, or check that a view points at nobody
///
/// What is classified stands in each database in the table pgward.classification, which `pgward install` makes and you
/// fill. PostgreSQL's privileges hide the columns; `pgward doctor` finds where they do not. See docs/classification.md.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::Arguments),
    Import(import::Arguments),
    Anonymity(anonymity::Arguments),
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::List(arguments) => list::command(arguments),
        Command::Import(arguments) => import::command(arguments),
        Command::Anonymity(arguments) => anonymity::command(arguments),
    }
}

/// The databases that a command goes to.
#[derive(Debug, clap::Args)]
struct DatabasesArguments {
    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    administration: AdministrationArguments,
}

impl DatabasesArguments {
    /// Does something in each, in their order.
    async fn each(
        &self,
        settings: &Settings,
        mut work: impl AsyncFnMut(&Cluster, &str, Client) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut any = false;
        for cluster in self.administration.clusters(settings)? {
            let databases = self.administration.databases(settings, cluster);
            if databases.is_empty() {
                continue;
            }
            any = true;
            let administrator = self.administration.administrator(cluster).await?;
            for database in &databases {
                let client = administrator.connect(database).await?;
                work(cluster, database, client).await.map_err(|failure| {
                    Failure::said(format!("database {database} of cluster {}: {failure}", cluster.name))
                })?;
            }
        }
        match any {
            true => Ok(()),
            false => Err(Failure::said("no tenant has a database there; name one with --database")),
        }
    }
}
