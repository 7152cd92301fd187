//! `pgward tenant`: the tenants of the configuration's `tenants_file` or `[catalogue]`, and what stands on the clusters
//! for them.
//!
//! Adding makes everything in PostgreSQL first and writes the entry last; removing suspends in the entry first and
//! takes it out last. So whatever has an entry is there, and whatever was interrupted is finished by the same
//! command again.

mod add;
mod erase;
mod export;
mod file;
mod files;
mod list;
mod moment;
mod place;
mod programs;
mod quiet;
mod remove;
mod restore;
mod show;
mod store;
mod suspend;

pub(super) use file::text;

use std::sync::Arc;

use tokio_postgres::Client;

use super::connect::{Administrator, CatalogueUrlArgument, UrlArgument};
use super::failure::Failure;
use super::output::warn;
use super::{ConfigArgument, runtime};
use crate::base::{ClusterName, TenantId};
use crate::config::{Catalogue, Cluster, Settings, Tenant};
use crate::tenant;

/// Where databases are made and dropped from; every cluster has it.
const MAINTENANCE: &str = "postgres";

/// Add, list, show, suspend, resume or remove tenants
///
/// The tenants are those of the configuration. What is added, changed or removed stands in the file that its
/// `tenants_file` names, or in the table of its `[catalogue]`; running pgwards take a change over by themselves, within
/// seconds.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Add(Box<add::Arguments>),
    List(list::Arguments),
    Show(show::Arguments),
    Suspend(suspend::Arguments),
    Resume(suspend::ResumeArguments),
    Hold(suspend::HoldArguments),
    Release(suspend::ReleaseArguments),
    Export(export::Arguments),
    Open(export::open::Arguments),
    Restore(Box<restore::Arguments>),
    Remove(remove::Arguments),
    Erase(erase::Arguments),
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Add(arguments) => add::command(arguments),
        Command::List(arguments) => list::command(arguments),
        Command::Show(arguments) => show::command(arguments),
        Command::Suspend(arguments) => suspend::suspend(arguments),
        Command::Resume(arguments) => suspend::resume(arguments),
        Command::Hold(arguments) => suspend::hold(arguments),
        Command::Release(arguments) => suspend::release(arguments),
        Command::Export(arguments) => export::command(arguments),
        Command::Restore(arguments) => restore::command(arguments),
        Command::Open(arguments) => export::open::command(arguments),
        Command::Remove(arguments) => remove::command(arguments),
        Command::Erase(arguments) => erase::command(arguments),
    }
}

/// Which tenant, of which configuration.
#[derive(Debug, clap::Args)]
struct TenantArgument {
    #[command(flatten)]
    config: ConfigArgument,

    /// The tenant
    #[arg(value_parser = TenantId::parse, value_name = "TENANT")]
    name: TenantId,
}

impl TenantArgument {
    fn find(&self, settings: &Settings) -> Result<Arc<Tenant>, Failure> {
        let found = settings.tenants.get(&self.name).cloned();
        found.ok_or_else(|| Failure::said(format!("there is no tenant {} in the configuration", self.name)))
    }
}

/// How to get to where a tenant stands, and to where its definition does.
struct Reach<'a> {
    settings: &'a Settings,
    tenant: &'a Tenant,
    url: &'a UrlArgument,
    catalogue: &'a CatalogueUrlArgument,
}

impl Reach<'_> {
    /// As the one who may change it.
    async fn catalogue(&self, catalogue: &Catalogue) -> Result<Administrator, Failure> {
        let cluster = known_cluster(self.settings, &catalogue.cluster)?;
        let same = catalogue.cluster == self.tenant.cluster;
        Ok(self.catalogue.administrator(cluster, same.then_some(self.url)).await?)
    }
}

/// The tenant's cluster, which the configuration has.
fn cluster<'a>(settings: &'a Settings, tenant: &Tenant) -> Result<&'a Cluster, Failure> {
    known_cluster(settings, &tenant.cluster)
}

fn known_cluster<'a>(settings: &'a Settings, name: &ClusterName) -> Result<&'a Cluster, Failure> {
    let found = settings.clusters.get(name).map(AsRef::as_ref);
    found.ok_or_else(|| Failure::said(format!("there is no cluster {name} in the configuration")))
}

/// A connection that nobody else adds or removes this tenant by, as long as it lasts: to the tenant's database where
/// that is shared, else to one that outlives the tenant's.
async fn seat(administrator: &Administrator, tenant: &Tenant) -> Result<Client, Failure> {
    let database = if tenant.isolation.shares_database() { tenant.database.as_str() } else { MAINTENANCE };
    let client = administrator.connect(database).await?;
    let id = &tenant.id;
    let waiting = || warn(format_args!("another command works on tenant {id}; waiting for it"));
    tenant::lock(&client, id, waiting).await?;
    Ok(client)
}
