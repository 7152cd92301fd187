use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::super::record::{Act, Deed};
use super::export::{Export, Source};
use super::store::{Change, Store};
use super::{CatalogueUrlArgument, Failure, Reach, TenantArgument, UrlArgument, cluster, runtime, seat};
use crate::cli::connect::Administrator;
use crate::cli::duration;
use crate::cli::output::{say, table, warn};
use crate::config::{Cluster, Isolation, Settings, Tenant};
use crate::tenant::Removal;

/// Remove a tenant with all that it has, and look whether anything is left
///
/// The tenant is suspended, exported if that is asked for, deleted from PostgreSQL and looked for again, and at last
/// taken out of the tenants file or catalogue. Interrupted or failed, the same command again goes on where it ended.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    tenant: TenantArgument,

    #[command(flatten)]
    url: UrlArgument,

    #[command(flatten)]
    catalogue: CatalogueUrlArgument,

    /// Do it
    #[arg(long, required = true)]
    yes: bool,

    /// First export everything into this folder, which must not be there, or be an earlier export of this tenant
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,

    /// At level rows: how long transactions of other tenants that began before may take to end
    #[arg(long, default_value = "1m", value_parser = duration, value_name = "TIME")]
    wait: Duration,

    /// At level rows: a table whose policy does not tell which rows are whose; they are left to you. Repeatable
    #[arg(long, value_name = "SCHEMA.TABLE")]
    leave: Vec<String>,
}

/// By then a running pgward has noticed in the tenants file that the tenant is suspended, and has ended its sessions.
const NOTICED: Duration = Duration::from_secs(2);

/// By then one has read the catalogue that it began to read, has judged it, and has ended the sessions.
const TAKEN_UP: Duration = Duration::from_secs(10);

/// For each of all tenants, which it judges anew: twice what an unoptimised build was measured to take.
const JUDGED: Duration = Duration::from_micros(100);

/// How long a tenant's own backends may take to come to rest before they are ended.
const REST: Duration = Duration::from_secs(5);

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.tenant.config.load()?;
    let mut store = Store::of(&arguments.tenant, &settings)?;
    let tenant = arguments.tenant.find(&settings)?;
    store.must_have(&tenant.id)?;
    let act = Act::on_tenant(&settings, Deed::RemoveTenant, &tenant.id);
    runtime()?.block_on(act.recorded(arguments.remove(&settings, &mut store, &tenant)))?;
    say(format_args!("nothing is left of tenant {}, and it is no longer in {}", tenant.id, store.place()));
    Ok(())
}

/// What a removal works with.
struct Work<'a> {
    administrator: Administrator,
    cluster: &'a Cluster,
    tenant: &'a Tenant,
    seat: Client,
    removal: Removal<'a>,
}

impl Arguments {
    async fn remove(&self, settings: &Settings, store: &mut Store, tenant: &Tenant) -> Result<(), Failure> {
        let cluster = cluster(settings, tenant)?;
        let reach = Reach { settings, tenant, url: &self.url, catalogue: &self.catalogue };
        let administrator = self.url.administrator(cluster).await?;
        let seat = seat(&administrator, tenant).await?;
        let removal = Removal::begin(&seat, settings, tenant).await?;
        self.doubts(&removal)?;
        let export = self.export.as_deref().map(|folder| Export::into(folder, &tenant.id)).transpose()?;
        store.edit(&tenant.id, Change::Suspended(true), &reach).await?;
        let work = Work { administrator, cluster, tenant, seat, removal };
        self.quieten(settings, &work).await?;
        let mut exported = None;
        if let Some(export) = &export {
            if work.removal.has_data(&work.seat).await? || !export.is_there() {
                let Work { administrator, cluster, seat, removal, .. } = &work;
                let source = Source { administrator, cluster, tenant, seat, removal };
                exported = Some(recorded_export(settings, export, source).await?);
            } else {
                say(format_args!("{} has been exported before, and nothing is left to export", tenant.id));
            }
        }
        if tenant.isolation == Isolation::Rows {
            for (table, count) in work.removal.erase(&work.seat, exported.as_ref()).await? {
                say(format_args!("deleted {count} rows of {table}"));
            }
        } else {
            work.drop_all().await?;
        }
        work.prove().await?;
        store.edit(&tenant.id, Change::TakeOut, &reach).await
    }

    /// What a removal at level rows would not reach.
    fn doubts(&self, removal: &Removal<'_>) -> Result<(), Failure> {
        let unclear: Vec<&String> = removal.unclear().iter().filter(|table| !self.leave.contains(table)).collect();
        if !unclear.is_empty() {
            let tables = unclear.iter().map(|table| table.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Failure::said(format!(
                "no single column says whose a row is in {tables}, so the tenant's rows there cannot be found; nothing \
                 was done. Delete them yourself and repeat with --leave, once for each of these tables"
            )));
        }
        if !removal.otherwise().is_empty() {
            let tables = removal.otherwise().join(", ");
            warn(format_args!("not looked at, since their row security does not ask pgward.tenant(): {tables}"));
        }
        Ok(())
    }

    /// Waits until the tenant does nothing any more, and sees to it that it cannot.
    async fn quieten(&self, settings: &Settings, work: &Work<'_>) -> Result<(), Failure> {
        let rows = work.tenant.isolation == Isolation::Rows;
        if rows {
            noticed(settings).await;
        }
        let since = Removal::now(&work.seat).await?;
        let limit = if rows { self.wait } else { REST };
        let begin = Instant::now();
        loop {
            let busy = work.removal.busy(&work.seat, &since).await?;
            if busy == 0 {
                break;
            }
            if begin.elapsed() >= limit {
                if !rows {
                    break;
                }
                return Err(Failure::said(format!(
                    "{busy} transactions of the shared logins are open since before tenant {0} was suspended, and one \
                     could be its last; end them, or wait longer with --wait. Nothing was deleted; {0} stays suspended",
                    work.tenant.id
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if rows {
            return Ok(());
        }
        let begin = Instant::now();
        while work.removal.close(&work.seat).await? > 0 {
            if begin.elapsed() >= REST {
                return Err(Failure::said("sessions of the tenant's roles do not end; see pg_stat_activity"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// Waits until the pgwards that run have taken up that the tenant is suspended. Whether they have, none of them tells.
async fn noticed(settings: &Settings) {
    let judged = JUDGED.saturating_mul(u32::try_from(settings.tenants.len()).unwrap_or(u32::MAX));
    let Some(catalogue) = &settings.catalogue else { return tokio::time::sleep(NOTICED + judged).await };
    // Whoever is not told of the change finds it by looking.
    let wait = catalogue.poll + TAKEN_UP + judged;
    say(format_args!(
        "waiting {} s, by when every node that can read the catalogue has looked (catalogue.poll) and ended the \
         tenant's sessions",
        wait.as_secs()
    ));
    tokio::time::sleep(wait).await;
}

async fn recorded_export(
    settings: &Settings,
    export: &Export,
    source: Source<'_>,
) -> Result<std::collections::BTreeMap<String, u64>, Failure> {
    let counts = Act::on_tenant(settings, Deed::ExportTenant, &source.tenant.id).recorded(export.run(&source)).await?;
    say(format_args!("exported {} to {}", source.tenant.id, export.folder().display()));
    Ok(counts)
}

impl Work<'_> {
    async fn drop_all(&self) -> Result<(), Failure> {
        let schema = self.tenant.isolation == Isolation::Schema;
        if !schema {
            self.removal.drop_database(&self.seat).await?;
        }
        for database in self.removal.databases(&self.seat).await? {
            if !schema || database != self.tenant.database {
                let client = self.administrator.connect(&database).await?;
                self.removal.drop_owned(&client).await?;
            }
        }
        if schema {
            self.removal.drop_schema(&self.seat).await?;
        } else {
            // What no database holds, such as privileges on tablespaces.
            self.removal.drop_owned(&self.seat).await?;
            self.removal.drop_roles(&self.seat).await?;
        }
        Ok(())
    }

    /// On a connection of its own, that has seen nothing of what was done.
    async fn prove(&self) -> Result<(), Failure> {
        let database =
            if self.tenant.isolation.shares_database() { self.tenant.database.as_str() } else { super::MAINTENANCE };
        let client = self.administrator.connect(database).await?;
        let seen = self.removal.proof(&client).await?;
        let head = ["LOOKED FOR", "FOUND"];
        table(std::iter::once(head).chain(seen.iter().map(|seen| [seen.what.as_str(), seen.found.as_str()])).collect());
        if seen.iter().all(|seen| seen.sound) {
            return Ok(());
        }
        Err(Failure::said(format!(
            "something is left of tenant {0}; it stays suspended, and among the tenants. Run the same command again",
            self.tenant.id
        )))
    }
}
