//! Taking a baseline on the primary.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::seat::Seat;
use super::{Baseline, BaselineError, Database, FORMAT, Sequence, moment_text, point_name, read};
use crate::base::causes;
use crate::sidecar::backup::pgbackrest::Progress;
use crate::topology::Way;

/// How often a moment is looked for at which no transaction ends. Each leaves a restore point in the log, and a line in
/// the server's.
const ATTEMPTS: usize = 10;

/// A snapshot is held by a connection, and those of others are not to be missing.
const MOST: &str = "select greatest(current_setting('max_connections')::int4 / 5, 4)";

/// One snapshot for all that follows, as text.
const SNAPSHOT: &str = "select pg_current_snapshot()::text";

const POINT: &str = "
    select lsn::text as lsn, pg_walfile_name(lsn) as segment, extract(epoch from clock_timestamp())::float8 as taken,
        (select system_identifier::text from pg_control_system()) as system,
        current_setting('server_version_num')::int4 as server_version,
        (select extract(epoch from clock_timestamp() - last_archived_time)::float8 from pg_stat_archiver) as archive_age
    from pg_create_restore_point($1) as lsn";

/// One database and the connection on which its snapshot is held.
struct Held {
    seat: Seat,
    snapshot: String,
    before: BTreeMap<String, Sequence>,
}

/// Reads everything once. The log's segment with the restore point in it is ended, so that it is archived.
///
/// `way`: to the primary, as who may read everything. `home`: the database where the functions are granted that backups
/// need.
pub async fn take(way: &Way, home: &str, progress: &mut dyn Progress) -> Result<Baseline, BaselineError> {
    let at_home = Seat::take(way, home).await?;
    let mut unread = BTreeMap::new();
    let mut held = hold(way, &at_home, &mut unread).await?;
    let mut baseline = find_moment(&at_home, &mut held).await?;
    baseline.unread = unread;
    let mut after = Vec::new();
    for database in &held {
        after.push(read::sequences_within(&database.seat).await);
    }
    at_home.run("end the log's segment", "select pg_switch_wal()").await?;
    for (Held { seat, snapshot, before }, after) in held.into_iter().zip(after) {
        let contents = async {
            let after = after?;
            let contents = read::read(&seat, home, snapshot, progress).await?;
            Ok::<_, BaselineError>(Database { sequences: around(before, &after), ..contents })
        };
        // One may be dropped meanwhile, and its sessions ended: the others count all the same.
        match contents.await {
            Ok(contents) => drop(baseline.databases.insert(seat.database, contents)),
            Err(error) => drop(baseline.unread.insert(seat.database, causes(&error))),
        }
    }
    Ok(baseline)
}

/// What cannot be read is said, not passed over.
async fn hold(way: &Way, home: &Seat, unread: &mut BTreeMap<String, String>) -> Result<Vec<Held>, BaselineError> {
    let doing = "ask how many connections there may be";
    let most: i32 = home.value(doing, MOST, &[]).await?;
    let most = usize::try_from(most).unwrap_or(1);
    let mut held = Vec::new();
    for (name, lets_in) in home.databases().await? {
        if !lets_in || held.len() >= most {
            let why = match lets_in {
                true => format!("a baseline holds {most} databases open at once, and others had their turn"),
                false => "it allows no connections".to_owned(),
            };
            unread.insert(name, why);
            continue;
        }
        let reached = async {
            let seat = Seat::take(way, &name).await?;
            let before = read::sequences(&seat).await?;
            Ok::<_, BaselineError>(Held { seat, snapshot: String::new(), before })
        };
        match reached.await {
            Ok(database) => held.push(database),
            Err(error) => drop(unread.insert(name, causes(&error))),
        }
    }
    if held.is_empty() {
        let why: Vec<String> = unread.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        return Err(BaselineError::NothingRead(why.join("; ")));
    }
    Ok(held)
}

/// Snapshots first, then the restore point: what a snapshot sees stands in the log before the point.
async fn find_moment(home: &Seat, held: &mut [Held]) -> Result<Baseline, BaselineError> {
    let mut attempt = 1;
    loop {
        let snapshots = try_join_all(held.iter().map(|held| snapshot(&held.seat))).await?;
        let mut baseline = point(home).await?;
        let now: String = home.value("take a snapshot", SNAPSHOT, &[]).await?;
        baseline.quiet = snapshots.iter().all(|snapshot| *snapshot == now);
        for (database, snapshot) in held.iter_mut().zip(snapshots) {
            database.snapshot = snapshot;
        }
        if baseline.quiet || attempt == ATTEMPTS {
            return Ok(baseline);
        }
        attempt += 1;
    }
}

/// The moment, and nothing read yet.
async fn point(home: &Seat) -> Result<Baseline, BaselineError> {
    let (name, doing) = (point_name(), "make a restore point");
    let row = home.row(doing, POINT, &[&name]).await?;
    let read = || {
        let server_version: i32 = row.try_get("server_version")?;
        Ok(Baseline {
            format: FORMAT,
            lsn: row.try_get("lsn")?,
            segment: row.try_get("segment")?,
            taken: moment_text(row.try_get("taken")?),
            system: row.try_get("system")?,
            server_version: server_version.unsigned_abs(),
            archive_age: row.try_get("archive_age")?,
            home: home.database.clone(),
            quiet: false,
            databases: BTreeMap::new(),
            unread: BTreeMap::new(),
            point: name.clone(),
        })
    };
    read().map_err(home.failed(doing))
}

async fn snapshot(seat: &Seat) -> Result<String, BaselineError> {
    let doing = "take a snapshot";
    seat.run(doing, "rollback; begin isolation level repeatable read read only").await?;
    seat.value(doing, SNAPSHOT, &[]).await
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
