//! What a run came to, for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::history::{Action, Event, History, Kind, Moment, Outcome};
use super::judge::{LAST, Violation};

/// Of one mode.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub writes: usize,
    pub in_doubt: usize,
    pub refused: usize,
    pub reads: usize,
    /// Of the reads.
    pub by_replicas: usize,
    pub lists: usize,
}

impl Tally {
    pub fn share(&self) -> f64 {
        self.by_replicas as f64 / self.reads.max(1) as f64
    }
}

/// By mode. `was_primary`: which server was the primary, by port, at a time.
pub fn tally(history: &History, was_primary: impl Fn(u16, Moment) -> bool) -> BTreeMap<&'static str, Tally> {
    let mut tallies: BTreeMap<&'static str, Tally> = BTreeMap::new();
    for event in &history.events {
        let tally = tallies.entry(event.object.mode.name()).or_default();
        tally.lists += usize::from(event.object.kind == Kind::List);
        match &event.action {
            Action::Read(_) => {
                tally.reads += 1;
                tally.by_replicas += usize::from(event.by.is_some_and(|port| !was_primary(port, event.sent)));
            }
            Action::Write { outcome, .. } => {
                tally.writes += 1;
                tally.in_doubt += usize::from(*outcome == Outcome::InDoubt);
                tally.refused += usize::from(*outcome == Outcome::Refused);
            }
        }
    }
    tallies
}

/// Everything that was done, to look at after a violation.
pub fn keep(history: &History, did: &[(Moment, String)], seed: u64) -> PathBuf {
    let mut lines: Vec<(Moment, String)> =
        did.iter().map(|(at, what)| (*at, format!("{:>10.2} ms  {what}\n", at.as_secs_f64() * 1e3))).collect();
    lines.extend(history.events.iter().map(|event| (event.sent, format!("{event}  {}\n", event.object))));
    lines.sort();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("consistency-{seed}.history"));
    std::fs::write(&path, lines.into_iter().map(|(_, line)| line).collect::<String>()).unwrap();
    path
}

/// A violation, with what happened to the object and to the servers around it.
pub fn explain(violation: &Violation, history: &History, did: &[(Moment, String)]) -> String {
    const BEFORE: Duration = Duration::from_secs(2);
    const MOST: usize = 40;
    let wrong = &violation.event;
    let mut text = format!("\n{:?}: {}\n{wrong}\n{}\n", violation.rule, wrong.object, violation.why);
    let from = if wrong.session == LAST { Duration::ZERO } else { wrong.sent.saturating_sub(BEFORE) };
    let around = |event: &&Event| event.object == wrong.object && event.done >= from && event.sent <= wrong.done;
    let mut lines: Vec<(Moment, String)> =
        history.events.iter().filter(around).map(|event| (event.sent, format!("  {event}"))).collect();
    let faults = did.iter().filter(|(at, _)| (from..=wrong.done).contains(at));
    lines.extend(faults.map(|(at, what)| (*at, format!("  {:>10.2} ms  {what}", at.as_secs_f64() * 1e3))));
    lines.sort();
    for (_, line) in &lines[lines.len().saturating_sub(MOST)..] {
        writeln!(text, "{line}").unwrap();
    }
    text
}
