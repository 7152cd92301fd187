//! `SHOW STATS`: totals since the start, per tenant that was seen since then.

use super::command::Row;
use crate::admin::Control;
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
    usages.sort_by(|a, b| a.tenant.cmp(&b.tenant));
    let tenants = &world.settings.tenants;
    usages.iter().map(|usage| row(usage, tenants.get(&usage.tenant).map(|tenant| tenant.database.as_str()))).collect()
}

fn row(usage: &Usage, database: Option<&str>) -> Row {
    let micros = usage.server_time().as_micros();
    let count = usage.transactions();
    let average = micros / u128::from(count.max(1));
    vec![database.into(), usage.tenant.as_str().into(), count.into(), micros.into(), average.into()]
}
