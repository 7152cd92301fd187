//! Rows whose time is up while their partition stays, since others have rows in it that are kept longer.

use sha2::{Digest, Sha256};

use super::error::MaintenanceError;
use super::leave::Leave;
use super::partman::{End, Partition, Partman, value};
use super::plan::{Expiry, Group, Whose};
use super::table::Deeds;
use crate::base::TenantId;
use crate::config::Maintenance;
use crate::sql::identifier;

impl Partman<'_> {
    /// In small transactions that wait for nobody: a row that somebody works on is left for the next time.
    pub async fn expire(
        &self,
        leave: &Leave<'_>,
        rules: &Maintenance,
        deeds: &mut Deeds,
    ) -> Result<(), MaintenanceError> {
        let mut groups = self.table.expiry.rows.clone();
        while let Deleted::NotNow(now) = self.expire_groups(&groups, leave, rules, deeds).await? {
            groups = now.rows;
        }
        Ok(())
    }

    async fn expire_groups(
        &self,
        groups: &[Group],
        leave: &Leave<'_>,
        rules: &Maintenance,
        deeds: &mut Deeds,
    ) -> Result<Deleted, MaintenanceError> {
        for group in groups {
            let deleting = self.deleting(group, leave, rules).await?;
            let rule = rule(group);
            for partition in self.begun(group.retention).await? {
                // One that is not over has more to delete each time. One with nobody else's rows in it is dropped by now, unless
                // that could not be done.
                let done = match group.whose {
                    Whose::Of(_) | Whose::OfOthersThan(_) if partition.over => {
                        self.expire_partition(&partition, &rule, &deleting, deeds).await?
                    }
                    _ => self.delete(&partition.name, &deleting, deeds).await?,
                };
                if let Deleted::NotNow(_) = done {
                    return Ok(done);
                }
            }
            let Some(default) = self.default_partition().await? else { continue };
            let done = self.delete(&default, &deleting, deeds).await?;
            if let Deleted::NotNow(_) = done {
                return Ok(done);
            }
        }
        Ok(Deleted::Rows)
    }

    /// One that nobody has written to since nothing was left to delete in it is not read again.
    async fn expire_partition(
        &self,
        partition: &Partition,
        rule: &str,
        what: &Deleting<'_>,
        deeds: &mut Deeds,
    ) -> Result<Deleted, MaintenanceError> {
        let doing = "looking for rows whose time is up in";
        // As of before they are read, so that what is written meanwhile is looked for the next time. Another server, or one
        // that has forgotten, counts anew, and may come to the same number.
        let sql = "select hashtextextended(concat_ws(' ',
                pg_stat_get_tuples_inserted($1) + pg_stat_get_tuples_updated($1), pg_postmaster_start_time(),
                (select stats_reset from pg_stat_database where datname = current_database())), 0),
            (select writes from partman.pgward_expired where partition = $1 and rule = $2)";
        let row = self.client.query_one(sql, &[&partition.oid, &rule]).await.map_err(self.failed(doing))?;
        let (writes, known): (i64, Option<i64>) = (value(&row, 0)?, value(&row, 1)?);
        if what.left(deeds) == 0 || known == Some(writes) {
            return Ok(Deleted::Rows);
        }
        let done = self.delete(&partition.name, what, deeds).await?;
        if let Deleted::NotNow(_) = done {
            return Ok(done);
        }
        let sql = format!(
            "insert into partman.pgward_expired as e (parent_table, partition, rule, writes) select $2, $3, $4, $5
             where $1::text[] is not null and not exists (select from only {} where {})
             on conflict (partition, rule) do update set writes = excluded.writes",
            partition.name, what.condition
        );
        let parent = self.table.parent();
        let noted = self.client.execute(&sql, &[&what.tenants, &parent, &partition.oid, &rule, &writes]).await;
        noted.map_err(self.failed(doing))?;
        Ok(Deleted::Rows)
    }

    async fn delete(
        &self,
        partition: &str,
        what: &Deleting<'_>,
        deeds: &mut Deeds,
    ) -> Result<Deleted, MaintenanceError> {
        while what.left(deeds) > 0 {
            match self.transaction(self.delete_batch(partition, what, what.left(deeds))).await? {
                Batch::Rows(0) => break,
                Batch::Rows(rows) => {
                    deeds.rows += rows;
                    what.leave.gone(0, rows);
                }
                Batch::NotNow(now) => return Ok(Deleted::NotNow(now)),
            }
        }
        Ok(Deleted::Rows)
    }

    async fn delete_batch(
        &self,
        partition: &str,
        what: &Deleting<'_>,
        most: usize,
    ) -> Result<End<Batch>, MaintenanceError> {
        let batch = what.rules.batch.min(most);
        // The array is named whether it is asked for or not, so that the parameter has a type.
        let sql = format!(
            "delete from only {partition} where ctid = any(array(
                select ctid from only {partition} where {} and $1::text[] is not null
                limit {batch} for update skip locked))",
            what.condition
        );
        let deleted = self.client.execute(&sql, &[&what.tenants]).await;
        let deleted = deleted.map_err(self.failed("deleting rows whose time is up from"))?;
        if deleted > 0 {
            let now = what.leave.now().await?;
            if !now.rows.contains(what.group) {
                return Ok(End::TakeBack(Batch::NotNow(now.into_owned())));
            }
        }
        Ok(End::Commit(Batch::Rows(deleted)))
    }

    async fn deleting<'b>(
        &self,
        group: &'b Group,
        leave: &'b Leave<'b>,
        rules: &'b Maintenance,
    ) -> Result<Deleting<'b>, MaintenanceError> {
        let text = group.whose == Whose::Everybodys || self.tenant_column_is_text().await?;
        let (whose, tenants) = self.whose(&group.whose, text);
        let (column, seconds) = (identifier(&self.table.rules.column), group.retention.as_secs());
        let condition = format!("{column} < now() - interval '{seconds} seconds' and {whose}");
        Ok(Deleting { condition, tenants, group, leave, rules })
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

/// Which rows, and how many at a time.
struct Deleting<'a> {
    condition: String,
    tenants: Vec<String>,
    group: &'a Group,
    leave: &'a Leave<'a>,
    rules: &'a Maintenance,
}

impl Deleting<'_> {
    /// Rows that may still go in this turn.
    fn left(&self, deeds: &Deeds) -> usize {
        self.rules.max_rows.saturating_sub(usize::try_from(deeds.rows).unwrap_or(usize::MAX))
    }
}

enum Deleted {
    Rows,
    /// Something else may go than it was planned.
    NotNow(Expiry),
}

enum Batch {
    Rows(u64),
    NotNow(Expiry),
}
