//! What a transaction costs on the steady path: system calls and allocations, which can be counted
//! exactly where seconds cannot.

#[path = "support/lean.rs"]
mod lean;
#[path = "support/spawned.rs"]
mod spawned;
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lean::{Answer, Lean, execute, parse, query, sync};
use pgward::telemetry::{CoreStats, Telemetry};
use spawned::{Spawned, resident_kib};
use support::Stage;

/// The three ways in which clients send a statement: what is sent once, and what for each transaction.
fn ways() -> [(&'static str, Vec<u8>, Vec<u8>); 3] {
    let sql = "select id from orders where amount = 1";
    let parameterised = "select id from orders where amount = $1";
    [
        ("simple", sync(), query(sql)),
        ("extended", sync(), [parse("", parameterised), execute("", &["1"]), sync()].concat()),
        ("prepared", [parse("s1", parameterised), sync()].concat(), [execute("s1", &["1"]), sync()].concat()),
    ]
}

// ---------------------------------------------------------------------------------------- system calls

const TRANSACTIONS: usize = 1_000;

/// Calls of each kind in a trace of `strace -f`, those that were interrupted and resumed counted once.
fn calls(trace: &str) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for line in trace.lines() {
        let text = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        let name: String = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if text[name.len()..].starts_with('(') {
            *calls.entry(name).or_default() += 1;
        }
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_costs_two_reads_two_writes_and_two_waits() {
    let port = support::cluster().await.primary().port();
    let text = format!("{}{}", support::HEAD, support::configuration(port, ""));
    tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace");
        let strace = ["strace", "-f", "-qq", "-o", trace.to_str().unwrap()];
        let pgward = Spawned::start(Path::new(env!("CARGO_BIN_EXE_pgward")), &strace, &text);
        let read = || std::fs::read_to_string(&trace).unwrap();
        for (way, once, each) in ways() {
            let mut client = Lean::connect(pgward.address, "acme", "app", &pgward.token("acme")).unwrap();
            client.run(&once).unwrap();
            for _ in 0..50 {
                assert_eq!(client.run(&each).unwrap(), Answer { rows: 1, errors: 0 });
            }
            let before = read().len();
            for _ in 0..TRANSACTIONS {
                client.run(&each).unwrap();
            }
            let calls = calls(&read()[before..]);
            let per = |names: &[&str]| {
                let sum: usize = names.iter().filter_map(|name| calls.get(*name)).sum();
                sum as f64 / TRANSACTIONS as f64
            };
            let (reads, writes) =
                (per(&["read", "readv", "recvfrom", "recvmsg"]), per(&["write", "writev", "sendto", "sendmsg"]));
            let waits = per(&["epoll_wait", "epoll_pwait", "epoll_pwait2"]);
            let all: usize = calls.values().sum();
            let all = all as f64 / TRANSACTIONS as f64;
            println!("{way}: {reads:.3} reads, {writes:.3} writes, {waits:.3} waits, {all:.3} in all: {calls:?}");
            assert!(reads <= 2.05 && writes <= 2.05, "{way}: {reads} reads and {writes} writes: {calls:?}");
            assert!(waits <= 2.2, "{way}: {waits} waits: {calls:?}");
            assert!(all <= 6.4, "{way}: {all} system calls: {calls:?}");
        }
    })
    .await
    .unwrap();
}

// ----------------------------------------------------------------------------------------- allocations

/// Counts what the proxy's threads allocate while a test asks for it.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Where the first of them came from.
static ORIGINS: Mutex<Vec<String>> = Mutex::new(Vec::new());
const ORIGINS_KEPT: usize = 12;

thread_local! {
    /// Whether this thread is one of the proxy's cores, once it is known. Without a destructor, so that it
    /// needs no allocation itself.
    static CORE: Cell<Option<bool>> = const { Cell::new(None) };
    /// Taking a backtrace allocates too.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// By the name that the kernel has: asking for Rust's own could allocate.
fn on_core() -> bool {
    CORE.with(|known| {
        known.get().unwrap_or_else(|| {
            let mut name = [0u8; 16];
            // SAFETY: PR_GET_NAME writes at most 16 bytes, which is what there is room for.
            let done = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
            let core = done == 0 && name.starts_with(b"core-");
            known.set(Some(core));
            core
        })
    })
}

fn count() {
    if COUNTS.load(Ordering::Relaxed) && on_core() && !BUSY.get() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BUSY.set(true);
        if let Ok(mut origins) = ORIGINS.try_lock()
            && origins.len() < ORIGINS_KEPT
        {
            let trace = Backtrace::force_capture().to_string();
            let ours = trace.lines().filter(|line| line.contains("pgward::")).take(6).collect::<Vec<_>>();
            origins.push(ours.join("\n"));
        }
        BUSY.set(false);
    }
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Transactions in one window. It is short beside the time between two rounds of housekeeping, which may
/// allocate.
const WINDOW: usize = 25;
const WINDOWS: usize = 40;
/// Between two rounds of housekeeping, in milliseconds.
const HOUSEKEEPING: u128 = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let audit = format!("audit.file = \"{}\"\n", folder.path().join("audit.jsonl").display());
    for extra in ["", &audit] {
        allocates_nothing(extra).await;
    }
}

async fn allocates_nothing(extra: &str) {
    let stage = Stage::new(extra).await;
    let (address, token) = (stage.address, stage.token("acme", "app"));
    tokio::task::spawn_blocking(move || {
        for (way, once, each) in ways() {
            let mut client = Lean::connect(address, "acme", "app", &token).unwrap();
            client.run(&once).unwrap();
            for _ in 0..200 {
                assert_eq!(client.run(&each).unwrap(), Answer { rows: 1, errors: 0 });
            }
            ORIGINS.lock().unwrap().clear();
            let begin = Instant::now();
            let mut found = [0; WINDOWS];
            for window in &mut found {
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                COUNTS.store(true, Ordering::Relaxed);
                for _ in 0..WINDOW {
                    client.run(&each).unwrap();
                }
                COUNTS.store(false, Ordering::Relaxed);
                *window = ALLOCATIONS.load(Ordering::Relaxed) - before;
            }
            let cores = 2;
            let rounds = (cores * (begin.elapsed().as_millis() / HOUSEKEEPING + 1)).min(WINDOWS as u128 / 2);
            let with = found.iter().filter(|count| **count > 0).count();
            let origins = ORIGINS.lock().unwrap().join("\n--\n");
            println!("{way}: allocations in {with} of {WINDOWS} windows of {WINDOW} transactions: {found:?}");
            assert!(
                with as u128 <= rounds,
                "{way}: allocations in {with} of {WINDOWS} windows of {WINDOW} transactions: {found:?}\n{origins}"
            );
        }
    })
    .await
    .unwrap();
    drop(stage);
}

// -------------------------------------------------------------------------------------------- memory

#[test]
fn durations_that_nobody_asks_for_are_counted_and_not_kept() {
    let (telemetry, stats) = (Telemetry::new(), CoreStats::default());
    let mut grown = 0;
    for round in 0..200 {
        for micros in 0..20_000 {
            stats.transaction_time.record(Duration::from_micros(micros));
        }
        telemetry.flush(&stats);
        if round == 0 {
            grown = resident_kib(std::process::id());
        }
    }
    grown = resident_kib(std::process::id()).saturating_sub(grown);
    assert!(grown < 8 * 1024, "4 million durations took {grown} KiB");
    assert!(telemetry.render().contains("pgward_transaction_seconds_count 4000000"));
}
