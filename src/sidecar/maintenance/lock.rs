//! pg_partman's advisory locks. Anybody who can log in to the database can take them, and while somebody has one pg_partman
//! does nothing and says so by a notice alone. So they are taken before pg_partman is asked, which then has them too.

use super::error::MaintenanceError;
use super::partman::{Partman, value};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    Make,
    Drop,
}

impl Lock {
    const fn name(self) -> &'static str {
        match self {
            Self::Make => "pg_partman run_maintenance",
            Self::Drop => "pg_partman drop_partition_time",
        }
    }
}

impl Partman<'_> {
    /// Until the end of the transaction. An error names who has it.
    pub async fn lock(&self, lock: Lock) -> Result<(), MaintenanceError> {
        let doing = "taking pg_partman's lock for";
        let sql = "select pg_try_advisory_xact_lock(hashtext($1))";
        let row = self.client.query_one(sql, &[&lock.name()]).await.map_err(self.failed(doing))?;
        if value(&row, 0)? {
            return Ok(());
        }
        // Not by pg_stat_activity, which logins at an installed database may not see.
        let sql = "select coalesce('process ' || l.pid || coalesce(', logged in as ' || (
                    select pg_get_userbyid(pg_stat_get_backend_userid(id)) from pg_stat_get_backend_idset() id
                    where pg_stat_get_backend_pid(id) = l.pid limit 1), ''), 'a prepared transaction')
            from pg_locks l
            where l.locktype = 'advisory' and l.granted and l.objsubid = 1
                and l.database = (select oid from pg_database where datname = current_database())
                and (l.classid::bigint << 32 | l.objid::bigint) = hashtext($1)::bigint
            order by l.pid limit 1";
        let row = self.client.query_opt(sql, &[&lock.name()]).await.map_err(self.failed(doing))?;
        let holder = row.map_or(Ok("somebody who is gone by now".to_owned()), |row| value(&row, 0))?;
        Err(MaintenanceError::Locked { table: self.table.parent(), lock: lock.name(), holder })
    }
}
