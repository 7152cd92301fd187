//! The hand-over of a backend from one tenant to another, seen from the wire: a tap between pgward and
//! PostgreSQL writes down what passes, and can change it.

mod support;

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf, BytesMut};
use pgward::wire::handover::{self, Orders};
use support::raw::{Raw, bind, execute, extended, gists, parse, query, sync};
use support::{HEAD, Stage, cluster, configuration, one, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What one read of one side brought.
#[derive(Debug, Clone)]
struct Piece {
    to_server: bool,
    bytes: Vec<u8>,
}

/// What is done to the server's answers, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// An ErrorResponse in its place.
    Error,
    Drop,
    Twice,
    /// Another message in its place.
    Strange,
    HangUp,
}

#[derive(Debug, Default)]
struct State {
    pieces: Vec<Piece>,
    /// The fault, and how many messages of the server's pass before it.
    fault: Option<(usize, Fault)>,
    /// Opens a transaction ahead of the next hand-over.
    intrude: bool,
}

#[derive(Clone)]
struct Tap {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Tap {
    async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let tap = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let accepting = tap.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                tokio::spawn(accepting.clone().relay(near, far));
            }
        });
        tap
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn relay(self, near: TcpStream, far: TcpStream) {
        let (mut from_near, mut to_near) = near.into_split();
        let (mut from_far, mut to_far) = far.into_split();
        let intruded = Arc::new(Mutex::new(false));
        let up = async {
            let mut buffer = vec![0; 1 << 17];
            loop {
                let n = from_near.read(&mut buffer).await.unwrap_or(0);
                if n == 0 {
                    break;
                }
                let bytes = buffer[..n].to_vec();
                let intrudes = {
                    let mut state = self.state();
                    let intrudes = state.intrude && contains(&bytes, b"DISCARD ALL");
                    state.intrude &= !intrudes;
                    state.pieces.push(Piece { to_server: true, bytes: bytes.clone() });
                    intrudes
                };
                if intrudes {
                    *intruded.lock().unwrap() = true;
                    to_far.write_all(&query("begin")).await.unwrap();
                }
                if to_far.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        };
        let down = async {
            let mut input = BytesMut::new();
            loop {
                while input.len() >= 5 && input.len() > length(&input) {
                    let message = input.split_to(1 + length(&input)).to_vec();
                    if std::mem::take(&mut *intruded.lock().unwrap()) {
                        // Its answers are nobody's business: BEGIN, and ReadyForQuery behind it.
                        assert_eq!(message[0], b'C');
                        while input.len() < 6 {
                            from_far.read_buf(&mut input).await.unwrap();
                        }
                        input.advance(6);
                        continue;
                    }
                    let Some(message) = self.answer(message) else { return };
                    if to_near.write_all(&message).await.is_err() {
                        return;
                    }
                }
                if !matches!(from_far.read_buf(&mut input).await, Ok(n) if n > 0) {
                    return;
                }
            }
        };
        tokio::select! { () = up => {}, () = down => {} }
    }

    /// The bytes that pgward is given for a message of the server's; `None` to hang up.
    fn answer(&self, message: Vec<u8>) -> Option<Vec<u8>> {
        let mut state = self.state();
        let message = match &mut state.fault {
            Some((0, fault)) => {
                let fault = *fault;
                state.fault = None;
                match fault {
                    Fault::Error => support::raw::message(b'E', b"SERROR\0VERROR\0CXX000\0Mmade by the tap\0\0"),
                    Fault::Drop => Vec::new(),
                    Fault::Twice => [&message[..], &message].concat(),
                    Fault::Strange => support::raw::message(b'I', b""),
                    Fault::HangUp => return None,
                }
            }
            Some((left, _)) => {
                *left -= 1;
                message
            }
            None => message,
        };
        state.pieces.push(Piece { to_server: false, bytes: message.clone() });
        Some(message)
    }

    fn arm(&self, after: usize, fault: Fault) {
        self.state().fault = Some((after, fault));
    }

    /// What has passed since the last time.
    fn taken(&self) -> Vec<Piece> {
        std::mem::take(&mut self.state().pieces)
    }
}

fn length(message: &[u8]) -> usize {
    usize::try_from(u32::from_be_bytes(message[1..5].try_into().unwrap())).unwrap()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The messages in a piece, which must end where a message does.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (message, rest) = bytes.split_at(1 + length(bytes));
        out.push(message);
        bytes = rest;
    }
    out
}

async fn stage(extra: &str) -> (Tap, Stage) {
    let tap = Tap::before(cluster().await.primary().port()).await;
    let stage = Stage::with(&format!("{HEAD}{}", configuration(tap.port, extra))).await;
    (tap, stage)
}

const ONE_BACKEND: &str = "[pool]\nmax_per_login = 1\n";

#[tokio::test]
async fn a_switch_of_tenants_leaves_in_one_write_with_the_clients_own_query() {
    let (tap, stage) = stage(ONE_BACKEND).await;
    let (mut acme, mut globex) = (stage.raw("acme").await, stage.raw("globex").await);
    let batch = [parse("", "select pgward.tenant()"), bind("", "", &[]), execute("", 0), sync()].concat();
    for own in [query("select pgward.tenant()"), batch] {
        acme.query("select 1").await;
        tap.taken();
        globex.send(&own).await;
        let answers = gists(&globex.ready().await);
        assert!(answers.contains(&"D globex".to_owned()), "{answers:?}");
        let pieces = tap.taken();
        let sent: Vec<&Piece> = pieces.iter().filter(|piece| piece.to_server).collect();
        assert_eq!(sent.len(), 1, "more than one write: {pieces:?}");
        assert!(pieces[0].to_server, "it went out before any answer came");
        assert!(contains(&sent[0].bytes, b"DISCARD ALL"), "the backend had served another tenant");
        assert!(sent[0].bytes.ends_with(&own), "the client's own bytes are at the end, as they came");
        let before = &sent[0].bytes[..sent[0].bytes.len() - own.len()];
        let tags: Vec<u8> = messages(before).iter().map(|message| message[0]).collect();
        assert_eq!(tags, b"PBEPBEPSDC", "DISCARD ALL, the context, the gate");
    }
}

#[tokio::test]
async fn the_sealed_context_travels_as_a_bound_parameter_and_never_as_text() {
    let (tap, stage) = stage(ONE_BACKEND).await;
    let (acme, globex) = (stage.connect("acme").await, stage.connect("globex").await);
    for _ in 0..3 {
        assert_eq!(one(&acme, "select pgward.tenant()").await, "acme");
        assert_eq!(one(&globex, "select pgward.tenant()").await, "globex");
        globex.query_one("select pgward.tenant()", &[]).await.unwrap();
    }
    let sealed = b"2.k1.";
    let mut bound = 0;
    let pieces = tap.taken();
    for piece in pieces.iter().filter(|piece| piece.to_server && contains(&piece.bytes, sealed)) {
        for message in messages(&piece.bytes).into_iter().filter(|message| contains(message, sealed)) {
            assert_eq!(char::from(message[0]), 'B', "{:?}", String::from_utf8_lossy(message));
            bound += 1;
        }
    }
    assert!(bound >= 6, "{bound}");
    let told = pieces.iter().filter(|piece| !piece.to_server);
    // set_config returns it, to pgward alone; a notice or an error with it in would be a leak.
    let leaks: Vec<&Piece> = told.filter(|piece| piece.bytes[0] != b'D' && contains(&piece.bytes, sealed)).collect();
    assert!(leaks.is_empty(), "{leaks:?}");
}

#[tokio::test]
async fn a_tenant_that_follows_itself_adds_nothing_at_all() {
    let (tap, stage) = stage(ONE_BACKEND).await;
    let (mut one, mut two) = (stage.raw("acme").await, stage.raw("acme").await);
    one.query("select 1").await;
    tap.taken();
    for raw in [&mut one, &mut two] {
        for own in [query("select pgward.tenant()"), [extended("select 2"), sync()].concat(), query("begin; commit")] {
            raw.send(&own).await;
            raw.ready().await;
            let sent: Vec<Vec<u8>> = tap.taken().into_iter().filter(|piece| piece.to_server).map(|p| p.bytes).collect();
            assert_eq!(sent, [own], "exactly the client's bytes");
        }
    }
}

#[tokio::test]
async fn a_backend_whose_handover_is_answered_wrongly_is_closed_and_another_serves() {
    let (tap, stage) = stage(ONE_BACKEND).await;
    let (mut acme, mut globex) = (stage.raw("acme").await, stage.raw("globex").await);
    let server = cluster().await.primary().connect("postgres").await.unwrap();
    let mut failed = 0.0;
    // DISCARD ALL, the context and the gate are answered by 12 messages.
    for after in 0..12 {
        for fault in [Fault::Error, Fault::Drop, Fault::Strange, Fault::Twice] {
            let pid = acme.one("select pg_backend_pid()").await;
            tap.arm(after, fault);
            let answers = gists(&globex.query("select pgward.tenant(), count(*) from orders").await);
            if (after, fault) == (11, Fault::Twice) {
                // One too many behind a hand-over that was sound: what else is wrong nobody knows.
                assert_eq!(answers, ["E 08007"]);
                continue;
            }
            assert_eq!(answers, ["T", "D globex,100", "C SELECT 1\0", "Z I"], "{fault:?} at {after}");
            assert_ne!(globex.one("select pg_backend_pid()").await, pid, "{fault:?} at {after}");
            failed += 1.0;
            let gone = format!("select count(*) from pg_stat_activity where pid = {pid}");
            until("the backend's end", async || one(&server, &gone).await == "0").await;
            assert_eq!(stage.metric("pgward_handovers_failed_total").await, failed, "{fault:?} at {after}");
        }
    }
    assert_eq!(acme.one("select pgward.tenant()").await, "acme");
}

#[tokio::test]
async fn a_batch_in_pieces_is_whole_on_the_backend_that_serves_it_at_last() {
    let (tap, stage) = stage(ONE_BACKEND).await;
    let (mut acme, mut globex) = (stage.raw("acme").await, stage.raw("globex").await);
    let text = "x".repeat(300_000);
    let long = [parse("", "select length($1), md5($1)"), bind("", "", &[&text]), execute("", 0), sync()].concat();
    let huge = query(&format!("select length('{}')", "y".repeat(3_000_000)));
    for after in [0, 5, 11] {
        acme.query("select 1").await;
        tap.arm(after, Fault::Error);
        globex.send(&long).await;
        let answers = gists(&globex.ready().await);
        let row = answers.iter().find(|gist| gist.starts_with('D')).unwrap_or_else(|| panic!("{answers:?}"));
        assert!(row.starts_with("D 300000,"), "{row}");
        // One message after the other, each in a piece of its own.
        acme.query("select 1").await;
        tap.arm(after, Fault::Error);
        for message in [parse("s", "select pgward.tenant()"), bind("", "s", &[]), execute("", 0), sync()] {
            globex.send(message).await;
            support::raw::pause().await;
        }
        assert_eq!(gists(&globex.ready().await), ["1", "2", "D globex", "C SELECT 1\0", "Z I"]);
        globex.send([support::raw::close('S', "s"), sync()].concat()).await;
        globex.ready().await;
    }
    for after in [0, 5, 11] {
        acme.query("select 1").await;
        tap.arm(after, Fault::Error);
        let mut own = stage.raw("globex").await;
        own.send(&huge).await;
        // Its session is pinned by now, and told so rather than moved.
        assert_eq!(gists(&own.rest().await), ["E 08006"]);
        let mut own = stage.raw("globex").await;
        acme.query("select 1").await;
        own.send(&huge).await;
        assert_eq!(gists(&own.ready().await)[1], "D 3000000");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_in_a_handover_ends_the_session_since_the_outcome_is_unknown() {
    let (tap, stage) = stage(ONE_BACKEND).await;
    let mut acme = stage.raw("acme").await;
    for after in [0, 6, 11] {
        let mut globex = stage.raw("globex").await;
        acme.query("select 1").await;
        tap.arm(after, Fault::HangUp);
        globex.send(query("select pgward.tenant()")).await;
        let answers = gists(&globex.rest().await);
        assert_eq!(answers, ["E 08007"], "{after}");
        assert_eq!(acme.one("select pgward.tenant()").await, "acme");
    }
}

#[tokio::test]
async fn a_backend_left_in_a_transaction_runs_nothing_of_the_next_tenants() {
    let (tap, stage) = stage(ONE_BACKEND).await;
    let (mut acme, mut globex) = (stage.raw("t1").await, stage.raw("t2").await);
    let insert = "insert into orders (item) values ('once') returning tenant_id";
    let count = "select count(*) from orders where item = 'once'";
    for (i, own) in [query(insert), [extended(insert), sync()].concat()].iter().enumerate() {
        acme.query("select 1").await;
        tap.state().intrude = true;
        globex.send(own).await;
        let answers = gists(&globex.ready().await);
        assert!(answers.contains(&"D t2".to_owned()), "{answers:?}");
        assert!(!tap.state().intrude, "a transaction was open when the hand-over came");
        assert_eq!(globex.one(count).await, (i + 1).to_string(), "run once, on the other backend");
        assert_eq!(acme.one(count).await, "0");
    }
    assert_eq!(stage.metric("pgward_handovers_failed_total").await, 2.0);
    globex.query("delete from orders where item = 'once'").await;
}

/// Straight to PostgreSQL: what the gate stands on.
#[tokio::test]
async fn postgresql_skips_what_follows_a_handover_that_fails() {
    let url = cluster().await.primary().url_of("postgres");
    let watch = cluster().await.primary().connect("postgres").await.unwrap();
    watch.batch_execute("create table skipped (what text)").await.unwrap();
    let put = |discard, settings: &[(&str, &str)]| {
        let mut out = Vec::new();
        let settings = settings.iter().map(|(name, value)| (*name, Some(*value))).collect();
        handover::put(&mut out, &Orders { discard, settings, statements: Vec::new() }, b"gate_1");
        out
    };
    let insert = |what: &str| format!("insert into skipped values ('{what}')");
    // DISCARD ALL fails within a transaction; a setting fails by its value.
    type Case = (&'static str, bool, &'static [(&'static str, &'static str)]);
    let cases: [Case; 3] = [
        ("begin", true, &[("search_path", "public")]),
        ("select 1", true, &[("TimeZone", "Mars/Olympus")]),
        ("select 1", false, &[("search_path", "public"), ("statement_timeout", "soon")]),
    ];
    for (before, discard, settings) in cases {
        for own in [query(&insert("query")), [extended(&insert("batch")), sync()].concat()] {
            let mut raw = Raw::open(&url).await;
            raw.query(before).await;
            raw.send(
                [put(discard, settings), own.clone(), sync(), query("rollback"), query("select 'alive'")].concat(),
            )
            .await;
            let answers = raw.until(|message| message.tag == b'D' && message.columns() == ["alive"]).await;
            let answers = gists(&answers);
            assert!(!answers.iter().any(|gist| gist.starts_with("C INSERT")), "{before} {own:?}: {answers:?}");
            assert!(answers.iter().filter(|gist| gist.starts_with('E')).count() >= 2, "{answers:?}");
        }
    }
    assert_eq!(one(&watch, "select count(*) from skipped").await, "0");
    // And what follows one that succeeds is run.
    for own in [query(&insert("query")), [extended(&insert("batch")), sync()].concat()] {
        let mut raw = Raw::open(&url).await;
        raw.send([put(true, &[("search_path", "public")]), own].concat()).await;
        let answers = gists(&raw.ready_times(2).await);
        assert!(answers.iter().any(|gist| gist.starts_with("C INSERT")), "{answers:?}");
    }
    assert_eq!(one(&watch, "select count(*) from skipped").await, "2");
}

#[tokio::test]
async fn what_random_gives_a_tenant_was_not_chosen_by_the_one_before() {
    let (_tap, stage) = stage(ONE_BACKEND).await;
    let (acme, globex) = (stage.connect("acme").await, stage.connect("globex").await);
    let server = cluster().await.primary().connect("postgres").await.unwrap();
    server.batch_execute("select setseed(0.5)").await.unwrap();
    let chosen = one(&server, "select random()").await;
    for seeding in [
        "select setseed(0.5)",
        "set seed = 0.5",
        "begin; select setseed(0.5); rollback",
        "do $$ begin perform setseed(0.5); end $$",
    ] {
        acme.batch_execute(seeding).await.unwrap();
        let given = one(&globex, "select random()").await;
        assert_ne!(given, chosen, "{seeding}");
        acme.batch_execute(seeding).await.unwrap();
        assert_ne!(one(&globex, "select random()").await, given, "each time another");
    }
}
