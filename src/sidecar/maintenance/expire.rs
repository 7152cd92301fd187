//! Rows whose time is up while their partition stays, since others have rows in it that are kept longer.

use sha2::{Digest, Sha256};

use super::error::MaintenanceError;
use super::partman::{Partition, Partman, value};
use super::plan::{Group, Whose};
use crate::base::TenantId;
use crate::config::Maintenance;
use crate::sql::identifier;

impl Partman<'_> {
    /// In small transactions that wait for nobody: a row that somebody works on is left for the next time. How many there
    /// were, `most` if that is not all.
    pub async fn expire(&self, groups: &[Group], rules: &Maintenance) -> Result<u64, MaintenanceError> {
        let (mut gone, most) = (0, rules.max_rows);
        if groups.iter().all(|group| group.whose == Whose::Everybodys) {
            // Their partitions go, all but the default one.
            for group in groups {
                gone += self.expire_default(group, rules, most - gone).await?;
            }
            return Ok(count(gone));
        }
        let text = self.tenant_column_is_text().await?;
        for group in groups {
            let (whose, tenants) = self.whose(&group.whose, text);
            let deleting = Deleting { condition: whose, tenants, batch: rules.batch };
            let rule = rule(group);
            for partition in self.older(group.retention.as_secs()).await? {
                gone += self.expire_partition(&partition, &rule, &deleting, most - gone).await?;
            }
            gone += self.expire_default(group, rules, most - gone).await?;
        }
        Ok(count(gone))
    }

    /// One that nobody has written to since nothing was left to delete in it is not read again.
    async fn expire_partition(
        &self,
        partition: &Partition,
        rule: &str,
        what: &Deleting,
        most: usize,
    ) -> Result<usize, MaintenanceError> {
        let doing = "looking for rows whose time is up in";
        // As of before they are read, so that what is written meanwhile is looked for the next time.
        let sql = "select pg_stat_get_tuples_inserted($1) + pg_stat_get_tuples_updated($1),
            (select writes from partman.pgward_expired where partition = $1 and rule = $2)";
        let row = self.client.query_one(sql, &[&partition.oid, &rule]).await.map_err(self.failed(doing))?;
        let (writes, known): (i64, Option<i64>) = (value(&row, 0)?, value(&row, 1)?);
        if most == 0 || known == Some(writes) {
            return Ok(0);
        }
        let gone = self.delete(&partition.name, what, most).await?;
        let sql = format!(
            "insert into partman.pgward_expired as e (parent_table, partition, rule, writes) select $2, $3, $4, $5
             where $1::text[] is not null and not exists (select from only {} where {})
             on conflict (partition, rule) do update set writes = excluded.writes",
            partition.name, what.condition
        );
        let parent = self.table.parent();
        let noted = self.client.execute(&sql, &[&what.tenants, &parent, &partition.oid, &rule, &writes]).await;
        noted.map_err(self.failed(doing))?;
        Ok(gone)
    }

    async fn expire_default(&self, group: &Group, rules: &Maintenance, most: usize) -> Result<usize, MaintenanceError> {
        let Some(default) = self.default_partition().await? else { return Ok(0) };
        let text = group.whose == Whose::Everybodys || self.tenant_column_is_text().await?;
        let (whose, tenants) = self.whose(&group.whose, text);
        let (column, seconds) = (identifier(&self.table.rules.column), group.retention.as_secs());
        let condition = format!("{column} < now() - interval '{seconds} seconds' and {whose}");
        self.delete(&default, &Deleting { condition, tenants, batch: rules.batch }, most).await
    }

    async fn delete(&self, partition: &str, what: &Deleting, most: usize) -> Result<usize, MaintenanceError> {
        let mut gone = 0;
        while gone < most {
            let batch = what.batch.min(most - gone);
            // The array is named whether it is asked for or not, so that the parameter has a type.
            let sql = format!(
                "delete from only {partition} where ctid = any(array(
                    select ctid from only {partition} where {} and $1::text[] is not null
                    limit {batch} for update skip locked))",
                what.condition
            );
            let deleted = self.client.execute(&sql, &[&what.tenants]).await;
            let deleted = deleted.map_err(self.failed("deleting rows whose time is up from"))?;
            gone += usize::try_from(deleted).unwrap_or(usize::MAX);
            if deleted == 0 {
                break;
            }
        }
        Ok(gone)
    }

    /// A condition on the tenant's column, and the tenants that it is about. Whether they are told by text decides whether
    /// an index on the column is of use.
    fn whose(&self, whose: &Whose, text: bool) -> (String, Vec<String>) {
        let column = identifier(&self.table.rules.tenant_column);
        let column = if text { column } else { format!("{column}::text") };
        let names = |tenants: &[TenantId]| tenants.iter().map(ToString::to_string).collect();
        match whose {
            Whose::Everybodys => ("true".to_owned(), Vec::new()),
            Whose::Of(tenants) => (format!("{column} = any($1::text[])"), names(tenants)),
            Whose::OfOthersThan(tenants) => (format!("({column} = any($1::text[])) is not true"), names(tenants)),
        }
    }

    async fn tenant_column_is_text(&self) -> Result<bool, MaintenanceError> {
        let sql = "select atttypid in ('text'::regtype, 'varchar'::regtype) from pg_attribute
            where attrelid = to_regclass(format('%I.%I', $1::text, $2::text)) and attname = $3 and attnum > 0";
        let rules = &self.table.rules;
        let row = self.client.query_opt(sql, &[&self.table.schema, &rules.table, &rules.tenant_column]).await;
        let row = row.map_err(self.failed("looking at"))?;
        let none = || MaintenanceError::TenantColumn(self.table.parent(), rules.tenant_column.clone());
        value(&row.ok_or_else(none)?, 0)
    }
}

/// What tells one group of tenants and their time from another.
fn rule(group: &Group) -> String {
    let digest = Sha256::digest(format!("{group:?}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

/// Which rows, and how many at a time.
struct Deleting {
    condition: String,
    tenants: Vec<String>,
    batch: usize,
}
