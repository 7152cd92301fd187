//! `pgward doctor`: each rule finds what is wrong and what it says mends it, in databases of a real server.

mod support;

#[path = "doctor/cases.rs"]
mod cases;
#[path = "doctor/fixture.rs"]
mod fixture;

use std::collections::BTreeSet;

use fixture::{Fixture, connect, good, play};
use pgward::base::ClusterName;
use pgward::doctor::{self, Breadth, Found, Question};
use pgward::local::Cluster;
use tokio::sync::OnceCell;

static SICK: OnceCell<Cluster> = OnceCell::const_new();

async fn sick() -> &'static Cluster {
    SICK.get_or_init(async || Cluster::builder("sick").setting("max_prepared_transactions", "2").start().await.unwrap())
        .await
}

#[tokio::test]
async fn tables_without_row_security_are_found_and_mended() {
    play(sick().await, "tables", cases::tables()).await;
}

#[tokio::test]
async fn keys_that_leave_the_tenant_out_are_found() {
    play(sick().await, "keys", cases::keys()).await;
}

#[tokio::test]
async fn policies_that_let_others_rows_through_are_found_and_mended() {
    play(sick().await, "policies", cases::policies()).await;
}

#[tokio::test]
async fn views_with_others_rights_are_found_and_mended() {
    play(sick().await, "views", cases::views()).await;
}

#[tokio::test]
async fn functions_with_others_rights_are_found_and_mended() {
    play(sick().await, "functions", cases::functions()).await;
}

#[tokio::test]
async fn grants_past_the_policies_are_found_and_mended() {
    play(sick().await, "grants", cases::grants()).await;
}

#[tokio::test]
async fn schemas_that_are_open_to_others_are_found_and_mended() {
    play(sick().await, "schemas", cases::schemas()).await;
}

#[tokio::test]
async fn logins_with_too_much_power_are_found_and_mended() {
    play(sick().await, "roles", cases::roles()).await;
}

#[tokio::test]
async fn what_the_server_offers_to_tenants_is_found_and_mended() {
    play(sick().await, "server", cases::server()).await;
}

#[tokio::test]
async fn columns_that_are_hidden_and_read_all_the_same_are_found_and_mended() {
    play(sick().await, "hidden", cases::classification()).await;
}

#[tokio::test]
async fn what_is_wrong_with_the_installation_is_found() {
    play(sick().await, "installed", cases::installed()).await;
}

#[tokio::test]
async fn what_is_right_is_not_found_fault_with() {
    let fixture = Fixture::new(sick().await.primary(), "right").await;
    fixture.well().await;
    let own = "tenant_id = (select pgward.tenant())";
    fixture
        .run(&format!(
            "create policy one on {{T}} for select using (true);
            create policy two on {{T}} as restrictive for select using ({own});
            create policy three on {{T}} for insert with check ({own} and item > 'a');
            create policy four on {{T}} for select to pg_monitor using (true);
            create function {{S}}.tenant() returns text language sql stable parallel restricted as 'select pgward.tenant()';
            create policy five on {{T}} for delete using (tenant_id = {{S}}.tenant());
            create view {{S}}.v with (security_invoker) as select item from {{T}}; grant select on {{S}}.v to {{app}};
            create view {{S}}.closed as select item from {{T}};
            create materialized view {{S}}.m as select item from {{T}};
            create function {{S}}.f() returns int language sql security definer
                set search_path = pg_catalog, {{S}}, pg_temp as 'select 1';
            create role right_owner; grant all on schema {{S}} to right_owner;
            alter function {{S}}.f() owner to right_owner;
            create table {{S}}.names (name text primary key); grant select on {{S}}.names to public;
            comment on table {{S}}.names is 'pgward: shared';
            create table {{S}}.inner_works (name text);
            {} {} {}
            create table {{S}}.p1 partition of {{S}}.p for values in (1);
            create unique index on {{S}}.t (lower(mail), tenant_id);
            alter table {{S}}.t add foreign key (tenant_id, order_id) references {{T}} (tenant_id, id);
            create table {{K}}.own (tenant_id text); alter table {{K}}.own owner to {{kandy}};
            grant usage on schema {{K}} to {{kandy}};
            update pgward.logins set settings = '{{work_mem=5MB}}' where role::text like 'right a%';
            alter role {{app}} set work_mem = '5MB'",
            good("{S}.t", "mail text, order_id bigint"),
            good("{S}.u", "tenant_name text"),
            good("{S}.p", "k int").replace("(tenant_id, id));", "(tenant_id, id, k)) partition by list (k);"),
        ))
        .await;
    let found = fixture.found().await;
    let known = ["database-reachable", "prepared-transactions"];
    let found: Vec<_> = found.iter().filter(|finding| !known.contains(&finding.rule.id)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn a_tenants_column_by_another_name_is_known_by_its_policy_or_named() {
    let fixture = Fixture::new(sick().await.primary(), "column").await;
    let by_policy = good("{S}.t", "k int unique").replace("tenant_id", "org");
    fixture.run(&format!("{by_policy} create table {{S}}.u (org text); grant select on {{S}}.u to {{app}};")).await;
    let both = good("{S}.w", "other text")
        .replace("\"own; rows\" on {S}.w for all\n            using (", "p on {S}.w using (other = 'x' and ");
    fixture.run(&both.replace("tenant_id", "org")).await;
    let ask = async |columns: &[&str]| {
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        let cluster = ClusterName::parse("main").unwrap();
        let question = Question::new(&fixture.settings, &cluster, "column d\"b", &columns);
        doctor::examine(&fixture.client, &question, Breadth::Database).await.unwrap().database
    };
    let has = |found: &Found, rule: &str, object: &str| {
        let object = fixture.sql(object);
        found.findings.iter().any(|finding| finding.rule.id == rule && finding.object == object)
    };
    let unnamed = ask(&["tenant_id"]).await;
    assert!(has(&unnamed, "unique-key-without-tenant", "unique constraint t_k_key on table {S}.t"), "{unnamed:#?}");
    assert!(!has(&unnamed, "table-without-row-security", "table {S}.u"));
    assert!(unnamed.not_examined.iter().any(|missed| missed.what == fixture.sql("table {S}.w")), "{unnamed:#?}");
    let named = ask(&["tenant_id", "org"]).await;
    assert!(has(&named, "table-without-row-security", "table {S}.u"), "{named:#?}");
    assert_eq!(named.not_examined, []);
}

#[tokio::test]
async fn in_a_tenants_own_database_what_leads_out_of_it_is_found_and_the_rest_is_its_own_affair() {
    let server = sick().await.primary();
    let fixture = Fixture::new(server, "alone").await;
    let client = connect(server, "alone o\"wn").await;
    let sql = "create table t (tenant_id text); grant all on t to public; grant create on schema public to public;
        create materialized view m as select * from t; grant select on m to public;
        create function f() returns int language sql security definer as 'select 1';
        create extension dblink; create extension pg_stat_statements;
        grant execute on function pg_read_file(text) to public";
    client.batch_execute(sql).await.unwrap();
    let cluster = ClusterName::parse("main").unwrap();
    let question = Question::new(&fixture.settings, &cluster, "alone o\"wn", &["tenant_id".to_owned()]);
    let found = doctor::examine(&client, &question, Breadth::Database).await.unwrap().database;
    assert_eq!(found.not_examined, []);
    let mut ids: Vec<&str> = found.findings.iter().map(|finding| finding.rule.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["definer-function-search-path", "extension-reaches-out", "server-function"], "{found:#?}");
}

#[tokio::test]
async fn prepared_transactions_are_found_where_the_server_has_them() {
    let fixture = Fixture::new(sick().await.primary(), "prepared").await;
    assert!(fixture.found().await.iter().any(|finding| finding.rule.id == "prepared-transactions"));
}

#[test]
fn every_rule_has_a_case() {
    let tried: BTreeSet<&str> = cases::all().iter().map(|case| case.rule).collect();
    // A setting of the server, below; and a privilege of PostgreSQL 17, in the rule's own file.
    let elsewhere = ["prepared-transactions", "grant-maintain"];
    for rule in doctor::rules() {
        assert!(tried.contains(rule.id) || elsewhere.contains(&rule.id), "no case for {}", rule.id);
    }
    let ids: BTreeSet<&str> = doctor::rules().iter().map(|rule| rule.id).collect();
    assert_eq!(ids.len(), doctor::rules().len(), "an id stands twice");
}
