use super::super::history::tests::{START, chain, read};
use super::*;
use crate::config::parse;
use crate::topology::Topology;

/// A primary in `lk` and a replica in `in`, which nobody asks; `globex` may be at home alone.
pub(in crate::proof) fn settings(more: &str) -> Settings {
    let text = format!(
        r#"
        listen.address = "127.0.0.1:0"
        context.keys.k1 = "0123456789abcdef0123456789abcdef"
        region = "lk"
        {more}
        [[issuers]]
        issuer = "t"
        audience = "pgward"
        algorithms = ["HS256"]
        secret = "0123456789abcdef0123456789abcdef"
        [clusters.c]
        tls.mode = "off"
        logins.app = {{ role = "pgward_app", password = "p" }}
        servers = [
            {{ name = "c1", host = "127.0.0.1", port = 1, region = "lk" }},
            {{ name = "c2", host = "127.0.0.1", port = 2, region = "in", role = "replica" }},
        ]
        [tenants.acme]
        cluster = "c"
        database = "app"
        home = "lk"
        regions = ["lk", "in"]
        [tenants.globex]
        cluster = "c"
        database = "app"
        home = "lk"
        "#
    );
    parse(&text, std::path::Path::new(".")).unwrap_or_else(|problems| panic!("{problems:?}"))
}

pub(in crate::proof) fn look(settings: &Settings) -> Look {
    let cluster = settings.clusters.values().next().unwrap();
    let snapshot = Topology::default().renew(cluster, settings.region.as_ref()).snapshot();
    let (cluster, unasked) = (std::sync::Arc::clone(cluster), Some("nobody asks them"));
    Look { cluster, snapshot, began: std::time::Instant::now(), unasked, patroni: None }
}

fn reported(settings: &Settings, members: &[&str], tenants: &[&str]) -> Report {
    let tenants: Vec<String> = tenants.iter().map(|name| (*name).to_owned()).collect();
    let history = read(History::new(None, tenants.iter().cloned()), &chain(members));
    let look = look(settings);
    let looks = BTreeMap::from([(look.cluster.name.clone(), look)]);
    let made = "2026-11-02T00:00:00.000Z".to_owned();
    Report::new(
        Found { settings, looks: &looks, history, audited: true, classified: None, made, since: None },
        &tenants,
    )
}

fn served(tenant: &str, server: &str, region: &str, here: &str, regions: &str) -> String {
    format!(
        r#""event":"served","node":"colombo","here":"{here}","tenant":"{tenant}","cluster":"c","server":"{server}","region":"{region}","regions":{regions}"#
    )
}

fn kinds(report: &Report) -> Vec<(&'static str, Option<&str>)> {
    let all = report.findings.iter().map(|finding| (finding.kind, finding.tenant.as_deref()));
    all.filter(|(kind, _)| !["copy_outside", "server_unknown"].contains(kind)).collect()
}

#[test]
fn what_was_served_inside_is_no_finding_and_outside_is_a_danger() {
    let settings = settings("");
    let report = reported(&settings, &[START, &served("acme", "c2", "in", "lk", r#"["in","lk"]"#)], &[]);
    assert!(report.sound && kinds(&report).is_empty(), "{:?}", report.findings);
    assert_eq!(report.tenants.len(), 2, "all that there are");
    let moved = reported(&settings, &[START, &served("acme", "c2", "lk", "lk", r#"["in","lk"]"#)], &[]);
    assert_eq!((moved.sound, kinds(&moved)), (true, vec![("place_changed", Some("acme"))]));
    let report = reported(&settings, &[START, &served("globex", "c2", "in", "lk", r#"["lk"]"#)], &[]);
    assert_eq!((report.sound, kinds(&report)), (false, vec![("served_outside", Some("globex"))]));
    let report = reported(&settings, &[START, &served("globex", "c1", "lk", "in", r#"["lk"]"#)], &["globex"]);
    assert_eq!((report.sound, kinds(&report)), (false, vec![("node_outside", Some("globex"))]));
    assert!(!report.tenants[0].served[0].allowed);
}

#[test]
fn what_could_be_then_and_may_not_now_is_told_apart() {
    let report = reported(&settings(""), &[START, &served("globex", "c2", "in", "in", r#"["in","lk"]"#)], &["globex"]);
    assert_eq!((report.sound, kinds(&report)), (true, vec![("regions_changed", Some("globex")); 2]));
    assert!(!report.tenants[0].served[0].allowed);
}

#[test]
fn a_tenant_that_is_gone_is_reported_by_what_the_log_says() {
    let settings = settings("");
    let report = reported(&settings, &[START, &served("initech", "c9", "de", "lk", r#"["lk"]"#)], &[]);
    assert_eq!(kinds(&report), [("served_outside", Some("initech"))]);
    let gone = report.tenants.iter().find(|tenant| tenant.tenant == "initech").unwrap();
    assert!(gone.place.is_none() && report.page().text().contains("not in the configuration"));
}

#[test]
fn a_node_whose_log_is_not_given_is_a_hole_and_so_is_no_log_at_all() {
    let nodes = "
        nodes.colombo = { region = \"lk\", address = \"a:1\" }
        nodes.mumbai = { region = \"in\", address = \"b:1\" }";
    let settings = settings(nodes);
    let report = reported(&settings, &[START], &["acme"]);
    assert_eq!((report.sound, kinds(&report)), (false, vec![("log_missing", None)]));
    assert!(report.findings[0].text.contains("node mumbai"));
    let (history, looks) = (History::new(None, []), BTreeMap::new());
    let found = Found {
        settings: &settings,
        looks: &looks,
        history,
        audited: false,
        classified: None,
        made: String::new(),
        since: None,
    };
    let report = Report::new(found, &[]);
    assert_eq!((report.sound, kinds(&report)), (false, vec![("log_missing", None)]));
}

#[test]
fn a_replica_that_has_the_data_where_it_may_not_be_is_told() {
    let report = reported(&settings(""), &[START], &["acme", "globex"]);
    let copies: Vec<&str> =
        report.findings.iter().filter(|found| found.kind == "copy_outside").map(|found| found.text.as_str()).collect();
    assert!(copies.len() == 1 && copies[0].contains("server c2") && copies[0].ends_with(": globex"), "{copies:?}");
    assert_eq!(some(&["a"; 12]), "a, a, a, a, a, a, a, a, a, a and 2 more");
    let place = report.tenants[1].place.as_ref().unwrap();
    assert_eq!(place.servers.iter().map(|held| held.allowed).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn an_emptied_log_and_a_pgward_that_is_nowhere_prove_nothing() {
    let settings = settings("");
    let report = reported(&settings, &[], &["acme"]);
    assert_eq!((report.sound, kinds(&report)), (false, vec![("log_missing", None)]), "{:?}", report.findings);
    let nowhere = r#""event":"served","tenant":"acme","cluster":"c","server":"c1","region":"lk","regions":["in","lk"]"#;
    let report = reported(&settings, &[START, nowhere], &["acme"]);
    assert_eq!((report.sound, kinds(&report)), (false, vec![("node_unknown", Some("acme"))]), "{:?}", report.findings);
    assert!(!report.tenants[0].served[0].allowed);
}
