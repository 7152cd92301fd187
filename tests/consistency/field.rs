//! What all players share: pgward in front of a cluster, the tenants with their modes, and the objects that there are.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgward::local::Cluster;

use super::history::{Kind, Mode, Moment, Object, Shown};
use super::support::replicated::{self, shown};
use super::support::{Stage, furnish, one, until};

const BOUND: Duration = Duration::from_millis(300);

/// Tenants of two each; `t0` is the first.
const MODES: [Mode; 4] = [Mode::Session, Mode::Tenant, Mode::Bounded(BOUND), Mode::Eventual];
pub const TENANTS: usize = 2 * MODES.len();

pub const SERVERS: [&str; 3] = ["check-1", "check-2", "check-3"];

/// Of a tenant's objects that may be read. Older ones have all been read often.
const RECENT: usize = 24;

const TABLES: &str = "
    create table registers (
        key text,
        value bigint not null,
        tenant_id text not null default pgward.tenant(),
        primary key (tenant_id, key)
    );
    create table appends (
        serial bigint generated always as identity,
        list text not null,
        n bigint not null,
        tenant_id text not null default pgward.tenant(),
        primary key (tenant_id, list, serial)
    );
    create function where_am_i() returns int language sql stable as 'select inet_server_port()';";

pub struct Field {
    pub stage: Stage,
    begin: Instant,
    pub over: AtomicBool,
    /// Operations so far.
    pub done: AtomicU64,
    sessions: AtomicUsize,
    /// By tenant.
    objects: Vec<Mutex<Vec<Arc<Object>>>>,
}

/// A primary and two replicas. What is acknowledged one of the replicas has, at least.
pub async fn cluster() -> Cluster {
    let names: Vec<String> = SERVERS.iter().map(|name| format!("\"{name}\"")).collect();
    let builder = Cluster::builder("check")
        .setting("max_connections", "100")
        .setting("wal_keep_size", "256MB")
        .setting("wal_retrieve_retry_interval", "100ms")
        .setting("synchronous_standby_names", &format!("ANY 1 ({})", names.join(", ")));
    let mut cluster = builder.replica(SERVERS[1]).replica(SERVERS[2]).start().await.unwrap();
    furnish(&cluster).await;
    let mut text = TABLES.to_owned();
    for table in ["registers", "appends"] {
        write!(
            text,
            "alter table {table} enable row level security;
            alter table {table} force row level security;
            create policy own_rows on {table} for all
                using (tenant_id = (select pgward.tenant())) with check (tenant_id = (select pgward.tenant()));
            grant select, insert, update on {table} to pgward_app;"
        )
        .unwrap();
    }
    cluster.primary().run("app", "make what is written and read", &text).await.unwrap();
    cluster.caught_up().await.unwrap();
    // Wherever a replica begins anew, there are the tables.
    for server in cluster.servers() {
        server.run("postgres", "begin the log anew", "checkpoint").await.unwrap();
    }
    cluster
}

impl Field {
    pub async fn new(cluster: &Cluster) -> Self {
        let stage = replicated::stage(cluster, "", "slow_start = \"0s\"", &[]).await;
        let mut text = std::fs::read_to_string(&stage.path).unwrap();
        for tenant in 0..TENANTS {
            let table = format!("[tenants.t{tenant}]\n");
            assert!(text.contains(&table));
            let bound = match mode(tenant) {
                Mode::Bounded(bound) => format!(", max_staleness = \"{}ms\"", bound.as_millis()),
                _ => String::new(),
            };
            let reads = format!("{table}reads = {{ consistency = \"{}\"{bound} }}\n", mode(tenant).name());
            text = text.replace(&table, &reads);
        }
        std::fs::write(&stage.path, text).unwrap();
        stage.control.reload().await.unwrap();
        for server in cluster.replicas() {
            until("the replica", async || shown(&stage, server.name()).await == ["replica", "up", "no"]).await;
        }
        let client = stage.connect("t6").await;
        let primary = cluster.primary().port().to_string();
        let port = async || one(&client, "select where_am_i()").await;
        until("a call on a replica", async || port().await != primary).await;
        Self {
            stage,
            begin: Instant::now(),
            over: AtomicBool::new(false),
            done: AtomicU64::new(0),
            sessions: AtomicUsize::new(0),
            objects: (0..TENANTS).map(|tenant| Mutex::new(counters(tenant))).collect(),
        }
    }

    pub fn now(&self) -> Moment {
        self.begin.elapsed()
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn number_session(&self) -> usize {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on there is this one, too.
    pub fn add(&self, tenant: usize, kind: Kind, key: String) -> Arc<Object> {
        let object = object(tenant, kind, key);
        self.objects[tenant].lock().unwrap().push(Arc::clone(&object));
        object
    }

    pub fn recent(&self, tenant: usize) -> Vec<Arc<Object>> {
        let objects = self.objects[tenant].lock().unwrap();
        let (counters, others) = objects.split_at(COUNTERS);
        counters.iter().chain(&others[others.len().saturating_sub(RECENT)..]).cloned().collect()
    }

    /// Everything that there is, of everybody, asked of a server itself.
    pub async fn look(&self, server: &tokio_postgres::Client) -> Vec<(Arc<Object>, Shown)> {
        let mut found: HashMap<(Kind, String, String), Shown> = HashMap::new();
        let registers = "select tenant_id, key, value from registers";
        for row in server.query(registers, &[]).await.unwrap() {
            let value = u64::try_from(row.get::<_, i64>(2)).unwrap();
            for kind in [Kind::Register, Kind::Counter] {
                found.insert((kind, row.get(0), row.get(1)), Shown::Value(value));
            }
        }
        let lists = "select tenant_id, list, array_agg(n order by serial) from appends group by 1, 2";
        for row in server.query(lists, &[]).await.unwrap() {
            let elements: Vec<i64> = row.get(2);
            let elements = elements.into_iter().map(|n| u64::try_from(n).unwrap()).collect();
            found.insert((Kind::List, row.get(0), row.get(1)), Shown::List(elements));
        }
        let mut all = Vec::new();
        for objects in &self.objects {
            for object in objects.lock().unwrap().iter() {
                let shown = found.remove(&(object.kind, object.tenant.clone(), object.key.clone()));
                all.push((Arc::clone(object), shown.unwrap_or_else(|| Shown::nothing(object.kind))));
            }
        }
        all
    }
}

const COUNTERS: usize = 2;

fn counters(tenant: usize) -> Vec<Arc<Object>> {
    (0..COUNTERS).map(|i| object(tenant, Kind::Counter, format!("counter-{i}"))).collect()
}

fn object(tenant: usize, kind: Kind, key: String) -> Arc<Object> {
    Arc::new(Object { mode: mode(tenant), kind, tenant: format!("t{tenant}"), key })
}

fn mode(tenant: usize) -> Mode {
    MODES[tenant / 2 % MODES.len()]
}
