//! How many people share what a view shows of them: k-anonymity, counted over the quasi-identifiers.

use tokio_postgres::{Client, Error};

use super::classified::{ClassificationError, ExportView, rows};
use super::examine::{EXPORT_VIEWS, ExamineError, PRELUDE, reading};
use super::question::Question;
use super::quote::identifier;
use crate::config::{Settings, Tenant};
use crate::tenant::{ProvisionError, seal};

const HANDS: &str = concat!(
    ", found as (with recursive ",
    include_str!("classified.sql"),
    ", ",
    include_str!("hands.sql"),
    "select distinct h.what from hand h
    join pg_catalog.pg_roles me on me.rolname = session_user and me.oid <> h.owner) select what from found order by what"
);

/// A view that reads as whoever asks reads more where row-level security does not bind them than a tenant is shown.
const UNBOUND: &str = concat!(
    ", found as (with recursive ",
    include_str!("classified.sql"),
    ", ",
    include_str!("hands.sql"),
    "select distinct c.oid::regclass::text as name from ingredient i join pg_catalog.pg_class c on c.oid = i.relation
    where c.relrowsecurity and not row_security_active(c.oid) and exists (
        select from ingredient o join pg_catalog.pg_class v on v.oid = o.relation and v.relkind = 'v'
        where (select x.option_value::bool from pg_options_to_table(v.reloptions) x
            where x.option_name = 'security_invoker'))) select name from found order by name"
);

/// What is asked of a view. What is not said here, `pgward.export_view` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    pub schema: String,
    pub view: String,
    pub k: Option<i32>,
    /// The quasi-identifiers.
    pub by: Vec<String>,
    pub counted: Option<String>,
    /// For the count, in milliseconds.
    pub timeout_ms: u64,
}

/// Whose reader is to be counted for, at level `rows`.
#[derive(Debug, Clone, Copy)]
pub struct Beheld<'a> {
    pub settings: &'a Settings,
    pub tenant: &'a Tenant,
}

/// What was counted. No value of a row is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anonymity {
    pub k: i32,
    pub by: Vec<String>,
    /// Combinations of values of the quasi-identifiers.
    pub groups: i64,
    pub groups_too_small: i64,
    /// People in the smallest group.
    pub smallest: i64,
    pub people: i64,
    pub people_in_groups_too_small: i64,
}

impl Anonymity {
    /// Of a view without rows nothing is known: to somebody else it may show some.
    pub fn holds(&self) -> bool {
        self.groups > 0 && self.groups_too_small == 0
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AnonymityError {
    #[error(transparent)]
    Classification(#[from] ClassificationError),
    #[error("there is no view {0}")]
    NoView(String),
    #[error("nothing says what k is for {0}; say it with --k, or in pgward.export_view")]
    NoK(String),
    #[error("nothing says what the quasi-identifiers of {0} are; name them with --by, or in pgward.export_view")]
    NoColumns(String),
    #[error("view {view} has no column {column}")]
    NoColumn { view: String, column: String },
    #[error(
        "view {view} is not read: a login role of tenants owns {}, and what it puts there would run with your rights; \
         give it to another role, or ask as its owner (--url)",
        hands.join(", ")
    )]
    Hands { view: String, hands: Vec<String> },
    #[error(
        "view {view} is not read for a tenant: some of it is security_invoker, and row-level security of {} does not bind \
         this role, so it would be shown more than the tenant; ask as a role that it binds (--url)",
        tables.join(", ")
    )]
    Unbound { view: String, tables: Vec<String> },
    #[error("the tenant's context cannot be sealed")]
    Context(#[from] ProvisionError),
    /// Not PostgreSQL's words, which may hold a value.
    #[error(
        "PostgreSQL did not count view {view} (SQLSTATE {code}); its words are left out, since they may hold values"
    )]
    NotCounted { view: String, code: String },
}

impl From<ExamineError> for AnonymityError {
    fn from(error: ExamineError) -> Self {
        Self::Classification(error.into())
    }
}

/// Counts in one transaction, which reads and nothing else. With the context of a tenant, if one is named.
pub async fn anonymity(
    client: &Client,
    question: &Question,
    demand: &Demand,
    beheld: Option<Beheld<'_>>,
) -> Result<Anonymity, AnonymityError> {
    reading(client, async || {
        let marked = rows(client, &EXPORT_VIEWS).await?;
        let view = told(&marked, demand)?;
        let name = format!("{}.{}", identifier(&view.schema), identifier(&view.view));
        let k = view.k.ok_or_else(|| AnonymityError::NoK(name.clone()))?;
        if view.quasi_identifiers.is_empty() {
            return Err(AnonymityError::NoColumns(name));
        }
        held(client, &view, &name).await?;
        columns(client, &view, &name).await?;
        let given = about(question, &view)?;
        let hands = names(client, HANDS, &given).await?;
        if !hands.is_empty() {
            return Err(AnonymityError::Hands { view: name, hands });
        }
        if let Some(Beheld { settings, tenant }) = beheld {
            let tables = names(client, UNBOUND, &given).await?;
            if !tables.is_empty() {
                return Err(AnonymityError::Unbound { view: name, tables });
            }
            seal(client, settings, tenant).await?;
        }
        count(client, &view, &name, k, demand.timeout_ms).await
    })
    .await
}

/// The row of `pgward.export_view`, if there is one, with what is demanded in its stead.
fn told(marked: &[serde_json::Value], demand: &Demand) -> Result<ExportView, ExamineError> {
    let known: Result<Vec<ExportView>, _> = marked.iter().map(|row| serde_json::from_value(row.clone())).collect();
    let known = known.map_err(|error| ExamineError::Answer(EXPORT_VIEWS.table, error))?;
    let known = known.into_iter().find(|view| view.schema == demand.schema && view.view == demand.view);
    let mut view = known.unwrap_or_else(|| ExportView {
        schema: demand.schema.clone(),
        view: demand.view.clone(),
        kind: "anonymised".to_owned(),
        k: None,
        quasi_identifiers: Vec::new(),
        counted: None,
        note: None,
    });
    view.k = demand.k.or(view.k);
    view.counted = demand.counted.clone().or(view.counted);
    if !demand.by.is_empty() {
        view.quasi_identifiers = demand.by.clone();
    }
    Ok(view)
}

/// Makes sure that there is such a view, and that it stays as it is while it is looked at. A materialized view's rows
/// are there already: reading them runs nothing.
async fn held(client: &Client, view: &ExportView, name: &str) -> Result<(), AnonymityError> {
    let sql = "select c.relkind::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = $1 and c.relname = $2 and c.relkind in ('v', 'm')";
    let found = client.query_opt(sql, &[&view.schema, &view.view]).await.map_err(ExamineError::Transaction)?;
    let kind: String = found.map(|row| row.get(0)).ok_or_else(|| AnonymityError::NoView(name.to_owned()))?;
    if kind == "v" {
        let lock = format!("lock table {name} in access share mode");
        client.batch_execute(&lock).await.map_err(|error| not_counted(name, &error))?;
    }
    Ok(())
}

async fn columns(client: &Client, view: &ExportView, name: &str) -> Result<(), AnonymityError> {
    let sql = "select a.attname::text from pg_attribute a join pg_class c on c.oid = a.attrelid
        join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped";
    let rows = client.query(sql, &[&view.schema, &view.view]).await.map_err(ExamineError::Transaction)?;
    let there: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    match view.quasi_identifiers.iter().chain(&view.counted).find(|column| !there.contains(column)) {
        None => Ok(()),
        Some(column) => Err(AnonymityError::NoColumn { view: name.to_owned(), column: identifier(column) }),
    }
}

/// What is asked of the view itself. Reading it runs what it is made of in this session, so all of that has to belong to
/// roles that can be trusted.
fn about(question: &Question, view: &ExportView) -> Result<String, ExamineError> {
    let mut question = question.clone();
    question.export_views = vec![serde_json::json!({
        "schema": view.schema, "view": view.view, "kind": view.kind, "quasi_identifiers": [],
    })];
    serde_json::to_string(&question).map_err(ExamineError::Question)
}

async fn names(client: &Client, sql: &str, given: &String) -> Result<Vec<String>, ExamineError> {
    let found = client.query(&format!("{PRELUDE}{sql}"), &[given]).await.map_err(ExamineError::Transaction)?;
    Ok(found.iter().map(|row| row.get(0)).collect())
}

async fn count(
    client: &Client,
    view: &ExportView,
    name: &str,
    k: i32,
    timeout_ms: u64,
) -> Result<Anonymity, AnonymityError> {
    let by: Vec<String> = view.quasi_identifiers.iter().map(|column| format!("v.{}", identifier(column))).collect();
    let people = match &view.counted {
        Some(column) => format!("coalesce(sum(v.{}), 0)::numeric", identifier(column)),
        None => "count(*)::numeric".to_owned(),
    };
    let sql = format!(
        "select count(*), count(*) filter (where g.people < {k}), coalesce(min(floor(g.people)), 0)::bigint,
            coalesce(sum(floor(g.people)), 0)::bigint,
            coalesce(sum(floor(g.people)) filter (where g.people < {k}), 0)::bigint
        from (select {people} as people from {name} v group by {}) g",
        by.join(", ")
    );
    let limit = format!("set local statement_timeout = {timeout_ms}");
    client.batch_execute(&limit).await.map_err(ExamineError::Transaction)?;
    let row = client.query_one(&sql, &[]).await.map_err(|error| not_counted(name, &error))?;
    Ok(Anonymity {
        k,
        by: view.quasi_identifiers.clone(),
        groups: row.get(0),
        groups_too_small: row.get(1),
        smallest: row.get(2),
        people: row.get(3),
        people_in_groups_too_small: row.get(4),
    })
}

fn not_counted(name: &str, error: &Error) -> AnonymityError {
    let code = error.code().map_or("none: the connection was lost", |code| code.code());
    AnonymityError::NotCounted { view: name.to_owned(), code: code.to_owned() }
}
