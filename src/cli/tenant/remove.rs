use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use super::super::record::{Act, Deed};
use super::export::{Export, SealArguments, Source, database_of, tell_otherwise};
use super::place::Place;
use super::quiet::Quiet;
use super::store::{Change, Store};
use super::{CatalogueUrlArgument, Failure, Reach, TenantArgument, UrlArgument, cluster, runtime, seat};
use crate::cli::connect::Administrator;
use crate::cli::duration;
use crate::cli::output::{say, table};
use crate::config::{Cluster, Isolation, Settings, Tenant};
use crate::tenant::restore::{self, prepare};
use crate::tenant::{Removal, Seen};

/// Remove a tenant with all that it has, and look whether anything is left
///
/// The tenant is suspended, exported if that is asked for, deleted from PostgreSQL and looked for again, and at last
/// taken out of the tenants file or catalogue. Interrupted or failed, the same command again goes on where it ended.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    deletion: DeletionArguments,

    /// First export everything into this folder, which must not be there, or be an earlier export of this tenant
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,

    #[command(flatten)]
    seal: SealArguments,
}

/// What is to be deleted, and how.
#[derive(Debug, clap::Args)]
pub(super) struct DeletionArguments {
    #[command(flatten)]
    pub tenant: TenantArgument,

    #[command(flatten)]
    url: UrlArgument,

    #[command(flatten)]
    catalogue: CatalogueUrlArgument,

    /// Do it
    #[arg(long, required = true)]
    yes: bool,

    /// At level rows: how long transactions of other tenants that began before may take to end
    #[arg(long, default_value = "1m", value_parser = duration, value_name = "TIME")]
    wait: Duration,

    /// At level rows: a table whose policy does not tell which rows are whose; they are left to you. Repeatable
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub leave: Vec<String>,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.seal.is_given() && arguments.export.is_none() {
        return Err(Failure::said("there is nothing to encrypt without --export FOLDER; nothing was done"));
    }
    let settings = arguments.deletion.tenant.config.load()?;
    let (mut store, tenant) = arguments.deletion.doomed(&settings)?;
    let act = Act::on_tenant(&settings, Deed::RemoveTenant, &tenant.id);
    runtime()?.block_on(act.recorded(arguments.remove(&settings, &mut store, &tenant)))?;
    say(format_args!("nothing is left of tenant {}, and it is no longer in {}", tenant.id, store.place()));
    Ok(())
}

/// What a deletion works with.
pub(super) struct Work<'a> {
    pub settings: &'a Settings,
    pub administrator: Administrator,
    pub cluster: &'a Cluster,
    pub tenant: &'a Tenant,
    pub seat: Client,
    pub removal: Removal<'a>,
}

impl Arguments {
    async fn remove(&self, settings: &Settings, store: &mut Store, tenant: &Tenant) -> Result<(), Failure> {
        let work = self.deletion.begin(settings, tenant).await?;
        let export =
            self.export.as_deref().map(|folder| Export::into(folder, &tenant.id, self.seal.seal()?)).transpose()?;
        self.deletion.close(&work, store).await?;
        let mut exported = None;
        if let Some(export) = &export {
            if work.removal.has_data(&work.seat).await? || !export.is_there() {
                exported = Some(work.export(export).await?);
            } else {
                say(format_args!("{} has been exported before, and nothing is left to export", tenant.id));
            }
        }
        self.deletion.delete(&work, exported.as_ref()).await?;
        work.prove().await?;
        self.deletion.take_out(&work, store).await
    }
}

impl DeletionArguments {
    /// The tenant that is to go, if it may.
    pub fn doomed(&self, settings: &Settings) -> Result<(Store, Arc<Tenant>), Failure> {
        let store = Store::of(&self.tenant, settings)?;
        let tenant = self.tenant.find(settings)?;
        store.must_have(&tenant.id)?;
        not_held(&tenant)?;
        Ok((store, tenant))
    }

    /// Looks at what there is; nothing is done yet.
    pub async fn begin<'a>(&self, settings: &'a Settings, tenant: &'a Tenant) -> Result<Work<'a>, Failure> {
        let cluster = cluster(settings, tenant)?;
        let administrator = self.url.administrator(cluster).await?;
        let seat = seat(&administrator, tenant).await?;
        prepare(&seat).await?;
        let removal = Removal::begin(&seat, settings, tenant).await?;
        self.doubts(&removal)?;
        Ok(Work { settings, administrator, cluster, tenant, seat, removal })
    }

    /// Suspends the tenant, and waits until it does nothing any more.
    pub async fn close(&self, work: &Work<'_>, store: &mut Store) -> Result<(), Failure> {
        let Work { settings, tenant, seat, removal, .. } = work;
        store.edit(&tenant.id, Change::Suspended(true), &self.reach(work)).await?;
        self.still_unheld(work).await?;
        let otherwise = "Nothing was deleted; the tenant stays suspended";
        Quiet { settings, tenant, seat, removal, wait: self.wait, otherwise }.come().await
    }

    /// Deletes it all. `exported`: what must be found at level `rows`, by table.
    pub async fn delete(&self, work: &Work<'_>, exported: Option<&BTreeMap<String, u64>>) -> Result<(), Failure> {
        self.still_unheld(work).await?;
        work.delete(exported).await
    }

    /// Asks anew: somebody may have put a hold on it since this command has looked, at another node or by hand.
    async fn still_unheld(&self, work: &Work<'_>) -> Result<(), Failure> {
        let id = &work.tenant.id;
        let unknown = |why: Failure| {
            Failure::said(format!(
                "it cannot be read whether tenant {id} is under legal hold; nothing was deleted, and it stays suspended. \
                 Run the same command again when this is put right: {why}"
            ))
        };
        let now = self.tenant.config.load_now().await.map_err(unknown)?;
        let Some(tenant) = now.tenants.get(id) else {
            return Err(Failure::said(format!(
                "somebody has taken tenant {id} out of the configuration meanwhile; nothing was deleted. Add it again as it \
                 was, and repeat the command"
            )));
        };
        let Err(held) = not_held(tenant) else { return Ok(()) };
        // Resumed, it is to work as before.
        work.removal.open(&work.seat).await?;
        Err(Failure::said(format!("{held}. It stays suspended; pgward tenant resume {id} lets it in again")))
    }

    pub async fn take_out(&self, work: &Work<'_>, store: &mut Store) -> Result<(), Failure> {
        store.edit(&work.tenant.id, Change::TakeOut, &self.reach(work)).await
    }

    fn reach<'a>(&'a self, work: &'a Work<'_>) -> Reach<'a> {
        Reach { settings: work.settings, tenant: work.tenant, url: &self.url, catalogue: &self.catalogue }
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
        tell_otherwise(removal);
        Ok(())
    }
}

/// What is held for the law is not deleted.
fn not_held(tenant: &Tenant) -> Result<(), Failure> {
    match &tenant.legal_hold {
        None => Ok(()),
        Some(reason) => Err(Failure::said(format!(
            "tenant {0} is under legal hold ({reason}), so nothing of it is deleted; pgward tenant release {0} lifts that",
            tenant.id
        ))),
    }
}

impl Work<'_> {
    async fn export(&self, export: &Export) -> Result<BTreeMap<String, u64>, Failure> {
        let Self { settings, administrator, cluster, tenant, seat, removal } = self;
        let place = Place::Live { administrator, cluster };
        let source = Source { place, tenant, seat, removal, as_of: None };
        let counts = Act::on_tenant(settings, Deed::ExportTenant, &tenant.id).recorded(export.run(&source)).await?;
        say(format_args!("exported {} to {}", tenant.id, export.folder().display()));
        Ok(counts)
    }

    async fn delete(&self, exported: Option<&BTreeMap<String, u64>>) -> Result<(), Failure> {
        restore::sweep(&self.seat, self.tenant).await?;
        if self.tenant.isolation != Isolation::Rows {
            return self.drop_all().await;
        }
        for (table, count) in self.removal.erase(&self.seat, exported).await? {
            say(format_args!("deleted {count} rows of {table}"));
        }
        Ok(())
    }

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
    pub async fn prove(&self) -> Result<Vec<Seen>, Failure> {
        let client = self.administrator.connect(database_of(self.tenant)).await?;
        let mut seen = self.removal.proof(&client).await?;
        seen.extend(restore::left_behind(&client, self.tenant).await?);
        let head = ["LOOKED FOR", "FOUND"];
        table(std::iter::once(head).chain(seen.iter().map(|seen| [seen.what.as_str(), seen.found.as_str()])).collect());
        if seen.iter().all(|seen| seen.sound) {
            return Ok(seen);
        }
        Err(Failure::said(format!(
            "something is left of tenant {0}; it stays suspended, and among the tenants. Run the same command again",
            self.tenant.id
        )))
    }
}
