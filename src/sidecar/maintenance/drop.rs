//! Whole partitions that nobody keeps anything in any more.

use std::time::Duration;

use super::error::MaintenanceError;
use super::leave::Leave;
use super::lock::Lock;
use super::partman::{End, Partition, Partman, value};
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
                Dropped::Partitions(gone) => {
                    deeds.dropped += gone;
                    leave.gone(gone, 0);
                }
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
        let due: Vec<u32> = few.iter().map(|partition| partition.oid).collect();
        // As if it were the moment after which the last of them goes. So whatever pg_partman's own book says of how long a
        // partition is, what follows stays.
        let sql = "select partman.drop_partition_time($1, ($2::text || ' seconds')::interval, p_keep_table := false,
            p_keep_index := false, p_reference_timestamp :=
                $3::text::timestamptz + ($2::text || ' seconds')::interval + interval '1 microsecond')";
        let asked = self.client.query_one(sql, &[&self.table.parent(), &age.as_secs().to_string(), &last.high]).await;
        asked.map_err(self.failed(doing))?;
        let left = "select count(*) from pg_class where oid = any($1::oid[])";
        let row = self.client.query_one(left, &[&due]).await.map_err(self.failed(doing))?;
        let left = usize::try_from(value::<i64>(&row, 0)?).unwrap_or(usize::MAX);
        let gone = due.len().saturating_sub(left);
        if gone == 0 {
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
