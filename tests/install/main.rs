//! What `pgward install` puts into a database, over a real one: anew, over an older version, without a superuser,
//! and out again; and the row security that it makes.

#[path = "../support/mod.rs"]
mod support;

mod leaks;
mod logins;
mod protect;
mod rotate;

use pgward::base::ClusterName;
use pgward::config::Settings;
use pgward::tenant::{InstallError, Installation, Installed, uninstall};
use support::{HEAD, Stage, cluster, code, configuration, one, parse};
use tokio_postgres::Client;

/// A database, roles and tenants of one test's own.
pub struct Place {
    pub name: &'static str,
    pub text: String,
}

impl Place {
    pub async fn new(name: &'static str) -> Self {
        Self::with(name, "").await
    }

    /// `extra` goes in front of the configuration.
    pub async fn with(name: &'static str, extra: &str) -> Self {
        let server = cluster().await.primary();
        server.run("postgres", "create the database", &format!("create database {name}")).await.unwrap();
        let text = configuration(server.port(), extra)
            .replace("pgward_", &format!("{name}_"))
            .replace("database = \"app\"", &format!("database = \"{name}\""))
            .replace("[tenants.kandy]", &format!("[tenants.{name}_own]"))
            .replace("[clusters.main]\n", &format!("[clusters.main]\nservice = \"{name}_service\"\n"));
        Self { name, text: format!("{HEAD}{text}") }
    }

    pub fn settings(&self) -> Settings {
        parse(&self.text)
    }

    pub async fn admin(&self) -> Client {
        cluster().await.primary().connect(self.name).await.unwrap()
    }

    pub async fn install(&self) -> Installed {
        install(&self.settings(), &self.admin().await, self.name).await.unwrap()
    }

    pub async fn stage(&self) -> Stage {
        Stage::with(&self.text).await
    }
}

pub async fn install(settings: &Settings, client: &Client, database: &str) -> Result<Installed, InstallError> {
    let name = ClusterName::parse("main").unwrap();
    Installation::new(settings, &name, database).run(client).await
}

/// Who connects where no superuser is to be had.
async fn connect_as(user: &str, database: &str) -> Client {
    let url = format!("postgresql://{user}:manages@127.0.0.1:{}/{database}", cluster().await.primary().port());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn sqlstate(error: &InstallError) -> String {
    match error {
        InstallError::Sql { source, .. } => code(source),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn it_can_be_repeated_and_goes_over_what_version_1_left() {
    let place = Place::new("upgraded").await;
    let admin = place.admin().await;
    admin.batch_execute(include_str!("version-1.sql")).await.unwrap();
    let old =
        "insert into pgward.keys values ('old', '\\x00', '\\x00'); insert into pgward.logins values ('gone', 'gone')";
    admin.batch_execute(old).await.unwrap();
    let first = place.install().await;
    assert_eq!(first.left_open, [""; 0]);
    assert_eq!(first.roles, ["upgraded_app", "upgraded_own", "upgraded_readonly", "upgraded_service"]);
    assert_eq!(place.install().await, first);
    let version = one(&admin, "select obj_description('pgward'::regnamespace, 'pg_namespace')").await;
    assert!(version.starts_with("pgward 3:"), "{version}");
    assert_eq!(one(&admin, "select string_agg(kid, ' ' order by kid) from pgward.keys").await, "for channels k1 old");
    let stage = place.stage().await;
    assert_eq!(one(&stage.connect("acme").await, "select pgward.tenant()").await, "acme");
    // Keys that the configuration does not have go where it is asked for.
    let (settings, name) = (place.settings(), ClusterName::parse("main").unwrap());
    let installation = Installation { prune: true, ..Installation::new(&settings, &name, place.name) };
    installation.run(&admin).await.unwrap();
    assert_eq!(one(&admin, "select string_agg(kid, ' ' order by kid) from pgward.keys").await, "for channels k1");
}

/// As an older version left it: what is made today belongs to whom the rest does.
#[tokio::test]
async fn another_superuser_installs_over_what_the_first_one_did_and_either_may_again() {
    let place = Place::new("handed").await;
    place.install().await;
    let admin = place.admin().await;
    let older = "drop domain pgward.genuine, pgward.mac; drop type pgward.evidence; drop function pgward.not_genuine(); \
        create role second superuser; set role second";
    admin.batch_execute(older).await.unwrap();
    install(&place.settings(), &admin, place.name).await.unwrap();
    admin.batch_execute("reset role").await.unwrap();
    place.install().await;
    let owners = "select string_agg(distinct typowner::regrole::text, ' ') from pg_type where typnamespace = 'pgward'::regnamespace";
    assert_eq!(one(&admin, owners).await, "postgres");
}

#[tokio::test]
async fn a_schema_of_somebody_else_or_of_a_newer_pgward_is_left_alone() {
    let place = Place::new("guarded").await;
    let admin = place.admin().await;
    let install = async || install(&place.settings(), &admin, place.name).await;
    let squat = "create role squatter; grant create on database guarded to squatter; set role squatter; \
        create schema pgward; create function pgward.tenant() returns text language sql as $$ select 'acme' $$; reset role";
    admin.batch_execute(squat).await.unwrap();
    assert_eq!(sqlstate(&install().await.unwrap_err()), "42501");
    // Even within a schema that is one's own.
    admin.batch_execute("alter schema pgward owner to current_user").await.unwrap();
    let error = install().await.unwrap_err();
    assert_eq!(sqlstate(&error), "42501");
    assert!(error.to_string().contains("belongs to somebody else"), "{error}");
    admin.batch_execute("drop schema pgward cascade").await.unwrap();
    // A type is as good: a column of it could be of anybody's making.
    let squat = "create schema pgward; grant all on schema pgward to squatter; set role squatter; \
        create domain pgward.genuine as text; reset role";
    admin.batch_execute(squat).await.unwrap();
    let error = install().await.unwrap_err();
    assert!(error.to_string().contains("belongs to somebody else"), "{error}");
    admin.batch_execute("drop schema pgward cascade").await.unwrap();
    place.install().await;
    admin.batch_execute("comment on schema pgward is 'pgward 77: of tomorrow'").await.unwrap();
    assert_eq!(sqlstate(&install().await.unwrap_err()), "55000");
}

#[tokio::test]
async fn without_a_superuser_it_does_what_it_may_and_says_what_is_left_open() {
    let place = Place::new("managed").await;
    let admin = cluster().await.primary().connect("postgres").await.unwrap();
    admin.batch_execute("create role manager login createrole password 'manages'").await.unwrap();
    admin.batch_execute("alter database managed owner to manager").await.unwrap();
    let manager = connect_as("manager", "managed").await;
    let installed = install(&place.settings(), &manager, "managed").await.unwrap();
    let open = installed.left_open.join("\n");
    assert!(open.contains("pg_terminate_backend") && open.contains("pgward_guard"), "{open}");
    assert_eq!(install(&place.settings(), &manager, "managed").await.unwrap(), installed, "again");
    let table = "create table notes (note text); select * from pgward.protect('notes', add_column => true); \
        grant select, insert on notes to managed_app";
    manager.batch_execute(table).await.unwrap();
    let stage = place.stage().await;
    let (acme, globex) = (stage.connect("acme").await, stage.connect("globex").await);
    acme.batch_execute("insert into notes values ('acme writes')").await.unwrap();
    assert_eq!(one(&acme, "select string_agg(note, ' ') from notes").await, "acme writes");
    assert_eq!(one(&globex, "select count(*) from notes").await, "0");
    assert_eq!(one(&manager, "select count(*) from notes").await, "0", "the owner is bound as well");
    let own = stage.try_connect(&stage.url("managed_own", "app")).await.unwrap();
    own.batch_execute("create table mine (a int)").await.unwrap();
    uninstalled_only_when_unused(&manager, "notes").await;
}

async fn uninstalled_only_when_unused(client: &Client, table: &str) {
    let error = uninstall(client).await.unwrap_err();
    assert_eq!(sqlstate(&error), "2BP01");
    assert!(error.to_string().contains(table) && error.to_string().contains("pgward.unprotect"), "{error}");
    client.batch_execute(&format!("select pgward.unprotect('{table}')")).await.unwrap();
    for _ in 0..2 {
        uninstall(client).await.unwrap();
    }
    assert_eq!(one(client, "select to_regnamespace('pgward') is null").await, "t");
}

#[tokio::test]
async fn uninstalling_gives_back_what_was_taken() {
    let place = Place::new("returned").await;
    let admin = place.admin().await;
    let rights = "select string_agg(p::text || ' ' || has_function_privilege('public', p, 'execute'), ' ' order by p::text) \
        from unnest('{pg_cancel_backend(integer),pg_terminate_backend(integer\\,bigint),pg_stat_get_activity(integer),lo_unlink(oid)}'::regprocedure[]) p";
    let before = one(&admin, rights).await;
    assert!(!before.contains("false"), "{before}");
    place.install().await;
    let taken = one(&admin, rights).await;
    assert!(!taken.contains("true"), "{taken}");
    admin.batch_execute("create table kept (a int); select pgward.protect('kept', add_column => true)").await.unwrap();
    uninstalled_only_when_unused(&admin, "kept").await;
    assert_eq!(one(&admin, rights).await, before);
    // Row security stays on: nobody sees the rows until somebody decides so.
    assert_eq!(one(&admin, "select relrowsecurity from pg_class where relname = 'kept'").await, "t");
    assert_eq!(one(&admin, "select count(*) from pg_event_trigger").await, "0");
}

#[tokio::test]
async fn the_script_does_the_same_and_can_be_shown_without_its_secrets() {
    let place = Place::new("scripted").await;
    let (settings, name) = (place.settings(), ClusterName::parse("main").unwrap());
    let installation = Installation::new(&settings, &name, place.name);
    let public = installation.script(false).unwrap();
    assert!(public.contains("create or replace function pgward.tenant()") && public.contains("left out, it is secret"));
    assert!(
        !public.contains("SCRAM-SHA-256$4096")
            && !public.contains("into pgward.keys (kid, inner_block, outer_block) values (E")
    );
    let admin = place.admin().await;
    admin.batch_execute(&installation.script(true).unwrap()).await.unwrap();
    let stage = place.stage().await;
    assert_eq!(one(&stage.connect("acme").await, "select pgward.tenant()").await, "acme");
}
