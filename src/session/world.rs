//! The configuration in force, with what is made of it once: keys, TLS, endpoints. A reload makes a new
//! one; sessions keep the one they logged in under.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::directory::Directory;
use crate::auth::{KeyError, Verifier};
use crate::backend::{Credentials, Endpoint, LoginSecret};
use crate::base::{ClusterName, Party, ServerName};
use crate::config::{
    Cluster, FileVersion, Grant, Isolation, Login, Lookup, PlainDatabase, PoolRules, Server, Settings, Tenant,
};
use crate::net::{self, Peers, TlsError};
use crate::pool::{Place, Pool, PoolKey, Pools, Scope, Vetting};
use crate::residency;
use crate::tenant::{ChannelKey, Sealer, login_password};
use crate::wire::forward::ALPN;

pub struct World {
    pub settings: Arc<Settings>,
    pub verifier: Arc<Verifier>,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What a login over TLS can be bound to.
    pub(super) end_point: Option<Vec<u8>>,
    /// How other nodes are reached.
    pub(super) peers: Option<Peers>,
    pub(super) directory: Arc<Directory>,
    pub sealer: Option<Arc<Sealer>>,
    pub channel_key: Option<Arc<ChannelKey>>,
    rules: Arc<PoolRules>,
    endpoints: Endpoints,
    connectors: HashMap<ClusterName, Connector>,
    /// Of the files that connectors are made of, from before they were read.
    files: HashMap<ClusterName, Vec<FileVersion>>,
}

type Endpoints = HashMap<(ClusterName, ServerName), Arc<Endpoint>>;
type Connector = Option<Arc<rustls::ClientConfig>>;

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
        let (tls, end_point) = match &settings.listen.tls {
            Some(tls) => {
                let listener = net::listener(tls);
                let listener =
                    listener.map_err(|source| WorldError::Tls { what: "the listener".to_owned(), source })?;
                (Some(listener.config), listener.end_point)
            }
            None => (None, None),
        };
        let peers = settings.forwarding.as_ref().map(|forwarding| Peers::new(forwarding, ALPN)).transpose();
        let peers = peers.map_err(|source| WorldError::Tls { what: "forwarding".to_owned(), source })?;
        let files = |cluster: &Arc<Cluster>| {
            let tls = [&cluster.tls.ca, &cluster.tls.certificate, &cluster.tls.key];
            let files = tls.into_iter().flatten().map(|path| FileVersion::of(path));
            (cluster.name.clone(), files.collect())
        };
        let files = settings.clusters.values().map(files).collect();
        let connector = |cluster: &Arc<Cluster>| {
            let failed = |source| WorldError::Tls { what: format!("cluster {}", cluster.name), source };
            Ok((cluster.name.clone(), net::connector(&cluster.tls).map_err(failed)?))
        };
        let connectors: HashMap<ClusterName, Connector> =
            settings.clusters.values().map(connector).collect::<Result<_, WorldError>>()?;
        let endpoints = endpoints(&settings, &connectors);
        let sealer = sealer(&settings, before);
        // Never none: without one, tenants of one database would hear each other.
        let random = || before.map_or_else(|| ChannelKey::random().map(Arc::new), |before| before.channel_key.clone());
        let channel_key = ChannelKey::of(&settings).map(Arc::new).or_else(random);
        let rules = Arc::new(settings.pool.clone());
        let directory = Arc::new(Directory::new(&settings, before.map(|before| &*before.directory)));
        Ok(Self {
            settings: Arc::new(settings),
            verifier,
            tls,
            end_point,
            peers,
            directory,
            sealer,
            channel_key,
            rules,
            endpoints,
            connectors,
            files,
        })
    }

    /// The same with other servers in its clusters. No file is read again.
    pub fn with_clusters(&self, clusters: BTreeMap<ClusterName, Arc<Cluster>>) -> Self {
        let settings = Settings { clusters, ..Settings::clone(&self.settings) };
        Self {
            endpoints: endpoints(&settings, &self.connectors),
            settings: Arc::new(settings),
            verifier: Arc::clone(&self.verifier),
            tls: self.tls.clone(),
            end_point: self.end_point.clone(),
            peers: self.peers.clone(),
            directory: Arc::clone(&self.directory),
            sealer: self.sealer.clone(),
            channel_key: self.channel_key.clone(),
            rules: Arc::clone(&self.rules),
            connectors: self.connectors.clone(),
            files: self.files.clone(),
        }
    }

    /// Whether whoever logged in under another configuration would find the same under this one.
    pub fn has_same(&self, before: &World, party: &Party) -> bool {
        match party {
            Party::Tenant(id) => self.settings.tenants.get(id) == before.settings.tenants.get(id),
            Party::Database(name) => self.plain(name) == before.plain(name),
        }
    }

    /// Whether a grant is what it was, if there is one.
    pub(super) fn grants(&self, grant: Option<&Arc<Grant>>) -> bool {
        grant.is_none_or(|grant| self.settings.grants.get(&grant.name) == Some(grant))
    }

    /// The database without tenants that a name leads to.
    pub fn plain(&self, name: &str) -> Option<&Arc<PlainDatabase>> {
        self.directory.database(&self.settings, name)
    }

    /// What a login of the configuration proves itself by. `None`: the password cannot be had.
    pub fn login_secret(&self, cluster: &ClusterName, login: &Login) -> Option<LoginSecret> {
        login_password(self.settings.master_key.as_ref(), cluster, login).map(LoginSecret::Password)
    }

    /// The pool that users are looked up through.
    pub fn lookup_pool(&self, pools: &Pools, lookup: &Lookup) -> Option<Arc<Pool>> {
        let cluster = self.settings.clusters.get(&lookup.cluster)?;
        let secret = self.login_secret(&cluster.name, &lookup.login)?;
        let (role, database) = (lookup.login.role.clone(), lookup.database.clone());
        Some(self.pool(pools, cluster, Credentials { role, database, secret }, None))
    }

    /// Tells whether TLS towards a cluster's servers is made of the same files as in another world.
    pub fn files(&self, cluster: &ClusterName) -> &[FileVersion] {
        self.files.get(cluster).map_or(&[], Vec::as_slice)
    }

    /// How a server is reached.
    pub fn endpoint(&self, cluster: &ClusterName, server: &ServerName) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(&(cluster.clone(), server.clone()))
    }

    /// What pgward itself logs in as on a cluster.
    pub fn service(&self, cluster: &Cluster, database: &str) -> Option<Credentials> {
        let login = cluster.service.as_ref()?;
        let secret = self.login_secret(&cluster.name, login)?;
        Some(Credentials { role: login.role.clone(), database: database.to_owned(), secret })
    }

    /// The pool of a tenant's login, and the pool that listens for it.
    pub fn tenant_pools(
        &self,
        pools: &Pools,
        cluster: &Cluster,
        tenant: &Tenant,
        login: &Login,
    ) -> Option<(Arc<Pool>, Arc<Pool>)> {
        let shared = tenant.isolation.shares_database();
        let service = self.service(cluster, &tenant.database).filter(|_| shared);
        let rows = tenant.isolation == Isolation::Rows;
        let scope = self.scope(cluster, tenant, login);
        let vetting = Vetting { rows, allow_unsafe: login.allow_unsafe, shared, scope, service: service.clone() };
        let secret = self.login_secret(&cluster.name, login)?;
        let credentials = Credentials { role: login.role.clone(), database: tenant.database.clone(), secret };
        let pool = self.pool(pools, cluster, credentials, Some(vetting));
        let listening = match service {
            Some(service) => self.pool(pools, cluster, service, None),
            None => Arc::clone(&pool),
        };
        Some((pool, listening))
    }

    /// What a login keeps to that is used here by grants across borders. It is one for all of them.
    fn scope(&self, cluster: &Cluster, tenant: &Tenant, login: &Login) -> Option<Scope> {
        let here = self.settings.region.as_ref()?;
        let is_this = |grant: &Grant, other: &Tenant| {
            let same_place = (&other.cluster, &other.database) == (&tenant.cluster, &tenant.database);
            same_place && other.login(&grant.role, cluster).is_some_and(|other| other.role == login.role)
        };
        let grants = self.settings.grants.values().filter(|grant| residency::allows(&grant.regions, here));
        let grants = grants.filter(|grant| {
            let mut tenants = grant.tenants.iter().filter_map(|tenant| self.settings.tenants.get(tenant));
            tenants.any(|other| is_this(grant, other))
        });
        let scope = |grant: &Arc<Grant>| Scope { relations: Arc::clone(&grant.scope), anonymised: grant.anonymised };
        grants.map(scope).reduce(Scope::and)
    }

    /// The pool of a login on a cluster's primary.
    pub fn pool(
        &self,
        pools: &Pools,
        cluster: &Cluster,
        credentials: Credentials,
        vetting: Option<Vetting>,
    ) -> Arc<Pool> {
        let Credentials { role, database, secret } = credentials;
        pools.pool(
            PoolKey { cluster: cluster.name.clone(), place: Place::Primary, database, role, secret },
            &self.rules,
            vetting,
        )
    }
}

fn endpoints(settings: &Settings, connectors: &HashMap<ClusterName, Connector>) -> Endpoints {
    let clusters = settings.clusters.values();
    let all = clusters.flat_map(|cluster| cluster.all_servers().map(move |server| (&cluster.name, server)));
    let endpoint = |(cluster, server): (&ClusterName, &Arc<Server>)| {
        let tls = connectors.get(cluster).cloned().flatten();
        let endpoint = Endpoint::new(server, tls, settings.pool.connect_timeout);
        ((cluster.clone(), server.name.clone()), Arc::new(endpoint))
    };
    all.map(endpoint).collect()
}

fn sealer(settings: &Settings, before: Option<&World>) -> Option<Arc<Sealer>> {
    let context = &settings.context;
    let key = context.keys.get(&context.active)?;
    if let Some(world) = before {
        let old = &world.settings.context;
        if old.active == context.active && old.keys.get(&old.active) == Some(key) {
            return world.sealer.clone();
        }
        // The one that there is: sessions keep the contexts that they logged in with, and those lead to it.
        if let Some(sealer) = &world.sealer {
            sealer.turn_to(&context.active, key);
            return Some(Arc::clone(sealer));
        }
    }
    Sealer::new(&context.active, key).map(Arc::new)
}
