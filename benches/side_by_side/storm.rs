//! Logins: how many a second, and what a storm of them does to clients that are in already.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pgward::base::ScramKeys;
use rustix::process::setpriority_process;
use serde_json::{Value, json};

use super::driver::{Clients, Figures, Way};
use super::lean::{Lean, message, tcp};
use super::mock::Mock;
use super::peers::{Bouncer, Peer, cpu_micros, own_cpu_micros};
use super::scram::{by_keys, verifier_and_keys};
use super::setup::Setup;
use super::stage::{PASSWORD, TENANTS, Target, plain, tenant};
use super::table::{median, number, print, show};

const TURN: Duration = Duration::from_millis(500);

/// Logins under way at the same time while they are counted.
const AT_ONCE: usize = 8;

/// Clients that work while others storm.
const WORKING: usize = 100;

/// Processes that storm: each opens its connections one after the other.
const PROCESSES: [usize; 2] = [8, 100];

/// A proxy and how one logs in there.
struct Entrance {
    name: &'static str,
    targets: Vec<Target>,
    /// For clients that need not hash their password.
    keys: Option<ScramKeys>,
}

impl Entrance {
    fn pid(&self) -> u32 {
        self.targets[0].pid.unwrap()
    }

    fn log_in(&self, i: usize) -> TcpStream {
        let target = &self.targets[i % self.targets.len()];
        let client = match &self.keys {
            Some(keys) => {
                tcp(target.address).and_then(|stream| Lean::log_in(stream, &target.user, "app", by_keys(keys)))
            }
            None => target.connect(),
        };
        client.unwrap_or_else(|error| panic!("{}, login {i}: {error}", self.name)).into_socket()
    }

    fn turn(&self) -> Turn {
        let (began, before) = (Instant::now(), cpu_micros(self.pid()));
        let client = |thread: usize| {
            let mut done = 0;
            while began.elapsed() < TURN {
                let mut stream = self.log_in(thread + done * AT_ONCE);
                stream.write_all(&message(b'X', b"")).unwrap();
                done += 1;
            }
            (done as f64, own_cpu_micros())
        };
        let (done, clients) = thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE).map(|thread| scope.spawn(move || client(thread))).collect();
            let seen = threads.into_iter().map(|thread| thread.join().unwrap());
            seen.fold((0.0, 0.0), |(done, cpu), (one_done, one_cpu)| (done + one_done, cpu + one_cpu))
        });
        let (lasted, used) = (began.elapsed(), cpu_micros(self.pid()) - before);
        Turn { rate: done / lasted.as_secs_f64(), cpu: used / done, clients_cpu: clients / done }
    }

    /// So many connections, all of which stay, and the seconds that it took.
    fn storm(&self, count: usize, processes: usize) -> (Vec<TcpStream>, f64) {
        let began = Instant::now();
        let process = |process: usize| {
            // Elsewhere they would be other machines: they get what CPU the proxy and its other clients leave.
            setpriority_process(None, 19).unwrap();
            (process..count).step_by(processes).map(|i| self.log_in(i)).collect::<Vec<_>>()
        };
        let streams = thread::scope(|scope| {
            let threads: Vec<_> = (0..processes).map(|i| scope.spawn(move || process(i))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        (streams, began.elapsed().as_secs_f64())
    }

    /// Waits until the proxy has seen that all of a storm are gone.
    fn settle(&self) {
        let open = || fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count();
        let begin = Instant::now();
        while open() > 2 * WORKING {
            assert!(begin.elapsed() < Duration::from_secs(10), "{} keeps {} files open", self.name, open());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Logins a second, and what each cost: microseconds of the proxy's CPU, and of the clients'.
struct Turn {
    rate: f64,
    cpu: f64,
    clients_cpu: f64,
}

pub fn measure(cores: Option<usize>, rounds: usize, seconds: u64, count: usize) -> Value {
    let mock = Mock::start();
    let port = mock.address.port();
    let pgward = Setup::new(port, cores).es256().start();
    let (verifier, keys) = verifier_and_keys(PASSWORD);
    let checking = Peer::pgbouncer(&Bouncer { stored: &verifier, ..Bouncer::new(port) });
    let hashing = Peer::pgbouncer(&Bouncer::new(port));
    let bouncer = |peer: &Peer| vec![plain("pgbouncer", peer.address, Some(peer.pid))];
    let tenants = (0..TENANTS).map(|i| tenant(&pgward, "pgward", &format!("t{i}"))).collect();
    let entrances = [
        Entrance { name: "pgward, ES256 token", targets: tenants, keys: None },
        Entrance { name: "pgbouncer, SCRAM, verifiers in its file", targets: bouncer(&checking), keys: Some(keys) },
        Entrance { name: "pgbouncer, SCRAM, passwords in its file", targets: bouncer(&hashing), keys: None },
    ]
    .map(Arc::new);
    let logins = logins(&entrances, 2 * rounds * usize::try_from(seconds).unwrap());
    // Clients whose password is hashed would need most of a minute, and all of the CPU.
    let storms = storms(&entrances[..2], rounds, seconds, count);
    json!({ "logins": logins, "storms": storms })
}

fn logins(entrances: &[Arc<Entrance>], turns: usize) -> Value {
    eprintln!("logins, {turns} turns for each of {}", entrances.len());
    let mut seen: Vec<Vec<Turn>> = entrances.iter().map(|_| Vec::new()).collect();
    for _ in 0..turns {
        entrances.iter().zip(&mut seen).for_each(|(entrance, turns)| turns.push(entrance.turn()));
    }
    let of = |turns: &[Turn], what: fn(&Turn) -> f64| median(turns.iter().map(what).collect());
    let (mut table, mut values) = (Vec::new(), Vec::new());
    for (entrance, turns) in entrances.iter().zip(&seen) {
        let (rate, cpu) = (of(turns, |turn| turn.rate), of(turns, |turn| turn.cpu));
        let clients_cpu = of(turns, |turn| turn.clients_cpu);
        let (times, cpu_times) = (of(&seen[0], |turn| turn.rate) / rate, cpu / of(&seen[0], |turn| turn.cpu));
        table.push(vec![
            entrance.name.to_owned(),
            show(rate, 0),
            show(times, 2),
            show(cpu, 0),
            show(cpu_times, 2),
            show(clients_cpu, 0),
        ]);
        values.push(json!({
            "way": entrance.name,
            "logins_per_second": rate,
            "pgward_times": times,
            "cpu_us_per_login": cpu,
            "pgward_times_by_cpu": cpu_times,
            "clients_cpu_us_per_login": clients_cpu,
        }));
    }
    let heads = ["way", "logins/s", "pgward is x", "proxy CPU us/login", "pgward is x", "clients' CPU us/login"];
    print(&format!("Logins, {AT_ONCE} at a time"), &heads, &table);
    Value::Array(values)
}

fn storms(entrances: &[Arc<Entrance>], rounds: usize, seconds: u64, count: usize) -> Value {
    let (mut table, mut values) = (Vec::new(), Vec::new());
    for processes in PROCESSES {
        for entrance in entrances {
            eprintln!("{rounds} storms of {count} logins, {processes} at a time, {}", entrance.name);
            let (row, value) = before_and_during(entrance, rounds, seconds, count, processes);
            table.push(row);
            values.push(value);
        }
    }
    let heads =
        ["way", "logins at a time", "tps before", "during", "p99 ms before", "during", "x", "all are in after s"];
    print(&format!("{WORKING} clients while {count} log in"), &heads, &table);
    Value::Array(values)
}

/// Before storms and during them.
fn before_and_during(
    entrance: &Arc<Entrance>,
    rounds: usize,
    seconds: u64,
    count: usize,
    processes: usize,
) -> (Vec<String>, Value) {
    // One tenant's: a backend that changes tenants would be the greater part of the cost.
    let clients = Clients::log_in(&entrance.targets[..1], WORKING, &Way::of_pgbench("simple"));
    let (mut before, mut during, mut took) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        before.push(clients.drive(Duration::from_secs(seconds)));
        let storming = Arc::clone(entrance);
        let storm = async || tokio::task::spawn_blocking(move || storming.storm(count, processes)).await.unwrap();
        let (seen, (streams, seconds)) = clients.drive_during(storm);
        during.push(seen);
        took.push(seconds);
        drop(streams);
        entrance.settle();
    }
    let (before, during, took) = (Figures::of(&before), Figures::of(&during), median(took));
    let times = during.p99_ms / before.p99_ms;
    let row = vec![
        entrance.name.to_owned(),
        processes.to_string(),
        show(before.tps, 0),
        show(during.tps, 0),
        show(before.p99_ms, 2),
        show(during.p99_ms, 2),
        show(times, 2),
        show(took, 1),
    ];
    let value = json!({
        "way": entrance.name,
        "connections": count,
        "at_a_time": processes,
        "seconds": took,
        "tps_before": number(before.tps),
        "tps_during": number(during.tps),
        "p99_ms_before": number(before.p99_ms),
        "p99_ms_during": number(during.p99_ms),
        "times": number(times),
    });
    (row, value)
}
