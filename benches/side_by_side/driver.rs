//! Clients for measurements, all on one thread, which cost little themselves: each sends the same request again and
//! again, and knows how long the answer is.

use std::cell::Cell;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::LocalRuntime;

use super::lean::{execute, parse, query, sync};
use super::peers::cpu_micros;
use super::stage::Target;
use super::table::median;

/// A way in which clients send a statement.
#[derive(Debug, Clone)]
pub struct Way {
    /// Sent when a client is logged in.
    pub once: Vec<u8>,
    /// Sent for each transaction, with another number each time.
    pub each: Vec<u8>,
    length: usize,
}

/// Stands for a number of the same length, which each transaction chooses anew.
const NUMBER: &[u8] = b"123456";

impl Way {
    /// Of pgbench's select-only script: by a query with the number in its text, with it as a parameter, or by a
    /// statement that was prepared once.
    pub fn of_pgbench(mode: &str) -> Self {
        let (text, parameters) = ("SELECT abalance FROM pgbench_accounts WHERE aid = ", ["123456"]);
        let parameterised = format!("{text}$1;");
        let (once, each) = match mode {
            "simple" => (sync(), query(&format!("{text}123456;"))),
            "extended" => (sync(), [parse("", &parameterised), execute("", &parameters), sync()].concat()),
            "prepared" => {
                ([parse("P0_1", &parameterised), sync()].concat(), [execute("P0_1", &parameters), sync()].concat())
            }
            other => panic!("{other:?} is not simple, extended or prepared"),
        };
        Self { once, each, length: answer_length(mode) }
    }
}

/// The bytes that one of those is answered with: a row `0` in a column `abalance`.
fn answer_length(mode: &str) -> usize {
    let (description, row, selected, ready, empty) = (34, 12, 14, 6, 5);
    let parsed_and_bound = match mode {
        "simple" => 0,
        "extended" => 2 * empty,
        _ => empty,
    };
    parsed_and_bound + description + row + selected + ready
}

/// Clients of one target that are logged in.
pub struct Clients {
    target: Target,
    streams: Vec<TcpStream>,
    way: Way,
}

/// What clients saw in one turn.
#[derive(Debug, Clone)]
pub struct Seen {
    pub tps: f64,
    /// Nanoseconds that each transaction took.
    took: Vec<u32>,
    /// CPU of the proxy per transaction, in microseconds.
    pub cpu: f64,
}

/// Time for everybody to be under way before it counts.
const WARM_UP: Duration = Duration::from_millis(150);

impl Clients {
    /// As users of these targets in turns, which all are of one proxy.
    pub fn log_in(targets: &[Target], count: usize, way: &Way) -> Self {
        let log_in = |target: &Target| {
            let mut client =
                target.connect().unwrap_or_else(|error| panic!("a login through {}: {error}", target.name));
            client.run(&way.once).unwrap();
            client.into_socket()
        };
        let streams = targets.iter().cycle().take(count).map(log_in).collect();
        Self { target: targets[0].clone(), streams, way: way.clone() }
    }

    /// Lets them send as fast as they are answered, for this long.
    pub fn drive(&self, lasting: Duration) -> Seen {
        self.drive_during(async || tokio::time::sleep(lasting).await).0
    }

    /// The same until something is over, which begins when all are under way.
    pub fn drive_during<T>(&self, what: impl AsyncFnOnce() -> T) -> (Seen, T) {
        let cpu = || self.target.pid.map_or(f64::NAN, cpu_micros);
        let runtime = LocalRuntime::new().unwrap();
        runtime.block_on(async {
            let phase = Rc::new(Phase::default());
            let task = |stream: &TcpStream| {
                let stream = stream.try_clone().unwrap();
                tokio::task::spawn_local(repeat(stream, self.way.clone(), Rc::clone(&phase)))
            };
            let tasks: Vec<_> = self.streams.iter().map(task).collect();
            tokio::time::sleep(WARM_UP).await;
            let (began, before) = (Instant::now(), cpu());
            phase.counts.set(true);
            let outcome = what().await;
            phase.counts.set(false);
            let (lasted, used) = (began.elapsed(), cpu() - before);
            phase.over.set(true);
            let mut took = Vec::new();
            for task in tasks {
                let one = task.await.unwrap();
                took.extend(one.unwrap_or_else(|error| panic!("through {}: {error}", self.target.name)));
            }
            let seen = Seen { tps: took.len() as f64 / lasted.as_secs_f64(), cpu: used / took.len() as f64, took };
            (seen, outcome)
        })
    }
}

#[derive(Default)]
struct Phase {
    counts: Cell<bool>,
    over: Cell<bool>,
}

/// One client: how many nanoseconds each transaction took that was counted.
async fn repeat(stream: TcpStream, way: Way, phase: Rc<Phase>) -> io::Result<Vec<u32>> {
    let Way { mut each, length, .. } = way;
    let number = each.windows(NUMBER.len()).position(|bytes| bytes == NUMBER).unwrap();
    stream.set_nonblocking(true)?;
    let mut stream = tokio::net::TcpStream::from_std(stream)?;
    let mut answer = vec![0; length];
    let mut took = Vec::new();
    while !phase.over.get() {
        let chosen = rand::random_range(100_000..500_000).to_string();
        each[number..number + NUMBER.len()].copy_from_slice(chosen.as_bytes());
        let began = Instant::now();
        stream.write_all(&each).await?;
        stream.read_exact(&mut answer).await?;
        if !answer.ends_with(b"Z\0\0\0\x05I") {
            return Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()));
        }
        if phase.counts.get() {
            took.push(u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX));
        }
    }
    Ok(took)
}

/// What was seen over all turns.
pub struct Figures {
    pub tps: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub cpu: f64,
}

impl Figures {
    pub fn of(turns: &[Seen]) -> Self {
        let mut took: Vec<u32> = turns.iter().flat_map(|seen| seen.took.iter().copied()).collect();
        took.sort_unstable();
        let at =
            |share: f64| took.get((took.len() as f64 * share) as usize).map_or(f64::NAN, |ns| f64::from(*ns) / 1e6);
        Self {
            tps: median(turns.iter().map(|seen| seen.tps).collect()),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            cpu: median(turns.iter().map(|seen| seen.cpu).collect()),
        }
    }
}
