//! `SHOW CLIENTS`

use std::time::Duration;

use super::command::Row;
use crate::admin::Control;
use crate::base::Party;
use crate::base::clock;
use crate::session::{ClientRow, Phase};
use crate::wire::table::{Column, Value};

pub(super) const COLUMNS: &[Column] = &[
    Column::text("type"),
    Column::text("user"),
    Column::text("database"),
    Column::text("state"),
    Column::text("addr"),
    Column::integer("port"),
    Column::text("connect_time"),
    Column::integer("wait"),
    Column::integer("wait_us"),
    Column::integer("link"),
    Column::text("tls"),
    Column::text("application_name"),
    Column::integer("id"),
    Column::text("tenant"),
    Column::text("pinned"),
    Column::integer("state_seconds"),
    Column::text("break_glass"),
    Column::text("came_by"),
];

pub(super) async fn rows(control: &Control) -> Vec<Row> {
    let mut clients = control.clients().await;
    clients.sort_by(|a, b| (&a.profile.party, a.profile.id).cmp(&(&b.profile.party, b.profile.id)));
    let now = clock::unix_now();
    clients.into_iter().map(|client| row(client, now)).collect()
}

fn row(client: ClientRow, now: u64) -> Row {
    let wait = if client.phase == Phase::Waiting { client.in_phase } else { Duration::ZERO };
    vec![
        "C".into(),
        (*client.profile.said.user).into(),
        (*client.profile.said.database).into(),
        client.phase.as_str().into(),
        client.profile.peer.map(|peer| peer.ip().to_string()).into(),
        client.profile.peer.map(|peer| peer.port()).into(),
        clock::timestamp(now.saturating_sub(client.connected.as_secs())).into(),
        wait.as_secs().into(),
        wait.subsec_micros().into(),
        client.backend.into(),
        Value::from(if client.profile.tls { "TLS" } else { "" }),
        (*client.profile.said.application).into(),
        client.profile.id.into(),
        client.profile.party.as_ref().and_then(Party::tenant).map(ToString::to_string).into(),
        client.pinned.into(),
        client.in_phase.as_secs().into(),
        Value::from(if client.profile.break_glass { "yes" } else { "no" }),
        client.profile.hop.as_ref().and_then(|hop| hop.came()).map(|came| came.node.name.to_string()).into(),
    ]
}
