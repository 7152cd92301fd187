//! All pools of the process, by full key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;

use super::budget::Budget;
use super::head::Head;
use super::vetting::{Mended, Vetting};
use crate::audit::Audit;
use crate::backend::{Credentials, Endpoint, Greeting, LoginSecret};
use crate::base::{ClusterName, ServerName};
use crate::config::PoolRules;
use crate::limits::Held;

/// Everything that makes two backends interchangeable, tenant context apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub cluster: ClusterName,
    pub place: Place,
    pub database: String,
    pub role: String,
    pub secret: LoginSecret,
}

impl PoolKey {
    fn is_same_login(&self, other: &Self) -> bool {
        (&self.cluster, &self.database, &self.role, &self.secret)
            == (&other.cluster, &other.database, &other.role, &other.secret)
    }
}

/// Which of a cluster's servers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Whichever takes the writes.
    Primary,
    /// The one of this name, while it can be read from.
    Replica(ServerName),
}

pub struct Pool {
    pub(super) id: usize,
    pub key: PoolKey,
    pub(super) budget: Arc<Budget>,
    rules: ArcSwap<PoolRules>,
    pub(super) head: Arc<Head>,
    /// What the first backend's login said, for clients that log in later.
    greeting: ArcSwapOption<Greeting>,
    /// Backends that are older are not used again.
    retired: ArcSwapOption<Instant>,
    /// What to make sure of before a backend is lent.
    vetting: ArcSwapOption<Vetting>,
    pub(super) mended: Mended,
    pub(super) audit: Audit,
}

pub struct Pools {
    cores: usize,
    pools: DashMap<PoolKey, Arc<Pool>>,
    heads: DashMap<(ClusterName, Place), (Arc<Head>, Arc<Budget>)>,
    next_id: AtomicUsize,
    audit: Audit,
}

/// Where the pools of a place lead.
#[derive(Debug, Clone)]
pub struct Follow {
    /// The server, if there is one.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Backends that it may have, over all pools.
    pub max_backends: Option<usize>,
    /// How long a request waits for a primary. `None`: there is never another one to wait for.
    pub patience: Option<Duration>,
}

/// One pool, for the console and the metrics.
#[derive(Debug, Clone)]
pub struct PoolRow {
    pub id: usize,
    pub cluster: String,
    /// The server's name, empty while there is none.
    pub server: String,
    /// It is for reading.
    pub replica: bool,
    pub host: String,
    pub port: Option<u32>,
    pub database: String,
    pub role: String,
    pub open: usize,
    pub max: usize,
    pub waiting: usize,
}

/// One backend, for the console.
#[derive(Debug, Clone)]
pub struct BackendRow {
    /// The number of its pool.
    pub pool: usize,
    pub pid: u32,
    /// Whom it serves, or served last.
    pub tenant: Option<String>,
    /// The session that holds it; an idle one is held by none.
    pub client: Option<u32>,
    /// It listens for sessions.
    pub listens: bool,
    pub age: Duration,
    pub in_state: Duration,
    /// It is too old and will not be lent again.
    pub close_needed: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("id", &self.id).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Pool {
    /// Its number in this process.
    pub fn id(&self) -> usize {
        self.id
    }

    pub fn credentials(&self) -> Credentials {
        Credentials {
            role: self.key.role.clone(),
            database: self.key.database.clone(),
            secret: self.key.secret.clone(),
        }
    }

    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn rules(&self) -> Arc<PoolRules> {
        self.rules.load_full()
    }

    pub(super) fn vetting(&self) -> Option<Arc<Vetting>> {
        self.vetting.load_full()
    }

    pub fn max(&self) -> usize {
        self.rules.load().max_per_login
    }

    pub fn greeting(&self) -> Option<Arc<Greeting>> {
        self.greeting.load_full()
    }

    /// Whether a backend of this age is to be used no more.
    pub(super) fn retires(&self, born: Instant) -> bool {
        self.retired.load().as_deref().is_some_and(|before| born < *before)
    }

    pub(super) fn greeted(&self, greeting: Greeting) {
        self.greeting.store(Some(Arc::new(greeting)));
    }
}

impl Pools {
    pub fn new(cores: usize, audit: Audit) -> Self {
        Self { cores, pools: DashMap::new(), heads: DashMap::new(), next_id: AtomicUsize::new(0), audit }
    }

    /// Has all pools of a place lead to the server that this says, or wait for one. True: it is another one than before.
    pub fn point(&self, cluster: &ClusterName, place: &Place, where_to: impl FnOnce() -> Follow) -> bool {
        let (head, budget) = self.head(cluster, place);
        head.point(|| {
            let follow = where_to();
            if let Some(max) = follow.max_backends {
                budget.set_max(max);
            }
            (follow.endpoint, follow.patience)
        })
    }

    /// The pool of a key, with the limits of the configuration in force.
    pub fn pool(&self, key: PoolKey, rules: &Arc<PoolRules>, vetting: Option<Vetting>) -> Arc<Pool> {
        let pool = match self.pools.get(&key) {
            Some(pool) => Arc::clone(&pool),
            None => {
                let (head, budget) = self.head(&key.cluster, &key.place);
                let fresh = || {
                    Arc::new(Pool {
                        id: self.next_id.fetch_add(1, Ordering::Relaxed),
                        key: key.clone(),
                        budget,
                        rules: ArcSwap::new(Arc::clone(rules)),
                        head,
                        greeting: ArcSwapOption::empty(),
                        retired: ArcSwapOption::empty(),
                        vetting: ArcSwapOption::from_pointee(vetting.clone()),
                        mended: Mended::default(),
                        audit: self.audit.clone(),
                    })
                };
                Arc::clone(&self.pools.entry(key.clone()).or_insert_with(fresh))
            }
        };
        let before = pool.vetting.load_full();
        let scope = |vetting: Option<&Vetting>| vetting.and_then(|vetting| vetting.scope.clone());
        if scope(before.as_deref()) != scope(vetting.as_ref()) {
            // What a role may do was asked for another scope, or for none.
            self.retire_all(|key| key.is_same_login(&pool.key));
        }
        if before.as_deref() != vetting.as_ref() || !Arc::ptr_eq(&pool.rules.load(), rules) {
            let vetting = vetting.map(Arc::new);
            for pool in self.pools.iter().filter(|entry| entry.key().is_same_login(&pool.key)) {
                pool.rules.store(Arc::clone(rules));
                pool.vetting.store(vetting.clone());
            }
        }
        pool
    }

    /// The server that pools of a place lead to now.
    pub fn leads_to(&self, cluster: &ClusterName, place: &Place) -> Option<Arc<Endpoint>> {
        self.head(cluster, place).0.at().endpoint.clone()
    }

    /// The places of a cluster that pools lead to, or did.
    pub fn places(&self, cluster: &ClusterName) -> Vec<Place> {
        self.heads.iter().filter(|entry| entry.key().0 == *cluster).map(|entry| entry.key().1.clone()).collect()
    }

    /// Has idle backends of a database closed soon, and others when they come back: somebody wants it alone.
    pub fn retire(&self, cluster: &ClusterName, database: &str) {
        self.retire_all(|key| key.cluster == *cluster && key.database == database);
    }

    fn retire_all(&self, concerned: impl Fn(&PoolKey) -> bool) {
        let now = Arc::new(Instant::now());
        for pool in self.pools.iter().filter(|entry| concerned(entry.key())) {
            pool.retired.store(Some(Arc::clone(&now)));
        }
    }

    /// The pool of the same login on another server.
    pub(super) fn sibling(&self, of: &Pool, server: &ServerName) -> Arc<Pool> {
        let key = PoolKey { place: Place::Replica(server.clone()), ..of.key.clone() };
        self.pool(key, &of.rules(), of.vetting().map(Arc::unwrap_or_clone))
    }

    /// Whether a cluster has servers to read from besides its primary.
    pub fn set_replicas(&self, cluster: &ClusterName, any: bool) {
        self.head(cluster, &Place::Primary).0.set_replicas(any);
    }

    /// Holds back whoever asks for a backend of a cluster's, or does not any more.
    pub fn hold(&self, cluster: &ClusterName, held: Held) {
        self.head(cluster, &Place::Primary).1.hold.set(held);
    }

    pub fn held(&self, cluster: &ClusterName) -> Held {
        self.head(cluster, &Place::Primary).1.hold.state()
    }

    /// Has idle backends of a server that were for reading closed soon, and others when they come back.
    pub fn leave(&self, cluster: &ClusterName, place: &Place) {
        self.retire_all(|key| key.cluster == *cluster && key.place == *place);
    }

    /// Drops a pool that nobody else has. A core that has its own share of it keeps it.
    pub fn forget(&self, pool: Arc<Pool>) {
        // One is the map's own, one the caller's.
        self.pools.remove_if(&pool.key, |_, known| Arc::ptr_eq(known, &pool) && Arc::strong_count(known) <= 2);
    }

    fn head(&self, cluster: &ClusterName, place: &Place) -> (Arc<Head>, Arc<Budget>) {
        let fresh = || (Arc::new(Head::new()), Arc::new(Budget::new(0, self.cores)));
        let entry = self.heads.entry((cluster.clone(), place.clone())).or_insert_with(fresh);
        (Arc::clone(&entry.0), Arc::clone(&entry.1))
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        let mut rows: Vec<PoolRow> = self
            .pools
            .iter()
            .map(|entry| {
                let pool = entry.value();
                let at = pool.head.at();
                let endpoint = at.endpoint.as_ref();
                PoolRow {
                    id: pool.id,
                    cluster: pool.key.cluster.to_string(),
                    replica: pool.key.place != Place::Primary,
                    server: endpoint.map(|endpoint| endpoint.server.to_string()).unwrap_or_default(),
                    host: endpoint.map(|endpoint| endpoint.host.clone()).unwrap_or_default(),
                    port: endpoint.map(|endpoint| endpoint.port.into()),
                    database: pool.key.database.clone(),
                    role: pool.key.role.clone(),
                    open: pool.budget.open_in(pool),
                    max: pool.max(),
                    waiting: pool.budget.waiting(),
                }
            })
            .collect();
        rows.sort_by(|a, b| {
            (&a.cluster, &a.database, &a.role, &a.server).cmp(&(&b.cluster, &b.database, &b.role, &b.server))
        });
        rows
    }
}
