//! A cluster's servers as they were seen last. Never changed, only replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failover::Role;
use super::health::Health;
use super::samples::Samples;
use crate::base::{Lsn, Region};
use crate::config::{Cluster, Server};

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub servers: Vec<ServerView>,
    /// Which of them takes writes. `None`: nobody does for now.
    pub primary: Option<usize>,
    /// Several say that they do, and nothing tells them apart.
    pub in_doubt: bool,
    /// The highest that anybody has been on.
    pub timeline: u32,
    /// Of whoever takes writes, or did last.
    pub written: Samples,
    pub balance: Arc<Balance>,
}

/// How reads are shared among replicas, as far as it is the same for all who read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balance {
    /// Where this pgward is: replicas that are there too come first.
    pub near: Option<Region>,
    /// How long it takes until one that has come back gets its whole share.
    pub slow_start: Duration,
}

#[derive(Debug, Clone)]
pub struct ServerView {
    pub server: Arc<Server>,
    pub health: Health,
    /// What it said that it is, and where it was then.
    pub seen: Option<Seen>,
    /// Since it is that, on the same timeline.
    pub samples: Samples,
    /// Of a replica.
    pub lag: Option<Lag>,
    /// The worst of a while, so that one good answer does not bring back what was too far behind.
    pub worst_lag: Option<Lag>,
    /// It says that it takes writes, and gets none.
    pub fenced: bool,
    /// Somebody at the console wants nobody to read there.
    pub held: bool,
    /// Since when it is what it is: health, role and fence together.
    pub since: Instant,
    /// Why it could not be asked, or its answer not be used.
    pub trouble: Option<Arc<str>>,
}

/// One answer of a server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub role: Role,
    pub timeline: u32,
    /// How far a primary has written to its disk, or a replica has replayed.
    pub lsn: Lsn,
    /// A primary's log reaches no further, whether it is on the disk or not.
    pub bound: Lsn,
}

/// How far a replica is behind the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Of the log, yet to be replayed.
    pub bytes: u64,
    /// Since what it does not have yet was seen at the primary.
    pub time: Duration,
}

impl Lag {
    #[must_use]
    pub(super) fn max(self, other: Self) -> Self {
        Self { bytes: self.bytes.max(other.bytes), time: self.time.max(other.time) }
    }
}

/// Why a server is no replica to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReplica {
    #[error("it does not answer")]
    Silent,
    #[error("nobody is to read there for now, by PAUSE or DRAIN at the console")]
    Held,
    #[error("it has not said what it is")]
    Untold,
    #[error("it says that it is the primary")]
    Primary,
    #[error("it follows timeline {own}, and the others are on {others}")]
    Timeline { own: u32, others: u32 },
}

impl Snapshot {
    /// Whether there is a choice between servers for reads: where they are asked, and there are several.
    pub fn offers_replicas(&self, cluster: &Cluster) -> bool {
        cluster.probe.is_some() && self.servers.len() > 1
    }

    /// The server that takes writes.
    pub fn primary(&self) -> Option<&Arc<Server>> {
        self.primary.and_then(|at| self.servers.get(at)).map(|view| &view.server)
    }
}

impl ServerView {
    /// Whether it is a replica to read from: one that answers and follows what the others are on. One that follows an
    /// older timeline shows what has been given up, or will be once it is made to follow.
    pub fn replica_on(&self, timeline: u32) -> Result<(), NotReplica> {
        if self.health != Health::Up {
            return Err(NotReplica::Silent);
        }
        match self.seen {
            _ if self.held => Err(NotReplica::Held),
            None => Err(NotReplica::Untold),
            Some(Seen { role: Role::Primary, .. }) => Err(NotReplica::Primary),
            Some(seen) if seen.timeline != timeline => {
                Err(NotReplica::Timeline { own: seen.timeline, others: timeline })
            }
            Some(_) => Ok(()),
        }
    }
}
