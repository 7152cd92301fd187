//! One tenant put back to what it was, with all others online: restored aside, compared, kept, exchanged.
//!
//! Whatever ends the command leaves the tenant as before or as after, and at worst suspended; the same command again goes
//! on.

mod beside;
mod journal;
mod load;
mod origin;
mod rows;

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Client;

use super::super::backup::TargetArguments;
use super::super::record::{Act, Deed};
use super::export::{Export, KeyArguments, Recipient, Source, database_of, recipient, sweep_partial, tell_unclear};
use super::moment::aside;
use super::place::Place;
use super::quiet::Quiet;
use super::store::{Change, Store};
use super::{CatalogueUrlArgument, Failure, Reach, TenantArgument, UrlArgument, cluster, runtime, seat};
use crate::cli::connect::Administrator;
use crate::cli::duration;
use crate::cli::output::{say, table, warn};
use crate::config::{Cluster, Isolation, Settings, Tenant};
use crate::tenant::Removal;
use crate::tenant::restore::{Difference, Staging, TwinDatabase, TwinSchema, prepare, sweep};
use journal::Journal;
use origin::{Opened, Origin, Workshop};
use rows::Then;

/// Put a tenant back to what it was at a moment that backups reach, or to what an export has
///
/// What it had is restored aside and compared with what it has; without --yes that is all. With --yes the tenant is
/// suspended, what it has is exported into the folder that --keep names, and the two are exchanged in one transaction.
/// Other tenants stay as they are, and online. Interrupted or failed, the same command again goes on.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    tenant: TenantArgument,

    #[command(flatten)]
    url: UrlArgument,

    #[command(flatten)]
    catalogue: CatalogueUrlArgument,

    #[command(flatten)]
    target: TargetArguments,

    /// To what this export has
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["target", "set", "repository"])]
    from: Option<PathBuf>,

    #[command(flatten)]
    key: KeyArguments,

    /// Do it
    #[arg(long, requires = "keep")]
    yes: bool,

    /// Where the tenant's state of before goes, as an export; to undo this, restore from there
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,

    /// Encrypt what is kept to this age recipient (age1...), rather than by what opens the export. Repeatable
    #[arg(long, value_name = "RECIPIENT", value_parser = recipient, requires = "keep")]
    recipient: Vec<Recipient>,

    /// How long it may take to load what there was beside what there is. What the tenant has made runs meanwhile
    #[arg(long, default_value = "24h", value_parser = duration, value_name = "TIME")]
    load_within: Duration,

    /// At level rows: how long transactions of other tenants that began before may take to end
    #[arg(long, default_value = "1m", value_parser = duration, value_name = "TIME")]
    wait: Duration,

    /// At level rows: a table that stays as it is. Repeatable
    #[arg(long, value_name = "SCHEMA.TABLE")]
    leave: Vec<String>,
}

/// What a restore works with.
struct Work<'a> {
    settings: &'a Settings,
    administrator: Administrator,
    cluster: &'a Cluster,
    tenant: &'a Tenant,
    seat: Client,
    removal: Removal<'a>,
    leave: &'a [String],
    load_within: Duration,
}

/// What is going to take the place of what the tenant has.
enum Ready<'a> {
    Rows(Box<Staging<'a>>, Then),
    Schema(TwinSchema<'a>),
    Database(TwinDatabase<'a>),
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.from.is_none() && arguments.target.named().is_none() {
        return Err(Failure::said(
            "say what it is to be restored to: a moment, as in --at TIME, or an export, by --from",
        ));
    }
    let settings = arguments.tenant.config.load()?;
    let tenant = arguments.tenant.find(&settings)?;
    if !arguments.yes {
        return runtime()?.block_on(arguments.look(&settings, &tenant));
    }
    let mut store = Store::of(&arguments.tenant, &settings)?;
    let act = Act::on_tenant(&settings, Deed::RestoreTenant, &tenant.id);
    store.must_have(&tenant.id)?;
    runtime()?.block_on(act.recorded(arguments.restore(&settings, &mut store, &tenant)))
}

impl Arguments {
    /// Only says what is different.
    async fn look(&self, settings: &Settings, tenant: &Tenant) -> Result<(), Failure> {
        let work = self.work(settings, tenant).await?;
        let (origin, workshop) = self.origin(settings, tenant).await?;
        let compared = async {
            let ready = work.ready(&origin, &workshop).await?;
            ready.difference(&work).await
        };
        let compared = compared.await;
        let swept = sweep(&work.seat, tenant).await;
        show(&compared?);
        swept?;
        say("nothing was changed; do it with --yes, and --keep FOLDER for what the tenant has now");
        Ok(())
    }

    async fn restore(&self, settings: &Settings, store: &mut Store, tenant: &Tenant) -> Result<(), Failure> {
        let Some(keep) = &self.keep else {
            return Err(Failure::said("say with --keep where the state of before goes"));
        };
        let work = self.work(settings, tenant).await?;
        let kept = Export::into(keep, &tenant.id, self.key.seal(&self.recipient)?)?;
        let earlier = Journal::find(keep, tenant)?;
        let (origin, workshop) = self.origin(settings, tenant).await?;
        let done = self.exchange(&work, (&origin, &workshop), (&kept, earlier), store).await;
        let swept = sweep(&work.seat, tenant).await;
        done?;
        Ok(swept?)
    }

    async fn exchange(
        &self,
        work: &Work<'_>,
        (origin, workshop): (&Origin, &Workshop),
        (kept, earlier): (&Export, Option<Journal>),
        store: &mut Store,
    ) -> Result<(), Failure> {
        let Work { settings, tenant, seat, removal, .. } = work;
        let ready = work.ready(origin, workshop).await?;
        let differences = ready.difference(work).await?;
        show(&differences);
        let same = differences.iter().all(Difference::is_none);
        if same && earlier.is_none() {
            say(format_args!("tenant {} is what it was; nothing was changed", tenant.id));
            return Ok(());
        }
        let reach = Reach { settings, tenant, url: &self.url, catalogue: &self.catalogue };
        let journal = earlier.map_or_else(|| Journal::begin(kept.folder(), tenant), Ok)?;
        store.edit(&tenant.id, Change::Restoring(true), &reach).await?;
        let exchanged = async {
            let otherwise = "Nothing was changed";
            Quiet { settings, tenant, seat, removal, wait: self.wait, otherwise }.come().await?;
            // An earlier attempt may have come so far.
            if !same {
                work.keep(kept).await?;
                ready.swap(work).await?;
            }
            Ok(())
        };
        // Refused, it has what it had before, and need not wait for somebody to find out why.
        let exchanged: Result<(), Failure> = exchanged.await;
        let let_in = async {
            work.provide().await?;
            store.edit(&tenant.id, Change::Restoring(false), &reach).await?;
            journal.end()
        };
        match (exchanged, let_in.await) {
            (Ok(()), Ok(())) => {}
            (Ok(()), Err(failure)) | (Err(failure), Ok(())) => return Err(failure),
            (Err(failure), Err(second)) => {
                warn(format_args!(
                    "tenant {} stays suspended, since it could not be let in again: {second}",
                    tenant.id
                ));
                return Err(failure);
            }
        }
        let now = self.tenant.config.load_now().await;
        let suspended = now.is_ok_and(|now| now.tenants.get(&tenant.id).is_some_and(|tenant| tenant.suspended));
        let state = if suspended { "; it is suspended, not by this" } else { "" };
        say(format_args!("tenant {} is what it was{state}", tenant.id));
        Ok(())
    }

    async fn work<'a>(&'a self, settings: &'a Settings, tenant: &'a Tenant) -> Result<Work<'a>, Failure> {
        let cluster = cluster(settings, tenant)?;
        let administrator = self.url.administrator(cluster).await?;
        let seat = seat(&administrator, tenant).await?;
        prepare(&seat).await?;
        let removal = Removal::begin(&seat, settings, tenant).await?;
        tell_unclear(&removal);
        Ok(Work {
            settings,
            administrator,
            cluster,
            tenant,
            seat,
            removal,
            leave: &self.leave,
            load_within: self.load_within,
        })
    }

    async fn origin(&self, settings: &Settings, tenant: &Tenant) -> Result<(Origin, Workshop), Failure> {
        if let Some(wanted) = self.target.named() {
            let copy = aside(settings, tenant, &wanted).await?;
            let workshop = Workshop::new(copy.1.folder(), tenant)?;
            return Ok((Origin::Copy(Box::new(copy)), workshop));
        }
        let Some(folder) = &self.from else { return Err(Failure::said("say with --from which export")) };
        let folder = std::path::absolute(folder)?;
        sweep_partial(&folder);
        let workshop = Workshop::new(folder.parent().unwrap_or(&folder), tenant)?;
        let opened = Opened::new(&folder, &self.key, tenant, &workshop)?;
        Ok((Origin::Export(Box::new(opened)), workshop))
    }
}

impl Work<'_> {
    fn leaves(&self, table: &str) -> bool {
        self.leave.iter().any(|left| left == table)
    }

    async fn ready<'a>(&'a self, origin: &Origin, workshop: &Workshop) -> Result<Ready<'a>, Failure> {
        match self.tenant.isolation {
            Isolation::Rows => {
                let (staging, then) = match origin {
                    Origin::Copy(copy) => rows::of_copy(self, &copy.1.connect(&self.tenant.database).await?).await?,
                    Origin::Export(opened) => rows::of_export(self, &opened.folder, &opened.manifest).await?,
                };
                Ok(Ready::Rows(Box::new(staging), then))
            }
            Isolation::Schema => Ok(Ready::Schema(self.schema_beside(origin, workshop).await?)),
            Isolation::Database | Isolation::Cluster => {
                Ok(Ready::Database(self.database_beside(origin, workshop).await?))
            }
        }
    }

    /// What the tenant has now, where it can be found again.
    async fn keep(&self, kept: &Export) -> Result<(), Failure> {
        let Self { tenant, seat, removal, .. } = self;
        if !removal.has_data(seat).await? {
            say(format_args!("tenant {} has nothing now, so nothing is kept", tenant.id));
            return Ok(());
        }
        let place = Place::Live { administrator: &self.administrator, cluster: self.cluster };
        let source = Source { place, tenant, seat, removal, as_of: None };
        Act::on_tenant(self.settings, Deed::ExportTenant, &tenant.id)
            .recorded(async { kept.run(&source).await.map(drop) })
            .await?;
        say(format_args!("kept what tenant {} had in {}", tenant.id, kept.folder().display()));
        Ok(())
    }
}

impl Ready<'_> {
    async fn difference(&self, work: &Work<'_>) -> Result<Vec<Difference>, Failure> {
        let other = work.administrator.connect(database_of(work.tenant)).await?;
        match self {
            Self::Rows(staging, then) => {
                let differences = staging.difference(&other).await?;
                rows::new_tables(then, &differences)?;
                Ok(differences)
            }
            Self::Schema(twin) => {
                let mut differences = twin.difference(&work.seat, &other).await?;
                if work.removal.has_data(&work.seat).await? {
                    differences.extend(work.definitions(twin.next()).await?);
                }
                Ok(differences)
            }
            Self::Database(twin) => {
                let then = work.administrator.connect(twin.next()).await?;
                let now = match twin.is_there(&work.seat).await? {
                    true => Some(work.administrator.connect(&work.tenant.database).await?),
                    false => None,
                };
                let mut differences = twin.difference(now.as_ref(), &then).await?;
                if now.is_some() {
                    differences.extend(work.definitions(twin.next()).await?);
                }
                Ok(differences)
            }
        }
    }

    async fn swap(&self, work: &Work<'_>) -> Result<(), Failure> {
        match self {
            Self::Rows(staging, _) => Ok(staging.swap().await?),
            Self::Schema(twin) => Ok(twin.swap(&work.seat).await?),
            Self::Database(twin) => Ok(twin.swap(&work.seat).await?),
        }
    }
}

fn show(differences: &[Difference]) {
    let head = ["TABLE", "ONLY NOW", "ONLY THEN", "CHANGED", "THE SAME", "COLUMNS"].map(str::to_owned);
    let rows = differences.iter().map(|difference| {
        let counts = difference.counts;
        let [now, then, changed, same] =
            [counts.only_now, counts.only_then, counts.changed, counts.same].map(|count| count.to_string());
        [difference.table.clone(), now, then, changed, same, difference.shape.clone()]
    });
    let cells: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    table(cells.iter().map(|row| row.each_ref().map(String::as_str)).collect());
}
