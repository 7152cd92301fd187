//! Whole partitions that nobody keeps anything in any more.

use std::time::Duration;

use super::error::MaintenanceError;
use super::leave::Leave;
use super::lock::Lock;
use super::partman::{End, PARTS, Partition, Partman, value};
use super::table::Deeds;

/// The table is locked for as long as these take.
const AT_ONCE: usize = 10;

impl Partman<'_> {
    /// The oldest first, a few in each transaction.
    pub async fn drop_old(&self, leave: &Leave<'_>, deeds: &mut Deeds) -> Result<(), MaintenanceError> {
        let mut after = self.table.expiry.drop_after;
        while let Some(age) = after {
            let due = self.older(age).await?;
            let Some(few) = due.chunks(AT_ONCE).next() else { break };
            match self.transaction(self.drop_few(few, age, leave)).await? {
                Dropped::Partitions(gone) => deeds.dropped += gone,
                Dropped::NotNow(now) => after = now,
            }
        }
        Ok(())
    }

    async fn drop_few(
        &self,
        few: &[Partition],
        age: Duration,
        leave: &Leave<'_>,
    ) -> Result<End<Dropped>, MaintenanceError> {
        let doing = "dropping partitions of";
        let Some(last) = few.last() else { return Ok(End::TakeBack(Dropped::Partitions(0))) };
        self.lock(Lock::Drop).await?;
        let [schema, name] = self.place();
        let due: Vec<u32> = few.iter().map(|partition| partition.oid).collect();
        let others = format!("{PARTS} select coalesce(array_agg(oid), '{{}}') from bounded where oid <> all($3::oid[])");
        let row = self.client.query_one(&others, &[schema, name, &due]).await.map_err(self.failed(doing))?;
        let others: Vec<u32> = value(&row, 0)?;
        // pg_partman goes by its own book of how long a partition is, so that is looked at afterwards.
        let sql = "select partman.drop_partition_time($1, ($2::text || ' seconds')::interval, p_keep_table := false,
            p_keep_index := false, p_reference_timestamp :=
                $3::text::timestamptz + ($2::text || ' seconds')::interval + interval '1 microsecond')";
        let asked = self.client.query_one(sql, &[&self.table.parent(), &age.as_secs().to_string(), &last.high]).await;
        asked.map_err(self.failed(doing))?;
        let left = format!(
            "{PARTS} select count(*) filter (where oid = any($3::oid[])), count(*) filter (where oid = any($4::oid[]))
            from bounded"
        );
        let row = self.client.query_one(&left, &[schema, name, &due, &others]).await.map_err(self.failed(doing))?;
        let count = |column| value::<i64>(&row, column).map(|count| usize::try_from(count).unwrap_or(0));
        let (gone, others_left) = (due.len().saturating_sub(count(0)?), count(1)?);
        if gone == 0 || others_left != others.len() {
            return Err(MaintenanceError::Interval(self.table.parent()));
        }
        let now = leave.now().await?.drop_after;
        if now != Some(age) {
            return Ok(End::TakeBack(Dropped::NotNow(now)));
        }
        Ok(End::Commit(Dropped::Partitions(u64::try_from(gone).unwrap_or(u64::MAX))))
    }
}

enum Dropped {
    Partitions(u64),
    /// They go at another age than it was planned, or never.
    NotNow(Option<Duration>),
}
