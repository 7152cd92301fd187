//! `pgward catalogue`: the table that several pgwards have their tenants in.

use clap::Subcommand;

use super::ConfigArgument;
use super::connect::UrlArgument;
use super::failure::Failure;
use super::output::say;
use super::record::{Act, Deed};
use crate::config::{Catalogue, Settings};
use crate::tenant;

/// Prepare the table that several pgwards have their tenants in
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Install(Install),
}

/// Create the schema `pgward_catalogue`, its table and the login that reads it
///
/// In the database that [catalogue] of the configuration names, which must be there. Who installs owns the table, and is
/// the only one who can change it; the login can read it, and nobody else can do either. Can be repeated at any time.
#[derive(Debug, clap::Args)]
struct Install {
    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    url: UrlArgument,

    /// Print the SQL instead of running it, to review it or to run it by psql
    #[arg(long)]
    print: bool,

    /// With --print: leave out the login's password
    #[arg(long, requires = "print")]
    without_secrets: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let Command::Install(arguments) = &arguments.command;
    let settings = arguments.config.outline()?;
    let Some(catalogue) = &settings.catalogue else {
        return Err(Failure::said("the configuration has no catalogue: there is no table [catalogue]"));
    };
    if arguments.print {
        say(format_args!("-- in database {} of cluster {}", catalogue.database, catalogue.cluster));
        say(tenant::catalogue_script(&settings, catalogue, !arguments.without_secrets)?);
        return Ok(());
    }
    super::runtime()?.block_on(install(arguments, &settings, catalogue))
}

async fn install(arguments: &Install, settings: &Settings, catalogue: &Catalogue) -> Result<(), Failure> {
    let Some(cluster) = settings.clusters.get(&catalogue.cluster) else {
        return Err(Failure::said(format!("there is no cluster {} in the configuration", catalogue.cluster)));
    };
    let client = arguments.url.administrator(cluster).await?.connect(&catalogue.database).await?;
    let work = async { Ok(tenant::install_catalogue(&client, settings, catalogue).await?) };
    Act::at(settings, Deed::InstallCatalogue, &catalogue.place()).recorded(work).await?;
    say(format_args!("the catalogue is there, in database {} of cluster {}", catalogue.database, catalogue.cluster));
    Ok(())
}
