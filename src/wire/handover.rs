//! The hand-over: what turns a backend from the session it served last to the next one.
//!
//! It is sent ahead of the client's own bytes in the same write, so it costs no round trip:
//!
//! ```text
//!   Parse     DISCARD ALL, Bind, Execute      (after another tenant, or when something was left)
//!   Parse     select set_config($1,$2,false), ...        \   (setseed among them, after a DISCARD ALL)
//!   Bind      names and values as parameters              | one batch
//!   Execute                                               |
//!   Parse     PREPARE .. or DEALLOCATE .., Bind, Execute  | for each of SQL's own statements
//!   Parse     <gate>, a statement without a text         /
//!   Sync
//!   Describe  <gate>                          no Sync behind it
//!   Close     <gate>
//! ```
//!
//! The gate makes PostgreSQL itself hold the door. It is prepared in the batch that sets the context,
//! and the batch is skipped to its Sync when anything in it fails. Then the Describe fails too, and
//! from there the server ignores all that follows until the next Sync: a Query of the client's is never
//! run, nor is a batch of extended messages. So client bytes cannot run under a context that was not set.
//! `DISCARD ALL` stands in the same chain: see [`put`]. The proxy sends at most one client batch before
//! the answers are checked.

use std::borrow::Cow;

use memchr::memchr;

use super::backend::Transaction;
use super::frontend;

/// A setting's name and value, sent as bound parameters so that no value shows in `pg_stat_activity`
/// or in a log of statement texts. Without a value it goes back to what it was at the backend's login.
pub type Setting<'a> = (&'a str, Option<&'a str>);

/// What a backend is told.
#[derive(Debug, Default)]
pub struct Orders<'a> {
    pub discard: bool,
    pub settings: Vec<Setting<'a>>,
    /// To be run in this order, each by itself.
    pub statements: Vec<Cow<'a, str>>,
}

impl Orders<'_> {
    /// Whether there is anything to set. The seed of random() is no setting, and outlives DISCARD ALL: who chose it
    /// would know what the next session is given.
    fn has_settings(&self) -> bool {
        self.discard || !self.settings.is_empty()
    }
}

/// A name for a gate. Random, so that no session can have prepared it in advance and so hold open the
/// door that a failing hand-over should shut.
pub fn gate() -> String {
    format!("pgward_gate_{:016x}", rand::random::<u64>())
}

/// Appends the hand-over. `gate` comes from [`gate`].
///
/// With `discard`, `DISCARD ALL` goes first, by the extended protocol, as it cannot run behind another
/// command of one batch; it commits by itself. What follows in the batch is skipped when it fails.
pub fn put(out: &mut Vec<u8>, orders: &Orders<'_>, gate: &[u8]) {
    if orders.discard {
        put_statement(out, "DISCARD ALL");
    }
    if orders.has_settings() {
        put_settings(out, orders);
    }
    for statement in &orders.statements {
        put_statement(out, statement);
    }
    frontend::put_parse(out, gate, b"\0\0\0");
    out.extend_from_slice(frontend::SYNC);
    frontend::put_statement(out, b'D', gate);
    frontend::put_statement(out, b'C', gate);
}

fn put_statement(out: &mut Vec<u8>, text: &str) {
    frontend::put_parse(out, b"", &[text.as_bytes(), b"\0\0\0"].concat());
    frontend::put_bind(out, b"", &[]);
    frontend::put_execute(out);
}

fn put_settings(out: &mut Vec<u8>, orders: &Orders<'_>) {
    let count = orders.settings.len();
    let set = |i: usize| format!("pg_catalog.set_config(${},${},false)", 2 * i + 1, 2 * i + 2);
    let mut calls: Vec<String> = (0..count).map(set).collect();
    let seed = orders.discard.then(|| rand::random_range(-1.0..1.0f64).to_string());
    if seed.is_some() {
        calls.push(format!("pg_catalog.setseed(${})", 2 * count + 1));
    }
    let text = format!("select {}\0\0\0", calls.join(","));
    frontend::put_parse(out, b"", text.as_bytes());
    let values =
        orders.settings.iter().flat_map(|(name, value)| [Some(*name), *value]).chain(seed.as_deref().map(Some));
    let values: Vec<Option<&[u8]>> = values.map(|value| value.map(str::as_bytes)).collect();
    frontend::put_bind(out, b"", &values);
    frontend::put_execute(out);
}

/// What an answer means for the hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// As expected, more to come.
    Continue,
    /// The backend is clean and knows its session.
    Done,
    /// The backend must be closed. Nothing of the client's was run.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Await {
    DiscardParsed,
    DiscardBound,
    Discarded,
    SettingsParsed,
    SettingsBound,
    SettingsRow,
    SettingsSet,
    StatementParsed,
    StatementBound,
    StatementDone,
    GateParsed,
    Ready,
    GateParameters,
    GateNoData,
    GateClosed,
}

/// Follows the answers to a hand-over, strictly in order.
#[derive(Debug, Clone, Copy)]
pub struct Checker {
    next: Await,
    settings: bool,
    statements: usize,
}

impl Checker {
    pub fn new(orders: &Orders<'_>) -> Self {
        let settings = orders.has_settings();
        let mut checker = Self { next: Await::DiscardParsed, settings, statements: orders.statements.len() };
        if !orders.discard {
            checker.next = checker.after_discard();
        }
        checker
    }

    fn after_discard(&mut self) -> Await {
        if self.settings { Await::SettingsParsed } else { self.next_statement() }
    }

    fn next_statement(&mut self) -> Await {
        if self.statements == 0 {
            return Await::GateParsed;
        }
        self.statements -= 1;
        Await::StatementParsed
    }

    /// Takes one whole message. Settings that change are reported, and notices may come at any time.
    pub fn take(&mut self, tag: u8, body: &[u8]) -> Step {
        use Await::*;
        // A notification that is on its way now is nobody's whom the backend will serve.
        if matches!(tag, b'S' | b'N' | b'A') {
            return Step::Continue;
        }
        self.next = match (self.next, tag) {
            (DiscardParsed, b'1') => DiscardBound,
            (DiscardBound, b'2') => Discarded,
            (Discarded, b'C') if body == b"DISCARD ALL\0" => self.after_discard(),
            (SettingsParsed, b'1') => SettingsBound,
            (SettingsBound, b'2') => SettingsRow,
            (SettingsRow, b'D') => SettingsSet,
            (SettingsSet, b'C') if memchr(b'1', body).is_some() => self.next_statement(),
            (StatementParsed, b'1') => StatementBound,
            (StatementBound, b'2') => StatementDone,
            (StatementDone, b'C') => self.next_statement(),
            (GateParsed, b'1') => Ready,
            (Ready, b'Z') if Transaction::read(body) == Some(Transaction::Idle) => GateParameters,
            (GateParameters, b't') => GateNoData,
            (GateNoData, b'n') => GateClosed,
            (GateClosed, b'3') => return Step::Done,
            _ => return Step::Failed,
        };
        Step::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[(u8, &[u8])] = &[
        (b'1', b""),
        (b'2', b""),
        (b'S', b"TimeZone\0UTC\0"),
        (b'C', b"DISCARD ALL\0"),
        (b'1', b""),
        (b'2', b""),
        (b'D', b""),
        (b'C', b"SELECT 1\0"),
        (b'1', b""),
        (b'2', b""),
        (b'C', b"PREPARE\0"),
        (b'1', b""),
        (b'Z', b"I"),
        (b't', b"\0\0"),
        (b'n', b""),
        (b'3', b""),
    ];

    fn checker() -> Checker {
        let settings = vec![("TimeZone", Some("UTC"))];
        Checker::new(&Orders { discard: true, settings, statements: vec!["PREPARE a AS SELECT 1".into()] })
    }

    #[test]
    fn the_expected_answers_pass() {
        let mut checker = checker();
        for (i, (tag, body)) in GOOD.iter().enumerate() {
            let expected = if i + 1 == GOOD.len() { Step::Done } else { Step::Continue };
            assert_eq!(checker.take(*tag, body), expected, "message {i}");
        }
    }

    #[test]
    fn any_missing_strange_or_repeated_answer_fails() {
        for (skipped, (tag, _)) in GOOD.iter().enumerate() {
            if *tag == b'S' {
                continue;
            }
            let mut checker = checker();
            let steps: Vec<Step> = GOOD
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != skipped)
                .map(|(_, (tag, body))| checker.take(*tag, body))
                .collect();
            let good = steps.contains(&Step::Done) && !steps.contains(&Step::Failed);
            assert!(!good, "passed without message {skipped}");
        }
        for broken in 0..GOOD.len() {
            let mut checker = checker();
            for (tag, body) in &GOOD[..broken] {
                checker.take(*tag, body);
            }
            assert_eq!(checker.take(b'E', b"SERROR\0C57014\0\0"), Step::Failed, "an error as message {broken}");
        }
        let mut open = Checker::new(&Orders::default());
        open.take(b'1', b"");
        assert_eq!(open.take(b'Z', b"T"), Step::Failed, "a transaction is open");
    }
}
