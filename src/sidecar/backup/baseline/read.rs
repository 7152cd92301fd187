//! Reading one database in one snapshot, table by table, without holding up others: a lock is kept for one table only,
//! and not waited for long.
//!
//! The reader sees everything, so nothing of the tenants' making may run as it: a cast from a table's row to text
//! could be anybody's function. `concat` calls the types' output functions, which only a superuser can make.

use std::collections::BTreeMap;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::{BaselineError, Database, Digest, HOME, Reading, Sequence};

/// The text of a row depends on all of these; and who may not see all rows is to fail rather than see some.
const SESSION: &str = "
    set search_path = pg_catalog, pg_temp;
    set row_security = off;
    set datestyle = 'ISO, MDY';
    set intervalstyle = postgres;
    set timezone = 'UTC';
    set extra_float_digits = 1;
    set bytea_output = hex;
    set xmloption = content;
    set lc_monetary = 'C';
    set quote_all_identifiers = off;
    set statement_timeout = 0;
    set idle_in_transaction_session_timeout = 0;
    set lock_timeout = '2s';
    set max_parallel_workers_per_gather = 0;
    set jit = off;";

/// What is read of a row. Columns that are written in place, outside of transactions, are left out; so are
/// passwords. Statistics are no part of what a database holds.
const TABLES: &str = "
    select c.oid, c.relfilenode, n.nspname = 'pg_catalog' as catalogue, format('%I.%I', n.nspname, c.relname) as name,
        case c.oid
            when 'pg_class'::regclass then '(to_jsonb(t.*) - ''{relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,\
                relminmxid,relhasindex,relhasrules,relhastriggers,relhassubclass}''::text[])::text'
            when 'pg_database'::regclass then '(to_jsonb(t.*) - ''{datfrozenxid,datminmxid,dathasloginevt}''::text[])::text'
            when 'pg_authid'::regclass then '(to_jsonb(t.*) - ''{rolpassword}''::text[])::text'
            else 'concat(t.*)'
        end as contents
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
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

pub(super) fn failed(doing: &'static str, database: &str) -> impl FnOnce(tokio_postgres::Error) -> BaselineError {
    let database = database.to_owned();
    move |source| BaselineError::Sql { doing, database, source }
}

pub(super) async fn prepare(client: &Client, database: &str) -> Result<(), BaselineError> {
    client.batch_execute(SESSION).await.map_err(failed("prepare to read", database))
}

/// All of it, in the transaction that is open, whose snapshot this is.
pub(super) async fn read(
    client: &Client,
    name: &str,
    snapshot: String,
    seen: &mut (dyn FnMut(&str) + Send),
) -> Result<Database, BaselineError> {
    let found = client.query(TABLES, &[&HOME]).await.map_err(failed("list the tables", name))?;
    let mut tables = BTreeMap::new();
    for row in &found {
        let table = Table::of(row).map_err(failed("list the tables", name))?;
        seen(&table.name);
        let reading = table.read(client).await.map_err(failed("read tables", name))?;
        tables.insert(table.name, reading);
    }
    let objects = objects(client).await.map_err(failed("list what there is", name))?;
    Ok(Database { snapshot, tables, sequences: BTreeMap::new(), objects })
}

async fn objects(client: &Client) -> Result<BTreeMap<String, Digest>, tokio_postgres::Error> {
    let rows = client.query(OBJECTS, &[&HOME]).await?;
    rows.iter().map(|row| Ok((row.try_get("name")?, digest(row)?))).collect()
}

fn digest(row: &Row) -> Result<Digest, tokio_postgres::Error> {
    Ok(Digest { rows: row.try_get("rows")?, sum: row.try_get("sum")? })
}

/// How often sequences are asked for: one that is dropped just then is an error.
const TRIES: usize = 3;

/// The same where a transaction is open, which is to outlive an error.
pub(super) async fn sequences_within(client: &Client, name: &str) -> Result<BTreeMap<String, Sequence>, BaselineError> {
    let run = |sql| async move { client.batch_execute(sql).await.map_err(failed("read the sequences", name)) };
    let mut tries = 1;
    loop {
        run("savepoint sequences").await?;
        let found = sequences(client, name).await;
        run("rollback to savepoint sequences; release savepoint sequences").await?;
        if found.is_ok() || tries == TRIES {
            return found;
        }
        tries += 1;
    }
}

/// By name: the last value, and how far ahead the log may be.
pub(super) async fn sequences(client: &Client, name: &str) -> Result<BTreeMap<String, Sequence>, BaselineError> {
    let rows = client.query(SEQUENCES, &[]).await.map_err(failed("read the sequences", name))?;
    let sequence = |row: &Row| {
        let last: Option<i64> = row.try_get("last")?;
        let (increment, cache): (i64, i64) = (row.try_get("increment")?, row.try_get("cache")?);
        let ahead = increment.saturating_mul(cache.saturating_add(LOGGED_AHEAD));
        Ok((row.try_get("name")?, Sequence { before: last, after: last, ahead, cycles: row.try_get("cycles")? }))
    };
    let sequences: Result<_, tokio_postgres::Error> = rows.iter().map(sequence).collect();
    sequences.map_err(failed("read the sequences", name))
}

struct Table {
    oid: u32,
    filenode: u32,
    catalogue: bool,
    name: String,
    contents: String,
}

impl Table {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            oid: row.try_get("oid")?,
            filenode: row.try_get("relfilenode")?,
            catalogue: row.try_get("catalogue")?,
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

    async fn digest(&self, client: &Client) -> Result<Reading, tokio_postgres::Error> {
        let Self { name, contents, .. } = self;
        let sql = format!(
            "select count(*) as rows, coalesce(sum(hashtextextended({contents} collate \"C\", 0)), 0)::text as sum \
             from only {name} as t"
        );
        let digest = digest(&client.query_one(&sql, &[]).await?)?;
        // A snapshot does not keep what is emptied or written anew. The lock still holds, so this cannot change.
        let same = "select coalesce(to_regclass($1)::oid = $2 and pg_relation_filenode($2) = $3, false)";
        let same = self.catalogue || client.query_one(same, &[name, &self.oid, &self.filenode]).await?.try_get(0)?;
        Ok(if same { Reading::Read(digest) } else { Reading::Moved })
    }
}

/// The server's words where they tell of damage; otherwise they may quote what is in a row.
fn why(said: &tokio_postgres::error::DbError) -> String {
    let code = said.code();
    let telling = [&SqlState::DATA_CORRUPTED, &SqlState::INDEX_CORRUPTED, &SqlState::UNDEFINED_FILE, &SqlState::IO_ERROR];
    match telling.contains(&code) || *code == SqlState::INSUFFICIENT_PRIVILEGE {
        true => format!("{} ({})", crate::sql::one_line(said.message()), code.code()),
        false => format!("SQLSTATE {}", code.code()),
    }
}
