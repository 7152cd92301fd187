//! Reading a restored copy for comparison, and finding out what it may have that a snapshot did not see.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::moment::{connect, databases};
use super::read::{self, failed};
use super::{Baseline, BaselineError, Database, HOME};
use crate::base::causes;
use crate::topology::Way;

/// More of them than this are not counted one by one.
const MOST: i64 = 100_000;

/// Transactions that are committed in the copy though the snapshot did not see them: those that were running then, and
/// those that had not begun. One that is not in the copy at all has no status.
const MOVING: &str = "
    with snapshot(s, next) as (select $1::text::pg_snapshot, $2::text::xid8),
    candidates(x) as (
        select pg_snapshot_xip(s) from snapshot
        union all
        select x::text::xid8 from snapshot, generate_series(pg_snapshot_xmax(s)::text::int8,
            least(next::text::int8 - 1, pg_snapshot_xmax(s)::text::int8 + $3)) x
    )
    select count(*) from candidates, snapshot where x < next and pg_xact_status(x) = 'committed'";

/// A restored copy, read like the primary was.
#[derive(Debug)]
pub struct Copy {
    pub databases: BTreeMap<String, Database>,
    pub unread: BTreeMap<String, String>,
    pub system: String,
    /// By database: transactions that are in the copy and that the baseline's snapshot did not see.
    pub moving: BTreeMap<String, u64>,
}

/// The first transaction that the copy has not had yet. To be asked before anything is done in it.
pub async fn next_transaction(home: &Client) -> Result<String, BaselineError> {
    let sql = "select pg_snapshot_xmax(pg_current_snapshot())::text";
    let row = home.query_one(sql, &[]).await.map_err(failed("ask for the next transaction", HOME))?;
    row.try_get(0).map_err(failed("ask for the next transaction", HOME))
}

/// Reads a copy that was replayed to the baseline's restore point, and has run nothing since.
pub async fn look_at_copy(
    way: &Way,
    baseline: &Baseline,
    seen: &mut (dyn FnMut(&str, &str) + Send),
) -> Result<Copy, BaselineError> {
    let home = connect(way, HOME).await?;
    let next = next_transaction(&home).await?;
    let system = "select system_identifier::text from pg_control_system()";
    let system = home.query_one(system, &[]).await.map_err(failed("ask whose copy it is", HOME))?;
    let system = system.try_get(0).map_err(failed("ask whose copy it is", HOME))?;
    let mut copy = Copy { databases: BTreeMap::new(), unread: BTreeMap::new(), system, moving: BTreeMap::new() };
    for name in databases(&home).await? {
        match look(way, &name, seen).await {
            Ok(database) => copy.databases.insert(name, database).map(drop),
            Err(error) => copy.unread.insert(name, causes(&error)).map(drop),
        };
    }
    for (name, database) in &baseline.databases {
        let wrong = || failed("count what was moving", HOME);
        let row = home.query_one(MOVING, &[&database.snapshot, &next, &MOST]).await.map_err(wrong())?;
        let moving: i64 = row.try_get(0).map_err(wrong())?;
        copy.moving.insert(name.clone(), moving.unsigned_abs());
    }
    Ok(copy)
}

async fn look(
    way: &Way,
    name: &str,
    seen: &mut (dyn FnMut(&str, &str) + Send),
) -> Result<Database, BaselineError> {
    let client = connect(way, name).await?;
    let sequences = read::sequences(&client, name).await?;
    let begin = "begin isolation level repeatable read read only";
    client.batch_execute(begin).await.map_err(failed("take a snapshot", name))?;
    let mut database = read::read(&client, name, String::new(), &mut |table| seen(name, table)).await?;
    database.sequences = sequences;
    Ok(database)
}
