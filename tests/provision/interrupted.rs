//! Commands that are killed, that meet each other, or that fail half-way.

use std::path::Path;
use std::time::{Duration, Instant};

use super::spawned::Spawned;
use super::{Place, Session, exists, kill_until_done, login, output, said, session};
use crate::support::{one, until};

/// A template takes its time, and says by a count whether it was applied twice.
const SEED: [(&str, &str); 3] = [
    ("1-table.sql", "create table seeds (seed text); select pg_sleep(0.05);"),
    ("2-row.sql", "insert into seeds values (current_setting('pgward.new_tenant'));"),
    ("not-sql.txt", "this is not applied"),
];

async fn killed(place: &Place, tenant: &str, options: &str, template: &str, count: &str) {
    let stage = place.stage().await;
    let witness = session(&stage, "witness").await;
    let add = format!("add {tenant} --home lk --cluster main {options} --template {template}");
    let kills =
        kill_until_done(place, &add, (5..).step_by(23), |place| place.read("tenants.toml").contains(tenant)).await;
    assert!(kills > 2, "it was killed {kills} times only");
    place.done(&add).await;
    let used = session(&stage, tenant).await;
    assert_eq!(one(&used.client, count).await, "1");
    drop(used);
    let remove = format!("remove {tenant} --yes --export {}", place.path("exported").display());
    // At level rows it waits two seconds for nothing but time to pass.
    let pause = if options.contains("rows") { 2_000 } else { 0 };
    let waits = [10, 150, 900].into_iter().filter(|_| pause > 0).chain((5 + pause..).step_by(23));
    let kills = kill_until_done(place, &remove, waits, |place| !place.read("tenants.toml").contains(tenant)).await;
    assert!(kills > 2, "it was killed {kills} times only");
    assert!(exists(&place.path("exported/manifest.json")));
    assert_eq!(one(&witness.client, "select count(*) from orders").await, "3");
    assert_eq!(place.read("tenants.toml"), super::TENANTS.replace("DATABASE", place.name));
}

#[tokio::test]
async fn killed_at_any_moment_it_goes_on_at_level_rows() {
    let place = Place::new("killed_rows").await;
    let seeds = "insert into orders (item) select 'seed'; select pg_sleep(0.05)";
    let template = place.template("seeds", &[("1.sql", seeds)]);
    let options = "--isolation rows --database {name}";
    killed(&place, "acme", options, &template, "select count(*) from orders").await;
    assert_eq!(one(&place.admin().await, "select count(*) from orders where tenant_id = 'acme'").await, "0");
}

#[tokio::test]
async fn killed_at_any_moment_it_goes_on_at_level_schema() {
    let place = Place::new("killed_schema").await;
    let template = place.template("seeds", &SEED);
    let options = "--isolation schema --database {name}";
    killed(&place, "killed_schema_own", options, &template, "select count(*) from seeds").await;
    let left = "select count(*) from pg_roles where rolname = 'killed_schema_own'";
    assert_eq!(one(&place.admin().await, left).await, "0");
}

#[tokio::test]
async fn killed_at_any_moment_it_goes_on_at_level_database() {
    let place = Place::new("killed_database").await;
    let template = place.template("seeds", &SEED);
    let options = "--isolation database --database killed_database_own";
    killed(&place, "killed_database_own", options, &template, "select count(*) from seeds").await;
    let left = "select (select count(*) from pg_roles where rolname = 'killed_database_own') \
        + (select count(*) from pg_database where datname = 'killed_database_own')";
    assert_eq!(one(&place.admin().await, left).await, "0");
}

#[tokio::test]
async fn adds_at_the_same_time_do_not_hurt_each_other() {
    let place = Place::new("meeting").await;
    let template = place.template("seeds", &SEED);
    let line = |tenant: &str| {
        format!(
            "add meeting_{tenant} --home lk --isolation schema --cluster main --database meeting --template {template}"
        )
    };
    let lines = [line("a"), line("b"), line("a"), line("c"), line("b"), line("a")];
    let all = futures_util::future::join_all(lines.iter().map(|line| output(place.command(line)))).await;
    for output in &all {
        assert!(output.status.success(), "{}", said(output));
    }
    let stage = place.stage().await;
    for tenant in ["meeting_a", "meeting_b", "meeting_c"] {
        let Session { client, .. } = login(&stage, tenant, "app").await.unwrap();
        assert_eq!(one(&client, "select string_agg(seed, ',') from seeds").await, tenant);
    }
    // One that is there is not added as another.
    let other = "add meeting_a --home lk --isolation schema --cluster main --database meeting --max-clients 3";
    assert!(place.fails(other).await.contains("it is another"));
    let before = place.read("tenants.toml");
    place.done(&line("a")).await;
    assert_eq!(place.read("tenants.toml"), before);
}

#[tokio::test]
async fn a_template_that_fails_leaves_nothing_behind_but_what_the_same_command_mends() {
    let place = Place::new("failing").await;
    let admin = place.admin().await;
    let before = place.read("tenants.toml");
    let bad = "create table made (a int); select 1 / 0;";
    for (tenant, options) in [
        ("failing_s", "--isolation schema --database failing"),
        ("failing_d", "--isolation database --database failing_d"),
    ] {
        let template = place.template("template", &[("1.sql", "create table first (a int)"), ("2.sql", bad)]);
        let add = format!("add {tenant} --home lk --cluster main {options} --template {template}");
        let said = place.fails(&add).await;
        assert!(said.contains("2.sql") && said.contains("22012"), "{said}");
        let left = format!(
            "select (select count(*) from pg_roles where rolname = '{tenant}') \
             + (select count(*) from pg_namespace where nspname = '{tenant}')"
        );
        assert_eq!(one(&admin, &left).await, "0");
        assert_eq!(place.read("tenants.toml"), before);
        place.template("template", &[("1.sql", "create table first (a int)")]);
        assert!(place.done(&add).await.contains("applied the template"));
        let again = place.done(&add).await;
        assert!(again.contains("was applied before"), "{again}");
        place.template("template", &[("1.sql", "create table second (a int)")]);
        assert!(said_of(&place, &add).await.contains("another template was applied"));
        place.done(&format!("remove {tenant} --yes")).await;
    }
    let ending = place.template("ending", &[("1.sql", "create table kept (a int); commit;")]);
    let add = format!("add x --home lk --isolation schema --cluster main --database failing --template {ending}");
    assert!(place.fails(&add).await.contains("begins or ends a transaction"));
    let empty = place.template("empty", &[]);
    let add = format!("add x --home lk --isolation schema --cluster main --database failing --template {empty}");
    assert!(place.fails(&add).await.contains("has no file *.sql"));
    assert_eq!(one(&admin, "select count(*) from pg_roles where rolname = 'x'").await, "0");
    assert_eq!(place.read("tenants.toml"), before);
}

async fn said_of(place: &Place, line: &str) -> String {
    let output = place.run(line).await;
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

/// As a process of its own, since it is the log that is read.
#[tokio::test]
async fn a_broken_tenants_file_is_logged_once() {
    let place = Place::new("logged").await;
    let named = format!("tenants_file = {:?}", place.path("tenants.toml"));
    let text = place.read("pgward.toml").replace("tenants_file = \"tenants.toml\"", &named);
    let start = move || Spawned::start(Path::new(env!("CARGO_BIN_EXE_pgward")), &[], &text);
    let spawned = tokio::task::spawn_blocking(start).await.unwrap();
    let count = |words: &str| spawned.log().matches(words).count();
    let good = place.read("tenants.toml");
    for broken in 1..=2 {
        std::fs::write(place.path("tenants.toml"), format!("[tenants.\n# {broken}")).unwrap();
        until("a line of the log", async || count("the old one stays") == broken).await;
        // Time for it to be looked at again and again, with something to do.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            let url = format!("postgresql://witness:{}@{}/logged", spawned.token("witness"), spawned.address);
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            assert_eq!(one(&client, "select count(*) from orders").await, "3");
        }
        assert_eq!(count("the old one stays"), broken, "{}", spawned.log());
    }
    std::fs::write(place.path("tenants.toml"), good + "\n").unwrap();
    until("a line of the log", async || count("was read again") == 1).await;
    assert_eq!(count("the old one stays"), 2);
}

/// The proxy takes over what is good, and goes on with what it has when it is not.
#[tokio::test]
async fn a_broken_tenants_file_harms_nobody() {
    let place = Place::new("broken").await;
    let real = place.path("..data.toml");
    std::fs::rename(place.path("tenants.toml"), &real).unwrap();
    std::os::unix::fs::symlink("..data.toml", place.path("tenants.toml")).unwrap();
    let stage = place.stage().await;
    let witness = session(&stage, "witness").await;
    let good = place.read("tenants.toml");
    for broken in ["[tenants.", "[tenants.witness]\ncluster = \"nowhere\"\n", "", "[other]\n"] {
        std::fs::write(&real, broken).unwrap();
        assert!(login(&stage, "witness", "app").await.is_ok() || broken.is_empty(), "{broken:?}");
        if !broken.is_empty() {
            assert!(place.run("suspend witness").await.status.code() == Some(1), "{broken:?}");
            assert_eq!(place.read("tenants.toml"), broken, "what is broken is left to whoever broke it");
        }
        std::fs::write(&real, &good).unwrap();
        until("the tenant is back", async || login(&stage, "witness", "app").await.is_ok()).await;
    }
    drop(witness);
    // Another file behind the link, as config maps do it.
    let more = format!("{good}\n[tenants.more]\ncluster = \"main\"\ndatabase = \"broken\"\nhome = \"lk\"\n");
    std::fs::write(place.path("..later.toml"), &more).unwrap();
    std::os::unix::fs::symlink("..later.toml", place.path("next")).unwrap();
    std::fs::rename(place.path("next"), place.path("tenants.toml")).unwrap();
    session(&stage, "more").await;
    // And what writes the file leaves the link.
    place.done("suspend more").await;
    assert!(place.path("tenants.toml").is_symlink());
    until("the suspension", async || login(&stage, "more", "app").await.is_err()).await;
}
