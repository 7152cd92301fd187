//! The judge is judged: histories made by hand, each with one thing wrong, and their counterparts with nothing.

use std::sync::Arc;
use std::time::Duration;

use super::history::{Action, Event, History, Kind, Mode, Object, Outcome, Shown};
use super::judge::{Rule, judge};

const BOUNDED: Mode = Mode::Bounded(Duration::from_millis(100));
const MODES: [Mode; 4] = [Mode::Session, Mode::Tenant, BOUNDED, Mode::Eventual];

/// Lines like `a 0-5 w1` (session a writes 1, asked at 0 ms, told at 5 ms), `w1?` (in doubt), `w1!` (refused), `+?` (an
/// addition in doubt), `r1` (reads 1), `r1,2` (a list), `r` (nothing); `end 1,2` is what was there at last.
fn history(mode: Mode, kind: Kind, lines: &[&str]) -> History {
    let object = Arc::new(Object { mode, kind, tenant: "t".into(), key: "k".into() });
    let mut history = History::default();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        if words[0] == "end" {
            history.last.push((Arc::clone(&object), shown(kind, words.get(1).unwrap_or(&""))));
            continue;
        }
        let (sent, done) = words[1].split_once('-').unwrap();
        let ms = |text: &str| Duration::from_millis(text.parse().unwrap());
        history.events.push(Event {
            session: words[0].bytes().next().unwrap().into(),
            object: Arc::clone(&object),
            sent: ms(sent),
            done: ms(done),
            action: action(kind, words[2]),
            by: None,
        });
    }
    history
}

fn action(kind: Kind, word: &str) -> Action {
    if let Some(read) = word.strip_prefix('r') {
        return Action::Read(shown(kind, read));
    }
    let value = word.trim_start_matches(['w', '+']).trim_end_matches(['?', '!']).parse().ok();
    let outcome = match word.chars().last() {
        Some('?') => Outcome::InDoubt,
        Some('!') => Outcome::Refused,
        _ => Outcome::Acknowledged,
    };
    Action::Write { value, outcome }
}

fn shown(kind: Kind, text: &str) -> Shown {
    let values: Vec<u64> = text.split(',').filter_map(|word| word.parse().ok()).collect();
    match kind {
        Kind::List => Shown::List(values),
        Kind::Register | Kind::Counter => Shown::Value(values.first().copied().unwrap_or(0)),
    }
}

fn found(mode: Mode, kind: Kind, lines: &[&str]) -> Vec<Rule> {
    let mut rules: Vec<Rule> = judge(&history(mode, kind, lines)).into_iter().map(|violation| violation.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

#[test]
fn a_session_that_does_not_see_its_own_write_is_found() {
    for (kind, lines) in [
        (Kind::Register, ["a 0-5 w1", "a 6-9 w2", "a 10-15 r1"]),
        (Kind::Counter, ["a 0-5 +1", "a 6-9 +2", "a 10-15 r1"]),
        (Kind::List, ["a 0-5 w1", "a 6-9 w2", "a 10-15 r1"]),
    ] {
        assert_eq!(found(Mode::Session, kind, &lines), [Rule::ReadYourWrites], "{kind:?}");
        assert!(found(Mode::Tenant, kind, &lines).contains(&Rule::ReadYourWrites), "{kind:?}");
        assert_eq!(found(Mode::Eventual, kind, &lines), [], "{kind:?}");
        assert_eq!(found(BOUNDED, kind, &lines), [], "{kind:?}: it is recent");
    }
    let piped = ["a 0-5 w1", "a 10-20 w2", "a 10-20 r1"];
    assert_eq!(
        found(Mode::Session, Kind::Register, &piped),
        [Rule::ReadYourWrites],
        "asked without waiting in between"
    );
    let others = ["a 0-5 w1", "b 10-15 r"];
    assert_eq!(found(Mode::Session, Kind::Register, &others), [], "another session may see it later");
}

#[test]
fn a_session_that_reads_backwards_is_found() {
    for (kind, lines) in [
        (Kind::Register, ["a 0-5 w1", "a 6-9 w2", "b 10-15 r2", "b 20-25 r1"]),
        (Kind::Counter, ["a 0-5 +1", "a 6-9 +2", "b 10-15 r2", "b 20-25 r"]),
        (Kind::List, ["a 0-5 w1", "a 6-9 w2", "b 10-15 r1,2", "b 20-25 r1"]),
    ] {
        assert_eq!(found(Mode::Session, kind, &lines), [Rule::MonotonicReads], "{kind:?}");
        assert!(found(Mode::Tenant, kind, &lines).contains(&Rule::MonotonicReads), "{kind:?}");
        assert_eq!(found(Mode::Eventual, kind, &lines), [], "{kind:?}");
    }
    let two = ["a 0-5 w1", "b 10-15 r1", "c 20-25 r"];
    assert_eq!(found(Mode::Session, Kind::Register, &two), [], "what one session saw is nothing to another");
}

#[test]
fn a_write_in_doubt_may_show_or_not_and_does_not_go_once_it_has_shown() {
    for kind in [Kind::Register, Kind::List] {
        for mode in MODES {
            assert_eq!(found(mode, kind, &["a 0-5 w1?", "a 6-9 r", "b 300-301 r", "end"]), [], "{kind:?} {mode:?}");
            assert_eq!(found(mode, kind, &["a 0-5 w1?", "a 6-9 r", "a 10-15 r1", "end 1"]), [], "{kind:?} {mode:?}");
        }
        let gone = ["a 0-5 w1?", "a 6-9 r1", "a 10-15 r"];
        assert_eq!(found(Mode::Session, kind, &gone), [Rule::MonotonicReads], "{kind:?}");
        let gone = ["a 0-5 w1?", "a 6-9 r1", "end"];
        assert_eq!(found(Mode::Eventual, kind, &gone), [Rule::Lost], "{kind:?}");
    }
    for mode in MODES {
        assert_eq!(found(mode, Kind::Counter, &["a 0-5 +?", "b 6-9 r", "b 10-15 r1", "b 20-25 +2", "end 2"]), []);
    }
}

#[test]
fn what_was_acknowledged_before_a_read_was_sent_is_demanded_of_mode_tenant() {
    for kind in [Kind::Register, Kind::Counter, Kind::List] {
        let late = ["a 0-5 w1", "b 6-9 r"];
        assert_eq!(found(Mode::Tenant, kind, &late), [Rule::Tenant], "{kind:?}");
        for mode in [Mode::Session, BOUNDED, Mode::Eventual] {
            assert_eq!(found(mode, kind, &late), [], "{kind:?} {mode:?}");
        }
        assert_eq!(found(Mode::Tenant, kind, &["a 0-5 w1", "b 4-9 r"]), [], "{kind:?}: they overlap");
    }
    // By a read whose answer took long the time at which it was sent counts.
    assert_eq!(found(Mode::Tenant, Kind::Register, &["a 0-5 w1", "a 6-10 w2", "b 7-900 r1"]), []);
    let higher = ["a 0-50 +2", "b 1-5 +1", "c 60-61 r1"];
    assert_eq!(found(Mode::Tenant, Kind::Counter, &higher), [Rule::Tenant], "the highest counts, not the last");
}

#[test]
fn what_is_older_than_the_bound_is_found_in_mode_bounded() {
    for kind in [Kind::Register, Kind::Counter, Kind::List] {
        assert_eq!(found(BOUNDED, kind, &["a 0-5 w1", "b 106-109 r"]), [Rule::Bounded], "{kind:?}");
        assert_eq!(found(BOUNDED, kind, &["a 0-5 w1", "b 104-109 r"]), [], "{kind:?}");
        assert_eq!(
            found(BOUNDED, kind, &["a 0-5 w1", "b 104-300 r"]),
            [],
            "{kind:?}: the time that it took is allowed"
        );
        assert_eq!(found(BOUNDED, kind, &["a 0-5 w1", "a 90-95 w2", "b 110-112 r1"]), [], "{kind:?}");
    }
}

#[test]
fn what_nobody_wrote_is_found_in_every_mode() {
    for mode in MODES {
        for kind in [Kind::Register, Kind::Counter, Kind::List] {
            let early = ["b 0-3 r1", "a 4-5 w1"];
            assert_eq!(found(mode, kind, &early), [Rule::Invented], "{kind:?}: before it was sent");
            assert_eq!(found(mode, kind, &["b 0-6 r1", "a 4-9 w1"]), [], "{kind:?}: while it was on its way");
            assert!(found(mode, kind, &["a 0-5 w1", "b 6-9 r1,7", "b 6-9 r7"]).contains(&Rule::Invented), "{kind:?}");
            assert!(found(mode, kind, &["a 0-5 w1!", "b 6-9 r1"]).contains(&Rule::Invented), "{kind:?}: refused");
        }
        assert!(found(mode, Kind::Register, &["a 0-5 w1", "end 2"]).contains(&Rule::Invented), "at the end");
    }
}

#[test]
fn lists_that_are_no_beginnings_of_one_list_are_found() {
    let written = ["a 0-1 w1", "a 2-3 w2", "a 4-5 w3"];
    let with = |reads: &[&'static str]| [&written[..], reads].concat();
    for mode in [Mode::Session, BOUNDED, Mode::Eventual] {
        assert_eq!(found(mode, Kind::List, &with(&["b 6-7 r1,2", "c 6-7 r1,2,3", "d 6-7 r", "end 1,2,3"])), []);
        assert_eq!(found(mode, Kind::List, &with(&["b 6-7 r1,3", "c 6-7 r1,2,3"])), [Rule::Prefix], "a gap");
        assert_eq!(found(mode, Kind::List, &with(&["b 6-7 r2"])), [], "nothing contradicts it yet");
        assert_eq!(found(mode, Kind::List, &with(&["b 6-7 r2", "end 1,2,3"])), [Rule::Prefix], "the end does");
        assert_eq!(found(mode, Kind::List, &with(&["b 6-7 r1,3,2"])), [Rule::Prefix], "the order");
        assert_eq!(found(mode, Kind::List, &with(&["b 6-7 r1,2,2"])), [Rule::Twice]);
        assert_eq!(found(mode, Kind::List, &with(&["end 1,2,3,3"])), [Rule::Twice]);
    }
}

#[test]
fn what_a_failover_lost_is_found() {
    for mode in MODES {
        for kind in [Kind::Register, Kind::Counter] {
            assert_eq!(found(mode, kind, &["a 0-1 w1", "a 2-3 w2", "end 1"]), [Rule::Lost], "{kind:?}");
            assert_eq!(found(mode, kind, &["a 0-1 w1", "a 2-3 w2", "end 2"]), [], "{kind:?}");
        }
        assert_eq!(found(mode, Kind::List, &["a 0-1 w1", "a 2-3 w2", "end 2"]), [Rule::Lost]);
        assert_eq!(found(mode, Kind::List, &["a 0-1 w1", "a 2-3 w2", "end"]), [Rule::Lost]);
        assert_eq!(found(mode, Kind::Counter, &["a 0-1 +1", "b 2-3 +1"]), [Rule::Twice, Rule::Lost], "two primaries");
        assert_eq!(found(mode, Kind::Counter, &["a 0-3 +1", "b 2-3 +1"]), [Rule::Twice], "at the same time");
        assert_eq!(found(mode, Kind::Counter, &["a 0-1 +1", "a 2-3 +?", "b 4-5 +2", "end 2"]), []);
        assert_eq!(found(mode, Kind::Counter, &["a 0-1 +1", "b 2-3 +2", "end 3"]), [Rule::Invented], "added twice");
    }
}
