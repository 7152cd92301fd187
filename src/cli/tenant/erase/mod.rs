//! A tenant disposed of, and a certificate of that.

mod certificate;
mod remains;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::super::record::{Act, Deed};
use super::files::beside;
use super::remove::{DeletionArguments, Work};
use super::store::Store;
use super::{Failure, runtime};
use crate::base::clock;
use crate::cli::output::{say, warn};
use crate::config::{Isolation, Settings, Tenant};
use crate::sidecar::backup::Site;
use crate::sidecar::erasures::{Erasure, Erasures};
use crate::tenant::restore::{Shape, Within, prepare};
use certificate::{Certificate, Had};
use remains::Remains;

/// Erase a tenant with all that it has, and write a certificate of it
///
/// As `remove` without an export, and recorded: what there was and where, that nothing was found afterwards, which backups
/// still have it, and until when. Interrupted or failed, the same command again goes on where it ended.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    deletion: DeletionArguments,

    /// The file that the certificate goes to, as JSON; FILE.txt beside it says the same for people
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.deletion.tenant.config.load()?;
    let (mut store, tenant) = arguments.deletion.doomed(&settings)?;
    let act = Act::on_tenant(&settings, Deed::EraseTenant, &tenant.id);
    runtime()?.block_on(act.recorded(arguments.erase(&settings, &mut store, &tenant)))?;
    let file = arguments.certificate.display();
    say(format_args!("tenant {} is erased, and no longer in {}; {file} certifies it", tenant.id, store.place()));
    Ok(())
}

impl Arguments {
    async fn erase(&self, settings: &Settings, store: &mut Store, tenant: &Tenant) -> Result<(), Failure> {
        let file = std::path::absolute(&self.certificate)?;
        let begun = beside(&file, "begun");
        let noted = self.noted(&file, &begun, tenant)?;
        let site = site(settings, tenant)?;
        if let Some(site) = &site {
            // What cannot be asked or noted now could not be when the tenant is gone.
            site.holdings().await?;
            Erasures::of(site.folder()).open()?;
        }
        let work = self.deletion.begin(settings, tenant).await?;
        self.deletion.close(&work, store).await?;
        let had = match (noted, work.removal.has_data(&work.seat).await?) {
            (Some(noted), false) => noted,
            (_, there) => {
                // It may be there again, or be another of that name by now: what is there goes, and is what it had.
                if there {
                    certificate::free(&file)?;
                }
                let had = had(&work).await?;
                certificate::note(&begun, tenant, &had)?;
                had
            }
        };
        self.deletion.delete(&work, None).await?;
        let seen = work.prove().await?;
        let remains = Remains::find(&self.deletion.tenant.config.load_now().await?, site.as_ref(), &work).await?;
        let certificate = Certificate {
            tenant,
            cluster: work.cluster,
            at: SystemTime::now(),
            had,
            seen,
            left: &self.deletion.leave,
            gone: remains.gone(),
            repositories: remains.repositories,
        };
        let sha256 = certificate.write(&file)?;
        if let Some(site) = &site {
            let erasure = Erasure {
                tenant: tenant.id.to_string(),
                at: clock::rfc3339(certificate.at),
                isolation: tenant.isolation.as_str().to_owned(),
                database: tenant.database.clone(),
                sha256,
            };
            Erasures::of(site.folder()).add(&erasure)?;
        }
        self.deletion.take_out(&work, store).await?;
        if let Err(error) = std::fs::remove_file(&begun) {
            let begun = begun.display();
            warn(format_args!("{begun} is of no use any more, and cannot be removed: {error}; remove it"));
        }
        Ok(())
    }

    /// What an earlier attempt has noted. An erasure leaves the tenant suspended until it is done: of one that is not, the
    /// note is of another erasure, which this one is not to take the place of.
    fn noted(&self, file: &Path, begun: &Path, tenant: &Tenant) -> Result<Option<Vec<Had>>, Failure> {
        let noted = certificate::noted(begun, tenant)?.filter(|_| tenant.suspended);
        if noted.is_none() {
            certificate::free(file)?;
        }
        Ok(noted)
    }
}

/// `None`: pgward makes no backups of the cluster.
fn site(settings: &Settings, tenant: &Tenant) -> Result<Option<Site>, Failure> {
    if !Site::clusters(settings).any(|name| *name == tenant.cluster) {
        return Ok(None);
    }
    Ok(Some(Site::open(&Arc::new(settings.clone()), &tenant.cluster)?))
}

/// What the tenant has, with its rows counted.
async fn had(work: &Work<'_>) -> Result<Vec<Had>, Failure> {
    let tenant = work.tenant;
    if tenant.isolation == Isolation::Rows {
        let counts = work.removal.snapshot(&work.seat).await?;
        work.seat.batch_execute("commit").await?;
        let tables = work.removal.tables().iter().zip(counts);
        return Ok(tables.map(|(table, rows)| Had { what: format!("rows of {}", table.label()), rows }).collect());
    }
    if !work.removal.has_data(&work.seat).await? {
        return Ok(Vec::new());
    }
    let client = work.administrator.connect(&tenant.database).await?;
    prepare(&client).await?;
    let schema = tenant.search_path.first().map_or("", String::as_str);
    let within = if tenant.isolation == Isolation::Schema { Within::Schema(schema) } else { Within::Database };
    let mut all = Vec::new();
    for shape in Shape::all(&client, within).await? {
        let row = client.query_one(&format!("select count(*) from {}", shape.table()), &[]).await?;
        let rows = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        all.push(Had { what: format!("table {}", shape.label()), rows });
    }
    Ok(all)
}
