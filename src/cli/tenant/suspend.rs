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

/// Keep a tenant, and the backups that have it, from being deleted
///
/// `pgward tenant remove` and `erase` are refused, and backups of its cluster do not expire, until `pgward tenant release`.
/// The tenant itself works as before.
#[derive(Debug, clap::Args)]
pub(super) struct HoldArguments {
    #[command(flatten)]
    entry: EntryArguments,

    /// Why: a court order, an investigation
    #[arg(long)]
    reason: String,
}

/// Lift a legal hold
#[derive(Debug, clap::Args)]
pub(super) struct ReleaseArguments {
    #[command(flatten)]
    entry: EntryArguments,
}

pub(super) fn suspend(arguments: &Arguments) -> Result<(), Failure> {
    set(&arguments.entry, Deed::SuspendTenant, Change::Suspended(true), "suspended")
}

pub(super) fn resume(arguments: &ResumeArguments) -> Result<(), Failure> {
    set(&arguments.entry, Deed::ResumeTenant, Change::Suspended(false), "no longer suspended")
}

pub(super) fn hold(arguments: &HoldArguments) -> Result<(), Failure> {
    let change = Change::Hold(Some(arguments.reason.clone()));
    set(&arguments.entry, Deed::HoldTenant, change, "under legal hold")
}

pub(super) fn release(arguments: &ReleaseArguments) -> Result<(), Failure> {
    set(&arguments.entry, Deed::ReleaseTenant, Change::Hold(None), "no longer under legal hold")
}

fn set(arguments: &EntryArguments, deed: Deed, change: Change, now: &str) -> Result<(), Failure> {
    let settings = arguments.tenant.config.load()?;
    let mut store = Store::of(&arguments.tenant, &settings)?;
    let tenant = arguments.tenant.find(&settings)?;
    store.must_have(&tenant.id)?;
    let reach = Reach { settings: &settings, tenant: &tenant, url: &arguments.url, catalogue: &arguments.catalogue };
    let edit = store.edit(&tenant.id, change, &reach);
    runtime()?.block_on(Act::on_tenant(&settings, deed, &tenant.id).recorded(edit))?;
    say(format_args!("tenant {} is {now} in {}; a running pgward follows within seconds", tenant.id, store.place()));
    Ok(())
}
