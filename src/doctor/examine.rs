//! Asks the catalogue, in one transaction that can write nothing.

use serde_json::Value;
use tokio_postgres::{Client, Error};

use super::finding::{Finding, Rule};
use super::question::{Breadth, Question};
use super::rules::{CHECKS, CLASSIFICATION, Check, KEY_LEFT, KEY_MISSING, LOGIN_SETTING, Scope};

pub(super) const PRELUDE: &str = include_str!("prelude.sql");

/// One view of the catalogue for all checks. Names resolve to PostgreSQL's own objects only, and are printed with
/// their schema; a lock that somebody holds is not waited for long. Compiling queries that run once would take longer
/// than running them.
const BEGIN: &str = "begin transaction isolation level repeatable read, read only;
    set local search_path = pg_catalog, pg_temp;
    set local quote_all_identifiers = off;
    set local standard_conforming_strings = on;
    set local jit = off;
    set local statement_timeout = '120s';
    set local lock_timeout = '10s'";

/// What is true of the one database, and of the cluster that it belongs to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Examination {
    pub database: Found,
    pub cluster: Found,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub findings: Vec<Finding>,
    pub not_examined: Vec<NotExamined>,
}

/// What could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotExamined {
    pub rules: Vec<&'static str>,
    pub what: String,
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    #[error("the transaction of the examination failed")]
    Transaction(#[source] Error),
    #[error("an answer about {0} cannot be read")]
    Answer(&'static str, #[source] serde_json::Error),
    #[error("the question cannot be written")]
    Question(#[source] serde_json::Error),
}

/// Looks at the database that `client` is connected to.
pub async fn examine(client: &Client, question: &Question, breadth: Breadth) -> Result<Examination, ExamineError> {
    reading(client, async || look(client, question, breadth).await).await
}

/// In a transaction that reads and nothing else.
pub(super) async fn reading<T, E: From<ExamineError>>(
    client: &Client,
    work: impl AsyncFnOnce() -> Result<T, E>,
) -> Result<T, E> {
    client.batch_execute(BEGIN).await.map_err(ExamineError::Transaction)?;
    let done = work().await;
    let ended = client.batch_execute("rollback").await.map_err(ExamineError::Transaction);
    let done = done?;
    ended?;
    Ok(done)
}

async fn look(client: &Client, question: &Question, breadth: Breadth) -> Result<Examination, ExamineError> {
    let mut found = Examination::default();
    let mut question = question.clone();
    question.stored_keys = stored(client, &KEYS, &mut found.database).await?;
    question.approved_settings = stored(client, &SETTINGS, &mut found.database).await?.unwrap_or_default();
    question.classification = stored(client, &COLUMNS, &mut found.database).await?.unwrap_or_default();
    question.export_views = stored(client, &EXPORT_VIEWS, &mut found.database).await?.unwrap_or_default();
    let given = serde_json::to_string(&question).map_err(ExamineError::Question)?;
    let unclassified = question.classification.is_empty() && question.export_views.is_empty();
    for check in CHECKS.iter().flat_map(|checks| checks.iter()) {
        let idle = unclassified && check.rules.iter().all(|rule| CLASSIFICATION.contains(rule));
        if idle || check.scope == Scope::Cluster && breadth == Breadth::Database {
            continue;
        }
        let place = match check.scope {
            Scope::Cluster => &mut found.cluster,
            Scope::Database => &mut found.database,
        };
        match run(client, check, &given).await? {
            Ok(rows) => {
                for row in rows {
                    let read = (check.judge)(&question, &row);
                    let judged = read.map_err(|error| ExamineError::Answer(check.about, error))?;
                    place.findings.extend(judged.findings);
                    place.not_examined.extend(judged.not_examined);
                }
            }
            Err(error) => place.not_examined.push(refused(check.about, check.rules, &error)),
        }
    }
    Ok(found)
}

/// The rows of a check. The inner error is PostgreSQL's refusal of this check alone.
async fn run(client: &Client, check: &Check, given: &str) -> Result<Result<Vec<String>, Error>, ExamineError> {
    let sql = format!("{PRELUDE}, found as (\n{}\n) select to_jsonb(found)::text from found", check.sql);
    within_savepoint(client, async || {
        let rows = client.query(&sql, &[&given]).await?;
        Ok(rows.iter().map(|row| row.get::<_, String>(0)).collect())
    })
    .await
}

async fn within_savepoint<T>(
    client: &Client,
    work: impl AsyncFnOnce() -> Result<T, Error>,
) -> Result<Result<T, Error>, ExamineError> {
    client.batch_execute("savepoint a_check").await.map_err(ExamineError::Transaction)?;
    let done = work().await;
    if done.as_ref().is_err_and(|error| error.as_db_error().is_none()) {
        return done.map(Ok).map_err(ExamineError::Transaction);
    }
    let end = if done.is_ok() { "release a_check" } else { "rollback to a_check; release a_check" };
    client.batch_execute(end).await.map_err(ExamineError::Transaction)?;
    Ok(done)
}

fn refused(what: &str, rules: &[&'static Rule], error: &Error) -> NotExamined {
    let reason = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    NotExamined { rules: ids(rules), what: what.to_owned(), reason }
}

pub(super) fn ids(rules: &[&'static Rule]) -> Vec<&'static str> {
    rules.iter().map(|rule| rule.id).collect()
}

/// A table of the schema pgward that a query cannot name, since it may not exist or not be readable.
pub(super) struct Stored {
    pub table: &'static str,
    sql: &'static str,
    what: &'static str,
    rules: &'static [&'static Rule],
}

const SETTINGS: Stored = Stored {
    table: "pgward.logins",
    sql: "select jsonb_build_object('role', l.role, 'settings', l.settings)::text from only pgward.logins l",
    what: "which settings of login roles are recorded in pgward.logins",
    rules: &[&LOGIN_SETTING],
};

const KEYS: Stored = Stored {
    table: "pgward.keys",
    sql: "select to_jsonb(kid)::text from only pgward.keys",
    what: "the ids of keys in pgward.keys",
    rules: &[&KEY_MISSING, &KEY_LEFT],
};

pub(super) const COLUMNS: Stored = Stored {
    table: "pgward.classification",
    sql: "select jsonb_build_object('schema', c.schema, 'relation', c.relation, 'column_name', c.column_name,
            'class', c.class, 'hidden_from', c.hidden_from, 'note', c.note)::text
        from only pgward.classification c order by c.schema, c.relation, c.column_name",
    what: "which columns are classified in pgward.classification",
    rules: CLASSIFICATION,
};

pub(super) const EXPORT_VIEWS: Stored = Stored {
    table: "pgward.export_view",
    sql: "select jsonb_build_object('schema', v.schema, 'view', v.view, 'kind', v.kind, 'k', v.k,
            'quasi_identifiers', v.quasi_identifiers, 'counted', v.counted, 'note', v.note)::text
        from only pgward.export_view v order by v.schema, v.view",
    what: "which views are vouched for in pgward.export_view",
    rules: CLASSIFICATION,
};

/// What it holds; nothing where there is no such table. A view of that name, a table with policies, or a type of
/// somebody's own would have whoever made it run code in an administrator's session.
async fn stored(client: &Client, from: &Stored, found: &mut Found) -> Result<Option<Vec<Value>>, ExamineError> {
    Ok(read(client, from).await?.unwrap_or_else(|error| {
        found.not_examined.push(refused(from.what, from.rules, &error));
        None
    }))
}

/// The same. The inner error is PostgreSQL's refusal.
pub(super) async fn read(client: &Client, from: &Stored) -> Result<Result<Option<Vec<Value>>, Error>, ExamineError> {
    let plain = "select exists (
        select from pg_class c where c.oid = to_regclass($1) and c.relkind = 'r' and not c.relrowsecurity
        and not exists (
            select from pg_attribute a join pg_type t on t.oid = a.atttypid
            where a.attrelid = c.oid and t.typnamespace <> 'pg_catalog'::regnamespace))";
    let there = client.query_one(plain, &[&from.table]).await;
    if !there.map_err(ExamineError::Transaction)?.get::<_, bool>(0) {
        return Ok(Ok(None));
    }
    match within_savepoint(client, async || client.query(from.sql, &[]).await).await? {
        Ok(rows) => {
            let parse = |row: &tokio_postgres::Row| serde_json::from_str::<Value>(row.get::<_, &str>(0));
            let rows: Result<_, _> = rows.iter().map(parse).collect();
            rows.map(|rows| Ok(Some(rows))).map_err(|error| ExamineError::Answer(from.table, error))
        }
        Err(error) => Ok(Err(error)),
    }
}
