//! What is compared: one PostgreSQL, pgward and PgBouncer in front of it, and the way straight to it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use pgward::base::ClusterName;
use pgward::config;
use pgward::local::{Cluster, Host};

use super::lean::Lean;
use super::mock::Mock;
use super::peers::{Bouncer, Peer};
use super::setup::Setup;
use super::spawned::Spawned;

pub const POOL: usize = 20;
pub const TENANTS: usize = 1_000;
/// Of pgbench: 100,000 accounts each.
const SCALE: &str = "5";
pub const PASSWORD: &str = "plain-for-both-sides";

/// The login that comes without pgward.
pub const PLAIN: &str = "plain";

pub struct Stage {
    pub pgward: Spawned,
    pub pgbouncer: Peer,
    /// One that leaves nothing of a transaction to the next.
    resetting: Peer,
    pub postgresql: SocketAddr,
    cluster: Cluster,
}

/// A way to the data.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    pub user: String,
    pub password: String,
    pub database: &'static str,
    /// The proxy's process; none on the way straight to the server.
    pub pid: Option<u32>,
}

impl Target {
    pub fn connect(&self) -> io::Result<Lean> {
        Lean::connect(self.address, &self.user, self.database, &self.password)
    }
}

impl Stage {
    pub async fn start(cores: Option<usize>) -> Self {
        let cluster = Cluster::builder("bench")
            .setting("max_connections", "200")
            .setting("shared_buffers", "256MB")
            .setting("jit", "off")
            .setting("max_wal_size", "2GB")
            .start()
            .await
            .unwrap();
        let server = cluster.primary();
        server.run("postgres", "create the database", "create database app").await.unwrap();
        let setup = Setup::new(server.port(), cores);
        let text = setup.text();
        let settings = config::parse(&text, Path::new(".")).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let client = server.connect("app").await.unwrap();
        let name = ClusterName::parse("main").unwrap();
        pgward::tenant::Installation::new(&settings, &name, "app").run(&client).await.unwrap();
        let initialised = Command::new("pgbench")
            .args(["-i", "-q", "-s", SCALE, &server.url_of("app")])
            .output()
            .unwrap_or_else(|error| panic!("pgbench: {error}"));
        assert!(initialised.status.success(), "{}", String::from_utf8_lossy(&initialised.stderr));
        client.batch_execute(&data()).await.unwrap();
        let pgward = setup.start();
        let pgbouncer = Peer::pgbouncer(&Bouncer::new(server.port()));
        let resetting = Peer::pgbouncer(&Bouncer { resets: true, ..Bouncer::new(server.port()) });
        let postgresql = SocketAddr::from(([127, 0, 0, 1], server.port()));
        Self { pgward, pgbouncer, resetting, postgresql, cluster }
    }

    pub fn direct(&self) -> Target {
        plain("direct", self.postgresql, None)
    }

    pub fn bouncer(&self) -> Target {
        plain("pgbouncer", self.pgbouncer.address, Some(self.pgbouncer.pid))
    }

    pub fn resetting_bouncer(&self) -> Target {
        plain("pgbouncer", self.resetting.address, Some(self.resetting.pid))
    }

    pub fn tenant(&self, name: &'static str, tenant: &str) -> Target {
        self::tenant(&self.pgward, name, tenant)
    }

    pub fn server_port(&self) -> u16 {
        self.cluster.primary().port()
    }
}

pub fn plain(name: &'static str, address: SocketAddr, pid: Option<u32>) -> Target {
    Target { name, address, user: PLAIN.to_owned(), password: PASSWORD.to_owned(), database: "app", pid }
}

/// What figures depend on.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let version = |command: &mut Command| {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
    };
    format!(
        "{} CPUs, {}; {}; {}; {}; pgward {}; pools of {POOL} backends",
        std::thread::available_parallelism().map_or(0, usize::from),
        model.trim_matches([' ', '\t', ':']),
        version(Command::new(Host::find().unwrap().binary("postgres")).arg("--version")),
        version(Command::new("pgbouncer").arg("--version")),
        version(Command::new("haproxy").arg("-v")),
        env!("CARGO_PKG_VERSION"),
    )
}

pub fn tenant(pgward: &Spawned, name: &'static str, tenant: &str) -> Target {
    Target {
        name,
        address: pgward.address,
        user: tenant.to_owned(),
        password: pgward.token(tenant),
        database: "app",
        pid: Some(pgward.pid),
    }
}

/// A tenant's reads, once the replica serves them.
pub fn reading(pgward: &Spawned, replica: &Mock) -> Target {
    let target = tenant(pgward, "pgward, replica", "t1");
    let mut client = target.connect().unwrap();
    let once = super::lean::message(b'Q', b"select abalance\0");
    while !replica.has_served() {
        assert_eq!(client.run(&once).unwrap().errors, 0);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    target
}

/// pgbench's tables as all read them, a copy in the schema of `own`, and shared tables with row security:
/// `sealed` asks pgward.tenant(), `plain` a setting, which is the customary way.
fn data() -> String {
    format!(
        "create role {PLAIN} login password '{PASSWORD}';
        grant select, insert, update, delete on all tables in schema public to {PLAIN}, pgward_app;
        create table own.pgbench_accounts (like public.pgbench_accounts including all);
        create table own.pgbench_branches (like public.pgbench_branches including all);
        insert into own.pgbench_accounts select * from public.pgbench_accounts;
        insert into own.pgbench_branches select * from public.pgbench_branches;
        grant select on all tables in schema own to own;
        create table sealed (tenant_id text, id int, value int, primary key (tenant_id, id));
        create table plain (like sealed including all);
        create table bare (like sealed including all);
        insert into sealed select 't' || t, i, i from generate_series(0, {TENANTS} - 1) t, generate_series(1, 100) i;
        insert into plain select * from sealed;
        insert into bare select * from sealed;
        alter table sealed enable row level security;
        alter table plain enable row level security;
        create policy own_rows on sealed using (tenant_id = (select pgward.tenant()));
        create policy own_rows on plain using (tenant_id = (select current_setting('app.tenant_id', true)));
        grant select, update on sealed, plain, bare to pgward_app;
        grant select on plain to {PLAIN};
        analyze"
    )
}
