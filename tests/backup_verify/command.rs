//! The commands as they are run.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pgward::sidecar::backup::Against;
use serde_json::Value;

use crate::place::{Place, place};
use crate::support::eventually;

fn command(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
    command.arg("backup").args(arguments).env("PGWARD_CONFIG", &place.file).stdin(Stdio::null());
    command
}

async fn run(place: &Place, arguments: &[&str]) -> Output {
    let mut command = command(place, arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_and_drill_say_what_they_found_to_people_and_to_machines() {
    let place = place("commands").await;
    let (ok, shown, said) = text(&run(&place, &["verify", "--json"]).await);
    let found: Value = serde_json::from_str(&shown).unwrap_or_else(|_| panic!("{shown}{said}"));
    assert!(!ok && found["findings"][0]["kind"] == "no_backup", "{found:#}");

    place.back_up().await;
    let (ok, _, said) = text(&run(&place, &["verify", "--cluster", "main", "--recorded"]).await);
    assert!(!ok && said.contains("no baseline of cluster main is recorded"), "{said}");
    let (ok, shown, said) =
        text(&run(&place, &["verify", "--cluster", "main", "--fresh", "--files", "--strict"]).await);
    assert!(ok, "{shown}{said}");
    for part in ["restoring backup", "cluster main: verified, in ", "(RTO)", "(RPO)", "ok comparison", "ok files"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("passphrase") && !shown.contains("backup-password"), "{shown}");

    let report = place.cluster.folder().join("drill.md");
    let arguments = ["drill", "--region", "lk", "--json", "--report", report.to_str().unwrap()];
    let (ok, shown, said) = text(&run(&place, &arguments).await);
    assert!(ok, "{shown}{said}");
    let found: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(found["clusters"][0]["rehearsal"]["verified"]["complete"], true, "{found:#}");
    assert!(std::fs::read_to_string(&report).unwrap().starts_with("# Drill: region lk is lost"));
    let written: Value = serde_json::from_slice(&std::fs::read(report.with_extension("json")).unwrap()).unwrap();
    assert_eq!(written[0], found);
    let (ok, _, said) = text(&run(&place, &["drill", "--region", "nowhere"]).await);
    assert!(!ok && said.contains("nothing is in region nowhere"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_verification_leaves_is_removed_by_the_next() {
    let place = place("killed").await;
    place.back_up().await;
    let mut killed = command(&place, &["verify", "--json"]).stdout(Stdio::null()).spawn().unwrap();
    let copies = || -> usize {
        let entries = std::fs::read_dir(place.site.folder()).unwrap().flatten();
        let copies = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("scratch"));
        copies.filter(|copy| copy.path().join("data/postmaster.pid").exists()).count()
    };
    eventually("a copy's server is started", Duration::from_secs(60), || async { copies() > 0 }).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let verified = place.verify(Against::Fresh).await;
    assert!(verified.complete, "{:#?}", verified.findings);
    place.assert_clean();
}
