//! How others see a session, and how they end it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::base::TenantId;
use crate::config::SessionRules;

/// Why a session is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kick {
    /// At the next moment between transactions: pgward is shutting down.
    Drain,
    /// Now: the drain took too long.
    Stop,
    /// Now: the token has expired.
    Expired,
    /// Now: the transaction was idle too long.
    IdleInTransaction,
    /// At the next moment between transactions: the tenant was removed or moved.
    Moved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Idle,
    Waiting,
    Active,
    IdleInTransaction,
}

impl Phase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::IdleInTransaction => "idle_in_transaction",
        }
    }
}

/// One session in its core's list.
#[derive(Debug)]
pub(super) struct Entry {
    pub id: u32,
    pub tenant: TenantId,
    pub user: String,
    pub database: String,
    pub application: String,
    pub peer: Option<SocketAddr>,
    pub tls: bool,
    pub connected: Instant,
    pub expires_at: u64,
    pub phase: Cell<(Phase, Instant)>,
    pub pinned: Cell<Option<&'static str>>,
    pub backend: Cell<Option<u32>>,
    kick: Cell<Option<Kick>>,
    waker: RefCell<Option<Waker>>,
}

/// A session as `SHOW CLIENTS` shows it.
#[derive(Debug, Clone)]
pub struct ClientRow {
    pub id: u32,
    pub tenant: String,
    pub user: String,
    pub database: String,
    pub application: String,
    pub address: String,
    pub state: &'static str,
    pub for_seconds: u64,
    pub connected_seconds: u64,
    pub tls: bool,
    pub pinned: &'static str,
    pub backend_pid: Option<u32>,
}

/// What an entry is made of.
pub(super) struct Profile {
    pub id: u32,
    pub tenant: TenantId,
    pub user: String,
    pub database: String,
    pub application: String,
    pub peer: Option<SocketAddr>,
    pub tls: bool,
    pub expires_at: u64,
}

impl Entry {
    pub fn new(profile: Profile) -> Self {
        let Profile { id, tenant, user, database, application, peer, tls, expires_at } = profile;
        let now = Instant::now();
        Self {
            id,
            tenant,
            user,
            database,
            application,
            peer,
            tls,
            connected: now,
            expires_at,
            phase: Cell::new((Phase::Idle, now)),
            pinned: Cell::new(None),
            backend: Cell::new(None),
            kick: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    pub fn set(&self, phase: Phase, now: Instant) {
        self.phase.set((phase, now));
    }

    /// Asks the session to end. What ends it now replaces what lets it finish.
    pub fn kick(&self, kick: Kick) {
        if !matches!(self.kick.get(), None | Some(Kick::Drain | Kick::Moved)) {
            return;
        }
        self.kick.set(Some(kick));
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

    pub fn overdue(&self, now: Instant, unix_now: u64, rules: &SessionRules) -> Option<Kick> {
        if unix_now >= self.expires_at.saturating_add(rules.expiry_grace.as_secs()) {
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
            id: self.id,
            tenant: self.tenant.to_string(),
            user: self.user.clone(),
            database: self.database.clone(),
            application: self.application.clone(),
            address: self.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            state: phase.as_str(),
            for_seconds: now.duration_since(since).as_secs(),
            connected_seconds: now.duration_since(self.connected).as_secs(),
            tls: self.tls,
            pinned: self.pinned.get().unwrap_or(""),
            backend_pid: self.backend.get(),
        }
    }
}
