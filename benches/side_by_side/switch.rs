//! Another tenant in every transaction: a thousand tenants over twenty backends.
//!
//! Through pgward each tenant has a connection of its own, and one statement is all that is sent. The
//! customary way through PgBouncer says who it is in each transaction; backends are reset between them only where it
//! is told to. Each way reads a table with row security under its own policy.

use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lean::{Lean, query};
use super::peers::cpu_micros;
use super::stage::{Stage, TENANTS, Target};
use super::table::{median, print};

/// Transactions under way at the same time: less than there are backends, so that nobody waits for one.
const WORKERS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// pgward: a connection a tenant.
    Sealed,
    /// BEGIN, set_config, the query and COMMIT as four messages, each answered before the next.
    Four,
    /// The same, and the backend is sent DISCARD ALL before the next transaction, as pgward's are.
    FourReset,
    /// The same as four messages crammed into one.
    One,
    /// A new connection for every transaction, straight to the server.
    Reconnect,
}

const WAYS: [(Way, &str); 5] = [
    (Way::Sealed, "pgward, one statement"),
    (Way::Four, "pgbouncer, BEGIN, set_config, query, COMMIT"),
    (Way::FourReset, "pgbouncer, the same, DISCARD ALL between transactions"),
    (Way::One, "pgbouncer, BEGIN to COMMIT in one message"),
    (Way::Reconnect, "a new connection each, no proxy"),
];

pub fn measure(stage: &Stage, rounds: usize, seconds: u64) -> Value {
    let mut found: Vec<(Vec<f64>, Vec<f64>)> = vec![(Vec::new(), Vec::new()); WAYS.len()];
    for round in 1..=rounds {
        eprintln!("tenant switches, round {round} of {rounds}");
        for ((way, _), (tps, cpu)) in WAYS.iter().zip(&mut found) {
            let (one_tps, one_cpu) = run(stage, *way, seconds);
            tps.push(one_tps);
            cpu.extend(one_cpu);
        }
    }
    let sealed = median(found[0].0.clone());
    let mut table = Vec::new();
    let mut values = Vec::new();
    for ((_, name), (tps, cpu)) in WAYS.iter().zip(&found) {
        let (each, cpu) = (median(tps.clone()), median(cpu.clone()));
        let shown = if cpu.is_finite() { format!("{cpu:.1}") } else { "-".to_owned() };
        table.push(vec![(*name).to_owned(), format!("{each:.0}"), format!("{:.2}", sealed / each), shown]);
        let cpu = Some(cpu).filter(|cpu| cpu.is_finite());
        values.push(json!({ "way": name, "tps": each, "pgward_times": sealed / each, "cpu_us_per_transaction": cpu }));
    }
    let title = format!("Another tenant in every transaction: {TENANTS} tenants, 20 backends, {WORKERS} at a time");
    print(&title, &["way", "tps", "pgward is x", "proxy CPU us/txn"], &table);
    Value::Array(values)
}

fn run(stage: &Stage, way: Way, seconds: u64) -> (f64, Option<f64>) {
    let proxy = match way {
        Way::Sealed => Some(stage.pgward.pid),
        Way::Four | Way::One => stage.bouncer().pid,
        Way::FourReset => stage.resetting_bouncer().pid,
        Way::Reconnect => None,
    };
    let (start, middle) = (Barrier::new(WORKERS + 1), Barrier::new(WORKERS + 1));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (start, middle) = (&start, &middle);
                scope.spawn(move || {
                    let mut mine = Mine::new(stage, way, worker).unwrap();
                    mine.until(Instant::now() + Duration::from_millis(300)).unwrap();
                    start.wait();
                    middle.wait();
                    mine.until(Instant::now() + Duration::from_secs(seconds)).unwrap()
                })
            })
            .collect();
        start.wait();
        let before = proxy.map(cpu_micros);
        let began = Instant::now();
        middle.wait();
        let done: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        let tps = done as f64 / began.elapsed().as_secs_f64();
        let cpu = before.zip(proxy.map(cpu_micros)).map(|(before, after)| (after - before) / done as f64);
        (tps, cpu)
    })
}

/// One worker's tenants and how it reaches them.
struct Mine {
    way: Way,
    direct: Target,
    tenants: Vec<String>,
    connections: Vec<Lean>,
    at: usize,
}

impl Mine {
    fn new(stage: &Stage, way: Way, worker: usize) -> io::Result<Self> {
        let tenants: Vec<String> = (worker..TENANTS).step_by(WORKERS).map(|i| format!("t{i}")).collect();
        let connections = match way {
            Way::Sealed => {
                tenants.iter().map(|tenant| stage.tenant("pgward", tenant).connect()).collect::<Result<_, _>>()?
            }
            Way::Four | Way::One => vec![stage.bouncer().connect()?],
            Way::FourReset => vec![stage.resetting_bouncer().connect()?],
            Way::Reconnect => Vec::new(),
        };
        Ok(Self { way, direct: stage.direct(), tenants, connections, at: 0 })
    }

    fn until(&mut self, end: Instant) -> io::Result<u64> {
        let mut done = 0;
        while Instant::now() < end {
            self.transaction()?;
            done += 1;
        }
        Ok(done)
    }

    /// One row, which says whose it is.
    fn transaction(&mut self) -> io::Result<()> {
        self.at += 1;
        let which = self.at % self.tenants.len();
        let tenant = &self.tenants[which];
        let select = |table: &str| format!("select tenant_id from {table} where id = {}", 1 + self.at % 100);
        let set = format!("select set_config('app.tenant_id', '{tenant}', true)");
        match self.way {
            Way::Sealed => self.connections[which].expect(&query(&select("sealed")), tenant),
            Way::Four | Way::FourReset => {
                let connection = &mut self.connections[0];
                connection.run(&query("BEGIN"))?;
                connection.run(&query(&set))?;
                connection.expect(&query(&select("plain")), tenant)?;
                connection.run(&query("COMMIT")).map(drop)
            }
            Way::One => {
                let all = format!("BEGIN; {set}; {}; COMMIT", select("plain"));
                self.connections[0].expect(&query(&all), tenant)
            }
            Way::Reconnect => {
                let mut connection = self.direct.connect()?;
                let both = format!("{set}; select 1");
                connection.run(&query(&both)).map(drop)
            }
        }
    }
}
