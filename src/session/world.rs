//! The configuration in force, with what is made of it once: keys, TLS, endpoints. A reload makes a new
//! one; sessions keep the one they logged in under.

use std::collections::HashMap;
use std::sync::Arc;

use crate::auth::{KeyError, Verifier};
use crate::backend::Endpoint;
use crate::base::{ClusterName, ServerName};
use crate::config::{Cluster, PoolRules, Server, Settings};
use crate::net::{self, TlsError};
use crate::pool::{Pool, PoolKey, Pools};
use crate::tenant::{ChannelKey, Sealer, login_password};

pub struct World {
    pub settings: Settings,
    pub verifier: Arc<Verifier>,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub sealer: Option<Arc<Sealer>>,
    pub channel_key: Option<Arc<ChannelKey>>,
    rules: Arc<PoolRules>,
    endpoints: HashMap<(ClusterName, ServerName), Arc<Endpoint>>,
}

#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error("the keys of an issuer cannot be used")]
    Keys(#[from] KeyError),
    #[error("TLS for {what} cannot be set up")]
    Tls {
        what: String,
        #[source]
        source: TlsError,
    },
}

impl World {
    /// `before` lends what has not changed, so that a reload does not make backends look foreign.
    pub fn new(settings: Settings, before: Option<&World>) -> Result<Self, WorldError> {
        let verifier = Arc::new(Verifier::new(&settings.issuers)?);
        if let Some(world) = before {
            // Fetched keys stay good while their provider is down.
            verifier.inherit(&world.verifier);
        }
        let tls = match &settings.listen.tls {
            Some(tls) => {
                Some(net::listener(tls).map_err(|source| WorldError::Tls { what: "the listener".to_owned(), source })?)
            }
            None => None,
        };
        let mut endpoints = HashMap::new();
        for cluster in settings.clusters.values() {
            let connector = net::connector(&cluster.tls)
                .map_err(|source| WorldError::Tls { what: format!("cluster {}", cluster.name), source })?;
            for server in &cluster.servers {
                let endpoint = Endpoint {
                    host: server.host.clone(),
                    port: server.port,
                    tls: connector.clone(),
                    timeout: settings.pool.connect_timeout,
                };
                endpoints.insert((cluster.name.clone(), server.name.clone()), Arc::new(endpoint));
            }
        }
        let sealer = sealer(&settings, before);
        // Never none: without one, tenants of one database would hear each other.
        let random = || before.map_or_else(|| ChannelKey::random().map(Arc::new), |before| before.channel_key.clone());
        let channel_key = ChannelKey::of(&settings).map(Arc::new).or_else(random);
        let rules = Arc::new(settings.pool.clone());
        Ok(Self { settings, verifier, tls, sealer, channel_key, rules, endpoints })
    }

    /// The pool of a login on a server. `None`: the password cannot be had.
    pub fn pool(
        &self,
        pools: &Pools,
        cluster: &Cluster,
        server: &Server,
        login: &crate::config::Login,
        database: &str,
    ) -> Option<Arc<Pool>> {
        let password = login_password(self.settings.master_key.as_ref(), &cluster.name, login)?;
        let endpoint = self.endpoints.get(&(cluster.name.clone(), server.name.clone()))?;
        let key = PoolKey {
            cluster: cluster.name.clone(),
            server: server.name.clone(),
            host: server.host.clone(),
            port: server.port,
            database: database.to_owned(),
            role: login.role.clone(),
            password,
        };
        Some(pools.pool(key, server, endpoint, &self.rules))
    }
}

fn sealer(settings: &Settings, before: Option<&World>) -> Option<Arc<Sealer>> {
    let context = &settings.context;
    let key = context.keys.get(&context.active)?;
    if let Some(world) = before {
        let old = &world.settings.context;
        if old.active == context.active && old.keys.get(&old.active) == Some(key) {
            return world.sealer.clone();
        }
    }
    Sealer::new(&context.active, key).map(Arc::new)
}
