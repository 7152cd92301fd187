//! `pgward doctor` as a command: what it prints, what it changes and how it exits. And that looking changes nothing.

mod support;

#[path = "doctor/fixture.rs"]
mod fixture;

use std::process::{Command, Output};

use fixture::{Fixture, configuration, good};
use pgward::base::ClusterName;
use pgward::doctor::{self, Breadth, Question, Severity};
use pgward::local::Cluster;
use support::one;
use tokio_postgres::NoTls;

/// A cluster for one test, in which nothing happens by itself.
async fn quiet() -> Cluster {
    Cluster::builder("quiet").setting("autovacuum", "off").start().await.unwrap()
}

struct Commanded {
    folder: tempfile::TempDir,
    url: String,
}

impl Commanded {
    fn new(cluster: &Cluster, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pgward.toml"), configuration(name, cluster.primary().port())).unwrap();
        Self { folder, url: cluster.primary().url() }
    }

    async fn doctor(&self, arguments: &[&str]) -> Output {
        self.doctor_at(&self.url, arguments).await
    }

    async fn doctor_at(&self, url: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
        command.arg("doctor").arg("--config").arg(self.folder.path().join("pgward.toml")).args(arguments);
        command.args(["--url", url]).env_remove("PGWARD_INSTALL_URL");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What depends on the version of PostgreSQL, or on what an installation revokes.
const SERVERS_OWN: [&str; 10] = [
    "--allow",
    "activity-of-others",
    "--allow",
    "signals-to-others",
    "--allow",
    "large-objects",
    "--allow",
    "guard-missing",
    "--allow",
    "grant-temporary",
];

#[tokio::test]
async fn the_json_is_as_it_was() {
    let cluster = quiet().await;
    let fixture = Fixture::new(cluster.primary(), "golden").await;
    fixture
        .run(
            "create table {S}.open (tenant_id uuid primary key); grant select on {S}.open to {app};
            create table {S}.countries (name text); grant select on {S}.countries to {ro};
            alter table {T} no force row level security; alter role {ro} bypassrls;
            create policy \"all; rows\" on {T} for select using (true)",
        )
        .await;
    let done = Commanded::new(&cluster, "golden").doctor(&[&["--json"][..], &SERVERS_OWN].concat()).await;
    assert_eq!(done.status.code(), Some(1), "{}", text(&done));
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let golden: serde_json::Value = serde_json::from_str(include_str!("doctor/golden.json")).unwrap();
    assert_eq!(said["findings"], golden["findings"], "{said:#}");
    assert_eq!(said["not_examined"], golden["not_examined"]);
    for (name, value) in golden["summary"].as_object().unwrap() {
        // How much was allowed is the server's.
        assert!(name == "allowed" || said["summary"][name] == *value, "{name}: {said:#}");
    }
    assert_eq!(said["summary"]["rules"], doctor::rules().len());
    assert_eq!(said["summary"]["databases"], 2);
}

#[tokio::test]
async fn exit_codes_say_what_was_found() {
    let cluster = quiet().await;
    let fixture = Fixture::new(cluster.primary(), "codes").await;
    let command = Commanded::new(&cluster, "codes");
    let code = async |arguments: &[&str]| {
        let done = command.doctor(arguments).await;
        (done.status.code().unwrap(), text(&done))
    };
    let (status, said) = code(&[]).await;
    assert_eq!(status, 0, "pgward install leaves nothing dangerous: {said}");
    assert!(said.contains("cluster main, database codes o\"wn: nothing found"), "{said}");
    assert!(said.contains("0 dangers"), "{said}");
    assert_eq!(code(&["--strict"]).await.0, 1, "there are warnings");
    fixture.run("grant truncate on {T} to {app}").await;
    let (status, said) = code(&[]).await;
    assert_eq!(status, 1);
    let table = fixture.sql("{T}");
    for line in [
        format!("danger: table {table} (grant-truncate)"),
        "a tenant empties the table of all tenants".to_owned(),
        format!("mend:   revoke truncate on {table} from {};", fixture.sql("{app}")),
    ] {
        assert!(said.contains(&line), "{line} in {said}");
    }
    assert_eq!(code(&["--allow", "grant-truncate"]).await.0, 0);
    let this = format!("grant-truncate:table {table}");
    assert_eq!(code(&["--allow", &this]).await.0, 0, "{this}");
    assert_eq!(code(&["--allow", "grant-truncate:table public.other"]).await.0, 1);
    let (status, said) = code(&["--allow", "no-such-rule"]).await;
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("no-such-rule"), "{said}");
    for wrong in [&["--cluster", "elsewhere"][..], &["--fix=maybe"], &["--json", "--fix"]] {
        assert_eq!(code(wrong).await.0, 2, "{wrong:?}");
    }
    let (status, said) = code(&["--database", "nowhere"]).await;
    assert_eq!(status, 3, "{said}");
    assert!(said.contains("not examined: the database"), "{said}");
    assert!(said.contains("nowhere\" does not exist"), "{said}");
    let one_of_two = code(&["--database", "codes d\"b", "--database", "nowhere"]).await.0;
    assert_eq!(one_of_two, 1, "a danger is a danger, whatever else could not be examined");
}

#[tokio::test]
async fn the_script_is_sql_that_psql_runs_and_apply_does_the_same() {
    let cluster = quiet().await;
    let wrong = format!(
        "create table {{S}}.\"x\ny\" (tenant_id text); grant select, truncate on {{S}}.\"x\ny\" to {{app}};
        {} create view {{S}}.v as select mail from {{S}}.t; grant select on {{S}}.v to public;
        create policy \"a; policy\" on {{S}}.t using (mail = 'x'';--')",
        good("{S}.t", "mail text unique")
    );
    for (name, how) in [("printed", "--fix"), ("applied", "--fix=apply")] {
        let fixture = Fixture::new(cluster.primary(), name).await;
        fixture.run(&wrong).await;
        let dangers = async || fixture.found().await.iter().filter(|f| f.rule.severity == Severity::Danger).count();
        assert!(dangers().await >= 4, "{:#?}", fixture.found().await);
        let command = Commanded::new(&cluster, name);
        let allow = ["--allow", "database-reachable"];
        let done = command.doctor(&[&[how][..], &allow].concat()).await;
        if how == "--fix" {
            assert_eq!(done.status.code(), Some(1), "printing mends nothing: {}", text(&done));
            assert!(dangers().await >= 4);
            let said = text(&done);
            assert!(said.contains("-- Left to do"), "{said}");
            assert!(
                said.lines().any(|line| line.starts_with("-- danger, table-without-row-security: table")),
                "{said}"
            );
            let script = command.folder.path().join("fix.sql");
            std::fs::write(&script, &done.stdout).unwrap();
            let mut psql = Command::new("psql");
            psql.args(["-X", "-q", "-d", &command.url, "-f"]).arg(&script);
            let ran = tokio::task::spawn_blocking(move || psql.output().unwrap()).await.unwrap();
            assert!(ran.status.success(), "{}\n{said}", text(&ran));
        } else {
            assert_eq!(done.status.code(), Some(0), "{}", text(&done));
            assert!(text(&done).contains("findings mended"), "{}", text(&done));
        }
        assert_eq!(dangers().await, 0, "{:#?}", fixture.found().await);
        let left = fixture.found().await;
        let left: Vec<&str> = left.iter().map(|f| f.rule.id).filter(|id| *id != "database-reachable").collect();
        assert!(left.contains(&"unique-key-without-tenant"), "advice is for a person: {left:?}");
        assert!(!left.contains(&"activity-of-others"), "{left:?}");
    }
}

#[tokio::test]
async fn what_postgres_refuses_changes_nothing() {
    let cluster = quiet().await;
    let fixture = Fixture::new(cluster.primary(), "refused").await;
    fixture
        .run(
            "alter table {T} no force row level security; grant truncate on {T} to {app};
            create role refused_boss login password 'x'; grant connect on database {db} to refused_boss;
            grant usage on schema {S} to refused_boss",
        )
        .await;
    let url = format!("postgresql://refused_boss:x@127.0.0.1:{}/", cluster.primary().port());
    let command = Commanded::new(&cluster, "refused");
    let done = command.doctor_at(&url, &["--fix=apply", "--database", "refused d\"b"]).await;
    assert_eq!(done.status.code(), Some(1), "{}", text(&done));
    assert!(text(&done).contains("nothing was changed"), "{}", text(&done));
    let ids: Vec<&str> = fixture.found().await.iter().map(|finding| finding.rule.id).collect();
    assert!(ids.contains(&"table-without-force") && ids.contains(&"grant-truncate"), "{ids:?}");
}

#[tokio::test]
async fn looking_needs_no_superuser_writes_nothing_and_takes_no_transaction_id() {
    let cluster = quiet().await;
    let fixture = Fixture::new(cluster.primary(), "looking").await;
    fixture
        .run(
            "alter table {T} no force row level security; alter role {app} bypassrls;
            create role looking_inspector login password 'x' connection limit 5;
            alter role looking_inspector set default_transaction_read_only = on",
        )
        .await;
    let mut config: tokio_postgres::Config = cluster.primary().url_of("looking d%22b").parse().unwrap();
    config.user("looking_inspector").password("x");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let next = "select pg_snapshot_xmax(pg_current_snapshot())";
    let before = one(&fixture.client, next).await;
    let seen = fixture.examined(&client).await;
    assert_eq!(one(&fixture.client, next).await, before);
    let all = fixture.examined(&fixture.client).await;
    assert_eq!(one(&fixture.client, next).await, before, "not as a superuser either");
    assert_eq!(all.not_examined, []);
    let missed: Vec<&str> = seen.not_examined.iter().flat_map(|missed| missed.rules.iter().copied()).collect();
    let classified = |id: &&str| id.starts_with("classif") || id.starts_with("export-view");
    let (classified, others): (Vec<&str>, Vec<&str>) = missed.into_iter().partition(classified);
    assert_eq!(others, ["key-missing", "key-left-over", "login-setting"], "it says what it could not see");
    assert_eq!(classified.len(), 20, "ten rules, which hang upon two tables: {classified:?}");
    assert!(seen.not_examined.iter().all(|missed| missed.reason.contains("permission denied")), "{seen:?}");
    assert_eq!(seen.findings, all.findings, "all the rest is the same");
    assert!(seen.findings.iter().any(|finding| finding.rule.id == "table-without-force"));
    // The connection is as it was: settings were of the transaction.
    assert_eq!(one(&client, "show search_path").await, "\"$user\", public");
    assert_eq!(one(&client, "select pg_current_xact_id_if_assigned()").await, "NULL");
}

#[tokio::test]
async fn no_code_of_others_runs_in_the_session_that_looks() {
    let cluster = quiet().await;
    let fixture = Fixture::new(cluster.primary(), "trap").await;
    fixture
        .run(
            "create function {S}.trap() returns text language plpgsql as $$begin raise 'sprung'; end$$;
            alter table pgward.logins rename to logins_aside;
            create view pgward.logins as select {S}.trap() as role, array['x'] as settings;
            create function {S}.current_database() returns name language plpgsql as $$begin raise 'sprung'; end$$;
            create table {S}.pg_class (oid oid); create temporary table pg_policy (oid oid);
            alter role {app} set app.x = 'y'; set search_path = {S}, pg_catalog",
        )
        .await;
    let found = fixture.found().await;
    assert!(found.iter().any(|finding| finding.rule.id == "login-setting"), "{found:#?}");
}

#[tokio::test]
async fn a_well_made_database_has_nothing_dangerous() {
    // The tests' own, and the demo's.
    let demo = include_str!("../src/cli/demo/data.rs");
    let demo = demo.split("ROWS: &str = \"").nth(1).unwrap().split("\";").next().unwrap();
    let shared = support::cluster().await;
    let other = quiet().await;
    other.primary().run("postgres", "create the database", "create database app").await.unwrap();
    let name = ClusterName::parse("main").unwrap();
    for (cluster, sql) in [(shared, ""), (&other, demo)] {
        let settings = support::parse(&support::configuration(cluster.primary().port(), ""));
        let client = cluster.primary().connect("app").await.unwrap();
        if !sql.is_empty() {
            pgward::tenant::Installation::new(&settings, &name, "app").run(&client).await.unwrap();
            client.batch_execute(sql).await.unwrap();
        }
        let question = Question::new(&settings, &name, "app", &["tenant_id".to_owned()]);
        let found = doctor::examine(&client, &question, Breadth::DatabaseAndCluster).await.unwrap();
        for found in [found.database, found.cluster] {
            assert_eq!(found.not_examined, []);
            let dangers: Vec<_> = found.findings.iter().filter(|f| f.rule.severity == Severity::Danger).collect();
            assert!(dangers.is_empty(), "{dangers:#?}");
            assert!(found.findings.iter().all(|finding| !finding.object.contains("orders")), "{found:#?}");
            let prepared = found.findings.iter().any(|finding| finding.rule.id == "prepared-transactions");
            assert!(!prepared, "max_prepared_transactions is 0 here");
        }
    }
}
