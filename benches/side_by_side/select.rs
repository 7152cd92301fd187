//! pgbench's select-only transaction, by all the ways clients send it, in front of PostgreSQL and in front of a server
//! that costs next to nothing. Clients of all targets stay connected, and take turns of half a second, since what a
//! machine does besides changes within seconds.

use std::path::Path;
use std::slice::from_ref;
use std::time::Duration;

use serde_json::{Value, json};

use super::driver::{Clients, Figures, Seen, Way};
use super::mock::Mock;
use super::peers::{Bouncer, Peer};
use super::setup::Setup;
use super::stage::{Stage, Target, plain, reading, tenant};
use super::table::{median, number, print, show};

const TURN: Duration = Duration::from_millis(500);

/// More connections than this are not made to PostgreSQL without a pool.
const WITHOUT_POOL: usize = 100;

pub struct Plan<'a> {
    pub turns: usize,
    pub clients: &'a [usize],
    pub modes: &'a [String],
    /// All, where there are none.
    pub through: &'a [String],
}

/// The proxies in front of a server that costs next to nothing, so that it is they who are measured.
pub fn mocked(plan: &Plan<'_>, cores: Option<usize>, other: Option<&Path>) -> Value {
    let mock = Mock::start();
    let port = mock.address.port();
    let setup = Setup::new(port, cores);
    let pgward = setup.start();
    let other = other.map(|binary| setup.start_binary(binary));
    let replica = Mock::replica();
    let split = Setup::new(port, cores).replica(replica.address.port()).start();
    let (pgbouncer, haproxy) = (Peer::pgbouncer(&Bouncer::new(port)), Peer::haproxy(port));
    let relay = Peer::relay(port);
    let mut targets = vec![
        plain("direct", mock.address, None),
        plain("relay", relay.address, Some(relay.pid)),
        plain("haproxy", haproxy.address, Some(haproxy.pid)),
        plain("pgbouncer", pgbouncer.address, Some(pgbouncer.pid)),
        tenant(&pgward, "pgward", "t1"),
        reading(&split, &replica),
    ];
    targets.extend(other.as_ref().map(|other| tenant(other, "other", "t1")));
    compare("In front of a mocked server", plan, &|_, _| targets.clone())
}

/// pgward serves a tenant at level `rows` whose context is set, on the same tables and by the same text as everybody
/// else, so that the server's work is equal.
pub fn real(stage: &Stage, plan: &Plan<'_>) -> Value {
    let targets = |mode: &str, clients: usize| {
        let mut targets = vec![stage.tenant("pgward", "t1"), stage.tenant("pgward, level schema", "own")];
        // Debian 12's PgBouncer, 1.18, knows no prepared statements under transaction pooling.
        if mode != "prepared" {
            targets.push(stage.bouncer());
        }
        if clients <= WITHOUT_POOL {
            targets.push(stage.direct());
        }
        targets
    };
    compare("In front of PostgreSQL", plan, &targets)
}

struct Case {
    mode: String,
    clients: usize,
    target: Target,
    seen: Vec<Seen>,
}

fn compare(title: &str, plan: &Plan<'_>, targets: &dyn Fn(&str, usize) -> Vec<Target>) -> Value {
    let mut table = Vec::new();
    let mut values = Vec::new();
    for mode in plan.modes {
        for &clients in plan.clients {
            let mut targets = targets(mode, clients);
            targets.retain(|target| plan.through.is_empty() || plan.through.iter().any(|name| name == target.name));
            let cases = take_turns(mode, clients, targets, plan.turns);
            let bouncer = cases.iter().find(|case| case.target.name == "pgbouncer");
            for case in &cases {
                let (row, value) = line(case, bouncer);
                table.push(row);
                values.push(value);
            }
        }
    }
    let heads = ["mode", "clients", "through", "tps", "x", "p50 ms", "x", "p99 ms", "x", "proxy CPU us/txn", "x"];
    print(&format!("{title}; x: of PgBouncer's"), &heads, &table);
    Value::Array(values)
}

fn take_turns(mode: &str, clients: usize, targets: Vec<Target>, turns: usize) -> Vec<Case> {
    eprintln!("{mode}, {clients} clients: {turns} turns for each of {}", targets.len());
    let way = Way::of_pgbench(mode);
    let ready: Vec<Clients> = targets.iter().map(|target| Clients::log_in(from_ref(target), clients, &way)).collect();
    let case = |target| Case { mode: mode.to_owned(), clients, target, seen: Vec::new() };
    let mut cases: Vec<Case> = targets.into_iter().map(case).collect();
    for turn in 0..turns {
        for at in 0..cases.len() {
            // Nobody is always the one behind the same neighbour.
            let at = if turn % 2 == 0 { at } else { cases.len() - 1 - at };
            let seen = ready[at].drive(TURN);
            cases[at].seen.push(seen);
        }
    }
    cases
}

fn line(case: &Case, bouncer: Option<&Case>) -> (Vec<String>, Value) {
    let own = Figures::of(&case.seen);
    let other = bouncer.map(|case| Figures::of(&case.seen));
    // Of turns that follow each other.
    let neighbours = |what: fn(&Seen) -> f64| {
        let others = bouncer.map_or(&[] as &[Seen], |case| &case.seen);
        median(case.seen.iter().zip(others).map(|(a, b)| what(a) / what(b)).collect())
    };
    let of = |what: fn(&Figures) -> f64| other.as_ref().map_or(f64::NAN, |other| what(&own) / what(other));
    let (tps, cpu) = (neighbours(|seen| seen.tps), neighbours(|seen| seen.cpu));
    let (p50, p99) = (of(|figures| figures.p50_ms), of(|figures| figures.p99_ms));
    let row = vec![
        case.mode.clone(),
        case.clients.to_string(),
        case.target.name.to_owned(),
        show(own.tps, 0),
        show(tps, 2),
        show(own.p50_ms, 3),
        show(p50, 2),
        show(own.p99_ms, 3),
        show(p99, 2),
        show(own.cpu, 1),
        show(cpu, 2),
    ];
    let value = json!({
        "mode": case.mode,
        "clients": case.clients,
        "target": case.target.name,
        "tps": number(own.tps),
        "p50_ms": number(own.p50_ms),
        "p99_ms": number(own.p99_ms),
        "cpu_us_per_transaction": number(own.cpu),
        "of_pgbouncer": { "tps": number(tps), "p50": number(p50), "p99": number(p99), "cpu": number(cpu) },
    });
    (row, value)
}
