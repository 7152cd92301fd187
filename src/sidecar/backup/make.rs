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
use crate::base::{ClusterName, RepositoryName, clock};
use crate::config::{BackupKind, Settings, Tier};

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
        let holdings = site.held(&numbered).await?;
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
    let newest = site.held(&numbered).await?.backups.into_iter().next_back();
    let kept = newest.ok_or_else(|| BackupError::NoBackup {
        cluster: site.cluster().name.clone(),
        wanted: format!("in repository {}, though one was just made", numbered.name),
    })?;
    Ok(Made { kept, took })
}

/// What postgresql.conf has to say for the log to be archived.
pub fn archive_command(site: &Site) -> String {
    format!("{} archive-push \"$PWD/%p\"", site.command_line())
}

/// The same as a line of it.
pub fn archive_setting(site: &Site) -> String {
    format!("archive_command = '{}'", archive_command(site).replace('\'', "''"))
}

/// Without the log after it no backup is whole.
async fn archiving(site: &Site, primary: &Primary) -> Result<(), BackupError> {
    let Some(unarchived) = Unarchived::of(site, &primary.client).await? else { return Ok(()) };
    let setting = archive_setting(site);
    let mend = match unarchived {
        Unarchived::Off => format!("set archive_mode = on and {setting} in postgresql.conf, and restart it"),
        Unarchived::Elsewhere => format!("set {setting} in postgresql.conf, and reload it"),
        Unarchived::Library => {
            format!("take archive_library out of postgresql.conf, set {setting} there, and reload it")
        }
    };
    let (cluster, what) = (site.cluster().name.clone(), unarchived.as_str().to_owned());
    Err(BackupError::Archiving { cluster, what, mend })
}

/// What was let go, and why more was not.
#[derive(Debug, Default)]
pub struct Pruned {
    pub gone: Vec<Kept>,
    /// Too old, but held for these tenants.
    pub held: Vec<Kept>,
    pub for_tenants: Vec<String>,
    /// What is wrong with a repository, of which not all that is too old is gone.
    pub failed: Option<BackupError>,
}

/// Lets go of what is too old, and of the log that nothing needs any more. The caller has the cluster's lock.
/// `now`: in Unix time. `dry`: only says what would go. What is wrong with one repository does not keep others.
pub async fn prune(site: &Site, now: u64, dry: bool, progress: &mut dyn Progress) -> Result<Pruned, BackupError> {
    let holdings = site.holdings().await?;
    let for_tenants = holds(site.settings(), &site.cluster().name);
    let mut pruned = Pruned { for_tenants, ..Pruned::default() };
    for (numbered, of) in site.repositories().into_iter().zip(holdings) {
        let of = match of.known(&site.cluster().name) {
            Ok(of) => of,
            Err(error) => {
                pruned.failed = Some(error);
                continue;
            }
        };
        let old: Vec<Kept> = tiers::expired(now, &site.rules().tiers, &of.backups).into_iter().cloned().collect();
        if !pruned.for_tenants.is_empty() {
            pruned.held.extend(old);
        } else if dry {
            pruned.gone.extend(old);
        } else if let Err(error) = let_go(site, numbered, (now, &of, old), &mut pruned.gone, progress).await {
            pruned.failed = Some(error);
        }
    }
    Ok(pruned)
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
pub fn holds(settings: &Settings, cluster: &ClusterName) -> Vec<String> {
    let here = settings.tenants.values().filter(|tenant| tenant.cluster == *cluster);
    if settings.catalogue.as_ref().is_some_and(|catalogue| catalogue.snapshot.cached) {
        return vec!["tenants that are not known, since the catalogue could not be read".to_owned()];
    }
    let mut held: Vec<String> =
        here.filter(|tenant| tenant.legal_hold.is_some()).map(|tenant| tenant.id.to_string()).collect();
    held.sort();
    held
}

/// Whether anybody makes a backup at the moment: pgward, which has its lock until that is in its repository; others by
/// pgBackRest, as its sessions are called; or somebody by pg_basebackup. `client`: to the primary.
pub async fn being_made(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let sql = "select exists (select from pg_catalog.pg_locks where locktype = 'advisory' \
                   and classid::pg_catalog.int8 = $1 and objid::pg_catalog.int8 = $2) \
               or exists (select from pg_catalog.pg_stat_activity where application_name like 'pgBackRest [backup%') \
               or exists (select from pg_catalog.pg_stat_progress_basebackup)";
    let (classid, objid) = (i64::from(ADVISORY.0), i64::from(ADVISORY.1));
    Ok(client.query_one(sql, &[&classid, &objid]).await?.get(0))
}

/// Until when each backup is kept, by Unix time.
pub fn kept_until(site: &Site, kept: &Kept, all: &[Kept]) -> u64 {
    tiers::kept_until(kept, &site.rules().tiers, all)
}
