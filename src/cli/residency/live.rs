//! Asking the servers what they are, as pgward's service login.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Failure;
use crate::backend::{Credentials, Endpoint, LoginSecret};
use crate::base::{ClusterName, Region};
use crate::config::{Cluster, Server, Settings};
use crate::net;
use crate::tenant::login_password;
use crate::topology::{self, Look, Probed};

/// Looks at these clusters at once.
pub(super) async fn look<'a>(
    settings: &Settings,
    clusters: impl IntoIterator<Item = &'a Arc<Cluster>>,
    near: Option<&Region>,
) -> Result<BTreeMap<ClusterName, Look>, Failure> {
    let mut looking = JoinSet::new();
    for cluster in clusters {
        let (way, cluster, near) = (Way::to(settings, cluster)?, Arc::clone(cluster), near.cloned());
        looking.spawn(async move {
            let look = topology::look(&cluster, near.as_ref(), |cluster| way.probed(cluster)).await;
            (cluster.name.clone(), look)
        });
    }
    let mut looks = BTreeMap::new();
    while let Some(done) = looking.join_next().await {
        looks.extend([done?]);
    }
    Ok(looks)
}

/// How a cluster's servers are reached.
struct Way {
    tls: Option<Arc<rustls::ClientConfig>>,
    timeout: Duration,
    credentials: Option<Credentials>,
}

impl Way {
    fn to(settings: &Settings, cluster: &Cluster) -> Result<Self, Failure> {
        let database = cluster.probe.as_ref().map_or("postgres", |probe| &probe.database).to_owned();
        let credentials = cluster.service.as_ref().and_then(|login| {
            let secret = login_password(settings.master_key.as_ref(), &cluster.name, login)?;
            Some(Credentials { role: login.role.clone(), database, secret: LoginSecret::Password(secret) })
        });
        Ok(Self { tls: net::connector(&cluster.tls)?, timeout: settings.pool.connect_timeout, credentials })
    }

    fn probed(&self, cluster: &Cluster) -> Vec<Probed> {
        let Some(credentials) = &self.credentials else { return Vec::new() };
        let probed = |server: &Arc<Server>| Probed {
            server: server.name.clone(),
            endpoint: Arc::new(Endpoint::new(server, self.tls.clone(), self.timeout)),
            credentials: credentials.clone(),
        };
        cluster.all_servers().map(probed).collect()
    }
}
