//! What is asked of pg_partman, and of PostgreSQL about what it made. All by one connection that has been made ready.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::types::{FromSqlOwned, ToSql};
use tokio_postgres::{Client, Row};

use super::error::{DRIVEN, MaintenanceError};
use super::lock::Lock;
use super::plan::Table;
use super::table::Deeds;
use crate::config::{Maintenance, Partitions};
use crate::sql::{identifier, literal};

/// More rows than this are not counted.
const COUNTED: i64 = 10_000;

const PROTECT: &str = include_str!("protect.sql");

/// Its partitions: where each begins and ends. `$1` is the table's schema, `$2` its name.
const PARTS: &str = "
    with part as (
        select c.oid, format('%I.%I', n.nspname, c.relname) as name, pg_get_expr(c.relpartbound, c.oid) as bound
        from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
        where i.inhparent = to_regclass(format('%I.%I', $1::text, $2::text)) and not i.inhdetachpending),
    bounded as (
        select oid, name, bound = 'DEFAULT' as is_default, substring(bound from 'FROM \\(''([^'']+)''\\)')::timestamptz as low,
            substring(bound from 'TO \\(''([^'']+)''\\)')::timestamptz as high
        from part)";

/// How a partitioned table is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// But for the default one.
    pub partitions: i64,
    pub oldest: Option<String>,
    pub newest: Option<String>,
    /// Those that no time of now falls into yet.
    pub ahead: i64,
    /// Rows that fit into no partition; no more than 10000 are counted.
    pub default_rows: i64,
}

/// Makes a connection one for this work: names are found where they are written, and times are UTC.
pub(super) async fn ready(client: &Client, rules: &Maintenance) -> Result<(), MaintenanceError> {
    let (lock, statement) = (rules.lock_timeout.as_millis(), rules.statement_timeout.as_millis());
    let sql = format!(
        "set search_path to ''; set timezone to 'UTC'; set datestyle to 'ISO'; set row_security to on;
         set lock_timeout to {lock}; set statement_timeout to {statement};
         set idle_in_transaction_session_timeout to 0; set default_transaction_isolation to 'read committed';
         set client_min_messages to warning;
         select set_config(name, '10s', false) from pg_settings where name = 'client_connection_check_interval'"
    );
    client.batch_execute(&sql).await.map_err(MaintenanceError::sql("preparing the connection"))
}

/// Another version may mean something else by the same words.
pub(super) async fn driven(client: &Client, database: &str) -> Result<(), MaintenanceError> {
    let sql =
        "select coalesce((select extversion from pg_catalog.pg_extension where extname = 'pg_partman'), 'missing')";
    let row = client.query_one(sql, &[]).await.map_err(MaintenanceError::sql("looking for pg_partman"))?;
    let version: String = value(&row, 0)?;
    let known = version.strip_prefix(DRIVEN).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    if known { Ok(()) } else { Err(MaintenanceError::Version { version, database: database.to_owned() }) }
}

/// A tenant's own code may have changed what names mean in the tenant's own session, so an answer may be of another type.
pub(super) fn value<T: FromSqlOwned>(row: &Row, column: usize) -> Result<T, MaintenanceError> {
    row.try_get(column).map_err(MaintenanceError::sql("reading an answer"))
}

/// One table, by one connection.
pub(super) struct Partman<'a> {
    pub client: &'a Client,
    pub table: &'a Table,
}

/// Who owns a table, and whether it can be kept at all.
#[derive(Debug)]
pub(super) struct Found {
    pub owner: String,
    pub superuser: bool,
    /// pg_partman knows it.
    pub known: bool,
}

pub(super) struct Partition {
    pub oid: u32,
    /// As SQL writes it.
    pub name: String,
    /// Where it ends.
    pub high: String,
    /// All in it is as old.
    pub over: bool,
}

/// How a transaction is to end.
pub(super) enum End<T> {
    Commit(T),
    TakeBack(T),
}

impl Partman<'_> {
    fn rules(&self) -> &Partitions {
        &self.table.rules
    }

    /// As SQL writes it.
    pub fn name(&self) -> String {
        format!("{}.{}", identifier(&self.table.schema), identifier(&self.rules().table))
    }

    fn place(&self) -> [&(dyn ToSql + Sync); 2] {
        [&self.table.schema, &self.rules().table]
    }

    async fn run(&self, doing: &str, sql: &str) -> Result<(), MaintenanceError> {
        self.client.batch_execute(sql).await.map_err(self.failed(doing))
    }

    pub fn failed(&self, doing: &str) -> impl FnOnce(tokio_postgres::Error) -> MaintenanceError + use<> {
        MaintenanceError::sql(format!("{doing} {}", self.table.parent()))
    }

    /// `None`: there is no such table.
    pub async fn find(&self) -> Result<Option<Found>, MaintenanceError> {
        let sql = "select r.rolname::text, r.rolsuper, c.relkind = 'p',
                exists (select from partman.part_config p where p.parent_table = $3),
                coalesce((select a.atttypid in ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
                    from pg_partitioned_table p join pg_attribute a on a.attrelid = p.partrelid
                    where p.partrelid = c.oid and p.partstrat = 'r' and p.partnatts = 1
                        and a.attnum = p.partattrs[0] and a.attname = $4), false),
                row_security_active(c.oid),
                coalesce((select p.partition_interval::interval = $5::text::interval and p.control = $4
                    from partman.part_config p where p.parent_table = $3), true)
            from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_roles r on r.oid = c.relowner
            where n.nspname = $1::text and c.relname = $2::text and c.relkind in ('r', 'p')";
        let (parent, [schema, name]) = (self.table.parent(), self.place());
        let (column, every) = (&self.rules().column, self.rules().every.interval());
        let row = self.client.query_opt(sql, &[schema, name, &parent, column, &every]).await;
        let Some(row) = row.map_err(self.failed("looking at"))? else { return Ok(None) };
        if !value::<bool>(&row, 2)? {
            return Err(MaintenanceError::NotPartitioned(parent));
        }
        if !value::<bool>(&row, 4)? {
            return Err(MaintenanceError::Column { table: parent, column: self.rules().column.clone() });
        }
        // Neither seen nor deleted is what it hides.
        if value::<bool>(&row, 5)? {
            return Err(MaintenanceError::RowSecurity(parent));
        }
        if !value::<bool>(&row, 6)? {
            return Err(MaintenanceError::Interval(parent));
        }
        Ok(Some(Found { owner: value(&row, 0)?, superuser: value(&row, 1)?, known: value(&row, 3)? }))
    }

    /// All of it, or nothing.
    pub async fn transaction<T>(
        &self,
        work: impl Future<Output = Result<End<T>, MaintenanceError>>,
    ) -> Result<T, MaintenanceError> {
        self.run("beginning with", "begin").await?;
        let done = work.await;
        let end = if matches!(done, Ok(End::Commit(_))) { "commit" } else { "rollback" };
        let ended = self.run("finishing", end).await;
        let (End::Commit(it) | End::TakeBack(it)) = done?;
        ended.map(|()| it)
    }

    /// The partitions of now and those ahead, each as protected as the table, in one transaction. They are made even while
    /// somebody keeps pg_partman from its own maintenance; that is an error all the same.
    pub async fn make(&self, most_rows: usize, deeds: &mut Deeds) -> Result<(), MaintenanceError> {
        let before = self.standing().await?.partitions;
        let locked = self.transaction(self.make_within(most_rows)).await?;
        let standing = self.standing().await?;
        deeds.made += u64::try_from(standing.partitions - before).unwrap_or(0);
        locked?;
        let (ahead, premake) = (standing.ahead, self.rules().premake);
        match usize::try_from(ahead).is_ok_and(|ahead| ahead >= premake) {
            true => Ok(()),
            false => Err(MaintenanceError::Behind { table: self.table.parent(), ahead, premake }),
        }
    }

    /// Whether somebody has pg_partman's lock.
    async fn make_within(&self, most_rows: usize) -> Result<End<Result<(), MaintenanceError>>, MaintenanceError> {
        self.configure().await?;
        self.take_in(most_rows).await?;
        let locked = self.lock(Lock::Make).await;
        match &locked {
            Ok(()) => {
                let sql = "select partman.run_maintenance($1, p_analyze := false, p_jobmon := false)";
                let made = self.client.execute(sql, &[&self.table.parent()]).await;
                made.map_err(self.failed("making partitions of"))?;
            }
            Err(MaintenanceError::Locked { .. }) => {}
            Err(_) => return locked.map(|()| End::TakeBack(Ok(()))),
        }
        self.make_up().await?;
        self.run("protecting the partitions of", &PROTECT.replace("TABLE", &literal(&self.name()))).await?;
        Ok(End::Commit(locked))
    }

    /// What pg_partman knows of the table, which a tenant may have changed of its own one.
    async fn configure(&self) -> Result<(), MaintenanceError> {
        let (parent, rules) = (self.table.parent(), self.rules());
        let premake = i32::try_from(rules.premake).unwrap_or(i32::MAX);
        if !self.find().await?.is_some_and(|found| found.known) {
            let sql = "select partman.create_parent(p_parent_table := $1, p_control := $2, p_type := 'native',
                p_interval := $3, p_premake := $4, p_automatic_maintenance := 'off', p_jobmon := false,
                p_template_table := 'partman.pgward_template')";
            let interval = rules.every.partman();
            let asked = self.client.execute(sql, &[&parent, &rules.column, &interval, &premake]).await;
            asked.map_err(self.failed("creating the partitions of"))?;
        }
        // What time it is decides what is made, and not the rows: one that a tenant dates far ahead would have a
        // partition made for every day until then. What expires is pgward's to say, class by class.
        let sql =
            "update partman.part_config set premake = $2, infinite_time_partitions = true, ignore_default_data = true,
                automatic_maintenance = 'off', inherit_privileges = false, undo_in_progress = false,
                sub_partition_set_full = false, drop_cascade_fk = false, retention = null, retention_schema = null
            where parent_table = $1 and (premake, infinite_time_partitions, ignore_default_data, automatic_maintenance,
                    inherit_privileges, undo_in_progress, sub_partition_set_full, drop_cascade_fk, retention is null,
                    retention_schema is null)
                is distinct from ($2, true, true, 'off', false, false, false, false, true, true)";
        self.client.execute(sql, &[&parent, &premake]).await.map(|_| ()).map_err(self.failed("configuring"))
    }

    /// pg_partman counts a month as 30 days to find how many are ahead, and so may make too few.
    async fn make_up(&self) -> Result<(), MaintenanceError> {
        let sql = format!(
            "{PARTS}, made as (select max(high) as newest, count(*) filter (where low > now()) as ahead from bounded),
            due as (
                select s, ahead, count(*) filter (where s > now()) over (order by s) as nth
                from made, generate_series(newest, now() + ($3::int + 1) * {every}::interval, {every}::interval) s)
            select s::text from due where ahead < $3::int and nth <= $3::int - ahead order by s",
            every = literal(self.rules().every.interval())
        );
        let (premake, [schema, name]) = (i32::try_from(self.rules().premake).unwrap_or(i32::MAX), self.place());
        let rows = self.client.query(&sql, &[schema, name, &premake]).await;
        for row in rows.map_err(self.failed("looking at the partitions of"))? {
            self.make_one(&value::<String>(&row, 0)?).await?;
        }
        Ok(())
    }

    /// Rows of the default partition stand in the way of a partition that they belong into.
    async fn take_in(&self, most_rows: usize) -> Result<(), MaintenanceError> {
        let Some(default) = self.default_partition().await? else { return Ok(()) };
        let column = identifier(&self.rules().column);
        let every = literal(self.rules().every.interval());
        let premake = self.rules().premake + 1;
        let sql = format!(
            "{PARTS}, made as (select max(high) as newest from bounded),
            due as (
                select s as low, s + {every}::interval as high
                from made, generate_series(newest, now() + {premake} * {every}::interval, {every}::interval) s),
            counted as (
                select low, high, (select count(*) from (
                    select from {default} d where d.{column} >= low and d.{column} < high limit $3) few) as rows
                from due)
            select low::text, high::text, rows from counted
            where low <= (select max(low) from counted where rows > 0) order by low"
        );
        let (most, [schema, name]) = (i64::try_from(most_rows).unwrap_or(i64::MAX), self.place());
        let rows = self.client.query(&sql, &[schema, name, &most.saturating_add(1)]).await;
        let rows = rows.map_err(self.failed("looking into the default partition of"))?;
        let in_the_way = |why| MaintenanceError::InTheWay { table: self.table.parent(), why };
        if !rows.is_empty() && self.has_followers().await? {
            return Err(in_the_way("its rows have triggers, or rows of other tables refer to them"));
        }
        // Those before it, too: pg_partman goes on behind the last.
        for row in &rows {
            let (low, high): (String, String) = (value(row, 0)?, value(row, 1)?);
            match value::<i64>(row, 2)? {
                0 => self.make_one(&low).await?,
                rows if rows > most => return Err(in_the_way("they are more than maintenance.max_rows")),
                _ => self.take_in_one(&default, &low, &high).await?,
            }
        }
        Ok(())
    }

    async fn take_in_one(&self, default: &str, low: &str, high: &str) -> Result<(), MaintenanceError> {
        let doing = "taking rows out of the default partition of";
        let (table, column) = (self.name(), identifier(&self.rules().column));
        let aside = format!("{}.pgward_aside", identifier(&self.table.schema));
        let columns = self.columns().await?;
        let (from, to) = (literal(low), literal(high));
        let sql = format!(
            "lock table only {default} in access exclusive mode;
             create table {aside} as select {columns} from {default} limit 0;
             with gone as (delete from only {default} where {column} >= {from} and {column} < {to} returning {columns})
             insert into {aside} select {columns} from gone;"
        );
        self.run(doing, &sql).await?;
        self.make_one(low).await?;
        let sql = format!(
            "insert into {table} ({columns}) overriding system value select {columns} from {aside}; drop table {aside}"
        );
        self.run(doing, &sql).await
    }

    async fn make_one(&self, low: &str) -> Result<(), MaintenanceError> {
        let sql = "select partman.create_partition_time($1, array[$2::text::timestamptz], false)";
        let made = self.client.execute(sql, &[&self.table.parent(), &low]).await;
        made.map(|_| ()).map_err(self.failed("making a partition of"))
    }

    /// All that can be written.
    async fn columns(&self) -> Result<String, MaintenanceError> {
        let sql = "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
            where attrelid = to_regclass(format('%I.%I', $1::text, $2::text)) and attnum > 0 and not attisdropped
            and attgenerated = ''";
        let row = self.client.query_one(sql, &self.place()).await.map_err(self.failed("looking at"))?;
        Ok(value::<Option<String>>(&row, 0)?.unwrap_or_default())
    }

    /// Whether something else happens where a row of it is deleted.
    async fn has_followers(&self) -> Result<bool, MaintenanceError> {
        let sql = "select exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal)
                or exists (select from pg_constraint f where f.confrelid = c.oid and f.contype = 'f')
            from pg_class c where c.oid = to_regclass(format('%I.%I', $1::text, $2::text))";
        let row = self.client.query_one(sql, &self.place()).await.map_err(self.failed("looking at"))?;
        value(&row, 0)
    }

    pub async fn default_partition(&self) -> Result<Option<String>, MaintenanceError> {
        let sql = format!("{PARTS} select name from bounded where is_default");
        let row = self.client.query_opt(&sql, &self.place()).await.map_err(self.failed("looking at"))?;
        row.map(|row| value(&row, 0)).transpose()
    }

    /// Those that ended so long ago, the oldest first.
    pub async fn older(&self, age: Duration) -> Result<Vec<Partition>, MaintenanceError> {
        let mut all = self.begun(age).await?;
        all.retain(|partition| partition.over);
        Ok(all)
    }

    /// Those, and where a partition is longer than that, those which began so long ago.
    pub async fn begun(&self, age: Duration) -> Result<Vec<Partition>, MaintenanceError> {
        let sql = format!(
            "{PARTS}, aged as (
                select oid, name, low, high, ($3::text || ' seconds')::interval as age, now() as now from bounded)
            select oid, name, high::text, high < now - age from aged
            where high < now - age or low < now - age and high > low + age order by low"
        );
        let [schema, name] = self.place();
        let rows = self.client.query(&sql, &[schema, name, &age.as_secs().to_string()]).await;
        let rows = rows.map_err(self.failed("looking at the partitions of"))?;
        let read = |row: &Row| {
            Ok(Partition { oid: value(row, 0)?, name: value(row, 1)?, high: value(row, 2)?, over: value(row, 3)? })
        };
        rows.iter().map(read).collect()
    }

    pub async fn standing(&self) -> Result<Standing, MaintenanceError> {
        let rows = match self.default_partition().await? {
            Some(default) => format!("(select count(*) from (select from only {default} limit {COUNTED}) few)"),
            None => "0::bigint".to_owned(),
        };
        let sql = format!(
            "{PARTS} select count(low), min(low)::text, max(high)::text, count(*) filter (where low > now()), {rows}
            from bounded"
        );
        let row = self.client.query_one(&sql, &self.place()).await.map_err(self.failed("looking at"))?;
        Ok(Standing {
            partitions: value(&row, 0)?,
            oldest: value(&row, 1)?,
            newest: value(&row, 2)?,
            ahead: value(&row, 3)?,
            default_rows: value(&row, 4)?,
        })
    }
}
