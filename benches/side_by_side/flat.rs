//! Whether a transaction costs pgward more when there are more tenants, or more clients that are connected.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::driver::{Clients, Figures, Seen, Way};
use super::mock::Mock;
use super::setup::Setup;
use super::spawned::Spawned;
use super::stage::{TENANTS, Target, tenant};
use super::table::{median, print, show};

const TURN: Duration = Duration::from_millis(500);

/// Clients that work, each of another tenant.
const WORKING: usize = 8;

/// Tenants in the catalogue, and clients connected.
const BY_TENANTS: [(usize, usize); 3] = [(10, WORKING), (1_000, WORKING), (50_000, WORKING)];
const BY_CLIENTS: [(usize, usize); 3] = [(TENANTS, 10), (TENANTS, 1_000), (TENANTS, MOST_CLIENTS)];
pub const MOST_CLIENTS: usize = 10_000;

/// A pgward and its clients.
struct Case {
    tenants: usize,
    connected: usize,
    working: Clients,
    seen: Vec<Seen>,
    _idle: Vec<TcpStream>,
    _pgward: Spawned,
}

impl Case {
    fn start(server: u16, cores: Option<usize>, (tenants, connected): (usize, usize)) -> Self {
        let pgward = Setup::new(server, cores).tenants(tenants).start();
        let targets: Vec<Target> = (0..WORKING).map(|i| tenant(&pgward, "pgward", &format!("t{i}"))).collect();
        let idle = targets.iter().cycle().take(connected - WORKING);
        let idle = idle.map(|target| target.connect().unwrap().into_socket()).collect();
        let working = Clients::log_in(&targets, WORKING, &Way::of_pgbench("simple"));
        Self { tenants, connected, working, seen: Vec::new(), _idle: idle, _pgward: pgward }
    }
}

pub fn measure(cores: Option<usize>, rounds: usize, seconds: u64) -> Value {
    let mock = Mock::start();
    let turns = 2 * rounds * usize::try_from(seconds).unwrap();
    let compare = |what: &str, sizes: [(usize, usize); 3]| {
        eprintln!("more {what}: {turns} turns for each of {}", sizes.len());
        let mut cases = sizes.map(|sizes| Case::start(mock.address.port(), cores, sizes));
        for turn in 0..turns {
            for at in 0..cases.len() {
                // Nobody is always the one behind the same neighbour.
                let at = if turn % 2 == 0 { at } else { cases.len() - 1 - at };
                let seen = cases[at].working.drive(TURN);
                cases[at].seen.push(seen);
            }
        }
        table(what, &cases)
    };
    json!({ "tenants": compare("tenants", BY_TENANTS), "clients": compare("clients", BY_CLIENTS) })
}

fn table(what: &str, cases: &[Case]) -> Value {
    let smallest = &cases[0];
    let (mut table, mut values) = (Vec::new(), Vec::new());
    for case in cases {
        let Figures { tps, cpu, .. } = Figures::of(&case.seen);
        // Of turns that follow each other.
        let pairs = case.seen.iter().zip(&smallest.seen);
        let times = median(pairs.map(|(own, other)| own.cpu / other.cpu).collect());
        table.push(vec![
            case.tenants.to_string(),
            case.connected.to_string(),
            show(tps, 0),
            show(cpu, 2),
            show(times, 3),
        ]);
        values.push(json!({
            "tenants": case.tenants,
            "clients": case.connected,
            "tps": tps,
            "cpu_us_per_transaction": cpu,
            "times": times,
        }));
    }
    let heads = ["tenants", "clients connected", "tps", "pgward CPU us/txn", "x"];
    print(&format!("More {what}, {WORKING} of which work; x: of the first line's"), &heads, &table);
    Value::Array(values)
}
