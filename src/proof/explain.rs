//! What would serve a tenant now, and why nothing else would: by what the data path goes by.

use std::time::Instant;

use serde::Serialize;

use super::standing::{self, NodeStanding, Standing, names};
use crate::base::{Access, Region, clock};
use crate::config::{Forward, Grant, ReadRoute, Settings, Tenant};
use crate::route::{self, Here, Read, Route};
use crate::topology::{Health, Look, Role, ServerView};

/// Whose session it is, and where it comes in.
#[derive(Debug)]
pub struct Question<'a> {
    pub settings: &'a Settings,
    pub tenant: &'a Tenant,
    pub access: &'a Access,
    /// As the token has it.
    pub token_region: Option<&'a Region>,
    /// Where the pgward is that it comes to.
    pub here: Option<&'a Region>,
    pub look: &'a Look,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub tenant: String,
    pub role: String,
    pub home: String,
    /// Where the tenant's data may be.
    pub regions: Vec<String>,
    pub isolation: &'static str,
    pub cluster: String,
    pub database: String,
    /// Where the pgward is. `None`: that is not known.
    pub here: Option<String>,
    /// Where servers may be that serve the session: narrowed by its token.
    pub kept_to: Vec<String>,
    /// Why nobody is let in.
    pub refused: Option<String>,
    /// Who would take its writes, and who its reads; several share them.
    pub writes: Option<String>,
    pub reads: Vec<String>,
    pub servers: Vec<Choice>,
    pub nodes: Vec<NodeChoice>,
    pub notes: Vec<String>,
}

/// A server, and why it would not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    #[serde(flatten)]
    pub standing: Standing,
    pub no_writes: Option<String>,
    pub no_reads: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeChoice {
    #[serde(flatten)]
    pub standing: NodeStanding,
    /// Why it would not serve the session.
    pub refused: Option<String>,
}

impl Explanation {
    /// Whether anything would serve it.
    pub fn is_served(&self) -> bool {
        self.refused.is_none() && (self.writes.is_some() || !self.reads.is_empty())
    }
}

pub fn explain(question: &Question<'_>) -> Explanation {
    let Question { settings, tenant, access, token_region, look, .. } = question;
    let decided = |here| {
        let here = Here::of(settings, here, tenant, access);
        route::decide(tenant, access, *token_region, &look.cluster, &here)
    };
    let anywhere = decided(None);
    // What is refused everywhere is told of servers and nodes by what the tenant's list says.
    let regions: &[Region] = anywhere.as_ref().map_or(&tenant.regions, |route| &route.regions);
    let servers = servers(question, regions, anywhere.as_ref().ok());
    let here = decided(question.here);
    let crossing = here.as_ref().ok().and_then(|route| route.grant.clone());
    let mut refused = here.err().map(|refusal| refusal.to_string());
    if refused.is_none() && tenant.suspended {
        refused = Some("the tenant is suspended".to_owned());
    }
    if let (None, Some(primary)) = (&refused, look.snapshot.primary()) {
        // Whoever comes in is shown to the primary first.
        refused = route::admit(regions, &primary.name, &primary.region).err().map(|refusal| refusal.to_string());
    }
    let nodes = settings.nodes.values().map(|node| NodeChoice {
        standing: NodeStanding::of(node, regions),
        refused: decided(Some(&node.region)).err().map(|refusal| refusal.to_string()),
    });
    let serves = |why: fn(&Choice) -> &Option<String>| {
        let fit = servers.iter().filter(move |choice| why(choice).is_none());
        fit.map(|choice| choice.standing.server.clone()).collect::<Vec<_>>()
    };
    let (writes, reads) = (serves(|choice| &choice.no_writes), serves(|choice| &choice.no_reads));
    Explanation {
        tenant: tenant.id.to_string(),
        role: access.to_string(),
        home: tenant.home.to_string(),
        regions: names(&tenant.regions),
        isolation: tenant.isolation.as_str(),
        cluster: tenant.cluster.to_string(),
        database: tenant.database.clone(),
        here: question.here.map(Region::to_string),
        kept_to: names(regions),
        writes: writes.into_iter().next().filter(|_| refused.is_none()),
        reads: if refused.is_none() { reads } else { Vec::new() },
        refused,
        nodes: nodes.collect(),
        notes: notes(question, crossing.as_deref()),
        servers,
    }
}

fn notes(question: &Question<'_>, crossing: Option<&Grant>) -> Vec<String> {
    let look = question.look;
    let mut notes = standing::notes(look);
    if look.snapshot.primary.is_none() {
        let what = "there is no primary, so one look does not tell how far replicas are behind";
        notes.push(format!("{what}; a pgward that has seen them before reads from those that were not"));
    }
    if let Some(grant) = crossing {
        let until = clock::timestamp(grant.until);
        notes.push(format!("by grant {}, which is over at {until}: {}", grant.name, grant.purpose));
    }
    match question.tenant.forward {
        Forward::Off => {}
        Forward::DirectTls => {
            notes.push("a client at a node elsewhere is forwarded if its own TLS goes through".to_owned())
        }
        Forward::Any => notes.push("a client at a node elsewhere is forwarded to one that may serve it".to_owned()),
    }
    if question.here.is_none() {
        notes.push(
            "this pgward is not known to be anywhere, and would serve all tenants: say where it is (region, node)"
                .to_owned(),
        );
    }
    notes
}

/// Each server, and why it would not serve: writes, and reads.
fn servers(question: &Question<'_>, regions: &[Region], route: Option<&Route<'_>>) -> Vec<Choice> {
    let (look, tenant) = (question.look, question.tenant);
    let to = route.map_or(tenant.reads.route, |route| tenant.route(route.login));
    let read = Read {
        rules: &tenant.reads,
        regions: Some(regions),
        before: None,
        since: look.began,
        now: Instant::now(),
        always: to == ReadRoute::Replica,
    };
    let replicas = match to {
        ReadRoute::Primary => Err("reads go to the primary (route)"),
        ReadRoute::Auto if !look.snapshot.offers_replicas(&look.cluster) => {
            Err("reads go to the primary: pgward does not ask the servers what they are, or there is one alone")
        }
        ReadRoute::Auto | ReadRoute::Replica => Ok(route::sharing(&look.snapshot, &read)),
    };
    let choice = |(at, view): (usize, &ServerView)| {
        let takes = no_writes(look, at, view, regions);
        let no_writes = match to {
            // As long as a session says nothing else.
            ReadRoute::Replica => Some("everything of the tenant's goes to replicas (route)".to_owned()),
            ReadRoute::Primary | ReadRoute::Auto => takes.clone(),
        };
        let no_reads = match &replicas {
            Err(_) if takes.is_none() => None,
            Err(why) => Some((*why).to_owned()),
            Ok(shared) if shared.contains(&at) => None,
            Ok(shared) if shared.is_empty() && takes.is_none() && !read.always => None,
            Ok(_) if takes.is_none() && !read.always => Some("it takes what replicas do not".to_owned()),
            Ok(_) => Some(match route::fitness(&look.snapshot, &read, view) {
                Ok(()) => "replicas that are nearer come first".to_owned(),
                Err(unfit) => with_trouble(view, unfit.to_string()),
            }),
        };
        Choice { standing: Standing::of(look, at, view), no_writes, no_reads }
    };
    look.snapshot.servers.iter().enumerate().map(choice).collect()
}

/// Why a server would not take the writes.
fn no_writes(look: &Look, at: usize, view: &ServerView, regions: &[Region]) -> Option<String> {
    let (snapshot, server) = (&look.snapshot, &view.server);
    if snapshot.primary == Some(at) {
        return route::admit(regions, &server.name, &server.region).err().map(|refusal| refusal.to_string());
    }
    let claims = view.seen.map(|seen| seen.role);
    let why = match claims {
        _ if view.health != Health::Up => "it does not answer".to_owned(),
        None => "it has not said what it is".to_owned(),
        Some(Role::Replica) => "it is a replica".to_owned(),
        Some(Role::Primary) if snapshot.in_doubt => {
            "several servers say that they are the primary, on the same timeline: nobody writes until one of them is stopped"
                .to_owned()
        }
        Some(Role::Primary) if view.fenced => {
            "it says that it is the primary, and gets no writes: another server is on a higher timeline, or \
             Patroni says that it does not lead"
                .to_owned()
        }
        Some(Role::Primary) => "it says that it is the primary, and not all servers have been heard yet".to_owned(),
    };
    Some(with_trouble(view, why))
}

fn with_trouble(view: &ServerView, why: String) -> String {
    match &view.trouble {
        Some(trouble) => format!("{why} ({trouble})"),
        None => why,
    }
}

#[cfg(test)]
mod tests;
