//! A pgward serves nobody whose data may not be where it is.

#[path = "support/log.rs"]
mod log;
mod support;

use std::time::Duration;

use log::Log;
use pgward::auth::mint;
use pgward::base::{Access, TenantId};
use pgward::config;
use support::raw::{Raw, V3_0, errors, gists};
use support::{Stage, code, one};

/// In India. `globex` may be in all of South Asia.
async fn abroad(more: &str) -> Stage {
    let extra = format!(
        "region = \"in\"\n{more}
[regions]
south-asia = [\"lk\", \"in\", \"np\"]
[nodes.mumbai]
region = \"in\"
address = \"pg.in.example.com:6432\"
[nodes.colombo]
region = \"lk\"
address = \"pg.lk.example.com:6432\"
[nodes.frankfurt]
region = \"de\"
address = \"pg.de.example.com:6432\"
"
    );
    let port = support::cluster().await.primary().port();
    let text = format!("{}{}", support::HEAD, support::configuration(port, &extra));
    let globex = "[tenants.globex]\nregions = [\"south-asia\"]\n";
    Stage::with(&text.replace("[tenants.globex]\n", globex)).await
}

fn token_for(stage: &Stage, tenant: &str, region: &str) -> String {
    let (tenant, role) = (TenantId::parse(tenant).unwrap(), Access::parse("app").unwrap());
    let claims = serde_json::json!({ "region": region }).as_object().unwrap().clone();
    mint(&stage.settings.issuers[0], &tenant, &role, Duration::from_secs(600), &claims, support::unix_now()).unwrap()
}

#[tokio::test]
async fn a_tenant_that_may_not_be_here_is_told_where_to_go() {
    let log = Log::new();
    let stage = abroad(&log.table("").replace("[audit]\n", "audit.")).await;
    let mut raw = Raw::connect(stage.address).await;
    let messages = raw.log_in(V3_0, &[("user", "acme"), ("database", "app")], &stage.token("acme", "app")).await;
    let refusal = messages.iter().find(|message| message.tag == b'E').unwrap();
    assert_eq!(refusal.field(b'C'), "28000");
    assert_eq!(refusal.field(b'M'), "this pgward is in region in, where the tenant's data may not be");
    assert_eq!(refusal.field(b'H'), "Connect to pg.lk.example.com:6432 (region lk).");
    let members = [("reason", "node_region"), ("tenant", "acme"), ("region", "in"), ("sqlstate", "28000")];
    log.await_line("residency_refused", &members).await;
    assert!(log.of("login_refused").is_empty(), "it stands once");
    // Whose data may be here comes in, unless its token says otherwise.
    let globex = stage.connect("globex").await;
    assert_eq!(one(&globex, "select count(*) from orders").await, "100");
    // The server is not there, this pgward is not, the tenant may not be.
    for (region, reason) in [("in", "server_region"), ("lk", "node_region"), ("de", "token_region")] {
        let refused = stage.try_connect(&stage.url_with("globex", &token_for(&stage, "globex", region))).await;
        assert_eq!(code(&refused.err().unwrap()), "28000", "{region}");
        log.await_line("residency_refused", &[("reason", reason), ("tenant", "globex")]).await;
    }
}

#[tokio::test]
async fn no_new_token_leads_a_session_to_a_tenant_that_may_not_be_here() {
    let stage = abroad("").await;
    let mut session = stage.raw("globex").await;
    let switch = |tenant: &str| format!("set pgward.token = '{}'", stage.token(tenant, "app"));
    assert_eq!(errors(&session.query(&switch("acme")).await), ["28000"]);
    assert_eq!(errors(&session.query("select count(*) from orders").await), ["28000"], "it is of no tenant");
    assert_eq!(gists(&session.query(&switch("globex")).await), ["C SET\0", "Z I"]);
    assert_eq!(session.one("select count(*) from orders").await, "100");
}

#[tokio::test]
async fn where_it_is_does_not_change_and_who_may_be_here_does() {
    let stage = abroad("").await;
    let globex = stage.connect("globex").await;
    one(&globex, "select 1").await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    std::fs::write(&stage.path, text.replace("region = \"in\"\n\n[regions]", "region = \"lk\"\n\n[regions]")).unwrap();
    let error = stage.control.reload().await.unwrap_err();
    assert!(error.to_string().contains("region or node has changed"), "{error}");
    // The group has become smaller. What is under way ends, too.
    globex.batch_execute("begin; select 1").await.unwrap();
    std::fs::write(&stage.path, text.replace("\"lk\", \"in\", \"np\"", "\"lk\", \"np\"")).unwrap();
    stage.control.reload().await.unwrap();
    support::until("the end of the session", async || globex.is_closed()).await;
    assert_eq!(code(&stage.try_connect(&stage.url("globex", "app")).await.err().unwrap()), "28000");
}

#[test]
fn groups_and_nodes_that_make_no_sense_are_all_named() {
    let text = r#"
listen.address = "127.0.0.1:0"
master_key = "0123456789abcdef0123456789abcdef"
context.keys.k1 = "fedcba9876543210fedcba9876543210"
node = "nowhere"
region = "asia"
[[issuers]]
issuer = "tests"
audience = "pgward"
algorithms = ["HS256"]
secret = "0123456789abcdef0123456789abcdef"
[regions]
asia = ["lk", "south"]
south = ["lk"]
none = []
[nodes.one]
region = "asia"
address = "x"
[clusters.main]
logins.app = "pgward_app"
servers = [{ name = "a", host = "h", region = "asia" }]
repositories.vault.region = "asia"
[tenants.acme]
cluster = "main"
database = "app"
home = "asia"
"#;
    let problems = config::parse(text, std::path::Path::new(".")).unwrap_err();
    let said = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for path in [
        "regions.asia",
        "regions.none",
        "node",
        "region",
        "nodes.one.region",
        "nodes.one.address",
        "clusters.main.servers[0].region",
        "clusters.main.repositories.vault.region",
        "tenants.acme.home",
    ] {
        assert!(problems.iter().any(|problem| problem.path == path), "nothing is said about {path}:\n{said}");
    }
    let other = text
        .replace("region = \"asia\"\n[[issuers]]", "region = \"lk\"\n[[issuers]]")
        .replace("node = \"nowhere\"", "node = \"one\"");
    let other = other
        .replace("[nodes.one]\nregion = \"asia\"\naddress = \"x\"", "[nodes.one]\nregion = \"in\"\naddress = \"x:1\"");
    let problems = config::parse(&other, std::path::Path::new(".")).unwrap_err();
    assert!(
        problems.iter().any(|problem| problem.path == "region" && problem.to_string().contains("node one")),
        "{problems:?}"
    );
    let nobody = other.replace("node = \"one\"\nregion = \"lk\"\n", "");
    let problems = config::parse(&nobody, std::path::Path::new(".")).unwrap_err();
    assert!(problems.iter().any(|problem| problem.path == "node"), "which of the nodes it is: {problems:?}");
}

#[test]
fn a_repository_where_a_tenants_data_may_not_be_is_refused_for_each_such_tenant() {
    let abroad = "[clusters.main]\nrepositories.vault.region = \"lk\"\nrepositories.attic.region = \"de\"\n";
    let text = format!("{}{}", support::HEAD, support::configuration(1, "")).replace("[clusters.main]\n", abroad);
    let text = text.replace("[tenants.globex]\n", "[tenants.globex]\nregions = [\"lk\", \"de\"]\n");
    let problems = config::parse(&text, std::path::Path::new(".")).unwrap_err();
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let of = |tenant: &str| said.iter().filter(|said| said.contains(&format!("tenants.{tenant}.regions"))).count();
    assert_eq!((of("acme"), of("kandy"), of("globex")), (1, 1, 0), "{said:#?}");
    assert!(said[0].contains("the repository attic of cluster main is in region de"), "{said:#?}");
    let settings = config::parse(&text.replace("region = \"de\"\n", "region = \"lk\"\n"), std::path::Path::new("."));
    assert!(settings.is_ok());
}
