//! Where the checks run: one cluster for all drivers, with tenants of each driver's own.

use std::collections::BTreeMap;

use pgward::base::{ClusterName, Secret};
use pgward::config::{Login, LoginPassword};
use pgward::local::Cluster;
use pgward::tenant::login_password;
use tokio::sync::OnceCell;

use crate::support::{HEAD, Stage, parse};

/// Every name that [`crate::judge::judge`] is called with.
pub const DRIVERS: [&str; 7] =
    ["psycopg", "psycopg_async", "asyncpg", "node_postgres", "tokio_postgres", "sqlx", "tools"];

/// Fewer than the checks have clients.
pub const BACKENDS: usize = 3;

/// In every place the same tables, so that the checks need not know where they are.
const ITEMS: &str = "id int, name text, price numeric";
const NOTES: &str = "topic text, id int, value text";

/// Where a driver's checks connect. What a user reads in `tenant_id` is the user's name.
#[derive(Debug, Clone)]
pub struct Urls {
    /// A tenant at level `rows`.
    pub rows: String,
    /// Another one, in the same tables.
    pub other: String,
    /// A tenant at level `schema`, who may create tables.
    pub schema: String,
    /// How many backends serve all of a login's clients; none without a proxy.
    pub backends: Option<usize>,
}

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

async fn cluster() -> &'static Cluster {
    CLUSTER
        .get_or_init(async || {
            let cluster = Cluster::builder("drivers").setting("max_connections", "200").start().await.unwrap();
            furnish(&cluster).await;
            cluster
        })
        .await
}

async fn furnish(cluster: &Cluster) {
    let server = cluster.primary();
    server.run("postgres", "create the database", "create database app").await.unwrap();
    let client = server.connect("app").await.unwrap();
    let settings = parse(&configuration(server.port(), "10s"));
    pgward::tenant::Installation::new(&settings, &main_cluster(), "app").run(&client).await.unwrap();
    let mut sql = String::new();
    for (table, columns) in [("items", ITEMS), ("notes", NOTES)] {
        sql += &format!(
            "create table {table} ({columns}, tenant_id text not null default pgward.tenant());
             alter table {table} enable row level security;
             alter table {table} force row level security;
             create policy own_rows on {table} for all
                using (tenant_id = (select pgward.tenant())) with check (tenant_id = (select pgward.tenant()));
             grant select, insert, update, delete on {table} to pgward_app;"
        );
    }
    let fill = "insert into items (id, name, price, tenant_id) select n, '";
    for driver in DRIVERS {
        for tenant in [format!("{driver}_a"), format!("{driver}_b")] {
            sql += &format!("{fill}{tenant} ' || n, n * 1.25, '{tenant}' from generate_series(1, 100) n;");
        }
        for owner in [format!("{driver}_s"), format!("{driver}_direct_a"), format!("{driver}_direct_b")] {
            sql += &format!("set role {owner}; set search_path = {owner};");
            for (table, columns) in [("items", ITEMS), ("notes", NOTES)] {
                sql += &format!("create table {table} ({columns}, tenant_id text not null default current_user);");
            }
            sql += &format!("{fill}{owner} ' || n, n * 1.25, '{owner}' from generate_series(1, 100) n;");
            // A direct connection has no pgward to set it.
            sql += &format!("reset role; reset search_path; alter role {owner} set search_path = {owner};");
        }
    }
    client.batch_execute(&sql).await.unwrap();
}

fn main_cluster() -> ClusterName {
    ClusterName::parse("main").unwrap()
}

fn configuration(port: u16, patience: &str) -> String {
    let tenant = |id: String, level: &str| {
        format!("[tenants.{id}]\nisolation = \"{level}\"\ncluster = \"main\"\ndatabase = \"app\"\nhome = \"lk\"\n")
    };
    let mut text = format!(
        "{HEAD}
[pool]
max_per_login = {BACKENDS}
acquire_timeout = \"{patience}\"

[[issuers]]
issuer = \"tests\"
audience = \"pgward\"
algorithms = [\"HS256\"]
secret = \"0123456789abcdef0123456789abcdef\"
signing = {{ algorithm = \"HS256\", key = \"0123456789abcdef0123456789abcdef\" }}

[clusters.main]
logins = {{ app = \"pgward_app\" }}
tls.mode = \"off\"
[[clusters.main.servers]]
name = \"main-1\"
host = \"127.0.0.1\"
port = {port}
region = \"lk\"
max_backends = 60
"
    );
    for driver in DRIVERS {
        for (end, level) in
            [("a", "rows"), ("b", "rows"), ("s", "schema"), ("direct_a", "schema"), ("direct_b", "schema")]
        {
            text += &tenant(format!("{driver}_{end}"), level);
        }
    }
    text
}

/// A proxy for one driver, and the way to its tenants. Sessions wait for a backend for so long.
pub async fn proxied(driver: &str, patience: &str) -> (Stage, Urls) {
    assert!(DRIVERS.contains(&driver), "{driver} has no tenants: add it to DRIVERS");
    let stage = Stage::with(&configuration(cluster().await.primary().port(), patience)).await;
    let url = |end: &str| stage.url(&format!("{driver}_{end}"), "app");
    let urls = Urls { rows: url("a"), other: url("b"), schema: url("s"), backends: Some(BACKENDS) };
    (stage, urls)
}

/// The way to PostgreSQL itself, as roles that have the same tables to themselves.
pub async fn direct(driver: &str) -> Urls {
    let port = cluster().await.primary().port();
    let settings = parse(&configuration(port, "10s"));
    let url = |end: &str| {
        let role = format!("{driver}_{end}");
        let login = Login {
            role: role.clone(),
            password: LoginPassword::Derived { epoch: 1 },
            mode: None,
            route: None,
            settings: BTreeMap::new(),
            allow_unsafe: true,
        };
        let password = login_password(settings.master_key.as_ref(), &main_cluster(), &login);
        let password = String::from_utf8(password.as_ref().map(Secret::expose).unwrap().to_vec()).unwrap();
        format!("postgresql://{role}:{password}@127.0.0.1:{port}/app")
    };
    Urls { rows: url("direct_a"), other: url("direct_b"), schema: url("s"), backends: None }
}
