//! An administrator's connection to a cluster's database, for every command that needs one. It is encrypted as
//! the configuration says of the cluster: what is sent may hold password verifiers and the context key.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, NoTls};

use super::failure::Failure;
use super::output::warn;
use crate::base::{ClusterName, causes};
use crate::config::{Cluster, ServerTls, ServerTlsMode, Settings};
use crate::net::{self, AdministrationTls, TlsError};
use crate::topology::{self, Writers, WritersError};

/// From the first packet to a login that is done.
const DEADLINE: Duration = Duration::from_secs(30);

/// For one of several servers to be there at all.
const EACH: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct AdministrationArguments {
    /// The cluster, as the configuration names it
    #[arg(long, value_parser = ClusterName::parse)]
    cluster: Option<ClusterName>,

    /// A database of it; all that tenants have there unless named. Repeatable
    #[arg(long = "database")]
    databases: Vec<String>,

    #[command(flatten)]
    url: UrlArgument,
}

#[derive(Debug, clap::Args)]
pub(super) struct UrlArgument {
    /// Where and as whom to connect; without it, to the primary as PGUSER (or postgres) with PGPASSWORD
    ///
    /// TLS is spoken as the configuration says of the cluster. On the server itself, `?sslmode=disable` or a
    /// Unix socket (host=/var/run/postgresql) goes without.
    #[arg(long, env = "PGWARD_INSTALL_URL", hide_env_values = true, value_name = "postgresql://USER@HOST:PORT/")]
    url: Option<String>,
}

impl UrlArgument {
    pub async fn administrator(&self, cluster: &Cluster) -> Result<Administrator, ConnectError> {
        Administrator::new(self.url.as_deref(), cluster).await
    }

    /// It leads to one place, whichever cluster is meant.
    pub fn is_given(&self) -> bool {
        self.url.is_some()
    }
}

/// For commands that change the catalogue.
#[derive(Debug, clap::Args)]
pub(super) struct CatalogueUrlArgument {
    /// Where and as whom to change the catalogue; without it by --url if that leads to the same cluster
    ///
    /// Without either, to the primary of the catalogue's cluster as PGUSER (or postgres) with PGPASSWORD.
    #[arg(
        long = "catalogue-url",
        env = "PGWARD_CATALOGUE_URL",
        hide_env_values = true,
        value_name = "postgresql://USER@HOST:PORT/"
    )]
    catalogue_url: Option<String>,
}

impl CatalogueUrlArgument {
    /// `other`: what leads to the same cluster, if anything does.
    pub async fn administrator(
        &self,
        cluster: &Cluster,
        other: Option<&UrlArgument>,
    ) -> Result<Administrator, ConnectError> {
        let url = self.catalogue_url.as_deref().or_else(|| other?.url.as_deref());
        Administrator::new(url, cluster).await
    }
}

impl AdministrationArguments {
    /// The one cluster that is meant.
    pub fn cluster<'a>(&self, settings: &'a Settings) -> Result<&'a Cluster, Failure> {
        match self.clusters(settings)?.as_slice() {
            [cluster] => Ok(cluster),
            _ => Err(Failure::said(format!("say with --cluster which is meant; there is {}", names(settings)))),
        }
    }

    /// The cluster that is named, or all.
    pub fn clusters<'a>(&self, settings: &'a Settings) -> Result<Vec<&'a Cluster>, Failure> {
        let Some(name) = &self.cluster else {
            let all: Vec<&Cluster> = settings.clusters.values().map(AsRef::as_ref).collect();
            if self.url.url.is_some() && all.len() > 1 {
                let known = names(settings);
                return Err(Failure::said(format!("say with --cluster which one --url leads to; there is {known}")));
            }
            return Ok(all);
        };
        match settings.clusters.get(name) {
            Some(cluster) => Ok(vec![cluster]),
            None => Err(Failure::said(format!(
                "there is no cluster {name} in the configuration (there is {})",
                names(settings)
            ))),
        }
    }

    /// The databases that are named, or all that tenants have on the cluster.
    pub fn databases(&self, settings: &Settings, cluster: &Cluster) -> BTreeSet<String> {
        if !self.databases.is_empty() {
            return self.databases.iter().cloned().collect();
        }
        let here = settings.tenants.values().filter(|tenant| tenant.cluster == cluster.name);
        here.map(|tenant| tenant.database.clone()).collect()
    }

    pub async fn administrator(&self, cluster: &Cluster) -> Result<Administrator, ConnectError> {
        self.url.administrator(cluster).await
    }
}

fn names(settings: &Settings) -> String {
    settings.clusters.keys().map(ClusterName::as_str).collect::<Vec<_>>().join(", ")
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// Not the text itself, which may hold a password.
    #[error(
        "--url (PGWARD_INSTALL_URL) or --catalogue-url (PGWARD_CATALOGUE_URL) is no connection string; write postgresql://USER:PASSWORD@HOST:PORT/, with \
         sslmode=disable, prefer or require if any (certificates are verified as the configuration says)"
    )]
    Url(#[source] Error),
    #[error("where to connect is not known; say it with --url")]
    Writers(#[from] WritersError),
    #[error("TLS for cluster {cluster} cannot be set up (clusters.{cluster}.tls)")]
    Tls {
        cluster: ClusterName,
        #[source]
        source: TlsError,
    },
    #[error(
        "cluster {0} demands TLS, and --url says sslmode=disable to another machine; leave sslmode out, or run this \
         command on the server itself"
    )]
    Plaintext(ClusterName),
    #[error("cannot connect to database {database} at {server} as {user}; {advice}")]
    Refused {
        database: String,
        server: String,
        user: String,
        advice: &'static str,
        #[source]
        source: Error,
    },
    #[error("{server} did not let {user} into database {database} within {} s; is it overloaded, or is something \
             else listening there?", DEADLINE.as_secs())]
    Timeout { database: String, server: String, user: String },
}

/// Where a cluster is administered, as whom, and how it is encrypted.
pub(super) struct Administrator {
    config: Config,
    tls: Option<AdministrationTls>,
}

impl Administrator {
    async fn new(url: Option<&str>, cluster: &Cluster) -> Result<Self, ConnectError> {
        let mut config: Config = url.map_or_else(|| Ok(Config::new()), str::parse).map_err(ConnectError::Url)?;
        if config.get_hosts().is_empty() {
            to_primary(&mut config, cluster).await?;
        }
        if config.get_user().is_none() {
            config.user(std::env::var("PGUSER").unwrap_or_else(|_| "postgres".to_owned()));
        }
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        if config.get_application_name().is_none() {
            config.application_name("pgward");
        }
        let tls = encryption(&mut config, cluster)?;
        Ok(Self { config, tls })
    }

    /// As one of the cluster's roles rather than as an administrator, to where pgward itself goes.
    pub async fn of_login(cluster: &Cluster, role: &str, password: &[u8]) -> Result<Self, ConnectError> {
        let mut config = Config::new();
        to_primary(&mut config, cluster).await?;
        config.user(role).password(password).application_name("pgward");
        let tls = encryption(&mut config, cluster)?;
        Ok(Self { config, tls })
    }

    /// A connection to one database. A task drives it until the client is dropped.
    pub async fn connect(&self, database: &str) -> Result<Client, ConnectError> {
        let mut config = self.config.clone();
        config.dbname(database);
        let connected = async {
            match &self.tls {
                Some(tls) => {
                    let (client, connection) = config.connect(tls.clone()).await?;
                    tokio::spawn(connection);
                    Ok(client)
                }
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    tokio::spawn(connection);
                    Ok(client)
                }
            }
        };
        let (database, server, user) = (database.to_owned(), self.server(), self.user());
        match tokio::time::timeout(DEADLINE, connected).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(source)) => Err(ConnectError::Refused { database, server, user, advice: advice(&source), source }),
            Err(_) => Err(ConnectError::Timeout { database, server, user }),
        }
    }

    /// The same connection for PostgreSQL's own programs, as environment variables: a password is nobody else's
    /// business, and arguments are seen by all.
    pub fn environment(&self, cluster: &Cluster, database: &str) -> Vec<(&'static str, OsString)> {
        let hosts: Vec<String> = self.config.get_hosts().iter().map(host).collect();
        let ports: Vec<String> = self.config.get_ports().iter().map(ToString::to_string).collect();
        let mut variables: Vec<(&str, OsString)> = vec![
            ("PGHOST", hosts.join(",").into()),
            ("PGUSER", self.user().into()),
            ("PGDATABASE", database.into()),
            ("PGAPPNAME", "pgward".into()),
        ];
        if !ports.is_empty() {
            variables.push(("PGPORT", ports.join(",").into()));
        }
        if self.config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite {
            variables.push(("PGTARGETSESSIONATTRS", "read-write".into()));
        }
        if let Some(password) = self.config.get_password() {
            variables.push(("PGPASSWORD", OsString::from_vec(password.to_vec())));
        }
        let addresses: Vec<String> = self.config.get_hostaddrs().iter().map(ToString::to_string).collect();
        if !addresses.is_empty() {
            variables.push(("PGHOSTADDR", addresses.join(",").into()));
        }
        let tls = &cluster.tls;
        let verified = self.tls.is_some() && tls.mode == ServerTlsMode::VerifyFull;
        let mode = match &self.tls {
            Some(_) if verified => "verify-full",
            Some(_) => "require",
            None => "disable",
        };
        variables.push(("PGSSLMODE", mode.into()));
        if verified {
            let ca = tls.ca.as_ref().map_or_else(|| "system".into(), |ca| ca.clone().into_os_string());
            variables.push(("PGSSLROOTCERT", ca));
        }
        if let (Some(certificate), Some(key), true) = (&tls.certificate, &tls.key, self.tls.is_some()) {
            variables.push(("PGSSLCERT", certificate.into()));
            variables.push(("PGSSLKEY", key.into()));
        }
        variables
    }

    fn user(&self) -> String {
        self.config.get_user().unwrap_or_default().to_owned()
    }

    fn server(&self) -> String {
        let ports = self.config.get_ports();
        let port = |i: usize| ports.get(i).or(ports.first()).copied().unwrap_or(5432);
        let name = |(i, host): (usize, &Host)| match host {
            Host::Tcp(name) => format!("{name}:{}", port(i)),
            Host::Unix(folder) => format!("{}:{}", folder.display(), port(i)),
        };
        self.config.get_hosts().iter().enumerate().map(name).collect::<Vec<_>>().join(", ")
    }
}

/// To whichever of the cluster's servers takes writes now. The one that is configured as the primary is tried first.
async fn to_primary(config: &mut Config, cluster: &Cluster) -> Result<(), ConnectError> {
    let Writers { mut servers, doubt } = topology::writers(cluster).await?;
    if let Some(error) = doubt {
        let why = causes(&error);
        warn(format_args!("Patroni does not tell who leads, so the configured servers are tried: {why}"));
    }
    // An address that was given is that of one server.
    if !config.get_hostaddrs().is_empty() {
        servers.truncate(1);
    }
    for server in &servers {
        config.host(&server.host).port(server.port);
    }
    if servers.len() > 1 {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite).connect_timeout(EACH);
    }
    Ok(())
}

fn host(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    }
}

/// As the cluster's settings say. A URL can ask for more, and for less only where nothing leaves the machine.
fn encryption(config: &mut Config, cluster: &Cluster) -> Result<Option<AdministrationTls>, ConnectError> {
    let hosts = config.get_hosts();
    let unix = hosts.iter().all(|host| matches!(host, Host::Unix(_)));
    let near = hosts.iter().all(|host| match host {
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
        Host::Unix(_) => true,
    }) && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback);
    let wanted = match (config.get_ssl_mode(), cluster.tls.mode) {
        _ if unix => None,
        (SslMode::Disable, ServerTlsMode::Require | ServerTlsMode::VerifyFull) if !near => {
            return Err(ConnectError::Plaintext(cluster.name.clone()));
        }
        (SslMode::Disable, _) => None,
        (SslMode::Require, ServerTlsMode::Off) => {
            Some(ServerTls { mode: ServerTlsMode::Require, ..cluster.tls.clone() })
        }
        _ => Some(cluster.tls.clone()),
    };
    let connector = wanted.map_or(Ok(None), |tls| net::connector(&tls));
    let connector = connector.map_err(|source| ConnectError::Tls { cluster: cluster.name.clone(), source })?;
    config.ssl_mode(if connector.is_some() { SslMode::Require } else { SslMode::Disable });
    Ok(connector.map(AdministrationTls::new))
}

const NAME_SOMEBODY: &str =
    "give the user by --url or PGUSER and its password by --url (PGWARD_INSTALL_URL) or PGPASSWORD";

/// What to do about a refused connection.
fn advice(error: &Error) -> &'static str {
    // The server asks for one, and there is none: tokio-postgres has no other word for it.
    if error.source().is_some_and(|cause| cause.to_string() == "password missing") {
        return NAME_SOMEBODY;
    }
    let Some(state) = error.code() else {
        let mut cause = error.source();
        while let Some(inner) = cause {
            if inner.downcast_ref::<rustls::Error>().is_some() {
                return "check the cluster's tls settings (ca, mode, certificate) and the host's name in its certificate";
            }
            cause = match inner.downcast_ref::<std::io::Error>() {
                Some(io) => io.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)),
                None => inner.source(),
            };
        }
        return "check that the server runs, that host and port are right, and whether it speaks TLS";
    };
    match *state {
        SqlState::INVALID_PASSWORD => NAME_SOMEBODY,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => "check the user, and what pg_hba.conf lets in from here",
        SqlState::INVALID_CATALOG_NAME => "create the database first, or correct its name",
        SqlState::TOO_MANY_CONNECTIONS => "no connection is free there; try again when one is",
        _ => "the server says why",
    }
}
