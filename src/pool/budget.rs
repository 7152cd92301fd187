//! What is open on one server, and who waits for it. Shared by all cores.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use tokio::sync::oneshot;

use super::conn::Conn;
use super::registry::Pool;
use crate::limits::{FairQueue, Hold, LeaseSlot, Usage};

/// How long a waiter lets those of the serving core go first.
const PATIENCE: Duration = Duration::from_millis(10);

/// A server's backends.
#[derive(Debug)]
pub struct Budget {
    max: AtomicUsize,
    pub hold: Hold,
    /// Waiters in the queue. Read on every release, which is why it stands outside the lock.
    ///
    /// A waiter queues and then looks at `idle`; a release adds to `idle` and then looks at `waiting`.
    /// Both in sequentially consistent order, so at least one of them sees the other.
    waiting: AtomicUsize,
    /// Backends that are lent, where that is counted.
    lent: AtomicUsize,
    /// Idle backends by core.
    idle: Vec<IdleCount>,
    state: Mutex<State>,
}

/// On a cache line of its own, since each core writes its own all the time.
#[derive(Debug, Default)]
#[repr(align(64))]
struct IdleCount(AtomicUsize);

#[derive(Debug, Default)]
struct State {
    open: usize,
    by_pool: HashMap<usize, usize, RandomState>,
    queue: FairQueue<u64, Waiter>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub pool: Arc<Pool>,
    pub usage: Arc<Usage>,
    pub max_leases: usize,
    /// The core it waits on, and since when.
    pub core: usize,
    pub since: Instant,
    pub reply: oneshot::Sender<Grant>,
}

/// What a waiter is handed. Each part frees itself when the waiter is gone.
#[derive(Debug)]
pub(super) enum Grant {
    Conn(LeaseSlot, Box<Conn>),
    Open(LeaseSlot, Permit),
}

/// The right to have one backend open; given back on drop, to whoever waits.
#[derive(Debug)]
pub struct Permit {
    pool: Arc<Pool>,
}

impl Budget {
    pub fn new(max: usize, cores: usize) -> Self {
        Self {
            max: AtomicUsize::new(max),
            hold: Hold::default(),
            waiting: AtomicUsize::new(0),
            lent: AtomicUsize::new(0),
            idle: (0..cores).map(|_| IdleCount::default()).collect(),
            state: Mutex::default(),
        }
    }

    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Leases of replicas' backends, and those who wait for one.
    pub fn busy(&self) -> usize {
        self.lent.load(Ordering::Relaxed) + self.waiting()
    }

    pub fn open(&self) -> usize {
        self.state().open
    }

    pub fn open_in(&self, pool: &Pool) -> usize {
        self.state().by_pool.get(&pool.id).copied().unwrap_or(0)
    }

    /// Panics under the lock cannot leave it half changed: each change is one addition.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn idle_changed(&self, core: usize, more: bool) {
        if let Some(count) = self.idle.get(core) {
            if more {
                count.0.fetch_add(1, Ordering::SeqCst);
            } else {
                count.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    pub(super) fn has_idle(&self, core: usize) -> bool {
        self.idle.get(core).is_some_and(|count| count.0.load(Ordering::SeqCst) > 0)
    }

    pub(super) fn cores_with_idle(&self) -> impl Iterator<Item = usize> {
        self.idle.iter().enumerate().filter(|(_, count)| count.0.load(Ordering::SeqCst) > 0).map(|(core, _)| core)
    }

    /// A permit, if there is room and nobody was here first.
    pub(super) fn permit(&self, pool: &Arc<Pool>) -> Option<Permit> {
        let mut state = self.state();
        (!self.hold.is_on() && state.queue.is_empty() && state.room(self, pool)).then(|| state.take(pool))
    }

    /// True: there is room to open a backend for it, which came up meanwhile or which others may have first.
    pub(super) fn enqueue(&self, waiter: Waiter) -> bool {
        let mut state = self.state();
        let (tenant, room) = (waiter.usage.id, state.room(self, &waiter.pool));
        state.queue.push(&tenant, waiter);
        self.waiting.store(state.queue.len(), Ordering::SeqCst);
        room
    }

    /// The next waiter that `has_idle` can serve, or that there is room to open a backend for; those of this core
    /// first, if one is given. Waiters that gave up are dropped on the way.
    fn next(
        &self,
        core: Option<usize>,
        has_idle: impl Fn(&Pool) -> bool,
    ) -> Option<(Waiter, LeaseSlot, Option<Permit>)> {
        let mut core = core;
        let now = Instant::now();
        let mut guard = self.state();
        let state = &mut *guard;
        loop {
            let State { open, by_pool, queue } = state;
            let max = self.max.load(Ordering::Relaxed);
            let room = |pool: &Pool| *open < max && by_pool.get(&pool.id).copied().unwrap_or(0) < pool.max();
            let servable = |waiter: &Waiter| {
                waiter.usage.may_lease(waiter.max_leases) && (has_idle(&waiter.pool) || room(&waiter.pool))
            };
            let (cost, passed_over) = (Cell::new(0), Cell::new(false));
            let near = |waiter: &Waiter| {
                core.is_none_or(|core| core == waiter.core) || now.duration_since(waiter.since) > PATIENCE
            };
            let waiter = queue.pop(
                |_| cost.get(),
                |_, waiter| {
                    let fits = waiter.reply.is_closed() || servable(waiter);
                    let chosen = fits && near(waiter);
                    passed_over.set(passed_over.get() || fits != chosen);
                    cost.set(waiter.usage.expected_cost());
                    chosen
                },
            );
            self.waiting.store(queue.len(), Ordering::SeqCst);
            let waiter = match waiter {
                Some(waiter) => waiter,
                None if passed_over.get() => {
                    core = None;
                    continue;
                }
                None => return None,
            };
            if waiter.reply.is_closed() {
                continue;
            }
            // Another core may have taken the tenant's last slot since: then the waiter goes back.
            let Some(slot) = waiter.usage.lease(waiter.max_leases) else {
                let tenant = waiter.usage.id;
                queue.push(&tenant, waiter);
                self.waiting.store(queue.len(), Ordering::SeqCst);
                return None;
            };
            let permit = (!has_idle(&waiter.pool)).then(|| state.take(&waiter.pool));
            return Some((waiter, slot, permit));
        }
    }

    /// Serves one waiter from `take_idle` or from what room there is, outside the lock. Those of the serving
    /// core come first, since moving a backend to another one takes system calls and a wake-up; those
    /// who have waited long are served wherever they are. False: there is none to be served.
    pub(super) fn serve_one(
        &self,
        core: Option<usize>,
        has_idle: impl Fn(&Pool) -> bool,
        take_idle: impl FnOnce(&Pool) -> Option<Box<Conn>>,
    ) -> bool {
        if self.waiting() == 0 || self.hold.is_on() {
            return false;
        }
        let Some((waiter, slot, permit)) = self.next(core, has_idle) else { return false };
        let grant = match permit {
            Some(permit) => Grant::Open(slot, permit),
            None => match take_idle(&waiter.pool) {
                Some(conn) => Grant::Conn(slot, conn),
                // It was dead after all. Its permit is free now, so the waiter queues for that.
                None => {
                    drop(slot);
                    self.enqueue(waiter);
                    return true;
                }
            },
        };
        // A waiter that gave up in this moment: dropping the grant frees what is in it.
        drop(waiter.reply.send(grant));
        true
    }

    /// Whether somebody waits for room on the server while other pools' backends idle there.
    pub(super) fn wants_eviction(&self) -> bool {
        self.waiting() > 0 && !self.hold.is_on() && self.state().open >= self.max.load(Ordering::Relaxed)
    }
}

/// Counts a lease for as long as it lives.
#[derive(Debug)]
pub(super) struct Lent(Arc<Budget>);

impl Lent {
    pub fn new(budget: &Arc<Budget>) -> Self {
        budget.lent.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(budget))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.lent.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    fn room(&self, budget: &Budget, pool: &Pool) -> bool {
        self.open < budget.max.load(Ordering::Relaxed) && self.by_pool.get(&pool.id).copied().unwrap_or(0) < pool.max()
    }

    fn take(&mut self, pool: &Arc<Pool>) -> Permit {
        self.open += 1;
        *self.by_pool.entry(pool.id).or_default() += 1;
        Permit { pool: Arc::clone(pool) }
    }
}

impl Permit {
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let budget = &self.pool.budget;
        {
            let mut state = budget.state();
            state.open = state.open.saturating_sub(1);
            if let Entry::Occupied(mut count) = state.by_pool.entry(self.pool.id) {
                *count.get_mut() = count.get().saturating_sub(1);
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        while budget.serve_one(None, |_| false, |_| None) {}
    }
}
