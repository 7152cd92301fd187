//! Reads on replicas: what a request is for is found out before it gets a backend, and the server that it is to be had
//! from with it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use super::entry::Phase;
use super::names::Names;
use super::refuse;
use super::serve::{End, Need, Session};
use super::trial::Trial;
use crate::base::ServerName;
use crate::config::{self, Consistency, ReadRoute};
use crate::pool::{AcquireError, Lease, Local, Place};
use crate::route::{self, Before, Choice, Read, Server};
use crate::sql::local_route;
use crate::telemetry::add;
use crate::topology::{Board, DatabaseFunctions, ServerView};
use crate::wire::backend::Transaction;

/// What a session that may read from replicas knows for that.
pub(super) struct Reading {
    board: Arc<Board>,
    pub functions: Arc<DatabaseFunctions>,
    /// When its last transaction was over, and who served it. `None`: the primary.
    before: Option<(Instant, Option<Rc<Local>>)>,
    /// When it may have written something last.
    wrote: Option<Instant>,
    asks: Asks,
    /// Requests sent since then.
    requests: usize,
    /// When the read was asked for that no server has been found for yet.
    since: Option<Instant>,
    /// Until when it waits for one.
    until: Instant,
    /// Servers are to be asked at once: what they say next may be what it waits for.
    urgent: bool,
    /// The replica that is to serve what is asked for. `None`: the primary does.
    target: Option<Rc<Local>>,
    /// What is asked for was with a replica, which could not do it.
    pub returned: bool,
    pub trial: Trial,
}

/// What the session asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Reads,
    MayWrite,
    /// It is about the session itself, and shows nothing of the data.
    Session,
}

/// What goes along with a session to another core.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedReading {
    before: Option<Instant>,
    wrote: Option<Instant>,
}

/// Shapes of texts that replicas would not run though they looked as if they only read, by the pool that they came from.
#[derive(Default)]
pub(super) struct Refused(HashMap<(u128, usize), Instant>);

impl Refused {
    const MOST: usize = 1_024;
    /// What they call may have become another thing since.
    const LASTS: Duration = Duration::from_secs(300);

    pub fn add(&mut self, key: u128, pool: usize) {
        // Names of a tenant's own making: there is no end to how many there may be.
        if self.0.len() >= Self::MOST {
            self.0.clear();
        }
        self.0.insert((key, pool), Instant::now());
    }

    pub fn has(&self, key: u128, pool: usize) -> bool {
        !self.0.is_empty() && self.0.get(&(key, pool)).is_some_and(|at| at.elapsed() < Self::LASTS)
    }
}

impl Session {
    /// Finds out which server is to serve the request that begins here. `Some`: not yet, for this is awaited first.
    pub(super) fn aim(&mut self, input: &[u8]) -> Result<Option<Need>, End> {
        let route = self.read_route();
        let always = route == ReadRoute::Replica;
        let held = self.local.pool.budget().hold.is_on();
        // While the cluster is paused, all wait in one queue, except for those that the primary is not to serve.
        if route == ReadRoute::Primary || self.nobody || (held && !always) || !self.begins_reading(always) {
            self.target_primary(Asks::MayWrite);
            return Ok(None);
        }
        let returned = self.reading.as_mut().is_some_and(|reading| std::mem::take(&mut reading.returned));
        // A session that keeps its backend keeps it for what is written too, and standbys have no such transactions.
        let serializable = self.context.setting("default_transaction_isolation") == Some("serializable");
        let judged = always || (self.pins.is_empty() && !returned && !serializable);
        let ahead = if judged { self.look_ahead(input) } else { Ahead::MayWrite };
        let trial = match ahead {
            Ahead::Incomplete => return Ok(Some(Need::Bytes)),
            // Once, and where the backend goes back behind it.
            Ahead::Reads { length, again } => (again && self.pins.is_empty() && self.replayed == 0).then_some(length),
            Ahead::MayWrite | Ahead::Session if always => None,
            Ahead::MayWrite | Ahead::Session => {
                let asks = if matches!(ahead, Ahead::Session) { Asks::Session } else { Asks::MayWrite };
                self.target_primary(asks);
                return Ok(None);
            }
        };
        let (choice, server) = if held { (Choice::Nobody { ever: true }, None) } else { self.choose(always) };
        match (choice, server) {
            (Choice::Replica(_), Some(server)) => {
                self.target_replica(&server.name);
                let batch = trial.and_then(|length| input.get(..length));
                self.begin_trial(batch);
                Ok(None)
            }
            (Choice::Primary { soon }, _) => {
                if let Some(reading) = self.reading.as_ref().filter(|_| soon) {
                    reading.board.hurry();
                }
                self.target_primary(Asks::Reads);
                Ok(None)
            }
            (Choice::Wait(until), _) => {
                self.waits_for_replica(true, |_| until);
                Ok(Some(Need::Replica))
            }
            (Choice::Nobody { .. } | Choice::Replica(_), _) => {
                let limit = self.local.pool.rules().acquire_timeout;
                let ever = !matches!(choice, Choice::Nobody { ever: false });
                if ever && Instant::now() < self.waits_for_replica(false, |since| since + limit) {
                    return Ok(Some(Need::Replica));
                }
                self.found_server();
                self.refuse_request(&refuse::no_replica())?;
                Ok(Some(Need::Answers))
            }
        }
    }

    /// Until when it does; `until`: by since when. `urgent`: what servers say next may be what it waits for.
    fn waits_for_replica(&mut self, urgent: bool, until: impl FnOnce(Instant) -> Instant) -> Instant {
        let now = Instant::now();
        let Some(reading) = self.reading.as_mut() else { return now };
        if reading.since.is_none() {
            add(&self.core.stats.replica_waits, 1);
        }
        reading.urgent = urgent;
        reading.until = until(*reading.since.get_or_insert(now));
        reading.until
    }

    /// What it asks for, and what that has to show.
    fn read<'a>(&'a self, reading: &'a Reading, always: bool) -> Read<'a> {
        let now = Instant::now();
        let before = reading.before.as_ref().map(|(at, local)| Before {
            at: *at,
            by: match local.as_ref().map(|local| &local.pool.key.place) {
                Some(Place::Replica(server)) => Server::Replica(server),
                Some(Place::Primary) | None => Server::Primary,
            },
            wrote: reading.wrote,
        });
        let since = reading.since.unwrap_or(now);
        let regions = self.terms.regions.as_deref();
        Read { rules: &self.terms.reads, regions, before, since, now, always }
    }

    fn choose(&self, always: bool) -> (Choice, Option<Arc<config::Server>>) {
        let Some(reading) = &self.reading else { return (Choice::Primary { soon: false }, None) };
        let read = self.read(reading, always);
        let busy = |view: &ServerView| self.local.busy(&view.server.name);
        let snapshot = reading.board.glance();
        let choice = route::choose(&snapshot, &read, busy, rand::random);
        let server = match choice {
            Choice::Replica(at) => snapshot.servers.get(at).map(|view| Arc::clone(&view.server)),
            _ => None,
        };
        (choice, server)
    }

    /// Whether a replica's backend may show less than the session must see, though the replica was known to have it: a server
    /// that has restarted shows less for a while. A backend lives as long as its server runs, so one that was there before
    /// the server said how far it is shows no less than that.
    pub(super) fn may_show_less(&self, lease: &Lease) -> bool {
        let (Some(reading), Some(server)) = (&self.reading, lease.replica()) else { return false };
        if self.terms.reads.consistency == Consistency::Eventual || self.read_route() == ReadRoute::Replica {
            return false;
        }
        let snapshot = reading.board.glance();
        let view = snapshot.servers.iter().find(|view| view.server.name == *server);
        !view.is_some_and(|view| {
            let asked_since = view.samples.last().is_some_and(|sample| lease.conn.backend.born < sample.asked);
            asked_since && route::serves(&snapshot, &self.read(reading, false), view)
        })
    }

    /// Such a backend is awaited: until its server has been asked again, which is soon. The primary is the way out, where
    /// there is one.
    pub(super) fn await_proof(&mut self) -> Need {
        let led = self.local.pool.head().at().endpoint.is_some();
        let limit = if led { self.terms.reads.wait } else { self.local.pool.rules().acquire_timeout };
        if Instant::now() < self.waits_for_replica(true, |since| since + limit) {
            return Need::Replica;
        }
        self.give_up_replica();
        Need::Answers
    }

    /// Where what it asks for goes, if nothing else speaks against it.
    pub(super) fn read_route(&self) -> ReadRoute {
        match self.context.route() {
            None => self.terms.route,
            Some(said) => {
                let known = ReadRoute::ALL.into_iter().find(|(name, _)| said.eq_ignore_ascii_case(name));
                // As if nothing were said where it was reset; a word that nobody knows is not guessed at.
                let default = if said.is_empty() { self.terms.route } else { ReadRoute::Primary };
                known.map_or(default, |(_, route)| route)
            }
        }
    }

    /// Whether a statement says where its transaction is to be, and that has begun elsewhere.
    pub(super) fn comes_too_late<'a>(&'a self, text: impl FnOnce(&'a Names) -> Option<&'a [u8]>) -> bool {
        let Some(link) = self.link.as_ref().filter(|link| link.transaction != Transaction::Idle) else { return false };
        let replica = link.lease.replica().is_some();
        text(&self.names).and_then(local_route).is_some_and(|said| {
            match ReadRoute::ALL.iter().find(|(name, _)| said == *name) {
                Some((_, ReadRoute::Auto)) => false,
                Some((_, ReadRoute::Replica)) => !replica,
                Some((_, ReadRoute::Primary)) | None => replica,
            }
        })
    }

    /// Whether there are replicas to choose among, or there is nothing else for it.
    fn begins_reading(&mut self, always: bool) -> bool {
        if !self.local.pool.head().has_replicas() && !always {
            return false;
        }
        if self.reading.is_none() {
            let key = &self.local.pool.key;
            let Some(board) = self.core.shared.topology.board(&key.cluster) else { return false };
            let functions = self.core.shared.functions.of(&key.cluster, &key.database);
            // What it did before nobody has kept in mind: it may have written until now.
            let before = (!self.is_new).then(|| (Instant::now(), None));
            self.reading = Some(Box::new(Reading::new(board, functions, before)));
        }
        true
    }

    /// What comes next is not looked at.
    pub(super) fn aim_blindly(&mut self) {
        self.target_primary(Asks::MayWrite);
    }

    fn target_primary(&mut self, asks: Asks) {
        if let Some(reading) = self.reading.as_mut() {
            (reading.target, reading.since, reading.asks, reading.requests) = (None, None, asks, 0);
        }
    }

    fn target_replica(&mut self, server: &ServerName) {
        let local = self.core.shard.replica(&self.local, server, &self.core.shared.pools);
        if let Some(reading) = self.reading.as_mut() {
            (reading.target, reading.asks, reading.requests) = (Some(local), Asks::Reads, 0);
        }
    }

    /// It is at a replica for a while only.
    pub(super) fn is_astray(&self) -> bool {
        let replica = self.link.as_ref().is_some_and(|link| link.lease.replica().is_some());
        replica && self.read_route() != ReadRoute::Replica
    }

    /// The pool that the next backend is to be of.
    pub(super) fn target(&self) -> &Rc<Local> {
        let target = self.reading.as_ref().and_then(|reading| reading.target.as_ref());
        target.unwrap_or(&self.local)
    }

    /// What it waits for is to come from the primary after all, if that is to serve it.
    pub(super) fn give_up_replica(&mut self) -> bool {
        let always = self.read_route() == ReadRoute::Replica;
        let Some(reading) = self.reading.as_mut().filter(|reading| reading.target.is_some() && !always) else {
            return false;
        };
        reading.target = None;
        reading.returned = true;
        self.forget_trial();
        true
    }

    /// The replica that it waits for is not to be had: another one may be.
    pub(super) fn looks_elsewhere(&mut self, error: &AcquireError) -> bool {
        let target = Rc::clone(self.target());
        let Place::Replica(server) = &target.pool.key.place else { return false };
        let again = match error {
            AcquireError::Timeout(_) => false,
            AcquireError::Open(error) if !error.is_passing() => {
                // It is this login's matter, such as that the replica does not know it yet.
                target.shun();
                true
            }
            AcquireError::Open(_) | AcquireError::NoPrimary(_) => {
                self.doubt(server);
                true
            }
        };
        self.give_up_replica() || (again && self.retry.is_none())
    }

    /// It is to be served by a replica, but the primary will do.
    pub(super) fn may_take_primary(&self) -> bool {
        self.target().pool.key.place != Place::Primary && self.read_route() == ReadRoute::Auto
    }

    /// The primary's backend is to do it, whatever it was meant for.
    pub(super) fn asks_primary(&mut self) {
        self.reading.iter_mut().for_each(|reading| reading.returned = false);
        self.forget_trial();
    }

    /// It has got a backend, or is told that there is none: it waits no more.
    pub(super) fn found_server(&mut self) {
        self.reading.iter_mut().for_each(|reading| reading.since = None);
    }

    /// It is told of something that others have done, which it may look for next.
    pub(super) fn note_told(&mut self) {
        self.is_new = false;
        self.reading.iter_mut().for_each(|reading| reading.before = Some((Instant::now(), None)));
    }

    /// A replica did not do what it should.
    pub(super) fn doubt(&self, server: &ServerName) {
        self.reading.iter().for_each(|reading| reading.board.doubt(server));
    }

    /// A transaction is over.
    pub(super) fn note_served(&mut self, by: &Rc<Local>, now: Instant) {
        let Some(reading) = self.reading.as_mut() else { return };
        let replica = (by.pool.key.place != Place::Primary).then(|| Rc::clone(by));
        if reading.returned {
            // It was refused there, so that nothing has been seen.
            (reading.target, reading.asks, reading.requests) = (None, Asks::MayWrite, 0);
            return;
        }
        // What was sent behind the first request has not been looked at.
        let asked = if reading.requests > 1 { Asks::MayWrite } else { reading.asks };
        match asked {
            _ if replica.is_some() => add(&self.core.stats.replica_transactions, 1),
            Asks::MayWrite => reading.wrote = Some(now),
            Asks::Session => return reading.requests = 0,
            Asks::Reads => {}
        }
        reading.before = Some((now, replica));
        (reading.target, reading.asks, reading.requests) = (None, Asks::MayWrite, 0);
    }

    /// Until servers have answered, or the time is up.
    pub(super) async fn await_replica(&mut self) -> Result<(), End> {
        self.need = Need::Answers;
        let Some(reading) = &self.reading else { return Ok(()) };
        let (mut answers, until) = (reading.board.answers(), reading.until);
        if reading.urgent {
            reading.board.hurry();
        }
        self.entry.set(Phase::Waiting, reading.since.unwrap_or(until));
        let (entry, slot) = (Rc::clone(&self.entry), Arc::clone(&self.key.slot));
        let cancelled = poll_fn(|cx| if slot.poll_cancelled(cx.waker()) { Poll::Ready(()) } else { Poll::Pending });
        let kicked = tokio::select! {
            biased;
            () = cancelled => false,
            _ = tokio::time::timeout_at(until.into(), answers.changed()) => false,
            () = entry.until_kicked() => true,
        };
        self.entry.take_wait_over();
        self.entry.set(Phase::Idle, Instant::now());
        if self.key.slot.waited() {
            self.found_server();
            return self.refuse_request(&refuse::canceled());
        }
        if kicked { self.heed_kick() } else { Ok(()) }
    }
}

impl Reading {
    fn new(board: Arc<Board>, functions: Arc<DatabaseFunctions>, before: Option<(Instant, Option<Rc<Local>>)>) -> Self {
        Self {
            board,
            functions,
            wrote: before.as_ref().map(|(at, _)| *at),
            before,
            asks: Asks::MayWrite,
            requests: 0,
            since: None,
            until: Instant::now(),
            urgent: false,
            target: None,
            returned: false,
            trial: Trial::default(),
        }
    }

    /// A request has been sent to the server that was found for it.
    pub fn note_request(&mut self) {
        self.requests += 1;
    }

    pub fn pack(&self) -> PackedReading {
        PackedReading { before: self.before.as_ref().map(|(at, _)| *at), wrote: self.wrote }
    }
}

impl PackedReading {
    /// Whoever served it last is taken for the primary, which is ahead of all.
    pub fn unpack(self, session: &mut Session) {
        if session.begins_reading(false)
            && let Some(reading) = session.reading.as_mut()
        {
            (reading.before, reading.wrote) = (self.before.map(|at| (at, None)), self.wrote);
        }
    }
}
