//! `SHOW SERVERS`: one row per backend.

use std::collections::HashMap;

use super::command::Row;
use crate::admin::Control;
use crate::base::clock;
use crate::pool::{BackendRow, PoolRow};
use crate::wire::table::Column;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("type"),
    Column::text("user"),
    Column::text("database"),
    Column::text("state"),
    Column::text("addr"),
    Column::integer("port"),
    Column::text("connect_time"),
    Column::integer("close_needed"),
    Column::integer("link"),
    Column::integer("remote_pid"),
    Column::text("tenant"),
    Column::text("cluster"),
    Column::text("server"),
    Column::integer("state_seconds"),
];

pub(super) async fn rows(control: &Control) -> Vec<Row> {
    let backends = control.backends().await;
    let pools = control.shared.pools.rows();
    let by_id: HashMap<usize, (usize, &PoolRow)> =
        pools.iter().enumerate().map(|(at, pool)| (pool.id, (at, pool))).collect();
    let known = backends.into_iter().filter_map(|backend| Some((*by_id.get(&backend.pool)?, backend)));
    let mut known: Vec<_> = known.collect();
    known.sort_by_key(|((at, _), backend)| (*at, backend.pid));
    let now = clock::unix_now();
    known.into_iter().map(|((_, pool), backend)| row(pool, backend, now)).collect()
}

fn row(pool: &PoolRow, backend: BackendRow, now: u64) -> Row {
    vec![
        "S".into(),
        pool.role.as_str().into(),
        pool.database.as_str().into(),
        match (backend.listens, backend.client) {
            (true, _) => "listening",
            (false, Some(_)) => "active",
            (false, None) => "idle",
        }
        .into(),
        pool.host.as_str().into(),
        pool.port.into(),
        clock::timestamp(now.saturating_sub(backend.age.as_secs())).into(),
        backend.close_needed.into(),
        backend.client.into(),
        backend.pid.into(),
        backend.tenant.into(),
        pool.cluster.as_str().into(),
        pool.server.as_str().into(),
        backend.in_state.as_secs().into(),
    ]
}
