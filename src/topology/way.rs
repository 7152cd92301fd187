//! How the control plane gets to whichever server of a cluster takes writes: for the catalogue, and for backups.

use std::time::Duration;

use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, NoTls};

use super::writers::{WritersError, writers};
use crate::backend::Endpoint;
use crate::base::ClusterName;
use crate::config::{Login, Server, Settings};
use crate::net::{self, AdministrationTls, TlsError};
use crate::tenant::login_password;

#[derive(Debug, thiserror::Error)]
pub enum WayError {
    #[error("cluster {0} is not in the configuration")]
    UnknownCluster(ClusterName),
    #[error("role {0} has no password, and there is no master key to derive one from")]
    NoPassword(String),
    #[error(transparent)]
    Servers(#[from] WritersError),
    #[error("TLS for cluster {cluster} cannot be set up (clusters.{cluster}.tls)")]
    Tls {
        cluster: ClusterName,
        #[source]
        source: TlsError,
    },
}

/// How long one server may take to let somebody in.
const EACH: Duration = Duration::from_secs(5);

/// How long nothing may come of a connection, or be acknowledged on it, before it is asked whether it lives.
const QUIET: Duration = Duration::from_secs(10);

/// To a server that takes writes: replicas tell of no changes.
#[derive(Clone)]
pub struct Way {
    pub config: Config,
    pub tls: Option<AdministrationTls>,
}

/// Where to, as whom, and what the server is told that it is for.
#[derive(Clone, Copy)]
pub struct Errand<'a> {
    pub cluster: &'a ClusterName,
    pub database: &'a str,
    pub login: &'a Login,
    pub application_name: &'static str,
}

impl Way {
    /// Before anybody follows the cluster: its servers are tried, the one that is configured as the primary first.
    pub async fn find(settings: &Settings, errand: Errand<'_>) -> Result<Self, WayError> {
        let Some(cluster) = settings.clusters.get(errand.cluster) else {
            return Err(WayError::UnknownCluster(errand.cluster.clone()));
        };
        // Where Patroni does not tell who leads, it shows in who takes writes.
        let writers = writers(cluster).await?;
        let failed = |source| WayError::Tls { cluster: cluster.name.clone(), source };
        let tls = net::connector(&cluster.tls).map_err(failed)?.map(AdministrationTls::new);
        let places = writers.servers.iter().map(|server| (server.host.as_str(), server.port));
        Self::new(settings, errand, places, tls)
    }

    /// To this server and no other.
    pub fn to_server(settings: &Settings, errand: Errand<'_>, server: &Server) -> Result<Self, WayError> {
        let Some(cluster) = settings.clusters.get(errand.cluster) else {
            return Err(WayError::UnknownCluster(errand.cluster.clone()));
        };
        let failed = |source| WayError::Tls { cluster: cluster.name.clone(), source };
        let tls = net::connector(&cluster.tls).map_err(failed)?.map(AdministrationTls::new);
        Self::new(settings, errand, [(server.host.as_str(), server.port)].into_iter(), tls)
    }

    /// To the server that the cluster's pools lead to.
    pub fn to(settings: &Settings, errand: Errand<'_>, endpoint: &Endpoint) -> Result<Self, WayError> {
        let tls = endpoint.tls.clone().map(AdministrationTls::new);
        Self::new(settings, errand, [(endpoint.host.as_str(), endpoint.port)].into_iter(), tls)
    }

    fn new<'a>(
        settings: &Settings,
        errand: Errand<'_>,
        places: impl Iterator<Item = (&'a str, u16)>,
        tls: Option<AdministrationTls>,
    ) -> Result<Self, WayError> {
        let Errand { cluster, database, login, application_name } = errand;
        let password = login_password(settings.master_key.as_ref(), cluster, login);
        let password = password.ok_or_else(|| WayError::NoPassword(login.role.clone()))?;
        let mut config = Config::new();
        for (host, port) in places {
            config.host(host).port(port);
        }
        config.user(&login.role).password(password.expose()).dbname(database);
        config.application_name(application_name).target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.connect_timeout(EACH).ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        config.keepalives(true).keepalives_idle(QUIET).keepalives_interval(QUIET / 4).keepalives_retries(4);
        config.tcp_user_timeout(2 * QUIET);
        Ok(Self { config, tls })
    }

    /// To another database there.
    #[must_use]
    pub fn database(&self, name: &str) -> Self {
        let mut way = self.clone();
        way.config.dbname(name);
        way
    }

    /// A task drives the connection until the client is dropped.
    pub async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let client = match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                tokio::spawn(connection);
                client
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                tokio::spawn(connection);
                client
            }
        };
        Ok(client)
    }
}
