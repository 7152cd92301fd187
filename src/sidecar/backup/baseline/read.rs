//! Reading one database in one snapshot, table by table, without holding up others: a lock is kept for one table only,
//! and not waited for long.
//!
//! The reader sees everything, so nothing of the tenants' making may run as it. Their tables are read by COPY, which plans
//! nothing: a query would have the planner compute what an index or a statistics object on the table is made of. The types'
//! output functions only a superuser can make. Who asks for a materialized view, which COPY does not take, asks for one
//! that has neither, and that nobody but a superuser can give them while it is asked for: no lock that a reader can have
//! keeps its owner from it.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::TryStreamExt;
use sha2::{Digest as _, Sha256};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::seat::Seat;
use super::{BaselineError, Database, Digest, Reading, Sequence};
use crate::sidecar::backup::pgbackrest::Progress;

/// What is read of a row. Columns that are written in place, outside of transactions, are left out; so are
/// passwords. Statistics are no part of what a database holds.
const TABLES: &str = "
    select c.oid, c.relfilenode, n.nspname = 'pg_catalog' as catalogue, c.relkind = 'm' as view,
        c.relkind = 'm' and (o.rolcanlogin and not o.rolsuper
            or exists (select from pg_index i where i.indrelid = c.oid and (i.indexprs is not null or i.indpred is not null))
            or exists (select from pg_statistic_ext s where s.stxrelid = c.oid)
            or exists (select from pg_roles r where r.rolcanlogin and not r.rolsuper and pg_has_role(r.oid, o.oid, 'member')))
            as planned,
        format('%I.%I', n.nspname, c.relname) as name,
        case c.oid
            when 'pg_class'::regclass then '(to_jsonb(t.*) - ''{relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,\
                relminmxid,relhasindex,relhasrules,relhastriggers,relhassubclass}''::text[])::text'
            when 'pg_database'::regclass then '(to_jsonb(t.*) - ''{datfrozenxid,datminmxid,dathasloginevt}''::text[])::text'
            when 'pg_authid'::regclass then '(to_jsonb(t.*) - ''{rolpassword}''::text[])::text'
            else 'concat(t.*)'
        end as contents
    from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_roles o on o.oid = c.relowner
    where c.relkind in ('r', 'm') and c.relpersistence = 'p' and c.relispopulated and n.nspname <> 'pg_toast'
        and c.oid not in ('pg_statistic'::regclass, 'pg_statistic_ext_data'::regclass)
        and (not c.relisshared or current_database() = $1)
    order by name";

const SEQUENCES: &str = "
    select format('%I.%I', n.nspname, c.relname) as name,
        case when pg_relation_filenode(c.oid) is not null then pg_sequence_last_value(c.oid) end as last,
        s.seqincrement as increment, s.seqcache as cache, s.seqcycle as cycles
    from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace
    where c.relpersistence = 'p'";

/// A sequence's record in the log says a value that is so many further on (SEQ_LOG_VALS in sequence.c).
const LOGGED_AHEAD: i64 = 32;

/// One row for each thing that people have made, with all that the catalogues say of it.
const OBJECTS: &str = include_str!("objects.sql");

/// All of it, in the transaction that is open, whose snapshot this is. `home`: where what databases share is read.
pub(super) async fn read(
    seat: &Seat,
    home: &str,
    snapshot: String,
    progress: &mut dyn Progress,
) -> Result<Database, BaselineError> {
    progress.step(&format!("reading database {}", seat.database));
    let found = seat.rows("list the tables", TABLES, &[&home]).await?;
    let mut tables = BTreeMap::new();
    for (done, row) in found.iter().enumerate() {
        let table = Table::of(row).map_err(seat.failed("list the tables"))?;
        progress.part(100.0 * done as f64 / found.len() as f64);
        let reading = table.read(seat.client()).await.map_err(seat.failed("read tables"))?;
        tables.insert(table.name, reading);
    }
    let doing = "list what there is";
    let objects = seat.rows(doing, OBJECTS, &[&home]).await?;
    let objects = objects.iter().map(|row| Ok((row.try_get("name")?, digest(row)?)));
    let objects = objects.collect::<Result<_, _>>().map_err(seat.failed(doing))?;
    Ok(Database { snapshot, tables, sequences: BTreeMap::new(), objects })
}

fn digest(row: &Row) -> Result<Digest, tokio_postgres::Error> {
    Ok(Digest { rows: row.try_get("rows")?, sum: row.try_get("sum")? })
}

/// How often sequences are asked for: one that is dropped just then is an error.
const TRIES: usize = 3;

/// The same where a transaction is open, which is to outlive an error.
pub(super) async fn sequences_within(seat: &Seat) -> Result<BTreeMap<String, Sequence>, BaselineError> {
    let mut tries = 1;
    loop {
        seat.run("read the sequences", "savepoint sequences").await?;
        let found = sequences(seat).await;
        seat.run("read the sequences", "rollback to savepoint sequences; release savepoint sequences").await?;
        if found.is_ok() || tries == TRIES {
            return found;
        }
        tries += 1;
    }
}

/// By name: the last value, and how far ahead the log may be.
pub(super) async fn sequences(seat: &Seat) -> Result<BTreeMap<String, Sequence>, BaselineError> {
    let doing = "read the sequences";
    let rows = seat.rows(doing, SEQUENCES, &[]).await?;
    let sequence = |row: &Row| {
        let last: Option<i64> = row.try_get("last")?;
        let (increment, cache): (i64, i64) = (row.try_get("increment")?, row.try_get("cache")?);
        let ahead = increment.saturating_mul(cache.saturating_add(LOGGED_AHEAD));
        Ok((row.try_get("name")?, Sequence { before: last, after: last, ahead, cycles: row.try_get("cycles")? }))
    };
    let sequences: Result<_, tokio_postgres::Error> = rows.iter().map(sequence).collect();
    sequences.map_err(seat.failed(doing))
}

struct Table {
    oid: u32,
    filenode: u32,
    catalogue: bool,
    view: bool,
    /// Of a materialized view: whether a plan for it computes what others have made, or may by the time that it is made.
    planned: bool,
    name: String,
    contents: String,
}

impl Table {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            oid: row.try_get("oid")?,
            filenode: row.try_get("relfilenode")?,
            catalogue: row.try_get("catalogue")?,
            view: row.try_get("view")?,
            planned: row.try_get("planned")?,
            name: row.try_get("name")?,
            contents: row.try_get("contents")?,
        })
    }

    /// The lock on it goes with the savepoint. An error is the connection's: what is wrong with the table is a
    /// reading.
    async fn read(&self, client: &Client) -> Result<Reading, tokio_postgres::Error> {
        client.batch_execute("savepoint reading").await?;
        let reading = match self.digest(client).await {
            Ok(reading) => reading,
            Err(error) => match error.as_db_error() {
                Some(said) if *said.code() == SqlState::LOCK_NOT_AVAILABLE => Reading::Locked,
                Some(said) if *said.code() == SqlState::UNDEFINED_TABLE => Reading::Moved,
                Some(said) => Reading::Failed(why(said)),
                None => return Err(error),
            },
        };
        client.batch_execute("rollback to savepoint reading; release savepoint reading").await?;
        Ok(reading)
    }

    /// A message of COPY is a row (protocol documentation, 55.2.6).
    async fn copied(&self, client: &Client) -> Result<Digest, tokio_postgres::Error> {
        let mut stream = pin!(client.copy_out(&format!("copy {} to stdout", self.name)).await?);
        let (mut rows, mut sum) = (0, 0_u128);
        while let Some(row) = stream.try_next().await? {
            rows += 1;
            sum = sum.wrapping_add(hash(&row));
        }
        Ok(Digest { rows, sum: sum.to_string() })
    }

    async fn digest(&self, client: &Client) -> Result<Reading, tokio_postgres::Error> {
        let Self { name, contents, .. } = self;
        if self.planned {
            return Ok(Reading::Planned);
        }
        let digest = if self.catalogue || self.view {
            let sql = format!(
                "select count(*) as rows, coalesce(sum(hashtextextended({contents} collate \"C\", 0)), 0)::text as sum \
                 from only {name} as t"
            );
            digest(&client.query_one(&sql, &[]).await?)?
        } else {
            self.copied(client).await?
        };
        // A snapshot does not keep what is emptied or written anew. The lock still holds, so this cannot change.
        let same = "select coalesce(to_regclass($1)::oid = $2 and pg_relation_filenode($2) = $3, false)";
        let same = self.catalogue || client.query_one(same, &[name, &self.oid, &self.filenode]).await?.try_get(0)?;
        Ok(if same { Reading::Read(digest) } else { Reading::Moved })
    }
}

/// Its place in the sum of a table's rows.
fn hash(row: &[u8]) -> u128 {
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(row));
    u128::from(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

/// The server's words where they tell of damage; otherwise they may quote what is in a row.
fn why(said: &tokio_postgres::error::DbError) -> String {
    let code = said.code();
    let telling =
        [&SqlState::DATA_CORRUPTED, &SqlState::INDEX_CORRUPTED, &SqlState::UNDEFINED_FILE, &SqlState::IO_ERROR];
    match telling.contains(&code) || *code == SqlState::INSUFFICIENT_PRIVILEGE {
        true => format!("{} ({})", crate::sql::one_line(said.message()), code.code()),
        false => format!("SQLSTATE {}", code.code()),
    }
}
