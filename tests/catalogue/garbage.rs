//! What somebody may have written into the table by hand.

use super::{Place, gauge, knows, put, until_known};
use crate::support::until;

/// Names and definitions, and what is said of them.
fn cases(place: &Place) -> Vec<(String, String, &'static str)> {
    let good = place.definition();
    let with = |more: &str| format!("{good}{more}");
    let case = |name: &str, definition: String, words| (name.to_owned(), definition, words);
    vec![
        case("g", String::new(), "tenants.g.cluster: is missing"),
        case("g", "cluster = ".into(), "tenants.g: is not valid TOML"),
        case("g", with("home = \"in\"\n"), "tenants.g: is not valid TOML"),
        case("g", with("[tenants.other]\ncluster = \"main\"\n"), "tenants.g.tenants: is not a known key"),
        case("g", with("[clusters.main]\nlogins = { app = \"postgres\" }\n"), "tenants.g.clusters: is not a known key"),
        case("g", with("master_key = \"0123456789abcdef0123456789abcdef\"\n"), "tenants.g.master_key: is not a known"),
        case("g", format!("]\n[tenants.h]\n{good}"), "tenants.g: is not valid TOML"),
        case(
            "g",
            with("roles = { app = \"other\" }\n[[issuers]]\nissuer = \"me\"\n"),
            "tenants.g.issuers: is not a known",
        ),
        case("g", with("roles.app = \"garbled_reader\"\n"), "is also a login of tenants"),
        case("g", with("roles.app = \"garbled_service\"\n"), "is also a shared login of the cluster"),
        case("g", with("limits = \"\0\"\n").replace('\0', "\\u0000"), "tenants.g.limits: is not a known key"),
        case("g", with("schema = \"a\\u0000b\"\n"), "tenants.g.schema"),
        case("g", format!("x = {}{}", "[".repeat(20_000), "]".repeat(20_000)), "tenants.g: is not valid TOML"),
        case("g", format!("{}x = 1\n{}", "a.".repeat(20_000), good), "tenants.g"),
        case("g'); drop table pgward_catalogue.tenants; --", good.clone(), "a tenant's name has a character outside"),
        case("g\"]\n[tenants.h", good.clone(), "a tenant's name has a character outside"),
        case("g\u{202e}", good.clone(), "a tenant's name has a character outside"),
        case("../g", good.clone(), "a tenant's name has a character outside"),
        case(" ", good, "a tenant's name has a character outside"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_stands_in_a_row_defines_its_own_tenant_or_nothing() {
    let place = Place::new("garbled").await;
    let node = place.node(1).await;
    let owner = place.owner().await;
    until("the catalogue to be watched", async || gauge(&node, "pgward_catalogue_up").await == 1.0).await;
    put(&owner, "garbled_witness", &place.definition()).await.unwrap();
    until_known(&node, "garbled_witness").await;
    for (name, definition, words) in cases(&place) {
        put(&owner, &name, &definition).await.unwrap();
        until("the refusal", async || gauge(&node, "pgward_catalogue_refused").await == 1.0).await;
        let refused = node.console().await.simple_query("reload").await.unwrap_err();
        let told = format!("{:?}", refused.as_db_error().unwrap());
        assert!(told.contains(words), "{name:?} {definition:.200?}: {told:.2000}");
        assert!(knows(&node, "garbled_witness") && node.control.shared.world.load().settings.tenants.len() == 1);
        owner.execute("delete from pgward_catalogue.tenants where name = $1", &[&name]).await.unwrap();
        until("the good catalogue", async || gauge(&node, "pgward_catalogue_refused").await == 0.0).await;
    }
    // A name that TOML would take apart is one name.
    put(&owner, "g.h@x:y", &place.definition().replace("home", "schema = \"g\"\nroles.app = \"garbled_g\"\nhome"))
        .await
        .unwrap();
    until_known(&node, "g.h@x:y").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_or_a_table_that_is_too_large_is_not_read_and_the_table_refuses_it_as_well() {
    let place = Place::new("large").await;
    let owner = place.owner().await;
    let long = format!("{}# {}", place.definition(), "x".repeat(65_536));
    let refused = put(&owner, "large_a", &long).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "23514");
    put(&owner, "large_b", &place.definition()).await.unwrap();
    let node = place.node(1).await;
    until("the catalogue to be watched", async || gauge(&node, "pgward_catalogue_up").await == 1.0).await;
    owner.batch_execute("alter table pgward_catalogue.tenants drop constraint tenants_definition_check").await.unwrap();
    put(&owner, "large_a", &long).await.unwrap();
    let said = place.fails("tenant list").await;
    assert!(said.contains("the definition of tenant \"large_a\" has more than 65536 bytes"), "{said}");
    until("the node to tell", async || gauge(&node, "pgward_catalogue_up").await == 0.0).await;
    assert!(knows(&node, "large_b"), "what is in force stays");
    owner.batch_execute("delete from pgward_catalogue.tenants where name = 'large_a'").await.unwrap();
    until("the node to be back", async || gauge(&node, "pgward_catalogue_up").await == 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_tenants_are_taken_up() {
    let place = Place::new("many").await;
    let owner = place.owner().await;
    let fill = "insert into pgward_catalogue.tenants (name, definition) select 'many_' || n, \
        'cluster = \"main\"' || e'\\ndatabase = \"many\"\\nhome = \"lk\"\\nmax_clients = 5\\n' \
        from generate_series(1, 50000) n";
    owner.batch_execute(fill).await.unwrap();
    let node = place.node(1).await;
    assert_eq!(node.control.shared.world.load().settings.tenants.len(), 50_000);
    until("the catalogue to be watched", async || gauge(&node, "pgward_catalogue_up").await == 1.0).await;
    let begin = std::time::Instant::now();
    put(&owner, "many_new", &place.definition()).await.unwrap();
    until_known(&node, "many_new").await;
    println!("one change among 50000 tenants: {:?}", begin.elapsed());
}
