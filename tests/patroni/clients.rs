//! Clients that write numbers and count what they wrote, others that only read, and what came of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};

use crate::support::{Stage, code};

/// Between two requests of a client, at most: where all have the same, they come to pause at the same time.
const PAUSE: Duration = Duration::from_millis(12);
/// After so many writes it counts them, right then or when replicas have had the time to get them.
const COUNT: usize = 20;
const SETTLED: Duration = Duration::from_millis(250);

/// Several clients at once, each of a tenant.
pub struct Clients {
    tasks: Vec<(String, JoinHandle<Tally>)>,
    over: Arc<AtomicBool>,
    pub pace: Arc<Pace>,
}

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Each of another tenant, since they count what they wrote.
    Write,
    Read,
}

/// What one of them has seen.
#[derive(Debug, Default)]
pub struct Tally {
    pub acknowledged: Vec<u64>,
    /// What was said of each write that ended with an error.
    pub failed: HashMap<u64, String>,
    /// What was said of reads, and of connecting.
    pub others: Vec<String>,
    pub reads: u64,
}

/// How steadily writes are acknowledged, or reads answered.
#[derive(Debug)]
pub struct Pace(Mutex<Beats>);

#[derive(Debug)]
struct Beats {
    last: Instant,
    longest: Duration,
    count: u64,
}

impl Clients {
    pub fn start(stage: &Arc<Stage>, kind: Kind, tenants: impl Iterator<Item = String>) -> Self {
        let (over, pace) = (Arc::new(AtomicBool::new(false)), Arc::new(Pace::new()));
        let task = |tenant: String| {
            let one = One {
                tally: Tally::default(),
                lives: true,
                number: 0,
                over: Arc::clone(&over),
                pace: Arc::clone(&pace),
            };
            let work = one.work(Arc::clone(stage), kind, tenant.clone());
            (tenant, tokio::spawn(work))
        };
        Self { tasks: tenants.map(task).collect(), over, pace }
    }

    pub async fn stop(self) -> Vec<(String, Tally)> {
        self.over.store(true, Ordering::Relaxed);
        let mut tallies = Vec::new();
        for (tenant, task) in self.tasks {
            tallies.push((tenant, task.await.unwrap()));
        }
        tallies
    }
}

impl Pace {
    fn new() -> Self {
        Self(Mutex::new(Beats { last: Instant::now(), longest: Duration::ZERO, count: 0 }))
    }

    fn beat(&self) {
        let mut beats = self.0.lock().unwrap();
        beats.longest = beats.longest.max(beats.last.elapsed());
        beats.last = Instant::now();
        beats.count += 1;
    }

    pub fn count(&self) -> u64 {
        self.0.lock().unwrap().count
    }

    /// The longest time without one, be it the one that lasts.
    pub fn longest(&self) -> Duration {
        let beats = self.0.lock().unwrap();
        beats.longest.max(beats.last.elapsed())
    }
}

/// A client at work.
struct One {
    tally: Tally,
    /// Nothing that it was told has ended its session.
    lives: bool,
    number: u64,
    over: Arc<AtomicBool>,
    pace: Arc<Pace>,
}

impl One {
    /// Sessions one after the other, until it is over.
    async fn work(mut self, stage: Arc<Stage>, kind: Kind, tenant: String) -> Tally {
        while !self.is_over() {
            self.lives = true;
            match (stage.try_connect(&stage.url(&tenant, "app")).await, kind) {
                (Ok(client), Kind::Write) => self.write(&client).await,
                (Ok(client), Kind::Read) => self.read(&client).await,
                (Err(error), _) => {
                    let told = self.told(&error);
                    self.tally.others.push(told);
                    pause().await;
                }
            }
        }
        self.tally
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// One session, to its end or until it is over.
    async fn write(&mut self, client: &Client) {
        let (first, mut written) = (self.number, 0);
        while self.lives && !self.is_over() {
            self.number += 1;
            match insert(client, self.number).await {
                Ok(()) => {
                    self.tally.acknowledged.push(self.number);
                    self.pace.beat();
                    written += 1;
                    if written % COUNT == 0 {
                        self.count(client, first, written).await;
                    }
                }
                Err(error) => {
                    let told = self.told(&error);
                    self.tally.failed.insert(self.number, told);
                }
            }
            pause().await;
        }
    }

    /// `written`: what this session wrote, all of it above `first`. What had an error that did not end the session was not
    /// executed.
    async fn count(&mut self, client: &Client, first: u64, written: usize) {
        if written.is_multiple_of(2 * COUNT) {
            tokio::time::sleep(SETTLED).await;
        }
        let sql = format!("select count(*)::text from orders where item = 'number' and amount > {first}");
        if let Some(found) = self.ask(client, &sql).await {
            assert_eq!(found, written.to_string(), "a session sees what it wrote");
        }
    }

    async fn read(&mut self, client: &Client) {
        while self.lives && !self.is_over() {
            if let Some(found) = self.ask(client, "select count(*)::text from orders").await {
                assert_eq!(found, "100");
                self.pace.beat();
            }
            pause().await;
        }
    }

    async fn ask(&mut self, client: &Client, sql: &str) -> Option<String> {
        match client.query_one(sql, &[]).await {
            Ok(row) => {
                self.tally.reads += 1;
                Some(row.get(0))
            }
            Err(error) => {
                let told = self.told(&error);
                self.tally.others.push(told);
                None
            }
        }
    }

    /// What an error says. The driver finds out a moment later that a FATAL one has ended its connection.
    fn told(&mut self, error: &Error) -> String {
        self.lives &= error.as_db_error().is_some_and(|error| error.severity() == "ERROR");
        code(error)
    }
}

async fn pause() {
    tokio::time::sleep(PAUSE.mul_f64(rand::random())).await;
}

/// By the simple and by the extended protocol in turns.
async fn insert(client: &Client, number: u64) -> Result<(), Error> {
    if number.is_multiple_of(2) {
        return client.batch_execute(&format!("insert into orders (item, amount) values ('number', {number})")).await;
    }
    let sql = "insert into orders (item, amount) values ('number', $1::text::numeric)";
    client.execute(sql, &[&number.to_string()]).await.map(drop)
}

/// What clients were told, how often, and how many of the writes that it was told of are there.
pub type Told = BTreeMap<String, (usize, usize)>;

/// All that was acknowledged is there, and nothing twice.
pub async fn verify(leader: &Client, tallies: &[(String, Tally)]) -> Told {
    let mut told = Told::new();
    for (tenant, tally) in tallies {
        let sql =
            "select amount::text::bigint, count(*) from orders where tenant_id = $1 and item = 'number' group by 1";
        let rows = leader.query(sql, &[tenant]).await.unwrap();
        let found: HashMap<u64, i64> =
            rows.iter().map(|row| (u64::try_from(row.get::<_, i64>(0)).unwrap(), row.get(1))).collect();
        assert!(found.values().all(|times| *times == 1), "{tenant}: a number is there twice");
        let lost: Vec<&u64> = tally.acknowledged.iter().filter(|number| !found.contains_key(number)).collect();
        assert!(lost.is_empty(), "{tenant}: acknowledged and lost: {lost:?}");
        for (number, code) in &tally.failed {
            let (times, there) = told.entry(code.clone()).or_default();
            *times += 1;
            *there += usize::from(found.contains_key(number));
        }
        for code in &tally.others {
            told.entry(code.clone()).or_default().0 += 1;
        }
    }
    told
}
