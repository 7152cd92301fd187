//! A cluster's servers as they were seen last. Never changed, only replaced.

use std::sync::Arc;
use std::time::Instant;

use super::failover::Role;
use super::health::Health;
use crate::base::Lsn;
use crate::config::Server;

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub servers: Vec<ServerView>,
    /// Which of them takes writes. `None`: nobody does for now.
    pub primary: Option<usize>,
    /// Several say that they do, and nothing tells them apart.
    pub in_doubt: bool,
}

#[derive(Debug, Clone)]
pub struct ServerView {
    pub server: Arc<Server>,
    pub health: Health,
    /// What it said that it is, and where it was then.
    pub seen: Option<Seen>,
    /// It says that it takes writes, and gets none.
    pub fenced: bool,
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
    /// How far a primary has written, or a replica has replayed.
    pub lsn: Lsn,
}

impl Snapshot {
    /// The server that takes writes.
    pub fn primary(&self) -> Option<&Arc<Server>> {
        self.primary.and_then(|at| self.servers.get(at)).map(|view| &view.server)
    }

    /// How many bytes of the log a replica has yet to replay, by what both said last.
    pub fn lag(&self, view: &ServerView) -> Option<u64> {
        let primary = self.primary.and_then(|at| self.servers.get(at))?.seen?;
        let seen = view.seen.filter(|seen| seen.role == Role::Replica)?;
        Some(seen.lsn.behind(primary.lsn))
    }
}
