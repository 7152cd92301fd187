//! What is classified in a database, and whether it is hidden now.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::examine::{COLUMNS, EXPORT_VIEWS, ExamineError, PRELUDE, Stored, read, reading};
use super::question::Question;
use crate::sql::one_line;

const READERS: &str = concat!(
    ", found as (with recursive ",
    include_str!("classified.sql"),
    ", read_by (oid, attnum, roles) as (
        select l.oid, l.attnum, array_agg(distinct l.name order by l.name) from leak l group by l.oid, l.attnum
    )
    select c.schema, c.relation, c.column_name as column, c.class, c.hidden_from, c.note, c.attnum is not null as exists,
        coalesce(r.roles, '{}') as readers,
        array(
            select h from jsonb_array_elements_text(c.hidden_from) h
            where quote_ident(h) not in (select name from role_name) order by h) as strangers
    from classified c left join read_by r on r.oid = c.oid and r.attnum = c.attnum
    ) select to_jsonb(found)::text from found order by schema, relation, \"column\""
);

/// A row of `pgward.classification`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Column {
    pub schema: String,
    pub relation: String,
    pub column: String,
    pub class: String,
    /// Roles that may not see it.
    pub hidden_from: Vec<String>,
    pub note: Option<String>,
    /// There is such a column.
    pub exists: bool,
    /// Those of `hidden_from` that can read it all the same, quoted as SQL would have them.
    pub readers: Vec<String>,
    /// Those of `hidden_from` that do not exist.
    pub strangers: Vec<String>,
}

impl Column {
    /// Whether it is hidden from all that it is to be hidden from. What names nothing is not known to hide anything.
    pub fn holds(&self) -> bool {
        self.exists && self.readers.is_empty() && self.strangers.is_empty()
    }

    pub fn name(&self) -> String {
        one_line(&format!("{}.{}.{}", self.schema, self.relation, self.column))
    }

    /// Whether that holds, and why not.
    pub fn standing(&self) -> String {
        let text = if !self.exists {
            "no such column".to_owned()
        } else if !self.strangers.is_empty() {
            format!("no such role: {}", self.strangers.join(", "))
        } else if !self.readers.is_empty() {
            format!("no: {} can read it", self.readers.join(", "))
        } else if self.hidden_from.is_empty() {
            "-".to_owned()
        } else {
            "yes".to_owned()
        };
        one_line(&text)
    }

    /// Its name, its class, from whom it is hidden, and whether that holds.
    pub fn cells(&self) -> [String; 4] {
        let hidden = if self.hidden_from.is_empty() { "-".to_owned() } else { one_line(&self.hidden_from.join(", ")) };
        [self.name(), one_line(&self.class), hidden, self.standing()]
    }
}

/// A row of `pgward.export_view`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ExportView {
    pub schema: String,
    pub view: String,
    /// `masked`, `anonymised` or `aggregated`.
    pub kind: String,
    pub k: Option<i32>,
    pub quasi_identifiers: Vec<String>,
    /// The view's column that says how many people a row stands for.
    pub counted: Option<String>,
    pub note: Option<String>,
}

/// What people wrote in a database's `pgward.classification` and `pgward.export_view`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Classification {
    pub columns: Vec<Column>,
    pub export_views: Vec<ExportView>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClassificationError {
    #[error(transparent)]
    Examine(#[from] ExamineError),
    #[error("there is no table {0} in this database, or not the one that pgward makes; run pgward install")]
    NotInstalled(&'static str),
    #[error("PostgreSQL refused to show {table}: {}", source.as_db_error().map_or("", |error| error.message()))]
    Refused {
        table: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
}

/// Asks in a transaction that reads and nothing else. It takes a role that may read the two tables, and no superuser.
pub async fn classified(client: &Client) -> Result<Classification, ClassificationError> {
    reading(client, async || {
        let mut question = Question::default();
        question.classification = rows(client, &COLUMNS).await?;
        question.export_views = rows(client, &EXPORT_VIEWS).await?;
        let given = serde_json::to_string(&question).map_err(ExamineError::Question)?;
        let found = client.query(&format!("{PRELUDE}{READERS}"), &[&given]).await;
        let found = found.map_err(ExamineError::Transaction)?;
        let unread = |error| ExamineError::Answer(COLUMNS.table, error);
        let columns: Result<_, _> = found.iter().map(|row| serde_json::from_str(row.get(0))).collect();
        let views: Result<_, _> = question.export_views.into_iter().map(serde_json::from_value).collect();
        Ok(Classification { columns: columns.map_err(unread)?, export_views: views.map_err(unread)? })
    })
    .await
}

pub(super) async fn rows(client: &Client, from: &Stored) -> Result<Vec<serde_json::Value>, ClassificationError> {
    let table = from.table;
    let rows = read(client, from).await?.map_err(|source| ClassificationError::Refused { table, source })?;
    rows.ok_or(ClassificationError::NotInstalled(table))
}
