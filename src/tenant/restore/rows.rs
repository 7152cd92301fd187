//! Level `rows`: a tenant's rows of then are staged in temporary tables, so that whatever ends this connection ends them
//! too, and take the place of those of now in one transaction. Rows that are the same are not touched.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, pin_mut};
use tokio_postgres::Client;

use super::compare::{Difference, Side, compare};
use super::shape::{Column, Shape, Within, list};
use super::{RestoreError, failed, number};
use crate::config::{Settings, Tenant};
use crate::tenant::TenantTable;
use crate::tenant::install::{self, InstallError, sql};
use crate::tenant::provision::seal;

/// A table as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSource {
    pub schema: String,
    pub name: String,
    pub columns: Vec<Column>,
}

struct Staged<'a> {
    table: &'a TenantTable,
    shape: Shape,
    number: usize,
}

/// What is going to be there, on a connection to the tenant's database.
pub struct Staging<'a> {
    client: &'a Client,
    settings: &'a Settings,
    tenant: &'a Tenant,
    tables: Vec<Staged<'a>>,
}

impl<'a> Staging<'a> {
    /// Makes room for the rows of these tables. They may come from other versions of the tables only if those are alike.
    pub async fn begin(
        client: &'a Client,
        settings: &'a Settings,
        tenant: &'a Tenant,
        now: impl Iterator<Item = &'a TenantTable>,
        then: &[TableSource],
    ) -> Result<Self, RestoreError> {
        super::prepare(client).await?;
        let shapes = Shape::all(client, Within::Database).await?;
        let mut tables = Vec::new();
        for (number, table) in now.enumerate() {
            let is = |shape: &&Shape| shape.schema == table.schema && shape.name == table.name;
            let Some(shape) = shapes.iter().find(is).cloned() else { continue };
            let was = then.iter().find(|source| source.schema == table.schema && source.name == table.name);
            // A table that was not there then had no rows of the tenant's.
            let what = was.map_or_else(String::new, |source| shape.unlike(&source.columns));
            if !what.is_empty() {
                return Err(RestoreError::Shape { table: table.label(), what });
            }
            let staged = Staged { table, shape, number };
            let sql = format!(
                "drop table if exists {0}, {1}; create temp table {2} (like {3}); create temp table {4} (like {3})",
                staged.rows(),
                staged.gone(),
                staged.rows().trim_start_matches("pg_temp."),
                staged.shape.table().trim_start_matches("only "),
                staged.gone().trim_start_matches("pg_temp."),
            );
            install::run(client, &format!("making room for rows of {}", table.label()), &sql).await?;
            tables.push(staged);
        }
        let gone = then.iter().find(|source| {
            !tables.iter().any(|staged| staged.table.schema == source.schema && staged.table.name == source.name)
        });
        if let Some(source) = gone {
            let table = format!("{}.{}", source.schema, source.name);
            return Err(RestoreError::Shape {
                table,
                what: "it is not there any more, or no longer tenants'".to_owned(),
            });
        }
        Ok(Self { client, settings, tenant, tables })
    }

    /// The table's columns, in the order in which they are to come.
    pub fn columns(&self, source: &TableSource) -> Option<String> {
        let staged = self.find(source)?;
        Some(list(staged.shape.columns.iter().map(|column| column.name.as_str())))
    }

    /// Takes rows as CSV with a head line, in this order of columns.
    pub async fn fill<E>(
        &self,
        source: &TableSource,
        columns: &str,
        rows: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(), RestoreError>
    where
        RestoreError: From<E>,
    {
        let Some(staged) = self.find(source) else { return Ok(()) };
        let doing = format!("staging rows of {}", staged.table.label());
        let sql = format!("copy {} ({columns}) from stdin with (format csv, header)", staged.rows());
        let sink = self.client.copy_in::<_, Bytes>(&sql).await.map_err(failed(&doing))?;
        pin_mut!(sink, rows);
        while let Some(bytes) = rows.next().await {
            futures_util::SinkExt::send(&mut sink, bytes?).await.map_err(failed(&doing))?;
        }
        sink.finish().await.map_err(failed(&doing))?;
        Ok(())
    }

    fn find(&self, source: &TableSource) -> Option<&Staged<'a>> {
        self.tables.iter().find(|staged| staged.table.schema == source.schema && staged.table.name == source.name)
    }

    /// `other`: another connection to the same database.
    pub async fn difference(&self, other: &Client) -> Result<Vec<Difference>, RestoreError> {
        super::prepare(other).await?;
        install::atomically(other, "begin read only", async || self.compared(other).await).await
    }

    async fn compared(&self, other: &Client) -> Result<Vec<Difference>, RestoreError> {
        seal(other, self.settings, self.tenant).await?;
        let mut all = Vec::new();
        for staged in &self.tables {
            let (from, rows) = (staged.table.from(self.tenant), staged.rows());
            let now = Side { client: other, from: &from };
            let then = Side { client: self.client, from: &rows };
            let counts = compare(&staged.shape, now, then).await?;
            all.push(Difference { table: staged.table.label(), counts, shape: String::new() });
        }
        Ok(all)
    }

    /// All or nothing. What other tenants have is not touched, and they are not kept waiting: no table is locked.
    pub async fn swap(&self) -> Result<(), RestoreError> {
        install::atomically(self.client, "begin", async || self.within().await).await
    }

    async fn within(&self) -> Result<(), RestoreError> {
        seal(self.client, self.settings, self.tenant).await?;
        // Triggers would do again what they did then, and foreign keys would mind in which order rows come. They are
        // looked at below.
        let quiet = format!("set local session_replication_role = replica; {}", super::PATIENCE);
        install::run(self.client, "keeping triggers from acting on what is restored", &quiet).await?;
        for staged in &self.tables {
            install::run(self.client, &staged.doing("taking out"), &staged.delete(self.tenant)).await?;
        }
        for staged in &self.tables {
            install::run(self.client, &staged.doing("putting back"), &staged.insert(self.tenant)).await?;
        }
        self.foreign_keys().await?;
        for staged in &self.tables {
            let rows = number(self.client, &staged.doing("looking at"), &staged.unlike(self.tenant)).await?;
            if rows > 0 {
                return Err(RestoreError::Altered { table: staged.table.label(), rows });
            }
            install::run(self.client, &staged.doing("numbering"), &staged.sequences()).await?;
        }
        Ok(())
    }

    async fn foreign_keys(&self) -> Result<(), RestoreError> {
        let rows = self.client.query(FOREIGN_KEYS, &[]).await.map_err(failed("looking for foreign keys"))?;
        for row in rows {
            let text = |i: usize| row.get::<_, String>(i);
            let names = |i: usize| row.get::<_, Vec<String>>(i);
            let staged = |schema: &str, name: &str| {
                self.tables.iter().find(|staged| staged.table.schema == schema && staged.table.name == name)
            };
            let key = Key {
                child: format!("{}.{}", sql::identifier(&text(1)), sql::identifier(&text(2))),
                parent: format!("{}.{}", sql::identifier(&text(3)), sql::identifier(&text(4))),
                from: names(5),
                to: names(6),
            };
            let mut missing = 0;
            if let Some(child) = staged(&text(1), &text(2)) {
                number(self.client, "keeping what is referred to", &key.hold(&child.rows())).await?;
                missing += number(self.client, "looking at foreign keys", &key.without_parent(&child.rows())).await?;
            }
            if let Some(parent) = staged(&text(3), &text(4)) {
                missing += number(self.client, "looking at foreign keys", &key.left_behind(&parent.gone())).await?;
            }
            if missing > 0 {
                let table = format!("{}.{}", text(1), text(2));
                return Err(RestoreError::ForeignKey { constraint: text(0), table, rows: missing });
            }
        }
        Ok(())
    }
}

impl Staged<'_> {
    fn rows(&self) -> String {
        format!("pg_temp.pgward_then_{}", self.number)
    }

    /// What was taken out.
    fn gone(&self) -> String {
        format!("pg_temp.pgward_gone_{}", self.number)
    }

    fn doing(&self, what: &str) -> String {
        format!("{what} rows of {}", self.table.label())
    }

    /// Rows by what is in them; the same ones are numbered.
    fn numbered(&self, more: &str, from: &str) -> String {
        let row = self.shape.row();
        format!("select {more} {row} as k, row_number() over (partition by {row}) as n from {from}")
    }

    fn delete(&self, tenant: &Tenant) -> String {
        let (table, from) = (self.shape.table(), self.table.from(tenant));
        let now = self.numbered("tableoid as r, ctid as c,", &from);
        let then = self.numbered("", &self.rows());
        let columns = list(self.shape.columns.iter().map(|column| column.name.as_str()));
        let returned: Vec<String> =
            self.shape.columns.iter().map(|column| format!("t.{}", sql::identifier(&column.name))).collect();
        format!(
            "with now as ({now}), was as ({then}), gone as (delete from {table} t using now \
             where t.tableoid = now.r and t.ctid = now.c \
             and not exists (select from was where was.k = now.k and was.n = now.n) returning {}) \
             insert into {} ({columns}) select * from gone",
            returned.join(", "),
            self.gone(),
        )
    }

    fn insert(&self, tenant: &Tenant) -> String {
        let now = self.numbered("", &self.table.from(tenant));
        let then = self.numbered("ctid as c,", &self.rows());
        let columns = self.shape.columns.iter().filter(|column| !column.generated);
        let columns = list(columns.map(|column| column.name.as_str()));
        let table = self.shape.table();
        let table = table.trim_start_matches("only ");
        format!(
            "insert into {table} ({columns}) overriding system value select {columns} from {} where ctid in (\
             with now as ({now}), was as ({then}) \
             select was.c from was where not exists (select from now where was.k = now.k and was.n = now.n))",
            self.rows(),
        )
    }

    /// How many rows are not what they should be.
    fn unlike(&self, tenant: &Tenant) -> String {
        let row = self.shape.row();
        let (now, then) = (self.table.from(tenant), self.rows());
        format!(
            "select (select count(*) from (select {row} from {now} except all select {row} from {then}) a) \
             + (select count(*) from (select {row} from {then} except all select {row} from {now}) b)"
        )
    }

    /// Numbers that were given then are not given again.
    fn sequences(&self) -> String {
        let table = format!("{}.{}", sql::identifier(&self.shape.schema), sql::identifier(&self.shape.name));
        let whole = ["smallint", "integer", "bigint"];
        let columns = self.shape.columns.iter().filter(|column| whole.contains(&column.type_.as_str()));
        let calls = columns.map(|column| {
            format!(
                "perform pg_temp.pgward_beyond(pg_get_serial_sequence({}, {}), (select max({}) from {}));",
                sql::literal(&table),
                sql::literal(&column.name),
                sql::identifier(&column.name),
                self.rows()
            )
        });
        format!("{BEYOND} do $do$ begin {} end $do$;", calls.collect::<String>())
    }
}

/// Moves a sequence that would give a number again; it is not moved back.
const BEYOND: &str = "
create or replace function pg_temp.pgward_beyond(sequence text, highest bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    given bigint;
begin
    if sequence is null or highest is null then
        return;
    end if;
    execute format('select last_value from %s', sequence) into given;
    if given < highest then
        perform setval(sequence::regclass, highest);
    end if;
end
$$;";

const FOREIGN_KEYS: &str = "
select k.conname::text, cn.nspname::text, c.relname::text, pn.nspname::text, p.relname::text,
    (select array_agg(a.attname::text order by o) from unnest(k.conkey) with ordinality x(n, o)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = x.n),
    (select array_agg(a.attname::text order by o) from unnest(k.confkey) with ordinality x(n, o)
        join pg_attribute a on a.attrelid = k.confrelid and a.attnum = x.n)
from pg_constraint k
    join pg_class c on c.oid = k.conrelid join pg_namespace cn on cn.oid = c.relnamespace
    join pg_class p on p.oid = k.confrelid join pg_namespace pn on pn.oid = p.relnamespace
where k.contype = 'f' and k.conparentid = 0";

/// A foreign key.
struct Key {
    child: String,
    parent: String,
    from: Vec<String>,
    to: Vec<String>,
}

impl Key {
    /// Each column of one side with its own of the other.
    fn same(&self, child: &str, parent: &str) -> String {
        self.pairs(child, &self.from, parent, &self.to)
    }

    fn pairs(&self, left: &str, from: &[String], right: &str, to: &[String]) -> String {
        let pair =
            |(a, b): (&String, &String)| format!("{left}.{} = {right}.{}", sql::identifier(a), sql::identifier(b));
        from.iter().zip(to).map(pair).collect::<Vec<_>>().join(" and ")
    }

    /// Who deletes what is referred to waits, as for the foreign key itself.
    fn hold(&self, child: &str) -> String {
        let (parent, same) = (&self.parent, self.same("c", "p"));
        format!(
            "select count(*) from (select 1 from {parent} p where exists (select from {child} c where {same}) \
             for key share of p) held"
        )
    }

    fn without_parent(&self, child: &str) -> String {
        let (parent, same) = (&self.parent, self.same("c", "p"));
        let there = self.from.iter().map(|column| format!("c.{} is not null", sql::identifier(column)));
        let there = there.collect::<Vec<_>>().join(" and ");
        format!("select count(*) from {child} c where {there} and not exists (select from {parent} p where {same})")
    }

    fn left_behind(&self, gone: &str) -> String {
        let (child, parent) = (&self.child, &self.parent);
        format!(
            "select count(*) from {gone} g join {child} c on {} where not exists (select from {parent} p where {})",
            self.same("c", "g"),
            self.pairs("p", &self.to, "g", &self.to),
        )
    }
}

impl From<std::io::Error> for RestoreError {
    fn from(error: std::io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<tokio_postgres::Error> for RestoreError {
    fn from(source: tokio_postgres::Error) -> Self {
        InstallError::Sql { doing: "reading what was there".to_owned(), source }.into()
    }
}
