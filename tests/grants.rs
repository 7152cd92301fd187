//! What of a tenant's data may leave its regions on purpose: for a role, a time and a scope, recorded at each use.

#[path = "support/log.rs"]
mod log;
mod support;

use log::Log;
use support::raw::errors;
use support::{Stage, code, furnish, one, until};
use tokio::sync::OnceCell;

use pgward::local::Cluster;

const VIEWS: &str = "
    create schema reports;
    create view reports.orders_by_size with (security_invoker = off) as
        select width_bucket(amount, 0, 100, 4) as size, count(*) as orders from orders
        where tenant_id = (select pgward.tenant()) group by 1;
    create view reports.orders with (security_invoker = off) as
        select id, item from orders where tenant_id = (select pgward.tenant());
    create function reports.peek() returns bigint language sql security definer as 'select count(*) from public.orders';
    revoke all on function reports.peek() from public;
    create table reports.elsewhere ();
    insert into pgward.export_view (schema, view, kind, k, quasi_identifiers, note)
        values ('reports', 'orders_by_size', 'aggregated', 5, '{size}', 'figures');
    grant usage on schema reports to pgward_abroad;
    grant select on reports.orders_by_size to pgward_abroad;";

/// Where globex and acme are at home in Sri Lanka, and role `abroad` reads reports.
async fn cluster() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER
        .get_or_init(async || {
            let cluster = Cluster::builder("grants").setting("max_connections", "100").start().await.unwrap();
            furnish(&cluster).await;
            let admin = cluster.primary().connect("app").await.unwrap();
            let text = configuration(&cluster, &Log::new(), "");
            let settings = support::parse(&text);
            let name = pgward::base::ClusterName::parse("main").unwrap();
            pgward::tenant::Installation::new(&settings, &name, "app").run(&admin).await.unwrap();
            admin.batch_execute(VIEWS).await.unwrap();
            drop(admin);
            // Copies are made of one that nobody is connected to.
            let admin = cluster.primary().connect("postgres").await.unwrap();
            until("a copy", async || admin.batch_execute("create database copied template app").await.is_ok()).await;
            cluster
        })
        .await
}

fn configuration(cluster: &Cluster, log: &Log, grants: &str) -> String {
    let audit = log.table("").replace("[audit]\n", "audit.");
    let extra = format!("region = \"de\"\n{audit}\n{grants}\n");
    let text = support::configuration(cluster.primary().port(), &extra);
    let logins = "readonly = \"pgward_readonly\", abroad = \"pgward_abroad\" }";
    format!("{}{}", support::HEAD, text.replace("readonly = \"pgward_readonly\" }", logins))
}

const FIGURES: &str = "
[grants.figures]
tenants = [\"acme\"]
role = \"abroad\"
regions = [\"de\"]
purpose = \"monthly figures\"
legal_basis = \"contract 17, section 4\"
scope = [\"reports.orders_by_size\"]
until = 2999-01-31T18:00:00Z
";

async fn stage(log: &Log, grants: &str) -> Stage {
    Stage::with(&configuration(cluster().await, log, grants)).await
}

async fn refusal(stage: &Stage, tenant: &str, role: &str) -> String {
    code(&stage.try_connect(&stage.url(tenant, role)).await.err().unwrap())
}

#[tokio::test]
async fn a_grant_lets_its_role_read_its_scope_abroad_and_each_use_is_recorded() {
    let log = Log::new();
    let stage = stage(&log, FIGURES).await;
    let client = stage.try_connect(&stage.url("acme", "abroad")).await.unwrap();
    assert_eq!(one(&client, "select sum(orders) from reports.orders_by_size").await, "100");
    for sql in ["select * from orders", "select * from reports.orders", "select reports.peek()"] {
        assert_eq!(code(&client.batch_execute(sql).await.unwrap_err()), "42501", "{sql}");
    }
    drop(client);
    let named = [("tenant", "acme"), ("grant", "figures"), ("role", "abroad")];
    let used = log.await_line("grant_used", &named).await;
    assert_eq!(used["purpose"], "monthly figures");
    assert_eq!(used["legal_basis"], "contract 17, section 4");
    log.await_line("session_end", &named).await;
    let statements = log.of("statement");
    assert!(statements.iter().any(|line| line["statement"] == "select sum(orders) from reports.orders_by_size"));
    // Nobody else, and nothing else, is let out by it.
    for (tenant, role) in [("acme", "app"), ("acme", "readonly"), ("globex", "abroad")] {
        assert_eq!(refusal(&stage, tenant, role).await, "28000", "{tenant} {role}");
    }
    let narrow = serde_json::json!({ "region": "lk" });
    let token = token(&stage, "acme", "abroad", narrow);
    let refused = stage.try_connect(&stage.url_with("acme", &token)).await.err().unwrap();
    assert_eq!(code(&refused), "28000", "its token keeps it at home");
}

fn token(stage: &Stage, tenant: &str, role: &str, claims: serde_json::Value) -> String {
    use pgward::base::{Access, TenantId};
    let (tenant, role) = (TenantId::parse(tenant).unwrap(), Access::parse(role).unwrap());
    let ttl = std::time::Duration::from_secs(600);
    let claims = claims.as_object().unwrap();
    pgward::auth::mint(&stage.settings.issuers[0], &tenant, &role, ttl, claims, support::unix_now()).unwrap()
}

#[tokio::test]
async fn a_role_that_can_do_more_than_its_grant_says_is_not_used_abroad() {
    let admin = cluster().await.primary().connect("postgres").await.unwrap();
    // In a database of its own each, since the role is one for all.
    for (number, (gift, said)) in [
        ("grant select on reports.orders to pgward_abroad", "it may use reports.orders"),
        ("grant select (item) on public.orders to pgward_abroad", "it may use public.orders"),
        ("grant insert on reports.orders_by_size to pgward_abroad", "it may change reports.orders_by_size"),
        ("grant select on reports.elsewhere to public", "it may use reports.elsewhere"),
        ("grant execute on function reports.peek() to pgward_abroad", "it may call reports.peek()"),
    ]
    .into_iter()
    .enumerate()
    {
        let database = format!("more{number}");
        admin.batch_execute(&format!("create database {database} template copied")).await.unwrap();
        let inside = cluster().await.primary().connect(&database).await.unwrap();
        inside.batch_execute(gift).await.unwrap();
        let log = Log::new();
        let text = configuration(cluster().await, &log, FIGURES);
        let acme = "[tenants.acme]\ncluster = \"main\"\ndatabase = \"app\"";
        let text = text.replace(acme, &acme.replace("\"app\"", &format!("\"{database}\"")));
        let stage = Stage::with(&text).await;
        let url = stage.url("acme", "abroad");
        let refused = stage.try_connect(&url).await.err().unwrap();
        assert_eq!(code(&refused), "F0000", "{said}: {refused:?}");
        let told = refused.as_db_error().unwrap().message();
        assert_eq!(
            told,
            "pgward does not use this tenant's database login, which could do more than the grant for this region allows"
        );
        log.await_line("login_role", &[("outcome", "out_of_scope"), ("login_role", "pgward_abroad")]).await;
    }
}

#[tokio::test]
async fn an_export_of_rows_that_nobody_vouches_for_stays_at_home() {
    let log = Log::new();
    let all = FIGURES.replace("[\"reports.orders_by_size\"]", "[\"reports.orders_by_size\", \"reports.orders\"]");
    let stage = stage(&log, &all).await;
    assert_eq!(refusal(&stage, "acme", "abroad").await, "F0000");
    // Unless the grant says that it is about people.
    let log = Log::new();
    let stage = self::stage(&log, &all.replace("until", "anonymised = false\nuntil")).await;
    assert!(stage.try_connect(&stage.url("acme", "abroad")).await.is_ok());
}

#[tokio::test]
async fn a_grant_that_is_over_or_withdrawn_lets_nobody_out() {
    let log = Log::new();
    let past = stage(&log, &FIGURES.replace("2999", "2020")).await;
    assert_eq!(refusal(&past, "acme", "abroad").await, "28000");
    drop(past);
    // It ends in the middle of a session.
    let log = Log::new();
    let soon = pgward::base::clock::timestamp(support::unix_now() + 3).replace(" UTC", "Z");
    let stage = stage(&log, &FIGURES.replace("2999-01-31T18:00:00Z", &soon)).await;
    let client = stage.try_connect(&stage.url("acme", "abroad")).await.unwrap();
    until("the end of the session", async || client.is_closed()).await;
    assert_eq!(refusal(&stage, "acme", "abroad").await, "28000");
    drop(stage);
    // It is withdrawn, and a transaction under way ends.
    let log = Log::new();
    let stage = self::stage(&log, FIGURES).await;
    let mut raw = support::raw::Raw::open(&stage.url("acme", "abroad")).await;
    assert!(errors(&raw.query("begin; select * from reports.orders_by_size").await).is_empty());
    let text = std::fs::read_to_string(&stage.path).unwrap();
    std::fs::write(&stage.path, text.replace("regions = [\"de\"]", "regions = [\"fr\"]")).unwrap();
    stage.control.reload().await.unwrap();
    assert_eq!(errors(&raw.rest().await), ["57P01"]);
}

#[test]
fn a_grant_that_says_too_little_is_named() {
    let text = format!(
        "{}{}",
        support::HEAD,
        support::configuration(
            1,
            "[grants.none]\ntenants = []\nrole = \"app\"\nregions = []\npurpose = \" \"\nlegal_basis = \"x\\n\"\nscope = [\"orders\"]\n\
             [grants.home]\ntenants = [\"acme\", \"nobody\"]\nrole = \"other\"\nregions = [\"lk\"]\npurpose = \"p\"\nlegal_basis = \"l\"\nscope = [\"a.b\"]\nuntil = 2999-01-31T18:00:00Z\n"
        )
    );
    let problems = pgward::config::parse(&text, std::path::Path::new(".")).unwrap_err();
    for path in ["tenants", "regions", "purpose", "legal_basis", "scope", "until"] {
        let path = format!("grants.none.{path}");
        assert!(problems.iter().any(|problem| problem.path == path), "{path}: {problems:?}");
    }
    let text = text.replace("[grants.none]\ntenants = []\nrole = \"app\"\nregions = []\npurpose = \" \"\nlegal_basis = \"x\\n\"\nscope = [\"orders\"]\n", "");
    let problems = pgward::config::parse(&text, std::path::Path::new(".")).unwrap_err();
    for path in ["grants", "grants.home.tenants", "grants.home.role", "grants.home.regions"] {
        assert!(problems.iter().any(|problem| problem.path == path), "{path}: {problems:?}");
    }
}

#[tokio::test]
async fn a_report_has_the_grants_that_were_used_and_finds_no_fault_with_them() {
    let log = Log::new();
    let stage = stage(&log, FIGURES).await;
    let client = stage.try_connect(&stage.url("acme", "abroad")).await.unwrap();
    one(&client, "select sum(orders) from reports.orders_by_size").await;
    drop(client);
    log.await_line("session_end", &[("tenant", "acme")]).await;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pgward"));
    command.args(["residency", "report", "--json", "--classified", "--tenant", "acme", "--config"]).arg(&stage.path);
    command.args(["--url", &cluster().await.primary().url()]);
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(done.status.success(), "{report:#}");
    let acme = &report["tenants"][0];
    assert_eq!((&acme["grants"][0]["grant"], &acme["grants"][0]["count"]), (&"figures".into(), &1.into()));
    let served = &acme["served"][0];
    assert_eq!((&served["grant"], &served["node_region"]), (&"figures".into(), &"de".into()), "{acme:#}");
    assert_eq!(report["classified"][0]["export_views"][0]["view"], "orders_by_size");
}

#[tokio::test]
async fn what_is_notified_at_home_is_not_heard_abroad() {
    let log = Log::new();
    let stage = stage(&log, FIGURES).await;
    let home =
        Stage::with(&configuration(cluster().await, &Log::new(), "").replace("region = \"de\"", "region = \"lk\""))
            .await;
    let (mut abroad, mut at_home) =
        (support::raw::Raw::open(&stage.url("acme", "abroad")).await, home.raw("acme").await);
    for listener in [&mut abroad, &mut at_home] {
        assert!(errors(&listener.query("listen news").await).is_empty());
    }
    let mut teller = home.raw("acme").await;
    assert!(errors(&teller.query("notify news, 'rows'").await).is_empty());
    assert_eq!(at_home.until(|message| message.tag == b'A').await.len(), 1);
    let heard = [abroad.query("select 1").await, abroad.query("select 2").await].concat();
    assert!(heard.iter().all(|message| message.tag != b'A'), "{:?}", support::raw::gists(&heard));
}

#[tokio::test]
async fn a_login_that_began_before_a_grant_was_withdrawn_is_not_let_out() {
    let log = Log::new();
    let stage = stage(&log, FIGURES).await;
    let mut raw = support::raw::Raw::connect(stage.address).await;
    raw.send(support::raw::startup(support::raw::V3_0, &[("user", "acme"), ("database", "app")])).await;
    assert_eq!(raw.next().await.unwrap().tag, b'R', "it is asked for its token");
    let text = std::fs::read_to_string(&stage.path).unwrap();
    std::fs::write(&stage.path, text.replace("regions = [\"de\"]", "regions = [\"fr\"]")).unwrap();
    stage.control.reload().await.unwrap();
    raw.send(support::raw::password(&stage.token("acme", "abroad"))).await;
    assert_eq!(errors(&raw.rest().await), ["28000"]);
    assert!(log.of("grant_used").is_empty());
}

/// What the role of a tenant with a database of its own may have done there beforehand.
const BLINDING: &str = "
    create table secrets (); grant select on secrets to galle_abroad;
    create schema evil; grant usage on schema evil to galle_abroad;
    create function evil.never(name, name) returns boolean language sql immutable as 'select false';
    create operator evil.<> (leftarg = name, rightarg = name, function = evil.never);
    alter role galle_abroad set search_path = evil, pg_catalog;";

#[tokio::test]
async fn a_tenants_own_operators_do_not_blind_the_check_of_its_scope() {
    let server = cluster().await.primary();
    let admin = server.connect("postgres").await.unwrap();
    admin.batch_execute("create role galle_abroad login password 'pw'").await.unwrap();
    admin.batch_execute("create database galle").await.unwrap();
    let inside = server.connect("galle").await.unwrap();
    let figures = "create schema reports; create view reports.figures as select 1 as one;
        grant usage on schema reports to galle_abroad; grant select on reports.figures to galle_abroad";
    inside.batch_execute(figures).await.unwrap();
    let grants = FIGURES
        .replace("\"acme\"", "\"galle\"")
        .replace("reports.orders_by_size", "reports.figures")
        .replace("until", "anonymised = false\nuntil");
    let galle = "[tenants.galle]\nisolation = \"database\"\ncluster = \"main\"\ndatabase = \"galle\"\nhome = \"lk\"\n\
           roles = { abroad = { role = \"galle_abroad\", password = \"pw\" } }\n";
    let (log, log_after) = (Log::new(), Log::new());
    let stage = Stage::with(&format!("{}{galle}", configuration(cluster().await, &log, &grants))).await;
    let client = stage.try_connect(&stage.url("galle", "abroad")).await.unwrap();
    assert_eq!(one(&client, "select one from reports.figures").await, "1");
    drop(client);
    drop(stage);
    inside.batch_execute(BLINDING).await.unwrap();
    let stage = Stage::with(&format!("{}{galle}", configuration(cluster().await, &log_after, &grants))).await;
    assert_eq!(refusal(&stage, "galle", "abroad").await, "F0000");
}
