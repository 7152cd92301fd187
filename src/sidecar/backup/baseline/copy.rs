//! Reading a restored copy for comparison, and finding out what it may have that a snapshot did not see.

use std::collections::BTreeMap;

use super::seat::Seat;
use super::{Baseline, BaselineError, Database, read};
use crate::base::causes;
use crate::sidecar::backup::pgbackrest::Progress;
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
#[derive(Debug, Default)]
pub struct Copy {
    pub databases: BTreeMap<String, Database>,
    pub unread: BTreeMap<String, String>,
    /// Databases that were not on the primary.
    pub unexpected: Vec<String>,
    pub system: String,
    /// By database: transactions that are in the copy and that the baseline's snapshot did not see.
    pub moving: BTreeMap<String, u64>,
}

/// The first transaction that the copy has not had yet.
const NEXT: &str = "select pg_snapshot_xmax(pg_current_snapshot())::text";

/// Reads a copy that was replayed to the baseline's restore point, and has run nothing since.
pub async fn look_at_copy(way: &Way, baseline: &Baseline, progress: &mut dyn Progress) -> Result<Copy, BaselineError> {
    let home = Seat::take(way, &baseline.home).await?;
    let next: String = home.value("ask for the next transaction", NEXT, &[]).await?;
    let system = "select system_identifier::text from pg_control_system()";
    let system = home.value("ask whose copy it is", system, &[]).await?;
    let mut copy = Copy { system, ..Copy::default() };
    for (name, _) in home.databases().await? {
        if baseline.unread.contains_key(&name) {
            continue;
        }
        if !baseline.databases.contains_key(&name) {
            copy.unexpected.push(name);
            continue;
        }
        match look(way, &name, &baseline.home, progress).await {
            Ok(database) => drop(copy.databases.insert(name, database)),
            Err(error) => drop(copy.unread.insert(name, causes(&error))),
        }
    }
    for (name, database) in &baseline.databases {
        let moving: i64 = home.value("count what was moving", MOVING, &[&database.snapshot, &next, &MOST]).await?;
        copy.moving.insert(name.clone(), moving.unsigned_abs());
    }
    Ok(copy)
}

async fn look(way: &Way, name: &str, home: &str, progress: &mut dyn Progress) -> Result<Database, BaselineError> {
    let seat = Seat::take(way, name).await?;
    let sequences = read::sequences(&seat).await?;
    seat.run("take a snapshot", "begin isolation level repeatable read read only").await?;
    let mut database = read::read(&seat, home, String::new(), progress).await?;
    database.sequences = sequences;
    Ok(database)
}
