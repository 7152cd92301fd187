//! What a session finds on its thread, and what all threads share.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::sync::Semaphore;

use super::cancel::CancelKeys;
use super::entry::{ClientRow, Entry, Kick};
use super::hub::Hubs;
use super::link::Link;
use super::login::Reported;
use super::reading::Refused;
use super::room::Rooms;
use super::terms::Terms;
use super::turnstile::Turnstile;
use super::world::World;
use crate::audit::Audit;
use crate::base::{Interned, NodeName, Party};
use crate::limits::{Usage, Usages};
use crate::pool::{BackendRow, PoolKey, Pools, Shard, Statement};
use crate::sql::{Analyser, Facts};
use crate::telemetry::{CoreStats, Telemetry};
use crate::tenant::Contexts;
use crate::topology::{Functions, Topology};
use crate::wire::flow::StatementId;

/// Shared by all cores and the control plane.
pub struct Shared {
    pub world: ArcSwap<World>,
    pub pools: Pools,
    pub topology: Topology,
    pub functions: Functions,
    pub usages: Usages,
    /// Of those who are not known yet.
    pub lookups: Arc<Usage>,
    /// Of the backends that listen for sessions.
    pub listening: Arc<Usage>,
    pub hubs: Hubs,
    pub contexts: Contexts,
    pub(super) terms: Interned<Party, Terms>,
    pub cancel_keys: CancelKeys,
    pub telemetry: Arc<Telemetry>,
    pub audit: Audit,
    /// Who may hand a cancel request to another node next.
    pub(super) cancels_elsewhere: DashMap<NodeName, Arc<Semaphore>>,
    pub clients: Arc<AtomicUsize>,
    /// Those of them whom another node serves.
    pub forwarded: Arc<AtomicUsize>,
    next_statement: AtomicU64,
}

impl Shared {
    pub fn new(world: World, cores: usize, telemetry: Arc<Telemetry>, audit: Audit) -> Self {
        let usages = Usages::default();
        Self {
            world: ArcSwap::from_pointee(world),
            pools: Pools::new(cores, audit.clone()),
            topology: Topology::default(),
            functions: Functions::default(),
            lookups: usages.apart(Party::Database("".into())),
            listening: usages.apart(Party::Database("".into())),
            usages,
            hubs: Hubs::default(),
            contexts: Contexts::default(),
            terms: Interned::default(),
            cancel_keys: CancelKeys::default(),
            telemetry,
            audit,
            cancels_elsewhere: DashMap::new(),
            clients: Arc::default(),
            forwarded: Arc::default(),
            next_statement: AtomicU64::new(1),
        }
    }
}

/// Bytes that one read may bring. Large enough that big results need few system calls, small enough to
/// stay in the cache.
const CHUNK: usize = 64 * 1024;

/// What a transaction of one statement takes, and what passes through in a microsecond, as `scripts/bench` finds it.
const TRANSACTION: Duration = Duration::from_micros(15);
const BYTES_A_MICROSECOND: u64 = 1_500;

/// Shapes whose facts are remembered.
const SHAPES: usize = 8_192;

/// Startup settings whose effect is remembered.
const REPORTED: usize = 1_024;

/// A login's pool and the session's own settings.
type ReportedKey = (PoolKey, Reported);

/// A core that sessions are better served by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sends {
    pub to: usize,
    /// Only so many of them.
    pub most: Option<usize>,
}

/// One thread's own. Sessions hold it by `Rc`.
pub struct Core {
    pub shared: Arc<Shared>,
    pub shard: Shard,
    pub stats: CoreStats,
    pub draining: Cell<bool>,
    /// Where sessions go that come to rest.
    pub sends: Cell<Option<Sends>>,
    /// The kicks so far that were for all cores. They reach each in the same order.
    pub(super) kicks: Cell<u64>,
    pub(super) analyser: RefCell<Analyser>,
    entries: RefCell<HashMap<u32, Rc<Entry>>>,
    /// Statements that sessions of this core have prepared, by definition.
    statements: RefCell<HashMap<Rc<[u8]>, Weak<Statement>>>,
    /// What servers reported for sessions with settings of their own.
    reported: RefCell<HashMap<ReportedKey, Rc<Reported>>>,
    /// Lent to whoever reads or writes right now; sessions at rest hold no buffer.
    read_buffer: Cell<Vec<u8>>,
    write_buffer: Cell<Vec<u8>>,
    replay_buffers: RefCell<Vec<Vec<u8>>>,
    pub(super) turnstile: Turnstile,
    /// How much of what it did for sessions [`Core::take_worked`] has not been asked for.
    worked: Cell<Duration>,
    /// What replicas would not run.
    pub(super) refused: RefCell<Refused>,
    /// For backends in sessions' hands.
    pub(super) links: Rooms<Link>,
}

/// As many as batches are under way at once, most of the time.
const REPLAY_BUFFERS: usize = 32;

impl Core {
    pub fn new(shared: Arc<Shared>, shard: Shard) -> Self {
        Self {
            shared,
            shard,
            stats: CoreStats::default(),
            draining: Cell::new(false),
            sends: Cell::new(None),
            kicks: Cell::new(0),
            analyser: RefCell::new(Analyser::new(SHAPES)),
            entries: RefCell::default(),
            statements: RefCell::default(),
            reported: RefCell::default(),
            read_buffer: Cell::default(),
            write_buffer: Cell::default(),
            replay_buffers: RefCell::default(),
            turnstile: Turnstile::default(),
            worked: Cell::default(),
            refused: RefCell::default(),
            links: Rooms::default(),
        }
    }

    /// See [`Analyser::is_harmless`].
    pub(super) fn is_harmless(&self, text: &[u8], again: bool) -> bool {
        self.analyser.borrow_mut().is_harmless(text, again)
    }

    /// A buffer of the core's own, [`CHUNK`] bytes long.
    pub(super) fn take_read_buffer(&self) -> Vec<u8> {
        let mut buffer = self.read_buffer.take();
        buffer.resize(CHUNK, 0);
        buffer
    }

    pub(super) fn give_read_buffer(&self, buffer: Vec<u8>) {
        self.read_buffer.set(buffer);
    }

    /// An empty buffer to compose output in.
    pub(super) fn take_write_buffer(&self) -> Vec<u8> {
        let mut buffer = self.write_buffer.take();
        buffer.clear();
        buffer
    }

    pub(super) fn give_write_buffer(&self, buffer: Vec<u8>) {
        if buffer.capacity() <= 4 * CHUNK {
            self.write_buffer.set(buffer);
        }
    }

    /// An empty buffer for a client's batch.
    pub(super) fn take_replay_buffer(&self) -> Vec<u8> {
        self.replay_buffers.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn give_replay_buffer(&self, buffer: Vec<u8>) {
        let mut buffers = self.replay_buffers.borrow_mut();
        if buffer.capacity() > 0 && buffers.len() < REPLAY_BUFFERS {
            buffers.push(buffer);
        }
    }

    pub(super) fn enter(&self, entry: &Rc<Entry>) {
        self.entries.borrow_mut().insert(entry.id, Rc::clone(entry));
    }

    pub(super) fn leave(&self, entry: &Entry) {
        self.entries.borrow_mut().remove(&entry.id);
    }

    /// The statement of this definition, shared among the core's sessions.
    pub(super) fn statement(&self, definition: &[u8], facts: Facts) -> Rc<Statement> {
        let mut statements = self.statements.borrow_mut();
        if let Some(known) = statements.get(definition).and_then(Weak::upgrade) {
            return known;
        }
        let id: StatementId = self.shared.next_statement.fetch_add(1, Ordering::Relaxed);
        let fresh = Rc::new(Statement {
            id,
            definition: definition.into(),
            facts,
            judged: OnceCell::new(),
            shape: Cell::new(None),
        });
        // Entries whose statement is gone are swept when the map would grow.
        if statements.len() == statements.capacity() {
            statements.retain(|_, statement| statement.strong_count() > 0);
        }
        statements.insert(definition.into(), Rc::downgrade(&fresh));
        fresh
    }

    /// The same statement under a new number: the old one's plan has had its day.
    pub(super) fn renewed(&self, statement: &Statement) -> Rc<Statement> {
        {
            let mut statements = self.statements.borrow_mut();
            let current = statements.get(&*statement.definition).and_then(Weak::upgrade);
            match current {
                Some(current) if current.id != statement.id => return current,
                _ => drop(statements.remove(&*statement.definition)),
            }
        }
        self.statement(&statement.definition, statement.facts.clone())
    }

    pub(super) fn reported(&self, key: &ReportedKey) -> Option<Rc<Reported>> {
        self.reported.borrow().get(key).cloned()
    }

    pub(super) fn remember_reported(&self, key: ReportedKey, reported: &Rc<Reported>) {
        let mut all = self.reported.borrow_mut();
        // Settings come from clients, so there is no end to how many there may be.
        if all.len() >= REPORTED {
            all.clear();
        }
        all.insert(key, Rc::clone(reported));
    }

    pub fn clients(&self) -> usize {
        self.entries.borrow().len()
    }

    pub fn rows(&self, now: Instant) -> Vec<ClientRow> {
        self.entries.borrow().values().map(|entry| entry.row(now)).collect()
    }

    /// Backends that lie idle here or are in the hands of this core's sessions.
    pub fn backends(&self, now: Instant) -> Vec<BackendRow> {
        let mut rows = self.shard.idle_backends(now);
        rows.extend(self.entries.borrow().values().filter_map(|entry| entry.backend_row(now)));
        rows
    }

    /// Counts one of the sessions that are to go elsewhere, and says where.
    pub(super) fn send_one(&self) -> Option<usize> {
        let Sends { to, most } = self.sends.get()?;
        if let Some(most) = most {
            self.sends.set((most > 1).then(|| Sends { to, most: Some(most - 1) }));
        }
        Some(to)
    }

    /// Sessions that have done something since then.
    pub fn busy_since(&self, then: Instant) -> usize {
        self.entries.borrow().values().filter(|entry| entry.phase.get().1 > then).count()
    }

    /// Has sessions look at their backends anew, and closes those that idle for nothing.
    pub fn recheck(&self, now: Instant) {
        self.entries.borrow().values().filter(|entry| entry.backend.get().is_some()).for_each(|entry| entry.wake());
        self.shard.tidy(now);
    }

    /// Whether clients that log in wait while those who are in have much to do.
    pub fn pace_logins(&self, paced: bool) {
        self.turnstile.set_paced(paced);
    }

    /// How long this thread has worked for sessions since it was asked last, at least. Carries the counters over.
    pub fn take_worked(&self) -> Duration {
        self.flush();
        self.worked.take()
    }

    /// Carries the counters over to the shared metrics.
    pub fn flush(&self) {
        let Self { stats, worked, .. } = self;
        let bytes = stats.bytes_from_clients.get().saturating_add(stats.bytes_to_clients.get());
        let transactions = u32::try_from(stats.transactions.get()).unwrap_or(u32::MAX);
        let since = TRANSACTION.saturating_mul(transactions) + Duration::from_micros(bytes / BYTES_A_MICROSECOND);
        worked.set(worked.get().saturating_add(since));
        self.shared.telemetry.flush(stats);
    }

    /// Ends sessions: all of them, with this kick.
    pub fn kick_all(&self, kick: Kick) {
        self.kicks.set(self.kicks.get() + 1);
        let entries: Vec<Rc<Entry>> = self.entries.borrow().values().cloned().collect();
        entries.iter().for_each(|entry| entry.kick(kick));
    }

    /// Lets sessions finish that have come by another node.
    pub fn drain_of(&self, node: &NodeName) {
        self.kicks.set(self.kicks.get() + 1);
        let entries: Vec<Rc<Entry>> = self.entries.borrow().values().cloned().collect();
        entries.iter().filter(|entry| entry.came_by(node)).for_each(|entry| entry.kick(Kick::Drain));
    }

    /// Ends sessions of these tenants and databases.
    pub fn kick_of(&self, parties: &HashSet<Party>, kick: Kick) {
        self.kicks.set(self.kicks.get() + 1);
        let entries: Vec<Rc<Entry>> = self.entries.borrow().values().cloned().collect();
        entries.iter().filter(|entry| entry.is_of(parties)).for_each(|entry| entry.kick(kick));
    }

    /// Once in a while: sessions whose time is up, backends that are not worth keeping.
    pub fn tidy(&self, now: Instant, unix_now: u64) {
        let world = self.shared.world.load();
        let settings = &world.settings;
        // Waking a session only puts it on the runtime's list, so the borrow is not in its way.
        for entry in self.entries.borrow().values() {
            if let Some(kick) = entry.overdue(now, unix_now, settings) {
                entry.kick(kick);
            }
            entry.limit_wait(now, settings.pool.acquire_timeout);
        }
        self.shard.tidy(now);
    }
}
