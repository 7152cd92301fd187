use super::*;

fn digest(rows: i64, sum: &str) -> Digest {
    Digest { rows, sum: sum.to_owned() }
}

fn database(tables: &[(&str, Reading)], objects: &[(&str, Digest)]) -> Database {
    Database {
        tables: tables.iter().map(|(name, reading)| ((*name).to_owned(), reading.clone())).collect(),
        objects: objects.iter().map(|(name, digest)| ((*name).to_owned(), digest.clone())).collect(),
        ..Database::default()
    }
}

fn baseline(database: Database) -> Baseline {
    let text = r#"{"format":1,"point":"p","lsn":"0/1","segment":"s","taken":"t","system":"7","server_version":150000,
        "home":"postgres","archive_age":null,"quiet":true,"databases":{},"unread":{}}"#;
    let mut baseline = Baseline::parse(text).unwrap();
    baseline.databases.insert("app".to_owned(), database);
    baseline
}

fn copy(database: Database, moving: u64) -> Copy {
    let name = "app".to_owned();
    Copy {
        system: "7".to_owned(),
        databases: BTreeMap::from([(name.clone(), database)]),
        moving: BTreeMap::from([(name, moving)]),
        ..Copy::default()
    }
}

fn read(rows: i64, sum: &str) -> Reading {
    Reading::Read(digest(rows, sum))
}

fn kinds(recorded: &[(&str, Reading)], found: &[(&str, Reading)], moving: u64) -> Vec<(Severity, &'static str)> {
    let comparison = compare(&baseline(database(recorded, &[])), &copy(database(found, &[]), moving));
    comparison.findings.iter().map(|finding| (finding.severity, finding.kind)).collect()
}

#[test]
fn what_differs_is_damage_unless_something_was_on_its_way() {
    use Severity::{Danger, Warning};
    let (one, other) = (read(3, "5"), read(3, "6"));
    assert_eq!(kinds(&[("t", one.clone())], &[("t", one.clone())], 0), []);
    assert_eq!(kinds(&[("t", one.clone())], &[("t", one.clone())], 9), []);
    assert_eq!(kinds(&[("t", one.clone())], &[("t", other.clone())], 0), [(Danger, "table_differs")]);
    assert_eq!(kinds(&[("t", one.clone())], &[("t", other)], 1), [(Warning, "table_differs")]);
    assert_eq!(kinds(&[("t", one.clone())], &[], 0), [(Danger, "table_missing")]);
    assert_eq!(kinds(&[], &[("t", one.clone())], 0), [(Danger, "table_unexpected")]);
    // Whatever was on its way, what cannot be read was not made so by it.
    let broken = Reading::Failed("invalid page".to_owned());
    assert_eq!(kinds(&[("t", one.clone())], &[("t", broken.clone())], 9), [(Danger, "table_unreadable")]);
    for open in [Reading::Moved, Reading::Locked, Reading::Planned, broken] {
        assert_eq!(kinds(&[("t", open)], &[("t", one.clone())], 0), [(Warning, "table_not_compared")]);
    }
}

#[test]
fn objects_are_compared_by_name() {
    let recorded = database(&[], &[("table s.a", digest(4, "1")), ("table s.b", digest(4, "2"))]);
    let found = database(&[], &[("table s.b", digest(4, "3")), ("table s.c", digest(4, "2"))]);
    let comparison = compare(&baseline(recorded), &copy(found, 0));
    let said: Vec<&str> = comparison.findings.iter().map(|finding| finding.text.as_str()).collect();
    assert_eq!(
        said,
        [
            "database app: table s.b is not made as it was on the primary",
            "database app: table s.a is not in the copy",
            "database app: table s.c is in the copy and was not on the primary",
        ]
    );
}

#[test]
fn a_database_that_is_missing_unreadable_or_anothers_is_found() {
    let recorded = baseline(Database::default());
    let mut found = copy(Database::default(), 0);
    found.databases.clear();
    assert_eq!(compare(&recorded, &found).findings[0].kind, "database_missing");
    found.unread.insert("app".to_owned(), "why".to_owned());
    assert_eq!(compare(&recorded, &found).findings[0].kind, "database_unreadable");
    found.unexpected.push("other".to_owned());
    found.system = "8".to_owned();
    let kinds: Vec<&str> = compare(&recorded, &found).findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, ["database_unexpected", "database_unreadable", "other_cluster"]);
}

#[test]
fn a_lost_schema_is_named_in_part_and_counted_as_a_whole() {
    let names: Vec<String> = (0..NAMED + 7).map(|n| format!("t{n}")).collect();
    let tables: Vec<(&str, Reading)> = names.iter().map(|name| (name.as_str(), read(1, "1"))).collect();
    let comparison = compare(&baseline(database(&tables, &[])), &copy(Database::default(), 0));
    assert_eq!(comparison.findings.len(), NAMED + 1);
    let more = "database app: 7 more of the kind table_missing";
    assert!(comparison.findings.iter().any(|finding| finding.text == more && finding.severity == Severity::Danger));
}

#[test]
fn a_sequence_may_be_where_it_was_given_out_or_logged_ahead() {
    let sequence = |before, after, ahead| Sequence { before, after, ahead, cycles: false };
    let judged = |recorded: &Sequence, now: Option<i64>| {
        let found = Sequence { before: now, after: now, ..recorded.clone() };
        judge_sequence("s", recorded, &found).map(|finding| finding.kind)
    };
    let up = sequence(Some(10), Some(12), 33);
    for (now, kind) in [(9, Some("sequence_differs")), (10, None), (45, None), (46, Some("sequence_differs"))] {
        assert_eq!(judged(&up, Some(now)), kind, "{now}");
    }
    assert_eq!(judged(&up, None), Some("sequence_behind"));
    let down = sequence(Some(-10), Some(-12), -33);
    for (now, kind) in [(-9, Some("sequence_differs")), (-10, None), (-45, None), (-46, Some("sequence_differs"))] {
        assert_eq!(judged(&down, Some(now)), kind, "{now}");
    }
    let first = sequence(None, Some(1), 33);
    assert_eq!((judged(&first, None), judged(&first, Some(1))), (None, None));
    assert_eq!(judged(&sequence(None, None, 33), Some(5)), Some("sequence_differs"));
    let round = Sequence { cycles: true, ..up };
    assert_eq!(judged(&round, Some(1)), None);
}

#[test]
fn a_baseline_of_another_format_is_not_compared_with() {
    let text = serde_json::to_string(&baseline(Database::default())).unwrap();
    assert_eq!(Baseline::parse(&text).unwrap(), baseline(Database::default()));
    let other = text.replace("\"format\":1", "\"format\":2");
    assert!(Baseline::parse(&other).unwrap_err().to_string().contains("of format 2"));
    assert!(Baseline::parse(&text[..text.len() - 1]).unwrap_err().to_string().contains("no longer what was written"));
}
