//! Everything that a tenant has, in a folder: CSV files of its rows, or what pg_dump makes, and a manifest.

mod folder;
mod manifest;
pub(super) mod open;
mod seal;
mod source;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::super::backup::TargetArguments;
use super::super::record::{Act, Deed};
use super::moment::aside;
use super::place::Place;
use super::{Failure, MAINTENANCE, TenantArgument, UrlArgument, cluster, runtime, seat};
use crate::cli::output::{say, warn};
use crate::config::{Settings, Tenant};
use crate::tenant::Removal;
use crate::tenant::restore::prepare;

pub(super) use folder::{Export, sweep as sweep_partial};
pub(super) use manifest::Manifest;
pub(super) use open::decrypt;
pub(super) use seal::{KeyArguments, Recipient, SealArguments, recipient};
pub(super) use source::{DUMP, LARGE_OBJECTS, Source, dump};

/// Export a tenant: everything that it has, of one moment, into a folder
///
/// CSV files at level rows, what pg_dump makes otherwise, and a manifest with the SHA-256 of every file. The tenant goes on
/// meanwhile. With a moment, it is taken from a copy of the cluster that is restored aside from its backups.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    tenant: TenantArgument,

    #[command(flatten)]
    url: UrlArgument,

    /// The folder, which must not be there, or hold an earlier export of this tenant
    #[arg(long, value_name = "FOLDER")]
    into: PathBuf,

    #[command(flatten)]
    seal: SealArguments,

    #[command(flatten)]
    target: TargetArguments,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.tenant.config.load()?;
    let tenant = arguments.tenant.find(&settings)?;
    let export = Export::into(&arguments.into, &tenant.id, arguments.seal.seal()?)?;
    let act = Act::on_tenant(&settings, Deed::ExportTenant, &tenant.id);
    runtime()?.block_on(act.recorded(arguments.export(&settings, &tenant, &export)))?;
    say(format_args!("exported {} to {}", tenant.id, export.folder().display()));
    Ok(())
}

impl Arguments {
    async fn export(&self, settings: &Settings, tenant: &Tenant, export: &Export) -> Result<(), Failure> {
        if let Some(wanted) = self.target.named() {
            let (_site, scratch) = aside(settings, tenant, &wanted).await?;
            let place = Place::Copy(&scratch);
            let client = place.connect(database_of(tenant)).await?;
            prepare(&client).await?;
            let removal = Removal::in_copy(&client, settings, tenant).await?;
            tell_unclear(&removal);
            let as_of = Some(wanted.target.to_string());
            let source = Source { place, tenant, seat: &client, removal: &removal, as_of };
            return export.run(&source).await.map(drop);
        }
        let cluster = cluster(settings, tenant)?;
        let administrator = self.url.administrator(cluster).await?;
        let seat = seat(&administrator, tenant).await?;
        prepare(&seat).await?;
        let removal = Removal::begin(&seat, settings, tenant).await?;
        tell_unclear(&removal);
        let place = Place::Live { administrator: &administrator, cluster };
        let source = Source { place, tenant, seat: &seat, removal: &removal, as_of: None };
        export.run(&source).await.map(drop)
    }
}

/// Where a tenant's things are looked for: in its database, or from beside it.
pub(super) fn database_of(tenant: &Tenant) -> &str {
    if tenant.isolation.shares_database() { tenant.database.as_str() } else { MAINTENANCE }
}

/// At level `rows`.
pub(super) fn tell_unclear(removal: &Removal<'_>) {
    if !removal.unclear().is_empty() {
        let tables = removal.unclear().join(", ");
        warn(format_args!("left out, since no single column says whose a row is: {tables}"));
    }
    tell_otherwise(removal);
}

/// At level `rows`, too.
pub(super) fn tell_otherwise(removal: &Removal<'_>) {
    if !removal.otherwise().is_empty() {
        let tables = removal.otherwise().join(", ");
        warn(format_args!("not looked at, since their row security does not ask pgward.tenant(): {tables}"));
    }
}

/// A new file that only its owner can read.
fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)
}
