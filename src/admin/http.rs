//! HTTP: `/metrics` for Prometheus, `/live` and `/ready` for whoever restarts and routes.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::control::Control;
use super::gauges::{Family, Gauges};
use crate::base::Party;
use crate::limits::Usage;
use crate::session::Command;
use crate::topology::{Health, Lag};

/// Tenants and databases that metrics name; the rest count as `other`, so that labels stay bounded.
const NAMED: usize = 50;

/// Serves until told to stop.
pub async fn serve(listener: TcpListener, control: Control, draining: CancellationToken, stop: CancellationToken) {
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(async || "live\n"))
        .route("/ready", get(async move || ready(&draining)))
        .with_state(control);
    let served = axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "HTTP ended");
    }
}

/// Not ready as soon as draining begins, so that no new clients are sent here.
fn ready(draining: &CancellationToken) -> (StatusCode, &'static str) {
    if draining.is_cancelled() { (StatusCode::SERVICE_UNAVAILABLE, "draining\n") } else { (StatusCode::OK, "ready\n") }
}

async fn metrics(State(control): State<Control>) -> impl IntoResponse {
    for core in control.cores.iter() {
        core.ask(Command::Flush).await;
    }
    let telemetry = &control.shared.telemetry;
    telemetry.gauge("pgward_clients", &[], control.client_count() as f64);
    let forwarded = control.shared.forwarded.load(Ordering::Relaxed);
    telemetry.gauge("pgward_forwarded_clients", &[], forwarded as f64);
    let mut gauges = Gauges::default();
    pools(&control, &mut gauges).await;
    clusters(&control, &mut gauges);
    catalogue(&control, &mut gauges);
    busiest(&control, &mut gauges);
    for sample in telemetry.published() {
        let labels: Vec<(&str, &str)> = sample.labels.iter().map(|(name, of)| (*name, of.as_str())).collect();
        gauges.add(sample.family, &labels, sample.value);
    }
    let text = format!("{}{}", telemetry.render(), gauges.text());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn pools(control: &Control, gauges: &mut Gauges) {
    let mut servers = HashSet::new();
    for (pool, idle) in control.pools().await {
        if pool.replica && pool.server.is_empty() && pool.open == 0 {
            // Nobody reads there any more.
            continue;
        }
        let labels = [
            ("cluster", pool.cluster.as_str()),
            ("server", pool.server.as_str()),
            ("database", pool.database.as_str()),
            ("role", pool.role.as_str()),
        ];
        let mut backends = |state, count: usize| {
            let labels: Vec<_> = labels.into_iter().chain([("state", state)]).collect();
            gauges.add(("pgward_backends", "Backends of a pool, by state."), &labels, count as f64);
        };
        backends("idle", idle);
        backends("active", pool.open - idle);
        let most = ("pgward_backends_max", "The most backends a pool may open.");
        gauges.add(most, &labels, pool.max as f64);
        if servers.insert((pool.cluster.clone(), pool.server.clone())) {
            let waiting = ("pgward_waiting", "Sessions waiting for a backend of a server.");
            let [cluster, server, ..] = labels;
            gauges.add(waiting, &[cluster, server], pool.waiting as f64);
        }
    }
}

const UP: Family = ("pgward_server_up", "1 unless a server has been silent for too long.");
const PRIMARY: Family = ("pgward_server_primary", "1 for the server that gets the writes.");
const FENCED: Family = ("pgward_server_fenced", "1 for a server that would take writes and gets none.");
const LAG_BYTES: Family = ("pgward_server_lag_bytes", "What a replica has yet to replay of the primary's log.");
const LAG_SECONDS: Family =
    ("pgward_server_lag_seconds", "Since when the primary has had what a replica does not have yet.");
const PATRONI: Family = ("pgward_patroni_up", "1 while Patroni tells who leads.");

/// What the servers are, as they were seen last.
fn clusters(control: &Control, gauges: &mut Gauges) {
    for board in control.shared.topology.boards() {
        let snapshot = board.snapshot();
        for (at, view) in snapshot.servers.iter().enumerate() {
            let labels = [("cluster", board.name.as_str()), ("server", view.server.name.as_str())];
            let mut flag = |family, holds: bool| gauges.add(family, &labels, f64::from(u8::from(holds)));
            flag(UP, view.health != Health::Down);
            flag(PRIMARY, snapshot.primary == Some(at));
            flag(FENCED, view.fenced);
            let lag = |what: fn(Lag) -> f64| view.lag.map_or(f64::NAN, what);
            gauges.add(LAG_BYTES, &labels, lag(|lag| lag.bytes as f64));
            gauges.add(LAG_SECONDS, &labels, lag(|lag| lag.time.as_secs_f64()));
        }
        if let Some(told) = board.is_told() {
            gauges.add(PATRONI, &[("cluster", board.name.as_str())], f64::from(u8::from(told)));
        }
    }
}

const CATALOGUE_TOLD: Family = ("pgward_catalogue_up", "1 while pgward is told of the catalogue's changes.");
const CATALOGUE_AGE: Family = ("pgward_catalogue_age_seconds", "Since the catalogue's table was read last.");
const CATALOGUE_REFUSED: Family =
    ("pgward_catalogue_refused", "1 while what the catalogue's table has is not in force, since it was refused.");

fn catalogue(control: &Control, gauges: &mut Gauges) {
    let world = control.shared.world.load();
    let (Some(standing), Some(in_force)) = (&control.catalogue, &world.settings.catalogue) else { return };
    let labels = [("cluster", standing.cluster.as_str())];
    let mut flag = |family, holds: bool| gauges.add(family, &labels, f64::from(u8::from(holds)));
    flag(CATALOGUE_TOLD, standing.is_told());
    flag(CATALOGUE_REFUSED, standing.is_refused(in_force));
    gauges.add(CATALOGUE_AGE, &labels, standing.age().as_secs_f64());
}

type Of = fn(&Usage) -> f64;

const TENANTS: [(Family, Of); 3] = [
    (
        (
            "pgward_tenant_transactions",
            "Leases of a backend since the start, by the busiest tenants, all others as other.",
        ),
        transactions,
    ),
    (
        ("pgward_tenant_server_seconds", "Backend time since the start, by the busiest tenants, all others as other."),
        server_seconds,
    ),
    (("pgward_tenant_clients", "Connected clients, by the busiest tenants, all others as other."), clients),
];

const DATABASES: [(Family, Of); 3] = [
    (
        (
            "pgward_database_transactions",
            "Leases of a backend since the start, by the busiest databases without tenants, all others as other.",
        ),
        transactions,
    ),
    (
        (
            "pgward_database_server_seconds",
            "Backend time since the start, by the busiest databases without tenants, all others as other.",
        ),
        server_seconds,
    ),
    (
        (
            "pgward_database_clients",
            "Connected clients, by the busiest databases without tenants, all others as other.",
        ),
        clients,
    ),
];

fn transactions(usage: &Usage) -> f64 {
    usage.transactions() as f64
}

fn server_seconds(usage: &Usage) -> f64 {
    usage.server_time().as_secs_f64()
}

fn clients(usage: &Usage) -> f64 {
    usage.clients() as f64
}

/// What the busiest have had. Made anew for each scrape, as who they are changes.
fn busiest(control: &Control, gauges: &mut Gauges) {
    let mut usages = control.shared.usages.all();
    usages.sort_by_key(|usage| std::cmp::Reverse(usage.transactions()));
    let (mut tenants, mut databases) = (Vec::new(), Vec::new());
    for usage in &usages {
        match &usage.party {
            Party::Tenant(id) => tenants.push((id.as_str(), usage.as_ref())),
            Party::Database(name) => databases.push((&**name, usage.as_ref())),
        }
    }
    for (families, label, usages) in [(TENANTS, "tenant", tenants), (DATABASES, "database", databases)] {
        let (named, other) = usages.split_at(usages.len().min(NAMED));
        for (family, value) in families {
            for (by, usage) in named {
                gauges.add(family, &[(label, by)], value(usage));
            }
            gauges.add(family, &[(label, "other")], other.iter().map(|(_, usage)| value(usage)).sum());
        }
    }
}
