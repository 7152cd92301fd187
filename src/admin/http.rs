//! HTTP: `/metrics` for Prometheus, `/live` and `/ready` for whoever restarts and routes.

use std::collections::HashSet;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::control::Control;
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
    let mut servers = HashSet::new();
    for (pool, idle) in control.pools().await {
        let labels = |state| {
            [
                ("cluster", pool.cluster.as_str()),
                ("server", pool.server.as_str()),
                ("database", pool.database.as_str()),
                ("role", pool.role.as_str()),
                ("state", state),
            ]
        };
        telemetry.gauge("pgward_backends", &labels("idle"), idle as f64);
        telemetry.gauge("pgward_backends", &labels("active"), (pool.open - idle) as f64);
        let [cluster, server, database, role, _] = labels("");
        telemetry.gauge("pgward_backends_max", &[cluster, server, database, role], pool.max as f64);
        if servers.insert((pool.cluster.clone(), pool.server.clone())) {
            telemetry.gauge("pgward_waiting", &[cluster, server], pool.waiting as f64);
        }
    }
    clusters(&control);
    let text = format!("{}{}", telemetry.render(), busiest(&control));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// What the servers are, as they were seen last.
fn clusters(control: &Control) {
    let telemetry = &control.shared.telemetry;
    for board in control.shared.topology.boards() {
        let snapshot = board.snapshot();
        for (at, view) in snapshot.servers.iter().enumerate() {
            let labels = [("cluster", board.name.as_str()), ("server", view.server.name.as_str())];
            let flag = |name, holds: bool| telemetry.gauge(name, &labels, f64::from(u8::from(holds)));
            flag("pgward_server_up", view.health != Health::Down);
            flag("pgward_server_primary", snapshot.primary == Some(at));
            flag("pgward_server_fenced", view.fenced);
            let lag = |what: fn(Lag) -> f64| view.lag.map_or(f64::NAN, what);
            telemetry.gauge("pgward_server_lag_bytes", &labels, lag(|lag| lag.bytes as f64));
            telemetry.gauge("pgward_server_lag_seconds", &labels, lag(|lag| lag.time.as_secs_f64()));
        }
    }
}

/// A gauge's name, what it says, and its value for whom it counts.
type Family = (&'static str, &'static str, fn(&Usage) -> f64);

const TENANTS: [Family; 3] = [
    (
        "pgward_tenant_transactions",
        "Leases of a backend since the start, by the busiest tenants, all others as other.",
        transactions,
    ),
    (
        "pgward_tenant_server_seconds",
        "Backend time since the start, by the busiest tenants, all others as other.",
        server_seconds,
    ),
    ("pgward_tenant_clients", "Connected clients, by the busiest tenants, all others as other.", clients),
];

const DATABASES: [Family; 3] = [
    (
        "pgward_database_transactions",
        "Leases of a backend since the start, by the busiest databases without tenants, all others as other.",
        transactions,
    ),
    (
        "pgward_database_server_seconds",
        "Backend time since the start, by the busiest databases without tenants, all others as other.",
        server_seconds,
    ),
    (
        "pgward_database_clients",
        "Connected clients, by the busiest databases without tenants, all others as other.",
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

/// The busiest by name. Written here rather than recorded, since who is among them changes.
fn busiest(control: &Control) -> String {
    let mut usages = control.shared.usages.all();
    usages.sort_by_key(|usage| std::cmp::Reverse(usage.transactions()));
    let (mut tenants, mut databases) = (Vec::new(), Vec::new());
    for usage in &usages {
        match &usage.party {
            Party::Tenant(id) => tenants.push((id.as_str(), usage.as_ref())),
            Party::Database(name) => databases.push((&**name, usage.as_ref())),
        }
    }
    let mut out = String::new();
    write(&mut out, &TENANTS, "tenant", &tenants);
    write(&mut out, &DATABASES, "database", &databases);
    out
}

fn write(out: &mut String, families: &[Family], label: &str, usages: &[(&str, &Usage)]) {
    use std::fmt::Write;
    let (named, other) = usages.split_at(usages.len().min(NAMED));
    for (name, help, value) in families {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (by, usage) in named {
            let _ = writeln!(out, "{name}{{{label}=\"{}\"}} {}", escaped(by), value(usage));
        }
        let rest = other.iter().fold(0.0, |sum, (_, usage)| sum + value(usage));
        let _ = writeln!(out, "{name}{{{label}=\"other\"}} {rest}");
    }
}

/// A label's value in Prometheus text. A database may be called anything.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
