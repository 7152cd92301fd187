//! What is held is not deleted.

use crate::place::Place;
use crate::support::one;
use crate::{Tenant, Witness};

#[tokio::test]
async fn a_tenant_that_is_held_is_not_removed_and_goes_on_all_the_same() {
    let place = Place::new("held").await;
    let stage = place.stage().await;
    let tenant = Tenant::rows(&place);
    let client = tenant.settle(&stage).await;
    let mut hold = place.command("hold acme --reason");
    hold.arg("court order 2026/117");
    let output = crate::place::output(hold).await;
    assert!(output.status.success(), "{}", crate::place::said(&output));
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
    crate::support::until("the hold is known", async || known()).await;
    assert_eq!(one(&client, "select count(*) from orders").await, "3");
    for wrong in ["", " ", "a\nb", &"x".repeat(201)] {
        let mut hold = place.command("hold acme --reason");
        hold.arg(wrong);
        let said = crate::place::said(&crate::place::output(hold).await);
        assert!(said.contains("must say why"), "{said}");
    }
    place.done("release acme").await;
    assert!(!place.read("tenants.toml").contains("legal_hold"));
    place.done("remove acme --yes").await;
    Witness::new(&stage).await.sees_what_it_saw().await;
}
