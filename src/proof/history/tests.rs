use super::*;
use crate::audit::Head;

/// Lines of a good chain, one an hour from midnight on.
pub(in crate::proof) fn chain(members: &[&str]) -> Vec<String> {
    let (mut head, mut out) = (Head::NONE, Vec::new());
    for (hour, members) in members.iter().enumerate() {
        head.append(&Seal::Plain, &format!("2026-11-01T{hour:02}:00:00.000Z"), members, &mut out);
    }
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

/// A history that has read this log of a pgward.
pub(in crate::proof) fn read(mut history: History, lines: &[String]) -> History {
    let mut log = history.log("log", Kind::Sessions, vec![Seal::Plain]);
    log.file();
    for (at, line) in (1..).zip(lines) {
        log.line(Place { file: "log".to_owned(), line: at }, line.as_bytes(), true);
    }
    log.finish();
    history
}

pub(in crate::proof) const START: &str = r#""event":"start","node":"colombo","here":"lk""#;

const SERVED: &str = r#""event":"served","node":"colombo","here":"lk","tenant":"acme","cluster":"c","server":"c1","region":"lk","regions":["lk"]"#;

fn kinds(history: &History) -> Vec<&'static str> {
    history.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn what_served_a_tenant_is_counted_from_when_on_it_is_asked_for() {
    let again = SERVED.replace("served", "served_again") + r#","times":7,"until":"2026-11-01T01:30:00.000Z""#;
    let lines = chain(&[START, SERVED, &again, &SERVED.replace("acme", "globex"), SERVED, r#""event":"stop""#]);
    let history = read(History::new(None, []), &lines);
    let (way, served) = history.tenants["acme"].served.first_key_value().unwrap();
    assert_eq!((way.server.as_str(), way.region.as_str(), way.node.as_deref()), ("c1", "lk", Some("colombo")));
    assert_eq!((served.sessions, served.backends, served.outside), (2, 9, [0, 0]));
    assert_eq!((&served.first[11..13], &served.last[11..13]), ("01", "04"));
    assert_eq!((history.tenants.len(), history.logs[0].lines, kinds(&history)), (2, 6, vec![]));
    assert!(history.nodes.contains("colombo"));
    let since = Some("2026-11-01T04:00:00.000Z".to_owned());
    let history = read(History::new(since, ["acme".to_owned()]), &lines);
    assert_eq!(history.tenants["acme"].served.values().map(|served| served.backends).sum::<u64>(), 1);
    assert!(!history.knows("globex"), "it was not asked for");
}

#[test]
fn a_server_or_a_node_outside_of_what_the_line_says_is_found() {
    let server = SERVED.replace(r#""region":"lk""#, r#""region":"in""#);
    let node = SERVED.replace(r#""here":"lk""#, r#""here":"in""#);
    let nothing = SERVED.replace(r#","regions":["lk"]"#, "");
    let history = read(History::new(None, []), &chain(&[START, &server, &node, &nothing]));
    let outside: Vec<[u64; 2]> = history.tenants["acme"].served.values().map(|served| served.outside).collect();
    // By node and region: what does not say where it may be may be nowhere.
    assert_eq!(outside, [[1, 0], [0, 1], [1, 1]]);
}

#[test]
fn refusals_stand_for_as_many_as_they_say() {
    let refused = r#""event":"residency_refused","tenant":"acme","reason":"server_region","server":"c2","region":"in""#;
    let more = format!(r#"{refused},"repeats":40"#);
    let grant = r#""event":"grant_used","tenant":"acme","grant":"g","purpose":"support""#;
    let entry = r#""event":"login","tenant":"acme","subject":"ann","break_glass":"INC-1""#;
    let history = read(
        History::new(None, []),
        &chain(&[START, refused, &more, grant, entry, r#""event":"login","tenant":"acme""#]),
    );
    let past = &history.tenants["acme"];
    let (of, counted) = past.refused.first_key_value().unwrap();
    assert_eq!(
        (of.reason.as_deref(), of.server.as_deref(), of.region.as_deref()),
        (Some("server_region"), Some("c2"), Some("in"))
    );
    assert_eq!((counted.count, &counted.last[11..13]), (41, "02"));
    assert_eq!(past.grants[&[Some("g".to_owned()), Some("support".to_owned())]].count, 1);
    assert_eq!(past.break_glass[&Some("ann".to_owned())].count, 1);
}

#[test]
fn what_a_log_lacks_is_told() {
    let good = [START, SERVED, r#""event":"stop""#];
    let found = |members: &[&str]| kinds(&read(History::new(None, []), &chain(members)));
    assert_eq!(found(&good), [] as [&str; 0]);
    assert_eq!(found(&[START, SERVED, START]), ["not_closed"]);
    assert_eq!(found(&[START, r#""event":"lost","lost":3"#]), ["events_lost"]);
    let mut lines = chain(&good);
    lines[1] = lines[1].replace("\"c1\"", "\"c2\"");
    let history = read(History::new(None, []), &lines);
    assert_eq!((kinds(&history), history.tenants.len()), (vec!["log_broken"], 0), "what was changed is not counted");
    assert_eq!(kinds(&read(History::new(None, []), &chain(&good)[1..])), ["log_broken", "log_begins_late"]);
    let removed = chain(&[START, r#""event":"rotate","removed_through":1"#, SERVED]);
    let since = |hour: &str| History::new(Some(format!("2026-11-01T{hour}:00:00.000Z")), []);
    assert_eq!(kinds(&read(History::new(None, []), &removed[1..])), ["log_begins_late"]);
    let late = read(since("00"), &removed[1..]);
    assert_eq!((kinds(&late), late.findings[0].severity), (vec!["log_begins_late"], crate::proof::Severity::Danger));
    assert_eq!(kinds(&read(since("02"), &removed[1..])), [] as [&str; 0], "what is not there is not asked for");
    assert_eq!(kinds(&read(since("05"), &removed)), ["log_ends_early"]);
}

#[test]
fn a_line_that_is_being_written_is_no_hole_and_one_in_the_middle_is() {
    let lines = chain(&[START, SERVED]);
    let half = &lines[1].as_bytes()[..40];
    for (ends, found) in [(true, 0), (false, 1)] {
        let mut history = History::new(None, []);
        let mut log = history.log("log", Kind::Sessions, vec![Seal::Plain]);
        let place = |line| Place { file: "log".to_owned(), line };
        log.line(place(1), lines[0].as_bytes(), true);
        log.line(place(2), half, false);
        if !ends {
            log.line(place(1), lines[1].as_bytes(), true);
        }
        log.missing("other", "it is gone");
        log.finish();
        assert_eq!(kinds(&history), vec!["log_broken"; found + 1]);
        assert_eq!(history.logs[0].notes.len(), usize::from(ends));
    }
}
