//! The demo from nothing to ready, and back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::KeyPair;

use super::super::failure::Failure;
use super::super::output::{say, warn};
use super::super::token;
use super::data;
use super::folder::DemoFolder;
use super::proxy::{Ports, Proxy};
use crate::base::{Access, ClusterName, TenantId};
use crate::config::{self, Settings};
use crate::local::{Cluster, Host, Server};
use crate::sidecar::backup::{Site, Unseen, archive_setting};
use crate::tenant::{self, Installation};

/// Links to folders that may be outside of the demo's.
pub(super) const LINKS: [&str; 3] = ["colombo", "mumbai", BACKUPS];
const BACKUPS: &str = "backups";
const TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);

const TENANTS: &str = r#"[tenants.acme]
isolation = "rows"
cluster = "colombo"
database = "app"
home = "lk"

[tenants.globex]
isolation = "rows"
cluster = "colombo"
database = "app"
home = "lk"

[tenants.kandy]
isolation = "schema"
cluster = "colombo"
database = "app"
home = "lk"

[tenants.pune]
isolation = "database"
cluster = "mumbai"
database = "pune"
home = "in"
"#;

pub(super) struct Stage {
    pub proxy: Proxy,
    pub colombo: Cluster,
    pub mumbai: Cluster,
    pub console_password: String,
    settings: Arc<Settings>,
    /// Where backups are; gone with the demo.
    backups: Option<PathBuf>,
}

impl Stage {
    pub async fn build(folder: &DemoFolder, port: u16) -> Result<Self, Failure> {
        say("starting cluster colombo (region lk): a primary and a replica");
        let mut colombo = cluster(folder, "colombo", Some("colombo-2")).await?;
        say("starting cluster mumbai (region in): a primary");
        let mumbai = cluster(folder, "mumbai", None).await?;
        let console_password = write_keys(folder)?;
        // Installing needs no ports; those of pgward are chosen when it starts.
        let backups = backups(folder)?;
        let place = backups.as_deref();
        let settings = Arc::new(settings(folder, (&colombo, &mumbai, place), Ports { postgres: port, http: 9930 })?);
        say("loading the tenants' data");
        load(&settings, &mut colombo, &mumbai).await?;
        if place.is_some() {
            say("having the log of both archived for backups");
            for cluster in [&colombo, &mumbai] {
                archive(&settings, cluster).await?;
            }
        }
        say("starting pgward");
        let proxy = Proxy::start(folder, port, |ports| {
            let text = config_text((&colombo, &mumbai, place), ports);
            folder.private("pgward.toml", &text)
        })
        .await?;
        Ok(Self { proxy, colombo, mumbai, console_password, settings, backups })
    }

    /// A tenant's URL through pgward, with a fresh token as the password.
    pub fn url(&self, tenant: &str, role: &str, database: &str) -> Result<String, Failure> {
        let issuer = token::issuer(&self.settings, None)?;
        let (id, access) = (TenantId::parse(tenant)?, Access::parse(role)?);
        let token = token::mint(issuer, &id, &access, TOKEN_TTL, &serde_json::Map::new())?;
        Ok(format!("postgresql://{tenant}:{token}@127.0.0.1:{}/{database}", self.proxy.ports.postgres))
    }

    /// Returns when pgward ended by itself. A database server may come and go: that is worth seeing too.
    pub async fn watch(&mut self) -> Failure {
        let mut told: Vec<String> = Vec::new();
        loop {
            if let Some(failure) = self.proxy.ended() {
                return failure;
            }
            for server in self.colombo.servers_mut().chain(self.mumbai.servers_mut()) {
                let name = server.name().to_owned();
                if !server.is_running() && !told.contains(&name) {
                    warn(format_args!("server {name} has ended; its log is {}", server.log().display()));
                    told.push(name);
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    pub async fn take_down(self) -> Result<(), Failure> {
        let Self { proxy, colombo, mumbai, backups, .. } = self;
        let stopped = proxy.stop().await;
        colombo.shut_down().await?;
        mumbai.shut_down().await?;
        if let Some(backups) = backups {
            std::fs::remove_dir_all(backups)?;
        }
        stopped
    }
}

async fn cluster(folder: &DemoFolder, name: &str, replica: Option<&str>) -> Result<Cluster, Failure> {
    let mut builder = Cluster::builder(name).parent(folder.path()).logs(folder.path());
    builder = builder.setting("max_connections", "200").setting("jit", "off");
    // What it is archived by is said when there is somewhere to put it.
    builder = builder.setting("archive_mode", "on");
    if let Some(replica) = replica {
        builder = builder.replica(replica);
    }
    let cluster = builder.start().await?;
    folder.link(name, cluster.folder())?;
    Ok(cluster)
}

/// A folder for them, where pgBackRest is installed.
fn backups(folder: &DemoFolder) -> Result<Option<PathBuf>, Failure> {
    let installed = std::process::Command::new("pgbackrest").arg("version").output();
    if installed.is_err() {
        warn("pgbackrest is not installed (Debian: pgbackrest), so this demo has no backups");
        return Ok(None);
    }
    let place = Host::find()?.folder(Some(folder.path()), BACKUPS)?;
    folder.link(BACKUPS, &place)?;
    Ok(Some(place))
}

async fn archive(settings: &Arc<Settings>, cluster: &Cluster) -> Result<(), Failure> {
    let name = ClusterName::parse(cluster.name())?;
    let site = Site::open(settings, &name)?;
    if let Some(of) = &site.cluster().backup {
        let client = cluster.primary().connect(&of.database).await?;
        tenant::install_backup(&client, settings, site.cluster(), of).await?;
    }
    site.prepare(&site.primary().await?, &mut Unseen).await?;
    let setting = archive_setting(&site);
    for server in cluster.servers() {
        let doing = "say how the log is archived";
        server.run("postgres", doing, &format!("alter system set {setting}")).await?;
        server.run("postgres", doing, "select pg_reload_conf()").await?;
    }
    Ok(())
}

/// Fresh keys at every start; returns the console's password.
fn write_keys(folder: &DemoFolder) -> Result<String, Failure> {
    let random = || format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    folder.private("master.key", &random())?;
    folder.private("context.key", &random())?;
    folder.private("backup.key", &random())?;
    let password = random().split_off(32);
    folder.private("console.password", &password)?;
    let signing = KeyPair::generate()?;
    folder.private("signing.pem", &signing.serialize_pem())?;
    folder.private("signing.pub.pem", &signing.public_key_pem())?;
    Ok(password)
}

/// Both clusters, and where their backups go.
type Places<'a> = (&'a Cluster, &'a Cluster, Option<&'a Path>);

fn settings(folder: &DemoFolder, places: Places<'_>, ports: Ports) -> Result<Settings, Failure> {
    let text = config_text(places, ports);
    config::parse(&text, folder.path())
        .map_err(|problems| Failure::Config { path: folder.file("pgward.toml"), problems })
}

async fn load(settings: &Settings, colombo: &mut Cluster, mumbai: &Cluster) -> Result<(), Failure> {
    let primary = colombo.primary();
    primary.run("postgres", "create database app", "create database app").await?;
    install_in(settings, primary, "colombo", "app").await?;
    primary.run("app", "load the shared table", data::ROWS).await?;
    primary.run("app", "load kandy's schema", data::KANDY).await?;
    let primary = mumbai.primary();
    primary.run("postgres", "create database pune", "create database pune").await?;
    install_in(settings, primary, "mumbai", "pune").await?;
    primary.run("pune", "load pune's database", data::PUNE).await?;
    Ok(colombo.caught_up().await?)
}

async fn install_in(settings: &Settings, server: &Server, cluster: &str, database: &str) -> Result<(), Failure> {
    let client = server.connect(database).await?;
    Installation::new(settings, &ClusterName::parse(cluster)?, database).run(&client).await?;
    Ok(())
}

/// As TOML has texts, whatever the path has in it.
fn quoted(path: &Path) -> String {
    toml::Value::from(path.display().to_string()).to_string()
}

fn config_text((colombo, mumbai, backups): Places<'_>, ports: Ports) -> String {
    let server = |cluster: &str, region: &str, role: &str, server: &Server| {
        format!(
            "[[clusters.{cluster}.servers]]\nname = \"{}\"\nhost = \"{}\"\nport = {}\nregion = \"{region}\"\n\
             role = \"{role}\"\ndata_directory = {}\n",
            server.name(),
            server.host(),
            server.port(),
            quoted(server.data())
        )
    };
    let repository = |cluster: &str, region: &str| match backups {
        Some(place) => format!(
            "[clusters.{cluster}.repositories.local]\nregion = \"{region}\"\npath = {}\ncipher = {{ file = \"backup.key\" }}\n",
            quoted(&place.join("repository"))
        ),
        None => String::new(),
    };
    let [colombo_kept, mumbai_kept] = [repository("colombo", "lk"), repository("mumbai", "in")];
    let backup = backups.map_or_else(String::new, |place| {
        format!(
            "\n[backup]\ndirectory = {}\n# Here backups are made when you say so: pgward backup run.\nscheduled = false\n",
            quoted(&place.join("state"))
        )
    });
    let primary = server("colombo", "lk", "primary", colombo.primary());
    let replicas: String = colombo.replicas().iter().map(|one| server("colombo", "lk", "replica", one)).collect();
    let other = server("mumbai", "in", "primary", mumbai.primary());
    let Ports { postgres, http } = ports;
    format!(
        r#"# Written by `pgward demo` at every start. conf/pgward.toml explains every key.
master_key = {{ file = "master.key" }}

[listen]
address = "127.0.0.1:{postgres}"
drain_timeout = "5s"

[http]
address = "127.0.0.1:{http}"

[console.users]
admin = {{ file = "console.password" }}

[context.keys]
k1 = {{ file = "context.key" }}

[[issuers]]
issuer = "https://demo.pgward.invalid/"
audience = "pgward"
algorithms = ["ES256"]
public_key_file = "signing.pub.pem"
# For `pgward token`. Development only: whoever has this key can be any tenant.
signing = {{ algorithm = "ES256", key = {{ file = "signing.pem" }} }}
{backup}
[clusters.colombo]
tls = {{ mode = "off" }}
logins = {{ app = "pgward_app", readonly = "pgward_readonly" }}
{primary}{replicas}{colombo_kept}
[clusters.mumbai]
tls = {{ mode = "off" }}
{other}{mumbai_kept}

{TENANTS}"#
    )
}
