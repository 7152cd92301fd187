//! How others see a session, and how they end it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::incoming::Hop;
use crate::base::{NodeName, Party};
use crate::config::{PoolMode, Settings};
use crate::pool::BackendRow;
use crate::sql::Pins;
use crate::wire::startup::Startup;

/// Why a session is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kick {
    /// Now: it set its token at the server, where that means nothing, and takes itself for another tenant's.
    Token,
    /// At the next moment between transactions: pgward is shutting down.
    Drain,
    /// Now: the drain took too long.
    Stop,
    /// Now: the token has expired.
    Expired,
    /// Now: the transaction was idle too long.
    IdleInTransaction,
    /// Now: the tenant was suspended.
    Suspended,
    /// At the next moment between transactions: the tenant or database was removed or moved.
    Moved,
    /// Now: its data may not be any more where it may have been.
    Narrowed,
    /// At the next moment between transactions: somebody at the console drains its tenant or cluster.
    Drained,
    /// At the next moment between transactions: it would keep its backend, and too many of the tenant do.
    Pinned,
    /// At the next moment between transactions: it would keep its backend, and that is a replica's.
    Replica,
}

impl Kick {
    /// It lets the session finish its transaction.
    pub(super) fn waits(self) -> bool {
        matches!(self, Self::Drain | Self::Drained | Self::Moved | Self::Pinned | Self::Replica)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Idle,
    Waiting,
    Active,
    IdleInTransaction,
    /// Another node serves it.
    Forwarded,
}

impl Phase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::IdleInTransaction => "idle_in_transaction",
            Self::Forwarded => "forwarded",
        }
    }
}

/// The backend in a session's hands, as others may know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// The number of its pool.
    pub pool: usize,
    pub pid: u32,
    pub born: Instant,
}

/// What a client says of itself.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub user: Box<str>,
    pub database: Box<str>,
    pub application: Box<str>,
}

impl Said {
    pub(super) fn of(startup: &Startup) -> Self {
        let said = |name| startup.get(name).unwrap_or_default().into();
        Self { user: said("user"), database: said("database"), application: said("application_name") }
    }
}

/// Who a session is, from login to end.
#[derive(Debug, Clone)]
pub struct Profile {
    /// What cancel requests name it by.
    pub id: u32,
    /// The number of its pool.
    pub pool: usize,
    /// `None`: it gave up its token.
    pub party: Option<Party>,
    pub said: Said,
    pub peer: Option<SocketAddr>,
    pub tls: bool,
    pub mode: PoolMode,
    /// When its token ends, in seconds since 1970. A password has no end.
    pub expires_at: Option<u64>,
    /// It is in a tenant that its token does not name.
    pub break_glass: bool,
    /// Another node has to do with it.
    pub hop: Option<Arc<Hop>>,
}

/// One session in its core's list.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// As in its profile.
    pub id: u32,
    profile: RefCell<Profile>,
    pub connected: Instant,
    pub phase: Cell<(Phase, Instant)>,
    pub pins: Cell<Pins>,
    pub backend: Cell<Option<Held>>,
    kick: Cell<Option<Kick>>,
    /// It has waited for a backend as long as it may.
    wait_over: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A session as the console shows it.
#[derive(Debug, Clone)]
pub struct ClientRow {
    pub profile: Profile,
    pub phase: Phase,
    /// How long it has been in this phase.
    pub in_phase: Duration,
    pub connected: Duration,
    pub pinned: Option<&'static str>,
    pub backend: Option<u32>,
}

impl Entry {
    pub fn new(profile: Profile) -> Self {
        let now = Instant::now();
        Self {
            id: profile.id,
            profile: RefCell::new(profile),
            connected: now,
            phase: Cell::new((Phase::Idle, now)),
            pins: Cell::default(),
            backend: Cell::new(None),
            kick: Cell::new(None),
            wait_over: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    pub fn is_of(&self, parties: &HashSet<Party>) -> bool {
        self.profile.borrow().party.as_ref().is_some_and(|party| parties.contains(party))
    }

    pub fn leave_tenant(&self) {
        let mut profile = self.profile.borrow_mut();
        profile.party = None;
        profile.expires_at = None;
        profile.break_glass = false;
    }

    pub fn enter_tenant(&self, party: Party, pool: usize, mode: PoolMode, expires_at: Option<u64>) {
        let mut profile = self.profile.borrow_mut();
        profile.party = Some(party);
        profile.pool = pool;
        profile.mode = mode;
        profile.expires_at = expires_at;
    }

    pub async fn until_kicked(&self) {
        self.until(|_| true).await;
    }

    /// Until it is not to finish anything any more.
    pub async fn until_ended(&self) {
        self.until(|kick| !kick.waits()).await;
    }

    async fn until(&self, wanted: impl Fn(Kick) -> bool) {
        poll_fn(|cx| {
            self.listen(cx);
            if self.kicked().is_some_and(&wanted) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub fn hop(&self) -> Option<Arc<Hop>> {
        self.profile.borrow().hop.clone()
    }

    pub fn came_by(&self, node: &NodeName) -> bool {
        self.profile.borrow().hop.as_ref().and_then(|hop| hop.came()).is_some_and(|came| came.node.name == *node)
    }

    pub fn set(&self, phase: Phase, now: Instant) {
        self.phase.set((phase, now));
    }

    /// Asks the session to end. What ends it now replaces what lets it finish.
    pub fn kick(&self, kick: Kick) {
        if self.kick.get().is_none_or(Kick::waits) {
            self.kick.set(Some(kick));
            self.wake();
        }
    }

    /// Ends its wait for a backend if that has taken longer than `limit`.
    pub fn limit_wait(&self, now: Instant, limit: Duration) {
        let (phase, since) = self.phase.get();
        if phase == Phase::Waiting && now.duration_since(since) > limit {
            self.wait_over.set(true);
            self.wake();
        }
    }

    pub fn take_wait_over(&self) -> bool {
        self.wait_over.take()
    }

    /// Has it look at what has changed.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub fn kicked(&self) -> Option<Kick> {
        self.kick.get()
    }

    /// The session is about to wait: a kick will wake it.
    pub fn listen(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    pub fn overdue(&self, now: Instant, unix_now: u64, settings: &Settings) -> Option<Kick> {
        let rules = &settings.session;
        if self.profile.borrow().hop.as_ref().is_some_and(|hop| !hop.stands(settings)) {
            return Some(Kick::Narrowed);
        }
        let grace = rules.expiry_grace.as_secs();
        if self.profile.borrow().expires_at.is_some_and(|at| unix_now >= at.saturating_add(grace)) {
            return Some(Kick::Expired);
        }
        let (phase, since) = self.phase.get();
        let limit = rules.idle_in_transaction_timeout;
        let idle = phase == Phase::IdleInTransaction && limit > Duration::ZERO;
        (idle && now.duration_since(since) > limit).then_some(Kick::IdleInTransaction)
    }

    pub fn row(&self, now: Instant) -> ClientRow {
        let (phase, since) = self.phase.get();
        ClientRow {
            profile: self.profile.borrow().clone(),
            phase,
            in_phase: now.duration_since(since),
            connected: now.duration_since(self.connected),
            pinned: self.pins.get().label(),
            backend: self.backend.get().map(|held| held.pid),
        }
    }

    /// The backend it holds, if it holds one.
    pub fn backend_row(&self, now: Instant) -> Option<BackendRow> {
        let held = self.backend.get()?;
        let (_, since) = self.phase.get();
        let profile = self.profile.borrow();
        Some(BackendRow {
            pool: held.pool,
            pid: held.pid,
            tenant: profile.party.as_ref().and_then(Party::tenant).map(ToString::to_string),
            client: Some(self.id),
            listens: false,
            age: now.duration_since(held.born),
            in_state: now.duration_since(since),
            close_needed: false,
        })
    }
}
