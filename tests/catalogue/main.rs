//! Several pgwards whose tenants stand in one table: commands that change it, nodes that follow it, and whatever may be
//! wrong with the table, its server and what stands there.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/log.rs"]
mod log;

mod failures;
mod garbage;
mod nodes;
mod writers;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pgward::auth::mint;
use pgward::base::{Access, TenantId};
use pgward::local::{Cluster, Server};
use support::{HEAD, LONG, Stage, cluster, unix_now, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls};

/// By a rename: whoever was started by the same file before may be reading it.
pub fn rewrite(path: &Path, text: &str) {
    let mut next = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    next.write_all(text.as_bytes()).unwrap();
    next.persist(path).unwrap();
}

/// A database for tenants on the binary's cluster, one for the catalogue, and a folder for each node's configuration.
pub struct Place {
    folder: tempfile::TempDir,
    pub name: &'static str,
    /// To the tenants' cluster, and to the catalogue's.
    urls: [String; 2],
    /// To the catalogue's database, as its owner.
    owner: String,
    pub text: String,
}

impl Place {
    /// The catalogue stands on the tenants' cluster, in a database of its own.
    pub async fn new(name: &'static str) -> Self {
        let server = cluster().await.primary();
        let database = format!("{name}_catalogue");
        create(server, &database).await;
        let place = Self::with(name, "main", &database, server, "").await;
        place.installed().await
    }

    /// It stands on a cluster of its own.
    pub async fn beside(name: &'static str, control: &Cluster) -> Self {
        Self::near(name, control).await.installed().await
    }

    /// The same, and nothing is installed.
    pub async fn near(name: &'static str, control: &Cluster) -> Self {
        let server = control.primary();
        create(server, "control").await;
        let also = format!(
            "[clusters.control]\ntls.mode = \"off\"\n[[clusters.control.servers]]\nname = \"control-1\"\n\
             host = \"127.0.0.1\"\nport = {}\nregion = \"in\"\n",
            server.port()
        );
        Self::with(name, "control", "control", server, &also).await
    }

    /// Nothing is installed. Nobody asks the table by itself in the time that a test takes.
    pub async fn with(name: &'static str, of: &'static str, database: &str, catalogue: &Server, also: &str) -> Self {
        let server = cluster().await.primary();
        create(server, name).await;
        let text = support::configuration(server.port(), "");
        let (text, _) = text.split_once("[tenants.kandy]").unwrap();
        let text = text.replace("pgward_", &format!("{name}_"));
        let text = text.replace("[clusters.main]\n", &format!("[clusters.main]\nservice = \"{name}_service\"\n"));
        let text = format!(
            "{HEAD}http.address = \"127.0.0.1:0\"\n{text}{also}\n[audit]\nfile = \"audit.jsonl\"\n\
             [catalogue]\ncluster = \"{of}\"\ndatabase = \"{database}\"\nlogin = \"{name}_reader\"\npoll = \"1h\"\n"
        );
        let folder = tempfile::tempdir().unwrap();
        let owner = catalogue.url_of(database);
        Self { folder, name, urls: [server.url(), catalogue.url()], owner, text }
    }

    pub async fn installed(self) -> Self {
        self.done("catalogue install").await;
        self
    }

    /// The configuration of the node of this number, in a folder of its own.
    pub fn config(&self, node: usize) -> PathBuf {
        self.config_with(node, "cache = \"catalogue.json\"\n")
    }

    /// `more`: at the end of `[catalogue]`.
    pub fn config_with(&self, node: usize, more: &str) -> PathBuf {
        let folder = self.folder.path().join(node.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("pgward.toml");
        rewrite(&path, &format!("{}{more}", self.text));
        path
    }

    pub async fn node(&self, node: usize) -> Stage {
        Stage::at(self.config(node)).await
    }

    /// `pgward ...` in words, `{name}` being the place's, by the configuration of node 0.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
        command.args(line.split_whitespace().map(|word| word.replace("{name}", self.name)));
        let [tenants, catalogue] = &self.urls;
        command.env("PGWARD_CONFIG", self.config(0)).env("PGWARD_INSTALL_URL", tenants);
        if tenants != catalogue {
            command.env("PGWARD_CATALOGUE_URL", catalogue);
        }
        command.stdin(Stdio::null());
        command
    }

    pub async fn run(&self, line: &str) -> Output {
        output(self.command(line)).await
    }

    pub async fn done(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(output.status.success(), "{line}: {}", said(&output));
        said(&output)
    }

    pub async fn fails(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert_eq!(output.status.code(), Some(1), "{line}: {}", said(&output));
        said(&output)
    }

    /// Adds a tenant with a schema of its own in the place's database.
    pub async fn add(&self, tenant: &str) {
        self.done(&format!("tenant add {tenant} --isolation schema --cluster main --database {{name}} --home lk"))
            .await;
    }

    /// The owner of the catalogue, in its database.
    pub async fn owner(&self) -> Client {
        support::connect(&self.owner).await.unwrap()
    }

    /// What a tenant's row would be that nobody can log in to, since nothing of it is installed.
    pub fn definition(&self) -> String {
        format!("isolation = \"schema\"\ncluster = \"main\"\ndatabase = \"{}\"\nhome = \"lk\"\n", self.name)
    }
}

async fn create(server: &Server, database: &str) {
    server.run("postgres", "create the database", &format!("create database {database}")).await.unwrap();
}

/// By hand, as somebody with psql would.
pub async fn put(owner: &Client, name: &str, definition: &str) -> Result<u64, Error> {
    let put = "insert into pgward_catalogue.tenants (name, definition) values ($1, $2) \
        on conflict (name) do update set definition = excluded.definition";
    owner.execute(put, &[&name, &definition]).await
}

pub async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn knows(node: &Stage, tenant: &str) -> bool {
    node.control.shared.world.load().settings.tenants.contains_key(tenant)
}

pub async fn until_known(node: &Stage, tenant: &str) {
    until(&format!("tenant {tenant} at a node"), async || knows(node, tenant)).await;
}

/// One of the gauges as it is scraped.
pub async fn gauge(node: &Stage, name: &str) -> f64 {
    let text = get(node, "/metrics").await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once("} ")?.1.parse().ok());
    value.unwrap_or_else(|| panic!("there is no {name} in\n{text}"))
}

pub async fn get(node: &Stage, path: &str) -> String {
    let mut http = tokio::net::TcpStream::connect(node.http.unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    http.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A session, and how it ends.
pub struct Session {
    pub client: Client,
    pub end: JoinHandle<Result<(), Error>>,
}

impl Session {
    pub async fn ended(self) -> (String, String) {
        let end = tokio::time::timeout(LONG, self.end).await.expect("the session to end").unwrap();
        let error = end.expect_err("an error");
        let error = error.as_db_error().expect("words of pgward's");
        (error.code().code().to_owned(), error.message().to_owned())
    }
}

pub async fn login(node: &Stage, tenant: &str) -> Result<Session, Error> {
    let (id, role) = (TenantId::parse(tenant).unwrap(), Access::parse("app").unwrap());
    let (ttl, none) = (Duration::from_secs(3600), serde_json::Map::new());
    let token = mint(&node.settings.issuers[0], &id, &role, ttl, &none, unix_now()).unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(node.address.port()).user("app").dbname(tenant).password(token);
    let (client, connection) = config.connect(NoTls).await?;
    Ok(Session { client, end: tokio::spawn(connection) })
}
