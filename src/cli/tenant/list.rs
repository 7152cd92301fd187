use serde_json::json;

use super::Failure;
use crate::base::ClusterName;
use crate::cli::ConfigArgument;
use crate::cli::output::{say, table};
use crate::config::Tenant;

/// List the tenants
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    /// Those at this level only
    #[arg(long, value_parser = ["rows", "schema", "database", "cluster"])]
    isolation: Option<String>,

    /// Those on this cluster only
    #[arg(long, value_parser = ClusterName::parse)]
    cluster: Option<ClusterName>,

    /// Those that are suspended only
    #[arg(long)]
    suspended: bool,

    /// As a JSON array
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn asks_for(&self, tenant: &Tenant) -> bool {
        self.isolation.as_ref().is_none_or(|level| level == tenant.isolation.as_str())
            && self.cluster.as_ref().is_none_or(|cluster| *cluster == tenant.cluster)
            && (tenant.suspended || !self.suspended)
    }
}

const HEAD: [&str; 7] = ["TENANT", "ISOLATION", "CLUSTER", "DATABASE", "HOME", "SUSPENDED", "LEGAL HOLD"];

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.config.load()?;
    let mut tenants: Vec<&Tenant> = settings.tenants.values().map(AsRef::as_ref).collect();
    tenants.retain(|tenant| arguments.asks_for(tenant));
    tenants.sort_by(|a, b| a.id.cmp(&b.id));
    if arguments.json {
        let rows: Vec<_> = tenants.iter().map(|tenant| json(tenant)).collect();
        say(format_args!("{:#}", json!(rows)));
        return Ok(());
    }
    let cells = tenants.iter().map(|tenant| {
        let suspended = if tenant.suspended { "yes" } else { "no" };
        let (id, level, cluster) = (tenant.id.as_str(), tenant.isolation.as_str(), tenant.cluster.as_str());
        let held = if tenant.legal_hold.is_some() { "yes" } else { "no" };
        [id, level, cluster, &tenant.database, tenant.home.as_str(), suspended, held]
    });
    table(std::iter::once(HEAD).chain(cells).collect());
    Ok(())
}

fn json(tenant: &Tenant) -> serde_json::Value {
    json!({
        "tenant": tenant.id.as_str(),
        "isolation": tenant.isolation.as_str(),
        "cluster": tenant.cluster.as_str(),
        "database": tenant.database,
        "home": tenant.home.as_str(),
        "suspended": tenant.suspended,
        "legal_hold": tenant.legal_hold,
    })
}
