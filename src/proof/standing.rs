//! What a server is, as it was found, and what a node is to a tenant.

use std::sync::Arc;

use serde::Serialize;

use crate::base::{Lsn, Region};
use crate::config::{Node, Tenant};
use crate::residency;
use crate::topology::{Look, ServerView};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub server: String,
    pub address: String,
    pub region: String,
    /// As it says itself, or as it is configured where it could not be asked.
    pub role: Option<&'static str>,
    pub health: &'static str,
    /// It takes the writes.
    pub writes: bool,
    pub lag_bytes: Option<u64>,
    /// Why it could not be asked, or its answer not be used.
    pub trouble: Option<String>,
}

impl Standing {
    pub fn of(look: &Look, at: usize, view: &ServerView) -> Self {
        let server = &view.server;
        // One that was taken for what it is configured as has not told where it is.
        let told = view.seen.filter(|seen| seen.lsn > Lsn::default());
        Self {
            server: server.name.to_string(),
            address: format!("{}:{}", server.host, server.port),
            region: server.region.to_string(),
            role: match (view.seen, look.unasked) {
                (Some(seen), _) => Some(seen.role.as_str()),
                (None, Some(_)) => Some(server.role.as_str()),
                (None, None) => None,
            },
            health: if look.unasked.is_some() { "not asked" } else { view.health.as_str() },
            writes: look.snapshot.primary == Some(at),
            lag_bytes: told.and(view.lag).map(|lag| lag.bytes),
            trouble: view.trouble.as_deref().map(str::to_owned),
        }
    }

    pub fn all(look: &Look) -> Vec<Self> {
        look.snapshot.servers.iter().enumerate().map(|(at, view)| Self::of(look, at, view)).collect()
    }
}

/// A pgward that a tenant may be served by, or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStanding {
    pub node: String,
    pub region: String,
    pub address: String,
    pub allowed: bool,
}

impl NodeStanding {
    pub fn of(node: &Node, regions: &[Region]) -> Self {
        Self {
            node: node.name.to_string(),
            region: node.region.to_string(),
            address: node.address.clone(),
            allowed: residency::allows(regions, &node.region),
        }
    }

    pub fn all<'a>(nodes: impl IntoIterator<Item = &'a Arc<Node>>, tenant: &Tenant) -> Vec<Self> {
        nodes.into_iter().map(|node| Self::of(node, &tenant.regions)).collect()
    }
}

pub(super) fn names(regions: &[Region]) -> Vec<String> {
    regions.iter().map(Region::to_string).collect()
}

/// What could not be asked, and what that means.
pub(super) fn notes(look: &Look) -> Vec<String> {
    let unasked = look.unasked.map(|why| format!("{why}: the servers are taken for what the configuration says"));
    let patroni = look.patroni.as_ref();
    let patroni =
        patroni.map(|why| format!("Patroni could not be asked, and the servers that it knows are not known: {why}"));
    unasked.into_iter().chain(patroni).collect()
}
