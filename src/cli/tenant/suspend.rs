use super::super::record::{Act, Deed};
use super::file::{TenantsFile, set_suspended};
use super::{Failure, TenantArgument};
use crate::cli::output::say;

/// Refuse a tenant's logins and end its sessions
///
/// A running pgward ends the sessions within a second, in a transaction too, which is rolled back. The tenant keeps
/// everything that it has.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    tenant: TenantArgument,
}

/// Let a suspended tenant in again
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArguments {
    #[command(flatten)]
    tenant: TenantArgument,
}

pub(super) fn suspend(arguments: &Arguments) -> Result<(), Failure> {
    set(&arguments.tenant, true)
}

pub(super) fn resume(arguments: &ResumeArguments) -> Result<(), Failure> {
    set(&arguments.tenant, false)
}

fn set(argument: &TenantArgument, suspended: bool) -> Result<(), Failure> {
    let settings = argument.config.load()?;
    let file = TenantsFile::of(&argument.config.path, &settings)?;
    let tenant = argument.find(&settings)?;
    file.must_have(&tenant.id)?;
    let (deed, now) =
        if suspended { (Deed::SuspendTenant, "suspended") } else { (Deed::ResumeTenant, "no longer suspended") };
    let edit = async { file.edit(|document| set_suspended(document, &tenant.id, suspended)) };
    super::super::runtime()?.block_on(Act::on_tenant(&settings, deed, &tenant.id).recorded(edit))?;
    let (id, path) = (&tenant.id, file.path().display());
    say(format_args!("tenant {id} is {now} in {path}; a running pgward follows within a second"));
    Ok(())
}
