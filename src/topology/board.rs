//! Where the probes write what they see, and everybody else reads what follows from it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::sync::watch;

use super::failover::{Candidate, Role, elect};
use super::health::{Health, Pulse};
use super::snapshot::{Seen, ServerView, Snapshot};
use crate::base::{ClusterName, Lsn, ServerName};
use crate::config::{Cluster, ProbeRules, Server, ServerRole};

/// All clusters of the process. They outlive reloads.
#[derive(Debug, Default)]
pub struct Topology(DashMap<ClusterName, Arc<Board>>);

/// One cluster.
#[derive(Debug)]
pub struct Board {
    pub name: ClusterName,
    snapshot: ArcSwap<Snapshot>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: what the configuration says holds, and nobody asks.
    rules: Option<ProbeRules>,
    known: Vec<Known>,
    highest: u32,
    /// What tells this cluster from others (pg_control_system), by the first that answered.
    system: Option<String>,
}

#[derive(Debug)]
struct Known {
    server: Arc<Server>,
    pulse: Pulse,
    seen: Option<Seen>,
    trouble: Option<Arc<str>>,
    /// It was asked at least once, and answered or not.
    asked: bool,
    /// What was last published of it, and since when that is so.
    published: (Health, Option<Role>, bool),
    since: Instant,
}

/// What came of asking a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Said {
        seen: Seen,
        system: String,
    },
    /// It is there, and does not let pgward ask: what it is stands in the configuration.
    Closed(String),
    /// It is there, and has no room to be asked in.
    Full(String),
    Silent(String),
}

impl Topology {
    pub fn board(&self, cluster: &ClusterName) -> Option<Arc<Board>> {
        self.0.get(cluster).map(|board| Arc::clone(&board))
    }

    /// The board of a cluster that is configured like this from now on.
    pub fn renew(&self, cluster: &Cluster) -> Arc<Board> {
        let fresh = || Arc::new(Board::new(cluster.name.clone()));
        let board = Arc::clone(&self.0.entry(cluster.name.clone()).or_insert_with(fresh));
        board.renew(cluster);
        board
    }

    /// Drops those that are not configured any more.
    pub fn retain(&self, keep: impl Fn(&ClusterName) -> bool) {
        self.0.retain(|name, _| keep(name));
    }

    pub fn boards(&self) -> Vec<Arc<Board>> {
        let mut boards: Vec<Arc<Board>> = self.0.iter().map(|board| Arc::clone(&board)).collect();
        boards.sort_by(|a, b| a.name.cmp(&b.name));
        boards
    }
}

impl Board {
    fn new(name: ClusterName) -> Self {
        let snapshot = Snapshot { servers: Vec::new(), primary: None, in_doubt: false };
        let (changed, _) = watch::channel(());
        Self { name, snapshot: ArcSwap::from_pointee(snapshot), state: Mutex::default(), changed }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Told whenever another server takes writes, or none, or one has gone or come back.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Panics under the lock leave nothing half done that the next answer would not mend.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self, cluster: &Cluster) {
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.known);
        state.rules = cluster.probe.as_ref().map(|probe| probe.rules);
        state.known = cluster
            .servers
            .iter()
            .map(|server| {
                let same = |known: &Known| known.server.same_place(server);
                match before.iter().position(same) {
                    Some(at) => Known { server: Arc::clone(server), ..before.swap_remove(at) },
                    None => Known::new(server),
                }
            })
            .collect();
        if !state.known.iter().any(|known| known.asked) {
            // Other servers under the same name.
            (state.highest, state.system) = (0, None);
        }
        self.publish(&mut state);
    }

    /// Takes note of an answer that `server` gave, or did not, to what it was asked at `asked`.
    pub(super) fn note(&self, server: &ServerName, asked: Instant, answer: Answer) {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(rules) = state.rules else { return };
        let Some(known) = state.known.iter_mut().find(|known| known.server.name == *server) else { return };
        known.asked = true;
        let trouble = known.trouble.take();
        match answer {
            Answer::Said { system, .. } if state.system.as_ref().is_some_and(|known| *known != system) => {
                // Whatever it says is about another cluster's data.
                let why = "it belongs to another cluster: its system identifier is not that of the others";
                known.trouble = Some(why.into());
                known.seen = None;
                known.pulse.failed(asked, Instant::now(), &rules);
            }
            Answer::Said { seen, system } => {
                state.system.get_or_insert(system);
                known.seen = Some(seen);
                known.pulse.answered(&rules);
            }
            Answer::Closed(why) => {
                known.trouble = Some(why.into());
                // What it has told before still counts.
                let configured = Seen { role: configured(&known.server), timeline: 0, lsn: Lsn::default() };
                known.seen.get_or_insert(configured);
                known.pulse.answered(&rules);
            }
            Answer::Full(why) => {
                known.trouble = Some(why.into());
                known.pulse.answered(&rules);
            }
            Answer::Silent(why) => {
                known.trouble = Some(why.into());
                known.pulse.failed(asked, Instant::now(), &rules);
            }
        }
        if let Some(why) = known.trouble.as_ref().filter(|why| trouble.as_ref() != Some(why)) {
            tracing::warn!(cluster = %self.name, server = %server, why = %why, "a server could not be asked what it is");
        }
        self.publish(state);
    }

    /// Makes known what follows from what is known.
    fn publish(&self, state: &mut State) {
        let now = Instant::now();
        let verdict = if state.rules.is_some() {
            let says = |known: &Known| known.seen.map(|seen| (seen.role, seen.timeline));
            let candidate = |known: &Known| Candidate { health: known.pulse.health(), says: says(known) };
            let candidates: Vec<Candidate> = state.known.iter().map(candidate).collect();
            elect(&candidates, state.highest)
        } else {
            let candidate =
                |known: &Known| Candidate { health: Health::Up, says: Some((configured(&known.server), 0)) };
            elect(&state.known.iter().map(candidate).collect::<Vec<_>>(), 0)
        };
        // Whoever has not been asked may be on a higher timeline: the first to answer is not to be believed alone. One
        // that is the primary stays it while a server is added.
        let settled = state.rules.is_none() || state.known.iter().all(|known| known.asked);
        state.highest = verdict.highest;
        let mut told = false;
        let servers = state.known.iter_mut().enumerate().map(|(at, known)| {
            let health = if state.rules.is_some() { known.pulse.health() } else { Health::Up };
            let fenced = verdict.fenced.contains(&at);
            let published = (health, known.seen.map(|seen| seen.role), fenced);
            if known.published != published {
                told |= known.published.0 != health || known.published.2 != fenced;
                (known.published, known.since) = (published, now);
            }
            let (server, trouble) = (Arc::clone(&known.server), known.trouble.clone());
            ServerView { server, health, seen: known.seen, fenced, since: known.since, trouble }
        });
        let servers: Vec<ServerView> = servers.collect();
        let before = self.snapshot.load();
        let stays = |at: &usize| {
            before.primary().is_some_and(|old| servers.get(*at).is_some_and(|view| view.server.same_place(old)))
        };
        let primary = verdict.primary.filter(|at| settled || stays(at));
        let next = Snapshot { servers, primary, in_doubt: verdict.in_doubt };
        let changed = match (before.primary(), next.primary()) {
            (Some(one), Some(other)) => !one.same_place(other),
            (None, None) => false,
            _ => true,
        };
        if changed || before.in_doubt != next.in_doubt {
            let name = |snapshot: &Snapshot| snapshot.primary().map(|server| server.name.to_string());
            let (from, to, highest) = (name(&before), name(&next), state.highest);
            match (&to, next.in_doubt) {
                (Some(to), _) => {
                    tracing::info!(cluster = %self.name, from, to, timeline = highest, "writes go to another server")
                }
                (None, true) => {
                    tracing::error!(cluster = %self.name, timeline = highest, "several servers say that they are the primary, on the same timeline: nobody writes until one of them is stopped")
                }
                (None, false) => tracing::warn!(cluster = %self.name, from, "there is no primary"),
            }
        }
        drop(before);
        self.snapshot.store(Arc::new(next));
        if changed || told {
            self.changed.send_replace(());
        }
    }
}

impl Known {
    fn new(server: &Arc<Server>) -> Self {
        Self {
            server: Arc::clone(server),
            pulse: Pulse::new(),
            seen: None,
            trouble: None,
            asked: false,
            published: (Health::Suspect, None, false),
            since: Instant::now(),
        }
    }
}

fn configured(server: &Server) -> Role {
    match server.role {
        ServerRole::Primary => Role::Primary,
        ServerRole::Replica => Role::Replica,
    }
}
