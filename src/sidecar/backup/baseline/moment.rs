//! Taking a baseline on the primary.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use tokio_postgres::Client;

use super::read::{self, failed};
use super::{Baseline, BaselineError, FORMAT, HOME, Sequence, moment_text, point_name};
use crate::base::causes;
use crate::topology::Way;

/// How often a moment is looked for at which no transaction ends. Each leaves a restore point in the log, and a line in
/// the server's.
const ATTEMPTS: usize = 10;

/// One snapshot for all that follows, as text.
const SNAPSHOT: &str = "select pg_current_snapshot()::text";

const POINT: &str = "
    select lsn::text as lsn, pg_walfile_name(lsn) as segment, extract(epoch from clock_timestamp())::float8 as taken,
        (select system_identifier::text from pg_control_system()) as system,
        current_setting('server_version_num')::int4 as server_version
    from pg_create_restore_point($1) as lsn";

/// A baseline that is being taken.
pub struct Take<'a> {
    /// To the primary, as who may read everything.
    pub way: &'a Way,
    /// Hears of each table when its turn comes: its database and its name.
    pub seen: &'a mut (dyn FnMut(&str, &str) + Send),
}

/// One database and the connection on which its snapshot is held.
struct Held {
    name: String,
    client: Client,
    snapshot: String,
    before: BTreeMap<String, Sequence>,
}

/// The restore point, and what was asked with it.
struct Point {
    name: String,
    lsn: String,
    segment: String,
    taken: String,
    system: String,
    server_version: u32,
    quiet: bool,
}

/// Reads everything once. The log's segment with the restore point in it is ended, so that it is archived.
pub async fn take(take: Take<'_>) -> Result<Baseline, BaselineError> {
    let Take { way, seen } = take;
    let home = connect(way, HOME).await?;
    let mut unread = BTreeMap::new();
    let mut held = hold(way, &home, &mut unread).await?;
    let point = find_moment(&home, &mut held).await?;
    let mut after = Vec::new();
    for database in &held {
        after.push(read::sequences_within(&database.client, &database.name).await?);
    }
    home.batch_execute("select pg_switch_wal()").await.map_err(failed("end the log's segment", HOME))?;
    let mut databases = BTreeMap::new();
    for (database, after) in held.into_iter().zip(after) {
        let Held { name, client, snapshot, before } = database;
        let mut contents = read::read(&client, &name, snapshot, &mut |table| seen(&name, table)).await?;
        contents.sequences = around(before, &after);
        databases.insert(name, contents);
    }
    let Point { name, lsn, segment, taken, system, server_version, quiet } = point;
    Ok(Baseline { format: FORMAT, point: name, lsn, segment, taken, system, server_version, quiet, databases, unread })
}

pub(super) async fn connect(way: &Way, database: &str) -> Result<Client, BaselineError> {
    let refused = |source| BaselineError::Connect { database: database.to_owned(), source };
    let client = way.database(database).connect().await.map_err(refused)?;
    read::prepare(&client, database).await?;
    Ok(client)
}

/// Those that can be connected to: what cannot be read is said, not passed over.
pub(super) async fn databases(home: &Client) -> Result<Vec<String>, BaselineError> {
    let sql = "select datname::text from pg_database where datallowconn and datname <> 'template0' order by 1";
    let rows = home.query(sql, &[]).await.map_err(failed("list the databases", HOME))?;
    rows.iter().map(|row| row.try_get(0).map_err(failed("list the databases", HOME))).collect()
}

async fn hold(
    way: &Way,
    home: &Client,
    unread: &mut BTreeMap<String, String>,
) -> Result<Vec<Held>, BaselineError> {
    let mut held = Vec::new();
    for name in databases(home).await? {
        let reached = async {
            let client = connect(way, &name).await?;
            let before = read::sequences(&client, &name).await?;
            Ok::<_, BaselineError>((client, before))
        };
        match reached.await {
            Ok((client, before)) => held.push(Held { name, client, snapshot: String::new(), before }),
            Err(error) => {
                unread.insert(name, causes(&error));
            }
        }
    }
    if held.is_empty() {
        let why: Vec<String> = std::mem::take(unread).into_iter().map(|(name, why)| format!("{name}: {why}")).collect();
        return Err(BaselineError::NothingRead(why.join("; ")));
    }
    Ok(held)
}

/// Snapshots first, then the restore point: what a snapshot sees stands in the log before the point.
async fn find_moment(home: &Client, held: &mut [Held]) -> Result<Point, BaselineError> {
    let mut attempt = 1;
    loop {
        let name = point_name();
        let snapshots = try_join_all(held.iter().map(snapshot)).await?;
        let wrong = || failed("make a restore point", HOME);
        let row = home.query_one(POINT, &[&name]).await.map_err(wrong())?;
        let now = home.query_one(SNAPSHOT, &[]).await.map_err(failed("take a snapshot", HOME))?;
        let now: String = now.try_get(0).map_err(failed("take a snapshot", HOME))?;
        let quiet = snapshots.iter().all(|snapshot| *snapshot == now);
        for (database, snapshot) in held.iter_mut().zip(snapshots) {
            database.snapshot = snapshot;
        }
        if quiet || attempt == ATTEMPTS {
            let server_version: i32 = row.try_get("server_version").map_err(wrong())?;
            return Ok(Point {
                name,
                lsn: row.try_get("lsn").map_err(wrong())?,
                segment: row.try_get("segment").map_err(wrong())?,
                taken: moment_text(row.try_get("taken").map_err(wrong())?),
                system: row.try_get("system").map_err(wrong())?,
                server_version: server_version.unsigned_abs(),
                quiet,
            });
        }
        attempt += 1;
    }
}

async fn snapshot(held: &Held) -> Result<String, BaselineError> {
    let wrong = || failed("take a snapshot", &held.name);
    held.client
        .batch_execute("rollback; begin isolation level repeatable read read only")
        .await
        .map_err(wrong())?;
    let row = held.client.query_one(SNAPSHOT, &[]).await.map_err(wrong())?;
    row.try_get(0).map_err(wrong())
}

/// A sequence that came or went meanwhile is left out: its row in the catalogue is compared all the same.
fn around(before: BTreeMap<String, Sequence>, after: &BTreeMap<String, Sequence>) -> BTreeMap<String, Sequence> {
    let both = before.into_iter().filter_map(|(name, first)| {
        let last = after.get(&name)?.after;
        Some((name, Sequence { after: last, ..first }))
    });
    both.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_known_from_before_and_after() {
        let at = |last| Sequence { before: last, after: last, ahead: 33, cycles: false };
        let one = |name: &str, last| BTreeMap::from([(name.to_owned(), at(last))]);
        let found = around(one("s", Some(3)), &one("s", Some(9)));
        assert_eq!(found["s"], Sequence { before: Some(3), after: Some(9), ahead: 33, cycles: false });
        assert!(around(one("gone", Some(3)), &one("new", None)).is_empty());
    }
}
