//! `pgward catalogue`: the table that several pgwards have their tenants in.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use toml_edit::{DocumentMut, Item};

use super::ConfigArgument;
use super::connect::{Administrator, CatalogueUrlArgument, UrlArgument};
use super::failure::Failure;
use super::output::say;
use super::record::{Act, Deed};
use super::tenant::text as definition;
use crate::base::TenantId;
use crate::catalogue::{self, Change, WriteError};
use crate::config::{Catalogue, Draft, Settings, Snapshot};
use crate::tenant;

/// Prepare or fill the table that several pgwards have their tenants in
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Install(Install),
    Import(Import),
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
    reach: ReachArguments,

    /// Print the SQL instead of running it, to review it or to run it by psql
    #[arg(long)]
    print: bool,

    /// With --print: leave out the login's password
    #[arg(long, requires = "print")]
    without_secrets: bool,
}

/// Put the tenants of a tenants file into the table
///
/// All of them or none. What they have in PostgreSQL is not touched. A tenant that the table has already must be the same
/// there, to the letter. Afterwards the file is of no use to a pgward whose configuration has [catalogue].
#[derive(Debug, clap::Args)]
struct Import {
    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    reach: ReachArguments,

    /// The tenants file
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ReachArguments {
    #[command(flatten)]
    catalogue: CatalogueUrlArgument,

    #[command(flatten)]
    url: UrlArgument,
}

impl ReachArguments {
    async fn administrator(&self, settings: &Settings, it: &Catalogue) -> Result<Administrator, Failure> {
        let Some(cluster) = settings.clusters.get(&it.cluster) else {
            return Err(Failure::said(format!("there is no cluster {} in the configuration", it.cluster)));
        };
        // Of several clusters, --url could lead to another.
        let other = Some(&self.url).filter(|_| settings.clusters.len() == 1);
        Ok(self.catalogue.administrator(cluster, other).await?)
    }
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Install(arguments) => install(arguments),
        Command::Import(arguments) => import(arguments),
    }
}

fn install(arguments: &Install) -> Result<(), Failure> {
    let settings = arguments.config.outline()?;
    let it = of(&settings)?;
    if arguments.print {
        say(format_args!("-- in database {} of cluster {}", it.database, it.cluster));
        say(tenant::catalogue_script(&settings, it, !arguments.without_secrets)?);
        return Ok(());
    }
    super::runtime()?.block_on(Act::at(&settings, Deed::InstallCatalogue, &it.place()).recorded(async {
        let client = arguments.reach.administrator(&settings, it).await?.connect(&it.database).await?;
        Ok(tenant::install_catalogue(&client, &settings, it).await?)
    }))?;
    say(format_args!("{} is there", name(it)));
    Ok(())
}

fn import(arguments: &Import) -> Result<(), Failure> {
    let settings = arguments.config.outline()?;
    let it = of(&settings)?;
    let tenants = read(&arguments.file)?;
    super::runtime()?.block_on(Act::at(&settings, Deed::ImportCatalogue, &it.place()).recorded(async {
        let mut client = arguments.reach.administrator(&settings, it).await?.connect(&it.database).await?;
        let known = catalogue::read(&client).await?;
        let change = |(id, definition): (TenantId, String)| {
            let same = known.entries.get(id.as_str()).filter(|known| **known == definition);
            Change { before: same.cloned(), after: Some(definition), id }
        };
        let changes: Vec<Change> = tenants.into_iter().map(change).collect();
        let judge = |snapshot| judged(&arguments.config.path, it, snapshot);
        match catalogue::change(&mut client, &changes, judge).await {
            Ok(_) => {
                say(format_args!("{} tenants of {} are in {}", changes.len(), arguments.file.display(), name(it)));
                Ok(())
            }
            Err(WriteError::Refused(failure)) => Err(failure),
            Err(WriteError::Changed(id)) => Err(Failure::said(format!(
                "there is a tenant {id} in {} already, and it is another; nothing was written. Take it out of {}",
                name(it),
                arguments.file.display()
            ))),
            Err(WriteError::Failed(error)) => Err(error.into()),
        }
    }))
}

fn of(settings: &Settings) -> Result<&Catalogue, Failure> {
    let missing = || Failure::said("the configuration has no catalogue: there is no table [catalogue]");
    settings.catalogue.as_ref().ok_or_else(missing)
}

/// The tenants of a file, each with its table by itself.
fn read(path: &Path) -> Result<Vec<(TenantId, String)>, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| Failure::said(format!("cannot read {shown}: {error}")))?;
    // Not the parser's own words: they quote the line, which may hold a password.
    let document: DocumentMut =
        text.parse().map_err(|_| Failure::said(format!("{shown} is not valid TOML; pgward check says where")))?;
    let wrong = || Failure::said(format!("{shown} has something else than tables [tenants.NAME]; take that out"));
    let mut tenants = Vec::new();
    for (key, item) in document.as_table() {
        let all = item.as_table_like().filter(|_| key == "tenants").ok_or_else(wrong)?;
        for (name, entry) in all.iter() {
            let id = TenantId::parse(name).map_err(|error| Failure::said(format!("{shown}: {name:?} {error}")))?;
            let entry = entry.clone().into_table().map_err(|_: Item| wrong())?;
            tenants.push((id, definition(&entry)));
        }
    }
    Ok(tenants)
}

/// The configuration with these tenants in its catalogue.
pub(super) fn judged(config: &Path, it: &Catalogue, snapshot: Snapshot) -> Result<Settings, Failure> {
    let settings = Draft::read(config).and_then(|draft| draft.with_catalogue(&snapshot.into()));
    settings.map_err(|problems| Failure::Config { path: name(it).into(), problems })
}

/// For people.
pub(super) fn name(it: &Catalogue) -> String {
    format!("the catalogue ({})", it.place())
}
