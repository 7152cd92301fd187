//! Reading the configuration again. A file with problems is refused whole.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::{Control, ReloadError};
use crate::audit::Source;
use crate::base::{ClusterName, Party, causes};
use crate::config::{self, Cluster, Draft, FileVersion, PlainDatabase, Problem, Settings, Tenant};
use crate::residency;
use crate::session::{Command, Kick, Shared, World};
use crate::topology::Topology;

/// How often the tenants file is looked at. By its metadata, which works behind symbolic links and on mounted
/// config maps as well, where notifications of changes do not.
const LOOK: Duration = Duration::from_millis(250);

pub(super) async fn reload(path: &Path, control: &Control) -> Result<(), ReloadError> {
    match read(path, control).await {
        Ok(settings) => replace(settings, control),
        Err(problems) => Err(ReloadError(problems.iter().map(ToString::to_string).collect())),
    }
}

pub(super) fn tell(path: &Path, outcome: &Result<(), ReloadError>) {
    match outcome {
        Ok(()) => tracing::info!(path = %path.display(), "the configuration was read again"),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the new configuration was refused; the old one stays")
        }
    }
}

/// With the tenants of the catalogue as they were read last. Apart from all else that is done meanwhile, since there
/// may be many.
async fn read(path: &Path, control: &Control) -> Result<Settings, Vec<Problem>> {
    let (path, seen) = (path.to_owned(), control.catalogue.as_ref().map(|standing| standing.seen()));
    let reading = tokio::task::spawn_blocking(move || match seen {
        Some(seen) => Draft::read(&path)?.with_catalogue(&seen),
        None => config::load(&path),
    });
    let ended = |error| vec![Problem::new("the configuration file", format!("was not read to its end: {error}"))];
    reading.await.map_err(ended)?
}

fn replace(mut settings: Settings, control: &Control) -> Result<(), ReloadError> {
    let shared = &control.shared;
    add_members(&mut settings.clusters, &shared.topology);
    let before = shared.world.load_full();
    let mut problems = fixed(&before.settings, &settings);
    if !problems.is_empty() {
        problems.push("restart pgward to change these".to_owned());
        return Err(ReloadError(problems));
    }
    let world = World::new(settings, Some(&before)).map_err(|error| ReloadError(vec![causes(&error)]))?;
    let suspended = suspended(&before.settings, &world.settings);
    let mut narrowed = narrowed(&before.settings, &world.settings);
    narrowed.extend(withdrawn(&before.settings, &world.settings));
    let moved = moved(shared, &before, &world);
    if let Some(rules) = &world.settings.audit {
        shared.audit.renew(rules);
    }
    shared.world.store(Arc::new(world));
    for (parties, kick) in [(suspended, Kick::Suspended), (narrowed, Kick::Narrowed), (moved, Kick::Moved)] {
        if !parties.is_empty() {
            let parties = Arc::new(parties);
            control.cores.iter().for_each(|core| core.send(Command::KickOf(Arc::clone(&parties), kick)));
        }
    }
    spawn_refreshers(shared);
    Ok(())
}

/// Takes up the servers that Patroni has told of. Sessions have nothing to do with that, unless theirs has gone.
pub(super) fn take_members(control: &Control) {
    let shared = &control.shared;
    let before = shared.world.load_full();
    let mut clusters = before.settings.clusters.clone();
    if add_members(&mut clusters, &shared.topology) {
        shared.world.store(Arc::new(before.with_clusters(clusters)));
    }
}

/// `true`: there are others than there were.
fn add_members(clusters: &mut BTreeMap<ClusterName, Arc<Cluster>>, topology: &Topology) -> bool {
    let mut changed = false;
    for cluster in clusters.values_mut().filter(|cluster| cluster.patroni.is_some()) {
        let members = topology.members(cluster);
        if cluster.members != members {
            let names: Vec<&str> = members.iter().map(|server| server.name.as_str()).collect();
            tracing::info!(cluster = %cluster.name, ?names, "servers that Patroni tells of");
            Arc::make_mut(cluster).members = members;
            changed = true;
        }
    }
    changed
}

/// Reloads whenever the tenants file is another than the one in force. One that is refused is not tried again
/// before it changes.
pub(super) async fn watch(control: Control) {
    let mut refused = None;
    let mut interval = tokio::time::interval(LOOK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = control.draining.cancelled() => return,
            _ = interval.tick() => {}
        }
        let file = control.shared.world.load().settings.tenants_file.clone();
        let Some(file) = file else { continue };
        let path = file.path.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || FileVersion::of(&path)).await else { continue };
        let seen = Some((file.path, found));
        if found != file.version && seen != refused && control.reload_for(Source::File).await.is_err() {
            refused = seen;
        }
    }
}

/// Tenants whose sessions must end at once.
fn suspended(before: &Settings, after: &Settings) -> HashSet<Party> {
    let tenants = after.tenants.values().filter(|new| new.suspended);
    let tenants = tenants.filter(|new| before.tenants.get(&new.id).is_some_and(|old| !old.suspended));
    tenants.map(|new| Party::Tenant(new.id.clone())).collect()
}

/// Tenants whose data may not be any more where it may have been: what is under way there ends now.
fn narrowed(before: &Settings, after: &Settings) -> HashSet<Party> {
    let lost = |old: &Tenant, new: &Tenant| old.regions.iter().any(|region| !residency::allows(&new.regions, region));
    let tenants = before.tenants.values().filter(|old| after.tenants.get(&old.id).is_some_and(|new| lost(old, new)));
    tenants.map(|old| Party::Tenant(old.id.clone())).collect()
}

/// Tenants that were served here by a grant which is not what it was.
fn withdrawn(before: &Settings, after: &Settings) -> HashSet<Party> {
    let Some(here) = &after.region else { return HashSet::new() };
    let grants = before.grants.values().filter(|old| after.grants.get(&old.name) != Some(*old));
    let tenants = grants.filter(|old| residency::allows(&old.regions, here)).flat_map(|old| &old.tenants);
    tenants.map(|tenant| Party::Tenant(tenant.clone())).collect()
}

/// Tenants and databases that are gone, or whose data or rights are not where they were. Their sessions
/// must not go on.
fn moved(shared: &Shared, before: &World, after: &World) -> HashSet<Party> {
    let tenants = before.settings.tenants.values().filter(|old| {
        let new = after.settings.tenants.get(&old.id);
        let (suspended, legal_hold) = (old.suspended, old.legal_hold.clone());
        !new.is_some_and(|new| Tenant { limits: old.limits, suspended, legal_hold, ..Tenant::clone(new) } == ***old)
    });
    let mut moved: HashSet<Party> = tenants.map(|old| Party::Tenant(old.id.clone())).collect();
    // Those in use, since any name may have led somewhere.
    for usage in shared.usages.all() {
        if let Party::Database(name) = &usage.party
            && let Some(old) = before.plain(name)
        {
            let new = after.plain(name);
            let same =
                new.is_some_and(|new| PlainDatabase { limits: old.limits, ..PlainDatabase::clone(new) } == **old);
            moved.extend((!same).then(|| usage.party.clone()));
        }
    }
    moved
}

/// What is laid out at the start and cannot change while running.
fn fixed(before: &Settings, after: &Settings) -> Vec<String> {
    let changes = [
        ("listen.address", before.listen.addresses != after.listen.addresses),
        ("listen.cores", before.listen.cores != after.listen.cores),
        ("http.address", before.http != after.http),
        ("region or node", (&before.region, &before.node) != (&after.region, &after.node)),
        ("forwarding.listen", forwarding_listen(before) != forwarding_listen(after)),
        ("log", before.log != after.log),
        ("catalogue", catalogue_moved(before, after)),
        ("audit", before.audit.is_some() != after.audit.is_some()),
        ("audit.file, audit.key or audit.buffer", audit_moved(before, after)),
    ];
    changes.iter().filter(|(_, changed)| *changed).map(|(key, _)| format!("{key} has changed")).collect()
}

fn forwarding_listen(settings: &Settings) -> Option<SocketAddr> {
    settings.forwarding.as_ref()?.listen
}

/// One table is watched for as long as pgward runs.
fn catalogue_moved(before: &Settings, after: &Settings) -> bool {
    match (&before.catalogue, &after.catalogue) {
        (Some(before), Some(after)) => !before.is_same(after),
        (before, after) => before.is_some() || after.is_some(),
    }
}

/// The chain and its queue are one for as long as pgward runs.
fn audit_moved(before: &Settings, after: &Settings) -> bool {
    let (Some(before), Some(after)) = (&before.audit, &after.audit) else { return false };
    (&before.file, &before.key, before.buffer) != (&after.file, &after.key, after.buffer)
}

/// Key sets by URL are fetched for as long as the configuration that names them is in force.
pub(super) fn spawn_refreshers(shared: &Arc<Shared>) {
    for refresher in shared.world.load().verifier.refreshers() {
        tokio::spawn(refresher);
    }
}
