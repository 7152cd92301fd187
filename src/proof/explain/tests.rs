use std::sync::Arc;
use std::time::Duration;

use super::super::report::tests::{look, settings};
use super::*;
use crate::base::Lsn;
use crate::config::Settings;
use crate::topology::{Lag, Samples, Seen, Snapshot};

/// As a word says: `P2` and `r1` are of timeline 2 and 1, `r2-` is far behind, `!` does not answer.
fn seen(settings: &Settings, words: [&str; 2]) -> Look {
    let mut look = look(settings);
    let mut snapshot = Snapshot::clone(&look.snapshot);
    for (view, word) in snapshot.servers.iter_mut().zip(words) {
        let role = if word.starts_with('P') { Role::Primary } else { Role::Replica };
        let timeline = word.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok();
        view.seen = timeline.map(|timeline| Seen { role, timeline, lsn: Lsn(7), bound: Lsn(7) });
        view.health = if view.seen.is_some() { Health::Up } else { Health::Suspect };
        view.samples = Samples::default().with(look.began, Lsn(7));
        let behind = if word.ends_with('-') { Duration::from_secs(3600) } else { Duration::ZERO };
        view.worst_lag = (role == Role::Replica).then_some(Lag { bytes: 0, time: behind });
    }
    snapshot.timeline = snapshot.servers.iter().filter_map(|view| Some(view.seen?.timeline)).max().unwrap_or(0);
    let primary =
        |view: &ServerView| view.seen.is_some_and(|s| (s.role, s.timeline) == (Role::Primary, snapshot.timeline));
    snapshot.primary = snapshot.servers.iter().position(primary);
    let claims = |view: &ServerView| view.seen.is_some_and(|seen| seen.role == Role::Primary);
    let fenced: Vec<bool> =
        snapshot.servers.iter().enumerate().map(|(at, view)| claims(view) && snapshot.primary != Some(at)).collect();
    snapshot.servers.iter_mut().zip(fenced).for_each(|(view, fenced)| view.fenced = fenced);
    (look.snapshot, look.unasked) = (Arc::new(snapshot), None);
    // Where the servers are asked, as pgward would be told.
    let probe = crate::config::Probe {
        database: "postgres".to_owned(),
        rules: crate::config::ProbeRules {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            down_after: Duration::from_secs(1),
            up_after: 1,
        },
    };
    look.cluster = Arc::new(crate::config::Cluster { probe: Some(probe), ..look.cluster.as_ref().clone() });
    look
}

fn explained(settings: &Settings, look: &Look, tenant: &str, token_region: Option<&str>) -> Explanation {
    let (tenant, access) = (&settings.tenants[tenant], Access::parse("app").unwrap());
    let token_region = token_region.map(|region| Region::parse(region).unwrap());
    let here = settings.region.as_ref();
    explain(&Question { settings, tenant, access: &access, token_region: token_region.as_ref(), here, look })
}

/// Who takes writes and reads, and why the second server takes no reads.
fn said(explanation: &Explanation) -> (Option<&str>, Vec<&str>, Option<&str>) {
    let reads = explanation.reads.iter().map(String::as_str).collect();
    (explanation.writes.as_deref(), reads, explanation.servers[1].no_reads.as_deref())
}

#[test]
fn replicas_read_where_the_tenant_may_be_and_the_primary_does_the_rest() {
    let settings = settings("");
    let look = seen(&settings, ["P1", "r1"]);
    let acme = explained(&settings, &look, "acme", None);
    assert_eq!(said(&acme), (Some("c1"), vec!["c2"], None));
    assert_eq!(acme.servers[0].no_reads.as_deref(), Some("it takes what replicas do not"));
    let globex = explained(&settings, &look, "globex", None);
    let region = "it is in a region where the tenant's data may not be";
    assert_eq!(said(&globex), (Some("c1"), vec!["c1"], Some(region)));
    assert!(globex.is_served() && globex.kept_to == ["lk"]);
    let narrowed = explained(&settings, &look, "acme", Some("lk"));
    assert_eq!(said(&narrowed), (Some("c1"), vec!["c1"], Some(region)), "by its token");
}

#[test]
fn who_is_behind_or_silent_or_of_old_is_said_to_be() {
    let settings = settings("");
    for (words, expected) in [
        (
            ["P1", "r1-"],
            (Some("c1"), vec!["c1"], Some("it is further behind than reads may be (max_lag, max_lag_bytes)")),
        ),
        (["P2", "r1"], (Some("c1"), vec!["c1"], Some("it follows timeline 1, and the others are on 2"))),
        (["P1", "!"], (Some("c1"), vec!["c1"], Some("it does not answer"))),
        (["!", "r1"], (None, vec!["c2"], None)),
        (["P1", "P2"], (Some("c2"), vec!["c2"], None)),
    ] {
        let look = seen(&settings, words);
        assert_eq!(said(&explained(&settings, &look, "acme", None)), expected, "{words:?}");
    }
    let look = seen(&settings, ["P1", "P2"]);
    let fenced = explained(&settings, &look, "acme", None).servers[0].no_writes.clone().unwrap();
    assert!(fenced.contains("gets no writes"), "{fenced}");
}

#[test]
fn nobody_is_let_in_where_the_primary_or_the_pgward_may_not_be() {
    let here = settings("");
    let look = seen(&here, ["P1", "P2"]);
    let globex = explained(&here, &look, "globex", None);
    assert_eq!(globex.refused.as_deref(), Some("server c2 is in region in, where the tenant's data may not be"));
    assert!(!globex.is_served() && globex.writes.is_none() && globex.reads.is_empty());
    assert!(explained(&here, &look, "acme", None).is_served());
    let mut abroad = settings("nodes.mumbai = { region = \"in\", address = \"b:1\" }");
    let look = seen(&abroad, ["P1", "r1"]);
    let nodes = explained(&abroad, &look, "globex", None).nodes;
    assert!(nodes[0].refused.is_some() && !nodes[0].standing.allowed, "{nodes:?}");
    abroad.region = Some(Region::parse("in").unwrap());
    assert!(!explained(&abroad, &look, "globex", None).is_served());
    let token = explained(&abroad, &look, "globex", Some("de"));
    assert_eq!(token.refused.as_deref(), Some("the token allows region de only, which is not among the tenant's"));
}

#[test]
fn where_nobody_asks_the_servers_the_primary_does_all() {
    let settings = settings("");
    let explanation = explained(&settings, &look(&settings), "acme", None);
    assert_eq!((explanation.writes.as_deref(), explanation.reads), (Some("c1"), vec!["c1".to_owned()]));
    assert_eq!(explanation.servers[1].standing.health, "not asked");
    assert!(explanation.notes[0].contains("what the configuration says"), "{:?}", explanation.notes);
}
