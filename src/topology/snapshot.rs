//! A cluster's servers as they were seen last. Never changed, only replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failover::Role;
use super::health::Health;
use super::samples::Samples;
use crate::base::{Lsn, Region};
use crate::config::Server;

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

impl Snapshot {
    /// The server that takes writes.
    pub fn primary(&self) -> Option<&Arc<Server>> {
        self.primary.and_then(|at| self.servers.get(at)).map(|view| &view.server)
    }
}

impl ServerView {
    /// Whether it is a replica to read from: one that answers and follows what the others are on. One that follows an
    /// older timeline shows what has been given up, or will be once it is made to follow.
    pub fn is_replica_on(&self, timeline: u32) -> bool {
        self.health == Health::Up
            && !self.held
            && self.seen.is_some_and(|seen| seen.role == Role::Replica && seen.timeline == timeline)
    }
}
