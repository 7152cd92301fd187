//! Where other programs are: pgwards, and Patroni's REST API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::grants::Grant;
use super::settings::{Server, Settings};
use crate::base::{Access, NodeName, Region, TenantId};
use crate::residency;

impl Settings {
    /// What lets a tenant's role be served in a region though its data may not be there.
    pub fn grant_in(&self, region: &Region, tenant: &TenantId, role: &Access, now: u64) -> Option<&Arc<Grant>> {
        self.grants.values().find(|grant| grant.covers(tenant, role, region, now))
    }

    /// The pgwards in these regions, those at home first.
    pub fn nodes_in(&self, regions: &[Region], home: &Region) -> impl Iterator<Item = &Arc<Node>> {
        let mut nodes: Vec<&Arc<Node>> = self.nodes.values().collect();
        nodes.retain(|node| residency::allows(regions, &node.region));
        nodes.sort_by_key(|node| node.region != *home);
        nodes.into_iter()
    }
}

/// A pgward, as others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: NodeName,
    pub region: Region,
    /// What clients connect to, for people.
    pub address: String,
    /// Where other nodes come in. `None`: none do.
    pub peer_address: Option<String>,
}

/// Patroni's REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patroni {
    /// Of members. Others are asked, too, once they are known.
    pub urls: Vec<Url>,
    pub interval: Duration,
    /// How long one answer may take.
    pub timeout: Duration,
    /// PEM file of the authority to trust besides the system's.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Where members are that have no tag `region`. `None`: those are not used.
    pub region: Option<Region>,
    /// As of the cluster: members elsewhere are left alone. `None`: none are.
    pub regions: Option<Arc<[Region]>>,
    /// Configured servers elsewhere: whoever is one of these is there, whatever is said of members without a region.
    pub left_alone: Vec<Arc<Server>>,
    pub max_backends: usize,
    pub weight: usize,
}

/// `http://` or `https://`, a host and perhaps a port, a path: nothing that is to be kept secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(reqwest::Url);

impl Url {
    pub fn parse(text: &str) -> Option<Self> {
        let url = reqwest::Url::parse(text).ok()?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        let known = matches!(url.scheme(), "http" | "https") && url.has_host() && url.fragment().is_none();
        (plain && known).then_some(Self(url))
    }

    pub fn scheme(&self) -> &str {
        self.0.scheme()
    }
}

impl std::fmt::Display for Url {
    /// Without a slash at the end.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}
