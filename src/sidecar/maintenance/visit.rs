//! One database: its tables in turn, and the book of when each had its turn. One node does it at a time: it holds a lock
//! on a table that no tenant may lock.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::error::{MaintenanceError, TIMEOUT};
use super::leave::Leave;
use super::partman::{Standing, driven, ready, value};
use super::pass::{Pass, Turn, Verdict, Which};
use super::plan::{Job, Table};
use super::table::{Deeds, Task};
use crate::config::{Login, Maintenance};
use crate::sql::identifier;
use crate::topology::{Errand, Way};

/// What servers are told that connections are for.
const NAME: &str = "pgward maintenance";

const READING: &str = "reading partman.pgward_state";

/// The first wait after a failure; it doubles up to the interval.
const AGAIN: Duration = Duration::from_secs(10);

pub(super) struct Visit<'a> {
    pass: &'a Pass<'a>,
    job: &'a Job,
    which: Which,
    /// `None`: it is gone.
    seat: Option<Client>,
    /// The tenant's whose tables have their turn.
    own: Option<(&'a Login, Client)>,
    /// Holds the lock as long as it lasts.
    guard: Option<Client>,
}

/// What the book has of a table.
#[derive(Debug, Default)]
struct Past {
    succeeded: Option<u64>,
    since_tried: Option<Duration>,
    failures: u32,
    timed_out: bool,
}

impl<'a> Visit<'a> {
    pub async fn begin(pass: &'a Pass<'a>, job: &'a Job, which: Which) -> Result<Self, MaintenanceError> {
        let seat = connect(pass, job, pass.login).await?;
        let mut visit = Self { pass, job, which, seat: Some(seat), own: None, guard: None };
        bounded(pass, visit.enter()).await?;
        Ok(visit)
    }

    async fn enter(&mut self) -> Result<(), MaintenanceError> {
        let seat = self.seat()?;
        // An upgrade may have given functions back the rights that the setup took from them.
        let sql = "select to_regclass('partman.pgward_state') is not null
                and to_regclass('partman.part_config') is not null
                and not exists (select from pg_proc where pronamespace = to_regnamespace('partman') and prosecdef)";
        let row = seat.query_one(sql, &[]).await.map_err(MaintenanceError::sql("looking for pg_partman"))?;
        if !value::<bool>(&row, 0)? {
            return Err(MaintenanceError::NotSetUp(self.job.database.clone()));
        }
        driven(seat, &self.job.database).await?;
        if self.which != Which::None {
            self.guard = guard(self.pass, self.job).await?;
        }
        if self.guard.is_some() {
            forget(self.seat()?).await?;
        }
        Ok(())
    }

    pub async fn turn(&mut self, table: &'a Table) -> Turn {
        let mut turn = Turn::new(&self.job.database, table);
        if let Err(error) = self.table(table, &mut turn).await {
            turn.fail(&error);
            // What it has left in the tenant's session is not known.
            self.own = None;
        }
        turn
    }

    /// Lets the next one in at once.
    pub async fn end(self) {
        if let Some(guard) = self.guard {
            // If the connection is gone, so is its lock.
            let _ =
                tokio::time::timeout(self.pass.settings.pool.connect_timeout, guard.batch_execute("rollback")).await;
        }
    }

    /// None is left once a connection is gone, be it the one with the lock: another node may be at work by then.
    fn seat(&self) -> Result<&Client, MaintenanceError> {
        let alone = !self.guard.as_ref().is_some_and(Client::is_closed);
        self.seat.as_ref().filter(|_| alone).ok_or_else(|| MaintenanceError::Gone(self.job.database.clone()))
    }

    async fn table(&mut self, table: &'a Table, turn: &mut Turn) -> Result<(), MaintenanceError> {
        let rules = &self.pass.settings.maintenance;
        let past = self.past(table).await?;
        let due = match self.which {
            Which::Due => past.wait(rules).is_zero(),
            Which::All => true,
            Which::None => false,
        };
        turn.succeeded = past.succeeded;
        turn.next = Some(past.wait(rules));
        if !due || self.guard.is_none() {
            let looked = bounded(self.pass, self.look(table)).await;
            turn.standing = self.heard(table, looked).await?;
            turn.verdict = match due {
                _ if turn.standing.is_none() => Verdict::Absent,
                true => Verdict::Elsewhere,
                false => Verdict::Looked,
            };
            return Ok(());
        }
        turn.next = None;
        let done = bounded(self.pass, self.work(table, &mut turn.deeds)).await;
        let done = self.heard(table, done).await;
        let noted = self.note(table, done.as_ref().err()).await;
        if let Ok(past) = &noted {
            turn.succeeded = past.succeeded;
            turn.next = Some(past.wait(rules));
        }
        // What the table failed for comes before what became of the book.
        turn.standing = done?;
        turn.verdict = if turn.standing.is_some() { Verdict::Done } else { Verdict::Absent };
        noted.map(|_| ())
    }

    /// A session that did not answer in time is not asked again.
    async fn heard<T>(&mut self, table: &Table, done: Result<T, MaintenanceError>) -> Result<T, MaintenanceError> {
        if matches!(done, Err(MaintenanceError::Timeout { .. })) && table.owner.is_none() {
            self.seat = connect(self.pass, self.job, self.pass.login).await.ok();
        }
        done
    }

    async fn look(&mut self, table: &'a Table) -> Result<Option<Standing>, MaintenanceError> {
        self.sit(table).await?;
        self.task(table)?.look().await
    }

    async fn work(&mut self, table: &'a Table, deeds: &mut Deeds) -> Result<Option<Standing>, MaintenanceError> {
        self.sit(table).await?;
        let task = self.task(table)?;
        task.run(deeds).await?;
        task.look().await
    }

    fn task<'b>(&'b self, table: &'b Table) -> Result<Task<'b>, MaintenanceError> {
        let client = match self.own.as_ref().filter(|_| table.owner.is_some()) {
            Some((_, client)) => client,
            None => self.seat()?,
        };
        Ok(Task { client, leave: Leave { pass: self.pass, database: &self.job.database, table } })
    }

    /// What is a tenant's own is worked on by the tenant's own login.
    async fn sit(&mut self, table: &'a Table) -> Result<(), MaintenanceError> {
        let Some((_, login)) = &table.owner else { return Ok(()) };
        if self.own.as_ref().is_none_or(|(known, client)| *known != login || client.is_closed()) {
            self.own = None;
            self.admit(&login.role).await?;
            self.own = Some((login, connect(self.pass, self.job, login).await?));
        }
        Ok(())
    }

    /// Lets a tenant's login use pg_partman, on its own tables.
    async fn admit(&self, role: &str) -> Result<(), MaintenanceError> {
        let failed = || MaintenanceError::sql(format!("giving {role} what pg_partman needs"));
        let sql = "select has_schema_privilege($1::name, 'partman', 'usage')
            and has_table_privilege($1::name, 'partman.part_config', 'select')
            and has_table_privilege($1::name, 'partman.part_config', 'insert')
            and has_table_privilege($1::name, 'partman.part_config', 'update')
            and has_table_privilege($1::name, 'partman.part_config', 'delete')
            and has_table_privilege($1::name, 'partman.part_config_sub', 'select')
            and has_table_privilege($1::name, 'partman.custom_time_partitions', 'select')";
        let seat = self.seat()?;
        let row = seat.query_one(sql, &[&role]).await.map_err(failed())?;
        // Whoever only looks changes no privileges, and is told by PostgreSQL what it may not.
        if self.guard.is_none() || value::<bool>(&row, 0)? {
            return Ok(());
        }
        let role = identifier(role);
        let sql = format!(
            "grant usage on schema partman to {role};
             grant select, insert, update, delete on partman.part_config to {role};
             grant select on partman.part_config_sub, partman.custom_time_partitions to {role}"
        );
        seat.batch_execute(&sql).await.map_err(failed())
    }

    /// What the book has of it. One who does not answer here is not asked for other tables either.
    async fn past(&mut self, table: &Table) -> Result<Past, MaintenanceError> {
        let past = within(self.pass.settings.maintenance.statement_timeout, READING, self.read(table)).await;
        if matches!(past, Err(MaintenanceError::Timeout { .. })) {
            self.seat = None;
        }
        past
    }

    async fn read(&self, table: &Table) -> Result<Past, MaintenanceError> {
        let sql =
            "select extract(epoch from succeeded_at)::bigint, extract(epoch from clock_timestamp() - tried_at)::float8,
            failures, failed from partman.pgward_state where parent_table = $1";
        let row = self.seat()?.query_opt(sql, &[&table.parent()]).await;
        let Some(row) = row.map_err(MaintenanceError::sql(READING))? else {
            return Ok(Past::default());
        };
        let since: f64 = value(&row, 1)?;
        Ok(Past {
            succeeded: value::<Option<i64>>(&row, 0)?.and_then(|at| u64::try_from(at).ok()),
            since_tried: Duration::try_from_secs_f64(since.max(0.0)).ok(),
            failures: u32::try_from(value::<i64>(&row, 2)?).unwrap_or(u32::MAX),
            timed_out: value::<Option<String>>(&row, 3)?.as_deref() == Some(TIMEOUT),
        })
    }

    async fn note(&mut self, table: &Table, error: Option<&MaintenanceError>) -> Result<Past, MaintenanceError> {
        let sql =
            "insert into partman.pgward_state as s (parent_table, label, tried_at, succeeded_at, failures, failed)
            values ($1, $2, clock_timestamp(), case when $3::text is null then clock_timestamp() end,
                case when $3::text is null then 0 else 1 end, $3::text)
            on conflict (parent_table) do update set label = excluded.label, tried_at = excluded.tried_at,
                succeeded_at = coalesce(excluded.succeeded_at, s.succeeded_at),
                failures = case when excluded.failed is null then 0 else s.failures + 1 end, failed = excluded.failed";
        let (word, parent) = (error.map(MaintenanceError::word), table.parent());
        let noted = async {
            let noted = self.seat()?.execute(sql, &[&parent, &table.label.as_str(), &word]).await;
            noted.map_err(MaintenanceError::sql("writing partman.pgward_state"))
        };
        within(self.pass.settings.maintenance.statement_timeout, "writing partman.pgward_state", noted).await?;
        self.past(table).await
    }
}

impl Past {
    /// Until the next turn. What has taken all the time it may have does not take it from others again at once.
    fn wait(&self, rules: &Maintenance) -> Duration {
        let Some(since) = self.since_tried else { return Duration::ZERO };
        let wait = match self.failures.checked_sub(1) {
            Some(more) if !self.timed_out => AGAIN.saturating_mul(2_u32.saturating_pow(more)).min(rules.interval),
            _ => rules.interval,
        };
        wait.saturating_sub(since)
    }
}

/// A server may be gone without a word, and a tenant's own code, which may run in what is done as the tenant, may never
/// end.
async fn bounded<T>(
    pass: &Pass<'_>,
    work: impl Future<Output = Result<T, MaintenanceError>>,
) -> Result<T, MaintenanceError> {
    within(pass.settings.maintenance.turn_timeout, "the work on a table's partitions", work).await
}

async fn within<T>(
    limit: Duration,
    doing: &str,
    work: impl Future<Output = Result<T, MaintenanceError>>,
) -> Result<T, MaintenanceError> {
    let timeout = |_| MaintenanceError::Timeout { doing: doing.to_owned(), limit };
    tokio::time::timeout(limit, work).await.map_err(timeout)?
}

async fn connect(pass: &Pass<'_>, job: &Job, login: &Login) -> Result<Client, MaintenanceError> {
    let errand = Errand { cluster: &pass.cluster.name, database: &job.database, login, application_name: NAME };
    let limit = pass.settings.pool.connect_timeout;
    let failed =
        |source| MaintenanceError::Connect { database: job.database.clone(), role: login.role.clone(), source };
    let connected = async {
        let client = Way::find(pass.settings, errand).await?.connect().await.map_err(failed)?;
        ready(&client, &pass.settings.maintenance).await?;
        Ok(client)
    };
    within(limit, &format!("connecting to database {}", job.database), connected).await
}

/// `None`: somebody else has it.
async fn guard(pass: &Pass<'_>, job: &Job) -> Result<Option<Client>, MaintenanceError> {
    let client = connect(pass, job, pass.login).await?;
    let sql = "begin; lock table partman.pgward_state in share update exclusive mode nowait";
    match client.batch_execute(sql).await {
        Ok(()) => Ok(Some(client)),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(None),
        Err(error) => Err(MaintenanceError::sql("locking partman.pgward_state")(error)),
    }
}

/// What the book has of tables that are gone.
async fn forget(seat: &Client) -> Result<(), MaintenanceError> {
    // Not by to_regclass, which may not look into tenants' schemas.
    let gone = "not exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = split_part(s.parent_table, '.', 1) and c.relname = split_part(s.parent_table, '.', 2))";
    let sql = format!(
        "delete from partman.part_config p using partman.pgward_state s where s.parent_table = p.parent_table and {gone};
         delete from partman.pgward_state s where {gone};
         delete from partman.pgward_expired e where not exists (select from pg_class c where c.oid = e.partition)"
    );
    seat.batch_execute(&sql).await.map_err(MaintenanceError::sql("forgetting tables that are gone"))
}
