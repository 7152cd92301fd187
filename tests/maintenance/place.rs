//! A database with a partitioned table that tenants share, and a tenant with one of its own.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use pgward::base::ClusterName;
use pgward::config::{self, Settings};
use pgward::sidecar::maintenance::{Answer, InForce, Pass, Turn, Verdict};
use tokio_postgres::Client;

use crate::support::{HEAD, Stage, cluster, one, until};

/// Roles are the whole server's, so that each place has its own.
pub struct Place {
    pub name: &'static str,
    folder: tempfile::TempDir,
    pub url: String,
}

/// Classes, and tenants `a` (bronze), `b` (gold), `c` (of no class), and `NAME_kandy` with a schema of its own.
const TENANTS: &str = r#"
[classes.bronze]
retention = "7d"
[classes.gold]
retention = "30d"
[tenants.a]
class = "bronze"
PLACE
[tenants.b]
class = "gold"
PLACE
[tenants.c]
PLACE
[tenants.NAME_kandy]
isolation = "schema"
class = "bronze"
PLACE
"#;

const SHARED: &str = "
    create role NAME_owner;
    create table events (
        id bigint generated always as identity,
        at timestamptz not null,
        body text,
        double text generated always as (body || body) stored,
        tenant_id text not null default pgward.tenant(),
        primary key (tenant_id, id, at)
    ) partition by range (at);
    alter table events owner to NAME_owner;
    alter table events enable row level security;
    alter table events force row level security;
    create policy own_rows on events for all
        using (tenant_id = (select pgward.tenant())) with check (tenant_id = (select pgward.tenant()));
    grant select, insert, update, delete on events to NAME_app;
    set role NAME_kandy;
    create table NAME_kandy.log (at timestamptz not null, body text) partition by range (at);
    reset role";

impl Place {
    /// Set up, with every table's first partitions made.
    pub async fn new(name: &'static str) -> Self {
        let place = Self::bare(name).await;
        place.done("setup").await;
        place.kept().await;
        place
    }

    /// With the tables, and without pg_partman.
    pub async fn bare(name: &'static str) -> Self {
        let server = cluster().await.primary();
        server.run("postgres", "create the database", &format!("create database {name}")).await.unwrap();
        let place = Self { name, folder: tempfile::tempdir().unwrap(), url: server.url() };
        place.write(&place.text(""));
        let main = ClusterName::parse("main").unwrap();
        let admin = place.admin().await;
        pgward::tenant::Installation::new(&place.settings(), &main, name).run(&admin).await.unwrap();
        admin.batch_execute(&SHARED.replace("NAME", name)).await.unwrap();
        place
    }

    /// `head` goes in front.
    pub fn text(&self, head: &str) -> String {
        let (name, port) = (self.name, self.url.rsplit(':').next().unwrap().split('/').next().unwrap());
        let tenants = TENANTS.replace("PLACE", "cluster = \"main\"\ndatabase = \"NAME\"\nhome = \"lk\"");
        format!(
            r#"{HEAD}{head}
[[issuers]]
issuer = "tests"
audience = "pgward"
algorithms = ["HS256"]
secret = "0123456789abcdef0123456789abcdef"
signing = {{ algorithm = "HS256", key = "0123456789abcdef0123456789abcdef" }}
[clusters.main]
service = "NAME_service"
maintenance = "NAME_maintenance"
logins = {{ app = "NAME_app" }}
tls.mode = "off"
servers = [{{ name = "main-1", host = "127.0.0.1", port = {port}, region = "lk" }}]
[clusters.main.partitions.events]
database = "NAME"
table = "public.events"
column = "at"
retention = "14d"
[clusters.main.partitions.log]
table = "*.log"
column = "at"
premake = 2
{tenants}"#
        )
        .replace("NAME", name)
    }

    pub fn write(&self, text: &str) {
        std::fs::write(self.folder.path().join("pgward.toml"), text).unwrap();
    }

    /// The same configuration but for this.
    pub fn change(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path()).unwrap();
        assert!(text.contains(from), "{text}");
        self.write(&text.replace(from, to));
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("pgward.toml")
    }

    pub fn settings(&self) -> Settings {
        config::load(&self.path()).unwrap_or_else(|problems| panic!("{problems:#?}"))
    }

    /// A pgward that keeps the tables by itself.
    pub async fn keeping(&self) -> Stage {
        Stage::at(self.path()).await
    }

    /// One that only serves clients.
    pub async fn serving(&self) -> Stage {
        let text = std::fs::read_to_string(self.path()).unwrap();
        let (before, after) = text.split_once("[clusters.main.partitions.events]").unwrap();
        let (_, after) = after.split_once("[classes.bronze]").unwrap();
        let path = self.path().with_file_name("serving.toml");
        std::fs::write(&path, format!("{before}[classes.bronze]{after}")).unwrap();
        Stage::at(path).await
    }

    /// A superuser's connection.
    pub async fn admin(&self) -> Client {
        let client = cluster().await.primary().connect(self.name).await.unwrap();
        client.batch_execute("set timezone to 'UTC'").await.unwrap();
        client
    }

    pub async fn one(&self, sql: &str) -> String {
        one(&self.admin().await, sql).await
    }

    /// Every table's turn, in this process.
    pub async fn turns(&self) -> Vec<Turn> {
        self.turns_by(self).await
    }

    /// The same, with what is in force in the course of it.
    pub async fn turns_by(&self, in_force: &dyn InForce) -> Vec<Turn> {
        let (settings, main) = (self.settings(), ClusterName::parse("main").unwrap());
        Pass::new(&settings, &main).unwrap().disposing_by(in_force).run().await
    }

    pub async fn kept(&self) -> Vec<Turn> {
        let turns = self.turns().await;
        assert!(turns.iter().all(|turn| turn.verdict == Verdict::Done), "{turns:#?}");
        turns
    }

    /// The turn of one name of the configuration.
    pub async fn turn(&self, label: &str) -> Turn {
        let turns = self.turns().await;
        turns.into_iter().find(|turn| turn.label.as_str() == label).unwrap()
    }

    /// A partition of `events` for the day that was so many days ago, as pg_partman would have made it then.
    pub async fn day(&self, ago: u32) {
        let (name, admin) = (self.name, self.admin().await);
        let sql = format!(
            "set role {name}_maintenance;
             select partman.create_partition_time('public.events', array[date_trunc('day', now() - interval '{ago} days')])"
        );
        admin.batch_execute(&sql).await.unwrap();
    }

    /// A row of each of these tenants at noon of the day that was so many days ago.
    pub async fn rows(&self, ago: u32, tenants: &[&str]) {
        let admin = self.admin().await;
        for tenant in tenants {
            let sql = format!(
                "insert into events (at, body, tenant_id)
                 values (date_trunc('day', now() - interval '{ago} days') + interval '12 hours', 'x', '{tenant}')"
            );
            admin.batch_execute(&sql).await.unwrap();
        }
    }

    /// Whose rows there are of that day.
    pub async fn left(&self, ago: u32) -> String {
        self.one(&format!(
            "select coalesce(string_agg(tenant_id, ' ' order by tenant_id), '') from events
             where at::date = (now() - interval '{ago} days')::date"
        ))
        .await
    }

    /// The partition that has a tenant's rows of that day.
    pub async fn partition_of(&self, tenant: &str, ago: u32) -> String {
        self.one(&format!(
            "select distinct tableoid::regclass from events
             where tenant_id = '{tenant}' and at::date = (now() - interval '{ago} days')::date"
        ))
        .await
    }

    /// Until somebody waits for a lock on the table.
    pub async fn until_waited_for(&self, admin: &Client, table: &str) {
        let waits = format!("select count(*) > 0 from pg_locks where not granted and relation = '{table}'::regclass");
        until("somebody waits for the table", async || one(admin, &waits).await == "t").await;
    }

    pub async fn partitions(&self) -> u64 {
        self.one("select count(*) from pg_inherits where inhparent = 'events'::regclass").await.parse().unwrap()
    }

    /// `pgward maintenance ...`.
    pub async fn command(&self, line: &str) -> Output {
        self.pgward(&format!("maintenance {line}")).await
    }

    pub async fn pgward(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
        command.args(line.split_whitespace()).stdin(Stdio::null());
        command.env("PGWARD_CONFIG", self.path()).env("PGWARD_INSTALL_URL", &self.url);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    pub async fn done(&self, line: &str) -> String {
        let output = self.command(line).await;
        assert!(output.status.success(), "{line}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub async fn fails(&self, line: &str) -> String {
        let output = self.command(line).await;
        assert_eq!(output.status.code(), Some(1), "{line}: {}", said(&output));
        said(&output)
    }
}

/// By its file.
impl InForce for Place {
    fn now(&self) -> Answer<'_> {
        Box::pin(std::future::ready(config::load(&self.path()).ok().map(Arc::new)))
    }
}

pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The word for a turn's failure.
pub fn word(turn: &Turn) -> &str {
    match &turn.verdict {
        Verdict::Failed { word, .. } => word,
        other => panic!("{other:?}"),
    }
}
