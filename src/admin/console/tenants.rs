//! `SHOW TENANTS`

use std::collections::HashMap;
use std::sync::Arc;

use super::command::Row;
use crate::admin::Control;
use crate::base::TenantId;
use crate::config::Tenant;
use crate::limits::{Held, Usage};
use crate::wire::table::Column;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("tenant"),
    Column::text("isolation"),
    Column::text("cluster"),
    Column::text("database"),
    Column::text("home"),
    Column::text("suspended"),
    Column::text("held"),
    Column::integer("clients"),
    Column::integer("leases"),
    Column::integer("pinned"),
    Column::integer("transactions"),
    Column::float("server_seconds"),
];

/// The catalogue in force, and those that a reload took out of it while they are still connected.
pub(super) fn rows(control: &Control) -> Vec<Row> {
    let world = control.shared.world.load();
    let tenants = &world.settings.tenants;
    let usages = control.shared.usages.all();
    let used: HashMap<&TenantId, &Arc<Usage>> =
        usages.iter().filter_map(|usage| Some((usage.party.tenant()?, usage))).collect();
    let gone = used.iter().filter(|(id, usage)| usage.clients() > 0 && !tenants.contains_key(**id));
    let mut names: Vec<&TenantId> = tenants.keys().chain(gone.map(|(id, _)| *id)).collect();
    names.sort_unstable();
    names.into_iter().map(|name| row(name, tenants.get(name).map(Arc::as_ref), used.get(name).copied())).collect()
}

fn row(name: &TenantId, tenant: Option<&Tenant>, usage: Option<&Arc<Usage>>) -> Row {
    let server_time = usage.map(|usage| usage.server_time().as_secs_f64());
    vec![
        name.as_str().into(),
        tenant.map(|tenant| tenant.isolation.as_str()).into(),
        tenant.map(|tenant| tenant.cluster.as_str()).into(),
        tenant.map(|tenant| tenant.database.as_str()).into(),
        tenant.map(|tenant| tenant.home.as_str()).into(),
        tenant.map(|tenant| if tenant.suspended { "yes" } else { "no" }).into(),
        usage.map_or(Held::No, |usage| usage.hold.state()).as_str().into(),
        usage.map_or(0, |usage| usage.clients()).into(),
        usage.map_or(0, |usage| usage.leases()).into(),
        usage.map_or(0, |usage| usage.pinned()).into(),
        usage.map_or(0, |usage| usage.transactions()).into(),
        server_time.unwrap_or_default().into(),
    ]
}
