//! Follows the clusters: has their servers asked what they are, and pools and sessions go along when another one takes
//! the writes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::admin::Control;
use crate::backend::Credentials;
use crate::base::ClusterName;
use crate::config::{Cluster, FileVersion, Patroni, Probe, Server};
use crate::pool::{Follow, Place};
use crate::session::{Command, World};
use crate::topology::{self, Board, Health, Probed, ServerView};

/// The tasks of each cluster that is asked.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<Running>);

#[derive(Debug, Default)]
struct Running {
    followers: HashMap<ClusterName, Follower>,
    sources: HashMap<ClusterName, Source>,
}

/// Asks Patroni.
#[derive(Debug)]
struct Source {
    rules: Arc<Patroni>,
    /// Ended when dropped.
    _task: JoinSet<()>,
}

/// Asks a cluster's servers, and follows what they say. Whoever asks is left alone as long as nothing has changed for it,
/// since an answer that is cut short tells nothing.
#[derive(Debug)]
struct Follower {
    ways: Ways,
    asking: HashMap<Arc<Server>, JoinSet<()>>,
    /// Ended when dropped.
    _task: JoinSet<()>,
}

/// All that is the same for a cluster's servers.
#[derive(Debug, PartialEq)]
struct Ways {
    /// But for its servers.
    cluster: Cluster,
    timeout: Duration,
    /// Of the files that TLS is spoken by.
    files: Vec<FileVersion>,
    credentials: Option<Credentials>,
}

impl Followers {
    /// Follows the clusters of the configuration in force from now on.
    pub fn renew(&self, control: &Control) {
        let world = control.shared.world.load_full();
        let clusters = &world.settings.clusters;
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Running { followers, sources } = &mut *running;
        followers.retain(|name, _| clusters.contains_key(name));
        sources.retain(|name, source| {
            clusters.get(name).is_some_and(|cluster| cluster.patroni.as_ref() == Some(&source.rules))
        });
        control.shared.topology.retain(|name| clusters.contains_key(name));
        for (name, cluster) in clusters {
            let board = control.shared.topology.renew(cluster, world.settings.region.as_ref());
            point(control, name, &board);
            if let Some(rules) = cluster.patroni.as_ref().filter(|_| !sources.contains_key(name)) {
                let (board, control, mut _task) = (Arc::clone(&board), control.clone(), JoinSet::new());
                _task.spawn(topology::watch_patroni(board, Arc::clone(rules), move || control.members_changed()));
                sources.insert(name.clone(), Source { rules: Arc::clone(rules), _task });
            }
            let ways = Ways::of(&world, cluster);
            let known = followers.remove(name).filter(|follower| follower.ways == ways);
            if let Some(probe) = &cluster.probe {
                let mut follower = known.unwrap_or_else(|| Follower::new(control, ways, &board));
                follower.ask(&world, cluster, probe, &board);
                followers.insert(name.clone(), follower);
            }
        }
    }
}

impl Ways {
    fn of(world: &World, cluster: &Cluster) -> Self {
        let (servers, members) = Default::default();
        Self {
            timeout: world.settings.pool.connect_timeout,
            // What is encrypted may have got other keys.
            files: world.files(&cluster.name).to_vec(),
            credentials: cluster.probe.as_ref().and_then(|probe| world.service(cluster, &probe.database)),
            cluster: Cluster { servers, members, ..cluster.clone() },
        }
    }
}

impl Follower {
    fn new(control: &Control, ways: Ways, board: &Arc<Board>) -> Self {
        let mut _task = JoinSet::new();
        _task.spawn(follow(control.clone(), ways.cluster.name.clone(), Arc::clone(board)));
        Self { ways, asking: HashMap::new(), _task }
    }

    fn ask(&mut self, world: &World, cluster: &Cluster, probe: &Probe, board: &Arc<Board>) {
        self.asking.retain(|server, _| cluster.all_servers().any(|known| known == server));
        let Some(credentials) = self.ways.credentials.clone() else { return };
        for server in cluster.all_servers() {
            let Some(endpoint) = world.endpoint(&cluster.name, &server.name) else { continue };
            self.asking.entry(Arc::clone(server)).or_insert_with(|| {
                let (server, endpoint) = (server.name.clone(), Arc::clone(endpoint));
                let probed = Probed { server, endpoint, credentials: credentials.clone() };
                let mut task = JoinSet::new();
                task.spawn(topology::watch(Arc::clone(board), probed, probe.rules));
                task
            });
        }
    }
}

async fn follow(control: Control, name: ClusterName, board: Arc<Board>) {
    let mut changes = board.changes();
    loop {
        // What changed before anybody waited is looked at first.
        point(&control, &name, &board);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Has pools lead to the servers of now, and sessions notice that theirs has gone.
fn point(control: &Control, name: &ClusterName, board: &Board) {
    let (pools, snapshot) = (&control.shared.pools, board.snapshot());
    let world = control.shared.world.load();
    let cluster = world.settings.clusters.get(name);
    pools.set_replicas(name, cluster.is_some_and(|cluster| snapshot.offers_replicas(cluster)));
    let mut moved = lead(control, name, &Place::Primary, || board.snapshot().primary().cloned());
    for (at, view) in snapshot.servers.iter().enumerate() {
        let place = Place::Replica(view.server.name.clone());
        moved |= lead(control, name, &place, || {
            // As it is by the time that this has its turn.
            let now = board.snapshot();
            let view = now.servers.iter().find(|now| now.server.name == view.server.name)?;
            // One that is promoted under a read may end it.
            let gone = view.health == Health::Down || view.fenced;
            (!gone).then(|| Arc::clone(&view.server))
        });
        if snapshot.primary == Some(at) {
            pools.leave(name, &place);
        }
    }
    for place in pools.places(name) {
        let is_of = |view: &ServerView| place == Place::Replica(view.server.name.clone());
        if place != Place::Primary && !snapshot.servers.iter().any(is_of) {
            moved |= lead(control, name, &place, || None);
            pools.leave(name, &place);
        }
    }
    if moved {
        control.cores.iter().for_each(|core| core.send(Command::Recheck));
    }
}

fn lead(control: &Control, name: &ClusterName, place: &Place, to: impl FnOnce() -> Option<Arc<Server>>) -> bool {
    let shared = &control.shared;
    shared.pools.point(name, place, || {
        let world = shared.world.load();
        let cluster = world.settings.clusters.get(name).filter(|cluster| cluster.probe.is_some());
        let (server, waits) = (to(), *place == Place::Primary);
        Follow {
            endpoint: server.as_ref().and_then(|server| world.endpoint(name, &server.name)).cloned(),
            max_backends: server.map(|server| server.max_backends),
            // Of replicas there are others, and the primary.
            patience: cluster.filter(|_| waits).map(|cluster| cluster.failover_timeout),
        }
    })
}
