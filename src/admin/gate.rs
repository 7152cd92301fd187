//! Holding requests back, and letting them go on: for a cluster, a replica or a tenant.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Control;
use crate::base::{ClusterName, Party, ServerName, TenantId};
use crate::limits::Held;
use crate::pool::{Place, PoolRow};
use crate::session::{Command, Kick};

/// What is held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All clusters.
    All,
    Cluster(ClusterName),
    /// A replica.
    Server(ClusterName, ServerName),
    Tenant(TenantId),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    #[error("there is no {0} of this name")]
    Unknown(&'static str),
    #[error("server {0} takes the writes")]
    Primary(ServerName),
    #[error("{under_way} transactions or sessions that keep their backend are still under way after {waited:?}")]
    Busy { under_way: usize, waited: Duration },
}

const LOOK: Duration = Duration::from_millis(10);

impl Control {
    /// Has requests wait, and returns when none is under way any more. Where that takes too long, they go on.
    pub async fn pause(&self, target: &Target) -> Result<(), GateError> {
        self.hold(target, Held::Paused)?;
        let outcome = self.quiet(target, &HashSet::new()).await;
        match &outcome {
            Ok(()) => self.close_idle(target),
            Err(_) => self.resume(target)?,
        }
        outcome
    }

    /// Ends sessions at the next moment between their transactions, lets nobody in, and returns when all are gone. Of a
    /// replica: has nobody read there.
    pub async fn drain(&self, target: &Target) -> Result<(), GateError> {
        self.hold(target, Held::Drained)?;
        let parties = Arc::new(self.parties(target));
        if !parties.is_empty() {
            self.cores.iter().for_each(|core| core.send(Command::KickOf(Arc::clone(&parties), Kick::Drained)));
        }
        self.quiet(target, &parties).await?;
        self.close_idle(target);
        Ok(())
    }

    pub fn resume(&self, target: &Target) -> Result<(), GateError> {
        self.hold(target, Held::No)?;
        self.cores.iter().for_each(|core| core.send(Command::Recheck));
        Ok(())
    }

    fn hold(&self, target: &Target, held: Held) -> Result<(), GateError> {
        let shared = &self.shared;
        match target {
            Target::All => self.clusters(target).iter().for_each(|name| shared.pools.hold(name, held)),
            Target::Cluster(name) => {
                let known = self.clusters(target).contains(name);
                known.then(|| shared.pools.hold(name, held)).ok_or(GateError::Unknown("cluster"))?;
            }
            Target::Server(cluster, server) => {
                let board = shared.topology.board(cluster).ok_or(GateError::Unknown("cluster"))?;
                let primary = board.snapshot().primary().is_some_and(|primary| primary.name == *server);
                if primary && held != Held::No {
                    return Err(GateError::Primary(server.clone()));
                }
                board.hold(server, held != Held::No).then_some(()).ok_or(GateError::Unknown("server"))?;
            }
            Target::Tenant(id) => {
                let known = shared.world.load().settings.tenants.contains_key(id);
                let usage = known.then(|| shared.usages.of(&Party::Tenant(id.clone())));
                usage.ok_or(GateError::Unknown("tenant"))?.hold.set(held);
            }
        }
        Ok(())
    }

    /// The whole clusters that are meant.
    fn clusters(&self, target: &Target) -> Vec<ClusterName> {
        let world = self.shared.world.load();
        world.settings.clusters.keys().filter(|name| target.has_cluster(name)).cloned().collect()
    }

    /// Until nothing of it is under way, and nobody of these is left.
    async fn quiet(&self, target: &Target, leaving: &HashSet<Party>) -> Result<(), GateError> {
        let begin = Instant::now();
        let limit = self.longest(target);
        loop {
            let clients = leaving.iter().map(|party| self.shared.usages.of(party).clients()).sum::<usize>();
            let under_way = self.under_way(target).await.max(clients);
            if under_way == 0 {
                return Ok(());
            }
            if begin.elapsed() >= limit {
                return Err(GateError::Busy { under_way, waited: limit });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// As long as requests wait for another primary.
    fn longest(&self, target: &Target) -> Duration {
        let world = self.shared.world.load();
        let clusters = &world.settings.clusters;
        let of = |name: &ClusterName| clusters.get(name).map(|cluster| cluster.failover_timeout);
        let longest = match target {
            Target::All | Target::Cluster(_) => self.clusters(target).iter().filter_map(of).max(),
            Target::Server(name, _) => of(name),
            Target::Tenant(id) => world.settings.tenants.get(id).and_then(|tenant| of(&tenant.cluster)),
        };
        longest.unwrap_or_default()
    }

    /// Backends that are neither idle nor listen for sessions.
    async fn under_way(&self, target: &Target) -> usize {
        if let Target::Tenant(id) = target {
            return self.shared.usages.of(&Party::Tenant(id.clone())).leases();
        }
        let pools = self.pools().await;
        let listening = self.shared.hubs.backends(Instant::now());
        let busy = |(row, idle): &(PoolRow, usize)| {
            let listening = listening.iter().filter(|backend| backend.pool == row.id).count();
            row.open.saturating_sub(idle + listening)
        };
        pools.iter().filter(|(row, _)| target.has(row)).map(busy).sum()
    }

    fn close_idle(&self, target: &Target) {
        let pools = &self.shared.pools;
        for name in self.clusters(target) {
            pools.places(&name).iter().for_each(|place| pools.leave(&name, place));
        }
        if let Target::Server(name, server) = target {
            pools.leave(name, &Place::Replica(server.clone()));
        }
    }

    /// Whose sessions are ended by a drain.
    fn parties(&self, target: &Target) -> HashSet<Party> {
        let world = self.shared.world.load();
        let here = |cluster: &ClusterName| target.has_cluster(cluster);
        let usages = self.shared.usages.all();
        let is_concerned = |party: &Party| match (party, target) {
            (Party::Tenant(id), Target::Tenant(drained)) => id == drained,
            (Party::Tenant(id), _) => world.settings.tenants.get(id).is_some_and(|tenant| here(&tenant.cluster)),
            (Party::Database(name), _) => world.plain(name).is_some_and(|database| here(&database.cluster)),
        };
        usages.iter().map(|usage| &usage.party).filter(|party| is_concerned(party)).cloned().collect()
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all clusters"),
            Self::Cluster(name) => write!(f, "cluster {name}"),
            Self::Server(cluster, server) => write!(f, "server {cluster}.{server}"),
            Self::Tenant(id) => write!(f, "tenant {id}"),
        }
    }
}

impl Target {
    /// All of a cluster is meant.
    fn has_cluster(&self, cluster: &ClusterName) -> bool {
        match self {
            Self::All => true,
            Self::Cluster(name) => name == cluster,
            Self::Server(..) | Self::Tenant(_) => false,
        }
    }

    fn has(&self, pool: &PoolRow) -> bool {
        match self {
            Self::All => true,
            Self::Cluster(name) => pool.cluster == name.as_str(),
            Self::Server(cluster, server) => {
                pool.cluster == cluster.as_str() && pool.replica && pool.server == server.as_str()
            }
            Self::Tenant(_) => false,
        }
    }
}
