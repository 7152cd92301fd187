//! One core's share of all pools: its idle backends, and lending them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::budget::{Budget, Grant, Lent, Permit, Waiter};
use super::conn::{Conn, Lease};
use super::patience::LOOK;
use super::prepared::Prepared;
use super::registry::{BackendRow, Place, Pool, Pools};
use super::vetting;
use crate::backend::{Backend, BackendError, CancelTarget, Endpoint, Greeting};
use crate::base::ServerName;
use crate::limits::{LeaseSlot, Usage};
use crate::tenant::Context;

/// "Somebody waits on this server, and you have idle backends there."
#[derive(Debug, Clone)]
pub struct Poke(pub Arc<Budget>);

/// This core's idle backends of one pool, the one used last at the end.
#[derive(Debug)]
pub struct Local {
    pub pool: Arc<Pool>,
    #[expect(clippy::vec_box, reason = "leases hold the box, so that lending moves a pointer and allocates nothing")]
    idle: RefCell<Vec<Box<Conn>>>,
    /// The same login's on replicas, as far as somebody has read there.
    replicas: RefCell<Vec<Rc<Local>>>,
    /// A replica that did not let the login in is left alone for a while from then on.
    shunned: Cell<Option<Instant>>,
}

pub struct Shard {
    core: usize,
    /// How to reach each core, oneself among them.
    mailboxes: Vec<mpsc::UnboundedSender<Poke>>,
    pools: RefCell<HashMap<usize, Rc<Local>>>,
}

/// Who asks for a backend.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub context: &'a Arc<Context>,
    pub usage: &'a Arc<Usage>,
    pub max_leases: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    #[error("no backend became free within {0:?}")]
    Timeout(Duration),
    #[error("the cluster has had no primary for {0:?}")]
    NoPrimary(Duration),
    #[error(transparent)]
    Open(#[from] BackendError),
}

/// What asking for a backend came to.
pub enum Claim {
    Lease(Lease),
    Granted(Granted),
    Wait(Waiting),
}

/// A backend that must be opened or fetched from another core.
#[derive(Debug)]
pub struct Granted(Grant);

/// A place in the queue; dropping it gives it up.
#[derive(Debug)]
pub struct Waiting(oneshot::Receiver<Grant>);

impl Waiting {
    /// Ready with a grant, or with nothing when the queue itself is gone.
    pub fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Option<Granted>> {
        Pin::new(&mut self.0).poll(cx).map(|granted| granted.ok().map(Granted))
    }
}

impl Local {
    /// An idle backend, if possible one that serves this context already, else the one idle longest.
    fn pop(&self, context: &Arc<Context>) -> Option<Box<Conn>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let at = match idle.iter().rposition(|conn| conn.serves(context)) {
                Some(at) => at,
                None if idle.is_empty() => return None,
                None => 0,
            };
            let mut conn = idle.remove(at);
            self.pool.budget.idle_changed(conn.core, false);
            if conn.still_good() {
                return Some(conn);
            }
            // Its permit's drop looks at waiters, who may look here.
            drop(idle);
            drop(conn);
            idle = self.idle.borrow_mut();
        }
    }

    fn pop_oldest(&self) -> Option<Box<Conn>> {
        loop {
            let mut conn = {
                let mut idle = self.idle.borrow_mut();
                if idle.is_empty() {
                    return None;
                }
                idle.remove(0)
            };
            self.pool.budget.idle_changed(conn.core, false);
            if conn.still_good() {
                return Some(conn);
            }
        }
    }

    fn push(&self, conn: Box<Conn>) {
        self.pool.budget.idle_changed(conn.core, true);
        self.idle.borrow_mut().push(conn);
    }

    pub fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    /// How many a replica serves or is to serve. `None`: it does not let this login in.
    pub fn busy(&self, server: &ServerName) -> Option<usize> {
        let replicas = self.replicas.borrow();
        let Some(local) = replicas.iter().find(|local| local.is_on(server)) else { return Some(0) };
        let shunned = local.shunned.get().is_some_and(|since| since.elapsed() < SHUNNED);
        (!shunned).then(|| local.pool.budget.busy())
    }

    /// The login is not let in there.
    pub fn shun(&self) {
        self.shunned.set(Some(Instant::now()));
    }

    fn is_on(&self, server: &ServerName) -> bool {
        matches!(&self.pool.key.place, Place::Replica(name) if name == server)
    }
}

impl Shard {
    pub fn new(core: usize, mailboxes: Vec<mpsc::UnboundedSender<Poke>>) -> Self {
        Self { core, mailboxes, pools: RefCell::default() }
    }

    pub fn local(&self, pool: &Arc<Pool>) -> Rc<Local> {
        let mut pools = self.pools.borrow_mut();
        let fresh = || {
            Rc::new(Local {
                pool: Arc::clone(pool),
                idle: RefCell::default(),
                replicas: RefCell::default(),
                shunned: Cell::new(None),
            })
        };
        Rc::clone(pools.entry(pool.id).or_insert_with(fresh))
    }

    /// Drops this core's share of a pool, and the backends that idle there, unless others have it too.
    pub fn forget(&self, local: Rc<Local>) {
        // One is the map's own, one the caller's.
        if Rc::strong_count(&local) <= 2 {
            let gone = self.pools.borrow_mut().remove(&local.pool.id);
            local.idle.borrow().iter().for_each(|conn| local.pool.budget.idle_changed(conn.core, false));
            let replicas = local.replicas.take();
            // Outside the borrow: permits look for waiters on their way out.
            drop((gone, local));
            for replica in replicas {
                self.forget(replica);
            }
        }
    }

    /// The share of the same login's pool on a replica.
    pub fn replica(&self, of: &Rc<Local>, server: &ServerName, pools: &Pools) -> Rc<Local> {
        if let Some(known) = of.replicas.borrow().iter().find(|local| local.is_on(server)) {
            return Rc::clone(known);
        }
        let local = self.local(&pools.sibling(&of.pool, server));
        of.replicas.borrow_mut().push(Rc::clone(&local));
        local
    }

    /// Lends an idle backend of this core, unless somebody waits: those come first.
    pub fn try_acquire(&self, local: &Rc<Local>, request: Request<'_>) -> Option<Lease> {
        if local.pool.budget.waiting() > 0 || local.pool.budget.hold.is_on() {
            return None;
        }
        let slot = request.usage.lease(request.max_leases)?;
        let conn = local.pop(request.context)?;
        Some(lend(slot, conn, local))
    }

    /// Asks for a backend: an idle one, the right to open one, or the first that becomes free.
    pub fn claim(&self, local: &Rc<Local>, request: Request<'_>) -> Claim {
        if let Some(lease) = self.try_acquire(local, request) {
            return Claim::Lease(lease);
        }
        let budget = &local.pool.budget;
        if budget.waiting() == 0
            && !budget.hold.is_on()
            && let Some(slot) = request.usage.lease(request.max_leases)
            && let Some(permit) = budget.permit(&local.pool)
        {
            return Claim::Granted(Granted(Grant::Open(slot, permit)));
        }
        let (reply, grant) = oneshot::channel();
        let room = budget.enqueue(Waiter {
            pool: Arc::clone(&local.pool),
            usage: Arc::clone(request.usage),
            max_leases: request.max_leases,
            core: self.core,
            since: Instant::now(),
            reply,
        });
        if room || budget.has_idle(self.core) {
            self.balance(budget);
        }
        self.poke_others(budget);
        Claim::Wait(Waiting(grant))
    }

    /// Makes a lease of a grant, which may take connecting.
    pub async fn fulfil(&self, granted: Granted, local: &Rc<Local>) -> Result<Lease, AcquireError> {
        match granted.0 {
            Grant::Conn(slot, conn) => self.adopt(slot, conn, local).await,
            Grant::Open(slot, permit) => self.open(slot, permit, local).await,
        }
    }

    /// Claims, waits and fulfils, for those who have nothing else to attend to.
    pub async fn acquire(&self, local: &Rc<Local>, request: Request<'_>) -> Result<Lease, AcquireError> {
        let mut waiting = match self.claim(local, request) {
            Claim::Lease(lease) => return Ok(lease),
            Claim::Granted(granted) => return self.fulfil(granted, local).await,
            Claim::Wait(waiting) => waiting,
        };
        let mut limit = local.pool.rules().acquire_timeout;
        loop {
            match tokio::time::timeout(limit, poll_fn(|cx| waiting.poll(cx))).await {
                Ok(Some(granted)) => return self.fulfil(granted, local).await,
                Err(_) if local.pool.excuses(request.usage) => limit = LOOK,
                Ok(None) | Err(_) => return Err(local.pool.waited_too_long()),
            }
        }
    }

    /// The lease of a grant, where it is a backend of this core.
    pub fn at_hand(&self, granted: Granted, local: &Rc<Local>) -> Result<Lease, Granted> {
        match granted.0 {
            Grant::Conn(slot, conn) if conn.core == self.core => Ok(lend(slot, conn, local)),
            other => Err(Granted(other)),
        }
    }

    /// Others may have idle what those who wait can use. They only look, and poke nobody in turn.
    fn poke_others(&self, budget: &Arc<Budget>) {
        for core in budget.cores_with_idle().filter(|core| *core != self.core) {
            if let Some(mailbox) = self.mailboxes.get(core) {
                // A core that has gone has no idle backends either.
                let _ = mailbox.send(Poke(Arc::clone(budget)));
            }
        }
    }

    /// Takes over a backend that may live on another core.
    async fn adopt(&self, slot: LeaseSlot, conn: Box<Conn>, local: &Rc<Local>) -> Result<Lease, AcquireError> {
        if conn.core == self.core {
            return Ok(lend(slot, conn, local));
        }
        let Conn { backend, context, turn, used, dirty, prepared, cancel, idle_since, expires, permit, core: _, era } =
            *conn;
        let Backend { stream, pid, key, born, flow, rest, cut } = backend;
        match stream.rehome() {
            Ok(stream) => {
                let backend = Backend { stream, pid, key, born, flow, rest, cut };
                let core = self.core;
                let conn = Conn {
                    backend,
                    context,
                    turn,
                    used,
                    dirty,
                    prepared,
                    cancel,
                    core,
                    era,
                    idle_since,
                    expires,
                    permit,
                };
                Ok(lend(slot, Box::new(conn), local))
            }
            Err(_) => self.open(slot, permit, local).await,
        }
    }

    async fn open(&self, slot: LeaseSlot, permit: Permit, local: &Rc<Local>) -> Result<Lease, AcquireError> {
        let pool = &local.pool;
        let (endpoint, era, (backend, greeting)) = open_where_it_leads(pool).await?;
        let cancel = Arc::new(CancelTarget {
            endpoint,
            pid: backend.pid,
            key: backend.key.clone(),
            unsettled: AtomicBool::new(false),
        });
        // Of different lengths, so that backends opened together do not end together.
        let lifetime = pool.rules().lifetime.mul_f64(rand::random_range(0.9..1.0));
        pool.greeted(greeting);
        let conn = Conn {
            backend,
            context: None,
            turn: 0,
            used: false,
            dirty: false,
            prepared: Prepared::default(),
            cancel,
            core: self.core,
            era,
            idle_since: Instant::now(),
            expires: Instant::now() + lifetime,
            permit,
        };
        Ok(lend(slot, Box::new(conn), local))
    }

    /// Takes a backend back. It must be at rest: outside a transaction, nothing owed.
    pub fn release(&self, lease: Lease, now: Instant) {
        let Lease { slot, mut conn, since, local, _lent } = lease;
        slot.usage().served(now.duration_since(since));
        drop(slot);
        if conn.expired(now) || local.pool.retires(conn.backend.born) {
            drop(conn);
        } else {
            conn.idle_since = now;
            local.push(conn);
        }
        let budget = &local.pool.budget;
        if budget.waiting() > 0 && !self.hand_on(&local) {
            self.balance(budget);
            self.poke_others(budget);
        }
    }

    /// Serves one who waits for a backend of this pool. Everything else that could be given was given before, so
    /// nobody else needs to be looked at, except for those whom their tenant's limit held up: their turn comes when
    /// nobody waits for this pool, or the next time that somebody asks for a backend.
    fn hand_on(&self, local: &Local) -> bool {
        let this = |pool: &Pool| pool.id == local.pool.id;
        while local.idle() > 0 {
            if !local.pool.budget.serve_one(Some(self.core), this, |_| local.pop_oldest()) {
                return false;
            }
        }
        true
    }

    /// For those whose turn may have come by what was freed elsewhere, or by a reload.
    fn balance_all(&self) {
        let mut budgets: Vec<Arc<Budget>> = Vec::new();
        for local in self.pools.borrow().values().filter(|local| local.pool.budget.waiting() > 0) {
            if !budgets.iter().any(|budget| Arc::ptr_eq(budget, &local.pool.budget)) {
                budgets.push(Arc::clone(&local.pool.budget));
            }
        }
        for budget in &budgets {
            self.balance(budget);
            self.poke_others(budget);
        }
    }

    /// Serves waiters of a server with what lies idle here; where the server is full, closes the backend
    /// that idles longest in a pool for which nobody waits.
    pub fn balance(&self, budget: &Arc<Budget>) {
        let serve = || {
            let has_idle = |pool: &Pool| self.pools.borrow().get(&pool.id).is_some_and(|local| local.idle() > 0);
            let take_idle = |pool: &Pool| {
                let local = self.pools.borrow().get(&pool.id).cloned();
                local.and_then(|local| local.pop_oldest())
            };
            while budget.serve_one(Some(self.core), has_idle, take_idle) {}
        };
        serve();
        while budget.wants_eviction() {
            let Some(victim) = self.longest_idle(budget) else { break };
            // Its permit goes to the waiter.
            let Some(conn) = victim.pop_oldest() else { continue };
            drop(conn);
            serve();
        }
    }

    fn longest_idle(&self, budget: &Arc<Budget>) -> Option<Rc<Local>> {
        let pools = self.pools.borrow();
        let candidates = pools.values().filter(|local| Arc::ptr_eq(&local.pool.budget, budget));
        candidates
            .filter_map(|local| Some((local.idle.borrow().first()?.idle_since, local)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, local)| Rc::clone(local))
    }

    /// Closes backends that died, idled too long or are too old.
    pub fn tidy(&self, now: Instant) {
        self.balance_all();
        let locals: Vec<Rc<Local>> = self.pools.borrow().values().cloned().collect();
        for local in locals {
            let idle_timeout = local.pool.rules().idle_timeout;
            let mut closing = Vec::new();
            {
                let mut idle = local.idle.borrow_mut();
                let mut i = 0;
                while let Some(conn) = idle.get_mut(i) {
                    let retired = local.pool.retires(conn.backend.born);
                    let stale = retired || now.duration_since(conn.idle_since) > idle_timeout || conn.expired(now);
                    if stale || !conn.still_good() {
                        let conn = idle.remove(i);
                        local.pool.budget.idle_changed(conn.core, false);
                        closing.push(conn);
                    } else {
                        i += 1;
                    }
                }
            }
            // Outside the borrow: permits look for waiters on their way out.
            drop(closing);
        }
    }

    /// Idle backends of this core by pool.
    pub fn idle(&self) -> Vec<(Arc<Pool>, usize)> {
        self.pools.borrow().values().map(|local| (Arc::clone(&local.pool), local.idle())).collect()
    }

    /// The same one by one.
    pub fn idle_backends(&self, now: Instant) -> Vec<BackendRow> {
        let pools = self.pools.borrow();
        let rows = pools.values().flat_map(|local| {
            let idle = local.idle.borrow();
            let row = |conn: &Conn| BackendRow {
                pool: local.pool.id,
                pid: conn.backend.pid,
                tenant: conn.context.as_ref().and_then(|context| context.tenant().tenant()).map(ToString::to_string),
                client: None,
                listens: false,
                age: now.duration_since(conn.backend.born),
                in_state: now.duration_since(conn.idle_since),
                close_needed: conn.expired(now),
            };
            idle.iter().map(|conn| row(conn)).collect::<Vec<_>>()
        });
        rows.collect()
    }
}

/// How long to leave a replica alone that does not let a login in: it may have yet to hear of it.
const SHUNNED: Duration = Duration::from_secs(5);

/// How long to leave a primary alone that cannot be reached, while nobody knows yet whether it still is one.
const AGAIN: Duration = Duration::from_millis(100);

/// Opens a backend of the server that the pool leads to. Where another one may take its place, one that cannot be reached
/// is as good as none, and is waited for.
async fn open_where_it_leads(pool: &Pool) -> Result<(Arc<Endpoint>, u32, (Backend, Greeting)), AcquireError> {
    let patience = pool.head.at().patience;
    let until = Instant::now() + patience.unwrap_or_default();
    let (vetting, credentials) = (pool.vetting(), pool.credentials());
    loop {
        let primary = pool.head.primary(until).await;
        let (endpoint, era) = primary.ok_or_else(|| AcquireError::NoPrimary(patience.unwrap_or_default()))?;
        let opened = tokio::select! {
            opened = vetting::open(&endpoint, &credentials, vetting.as_deref(), pool) => opened,
            () = pool.head.outdated(era) => continue,
        };
        match opened {
            Ok(opened) => return Ok((endpoint, era, opened)),
            Err(error) if error.is_passing() && Instant::now() + AGAIN < until => {
                let _ = tokio::time::timeout(AGAIN, pool.head.outdated(era)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn lend(slot: LeaseSlot, conn: Box<Conn>, local: &Rc<Local>) -> Lease {
    let _lent = (local.pool.key.place != Place::Primary).then(|| Lent::new(&local.pool.budget));
    Lease { slot, conn, since: Instant::now(), local: Rc::clone(local), _lent }
}
