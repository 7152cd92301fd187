//! Cancel requests in every wrong moment: when their statement has just ended and its backend is lent to
//! somebody else, when their session is gone, several at once, and forged ones. Nobody is ever hit but the
//! session whose key it is, and a statement that runs is always hit.
//!
//! PGWARD_CANCEL_SECONDS says how long, 10 by default; PGWARD_CANCEL_SEED repeats one run's choices.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgward::local::Cluster;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::raw::{Message, Raw, V3_0, V3_2, cancel_request, errors, extended, query, sync, terminate};
use support::{HEAD, Stage, configuration, furnish, one, until};
use tokio_postgres::Client;

const BACKENDS: usize = 3;
const CLIENTS: usize = 12;
const TENANTS: [&str; 2] = ["acme", "globex"];

/// How soon a running statement must end when it is cancelled.
const PROMPT: Duration = Duration::from_secs(8);

const CANCELED: &str = "57014";

/// What a session may present to have its statement stopped.
#[derive(Clone)]
struct Key {
    id: u32,
    secret: Vec<u8>,
}

impl Key {
    fn of(login: &[Message]) -> Self {
        let body = &login.iter().find(|message| message.tag == b'K').expect("the login failed").body;
        Self { id: u32::from_be_bytes(body[..4].try_into().unwrap()), secret: body[4..].to_vec() }
    }

    fn request(&self) -> Vec<u8> {
        cancel_request(self.id, &self.secret)
    }
}

/// A session, and the key to it.
async fn log_in(stage: &Stage, tenant: &str, version: u32) -> (Raw, Key) {
    let mut raw = Raw::connect(stage.address).await;
    let parameters = [("user", tenant), ("database", "app")];
    let login = raw.log_in(version, &parameters, &stage.token(tenant, "app")).await;
    (raw, Key::of(&login))
}

/// Sends a cancel request on connections of its own, and returns when pgward has closed them: it is done
/// with them.
async fn fire(stage: &Stage, request: &[u8], times: usize) {
    let mut shots = aim(stage, times).await;
    shoot(&mut shots, request).await;
    land(shots).await;
}

async fn aim(stage: &Stage, times: usize) -> Vec<Raw> {
    let mut shots = Vec::new();
    for _ in 0..times {
        shots.push(Raw::connect(stage.address).await);
    }
    shots
}

async fn shoot(shots: &mut [Raw], request: &[u8]) {
    for shot in shots {
        shot.send(request).await;
    }
}

async fn land(shots: Vec<Raw>) {
    for mut shot in shots {
        shot.rest().await;
    }
}

#[derive(Default)]
struct Tally {
    /// Statements that nobody had cancelled.
    innocent: AtomicU64,
    /// Statements cancelled while they ran.
    cancelled: AtomicU64,
    slowest_us: AtomicU64,
    /// Statements with a request fired about their end, and those that it hit.
    late: AtomicU64,
    late_hit: AtomicU64,
    left: AtomicU64,
    /// Requests with a session's key, and with none.
    genuine: AtomicU64,
    forged: AtomicU64,
}

fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

fn counted(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What all clients share.
struct Storm {
    stage: Stage,
    over: AtomicBool,
    keys: Mutex<Vec<Key>>,
    tally: Tally,
}

impl Storm {
    async fn connect(&self, number: usize) -> (Raw, Key) {
        let version = if number.is_multiple_of(3) { V3_2 } else { V3_0 };
        let (raw, key) = log_in(&self.stage, TENANTS[number % TENANTS.len()], version).await;
        self.keys.lock().unwrap()[number] = key.clone();
        (raw, key)
    }
}

struct Player {
    storm: Arc<Storm>,
    number: usize,
    chance: StdRng,
    raw: Raw,
    key: Key,
}

impl Player {
    async fn play(mut self) {
        while !self.storm.over.load(Ordering::Relaxed) {
            match self.chance.random_range(0..17) {
                0..6 => self.innocent().await,
                6..12 => self.late().await,
                12 | 13 => self.cancelled().await,
                14 | 15 => self.leave().await,
                _ => self.forge().await,
            }
        }
    }

    /// A request that takes up to a few milliseconds, by either protocol.
    fn short(&mut self) -> Vec<u8> {
        let micros = self.chance.random_range(0..5_000);
        let text = match self.chance.random_range(0..4) {
            0 => "select pgward.tenant()".to_owned(),
            _ => format!("select pgward.tenant() from pg_sleep(0.{micros:06})"),
        };
        if self.chance.random() { query(&text) } else { [extended(&text), sync()].concat() }
    }

    /// What was answered, if it was answered: the tenant's own name.
    fn check(&self, answer: &[Message], what: &str) {
        let tenant = TENANTS[self.number % TENANTS.len()];
        let row = answer.iter().find(|message| message.tag == b'D').map(|message| message.columns().remove(0));
        assert_eq!(errors(answer), [""; 0], "client {}: {what}", self.number);
        assert_eq!(row.as_deref(), Some(tenant), "client {}: {what}", self.number);
    }

    /// Nobody cancels this one.
    async fn innocent(&mut self) {
        for _ in 0..self.chance.random_range(1..4) {
            let request = self.short();
            self.raw.send(request).await;
            let answer = self.raw.ready().await;
            self.check(&answer, "somebody else's cancel request has hit it");
            count(&self.storm.tally.innocent, 1);
        }
    }

    /// A statement that says that it runs, and is cancelled then.
    async fn cancelled(&mut self) {
        let text = "do $$ begin raise notice 'running'; perform pg_sleep(60); end $$";
        let request = if self.chance.random() { query(text) } else { [extended(text), sync()].concat() };
        self.raw.send(request).await;
        let running = self.raw.until(|message| b"NEZ".contains(&message.tag)).await;
        assert_eq!(running.last().map(|message| message.field(b'M')).as_deref(), Some("running"), "{running:?}");
        let times = self.chance.random_range(1..3);
        let (begin, storm) = (Instant::now(), Arc::clone(&self.storm));
        count(&storm.tally.genuine, times);
        let request = self.key.request();
        let (answer, ()) = tokio::join!(self.raw.ready(), fire(&storm.stage, &request, times));
        assert_eq!(errors(&answer), [CANCELED], "a cancelled statement of client {}", self.number);
        let took = begin.elapsed();
        assert!(took < PROMPT, "a cancelled statement went on for {took:?}");
        storm.tally.slowest_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        count(&storm.tally.cancelled, 1);
        self.innocent().await;
    }

    /// Requests that come about when the statement ends, when its backend may be somebody else's already.
    /// Once they are done with, they hit not even the client itself.
    async fn late(&mut self) {
        let (storm, times) = (Arc::clone(&self.storm), self.chance.random_range(1..4));
        count(&storm.tally.genuine, times);
        let mut shots = aim(&storm.stage, times).await;
        let (request, cancel) = (self.short(), self.key.request());
        self.raw.send(request).await;
        let mut answers = Vec::new();
        if self.chance.random() {
            let wait = Duration::from_millis(self.chance.random_range(0..5));
            let late = async {
                tokio::time::sleep(wait).await;
                shoot(&mut shots, &cancel).await;
            };
            let (answer, ()) = tokio::join!(self.raw.ready(), late);
            answers.push(answer);
        } else {
            answers.push(self.raw.ready().await);
            shoot(&mut shots, &cancel).await;
        }
        // The next statement runs into requests that are under way.
        if self.chance.random() {
            let next = self.short();
            self.raw.send(next).await;
            answers.push(self.raw.ready().await);
        }
        land(shots).await;
        for answer in answers {
            count(&storm.tally.late, 1);
            if errors(&answer) == [CANCELED] {
                count(&storm.tally.late_hit, 1);
            } else {
                self.check(&answer, "after a late cancel request of its own");
            }
        }
        self.innocent().await;
    }

    /// Ends the session one way or another, and fires with its key when it is gone, or as it goes.
    async fn leave(&mut self) {
        let storm = Arc::clone(&self.storm);
        let (old, request) = (self.key.request(), self.short());
        let way = self.chance.random_range(0..5);
        let mut shots = Vec::new();
        count(&storm.tally.genuine, 2);
        match way {
            0 => {
                self.raw.send(terminate()).await;
                self.raw.rest().await;
            }
            1 => self.raw.send(request).await,
            2 => {
                shots = aim(&storm.stage, 2).await;
                self.raw.send(request).await;
                shoot(&mut shots, &old).await;
            }
            3 => {
                shots = aim(&storm.stage, 2).await;
                self.raw.query("begin").await;
                shoot(&mut shots, &old).await;
                self.raw.send(terminate()).await;
            }
            _ => {}
        }
        let (raw, key) = storm.connect(self.number).await;
        // The old connection is closed here, without a word.
        (self.raw, self.key) = (raw, key);
        if shots.is_empty() {
            fire(&storm.stage, &old, 2).await;
        } else if self.chance.random() {
            land(shots).await;
        }
        count(&storm.tally.left, 1);
        self.innocent().await;
    }

    /// Another session's number with a secret that is not its own.
    async fn forge(&mut self) {
        let storm = Arc::clone(&self.storm);
        let victim = storm.keys.lock().unwrap()[self.chance.random_range(0..CLIENTS)].clone();
        let mut secret = victim.secret.clone();
        match self.chance.random_range(0..5) {
            0 => secret[self.chance.random_range(0..victim.secret.len())] ^= 1,
            1 => secret.push(0),
            2 => secret.truncate(victim.secret.len() - 1),
            3 => secret = vec![0; victim.secret.len()],
            _ if self.key.id == victim.id => secret.reverse(),
            _ => secret = self.key.secret.clone(),
        }
        if secret != victim.secret {
            count(&storm.tally.forged, 1);
            fire(&storm.stage, &cancel_request(victim.id, &secret), 1).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_of_cancel_requests_each_hits_its_own_session_or_nobody() {
    let seconds = std::env::var("PGWARD_CANCEL_SECONDS").map_or(10, |text| text.parse().unwrap());
    let seed = std::env::var("PGWARD_CANCEL_SEED")
        .map_or_else(|_| u64::from(rand::random::<u32>()), |text| text.parse().unwrap());
    println!("PGWARD_CANCEL_SECONDS={seconds} PGWARD_CANCEL_SEED={seed}");
    let nobody = Key { id: 0, secret: vec![0; 4] };
    let storm = Arc::new(Storm {
        stage: Stage::new(&format!("[pool]\nmax_per_login = {BACKENDS}\nacquire_timeout = \"30s\"\n")).await,
        over: AtomicBool::new(false),
        keys: Mutex::new(vec![nobody; CLIENTS]),
        tally: Tally::default(),
    });
    let mut players = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let (raw, key) = storm.connect(number).await;
        let chance = StdRng::seed_from_u64(seed + number as u64);
        players.spawn(Player { storm: Arc::clone(&storm), number, chance, raw, key }.play());
    }
    let end = tokio::time::sleep(Duration::from_secs(seconds));
    tokio::pin!(end);
    tokio::select! {
        ended = players.join_next() => ended.unwrap().unwrap(),
        () = &mut end => {}
    }
    storm.over.store(true, Ordering::Relaxed);
    while let Some(ended) = players.join_next().await {
        ended.unwrap();
    }
    let Tally { innocent, cancelled, slowest_us, late, late_hit, left, genuine, forged } = &storm.tally;
    let forwarded = storm.stage.metric("pgward_cancels_total").await;
    println!(
        "{} statements that nobody cancelled; {} cancelled, after {} us at most; {} with late requests, {} hit; \
         {} left; {} requests, {} forged ones, {forwarded} forwarded",
        counted(innocent),
        counted(cancelled),
        counted(slowest_us),
        counted(late),
        counted(late_hit),
        counted(left),
        counted(genuine),
        counted(forged),
    );
    for (what, counter) in [("cancelled", cancelled), ("hit late", late_hit), ("left", left), ("forged", forged)] {
        assert!(counted(counter) > 0, "nothing was {what}");
    }
    assert!(counted(late) > counted(late_hit), "every late request came in time");
    let genuine = counted(genuine) as f64;
    assert!(forwarded > 0.0 && forwarded <= genuine, "{forwarded} of {genuine} were forwarded");
    storm.stage.at_rest(0).await;
}

/// Requests come while the backend is handed over, while another one is waited for, and all the time. The
/// session lives, and the backends that wait for its requests' end are not kept from others for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_requests_without_end_neither_end_their_session_nor_keep_others_waiting() {
    let stage = Arc::new(Stage::new("[pool]\nmax_per_login = 2\n").await);
    let (mut acme, key) = log_in(&stage, "acme", V3_0).await;
    let (mut globex, _) = log_in(&stage, "globex", V3_0).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut floods = Vec::new();
    for _ in 0..6 {
        let (stage, over, request) = (Arc::clone(&stage), Arc::clone(&over), key.request());
        floods.push(tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                fire(&stage, &request, 1).await;
            }
        }));
    }
    let until = Arc::clone(&over);
    let neighbour = tokio::spawn(async move {
        let mut slowest = Duration::ZERO;
        while !until.load(Ordering::Relaxed) {
            let begin = Instant::now();
            assert_eq!(errors(&globex.query("select 1").await), [""; 0]);
            slowest = slowest.max(begin.elapsed());
        }
        slowest
    });
    let (begin, mut served, mut cancelled) = (Instant::now(), 0, 0);
    while begin.elapsed() < Duration::from_secs(6) {
        let answer = acme.query("select pg_sleep(0.001)").await;
        let lives = answer.last().is_some_and(|last| last.tag == b'Z');
        assert!(lives, "its own cancel requests have ended a session: {:?}", errors(&answer));
        cancelled += usize::from(errors(&answer) == [CANCELED]);
        served += 1;
    }
    over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.await.unwrap();
    }
    let slowest = neighbour.await.unwrap();
    println!("{served} statements, {cancelled} of them cancelled; the neighbour waited {slowest:?} at most");
    assert!(slowest < PROMPT, "a neighbour waited {slowest:?}");
    assert_eq!(acme.one("select pgward.tenant()").await, "acme");
}

// ------------------------------------------------------------------- a server that is slow to take requests

/// A cluster whose postmaster can be stopped: backends go on, connections are taken and not served.
struct Slow {
    cluster: Cluster,
    stage: Stage,
}

impl Slow {
    async fn new(pool: &str) -> Self {
        let cluster = Cluster::builder("slow").start().await.unwrap();
        furnish(&cluster).await;
        let configuration = configuration(cluster.primary().port(), &format!("[pool]\n{pool}\n"));
        let stage = Stage::with(&format!("{HEAD}{configuration}")).await;
        Self { cluster, stage }
    }

    async fn stop(&mut self) {
        self.cluster.primary_mut().signal("STOP");
        let stat = format!("/proc/{}/stat", self.cluster.primary().pid().unwrap());
        until("the stop", async || std::fs::read_to_string(&stat).unwrap().contains(") T ")).await;
    }

    /// Waits until a statement runs that ends like this.
    async fn runs(&self, watch: &Client, end: &str) {
        let sql = format!(
            "select count(*) from pg_stat_activity
                where pid <> pg_backend_pid() and state = 'active' and right(query, length($${end}$$)) = $${end}$$"
        );
        until(end, async || one(watch, &sql).await == "1").await;
    }

    async fn watch(&self) -> Client {
        self.cluster.primary().connect("app").await.unwrap()
    }

    fn go_on(&mut self) {
        self.cluster.primary_mut().signal("CONT");
    }
}

/// What libpq relies on: it sends the next statement when the request's connection has been closed, and the
/// request must not hit that one.
#[tokio::test]
async fn the_connection_of_a_request_is_closed_when_the_request_has_been_carried_out() {
    let mut slow = Slow::new("max_per_login = 1").await;
    let (mut acme, key) = log_in(&slow.stage, "acme", V3_0).await;
    let watch = slow.watch().await;
    acme.send(query("select pg_sleep(60)")).await;
    slow.runs(&watch, "pg_sleep(60)").await;
    slow.stop().await;
    let mut shot = Raw::connect(slow.stage.address).await;
    shot.send(key.request()).await;
    let early = tokio::time::timeout(Duration::from_millis(500), shot.rest()).await;
    slow.go_on();
    assert!(early.is_err(), "it was closed when the server had not seen the request");
    shot.rest().await;
    assert_eq!(errors(&acme.ready().await), [CANCELED]);
}

/// pgward has waited for as long as it may, and does not know when the request will be carried out: whose
/// statement would it hit?
#[tokio::test]
async fn a_request_that_the_server_carries_out_too_late_hits_nobody_else() {
    let mut slow = Slow::new("max_per_login = 1\nconnect_timeout = \"2s\"").await;
    let watch = slow.watch().await;
    let (mut acme, key) = log_in(&slow.stage, "acme", V3_0).await;
    let (mut globex, _) = log_in(&slow.stage, "globex", V3_0).await;
    let pid = acme.one("select pg_backend_pid()").await;
    acme.send(query("select pg_sleep(1)")).await;
    slow.runs(&watch, "pg_sleep(1)").await;
    slow.stop().await;
    let mut shot = Raw::connect(slow.stage.address).await;
    shot.send(key.request()).await;
    assert_eq!(errors(&acme.ready().await), [""; 0], "nothing has arrived at the server");
    globex.send(query("select pgward.tenant() from pg_sleep(2)")).await;
    let sql = format!(
        "select not exists (select from pg_stat_activity where pid = {pid}) or exists
            (select from pg_stat_activity where pid = {pid} and state = 'active' and query like '%pg_sleep(2)')"
    );
    until("the end of the backend, or another tenant on it", async || one(&watch, &sql).await == "t").await;
    slow.go_on();
    let answer = globex.ready().await;
    assert_eq!(errors(&answer), [""; 0], "hit by a request of another tenant's");
}

#[tokio::test]
async fn a_cancel_request_ends_the_wait_for_a_backend_that_is_being_opened() {
    let mut slow = Slow::new("max_per_login = 2\nconnect_timeout = \"1m\"").await;
    let (mut holder, _) = log_in(&slow.stage, "acme", V3_0).await;
    let (mut globex, key) = log_in(&slow.stage, "globex", V3_0).await;
    holder.query("begin").await;
    slow.stop().await;
    globex.send(query("select pgward.tenant()")).await;
    let open = async || slow.stage.control.pools().await.iter().map(|(row, _)| row.open).sum::<usize>();
    until("the opening", async || open().await == 2).await;
    let begin = Instant::now();
    fire(&slow.stage, &key.request(), 1).await;
    let answer = tokio::time::timeout(PROMPT, globex.ready()).await;
    slow.go_on();
    assert_eq!(errors(&answer.expect("the request did nothing")), [CANCELED], "after {:?}", begin.elapsed());
    assert_eq!(globex.one("select pgward.tenant()").await, "globex", "the session goes on");
}
