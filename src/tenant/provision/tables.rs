//! Tables that tenants share, and a tenant's rows in them.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::{FUNCTIONS, ProvisionError, create};
use crate::config::{Settings, Tenant};
use crate::tenant::install::{self, InstallError, sql};

/// Every table with a policy that asks `pgward.tenant()`: which of its columns says whose a row is, that column's
/// type, and whether the tenant's name can be a value of it. Partitions come with what they are partitions of.
const ASKING: &str = "
with tenant as (select to_regprocedure('pgward.tenant()') as function),
asking as (
    select p.oid, p.polrelid as relation, pg_get_expr(coalesce(p.polqual, p.polwithcheck), p.polrelid) as expression
    from pg_policy p, tenant t
    where p.polname = 'pgward_tenant' or exists (
        select from pg_depend d where d.classid = 'pg_policy'::regclass and d.objid = p.oid
            and d.refclassid = 'pg_proc'::regclass and d.refobjid = t.function)
),
uses as (
    select a.relation, array_agg(d.refobjsubid) filter (where d.refobjid = a.relation) as columns,
        bool_or(d.refobjid <> a.relation) as others, string_agg(a.expression, ' ') as expression
    from asking a join pg_depend d
        on d.classid = 'pg_policy'::regclass and d.objid = a.oid and d.refclassid = 'pg_class'::regclass
    group by a.relation
)
select n.nspname::text, c.relname::text, c.relkind = 'p', chosen.name, chosen.type, pg_temp.pgward_fits($1, chosen.type)
from uses u join pg_class c on c.oid = u.relation join pg_namespace n on n.oid = c.relnamespace,
lateral (
    select case when count(*) filter (where x.sure) = 1 then min(x.name) filter (where x.sure)
                when count(*) = 1 and not u.others then min(x.name) end as name
    from (
        select a.attname::text as name, strpos(u.expression, quote_ident(a.attname) || ' = ( SELECT pgward.tenant()') > 0
            or exists (
                select from pg_attrdef f join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid, tenant t
                where f.adrelid = a.attrelid and f.adnum = a.attnum
                    and d.refclassid = 'pg_proc'::regclass and d.refobjid = t.function) as sure
        from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and a.attnum = any (u.columns)
    ) x
) named,
lateral (
    select named.name, (
        select format_type(a.atttypid, a.atttypmod) from pg_attribute a
        where a.attrelid = c.oid and a.attname = named.name) as type
) chosen
where not exists (
    select from pg_partition_ancestors(c.oid) p where p.relid <> c.oid and p.relid in (select a.relation from asking a))
order by 1, 2";

/// Tables with row security that does not ask `pgward.tenant()`.
const OTHERWISE: &str = "
select c.oid::regclass::text from pg_class c
where c.relrowsecurity and not exists (
    select from pg_policy p join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
    where p.polrelid = c.oid and d.refclassid = 'pg_proc'::regclass
        and d.refobjid = to_regprocedure('pgward.tenant()'))
order by 1";

/// A table in which a column says whose a row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantTable {
    pub schema: String,
    pub name: String,
    column: String,
    type_: String,
    partitioned: bool,
}

/// What is known of a database's tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub followed: Vec<TenantTable>,
    /// Their policies ask whose the session is, and no single column says whose a row is.
    pub unclear: Vec<String>,
    /// Their row security asks something else.
    pub otherwise: Vec<String>,
}

impl TenantTable {
    /// As the log and the person who reads it know it.
    pub fn label(&self) -> String {
        format!("{}.{}", sql::identifier(&self.schema), sql::identifier(&self.name)).replace('"', "")
    }

    /// `FROM` and `WHERE` of the tenant's rows.
    fn rows(&self, tenant: &Tenant) -> String {
        format!("from {}", self.from(tenant))
    }

    /// What stands behind `FROM`.
    pub(in crate::tenant) fn from(&self, tenant: &Tenant) -> String {
        format!(
            "{}{}.{} where {} = {}::{}",
            // What inherits from it has a policy of its own, if any.
            if self.partitioned { "" } else { "only " },
            sql::identifier(&self.schema),
            sql::identifier(&self.name),
            sql::identifier(&self.column),
            sql::literal(tenant.id.as_str()),
            self.type_
        )
    }

    /// Sends the tenant's rows as CSV with a head line.
    pub fn copy(&self, tenant: &Tenant) -> String {
        self.copy_columns(tenant, "*")
    }

    /// The same of some columns.
    pub fn copy_columns(&self, tenant: &Tenant, columns: &str) -> String {
        format!("copy (select {columns} {}) to stdout with (format csv, header)", self.rows(tenant))
    }
}

fn failed(doing: &str) -> impl FnOnce(tokio_postgres::Error) -> InstallError {
    let doing = doing.to_owned();
    move |source| InstallError::Sql { doing, source }
}

pub(super) async fn tables(client: &Client, tenant: &Tenant) -> Result<Tables, ProvisionError> {
    install::run(client, "preparing", FUNCTIONS).await?;
    let doing = "looking for tables that tenants share";
    let rows = client.query(ASKING, &[&tenant.id.as_str()]).await.map_err(failed(doing))?;
    let otherwise = install::texts(client, OTHERWISE, &[]).await?;
    let mut tables = Tables { otherwise, ..Tables::default() };
    for row in rows {
        let (schema, name): (String, String) = (row.get(0), row.get(1));
        match (row.get::<_, Option<String>>(3), row.get::<_, Option<String>>(4), row.get(5)) {
            (Some(column), Some(type_), Some(true)) => {
                tables.followed.push(TenantTable { schema, name, column, type_, partitioned: row.get(2) });
            }
            // No row of it can be this tenant's.
            (Some(_), Some(_), _) => {}
            _ => tables.unclear.push(format!("{schema}.{name}")),
        }
    }
    Ok(tables)
}

/// How many rows the tenant has in each. In a transaction that has the tenant's context, since row security may be
/// forced upon whoever looks.
pub(super) async fn counts(
    client: &Client,
    tables: &[TenantTable],
    tenant: &Tenant,
) -> Result<Vec<u64>, ProvisionError> {
    let mut counts = Vec::new();
    for table in tables {
        let sql = format!("select count(*) {}", table.rows(tenant));
        let row = client.query_one(&sql, &[]).await.map_err(failed(&format!("counting rows of {}", table.label())))?;
        counts.push(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0));
    }
    Ok(counts)
}

/// Deletes the tenant's rows from all tables by one statement, since foreign keys are looked at when it ends: so no
/// order of the tables matters, and circles do not either. `exported`: what must be found, by label.
pub(super) async fn erase(
    client: &Client,
    settings: &Settings,
    tenant: &Tenant,
    tables: &[TenantTable],
    exported: Option<&BTreeMap<String, u64>>,
) -> Result<Vec<u64>, ProvisionError> {
    install::atomically(client, "begin", async || within(client, settings, tenant, tables, exported).await).await
}

async fn within(
    client: &Client,
    settings: &Settings,
    tenant: &Tenant,
    tables: &[TenantTable],
    exported: Option<&BTreeMap<String, u64>>,
) -> Result<Vec<u64>, ProvisionError> {
    create::seal(client, settings, tenant).await?;
    let forget =
        "with gone as (delete from pgward.applied where tenant = $1 returning 1) select count(*)::text from gone";
    install::texts(client, forget, &[&tenant.id.as_str()]).await?;
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let deletes = tables.iter().enumerate();
    let deletes: Vec<String> =
        deletes.map(|(i, table)| format!("d{i} as (delete {} returning 1)", table.rows(tenant))).collect();
    let counts: Vec<String> = (0..tables.len()).map(|i| format!("(select count(*) from d{i})")).collect();
    let sql = format!("with {} select array[{}]", deletes.join(", "), counts.join(", "));
    let row = client.query_one(&sql, &[]).await.map_err(failed("deleting the tenant's rows"))?;
    let deleted: Vec<u64> = row.get::<_, Vec<i64>>(0).into_iter().map(|n| u64::try_from(n).unwrap_or(0)).collect();
    for (table, found) in tables.iter().zip(&deleted) {
        let Some(exported) = exported else { break };
        let (table, found) = (table.label(), *found);
        let exported = exported.get(&table).copied().unwrap_or(0);
        if exported != found {
            return Err(ProvisionError::Changed { table, exported, found });
        }
    }
    Ok(deleted)
}
