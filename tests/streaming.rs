//! Results and COPY of any length pass through a process of pgward's own without being kept, and whoever is
//! slow to read, client or server, holds up its own session only.

#[path = "support/lean.rs"]
mod lean;
#[path = "support/spawned.rs"]
mod spawned;
mod support;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lean::{Answer, Lean, message, query};
use spawned::{Spawned, peak_kib, resident_kib};
use tokio::runtime::Handle;
use tokio_postgres::Client;

/// What pgward may grow by, however much passes through it.
const GROWTH_KIB: u64 = 32 * 1024;

/// What sockets of all three parties may hold; a small part of what is sent.
const IN_SOCKETS: u64 = 64 << 20;

/// While one session is stuck, a statement of another takes no longer.
const PROMPT: Duration = Duration::from_secs(2);

const TENANT: &str = "kandy";

/// pgward as a process, and what it took before anything long passed through it.
struct Scene {
    pgward: Spawned,
    token: String,
    before: u64,
}

impl Scene {
    fn new(port: u16) -> Self {
        let text = format!("{}{}", support::HEAD, support::configuration(port, "[pool]\nmax_per_login = 4\n"));
        let pgward = Spawned::start(Path::new(env!("CARGO_BIN_EXE_pgward")), &[], &text);
        let token = pgward.token(TENANT);
        let mut scene = Self { pgward, token, before: 0 };
        // What the first clients bring about once is no one's cost: backends, buffers, code that is paged in.
        let mut clients: Vec<Lean> = (0..8).map(|_| scene.connect()).collect();
        let short = query("select repeat('x', 3000)");
        clients.iter_mut().for_each(|client| assert_eq!(client.run(&short).unwrap(), Answer { rows: 1, errors: 0 }));
        drop(clients);
        scene.before = resident_kib(scene.pgward.pid);
        scene
    }

    fn connect(&self) -> Lean {
        Lean::connect(self.pgward.address, TENANT, "app", &self.token).unwrap()
    }

    fn assert_flat(&self, what: &str) {
        let (peak, before) = (peak_kib(self.pgward.pid), self.before);
        println!("{what}: at most {peak} KiB, {before} KiB before");
        assert!(peak.saturating_sub(before) < GROWTH_KIB, "{what}: {peak} KiB, {before} KiB before");
    }

    /// Four clients, so that each core has some, are served while another session is stuck.
    fn assert_others_served(&self, what: &str) {
        let mut clients: Vec<Lean> = (0..4).map(|_| self.connect()).collect();
        let short = query("select count(*) from orders");
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            for client in &mut clients {
                let begin = Instant::now();
                assert_eq!(client.run(&short).unwrap(), Answer { rows: 1, errors: 0 });
                slowest = slowest.max(begin.elapsed());
            }
        }
        println!("{what}: the others were served within {slowest:?}");
        assert!(slowest < PROMPT, "{what}: another client waited {slowest:?}");
    }
}

/// Reads one answer to its ReadyForQuery and throws it away: how many rows, and how many bytes in all.
fn discard(mut socket: impl Read) -> (u64, u64) {
    let mut buffer = vec![0; 1 << 18];
    let (mut rows, mut bytes) = (0, 0);
    let (mut head, mut rest, mut last) = (Vec::with_capacity(5), 0, 0);
    while last != b'Z' || rest > 0 {
        let n = socket.read(&mut buffer).unwrap();
        assert!(n > 0, "the connection ended after {bytes} bytes");
        bytes += n as u64;
        let mut chunk = &buffer[..n];
        while !chunk.is_empty() {
            let (skipped, behind) = chunk.split_at(rest.min(chunk.len()));
            (rest, chunk) = (rest - skipped.len(), behind);
            let (front, behind) = chunk.split_at(chunk.len().min(5 - head.len()));
            head.extend_from_slice(front);
            chunk = behind;
            if let [tag, a, b, c, d] = head[..] {
                assert_ne!(tag, b'E', "an error after {bytes} bytes");
                (last, rest) = (tag, u32::from_be_bytes([a, b, c, d]) as usize - 4);
                rows += u64::from(tag == b'D');
                head.clear();
            }
        }
    }
    (rows, bytes)
}

/// Rows of 1 MB: the server makes the text once, and copies it for each.
fn megabytes(of: char, count: u64) -> Vec<u8> {
    query(&format!("select repeat('{of}', 1000000) from generate_series(1, {count})"))
}

/// What a backend of the tenant that is in the middle of this statement waits for.
async fn waits_for(watch: &Client, statement: &str) -> Option<String> {
    let sql = "select wait_event from pg_stat_activity where state = 'active' and query like $1 || '%' and pid <> pg_backend_pid()";
    watch.query_opt(sql, &[&statement]).await.unwrap().and_then(|row| row.get(0))
}

async fn watch() -> (u16, Client) {
    let server = support::cluster().await.primary();
    (server.port(), server.connect("app").await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_of_two_gibibytes_passes_through_in_flat_memory() {
    let port = support::cluster().await.primary().port();
    tokio::task::spawn_blocking(move || {
        let scene = Scene::new(port);
        let reader = scene.connect();
        let begin = Instant::now();
        reader.socket().write_all(&megabytes('x', 2_148)).unwrap();
        let (rows, bytes) = discard(reader.socket());
        println!("{bytes} bytes in {:?}", begin.elapsed());
        assert!(rows == 2_148 && bytes > 2 << 30, "{rows} rows, {bytes} bytes");
        scene.assert_flat("a result of 2 GiB");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_of_a_hundred_megabytes_passes_through_in_flat_memory() {
    let port = support::cluster().await.primary().port();
    tokio::task::spawn_blocking(move || {
        let scene = Scene::new(port);
        let client = scene.connect();
        client.socket().write_all(&query(&format!("select length('{}')", "y".repeat(100_000_000)))).unwrap();
        let (rows, _) = discard(client.socket());
        assert_eq!(rows, 1);
        scene.assert_flat("a query of 100 MB");
    })
    .await
    .unwrap();
}

/// The server stops sending; nobody else notices; and the client gets the whole result when it reads on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_up_its_own_backend_and_nobody_else() {
    let (port, watch) = watch().await;
    let handle = Handle::current();
    tokio::task::spawn_blocking(move || {
        let scene = Scene::new(port);
        let lazy = scene.connect();
        lazy.socket().write_all(&megabytes('y', 300)).unwrap();
        let stuck = || handle.block_on(waits_for(&watch, "select repeat('y'")).as_deref() == Some("ClientWrite");
        lastingly("the server's wait for its client", stuck);
        scene.assert_others_served("beside a client that does not read");
        lastingly("the server's wait, after others were served", stuck);
        scene.assert_flat("a client that does not read");
        let (rows, bytes) = discard(lazy.socket());
        assert!(rows == 300 && bytes > 300_000_000, "{rows} rows, {bytes} bytes");
        scene.assert_flat("a client that read at last");
    })
    .await
    .unwrap();
}

const COPIED: u64 = 300;

/// The server stops reading since another session's row is in its way. The client cannot write on, rather
/// than fill pgward's memory; nobody else notices; and all of it arrives in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_read_holds_up_the_client_that_copies_and_nobody_else() {
    let (port, watch) = watch().await;
    let handle = Handle::current();
    watch
        .batch_execute(
            "set role kandy; create unlogged table kandy.crowd (id int primary key, filler text); reset role",
        )
        .await
        .unwrap();
    let other = support::cluster().await.primary().connect("app").await.unwrap();
    other.batch_execute("begin; insert into kandy.crowd values (1, 'in the way')").await.unwrap();
    tokio::task::spawn_blocking(move || {
        let scene = Scene::new(port);
        let mut copier = scene.connect();
        let sent = Arc::new(AtomicU64::new(0));
        let progress = Arc::clone(&sent);
        let writer = thread::spawn(move || {
            copier.socket().write_all(&query("copy crowd from stdin where id <= 1000")).unwrap();
            copy(copier.socket(), &progress);
            let end = copier.run(&message(b'c', b"")).unwrap();
            assert_eq!(end, Answer { rows: 0, errors: 0 });
            copier
        });
        let stuck = || handle.block_on(waits_for(&watch, "copy crowd")).as_deref() == Some("transactionid");
        eventually("the server's wait for the other session", stuck);
        // Full sockets, and no more than that.
        let mut seen = 0;
        eventually("the client's wait", || {
            thread::sleep(Duration::from_millis(500));
            std::mem::replace(&mut seen, sent.load(Ordering::Relaxed)) == seen
        });
        println!("{} MiB were written before the client had to wait", seen >> 20);
        assert!(seen < IN_SOCKETS, "{seen} bytes were taken that nobody could use");
        scene.assert_others_served("beside a COPY that the server does not read");
        assert!(stuck() && !writer.is_finished());
        scene.assert_flat("a COPY that the server does not read");
        handle.block_on(other.batch_execute("rollback")).unwrap();
        let mut copier = writer.join().unwrap();
        assert!(sent.load(Ordering::Relaxed) > COPIED << 20);
        copier.expect(&query("select count(*) from crowd"), "1000").unwrap();
        scene.assert_flat("a COPY of 300 MiB");
    })
    .await
    .unwrap();
}

/// 1,000 rows that are stored, and then [`COPIED`] MiB of rows that are read and left out.
fn copy(mut socket: impl Write, sent: &AtomicU64) {
    let stored: String = (1..=1000).map(|id| format!("{id}\tstored\n")).collect();
    let left_out = format!("2000\t{}\n", "x".repeat(10_000)).repeat(100);
    let pieces = [message(b'd', stored.as_bytes()), message(b'd', left_out.as_bytes())];
    let mut piece = &pieces[0];
    while sent.load(Ordering::Relaxed) <= COPIED << 20 {
        socket.write_all(piece).unwrap();
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        piece = &pieces[1];
    }
}

/// For a while without a break: sockets whose buffers still grow make a server wait for moments only.
fn lastingly(what: &str, condition: impl Fn() -> bool) {
    let mut in_a_row = 0;
    eventually(what, || {
        in_a_row = if condition() { in_a_row + 1 } else { 0 };
        in_a_row == 20
    });
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what} did not happen");
        thread::sleep(Duration::from_millis(20));
    }
}
