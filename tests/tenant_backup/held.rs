//! What is held is not deleted.

use crate::place::{Place, output, said, session};
use crate::support::{one, until};
use crate::{Tenant, Witness, running, waits_for_others};

#[tokio::test]
async fn a_tenant_that_is_held_is_not_removed_and_goes_on_all_the_same() {
    let place = Place::new("held").await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    let client = tenant.settle(&stage).await;
    hold(&place).await;
    assert!(place.read("tenants.toml").contains("legal_hold = \"court order 2026/117\""));
    for line in ["remove acme --yes", "erase acme --yes --certificate {name}.json"] {
        let said = place.fails(line).await;
        assert!(said.contains("court order 2026/117") && said.contains("pgward tenant release acme"), "{said}");
    }
    assert!(!place.read("tenants.toml").contains("suspended"), "{}", place.read("tenants.toml"));
    let listed = place.done("list").await;
    assert!(
        listed.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().ends_with(&["no", "yes"])),
        "{listed}"
    );
    let shown = place.done("show acme --json").await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["legal_hold"], "court order 2026/117");
    // A running pgward has taken it over, and ended nothing.
    let known = || stage.control.shared.world.load().settings.tenants["acme"].legal_hold.is_some();
    until("the hold is known", async || known()).await;
    assert_eq!(one(&client, "select count(*) from orders").await, "3");
    for wrong in ["", " ", "a\nb", &"x".repeat(201)] {
        let mut hold = place.command("hold acme --reason");
        hold.arg(wrong);
        let said = said(&output(hold).await);
        assert!(said.contains("must say why"), "{said}");
    }
    place.done("release acme").await;
    assert!(!place.read("tenants.toml").contains("legal_hold"));
    place.done("remove acme --yes").await;
    Witness::new(&stage).await.sees_what_it_saw().await;
}

/// Whoever sets it is elsewhere, and knows nothing of the command that has begun.
async fn hold(place: &Place) {
    let mut hold = place.command("hold acme --reason");
    hold.arg("court order 2026/117");
    let output = output(hold).await;
    assert!(output.status.success(), "{}", said(&output));
}

#[tokio::test]
async fn a_hold_that_came_while_an_erasure_was_waiting_did_not_stop_it() {
    let place = Place::new("held_waiting").await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    drop(tenant.settle(&stage).await);
    let admin = place.admin().await;
    let erase = format!("erase acme --yes --certificate {}", place.path("erased.json").display());
    for command in [erase.as_str(), "remove acme --yes"] {
        // A transaction that could be the tenant's last.
        let witness = session(&stage, "witness").await.client;
        witness.batch_execute("begin; select * from orders").await.unwrap();
        let erasing = running(&place, command);
        until("it waits for others", async || waits_for_others(&admin).await).await;
        hold(&place).await;
        witness.batch_execute("commit").await.unwrap();
        let done = erasing.await.unwrap();
        let said = said(&done);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("court order 2026/117") && said.contains("pgward tenant resume acme"), "{said}");
        assert_eq!(one(&admin, "select count(*) from orders where tenant_id = 'acme'").await, "3");
        place.done("resume acme").await;
        assert_eq!(tenant.sees(&stage).await, "a,b,c");
        place.done("release acme").await;
    }
}

#[tokio::test]
async fn a_hold_that_came_during_the_deletion_was_taken_out_with_the_tenant() {
    let place = Place::new("held_late").await;
    let stage = place.stage().await;
    drop(Tenant::rows(&place).settle(&stage).await);
    let admin = place.admin().await;
    let blocker = place.admin().await;
    blocker.batch_execute("begin; select * from orders where tenant_id = 'acme' for update").await.unwrap();
    let erase = format!("erase acme --yes --certificate {}", place.path("erased.json").display());
    let erasing = running(&place, &erase);
    let waits = "select count(*) > 0 from pg_stat_activity where datname = current_database() \
        and wait_event_type = 'Lock' and query like 'with d0 as (delete%'";
    until("rows to be deleted", async || one(&admin, waits).await == "t").await;
    hold(&place).await;
    blocker.batch_execute("commit").await.unwrap();
    let done = erasing.await.unwrap();
    let said = said(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("court order 2026/117") && said.contains("its entry stays"), "{said}");
    assert!(place.read("tenants.toml").contains("legal_hold = \"court order 2026/117\""));
    place.done("release acme").await;
    place.done(&erase).await;
    assert!(!place.read("tenants.toml").contains("acme"));
    let certificate: serde_json::Value = serde_json::from_str(&place.read("erased.json")).unwrap();
    assert_eq!(certificate["had"][0]["rows"], 3, "{certificate:#}");
}
