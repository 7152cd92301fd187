//! A region is lost: what is gone, what is left, and how long it takes to have the rest back. What has to come from a
//! backup is restored on a scratch server, from a repository in another region, as it would be.

mod page;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::error::BackupError;
use super::finding::{Finding, Severity};
use super::pgbackrest::Progress;
use super::recorded::recorded;
use super::reports::{self, as_seconds};
use super::scratch::Scratch;
use super::site::Site;
use super::target::{Target, Wanted};
use super::verify::{self, Against, Rto, Trial, Verified};
use crate::base::{Region, RepositoryName, causes, clock};
use crate::config::{Cluster, ServerRole, Settings, Tenant};
use crate::residency;

/// What came of a drill.
#[derive(Debug, Serialize)]
pub struct Drilled {
    /// The region that is lost.
    pub region: String,
    pub at: String,
    /// Everything can be had back.
    pub sound: bool,
    pub lost_nodes: Vec<String>,
    pub nodes_left: Vec<String>,
    pub clusters: Vec<ClusterDrill>,
    pub findings: Vec<Finding>,
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    pub took: Duration,
}

#[derive(Debug, Serialize)]
pub struct ClusterDrill {
    pub cluster: String,
    pub fate: Fate,
    pub lost_servers: Vec<String>,
    pub servers_left: Vec<String>,
    pub lost_repositories: Vec<String>,
    pub repositories_left: Vec<String>,
    pub tenants: Vec<TenantDrill>,
    /// `None`: there was nothing to rehearse, or nothing to do it with.
    pub rehearsal: Option<Rehearsal>,
}

/// What the loss of the region does to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The primary is elsewhere.
    Stays,
    /// A replica elsewhere takes over, for tenants that it may serve.
    FailsOver,
    /// It comes back from a backup, or not at all.
    Restored,
}

#[derive(Debug, Serialize)]
pub struct TenantDrill {
    pub tenant: String,
    /// By what: `server NAME`, `repository NAME`. `None`: not at all, while the region is lost.
    pub by: Option<String>,
    pub rto_seconds: Option<f64>,
    pub rpo_seconds: Option<f64>,
}

/// A recovery that was carried out.
#[derive(Debug, Serialize)]
pub struct Rehearsal {
    pub repository: String,
    pub region: String,
    pub backup: String,
    pub rto: Rto,
    /// The newest commit that came back.
    pub newest_commit: Option<String>,
    /// What is lost, at most: how long before the drill the repository's archive ended.
    pub rpo_seconds: Option<f64>,
    /// What is wrong with the log, or was not compared.
    pub findings: Vec<Finding>,
    /// The same repository's backup beside the recorded baseline.
    pub verified: Option<Verified>,
}

/// Where there are servers, or nodes.
pub fn regions(settings: &Settings) -> Vec<Region> {
    let servers = settings.clusters.values().flat_map(|cluster| cluster.all_servers()).map(|server| &server.region);
    let nodes = settings.nodes.values().map(|node| &node.region);
    let mut regions: Vec<Region> = servers.chain(nodes).cloned().collect();
    regions.sort();
    regions.dedup();
    regions
}

/// Rehearses the loss of one region. Each cluster is locked while it is its turn.
pub async fn drill(
    settings: &Arc<Settings>,
    region: &Region,
    progress: &mut dyn Progress,
) -> Result<Drilled, BackupError> {
    let begin = Instant::now();
    let (lost, left): (Vec<_>, Vec<_>) = settings.nodes.values().partition(|node| node.region == *region);
    let names = |nodes: Vec<&Arc<crate::config::Node>>| nodes.iter().map(|node| node.name.to_string()).collect();
    let mut drilled = Drilled {
        region: region.to_string(),
        at: clock::rfc3339(SystemTime::now()),
        sound: false,
        lost_nodes: names(lost),
        nodes_left: names(left),
        clusters: Vec::new(),
        findings: Vec::new(),
        took: Duration::ZERO,
    };
    for cluster in settings.clusters.values() {
        let loss = Loss::of(settings, cluster, region);
        let found = loss.rehearse(settings, progress, &mut drilled.findings).await;
        drilled.clusters.push(found);
    }
    drilled.findings.extend(unserved(settings, region));
    drilled.findings.sort();
    drilled.sound = drilled.findings.iter().all(|finding| finding.severity != Severity::Danger);
    drilled.took = begin.elapsed();
    for cluster in drilled.clusters.iter().filter(|cluster| cluster.rehearsal.is_some()) {
        if let Some((name, _)) = settings.clusters.iter().find(|(name, _)| name.as_str() == cluster.cluster) {
            reports::write(&Site::open(settings, name)?, "drill", &drilled.at, &drilled)?;
        }
    }
    Ok(drilled)
}

/// Tenants that no pgward is left for, where nodes are configured.
fn unserved(settings: &Settings, region: &Region) -> Vec<Finding> {
    if settings.nodes.is_empty() {
        return Vec::new();
    }
    let left = |tenant: &Tenant| {
        let mut nodes = settings.nodes_in(&tenant.regions, &tenant.home);
        nodes.any(|node| node.region != *region)
    };
    let unserved = settings.tenants.values().filter(|tenant| !left(tenant));
    let finding = |tenant: &Arc<Tenant>| {
        let text =
            format!("no node is left that may serve tenant {}: its regions have none besides {region}", tenant.id);
        Finding::danger("no_node_left", text).of(tenant.id.as_str())
    };
    unserved.map(finding).collect()
}

/// What a cluster loses with a region.
struct Loss<'a> {
    cluster: &'a Arc<Cluster>,
    region: &'a Region,
    fate: Fate,
    tenants: Vec<&'a Arc<Tenant>>,
}

impl<'a> Loss<'a> {
    fn of(settings: &'a Settings, cluster: &'a Arc<Cluster>, region: &'a Region) -> Self {
        let tenants: Vec<_> = settings.tenants.values().filter(|tenant| tenant.cluster == cluster.name).collect();
        let mut loss = Self { cluster, region, fate: Fate::Stays, tenants };
        let mut primaries = cluster.all_servers().filter(|server| server.role == ServerRole::Primary);
        let primaries_lost = primaries.all(|server| server.region == *region);
        // Also where only Patroni knows the servers: then all may be there.
        let none_left = loss.servers(false).next().is_none();
        let no_takeover = loss.tenants.iter().any(|tenant| loss.takes_over(tenant).is_none());
        loss.fate = match (none_left, primaries_lost) {
            (true, _) => Fate::Restored,
            (false, true) if no_takeover => Fate::Restored,
            (false, true) => Fate::FailsOver,
            (false, false) => Fate::Stays,
        };
        loss
    }

    fn servers(&self, lost: bool) -> impl Iterator<Item = &'a Arc<crate::config::Server>> + use<'a> {
        let region = self.region;
        self.cluster.all_servers().filter(move |server| (server.region == *region) == lost)
    }

    fn repositories(&self, lost: bool) -> impl Iterator<Item = (&'a RepositoryName, &'a crate::config::Repository)> {
        let region = self.region;
        self.cluster.repositories.iter().filter(move |(_, repository)| (repository.region == *region) == lost)
    }

    /// A server elsewhere that may serve the tenant.
    fn takes_over(&self, tenant: &Tenant) -> Option<&'a Arc<crate::config::Server>> {
        self.servers(false).find(|server| residency::allows(&tenant.regions, &server.region))
    }

    async fn rehearse(
        &self,
        settings: &Arc<Settings>,
        progress: &mut dyn Progress,
        findings: &mut Vec<Finding>,
    ) -> ClusterDrill {
        let name = &self.cluster.name;
        let mut rehearsal = None;
        if self.fate == Fate::Restored {
            progress.step(&format!("cluster {name}: rehearsing its recovery without region {}", self.region));
            match self.recover(settings, progress).await {
                Ok(found) => rehearsal = Some(found),
                Err(found) => findings.extend(found),
            }
        }
        if let Some(rehearsal) = &rehearsal {
            let verified = rehearsal.verified.iter().flat_map(|verified| &verified.findings);
            findings.extend(rehearsal.findings.iter().chain(verified).cloned().map(|finding| {
                let text = format!("cluster {name}: {}", finding.text);
                Finding { text, ..finding }
            }));
        }
        let tenants: Vec<TenantDrill> =
            self.tenants.iter().map(|tenant| self.tenant(tenant, rehearsal.as_ref(), findings)).collect();
        let strings = |servers: Vec<&Arc<crate::config::Server>>| {
            servers.iter().map(|server| format!("{} ({})", server.name, server.region)).collect()
        };
        let places = |lost| {
            self.repositories(lost).map(|(name, repository)| format!("{name} ({})", repository.region)).collect()
        };
        ClusterDrill {
            cluster: name.to_string(),
            fate: self.fate,
            lost_servers: strings(self.servers(true).collect()),
            servers_left: strings(self.servers(false).collect()),
            lost_repositories: places(true),
            repositories_left: places(false),
            tenants,
            rehearsal,
        }
    }

    /// From the first repository elsewhere that it works from; what keeps the others from it is a finding only when none
    /// does.
    async fn recover(&self, settings: &Arc<Settings>, progress: &mut dyn Progress) -> Result<Rehearsal, Vec<Finding>> {
        let (name, region) = (&self.cluster.name, self.region);
        let danger = |kind, text: String| Finding::danger(kind, text).of(name.as_str());
        let kept: BTreeMap<_, _> = self.repositories(false).filter(|(_, kept)| kept.store.is_some()).collect();
        if kept.is_empty() {
            let text = format!(
                "cluster {name} cannot be recovered: it has no repository outside of region {region} that pgward keeps \
                 backups in (clusters.{name}.repositories)"
            );
            return Err(vec![danger("no_repository_left", text)]);
        }
        let (site, _lock) =
            match Site::open(settings, name).and_then(|site| Ok((site.lock("pgward backup drill")?, site))) {
                Ok((lock, site)) => (site, lock),
                Err(error) => return Err(vec![danger("not_rehearsed", format!("cluster {name}: {}", causes(&error)))]),
            };
        let mut findings = Vec::new();
        for repository in kept.keys() {
            match rehearse_from(&site, repository, progress).await {
                Ok(rehearsal) => return Ok(rehearsal),
                Err(error) => {
                    let text =
                        format!("cluster {name} cannot be recovered from repository {repository}: {}", causes(&error));
                    findings.push(danger("not_recovered", text));
                }
            }
        }
        Err(findings)
    }

    fn tenant(&self, tenant: &Tenant, rehearsal: Option<&Rehearsal>, findings: &mut Vec<Finding>) -> TenantDrill {
        let name = tenant.id.to_string();
        let (mut rto_seconds, mut rpo_seconds) = (None, None);
        let by = match self.fate {
            Fate::Stays | Fate::FailsOver => {
                self.takes_over(tenant).map(|server| format!("server {} ({})", server.name, server.region))
            }
            Fate::Restored => rehearsal.map(|rehearsal| {
                rto_seconds = Some(reports::seconds(rehearsal.rto.total));
                rpo_seconds = rehearsal.rpo_seconds;
                format!("repository {} ({})", rehearsal.repository, rehearsal.region)
            }),
        };
        let elsewhere = tenant.regions.iter().any(|region| region != self.region);
        if self.fate != Fate::Stays && !elsewhere {
            let text = format!(
                "the data of tenant {name} may be in region {} only: it is not there until that region is back",
                self.region
            );
            findings.push(Finding::danger("tenant_confined", text).of(&name));
            return TenantDrill { tenant: name, by: None, rto_seconds: None, rpo_seconds: None };
        }
        if by.is_none() {
            let text = format!("tenant {name} cannot be served while region {} is lost", self.region);
            findings.push(Finding::danger("tenant_lost", text).of(&name));
        }
        TenantDrill { tenant: name, by, rto_seconds, rpo_seconds }
    }
}

/// Restores the latest there is, as one would; then what the baseline can be compared with.
async fn rehearse_from(
    site: &Site,
    repository: &RepositoryName,
    progress: &mut dyn Progress,
) -> Result<Rehearsal, BackupError> {
    let archive_age = archive_age(site).await;
    let lost_at = SystemTime::now();
    let wanted = Wanted::archived(Some(repository.clone()), None, Target::End);
    let scratch = Scratch::restore(site, &wanted, progress).await?;
    let (took, newest) = (scratch.took(), scratch.recovered().last_commit);
    let backup = scratch.backup().label.clone();
    let mut findings: Vec<Finding> = verify::log_end(site, &scratch).await?.1.into_iter().collect();
    verify::remove(scratch).await;
    let since_newest = newest.and_then(|newest| lost_at.duration_since(newest).ok()).map(reports::seconds);
    // Whichever is less is true: nothing may have been written for long, or nothing archived since.
    let rpo_seconds = match (archive_age, since_newest) {
        (Some(age), Some(since)) => Some(age.min(since)),
        (age, since) => age.or(since),
    };
    let verified = match recorded(site).next() {
        Some(_) => {
            let (repository, set) = (Some(repository.clone()), None);
            let trial = Trial { repository, set, against: Against::Recorded, files: false };
            Some(verify::verify(site, &trial, progress).await?)
        }
        None => {
            let text =
                "no baseline is recorded, so what came back was not compared; `pgward backup verify` records one";
            findings.push(Finding::warning("not_compared", text));
            None
        }
    };
    let region = site.stores().get(repository).map(|kept| kept.region.to_string()).unwrap_or_default();
    Ok(Rehearsal {
        repository: repository.to_string(),
        region,
        backup,
        rto: Rto { restore: took.restore, replay: took.replay, total: took.restore + took.replay },
        newest_commit: newest.map(clock::rfc3339),
        rpo_seconds,
        findings,
        verified,
    })
}

/// How long ago the archive got its last segment, where the primary is there to say so.
async fn archive_age(site: &Site) -> Option<f64> {
    let client = site.primary().await.ok()?.client;
    let sql = "select extract(epoch from pg_catalog.clock_timestamp() - last_archived_time)::float8 \
               from pg_catalog.pg_stat_archiver";
    let age: Option<f64> = client.query_one(sql, &[]).await.ok()?.try_get(0).ok()?;
    age.map(|age| (age * 1_000.0).round() / 1_000.0)
}
