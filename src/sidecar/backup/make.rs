//! Making a backup, and letting go of those that are too old.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::conf::Numbered;
use super::error::BackupError;
use super::info::{Holdings, Kept, TIER};
use super::pgbackrest::Progress;
use super::site::{Primary, Site};
use super::tiers;
use super::watch::Unarchived;
use crate::base::{RepositoryName, clock};
use crate::config::{BackupKind, Tier};

/// Which backup is to be made.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// `None`: all that the tier goes to.
    pub repository: Option<RepositoryName>,
    /// `None`: the tier's, and without a tier what has changed since the last full one.
    pub kind: Option<BackupKind>,
    /// What it is kept as. `None`: where the type is left open too, as the tier that is due in the repository, if one is.
    pub tier: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub kept: Kept,
    pub took: Duration,
}

/// The lock that keeps two pgwards on two machines from backing up one cluster: `pgward` and `back`, in ASCII.
const ADVISORY: (i32, i32) = (0x7067_7761, 0x6261_636b);

/// Makes one backup in each repository that is meant. The caller has the cluster's lock.
pub async fn make(site: &Site, order: &Order, progress: &mut dyn Progress) -> Result<Vec<Made>, BackupError> {
    let targets = targets(site, order)?;
    let primary = site.primary().await?;
    alone(site, &primary.client).await?;
    archiving(site, &primary).await?;
    let mut made = Vec::new();
    for (numbered, tier) in targets {
        made.push(make_in(site, &primary, numbered, (order, tier), progress).await?);
    }
    Ok(made)
}

/// As long as the connection lasts.
async fn alone(site: &Site, client: &Client) -> Result<(), BackupError> {
    let sql = "select pg_catalog.pg_try_advisory_lock($1, $2)";
    let row = client.query_one(sql, &[&ADVISORY.0, &ADVISORY.1]).await.map_err(site.sql("lock backups"))?;
    if row.get(0) { Ok(()) } else { Err(BackupError::BusyElsewhere(site.cluster().name.clone())) }
}

fn targets<'a>(site: &'a Site, order: &Order) -> Result<Vec<(Numbered<'a>, Option<&'a Tier>)>, BackupError> {
    let tier = order.tier.as_deref().map(|name| site.tier(name)).transpose()?;
    let named = match &order.repository {
        Some(name) => vec![site.repository(name)?],
        None => site.repositories(),
    };
    let meant = named.into_iter().filter(|numbered| tier.is_none_or(|tier| tier.goes_to(numbered.name)));
    let targets: Vec<_> = meant.map(|numbered| (numbered, tier)).collect();
    if targets.is_empty() {
        return Err(BackupError::NotOfTier { tier: order.tier.clone().unwrap_or_default() });
    }
    Ok(targets)
}

async fn make_in(
    site: &Site,
    primary: &Primary,
    numbered: Numbered<'_>,
    (order, tier): (&Order, Option<&Tier>),
    progress: &mut dyn Progress,
) -> Result<Made, BackupError> {
    let mut name = order.tier.clone();
    let mut kind = order.kind.or_else(|| tier.map(|tier| tier.kind));
    if name.is_none() && kind.is_none() {
        let holdings = held(site, numbered.name).await?;
        let due = tiers::due(clock::unix_now(), &site.rules().tiers, numbered.name, &holdings.backups);
        (name, kind) = due.map(|(name, tier)| (name.to_string(), tier.kind)).unzip();
    }
    let kind = kind.unwrap_or(BackupKind::Differential);
    let mut options = vec![format!("--repo={}", numbered.number), format!("--type={}", kind.as_str())];
    options.extend(name.as_ref().map(|tier| format!("--annotation={TIER}={tier}")));
    // What is too old goes when pgward says so.
    options.push("--no-expire-auto".to_owned());
    progress.step(&format!(
        "{} backup of cluster {} into repository {}",
        kind.as_str(),
        site.cluster().name,
        numbered.name
    ));
    let begin = Instant::now();
    site.pgbackrest_at(primary)?.run("backup", &options, progress).await?;
    let took = begin.elapsed();
    let newest = held(site, numbered.name).await?.backups.into_iter().next_back();
    let kept = newest.ok_or_else(|| BackupError::NoBackup {
        cluster: site.cluster().name.clone(),
        wanted: format!("in repository {}, though one was just made", numbered.name),
    })?;
    Ok(Made { kept, took })
}

/// What one repository has. An error, if that cannot be known.
async fn held(site: &Site, name: &RepositoryName) -> Result<Holdings, BackupError> {
    let found = site.holdings().await?.into_iter().find(|of| of.repository == *name);
    match found {
        Some(Holdings { trouble: Some(trouble), repository, .. }) => {
            Err(BackupError::Repository { cluster: site.cluster().name.clone(), repository, trouble })
        }
        Some(of) => Ok(of),
        None => Err(BackupError::Repository {
            cluster: site.cluster().name.clone(),
            repository: name.clone(),
            trouble: "pgbackrest says nothing of it".to_owned(),
        }),
    }
}

/// What postgresql.conf has to say for the log to be archived.
pub fn archive_command(site: &Site) -> String {
    format!("{} archive-push \"$PWD/%p\"", site.command_line())
}

/// Without the log after it no backup is whole.
async fn archiving(site: &Site, primary: &Primary) -> Result<(), BackupError> {
    let Some(unarchived) = Unarchived::of(site, &primary.client).await? else { return Ok(()) };
    let command = archive_command(site).replace('\'', "''");
    let mend = match unarchived {
        Unarchived::Off => {
            format!("set archive_mode = on and archive_command = '{command}' in postgresql.conf, and restart it")
        }
        Unarchived::Elsewhere => format!("set archive_command = '{command}' in postgresql.conf, and reload it"),
    };
    let (cluster, what) = (site.cluster().name.clone(), unarchived.as_str().to_owned());
    Err(BackupError::Archiving { cluster, what, mend })
}

/// What was let go, and why more was not.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pruned {
    pub gone: Vec<Kept>,
    /// Too old, but held for these tenants.
    pub held: Vec<Kept>,
    pub for_tenants: Vec<String>,
}

/// Lets go of what is too old, and of the log that nothing needs any more. The caller has the cluster's lock.
/// `now`: in Unix time. `dry`: only says what would go. What is wrong with one repository is told when the others are done.
pub async fn prune(site: &Site, now: u64, dry: bool, progress: &mut dyn Progress) -> Result<Pruned, BackupError> {
    let holdings = site.holdings().await?;
    let mut pruned = Pruned { for_tenants: holds(site), ..Pruned::default() };
    let mut failed = None;
    for (numbered, of) in site.repositories().into_iter().zip(holdings) {
        if let Some(trouble) = of.trouble {
            let (cluster, repository) = (site.cluster().name.clone(), of.repository);
            failed = Some(BackupError::Repository { cluster, repository, trouble });
            continue;
        }
        let old: Vec<Kept> = tiers::expired(now, &site.rules().tiers, &of.backups).into_iter().cloned().collect();
        if !pruned.for_tenants.is_empty() {
            pruned.held.extend(old);
        } else if dry {
            pruned.gone.extend(old);
        } else if let Err(error) = let_go(site, numbered, (now, &of, old), &mut pruned.gone, progress).await {
            failed = Some(error);
        }
    }
    failed.map_or(Ok(pruned), Err)
}

async fn let_go(
    site: &Site,
    numbered: Numbered<'_>,
    (now, of, old): (u64, &Holdings, Vec<Kept>),
    gone: &mut Vec<Kept>,
    progress: &mut dyn Progress,
) -> Result<(), BackupError> {
    let Numbered { number, name, .. } = numbered;
    let pgbackrest = site.pgbackrest()?;
    for kept in old {
        progress.step(&format!("letting go of backup {} in repository {name}", kept.label));
        let options = [format!("--repo={number}"), format!("--set={}", kept.label)];
        pgbackrest.run("expire", &options, progress).await?;
        gone.push(kept);
    }
    let left: Vec<Kept> = of.backups.iter().filter(|kept| !gone.contains(kept)).cloned().collect();
    if left.iter().any(|kept| kept.kind == BackupKind::Full) {
        let keep = tiers::full_with_log(now, &site.rules().tiers, name, &left);
        let options = [
            format!("--repo={number}"),
            format!("--repo{number}-retention-archive-type=full"),
            format!("--repo{number}-retention-archive={keep}"),
        ];
        pgbackrest.run("expire", &options, progress).await?;
    }
    Ok(())
}

/// Tenants of the cluster whose data may not be disposed of.
fn holds(site: &Site) -> Vec<String> {
    let here = site.settings().tenants.values().filter(|tenant| tenant.cluster == site.cluster().name);
    if site.settings().catalogue.as_ref().is_some_and(|catalogue| catalogue.snapshot.cached) {
        return vec!["tenants that are not known, since the catalogue could not be read".to_owned()];
    }
    let mut held: Vec<String> =
        here.filter(|tenant| tenant.legal_hold.is_some()).map(|tenant| tenant.id.to_string()).collect();
    held.sort();
    held
}

/// Until when each backup is kept, by Unix time.
pub fn kept_until(site: &Site, kept: &Kept, all: &[Kept]) -> u64 {
    tiers::kept_until(kept, &site.rules().tiers, all)
}
