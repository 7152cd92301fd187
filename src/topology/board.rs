//! Where the probes write what they see, and everybody else reads what follows from it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::sync::watch;

use super::failover::{Candidate, Role, elect};
use super::health::{Health, Pulse};
use super::patroni::Told;
use super::roster::{Lock, Roster};
use super::samples::Samples;
use super::snapshot::{Balance, Lag, Seen, ServerView, Snapshot};
use super::urgency::Urgency;
use crate::base::{ClusterName, Lsn, Region, ServerName};
use crate::config::{Cluster, Patroni, ProbeRules, Server, ServerRole};

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
    /// Told of every answer.
    answered: watch::Sender<()>,
    urgency: Urgency,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: what the configuration says holds, and nobody asks.
    rules: Option<ProbeRules>,
    known: Vec<Known>,
    highest: u32,
    /// Of whoever took writes last: how far its log reached, and how far that was on its disk.
    written: Samples,
    flushed: Samples,
    balance: Arc<Balance>,
    /// What tells this cluster from others (pg_control_system), by the first that answered.
    system: Option<String>,
    /// As it is configured, with the members that are in force.
    cluster: Option<Arc<Cluster>>,
    roster: Roster,
    /// What is wrong with what Patroni says, as was logged.
    odd: Option<String>,
    /// Replicas that nobody is to read from, also when they have gone and come back.
    held: HashSet<ServerName>,
}

#[derive(Debug)]
struct Known {
    server: Arc<Server>,
    pulse: Pulse,
    seen: Option<Seen>,
    /// When it was started that said so.
    started: Option<String>,
    samples: Samples,
    /// The same of what was on its disk, or replayed.
    flushed: Samples,
    /// Its lag at its last answers, and when.
    lags: VecDeque<(Instant, Lag)>,
    trouble: Option<Arc<str>>,
    /// It is this other one by another name or address.
    alias: Option<ServerName>,
    /// Since when it has been reached and is no other one.
    stood: Option<Instant>,
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
        /// When it was started, for telling whether it was since.
        started: String,
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
    pub fn renew(&self, cluster: &Arc<Cluster>, near: Option<&Region>) -> Arc<Board> {
        let fresh = || Arc::new(Board::new(cluster.name.clone()));
        let board = Arc::clone(&self.0.entry(cluster.name.clone()).or_insert_with(fresh));
        board.renew(cluster, Balance { near: near.cloned(), slow_start: cluster.slow_start });
        board
    }

    /// The servers of a cluster that are not configured, and that Patroni has told of.
    pub fn members(&self, cluster: &Cluster) -> Vec<Arc<Server>> {
        let board = self.board(&cluster.name);
        let of = |board: Arc<Board>| {
            let state = board.state();
            state.is_told_of(cluster).then(|| state.roster.servers(cluster).0)
        };
        board.and_then(of).unwrap_or_default()
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
        let written = Samples::default();
        let (servers, balance) = (Vec::new(), Arc::default());
        let snapshot = Snapshot { servers, primary: None, in_doubt: false, timeline: 0, written, balance };
        let (changed, answered) = (watch::channel(()).0, watch::channel(()).0);
        let (snapshot, state, urgency) = (ArcSwap::from_pointee(snapshot), Mutex::default(), Urgency::new());
        Self { name, snapshot, state, changed, answered, urgency }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The same for a moment, without counting.
    pub fn glance(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Somebody waits to know how far the servers have come: they are asked soon.
    pub fn hurry(&self) {
        self.urgency.raise();
    }

    pub(super) fn urgency(&self) -> &Urgency {
        &self.urgency
    }

    /// Whether Patroni says who leads, where it is asked.
    pub fn is_told(&self) -> Option<bool> {
        let state = self.state();
        let asked = state.cluster.as_ref().is_some_and(|cluster| cluster.patroni.is_some());
        asked.then(|| state.roster.lock(Instant::now()) != Lock::Unknown)
    }

    /// Somebody takes writes, or would, whom Patroni does not name: its answer may be an old one.
    pub(super) fn disputes(&self) -> bool {
        let snapshot = self.glance();
        let mut fenced = snapshot.servers.iter().filter(|view| view.fenced);
        fenced.any(|view| view.seen.is_some_and(|seen| seen.timeline == snapshot.timeline))
    }

    /// Told whenever a server has answered.
    pub fn answers(&self) -> watch::Receiver<()> {
        self.answered.subscribe()
    }

    /// Has nobody read from a replica, or lets them again. `false`: there is no such server.
    pub fn hold(&self, server: &ServerName, held: bool) -> bool {
        let mut guard = self.state();
        let state = &mut *guard;
        let known = state.known.iter().any(|known| known.server.name == *server);
        let changed = match held {
            true => known && state.held.insert(server.clone()),
            // Also of one that has gone.
            false => state.held.remove(server),
        };
        self.publish(state);
        known || changed
    }

    /// A session has lost a connection to a server, or got none: nobody else is sent there before it has answered.
    pub fn doubt(&self, server: &ServerName) {
        {
            let mut guard = self.state();
            let state = &mut *guard;
            let (Some(rules), now) = (state.rules, Instant::now()) else { return };
            let Some(known) = state.known.iter_mut().find(|known| known.server.name == *server) else { return };
            if known.pulse.health() == Health::Up {
                known.pulse.failed(now, now, &rules);
                self.publish(state);
            }
        }
        self.hurry();
    }

    /// Told whenever another server takes writes, or none, or one has gone or come back.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Panics under the lock leave nothing half done that the next answer would not mend.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self, cluster: &Arc<Cluster>, balance: Balance) {
        let mut state = self.state();
        state.balance = Arc::new(balance);
        let mut before = std::mem::take(&mut state.known);
        state.rules = cluster.probe.as_ref().map(|probe| probe.rules);
        let told = state.is_told_of(cluster);
        if !told {
            state.roster = Roster::default();
        }
        state.cluster = Some(Arc::clone(cluster));
        state.known = cluster
            .all_servers()
            .map(|server| {
                let same = |known: &Known| known.server.same_place(server);
                match before.iter().position(same) {
                    Some(at) => Known { server: Arc::clone(server), ..before.swap_remove(at) },
                    None => Known::new(server),
                }
            })
            .collect();
        if !told && !state.known.iter().any(|known| known.asked) {
            // Other servers under the same name. What Patroni tells of may go and come back.
            (state.highest, state.system) = (0, None);
            (state.written, state.flushed) = Default::default();
        }
        self.publish(&mut state);
    }

    /// Takes note of what Patroni said when it was asked at this time. `true`: its members are not those in force.
    pub(super) fn told(&self, asked: Instant, told: Told, rules: &Patroni) -> bool {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(cluster) = state.cluster.clone().filter(|cluster| cluster.patroni.as_deref() == Some(rules)) else {
            return false;
        };
        let primary = self.glance().primary().cloned();
        state.roster.take(asked, told, rules, |member| member.position(primary.iter()).is_some());
        self.publish(state);
        let odd = state.odd();
        if let Some(why) = odd.as_ref().filter(|_| state.odd != odd) {
            tracing::error!(cluster = %self.name, why, "what Patroni tells cannot be followed");
        }
        state.odd = odd;
        state.roster.servers(&cluster).0 != cluster.members
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
            Answer::Said { seen, system, started } => {
                let seen = known.still(seen, started);
                state.system.get_or_insert(system);
                // While nobody takes writes, nobody falls behind.
                let led = self.snapshot.load().primary.is_some();
                let behind = (led && seen.role == Role::Replica).then(|| lag(&state.flushed, seen.lsn));
                known.said(asked, seen, behind, rules.interval * rules.up_after);
                known.pulse.answered(asked, &rules);
            }
            Answer::Closed(why) => {
                known.trouble = Some(why.into());
                // What it has told before still counts.
                let configured =
                    Seen { role: configured(&known.server), timeline: 0, lsn: Lsn::default(), bound: Lsn::default() };
                known.seen.get_or_insert(configured);
                known.pulse.answered(asked, &rules);
            }
            Answer::Full(why) => {
                known.trouble = Some(why.into());
                known.pulse.answered(asked, &rules);
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
        drop(guard);
        self.answered.send_replace(());
    }

    /// Makes known what follows from what is known.
    fn publish(&self, state: &mut State) {
        let now = Instant::now();
        state.find_aliases(&self.name);
        let verdict = if state.rules.is_some() {
            let says = |known: &Known| known.own().map(|seen| (seen.role, seen.timeline));
            let candidate = |known: &Known| Candidate { health: known.pulse.health(), says: says(known) };
            let candidates: Vec<Candidate> = state.known.iter().map(candidate).collect();
            elect(&candidates, state.highest, state.lock(now))
        } else {
            let candidate =
                |known: &Known| Candidate { health: Health::Up, says: Some((configured(&known.server), 0)) };
            elect(&state.known.iter().map(candidate).collect::<Vec<_>>(), 0, None)
        };
        // Whoever has not been asked may be on a higher timeline: the first to answer is not to be believed alone. One
        // that is the primary stays it while a server is added.
        let settled = state.rules.is_none() || state.known.iter().all(|known| known.asked);
        state.highest = verdict.highest;
        let mut told = false;
        let servers = state.known.iter_mut().enumerate().map(|(at, known)| {
            let health = if state.rules.is_some() { known.pulse.health() } else { Health::Up };
            let fenced = verdict.fenced.contains(&at);
            let published = (health, known.own().map(|seen| seen.role), fenced);
            if known.published != published {
                told |= known.published.0 != health || known.published.2 != fenced;
                (known.published, known.since) = (published, now);
            }
            let (server, trouble) = (Arc::clone(&known.server), known.trouble());
            let (samples, lag) = (known.samples.clone(), known.lags.back().map(|(_, lag)| *lag));
            let worst_lag = known.lags.iter().map(|(_, lag)| *lag).reduce(Lag::max);
            let (seen, since) = (known.own(), known.since);
            let held = state.held.contains(&server.name);
            ServerView { server, health, seen, samples, lag, worst_lag, fenced, held, since, trouble }
        });
        let servers: Vec<ServerView> = servers.collect();
        let before = self.snapshot.load();
        let stays = |at: &usize| {
            before.primary().is_some_and(|old| servers.get(*at).is_some_and(|view| view.server.same_place(old)))
        };
        let primary = verdict.primary.filter(|at| settled || stays(at));
        if let Some(known) = primary.and_then(|at| state.known.get(at)) {
            (state.written, state.flushed) = (known.samples.clone(), known.flushed.clone());
        }
        let (in_doubt, timeline) = (verdict.in_doubt, state.highest);
        let (written, balance) = (state.written.clone(), Arc::clone(&state.balance));
        let next = Snapshot { servers, primary, in_doubt, timeline, written, balance };
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

impl State {
    /// Whether what Patroni has told is about this cluster, too: it is asked at one of the same places.
    fn is_told_of(&self, cluster: &Cluster) -> bool {
        let before = self.cluster.as_ref().and_then(|before| before.patroni.as_ref());
        let (Some(before), Some(patroni)) = (before, &cluster.patroni) else { return false };
        patroni.urls.iter().any(|url| before.urls.contains(url))
    }

    /// Who holds Patroni's lock, or that nobody of these does. `None`: that is not known, or says nothing.
    fn lock(&self, now: Instant) -> Option<Option<usize>> {
        let leader = match self.roster.lock(now) {
            Lock::Unknown => return None,
            Lock::Nobody => return Some(None),
            Lock::Held(leader) => leader,
        };
        let named = |name: &ServerName| self.known.iter().position(|known| known.server.name == *name);
        match leader.position(self.known.iter().map(|known| &known.server)).and_then(|at| self.known.get(at)) {
            // Which of these it is, or whether it is one at all, is about to be found out.
            Some(known) if !known.asked => None,
            Some(known) => Some(named(known.alias.as_ref().unwrap_or(&known.server.name))),
            None => {
                let cluster = self.cluster.as_deref()?;
                let comes = leader.position(self.roster.servers(cluster).0.iter()).is_some();
                if comes { None } else { Some(None) }
            }
        }
    }

    /// What somebody has to mend.
    fn odd(&self) -> Option<String> {
        let cluster = self.cluster.as_deref()?;
        let (servers, left_out) = self.roster.servers(cluster);
        if let Lock::Held(leader) = self.roster.lock(Instant::now()) {
            let who = format!("{} at {}:{} leads", leader.name, leader.host, leader.port);
            let all = || cluster.servers.iter().chain(&servers);
            let Some(at) = leader.position(all()) else {
                return Some(format!(
                    "{who}, and in which region it is nobody says (its tag region, or clusters.{}.patroni.region): nobody \
                     writes",
                    cluster.name
                ));
            };
            let name = all().nth(at).map(|server| &server.name);
            let down = |known: &Known| Some(&known.server.name) == name && known.pulse.health() == Health::Down;
            if self.known.iter().any(|known| known.alias.is_none() && down(known)) {
                return Some(format!("{who}, and does not answer pgward there"));
            }
        }
        let names = left_out.join(", ");
        (!left_out.is_empty()).then(|| format!("not used, for want of a region or a name of their own: {names}"))
    }

    /// Servers that were started in the same moment are one. Whichever of them has been reached for longest stands for it;
    /// none does where they are said to be in several regions, since one of that is wrong.
    fn find_aliases(&mut self, cluster: &ClusterName) {
        let down = |known: &Known| known.pulse.health() == Health::Down;
        for known in self.known.iter_mut().filter(|known| known.alias.is_some() && down(known)) {
            // What it was says nothing once its twin may have become something else.
            (known.seen, known.started) = (None, None);
        }
        let of = |known: &Known| {
            let is_twin = |twin: &&Known| known.started.is_some() && twin.started == known.started;
            let twins = || self.known.iter().filter(is_twin);
            let other = || twins().find(|twin| twin.server.name != known.server.name);
            if twins().any(|twin| twin.server.region != known.server.region) {
                return other().map(|twin| twin.server.name.clone());
            }
            let stands = twins().min_by_key(|twin| (down(twin), twin.stood.is_none(), twin.stood))?;
            (stands.server.name != known.server.name).then(|| stands.server.name.clone())
        };
        let aliases: Vec<Option<ServerName>> = self.known.iter().map(of).collect();
        for (known, alias) in self.known.iter_mut().zip(aliases).filter(|(known, alias)| known.alias != *alias) {
            known.alias = alias;
            if let Some(twin) = &known.alias {
                let (server, region) = (&known.server.name, &known.server.region);
                tracing::warn!(%cluster, %server, %region, %twin, "a server is another one by another name or address; it is used if they are in one region");
            }
        }
        let now = Instant::now();
        for known in &mut self.known {
            let stands = known.alias.is_none() && known.seen.is_some() && !down(known);
            known.stood = stands.then(|| known.stood.unwrap_or(now));
        }
    }
}

impl Known {
    fn new(server: &Arc<Server>) -> Self {
        Self {
            server: Arc::clone(server),
            pulse: Pulse::new(),
            seen: None,
            started: None,
            samples: Samples::default(),
            flushed: Samples::default(),
            lags: VecDeque::new(),
            trouble: None,
            alias: None,
            stood: None,
            asked: false,
            published: (Health::Suspect, None, false),
            since: Instant::now(),
        }
    }

    /// What it says, where it is one of its own.
    fn own(&self) -> Option<Seen> {
        self.seen.filter(|_| self.alias.is_none())
    }

    fn trouble(&self) -> Option<Arc<str>> {
        let twin = self.alias.as_ref().map(|twin| format!("it is server {twin} by another name or address").into());
        twin.or_else(|| self.trouble.clone())
    }

    /// What it is as it says, but for this: a replica that nobody sends anything, as while there is no primary, tells the
    /// timeline of its last restart point, and that may be older than what it has followed since. While it runs it never
    /// goes back to an older one.
    fn still(&mut self, says: Seen, started: String) -> Seen {
        let ran_on = self.started.replace(started.clone()).is_some_and(|before| before == started);
        match self.seen {
            Some(before) if ran_on && (before.role, says.role) == (Role::Replica, Role::Replica) => {
                Seen { timeline: says.timeline.max(before.timeline), ..says }
            }
            _ => says,
        }
    }

    /// Takes note of where it is. `hold`: for how long it is remembered that it was further behind.
    fn said(&mut self, asked: Instant, seen: Seen, behind: Option<Lag>, hold: Duration) {
        let before = self.seen.replace(seen);
        if before.is_none_or(|before| (before.role, before.timeline) != (seen.role, seen.timeline)) {
            (self.samples, self.flushed, self.lags) = Default::default();
        }
        self.samples = self.samples.with(asked, seen.bound);
        self.flushed = self.flushed.with(asked, seen.lsn);
        self.lags.extend(behind.map(|lag| (asked, lag)));
        while self.lags.len() > 1 && self.lags.front().is_some_and(|(at, _)| asked.duration_since(*at) > hold) {
            self.lags.pop_front();
        }
    }
}

fn lag(flushed: &Samples, replayed: Lsn) -> Lag {
    let bytes = flushed.last().map_or(0, |sample| replayed.behind(sample.lsn));
    Lag { bytes, time: flushed.missing(replayed).map_or(Duration::ZERO, |since| since.elapsed()) }
}

fn configured(server: &Server) -> Role {
    match server.role {
        ServerRole::Primary => Role::Primary,
        ServerRole::Replica => Role::Replica,
    }
}
