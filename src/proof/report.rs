//! The report: for each tenant where its data is and what it was served by, and what is wrong with it. A pure function of the
//! configuration, of the servers as they were found and of the audit logs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::classified::ClassifiedDatabase;
use super::finding::{Finding, Severity};
use super::history::{Counted, History, Log, Passed, Past, Refused, Served, Way};
use super::standing::{self, NodeStanding, Standing, names};
use crate::base::{ClusterName, Region};
use crate::config::{Cluster, Node, Settings, Tenant};
use crate::residency;
use crate::topology::{Look, ServerView};

/// What was found, to be reported on.
#[derive(Debug)]
pub struct Found<'a> {
    pub settings: &'a Settings,
    pub looks: &'a BTreeMap<ClusterName, Look>,
    /// Of the tenants that are asked for.
    pub history: History,
    /// Whether there is a log to be read at all.
    pub audited: bool,
    pub classified: Option<Vec<ClassifiedDatabase>>,
    /// RFC 3339, and so is `since`.
    pub made: String,
    pub since: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    pub made: String,
    pub since: Option<String>,
    /// Nothing dangerous was found.
    pub sound: bool,
    pub findings: Vec<Finding>,
    pub logs: Vec<Log>,
    pub clusters: Vec<ClusterStanding>,
    /// `None`: that was not asked for.
    pub classified: Option<Vec<ClassifiedDatabase>>,
    pub tenants: Vec<TenantReport>,
}

#[derive(Debug, Serialize)]
pub struct ClusterStanding {
    pub cluster: String,
    pub servers: Vec<Standing>,
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct TenantReport {
    pub tenant: String,
    /// `None`: the configuration does not have the tenant, or not any more.
    pub place: Option<Place>,
    pub served: Vec<ServedRow>,
    pub forwarded: Vec<PassedRow>,
    pub refusals: Vec<RefusedRow>,
    pub grants: Vec<GrantRow>,
    pub break_glass: Vec<EntryRow>,
    pub administration: Vec<ActRow>,
}

/// Where a tenant's data is.
#[derive(Debug, Serialize)]
pub struct Place {
    pub home: String,
    pub regions: Vec<String>,
    pub isolation: &'static str,
    pub suspended: bool,
    pub cluster: String,
    pub database: String,
    pub servers: Vec<Holding>,
    pub nodes: Vec<NodeStanding>,
    /// Where they are kept, as the configuration says.
    pub backups: Vec<Repository>,
}

/// A place where backups of the tenant's cluster are kept.
#[derive(Debug, Serialize)]
pub struct Repository {
    pub repository: String,
    pub region: String,
    pub allowed: bool,
}

/// A server of the tenant's cluster: PostgreSQL replicates clusters as a whole.
#[derive(Debug, Serialize)]
pub struct Holding {
    #[serde(flatten)]
    pub standing: Standing,
    /// Whether it may serve the tenant.
    pub allowed: bool,
}

#[derive(Debug, Serialize)]
pub struct ServedRow {
    #[serde(flatten)]
    pub way: Way,
    #[serde(flatten)]
    pub served: Served,
    /// As the configuration says now.
    pub allowed: bool,
}

#[derive(Debug, Serialize)]
pub struct RefusedRow {
    #[serde(flatten)]
    pub refused: Refused,
    #[serde(flatten)]
    pub counted: Counted,
}

#[derive(Debug, Serialize)]
pub struct PassedRow {
    #[serde(flatten)]
    pub passed: Passed,
    #[serde(flatten)]
    pub counted: Counted,
}

#[derive(Debug, Serialize)]
pub struct GrantRow {
    pub grant: Option<String>,
    pub purpose: Option<String>,
    #[serde(flatten)]
    pub counted: Counted,
}

#[derive(Debug, Serialize)]
pub struct EntryRow {
    pub subject: Option<String>,
    #[serde(flatten)]
    pub counted: Counted,
}

#[derive(Debug, Serialize)]
pub struct ActRow {
    pub act: Option<String>,
    pub outcome: Option<String>,
    #[serde(flatten)]
    pub counted: Counted,
}

impl Report {
    /// `tenants`: those that are asked for; all that the configuration or a log knows where there are none.
    pub fn new(found: Found<'_>, tenants: &[String]) -> Self {
        let Found { settings, looks, mut history, audited, classified, made, since } = found;
        let mut findings = std::mem::take(&mut history.findings);
        findings.extend(unlogged(settings, &history, audited));
        let wanted: BTreeSet<String> = match tenants {
            [] => {
                let known = settings.tenants.keys().map(ToString::to_string);
                known.chain(history.tenants.keys().cloned()).collect()
            }
            some => some.iter().cloned().collect(),
        };
        let (mut reports, mut configured) = (Vec::new(), Vec::new());
        for name in wanted {
            let past = history.tenants.remove(&name).unwrap_or_default();
            let tenant = settings.tenants.get(name.as_str()).map(AsRef::as_ref);
            let look = tenant.and_then(|tenant| looks.get(&tenant.cluster));
            for (way, served) in &past.served {
                findings.extend(nowhere(settings, &name, way, served).map(|finding| finding.of(&name)));
                let ends = ends((settings, looks), way, served);
                let found = ends.iter().flat_map(|end| outside(&name, tenant, served, end));
                findings.extend(found.map(|finding| finding.of(&name)));
            }
            configured.extend(tenant);
            reports.push(TenantReport::new(settings, name, tenant, look, past));
        }
        let clusters: Vec<ClusterStanding> = looks.iter().map(|(name, look)| ClusterStanding::of(name, look)).collect();
        findings.extend(copies(&configured, looks));
        findings.extend(clusters.iter().flat_map(ClusterStanding::findings));
        findings.extend(classified.iter().flatten().flat_map(ClassifiedDatabase::findings));
        findings.sort();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            made,
            since,
            sound: findings.iter().all(|finding| finding.severity != Severity::Danger),
            findings,
            logs: history.logs,
            clusters,
            classified,
            tenants: reports,
        }
    }

    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Whose doings no log tells of.
fn unlogged(settings: &Settings, history: &History, audited: bool) -> Vec<Finding> {
    if !audited {
        let text = "there is no audit log (no table [audit], and no --audit): nothing shows what served whom";
        return vec![Finding::danger("log_missing", text.to_owned())];
    }
    let missing = settings.nodes.values().filter(|node| !history.nodes.contains(node.name.as_str()));
    let finding = |node: &Arc<Node>| {
        let (name, region) = (&node.name, &node.region);
        let text = format!(
            "no log of node {name} (region {region}) is given: what it served is not in this report; give it with --audit"
        );
        Finding::danger("log_missing", text)
    };
    missing.map(finding).collect()
}

/// One end of a way by which a tenant was served.
struct End<'a> {
    kind: &'static str,
    how: String,
    region: &'a str,
    /// Lines by which it was where it could not be then.
    outside: u64,
    /// Where it is by the configuration.
    configured: Option<&'a Region>,
}

fn ends<'a>(found: (&'a Settings, &'a BTreeMap<ClusterName, Look>), way: &'a Way, served: &Served) -> Vec<End<'a>> {
    let (settings, looks) = found;
    let Way { cluster, server, region, node, node_region, grant, .. } = way;
    let [at_server, at_node] = served.outside;
    let look = looks.get(cluster.as_str());
    let known = look.and_then(|look| look.cluster.all_servers().find(|known| known.name.as_str() == server));
    let configured = known.map(|server| &server.region);
    let how = format!("by server {server} of cluster {cluster}");
    let mut ends = vec![End { kind: "served_outside", how, region, outside: at_server, configured }];
    // A grant's limits are looked after where it is made use of, and its uses are told apart.
    if let Some(region) = node_region.as_ref().filter(|_| grant.is_none()) {
        let how = node.as_ref().map_or_else(|| "through a pgward".to_owned(), |node| format!("through node {node}"));
        let configured = node.as_ref().and_then(|node| settings.nodes.get(node.as_str())).map(|node| &node.region);
        ends.push(End { kind: "node_outside", how, region, outside: at_node, configured });
    }
    ends
}

/// A pgward that is not known to be anywhere serves all tenants, wherever it is.
fn nowhere(settings: &Settings, name: &str, way: &Way, served: &Served) -> Option<Finding> {
    if way.node_region.is_some() {
        return None;
    }
    let text = format!(
        "{name} was served up to {} through a pgward of which the log does not say where it was: its configuration has to \
         have node or region",
        served.last
    );
    let told = settings.region.is_some() || !settings.nodes.is_empty();
    Some(if told { Finding::danger("node_unknown", text) } else { Finding::warning("node_unknown", text) })
}

/// What was served where it could not be then, or may not be now.
fn outside(name: &str, tenant: Option<&Tenant>, served: &Served, end: &End<'_>) -> Vec<Finding> {
    let End { kind, how, region, outside, configured } = end;
    let (mut findings, last) = (Vec::new(), &served.last);
    let was = format!("{name} was served {how} in region {region}");
    if *outside > 0 {
        let text = format!("{was}, where it could not be ({outside} lines, the last at {last})");
        findings.push(Finding::danger(kind, text));
    } else if tenant.is_some_and(|tenant| !allowed(tenant, region)) {
        let text = format!("{was} up to {last}, where it could be then and may not be now: regions has changed");
        findings.push(Finding::warning("regions_changed", text));
    }
    if let Some(now) = configured.filter(|now| now.as_str() != *region) {
        let text = format!(
            "{was} up to {last}, and by the configuration that is in region {now}: it has moved, or one of the two is wrong"
        );
        findings.push(Finding::warning("place_changed", text));
    }
    findings
}

fn allowed(tenant: &Tenant, region: &str) -> bool {
    Region::parse(region).is_ok_and(|region| residency::allows(&tenant.regions, &region))
}

/// Servers of the tenants' clusters that are where the data of some may not be, and have it all the same: PostgreSQL
/// replicates a cluster as a whole.
fn copies(tenants: &[&Tenant], looks: &BTreeMap<ClusterName, Look>) -> Vec<Finding> {
    let views = looks.iter().flat_map(|(cluster, look)| look.snapshot.servers.iter().map(move |view| (cluster, view)));
    let finding = |(cluster, view): (&ClusterName, &ServerView)| {
        let server = &view.server;
        let of = |tenant: &&&Tenant| tenant.cluster == *cluster && !residency::allows(&tenant.regions, &server.region);
        let not_there: Vec<&str> = tenants.iter().filter(of).map(|tenant| tenant.id.as_str()).collect();
        let has = if view.seen.is_some() { "has" } else { "has, as far as it is known," };
        let text = format!(
            "server {} in region {} {has} all data of cluster {cluster}, also of those whose data may not be \
             there; it serves them nothing: {}",
            server.name,
            server.region,
            some(&not_there)
        );
        (!not_there.is_empty()).then(|| Finding::warning("copy_outside", text))
    };
    views.filter_map(finding).collect()
}

/// The first of many, and how many there are.
fn some(names: &[&str]) -> String {
    const MOST: usize = 10;
    let first = names.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MOST) {
        Some(more) if more > 0 => format!("{first} and {more} more"),
        _ => first,
    }
}

impl ClusterStanding {
    fn of(name: &ClusterName, look: &Look) -> Self {
        Self { cluster: name.to_string(), servers: Standing::all(look), notes: standing::notes(look) }
    }

    fn findings(&self) -> Vec<Finding> {
        let cluster = &self.cluster;
        let servers = self.servers.iter().filter_map(|server| {
            let trouble = server.trouble.as_ref()?;
            let text = format!("cluster {cluster}: it is not known what server {} is: {trouble}", server.server);
            Some(Finding::warning("server_unknown", text))
        });
        let notes =
            self.notes.iter().map(|note| Finding::warning("server_unknown", format!("cluster {cluster}: {note}")));
        servers.chain(notes).collect()
    }
}

impl TenantReport {
    fn new(settings: &Settings, name: String, tenant: Option<&Tenant>, look: Option<&Look>, past: Past) -> Self {
        let may = |region: &str| tenant.is_some_and(|tenant| allowed(tenant, region));
        let served = past.served.into_iter().map(|(way, served)| {
            let here = way.grant.is_some() || way.node_region.as_deref().is_some_and(may);
            let allowed = may(&way.region) && here;
            ServedRow { way, served, allowed }
        });
        let forwarded = past.passed.into_iter().map(|(passed, counted)| PassedRow { passed, counted });
        let refusals = past.refused.into_iter().map(|(refused, counted)| RefusedRow { refused, counted });
        let grants = past.grants.into_iter().map(|([grant, purpose], counted)| GrantRow { grant, purpose, counted });
        let entries = past.break_glass.into_iter().map(|(subject, counted)| EntryRow { subject, counted });
        let acts = past.acts.into_iter().map(|([act, outcome], counted)| ActRow { act, outcome, counted });
        Self {
            place: tenant.map(|tenant| Place::of(settings, tenant, look)),
            tenant: name,
            served: served.collect(),
            forwarded: forwarded.collect(),
            refusals: refusals.collect(),
            grants: grants.collect(),
            break_glass: entries.collect(),
            administration: acts.collect(),
        }
    }
}

impl Place {
    fn of(settings: &Settings, tenant: &Tenant, look: Option<&Look>) -> Self {
        let holding = |(at, view)| {
            let standing = Standing::of(look?, at, view);
            Some(Holding { standing, allowed: residency::allows(&tenant.regions, &view.server.region) })
        };
        let views = look.into_iter().flat_map(|look| look.snapshot.servers.iter().enumerate());
        Self {
            home: tenant.home.to_string(),
            regions: names(&tenant.regions),
            isolation: tenant.isolation.as_str(),
            suspended: tenant.suspended,
            cluster: tenant.cluster.to_string(),
            database: tenant.database.clone(),
            servers: views.filter_map(holding).collect(),
            nodes: NodeStanding::all(settings.nodes.values(), tenant),
            backups: settings
                .clusters
                .get(&tenant.cluster)
                .map(|cluster| repositories(settings, cluster, tenant))
                .unwrap_or_default(),
        }
    }
}

fn repositories(settings: &Settings, cluster: &Cluster, tenant: &Tenant) -> Vec<Repository> {
    let one = |repository: String, region: &Region| Repository {
        repository,
        region: region.to_string(),
        allowed: residency::allows(&tenant.regions, region),
    };
    let kept = cluster.repositories.iter().map(|(name, kept)| one(name.to_string(), &kept.region));
    // The log holds what is written in all databases of the cluster.
    let receives = cluster.backup.as_ref().is_some_and(|of| of.receive_wal.is_some());
    let received = settings.region.iter().filter(|_| receives);
    kept.chain(received.map(|region| one("log received by this pgward".to_owned(), region))).collect()
}

#[cfg(test)]
pub(in crate::proof) mod tests;
