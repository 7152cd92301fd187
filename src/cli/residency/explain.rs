use serde_json::json;

use super::{ConfigArgument, Failure, live};
use crate::base::{Access, NodeName, Region, TenantId};
use crate::cli::output::say;
use crate::cli::runtime;
use crate::proof::{self, Question};

/// Say what would serve a tenant now, and why no other server or node would
///
/// The servers are asked what they are, as pgward asks them, and what they say is judged by the rules that requests are
/// routed by. Exit code 0: something would serve it. 1: nothing would. What was paused or drained at a pgward's console is
/// known there alone.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    /// The tenant
    #[arg(long, value_parser = TenantId::parse)]
    tenant: TenantId,

    /// The role that its token gives
    #[arg(long, default_value = "app", value_parser = Access::parse)]
    role: Access,

    /// The region that its token is for, if it is for one
    #[arg(long, value_parser = Region::parse, value_name = "REGION")]
    token_region: Option<Region>,

    /// The node that it comes to; without it, the one that this configuration is of
    #[arg(long, value_parser = NodeName::parse)]
    node: Option<NodeName>,

    /// As a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.config.load()?;
    let id = &arguments.tenant;
    let tenant = settings.tenants.get(id);
    let tenant = tenant.ok_or_else(|| Failure::said(format!("there is no tenant {id} in the configuration")))?;
    let cluster = settings.clusters.get(&tenant.cluster);
    let cluster = cluster.ok_or_else(|| {
        Failure::said(format!("there is no cluster {} in the configuration, which {id} is on", tenant.cluster))
    })?;
    let here = match &arguments.node {
        Some(name) => match settings.nodes.get(name) {
            Some(node) => Some(&node.region),
            None => return Err(Failure::said(format!("there is no node {name} in the configuration"))),
        },
        None => settings.region.as_ref(),
    };
    let looks = runtime()?.block_on(live::look(&settings, [cluster], here))?;
    let Some(look) = looks.get(&tenant.cluster) else {
        return Err(Failure::said(format!("cluster {} was not looked at", tenant.cluster)));
    };
    let (access, token_region) = (&arguments.role, arguments.token_region.as_ref());
    let question = Question { settings: &settings, tenant, access, token_region, here, look };
    let explanation = proof::explain(&question);
    match arguments.json {
        true => say(format_args!("{:#}", json!(explanation))),
        false => say(explanation.page().text().trim_end()),
    }
    if explanation.is_served() { Ok(()) } else { Err(Failure::said(format!("nothing would serve {id}"))) }
}
