//! Follows the clusters: has their servers asked what they are, and pools and sessions go along when another one takes
//! the writes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::admin::Control;
use crate::base::ClusterName;
use crate::config::{Cluster, FileVersion, Probe};
use crate::pool::Follow;
use crate::session::{Command, World};
use crate::topology::{self, Board, Probed};

/// The tasks of each cluster that is asked.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<HashMap<ClusterName, Follower>>);

#[derive(Debug)]
struct Follower {
    cluster: Arc<Cluster>,
    timeout: Duration,
    /// Of the files that TLS is spoken by.
    files: Vec<FileVersion>,
    /// Ended when dropped.
    _tasks: JoinSet<()>,
}

impl Followers {
    /// Follows the clusters of the configuration in force from now on.
    pub fn renew(&self, control: &Control) {
        let world = control.shared.world.load_full();
        let clusters = &world.settings.clusters;
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|name, _| clusters.contains_key(name));
        control.shared.topology.retain(|name| clusters.contains_key(name));
        for (name, cluster) in clusters {
            let board = control.shared.topology.renew(cluster);
            point(control, name, &board);
            let timeout = world.settings.pool.connect_timeout;
            // What is encrypted may have got other keys. Who asks is left alone otherwise, since an answer that is cut
            // short tells nothing.
            let tls = [&cluster.tls.ca, &cluster.tls.certificate, &cluster.tls.key];
            let files: Vec<FileVersion> = tls.into_iter().flatten().map(|path| FileVersion::of(path)).collect();
            let same = |follower: &Follower| {
                *follower.cluster == **cluster && follower.timeout == timeout && follower.files == files
            };
            if running.get(name).is_some_and(same) {
                continue;
            }
            running.remove(name);
            if let Some(probe) = &cluster.probe {
                let _tasks = ask(control, &world, cluster, probe, &board);
                running.insert(name.clone(), Follower { cluster: Arc::clone(cluster), timeout, files, _tasks });
            }
        }
    }
}

fn ask(control: &Control, world: &World, cluster: &Cluster, probe: &Probe, board: &Arc<Board>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let Some(credentials) = world.service(cluster, &probe.database) else { return tasks };
    for server in &cluster.servers {
        let Some(endpoint) = world.endpoint(&cluster.name, &server.name) else { continue };
        let (server, endpoint) = (server.name.clone(), Arc::clone(endpoint));
        let probed = Probed { server, endpoint, credentials: credentials.clone() };
        tasks.spawn(topology::watch(Arc::clone(board), probed, probe.rules));
    }
    tasks.spawn(follow(control.clone(), cluster.name.clone(), Arc::clone(board)));
    tasks
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

/// Has pools lead to the primary of now, and sessions notice that theirs is not.
fn point(control: &Control, name: &ClusterName, board: &Board) {
    let shared = &control.shared;
    let moved = shared.pools.point(name, || {
        let world = shared.world.load();
        let (snapshot, cluster) = (board.snapshot(), world.settings.clusters.get(name));
        let primary = snapshot.primary();
        Follow {
            endpoint: primary.and_then(|server| world.endpoint(name, &server.name)).cloned(),
            max_backends: primary.map(|server| server.max_backends),
            patience: cluster.filter(|cluster| cluster.probe.is_some()).map(|cluster| cluster.failover_timeout),
        }
    });
    if moved {
        control.cores.iter().for_each(|core| core.send(Command::Recheck));
    }
}
