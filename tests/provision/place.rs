//! A folder with a configuration, and what is done there by `pgward tenant`.

#![allow(dead_code, reason = "each test binary uses its own part of the place")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pgward::base::{Access, TenantId};
use pgward::local::{Cluster, Server};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls};

use crate::support::{self, HEAD, Stage, cluster, unix_now, until};

/// A folder with a configuration and a tenants file, and a shared database with a tenant in it that watches.
pub struct Place {
    folder: tempfile::TempDir,
    server: &'static Server,
    pub name: &'static str,
    pub url: String,
}

/// What the tenants file begins with; its comments must outlive everything.
pub const TENANTS: &str = "# All of our tenants.\n\n# Watches.\n[tenants.witness]  # no harm to it\n\
    cluster = \"main\"\ndatabase = \"DATABASE\"\nhome = \"lk\"\n\n# The end.\n";

impl Place {
    pub async fn new(name: &'static str) -> Self {
        Self::with(name, "").await
    }

    /// `extra` goes behind the configuration, before which come its servers, logins and issuer.
    pub async fn with(name: &'static str, extra: &str) -> Self {
        Self::on(cluster().await.primary(), name, extra).await
    }

    /// On a server of the caller's, whose data folder is known to the configuration.
    pub async fn on(server: &'static Server, name: &'static str, extra: &str) -> Self {
        server.run("postgres", "create the database", &format!("create database {name}")).await.unwrap();
        let text = support::configuration(server.port(), "");
        let (text, _) = text.split_once("[tenants.kandy]").unwrap();
        let text = text
            .replace("pgward_", &format!("{name}_"))
            .replace("[clusters.main]\n", &format!("[clusters.main]\nservice = \"{name}_service\"\n"))
            .replace("max_backends = 60", &format!("max_backends = 60\ndata_directory = {:?}", server.data()));
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        write("pgward.toml", &format!("tenants_file = \"tenants.toml\"\n{HEAD}{text}{extra}"));
        write("tenants.toml", &TENANTS.replace("DATABASE", name));
        let place = Self { folder, server, name, url: server.url() };
        place.install().await;
        place
    }

    /// What tenants share, with a table and rows of the witness in it.
    async fn install(&self) {
        let settings = pgward::config::load(&self.path("pgward.toml")).unwrap_or_else(|found| panic!("{found:#?}"));
        let main = pgward::base::ClusterName::parse("main").unwrap();
        let admin = self.admin().await;
        pgward::tenant::Installation::new(&settings, &main, self.name).run(&admin).await.unwrap();
        let orders =
            support::ORDERS.split_once("insert into").unwrap().0.replace("pgward_", &format!("{}_", self.name));
        admin.batch_execute(&orders).await.unwrap();
        let rows = "insert into orders (item, tenant_id) select 'seen ' || n, 'witness' from generate_series(1, 3) n";
        admin.batch_execute(rows).await.unwrap();
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap()
    }

    /// A folder of SQL files.
    pub fn template(&self, name: &str, files: &[(&str, &str)]) -> String {
        let folder = self.path(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        files.iter().for_each(|(file, sql)| std::fs::write(folder.join(file), sql).unwrap());
        folder.to_str().unwrap().to_owned()
    }

    pub async fn admin(&self) -> Client {
        self.admin_of(self.name).await
    }

    pub async fn admin_of(&self, database: &str) -> Client {
        self.server.connect(database).await.unwrap()
    }

    pub async fn stage(&self) -> Stage {
        Stage::at(self.path("pgward.toml")).await
    }

    /// `pgward tenant ...` in words, `{name}` being the place's.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
        command.arg("tenant").args(line.split_whitespace().map(|word| word.replace("{name}", self.name)));
        command.env("PGWARD_CONFIG", self.path("pgward.toml")).env("PGWARD_INSTALL_URL", &self.url);
        command.stdin(Stdio::null());
        command
    }

    pub async fn run(&self, line: &str) -> Output {
        output(self.command(line)).await
    }

    /// What it says on standard output.
    pub async fn done(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(output.status.success(), "{line}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it fails.
    pub async fn fails(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert_eq!(output.status.code(), Some(1), "{line}: {}", said(&output));
        said(&output)
    }
}

pub async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A session, and how it ends.
pub struct Session {
    pub client: Client,
    pub end: JoinHandle<Result<(), Error>>,
}

pub async fn login(stage: &Stage, tenant: &str, access: &str) -> Result<Session, Error> {
    let (id, role) = (TenantId::parse(tenant).unwrap(), Access::parse(access).unwrap());
    let ttl = std::time::Duration::from_secs(3600);
    let token =
        pgward::auth::mint(&stage.settings.issuers[0], &id, &role, ttl, &serde_json::Map::new(), unix_now()).unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(stage.address.port()).user(access).dbname(tenant).password(token);
    let (client, connection) = config.connect(NoTls).await?;
    Ok(Session { client, end: tokio::spawn(connection) })
}

/// Logs in as soon as the proxy has taken the tenants file over.
pub async fn session(stage: &Stage, tenant: &str) -> Session {
    let session = std::cell::Cell::new(None);
    until("a login", async || {
        let found = login(stage, tenant, "app").await.ok();
        let there = found.is_some();
        session.set(found);
        there
    })
    .await;
    session.take().unwrap()
}

/// The error that ends a session.
pub async fn ended(session: Session) -> (String, String) {
    let end = tokio::time::timeout(std::time::Duration::from_secs(20), session.end).await;
    let error = end.expect("the session to end").unwrap().expect_err("an error");
    let error = error.as_db_error().expect("words of pgward's");
    (error.code().code().to_owned(), error.message().to_owned())
}

pub fn refusal(error: &Error) -> String {
    error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_else(|| error.to_string())
}

/// A second cluster, which is one tenant's alone.
pub async fn own_cluster(name: &str) -> Cluster {
    Cluster::builder(name).start().await.unwrap()
}

/// The table of another cluster's servers.
pub fn also(name: &str, server: &Server) -> String {
    format!(
        "[clusters.{name}]\ntls.mode = \"off\"\n[[clusters.{name}.servers]]\nname = \"{name}-1\"\n\
         host = \"127.0.0.1\"\nport = {}\nregion = \"lk\"\n",
        server.port()
    )
}

pub fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}

/// Runs a command again and again, killing it later each time (in ms), until it comes to its end.
pub async fn kill_until_done(
    place: &Place,
    line: &str,
    waits: impl Iterator<Item = u64>,
    done: impl Fn(&Place) -> bool,
) -> usize {
    let mut kills = 0;
    for wait in waits {
        let mut child = place.command(line).spawn().unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
        // SIGKILL. It may have come to its end by itself.
        let _ = child.kill();
        let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        if status.success() || done(place) {
            return kills;
        }
        assert_eq!(status.code(), None, "{line} failed by itself after {wait} ms");
        kills += 1;
        assert!(kills < 400, "{line} does not end");
    }
    kills
}
