//! Whatever a client sends, in whatever pieces: what PostgreSQL would have answered comes back, or the
//! connection ends; nothing panics, no backend stays stuck, and nobody else notices.

mod support;

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use support::raw::{
    Message, Raw, bind, close, copy_data, copy_done, copy_fail, describe, errors, execute, extended, flush,
    function_call, gists, message, parse, pause, query, sync,
};
use support::{Stage, cluster, one};
use tokio_postgres::Client;

/// The proxy still serves, nobody else is disturbed, and nothing is left behind but `clients`.
async fn unharmed(stage: &Stage, witness: &Client) {
    assert_eq!(one(witness, "select pgward.tenant() || count(*) from orders").await, "globex100");
    stage.at_rest(1).await;
}

/// Random bytes that are the same in every run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length).map(|_| next().to_le_bytes()[3]).collect()
}

#[tokio::test]
async fn random_bytes_end_a_session_and_nothing_else() {
    let stage = Stage::new("[pool]\nmax_per_login = 3\n").await;
    let witness = stage.connect("globex").await;
    for seed in 0..150 {
        let mut raw = stage.raw("acme").await;
        if seed % 3 == 0 {
            raw.query("begin").await;
        }
        let length = usize::try_from(seed).unwrap() * 7 % 200 + 1;
        let tag = b"QPBDECSHFdcfXp?\0"[usize::try_from(seed).unwrap() % 16];
        // Every other time the noise is framed well, so that it gets past the header.
        let bytes = if seed % 2 == 0 { message(tag, &noise(seed, length)) } else { noise(seed, length) };
        raw.try_send(&bytes).await;
        drop(raw);
        assert_eq!(one(&witness, "select pgward.tenant()").await, "globex");
    }
    unharmed(&stage, &witness).await;
}

#[tokio::test]
async fn frames_that_cannot_be_are_refused_by_their_header() {
    let stage = Stage::new("[pool]\nmax_per_login = 3\n").await;
    let witness = stage.connect("globex").await;
    let framed = |tag: u8, length: u32| [&[tag][..], &length.to_be_bytes()].concat();
    let mut bad: Vec<Vec<u8>> = b"\0\x01RZTKNA1235GHWstnvz{\xff".iter().map(|tag| framed(*tag, 4)).collect();
    bad.retain(|frame| !b"HsD".contains(&frame[0]));
    for length in [0, 1, 3, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        bad.extend([framed(b'Q', length), framed(b'd', length), framed(b'B', length)]);
    }
    bad.extend(b"SEDCHXcf".iter().map(|tag| framed(*tag, 20_000)));
    let malformed = [
        message(b'Q', b"select 1"),
        message(b'Q', b"select 1\0select 2\0"),
        message(b'Q', b""),
        message(b'P', b"name\0select 1"),
        message(b'P', b"name\0select 1\0\0\x02\0\0\0\x17"),
        message(b'B', b"no end"),
        message(b'D', b"Sname"),
        message(b'D', b"Zname\0"),
        message(b'C', b""),
        message(b'p', b"password\0"),
    ];
    bad.extend(malformed);
    for frame in bad {
        for before in [&b""[..], &query("begin")] {
            let mut raw = stage.raw("acme").await;
            if !before.is_empty() {
                raw.send(before).await;
                raw.ready().await;
            }
            raw.send(&frame).await;
            let messages = raw.rest().await;
            assert_eq!(errors(&messages), ["08P01"], "{frame:?}: {messages:?}");
            assert_eq!(messages[0].field(b'S'), "FATAL");
        }
    }
    unharmed(&stage, &witness).await;
}

#[tokio::test]
async fn frames_that_are_cut_off_leave_no_backend_behind() {
    let stage = Stage::new("[pool]\nmax_per_login = 3\n").await;
    let witness = stage.connect("globex").await;
    let whole = [
        query("insert into orders (item) values ('cut off')"),
        [parse("s", "insert into orders (item) values ($1)"), bind("", "s", &["cut off"]), execute("", 0)].concat(),
        [query("copy orders (item) from stdin"), copy_data(b"cut off\n")].concat(),
    ];
    for bytes in &whole {
        for end in 1..bytes.len() {
            let mut raw = stage.raw("kandy").await;
            raw.send(&bytes[..end]).await;
        }
    }
    unharmed(&stage, &witness).await;
    let mut kandy = stage.raw("kandy").await;
    assert_eq!(kandy.one("select count(*) from orders where item = 'cut off'").await, "0", "it was never finished");
}

/// The messages of small sessions, and how many times each is answered with ReadyForQuery.
fn sessions() -> Vec<(&'static str, Vec<u8>, usize)> {
    let orders = "select count(*) from orders where tenant_id = 'acme'";
    vec![
        ("a query", query("select pgward.tenant(), 1; select 2"), 1),
        (
            "an extended batch",
            [
                parse("", "select $1::text || pgward.tenant()"),
                bind("", "", &["I am "]),
                describe('P', ""),
                execute("", 0),
                sync(),
            ]
            .concat(),
            1,
        ),
        (
            "a prepared statement, its closing, and its absence",
            [
                parse("s", orders),
                describe('S', "s"),
                sync(),
                bind("p", "s", &[]),
                execute("p", 1),
                close('P', "p"),
                sync(),
                close('S', "s"),
                sync(),
                bind("", "s", &[]),
                execute("", 0),
                sync(),
            ]
            .concat(),
            4,
        ),
        (
            "a batch that fails, and what follows it",
            [
                extended("select 1"),
                extended("select 1/0"),
                extended("select 2"),
                sync(),
                parse("", "no sql"),
                bind("", "", &[]),
                execute("", 0),
                close('S', "x"),
                sync(),
                query("select 3"),
            ]
            .concat(),
            3,
        ),
        (
            "copying in and out",
            [
                query("begin; create temp table t (a text) on commit drop"),
                query("copy t from stdin"),
                copy_data(b"one\ntw"),
                copy_data(b"o\n"),
                copy_done(),
                query("copy t to stdout"),
                query("copy t from stdin"),
                copy_data(b"three\n"),
                copy_fail(),
                query("rollback"),
            ]
            .concat(),
            5,
        ),
        (
            "settings that are reset",
            [extended("reset all"), sync(), extended("select pgward.tenant()"), sync(), query("reset all")].concat(),
            3,
        ),
        (
            "flushes",
            [parse("", "select 1"), flush(), bind("", "", &[]), flush(), execute("", 0), flush(), sync()].concat(),
            1,
        ),
    ]
}

#[tokio::test]
async fn messages_split_at_every_byte_are_answered_as_if_they_were_whole() {
    // One backend and a neighbour, so that each session begins with a hand-over from another tenant.
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    let mut neighbour = stage.raw("globex").await;
    for (what, bytes, answers) in sessions() {
        let mut raw = stage.raw("acme").await;
        assert_eq!(neighbour.one("select pgward.tenant()").await, "globex");
        raw.send(&bytes).await;
        let expected = gists(&raw.ready_times(answers).await);
        assert!(!expected.is_empty(), "{what}: {expected:?}");
        for at in 1..bytes.len() {
            assert_eq!(neighbour.one("select pgward.tenant()").await, "globex", "{what}, split at {at}");
            raw.send_split(&bytes, at).await;
            let found = gists(&raw.ready_times(answers).await);
            assert_eq!(found, expected, "{what}, split at {at}");
        }
    }
    stage.at_rest(1).await;
}

#[tokio::test]
async fn messages_sent_byte_by_byte_are_answered_as_if_they_were_whole() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    for (what, bytes, answers) in sessions() {
        let mut raw = stage.raw("acme").await;
        raw.send(&bytes).await;
        let expected = gists(&raw.ready_times(answers).await);
        for byte in bytes {
            raw.send([byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(gists(&raw.ready_times(answers).await), expected, "{what}");
    }
    stage.at_rest(0).await;
}

#[tokio::test]
async fn function_calls_are_refused_in_their_turn() {
    let stage = Stage::new("[pool]\nmax_per_login = 3\n").await;
    let witness = stage.connect("globex").await;
    let call = || function_call(2026);
    let refused = "E 0A000";
    let mut raw = stage.raw("acme").await;
    raw.send(call()).await;
    assert_eq!(gists(&raw.ready().await), [refused, "Z I"], "between transactions");

    raw.send([query("select 1"), call(), query("select 2")].concat()).await;
    let expected = ["T", "D 1", "C SELECT 1\0", "Z I", refused, "Z I", "T", "D 2", "C SELECT 1\0", "Z I"];
    assert_eq!(gists(&raw.ready_times(3).await), expected, "between queries");

    raw.query("begin").await;
    raw.send([call(), query("select 1"), query("rollback")].concat()).await;
    let expected = [refused, "Z E", "E 25P02", "Z E", "C ROLLBACK\0", "Z I"];
    assert_eq!(gists(&raw.ready_times(3).await), expected, "in a transaction");

    raw.send([extended("select 1"), call(), extended("select 2"), sync()].concat()).await;
    let expected = ["1", "2", "D 1", "C SELECT 1\0", refused, "Z I", "1", "2", "D 2", "C SELECT 1\0", "Z I"];
    assert_eq!(gists(&raw.ready_times(2).await), expected, "in a pipeline");

    let long = message(b'F', &noise(1, 100_000));
    for at in [1, 5, 6, 50_000] {
        raw.send_split(&[&long[..], &query("select 3")].concat(), at).await;
        assert_eq!(gists(&raw.ready_times(2).await)[..2], [refused, "Z I"], "a long one");
    }
    drop(raw);
    unharmed(&stage, &witness).await;
}

#[tokio::test]
async fn an_error_before_the_rest_of_its_batch_was_sent_does_not_end_the_session() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    let mut raw = stage.raw("acme").await;
    for name in ["", "named"] {
        raw.send([parse(name, "no sql"), flush()].concat()).await;
        assert_eq!(raw.next().await.unwrap().gist(), "E 42601");
        // The client had not read that when it sent the rest.
        let rest = [bind("", name, &[]), execute("", 0), parse("other", "select 1"), query("select 'skipped'"), sync()];
        raw.send(rest.concat()).await;
        assert_eq!(gists(&raw.ready().await), ["Z I"]);
        raw.send([bind("", "other", &[]), sync()].concat()).await;
        assert_eq!(gists(&raw.ready().await), ["E 26000", "Z I"], "its Parse was skipped");
        raw.send(
            [parse("other", "select 5"), bind("", "other", &[]), execute("", 0), close('S', "other"), sync()].concat(),
        )
        .await;
        assert_eq!(gists(&raw.ready().await), ["1", "2", "D 5", "C SELECT 1\0", "3", "Z I"]);
    }
    // A Query behind a batch that failed, with no Sync between them, is skipped by the server.
    raw.send([extended("select 1/0"), query("select 'skipped'"), sync(), query("select 'run'")].concat()).await;
    assert_eq!(gists(&raw.ready_times(2).await), ["1", "E 22012", "Z I", "T", "D run", "C SELECT 1\0", "Z I"]);
    stage.raw("globex").await.query("select 1").await;
    drop(raw);
    stage.at_rest(0).await;
}

#[tokio::test]
async fn a_sync_within_a_copy_is_ignored_as_the_server_does() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    let mut raw = stage.raw("kandy").await;
    let copy = "copy orders (item) from stdin";
    for begin in [query(copy), extended(copy)] {
        let simple = begin[0] == b'Q';
        raw.send([begin, sync()].concat()).await;
        raw.until(|message| message.tag == b'G').await;
        raw.send([copy_data(b"x\n"), sync(), copy_fail()].concat()).await;
        if !simple {
            raw.send(sync()).await;
        }
        let messages = raw.ready().await;
        assert_eq!(errors(&messages), ["57014"], "{messages:?}");
        assert_eq!(raw.one("select 'next'").await, "next");
    }
    drop(raw);
    stage.at_rest(0).await;
}

/// Bad data fails the COPY, so the Sync behind it is answered, which nobody knows who has not seen the error. The
/// query's answers are still to come when as many are there as were counted on.
#[tokio::test]
async fn another_session_got_the_answers_to_a_query_behind_a_failed_copy() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    let (mut raw, mut other) = (stage.raw("kandy").await, stage.raw("kandy").await);
    raw.send([extended("copy orders (item) from stdin"), flush()].concat()).await;
    raw.until(|message| message.tag == b'G').await;
    let ends = [copy_data(b"one\ttoo many\n"), sync(), copy_done(), sync(), query("select pg_sleep(1), 'another''s'")];
    raw.send(ends.concat()).await;
    for _ in 0..3 {
        assert_eq!(other.one("select 'own'").await, "own");
    }
    drop((raw, other));
    stage.at_rest(0).await;
}

/// One thing a client may do.
#[derive(Debug, Clone)]
enum Act {
    Query(&'static str),
    Parse(&'static str, &'static str),
    Bind(&'static str, &'static str),
    Describe(char, &'static str),
    Execute(&'static str, u32),
    Close(char, &'static str),
    /// In a batch of its own.
    CloseAlone(char, &'static str),
    Sync,
    Flush,
    CopyData(&'static str),
    CopyDone,
    CopyFail,
    Call,
    /// Nothing: what was sent so far arrives alone.
    Pause,
}

impl Act {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Query(text) => query(text),
            Self::Parse(name, text) => parse(name, text),
            Self::Bind(portal, statement) => bind(portal, statement, &[]),
            Self::Describe(kind, name) => describe(*kind, name),
            Self::Execute(portal, rows) => execute(portal, *rows),
            Self::Close(kind, name) => close(*kind, name),
            Self::CloseAlone(kind, name) => [sync(), close(*kind, name), sync()].concat(),
            Self::Sync => sync(),
            Self::Flush => flush(),
            Self::CopyData(text) => copy_data(text.as_bytes()),
            Self::CopyDone => copy_done(),
            Self::CopyFail => copy_fail(),
            Self::Call => function_call(2026),
            Self::Pause => Vec::new(),
        }
    }
}

const TEXTS: [&str; 14] = [
    "select 1",
    "select generate_series(1, 3)",
    "select 1/0",
    "no sql",
    "",
    "begin",
    "commit",
    "rollback",
    "select 1; select 2",
    "copy t from stdin",
    "copy (select generate_series(1, 3)) to stdout",
    "reset all",
    "deallocate all",
    "set application_name = 'x'",
];

fn act() -> impl Strategy<Value = Act> {
    let name = || prop_oneof![3 => Just(""), 2 => Just("a"), 1 => Just("b")];
    let kind = || prop_oneof![Just('S'), Just('P')];
    let text = || (0..TEXTS.len()).prop_map(|i| TEXTS[i]);
    let data = prop_oneof![Just("1\n"), Just("x\n"), Just("")];
    prop_oneof![
        4 => text().prop_map(Act::Query),
        5 => (name(), text()).prop_map(|(name, text)| Act::Parse(name, text)),
        5 => (name(), name()).prop_map(|(portal, name)| Act::Bind(portal, name)),
        2 => (kind(), name()).prop_map(|(kind, name)| Act::Describe(kind, name)),
        5 => (name(), 0..3u32).prop_map(|(name, rows)| Act::Execute(name, rows)),
        2 => (kind(), name()).prop_map(|(kind, name)| Act::Close(kind, name)),
        6 => Just(Act::Sync),
        1 => Just(Act::Flush),
        2 => data.prop_map(Act::CopyData),
        1 => Just(Act::CopyDone),
        1 => Just(Act::CopyFail),
        1 => Just(Act::Call),
        2 => Just(Act::Pause),
    ]
}

/// Sends it all and then a question that ends it, and returns everything said until the question's end,
/// or until the connection's.
async fn perform(raw: &mut Raw, acts: &[Act]) -> Vec<Message> {
    let mut piece = Vec::new();
    for act in acts {
        piece.extend(act.bytes());
        if matches!(act, Act::Pause) {
            raw.try_send(std::mem::take(&mut piece)).await;
            pause().await;
        }
    }
    raw.try_send([piece, copy_fail(), sync(), query("rollback; select 'the end'")].concat()).await;
    let mut said = Vec::new();
    let mut end = false;
    let all = async {
        while let Some(message) = raw.next().await {
            end |= message.tag == b'D' && message.columns() == ["the end"];
            said.push(message);
            if end && said.last().is_some_and(|last| last.tag == b'Z') {
                break;
            }
        }
    };
    if tokio::time::timeout(std::time::Duration::from_secs(5), all).await.is_err() {
        said.push(Message { tag: b'?', body: Vec::new() });
    }
    said
}

/// A Parse under a name that is taken is refused by its name before its text is looked at, so the two
/// reasons count as one.
fn comparable(messages: &[Message]) -> Vec<String> {
    gists(messages).into_iter().map(|gist| gist.replace("42P05", "42601")).collect()
}

/// Acts whose answers are PostgreSQL's own through pgward: no function call, which pgward refuses, and
/// no Close that an error before it could have skipped, which pgward takes for done.
fn same_as_the_server() -> impl Strategy<Value = Vec<Act>> {
    let act = act().prop_filter("refused by pgward", |act| !matches!(act, Act::Call)).prop_map(|act| match act {
        Act::Close(kind, name) => Act::CloseAlone(kind, name),
        other => other,
    });
    proptest::collection::vec(act, 1..25)
}

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Runs cases against one stage, on a runtime of their own.
fn in_stage<S: Strategy>(
    cases: u32,
    strategy: S,
    case: impl AsyncFn(&Stage, &Client, S::Value) -> Result<(), TestCaseError>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stage, witness) = runtime.block_on(async {
        let stage = Stage::new("[pool]\nmax_per_login = 2\n").await;
        let server = cluster().await.primary();
        server
            .run("app", "make the table", "create table if not exists t (a int); grant all on t to public")
            .await
            .unwrap();
        let witness = stage.connect("globex").await;
        (stage, witness)
    });
    let outcome = runner(cases).run(&strategy, |value| runtime.block_on(case(&stage, &witness, value)));
    runtime.block_on(unharmed(&stage, &witness));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn random_conversations_leave_nobody_stuck() {
    in_stage(300, proptest::collection::vec(act(), 1..25), async |stage, witness, acts| {
        let mut raw = stage.raw("acme").await;
        let said = gists(&perform(&mut raw, &acts).await);
        prop_assert!(!said.contains(&"?".to_owned()), "no end was heard: {:?}", said);
        // Half of them end without a word, in the middle of whatever there is.
        if acts.len() % 2 == 0 {
            let mut abrupt = stage.raw("acme").await;
            let bytes: Vec<u8> = acts.iter().flat_map(Act::bytes).collect();
            abrupt.try_send(&bytes).await;
        }
        drop(raw);
        unharmed(stage, witness).await;
        prop_assert!(stage.control.pools().await.iter().all(|(row, _)| row.open <= 2));
        Ok(())
    });
}

#[test]
fn random_conversations_are_answered_as_postgresql_answers_them() {
    // Logging in straight takes a debug build 80 ms, so one connection serves until a case ends it.
    let kept = RefCell::new(None);
    in_stage(300, same_as_the_server(), async |stage, _, acts| {
        let last = kept.borrow_mut().take();
        let mut straight = match last {
            Some(raw) => raw,
            None => Raw::open(&cluster().await.primary().url_of("app")).await,
        };
        let mut through = stage.raw("acme").await;
        let expected = comparable(&perform(&mut straight, &acts).await);
        let messages = perform(&mut through, &acts).await;
        let texts: Vec<String> = messages.iter().filter(|m| m.tag == b'E').map(|m| m.field(b'M')).collect();
        prop_assert_eq!(comparable(&messages), expected, "{:?}: {:?}", acts, texts);
        if straight.try_send(query("discard all")).await && straight.ready().await.len() > 1 {
            *kept.borrow_mut() = Some(straight);
        }
        Ok(())
    });
}

#[tokio::test]
async fn an_unnamed_statement_that_the_session_does_not_have_is_nobody_elses() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    let (mut acme, mut other, mut globex) =
        (stage.raw("acme").await, stage.raw("acme").await, stage.raw("globex").await);
    for _ in 0..2 {
        acme.send([bind("", "", &[]), execute("", 0), sync()].concat()).await;
        assert_eq!(gists(&acme.ready().await), ["E 26000", "Z I"], "pgward's own, that sets the context");
        other.send([extended("select 'mine'"), sync()].concat()).await;
        other.ready().await;
        acme.send([describe('S', ""), bind("", "", &[]), execute("", 0), sync()].concat()).await;
        assert_eq!(gists(&acme.ready().await), ["E 26000", "Z I"], "another session's");
        acme.send([parse("x", "no sql"), bind("", "", &[]), sync(), bind("", "", &[]), sync()].concat()).await;
        assert_eq!(gists(&acme.ready_times(2).await), ["E 42601", "Z I", "E 26000", "Z I"]);
        globex.query("select 1").await;
    }
}
