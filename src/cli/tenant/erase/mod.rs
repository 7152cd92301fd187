//! A tenant disposed of, and a certificate of that.

mod certificate;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::super::record::{Act, Deed};
use super::remove::{DeletionArguments, Work};
use super::store::Store;
use super::{Failure, runtime};
use crate::base::clock;
use crate::cli::output::{say, warn};
use crate::config::{Isolation, Settings, Tenant};
use crate::sidecar::backup::{Site, kept_until};
use crate::sidecar::erasures::{Erasure, Erasures};
use crate::tenant::restore::{Shape, Within, prepare};
use certificate::{Backup, Certificate, Had, Repository};

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
        certificate::free(&file, &begun, &tenant.id)?;
        let work = self.deletion.begin(settings, tenant).await?;
        self.deletion.close(&work, store).await?;
        // What it had is noted before it goes; an earlier attempt may have done that, and gone on.
        let had = match certificate::noted(&begun, &tenant.id)? {
            Some(had) => had,
            None => {
                let had = had(&work).await?;
                certificate::note(&begun, &tenant.id, &had)?;
                had
            }
        };
        work.delete(None).await?;
        let seen = work.prove().await?;
        let site = site(settings, tenant)?;
        let certificate = Certificate {
            tenant,
            cluster: work.cluster,
            at: SystemTime::now(),
            had,
            seen,
            left: &self.deletion.leave,
            repositories: repositories(site.as_ref(), &work).await?,
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
        Ok(std::fs::remove_file(&begun)?)
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

/// Where the tenant is still to be found, and until when.
async fn repositories(site: Option<&Site>, work: &Work<'_>) -> Result<Vec<Repository>, Failure> {
    let holdings = match site {
        Some(site) => site.holdings().await?,
        None => Vec::new(),
    };
    let mut all = Vec::new();
    for (name, repository) in &work.cluster.repositories {
        let found = holdings.iter().find(|of| of.repository == *name);
        let unknown = match found {
            None => Some("pgward makes no backups there; whoever does must let go of them".to_owned()),
            Some(of) => of.trouble.clone(),
        };
        if let Some(why) = &unknown {
            warn(format_args!("which backups in repository {name} have the tenant is not known: {why}"));
        }
        let backups = site.zip(found).into_iter().flat_map(|(site, of)| {
            of.backups.iter().map(move |kept| Backup {
                label: kept.label.clone(),
                made: clock::timestamp(kept.stopped),
                kept_until: clock::timestamp(kept_until(site, kept, &of.backups)),
            })
        });
        let backups = backups.collect();
        all.push(Repository { name: name.to_string(), region: repository.region.to_string(), backups, unknown });
    }
    Ok(all)
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    file.with_file_name(name)
}
