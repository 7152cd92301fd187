use super::super::record::{Act, Deed};
use super::store::{Change, Store};
use super::{CatalogueUrlArgument, Failure, Reach, TenantArgument, UrlArgument, runtime};
use crate::cli::output::say;

/// Refuse a tenant's logins and end its sessions
///
/// A running pgward ends the sessions within seconds, in a transaction too, which is rolled back. The tenant keeps
/// everything that it has.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    entry: EntryArguments,
}

/// Let a suspended tenant in again
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArguments {
    #[command(flatten)]
    entry: EntryArguments,
}

/// A tenant's entry, and how to get to it. A tenants file needs no URL.
#[derive(Debug, clap::Args)]
struct EntryArguments {
    #[command(flatten)]
    tenant: TenantArgument,

    #[command(flatten)]
    url: UrlArgument,

    #[command(flatten)]
    catalogue: CatalogueUrlArgument,
}

pub(super) fn suspend(arguments: &Arguments) -> Result<(), Failure> {
    set(&arguments.entry, true)
}

pub(super) fn resume(arguments: &ResumeArguments) -> Result<(), Failure> {
    set(&arguments.entry, false)
}

fn set(arguments: &EntryArguments, suspended: bool) -> Result<(), Failure> {
    let settings = arguments.tenant.config.load()?;
    let mut store = Store::of(&arguments.tenant, &settings)?;
    let tenant = arguments.tenant.find(&settings)?;
    store.must_have(&tenant.id)?;
    let (deed, now) =
        if suspended { (Deed::SuspendTenant, "suspended") } else { (Deed::ResumeTenant, "no longer suspended") };
    let reach = Reach { settings: &settings, tenant: &tenant, url: &arguments.url, catalogue: &arguments.catalogue };
    let edit = store.edit(&tenant.id, Change::Suspended(suspended), &reach);
    runtime()?.block_on(Act::on_tenant(&settings, deed, &tenant.id).recorded(edit))?;
    say(format_args!("tenant {} is {now} in {}; a running pgward follows within seconds", tenant.id, store.place()));
    Ok(())
}
