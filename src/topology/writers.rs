//! Which of a cluster's servers may take writes, for whoever connects before anybody follows the cluster.

use std::sync::Arc;

use super::patroni::{Found, PatroniError, ask_once};
use crate::base::ClusterName;
use crate::config::{Cluster, Server, ServerRole};

/// At least one server, the likeliest first.
pub struct Writers {
    pub servers: Vec<Arc<Server>>,
    /// Why Patroni did not tell who leads.
    pub doubt: Option<PatroniError>,
}

#[derive(Debug, thiserror::Error)]
pub enum WritersError {
    #[error("Patroni does not tell which servers cluster {cluster} has (clusters.{cluster}.patroni)")]
    Patroni {
        cluster: ClusterName,
        #[source]
        source: PatroniError,
    },
    #[error("cluster {0} has no servers, as far as it is known")]
    NoServer(ClusterName),
}

pub async fn writers(cluster: &Cluster) -> Result<Writers, WritersError> {
    let mut servers: Vec<Arc<Server>> = cluster.servers.clone();
    let mut doubt = None;
    if cluster.patroni.is_some() {
        match ask_once(cluster).await {
            Ok(Found { leader: Some(leader), .. }) => servers = vec![leader],
            Ok(found) => servers.extend(found.servers),
            Err(source) if servers.is_empty() => {
                return Err(WritersError::Patroni { cluster: cluster.name.clone(), source });
            }
            Err(error) => doubt = Some(error),
        }
    }
    servers.sort_by_key(|server| server.role != ServerRole::Primary);
    if servers.is_empty() {
        return Err(WritersError::NoServer(cluster.name.clone()));
    }
    Ok(Writers { servers, doubt })
}
