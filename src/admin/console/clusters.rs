//! `SHOW CLUSTERS`: one row per server, as it was seen last.

use std::time::Instant;

use super::command::Row;
use crate::admin::Control;
use crate::base::Lsn;
use crate::limits::Held;
use crate::topology::{ServerView, Snapshot};
use crate::wire::table::Column;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("cluster"),
    Column::text("server"),
    Column::text("host"),
    Column::integer("port"),
    Column::text("region"),
    Column::text("role"),
    Column::text("health"),
    Column::text("writes"),
    Column::text("held"),
    Column::integer("timeline"),
    Column::text("lsn"),
    Column::integer("lag_bytes"),
    Column::integer("lag_ms"),
    Column::integer("state_seconds"),
    Column::text("trouble"),
];

pub(super) fn rows(control: &Control) -> Vec<Row> {
    let now = Instant::now();
    let boards = control.shared.topology.boards();
    let rows = boards.iter().flat_map(|board| {
        let snapshot = board.snapshot();
        let held = control.shared.pools.held(&board.name);
        let row = |(at, view)| row(board.name.as_str(), &snapshot, at, view, held, now);
        snapshot.servers.iter().enumerate().map(row).collect::<Vec<_>>()
    });
    rows.collect()
}

fn row(cluster: &str, snapshot: &Snapshot, at: usize, view: &ServerView, held: Held, now: Instant) -> Row {
    let role = view.seen.map(|seen| seen.role.as_str());
    let writes = match (snapshot.primary == Some(at), view.fenced) {
        (true, _) => "yes",
        (false, true) => "fenced",
        (false, false) => "no",
    };
    let held = match (held, view.held) {
        (Held::No, true) => Held::Paused,
        (held, _) => held,
    };
    let held = held.as_str();
    // One that could only be taken for what it is configured as has told neither.
    let told = view.seen.filter(|seen| seen.lsn > Lsn::default());
    vec![
        cluster.into(),
        view.server.name.as_str().into(),
        view.server.host.as_str().into(),
        view.server.port.into(),
        view.server.region.as_str().into(),
        role.into(),
        view.health.as_str().into(),
        writes.into(),
        held.into(),
        told.map(|seen| seen.timeline).into(),
        told.map(|seen| seen.lsn.to_string()).into(),
        told.and(view.lag).map(|lag| lag.bytes).into(),
        told.and(view.lag).map(|lag| u64::try_from(lag.time.as_millis()).unwrap_or(u64::MAX)).into(),
        now.duration_since(view.since).as_secs().into(),
        view.trouble.as_deref().into(),
    ]
}
