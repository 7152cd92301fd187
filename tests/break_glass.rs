//! Access to tenants that a token does not name: for whom, where, how long, and what is recorded of it.

mod support;

use std::time::Duration;

use pgward::auth::mint;
use pgward::base::{Access, TenantId};
use support::raw::Raw;
use support::{HEAD, Stage, cluster, code, configuration, one, unix_now, until};
use tokio_postgres::{Client, Config, Error, NoTls};

const REASON: &str = "INC-2041: orders are missing";

fn grants(more: &str) -> String {
    format!(
        "[audit]\nfile = \"audit.jsonl\"\n
        [[break_glass]]\nissuer = \"tests\"\nsubject = \"ann\"\ntenants = [\"acme\", \"kandy\"]\nrole = \"readonly\"\n{more}
        [[break_glass]]\nissuer = \"tests\"\nsubject = \"bob\"\ntenants = [\"*\"]\nrole = \"app\"\nmax_duration = \"1m\"\n
        [[break_glass]]\nissuer = \"tests\"\nsubject = \"cem\"\ntenants = \"*\"\nrole = \"app\"\nuntil = \"2026-01-01T00:00:00+05:30\"\n"
    )
}

async fn stage(more: &str) -> Stage {
    Stage::with(&format!("{HEAD}{}", configuration(cluster().await.primary().port(), &grants(more)))).await
}

/// A token of somebody's own tenant, whatever that is.
fn token(stage: &Stage, subject: &str) -> String {
    let claims = serde_json::json!({ "sub": subject, "pgward_break_glass": { "subject": "made up" } });
    let (tenant, role) = (TenantId::parse("globex").unwrap(), Access::parse("app").unwrap());
    let ttl = Duration::from_secs(600);
    mint(&stage.settings.issuers[0], &tenant, &role, ttl, claims.as_object().unwrap(), unix_now()).unwrap()
}

async fn enter(stage: &Stage, subject: &str, tenant: &str, reason: &str) -> Result<Client, Error> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(stage.address.port()).user(tenant).dbname("app").password(token(stage, subject));
    config.options(format!("-c pgward.break_glass={}", reason.replace(' ', "\\ ")));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn audited(stage: &Stage) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(stage.path.with_file_name("audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_named_principal_enters_one_tenant_with_the_granted_role_and_a_reason() {
    let stage = stage("").await;
    let ann = enter(&stage, "ann", "acme", REASON).await.unwrap();
    assert_eq!(one(&ann, "select count(*) || min(tenant_id) || max(tenant_id) from orders").await, "100acmeacme");
    let error = ann.batch_execute("delete from orders").await.unwrap_err();
    assert_eq!(code(&error), "42501", "the role is the granted one, not the token's");
    let claims: serde_json::Value = serde_json::from_str(&one(&ann, "select pgward.claims()").await).unwrap();
    assert_eq!(
        claims["pgward_break_glass"],
        serde_json::json!({ "subject": "ann", "issuer": "tests", "reason": REASON })
    );
    let rows = stage.control.clients().await;
    assert!(rows.iter().all(|row| row.profile.break_glass) && rows.len() == 1);
    // A token's own claim of that name is not sealed.
    let own = stage.try_connect(&stage.url_with("globex", &token(&stage, "dan"))).await.unwrap();
    assert_eq!(one(&own, "select pgward.claims()").await, "{}");
    drop(ann);
    let recorded = async || {
        let lines = audited(&stage);
        let of =
            |event: &str| lines.iter().filter(|line| line["event"] == event && line["break_glass"] == REASON).count();
        (of("login"), of("session_end")) == (1, 1) && of("statement") == 3
    };
    until("all of it is recorded", recorded).await;
    let login = audited(&stage).into_iter().find(|line| line["event"] == "login").unwrap();
    assert_eq!([&login["tenant"], &login["subject"], &login["role"]], ["acme", "ann", "readonly"]);
}

#[tokio::test]
async fn nobody_else_gets_in_nor_elsewhere_nor_later_nor_without_a_reason() {
    let stage = stage("").await;
    for (subject, tenant, reason, state, why) in [
        ("eve", "acme", REASON, "28000", "break_glass_principal"),
        ("ann", "globex", REASON, "28000", "break_glass_tenant"),
        ("ann", "nobody", REASON, "28000", "break_glass_tenant"),
        ("ann", "no such name", REASON, "28000", "break_glass_tenant"),
        ("cem", "acme", REASON, "28000", "break_glass_over"),
        ("ann", "acme", "why not", "22023", "break_glass_reason"),
        ("ann", "acme", "", "22023", "break_glass_reason"),
        ("ann", "acme", "tab\tand more of it", "22023", "break_glass_reason"),
    ] {
        let error = enter(&stage, subject, tenant, reason).await.unwrap_err();
        assert_eq!(code(&error), state, "{subject} {tenant} {reason}");
        let recorded =
            async || audited(&stage).iter().any(|line| line["event"] == "login_refused" && line["reason"] == why);
        until(why, recorded).await;
    }
    // A tenant's own token gets nowhere by it, and nobody gets to the console or past a wrong user.
    let mut raw = Raw::connect(stage.address).await;
    let options = ("options", "-c pgward.break_glass=because\\ I\\ want");
    let messages = raw.log_in(support::raw::V3_0, &[("user", "admin"), ("database", "pgward"), options], "x").await;
    assert_eq!(messages.last().map(|message| message.field(b'C')), Some("0A000".to_owned()));
    let recorded = audited(&stage);
    assert!(recorded.iter().all(|line| line["event"] != "login"), "{recorded:?}");
}

#[tokio::test]
async fn the_grant_ends_the_session() {
    cluster().await;
    let soon = unix_now() + 5;
    let until_soon =
        format!("until = \"{}\"\n", pgward::base::clock::timestamp(soon).replacen(' ', "T", 1).replace(" UTC", "Z"));
    let stage = stage(&until_soon).await;
    let ann = enter(&stage, "ann", "acme", REASON).await.unwrap();
    let bob = enter(&stage, "bob", "globex", REASON).await.unwrap();
    let expiry = |tenant: &str| {
        let clients = stage.control.clients();
        let tenant = tenant.to_owned();
        async move {
            let row = clients.await.into_iter().find(|row| *row.profile.said.user == *tenant).unwrap();
            row.profile.expires_at.unwrap()
        }
    };
    assert_eq!(expiry("acme").await, soon);
    assert!(expiry("globex").await <= unix_now() + 60, "max_duration is less than the token has left");
    ann.batch_execute("begin").await.unwrap();
    until("it is over", async || ann.is_closed()).await;
    assert_eq!(one(&bob, "select pgward.tenant()").await, "globex");
    assert_eq!(code(&enter(&stage, "ann", "acme", REASON).await.unwrap_err()), "28000");
}

#[test]
fn it_is_not_configured_without_an_audit_log_or_for_whom_nobody_knows() {
    let text = format!("{HEAD}{}", configuration(5432, &grants("")));
    let problems = |text: &str| {
        let problems = pgward::config::parse(text, std::path::Path::new(".")).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(problems(&text), "");
    assert!(problems(&text.replace("[audit]\nfile = \"audit.jsonl\"\n", "")).contains("no audit log"));
    for (good, bad, word) in [
        ("\"kandy\"]", "\"candy\"]", "break_glass[0].tenants"),
        ("issuer = \"tests\"\nsubject = \"bob\"", "issuer = \"else\"\nsubject = \"bob\"", "break_glass[1].issuer"),
        ("2026-01-01T00:00:00+05:30", "2026-01-01", "break_glass[2].until"),
        ("tenants = [\"*\"]", "tenants = []", "break_glass[1].tenants"),
    ] {
        let said = problems(&text.replace(good, bad));
        assert!(said.contains(word), "{bad}: {said}");
    }
}
