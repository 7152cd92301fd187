//! What tables are made of.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::failed;
use crate::tenant::install::{InstallError, sql};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub type_: String,
    /// Its value follows from the others'.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
}

/// A table and its columns, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub schema: String,
    pub name: String,
    pub partitioned: bool,
    pub columns: Vec<Column>,
    /// Columns of the primary key; none where there is none.
    pub key: Vec<String>,
}

/// Which tables are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within<'a> {
    Schema(&'a str),
    /// All that PostgreSQL and pgward have not made for themselves.
    Database,
}

const SHAPES: &str = "
select n.nspname::text, c.relname::text, c.relkind = 'p',
    array_agg(a.attname::text order by a.attnum), array_agg(format_type(a.atttypid, a.atttypmod) order by a.attnum),
    array_agg(a.attgenerated <> '' order by a.attnum),
    coalesce((
        select array_agg(k.attname::text order by p.place)
        from pg_index i, unnest(i.indkey::int2[]) with ordinality p(number, place), pg_attribute k
        where i.indrelid = c.oid and i.indisprimary and k.attrelid = c.oid and k.attnum = p.number), '{}')
from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
where c.relkind in ('r', 'p') and not c.relispartition and a.attnum > 0 and not a.attisdropped
    and case when $1 <> '' then n.nspname = $1 else n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgward') end
group by n.nspname, c.relname, c.relkind, c.oid
order by 1, 2";

impl Shape {
    pub async fn all(client: &Client, within: Within<'_>) -> Result<Vec<Self>, InstallError> {
        let schema = match within {
            Within::Schema(schema) => schema,
            Within::Database => "",
        };
        let rows = client.query(SHAPES, &[&schema]).await.map_err(failed("looking at tables"))?;
        Ok(rows.iter().map(Self::read).collect())
    }

    fn read(row: &tokio_postgres::Row) -> Self {
        let (names, types, generated): (Vec<String>, Vec<String>, Vec<bool>) = (row.get(3), row.get(4), row.get(5));
        let columns = names.into_iter().zip(types).zip(generated);
        let columns = columns.map(|((name, type_), generated)| Column { name, type_, generated }).collect();
        Self { schema: row.get(0), name: row.get(1), partitioned: row.get(2), columns, key: row.get(6) }
    }

    /// As people read it.
    pub fn label(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// As SQL names it; what inherits from it is not meant.
    pub fn table(&self) -> String {
        let only = if self.partitioned { "" } else { "only " };
        format!("{only}{}.{}", sql::identifier(&self.schema), sql::identifier(&self.name))
    }

    /// A whole row as text.
    pub fn row(&self) -> String {
        row(self.columns.iter().map(|column| column.name.as_str()))
    }

    /// What tells one row from another as text.
    pub(super) fn identity(&self) -> String {
        if self.key.is_empty() {
            return format!("md5({})", self.row());
        }
        row(self.key.iter().map(String::as_str))
    }

    /// What another shape of the same table has that this one has not, in words; empty where they are alike.
    pub fn unlike(&self, then: &[Column]) -> String {
        let lists = |columns: &[Column], column: &Column| columns.contains(column);
        let told = |column: &Column| format!("{} {}", column.name, column.type_);
        let now: Vec<String> = self.columns.iter().filter(|column| !lists(then, column)).map(told).collect();
        let then: Vec<String> = then.iter().filter(|column| !lists(&self.columns, column)).map(told).collect();
        let mut words = Vec::new();
        if !then.is_empty() {
            words.push(format!("then it had {}", then.join(", ")));
        }
        if !now.is_empty() {
            words.push(format!("now it has {}", now.join(", ")));
        }
        words.join("; ")
    }
}

/// Columns, as SQL lists them.
pub(super) fn list<'a>(columns: impl Iterator<Item = &'a str>) -> String {
    columns.map(sql::identifier).collect::<Vec<_>>().join(", ")
}

fn row<'a>(columns: impl Iterator<Item = &'a str>) -> String {
    format!("row({})::text", list(columns))
}
