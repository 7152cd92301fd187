//! `SHOW STATS`: totals since the start, per tenant, and per database without tenants, that was seen since then.

use super::command::Row;
use crate::admin::Control;
use crate::base::Party;
use crate::limits::Usage;
use crate::wire::table::Column;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("database"),
    Column::text("tenant"),
    Column::integer("total_xact_count"),
    Column::integer("total_xact_time"),
    Column::integer("avg_xact_time"),
];

pub(super) fn rows(control: &Control) -> Vec<Row> {
    let world = control.shared.world.load();
    let mut usages = control.shared.usages.all();
    usages.sort_by(|a, b| a.party.cmp(&b.party));
    let tenants = &world.settings.tenants;
    let database = |party: &Party| match party {
        Party::Tenant(id) => tenants.get(id).map(|tenant| tenant.database.clone()),
        Party::Database(name) => Some(name.to_string()),
    };
    usages.iter().map(|usage| row(usage, database(&usage.party))).collect()
}

fn row(usage: &Usage, database: Option<String>) -> Row {
    let micros = usage.server_time().as_micros();
    let count = usage.transactions();
    let average = micros / u128::from(count.max(1));
    vec![
        database.into(),
        usage.party.tenant().map(ToString::to_string).into(),
        count.into(),
        micros.into(),
        average.into(),
    ]
}
