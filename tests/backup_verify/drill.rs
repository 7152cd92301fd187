//! A region is lost: what can be had back is, aside; what cannot is said.

use pgward::base::Region;
use pgward::sidecar::backup::{Against, ClusterDrill, Drilled, Fate, Unseen, drill};

use crate::place::{place, place_with};

/// Clusters beside `main`, whose servers nobody asks: one has all it has in one region, one a replica elsewhere, one its
/// primary.
const OTHERS: &str = "
[nodes.colombo]
region = \"lk\"
address = \"colombo.example:6432\"
[nodes.singapore]
region = \"sg\"
address = \"singapore.example:6432\"
[clusters.alone]
tls.mode = \"off\"
logins = { app = \"pgward_app\" }
repositories.only = { region = \"lk\" }
servers = [{ name = \"alone-1\", host = \"127.0.0.1\", port = 1, region = \"lk\" }]
[clusters.pair]
tls.mode = \"off\"
logins = { app = \"pgward_app\" }
servers = [
    { name = \"pair-1\", host = \"127.0.0.1\", port = 1, region = \"lk\" },
    { name = \"pair-2\", host = \"127.0.0.1\", port = 2, region = \"sg\", role = \"replica\" },
]
[clusters.abroad]
tls.mode = \"off\"
logins = { app = \"pgward_app\" }
servers = [{ name = \"abroad-1\", host = \"127.0.0.1\", port = 1, region = \"sg\" }]
[tenants.confined]
cluster = \"alone\"
database = \"app\"
home = \"lk\"
[tenants.copied]
cluster = \"pair\"
database = \"app\"
home = \"lk\"
regions = [\"lk\", \"sg\"]
[tenants.away]
cluster = \"abroad\"
database = \"app\"
home = \"sg\"
";

fn of<'a>(drilled: &'a Drilled, cluster: &str) -> &'a ClusterDrill {
    drilled.clusters.iter().find(|found| found.cluster == cluster).unwrap()
}

fn kinds(drilled: &Drilled) -> Vec<(&str, &str)> {
    let findings = drilled.findings.iter();
    findings.map(|finding| (finding.kind, finding.object.as_deref().unwrap_or_default())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_a_region_is_rehearsed_from_what_is_in_another() {
    let text = OTHERS.replace("[nodes.colombo]", "");
    let rest = text.replacen("region = \"lk\"\naddress = \"colombo.example:6432\"\n", "", 1);
    let place = place_with(
        "drill",
        "",
        &rest.replace("[nodes.singapore]\nregion = \"sg\"\naddress = \"singapore.example:6432\"\n", ""),
    )
    .await;
    place.back_up().await;
    let recorded = place.verify(Against::Fresh).await;
    assert!(recorded.complete, "{:#?}", recorded.findings);
    place.run("insert into shop.orders (item) values ('after the baseline'); select pg_switch_wal()").await;
    let drilled = drill(&place.settings, &Region::parse("lk").unwrap(), &mut Unseen).await.unwrap();

    let main = of(&drilled, "main");
    assert_eq!((main.fate, main.lost_servers.as_slice()), (Fate::Restored, ["main-1 (lk)".to_owned()].as_slice()));
    assert_eq!(
        (main.lost_repositories.len(), main.repositories_left.as_slice()),
        (1, ["far (sg)".to_owned()].as_slice())
    );
    let rehearsal = main.rehearsal.as_ref().expect("a rehearsal");
    assert_eq!((rehearsal.repository.as_str(), rehearsal.region.as_str()), ("far", "sg"));
    assert!(!rehearsal.rto.total.is_zero());
    let verified = rehearsal.verified.as_ref().expect("a comparison");
    assert!(verified.complete, "{:#?}", verified.findings);
    assert_eq!(verified.backup.as_ref().unwrap().repository, "far");
    let acme = &main.tenants[0];
    assert_eq!(acme.by.as_deref(), Some("repository far (sg)"));
    assert!(
        acme.rto_seconds.is_some_and(|rto| rto > 0.0) && acme.rpo_seconds.is_some_and(|rpo| rpo < 60.0),
        "{acme:?}"
    );

    assert_eq!(of(&drilled, "pair").fate, Fate::FailsOver);
    assert_eq!(of(&drilled, "pair").tenants[0].by.as_deref(), Some("server pair-2 (sg)"));
    assert_eq!(of(&drilled, "abroad").fate, Fate::Stays);
    assert_eq!(of(&drilled, "abroad").tenants[0].by.as_deref(), Some("server abroad-1 (sg)"));
    assert_eq!(of(&drilled, "alone").fate, Fate::Restored);
    assert!(of(&drilled, "alone").tenants[0].by.is_none());
    assert_eq!(kinds(&drilled), [("no_repository_left", "alone"), ("tenant_confined", "confined")]);
    assert!(!drilled.sound);

    let page = drilled.page();
    for line in ["# Drill: region lk is lost", "| acme | repository far (sg) |", "| confined | **nothing** | - | - |"] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    place.assert_clean();
}

/// The near repository is in the region that is lost: its archive must not lend a hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_lost_does_not_help_one_that_is_left() {
    let place = place("poor").await;
    place.back_up().await;
    assert!(place.verify(Against::Fresh).await.complete);
    std::fs::remove_dir_all(place.repository("far/backup/main")).unwrap();
    let drilled = drill(&place.settings, &Region::parse("lk").unwrap(), &mut Unseen).await.unwrap();
    assert_eq!(kinds(&drilled), [("not_recovered", "main"), ("tenant_lost", "acme")]);
    assert!(drilled.clusters[0].rehearsal.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_for_whom_no_node_is_left_are_named() {
    let node = "node = \"singapore\"\n";
    let text = format!("{node}{}{OTHERS}", crate::support::HEAD);
    let issuer = "[[issuers]]\nissuer = \"tests\"\naudience = \"pgward\"\nalgorithms = [\"HS256\"]\n\
                  secret = \"0123456789abcdef0123456789abcdef\"\n";
    let settings = std::sync::Arc::new(crate::support::parse(&format!("{text}{issuer}")));
    let drilled = drill(&settings, &Region::parse("sg").unwrap(), &mut Unseen).await.unwrap();
    assert_eq!(drilled.lost_nodes, ["singapore"]);
    assert_eq!(drilled.nodes_left, ["colombo"]);
    let away = [("no_node_left", "away"), ("no_repository_left", "abroad"), ("tenant_confined", "away")];
    assert_eq!(kinds(&drilled), away);
}
