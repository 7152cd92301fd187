//! What is compared: one PostgreSQL, pgward and PgBouncer in front of it, and the way straight to it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgward::base::ClusterName;
use pgward::cli::demo::cluster::{Cluster, Host, free_port};
use pgward::config;

use super::spawned::Spawned;

pub const POOL: usize = 20;
pub const TENANTS: usize = 1_000;
/// Of pgbench: 100,000 accounts each.
const SCALE: &str = "5";
const PASSWORD: &str = "plain-for-both-sides";

/// The login that comes without pgward.
pub const PLAIN: &str = "plain";

pub struct Stage {
    pub pgward: Spawned,
    pub pgbouncer: PgBouncer,
    pub postgresql: SocketAddr,
    version: String,
    cluster: Cluster,
}

/// A way to the data.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    pub user: String,
    pub password: String,
    /// The proxy's process; none on the way straight to the server.
    pub pid: Option<u32>,
}

pub struct PgBouncer {
    pub address: SocketAddr,
    pub pid: u32,
    child: Child,
    folder: PathBuf,
}

impl Stage {
    pub async fn start() -> Self {
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
        let text = configuration(server.port());
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
        let version = client.query_one("show server_version", &[]).await.unwrap().get(0);
        let pgward = Spawned::start(Path::new(env!("CARGO_BIN_EXE_pgward")), &[], &text);
        let pgbouncer = PgBouncer::start(server.port(), "scram-sha-256");
        let postgresql = SocketAddr::from(([127, 0, 0, 1], server.port()));
        Self { pgward, pgbouncer, postgresql, version, cluster }
    }

    /// What figures depend on.
    pub fn machine(&self) -> String {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let bouncer = Command::new("pgbouncer").arg("--version").output().unwrap();
        let bouncer = String::from_utf8_lossy(&bouncer.stdout).lines().next().unwrap_or_default().to_owned();
        format!(
            "{} CPUs, {}; PostgreSQL {}; pgward {}; {bouncer}; pools of {POOL} backends",
            std::thread::available_parallelism().map_or(0, usize::from),
            model.trim_matches([' ', '\t', ':']),
            self.version,
            env!("CARGO_PKG_VERSION"),
        )
    }

    pub fn direct(&self) -> Target {
        self.plain("direct", self.postgresql, None)
    }

    pub fn bouncer(&self) -> Target {
        self.plain("pgbouncer", self.pgbouncer.address, Some(self.pgbouncer.pid))
    }

    fn plain(&self, name: &'static str, address: SocketAddr, pid: Option<u32>) -> Target {
        Target { name, address, user: PLAIN.to_owned(), password: PASSWORD.to_owned(), pid }
    }

    pub fn tenant(&self, name: &'static str, tenant: &str) -> Target {
        self::tenant(&self.pgward, name, tenant)
    }

    /// A second pgward on the same server.
    pub fn another(&self) -> Spawned {
        Spawned::start(Path::new(env!("CARGO_BIN_EXE_pgward")), &[], &configuration(self.server_port()))
    }

    pub fn server_port(&self) -> u16 {
        self.cluster.primary().port()
    }
}

pub fn tenant(pgward: &Spawned, name: &'static str, tenant: &str) -> Target {
    Target {
        name,
        address: pgward.address,
        user: tenant.to_owned(),
        password: pgward.token(tenant),
        pid: Some(pgward.pid),
    }
}

fn configuration(port: u16) -> String {
    let tenants: String = (0..TENANTS)
        .map(|i| format!("[tenants.t{i}]\ncluster = \"main\"\ndatabase = \"app\"\nhome = \"lk\"\n"))
        .collect();
    format!(
        "master_key = \"0123456789abcdef0123456789abcdef\"
listen = {{ address = \"127.0.0.1:0\", drain_timeout = \"1s\" }}
context.keys.k1 = \"fedcba9876543210fedcba9876543210\"
pool.max_per_login = {POOL}
limits.max_clients = 20000

[[issuers]]
issuer = \"bench\"
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

[tenants.own]
isolation = \"schema\"
cluster = \"main\"
database = \"app\"
home = \"lk\"
{tenants}"
    )
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

impl PgBouncer {
    /// As PostgreSQL's user, since it does not run as root.
    pub fn start(server: u16, auth: &str) -> Self {
        let host = Host::find().unwrap();
        let folder = host.folder(None, "bouncer").unwrap();
        let port = free_port().unwrap();
        let users = folder.join("users.txt");
        let config = folder.join("pgbouncer.ini");
        let log = folder.join("pgbouncer.log");
        let text = format!(
            "[databases]\napp = host=127.0.0.1 port={server} dbname=app\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = {auth}\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = {POOL}\n\
             max_client_conn = 15000\nlog_connections = 0\nlog_disconnections = 0\nlogfile = {}\n",
            users.display(),
            log.display()
        );
        for (path, text) in [(&config, text), (&users, format!("\"{PLAIN}\" \"{PASSWORD}\"\n"))] {
            fs::write(path, text).unwrap();
            host.own(path).unwrap();
        }
        let mut command = host.command("pgbouncer");
        command.arg("-q").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("pgbouncer: {error}"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            let patient = child.try_wait().unwrap().is_none() && begin.elapsed() < Duration::from_secs(10);
            assert!(patient, "pgbouncer: {}", fs::read_to_string(&log).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(20));
        }
        // setpriv becomes what it starts, so the process is the same.
        Self { address, pid: child.id(), child, folder }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// CPU time that a process has used so far, all threads, user and system, in microseconds.
pub fn cpu_micros(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    // USER_HZ, in which Linux tells times to programs, is 100 whatever the kernel's own clock is.
    ticks as f64 * 1e6 / 100.0
}
