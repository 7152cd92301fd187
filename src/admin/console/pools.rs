//! `SHOW POOLS`

use std::collections::HashMap;
use std::time::Duration;

use super::command::Row;
use crate::admin::Control;
use crate::config::PoolMode;
use crate::pool::PoolRow;
use crate::session::{ClientRow, Phase};
use crate::wire::table::Column;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("database"),
    Column::text("user"),
    Column::integer("cl_active"),
    Column::integer("cl_waiting"),
    Column::integer("sv_active"),
    Column::integer("sv_idle"),
    Column::integer("maxwait"),
    Column::integer("maxwait_us"),
    Column::text("pool_mode"),
    Column::text("cluster"),
    Column::text("server"),
    Column::integer("max"),
];

#[derive(Default)]
struct Clients {
    active: usize,
    waiting: usize,
    longest: Duration,
    /// Some keep their backend no longer than a transaction.
    share: bool,
}

pub(super) async fn rows(control: &Control) -> Vec<Row> {
    let pools = control.pools().await;
    table(pools, &control.clients().await)
}

fn table(pools: Vec<(PoolRow, usize)>, clients: &[ClientRow]) -> Vec<Row> {
    let mut by_pool = HashMap::<usize, Clients>::new();
    for client in clients {
        let of_pool = by_pool.entry(client.profile.pool).or_default();
        of_pool.share |= client.profile.mode == PoolMode::Transaction;
        if client.phase == Phase::Waiting {
            of_pool.waiting += 1;
            of_pool.longest = of_pool.longest.max(client.in_phase);
        } else {
            of_pool.active += 1;
        }
    }
    let row = |(pool, idle): (PoolRow, usize)| {
        let clients = by_pool.remove(&pool.id).unwrap_or_default();
        let session = !clients.share && clients.active + clients.waiting > 0;
        let mode = if session { PoolMode::Session } else { PoolMode::Transaction };
        vec![
            pool.database.into(),
            pool.role.into(),
            clients.active.into(),
            clients.waiting.into(),
            (pool.open - idle).into(),
            idle.into(),
            clients.longest.as_secs().into(),
            clients.longest.subsec_micros().into(),
            mode.as_str().into(),
            pool.cluster.into(),
            pool.server.into(),
            pool.max.into(),
        ]
    };
    pools.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Party, TenantId};
    use crate::session::{Profile, Said};
    use crate::wire::table::Value;

    #[test]
    fn clients_are_counted_in_their_own_pool_and_the_longest_wait_is_told() {
        let pool = |id| PoolRow {
            id,
            cluster: "main".to_owned(),
            replica: false,
            server: "main-1".to_owned(),
            host: "db".to_owned(),
            port: Some(5432),
            database: "app".to_owned(),
            role: format!("role_{id}"),
            open: 3,
            max: 20,
            waiting: 9,
        };
        let client = |pool, phase, millis| ClientRow {
            profile: Profile {
                id: 1,
                pool,
                party: Some(Party::Tenant(TenantId::parse("acme").unwrap())),
                said: Said::default(),
                peer: None,
                tls: false,
                mode: if pool == 2 { PoolMode::Session } else { PoolMode::Transaction },
                expires_at: None,
                break_glass: false,
                hop: None,
            },
            phase,
            in_phase: Duration::from_millis(millis),
            connected: Duration::ZERO,
            pinned: None,
            backend: None,
        };
        let clients = [
            client(1, Phase::Idle, 90_000),
            client(1, Phase::Waiting, 1_500),
            client(1, Phase::Waiting, 20),
            client(2, Phase::Active, 0),
        ];
        let rows = table(vec![(pool(1), 2), (pool(2), 0)], &clients);
        let numbers = |row: &Row| row[2..8].to_vec();
        assert_eq!(numbers(&rows[0]), [1u32, 2, 1, 2, 1, 500_000].map(Value::from));
        assert_eq!(numbers(&rows[1]), [1u32, 0, 3, 0, 0, 0].map(Value::from));
        assert_eq!([&rows[0][8], &rows[1][8]], [&Value::from("transaction"), &Value::from("session")]);
        assert!(rows.iter().all(|row| row.len() == COLUMNS.len()));
    }
}
