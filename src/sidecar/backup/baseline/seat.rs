//! A connection that reads, and what its errors are about.

use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Row};

use super::BaselineError;
use crate::topology::Way;

/// The text of a row depends on all of these; and who may not see all rows is to fail rather than see some.
const SESSION: &str = "
    set search_path = pg_catalog, pg_temp;
    set row_security = off;
    set datestyle = 'ISO, MDY';
    set intervalstyle = postgres;
    set timezone = 'UTC';
    set extra_float_digits = 1;
    set bytea_output = hex;
    set xmloption = content;
    set lc_monetary = 'C';
    set quote_all_identifiers = off;
    set statement_timeout = 0;
    set idle_in_transaction_session_timeout = 0;
    set lock_timeout = '2s';
    set max_parallel_workers_per_gather = 0;
    set jit = off;";

pub(super) struct Seat {
    client: Client,
    pub database: String,
}

impl Seat {
    pub async fn take(way: &Way, database: &str) -> Result<Self, BaselineError> {
        let database = database.to_owned();
        let client = match way.database(&database).connect().await {
            Ok(client) => client,
            Err(source) => return Err(BaselineError::Connect { database, source }),
        };
        let seat = Self { client, database };
        seat.run("prepare to read", SESSION).await?;
        Ok(seat)
    }

    /// With nothing said of what it was for.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn failed(&self, doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> BaselineError {
        let database = self.database.clone();
        move |source| BaselineError::Sql { doing, database, source }
    }

    pub async fn run(&self, doing: &'static str, sql: &str) -> Result<(), BaselineError> {
        self.client.batch_execute(sql).await.map_err(self.failed(doing))
    }

    pub async fn rows(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, BaselineError> {
        self.client.query(sql, parameters).await.map_err(self.failed(doing))
    }

    pub async fn row(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, BaselineError> {
        self.client.query_one(sql, parameters).await.map_err(self.failed(doing))
    }

    /// One value.
    pub async fn value<T: for<'a> FromSql<'a>>(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<T, BaselineError> {
        self.row(doing, sql, parameters).await?.try_get(0).map_err(self.failed(doing))
    }

    /// By name, and whether they let anybody in. Templates come first, since no database can be made of them while somebody
    /// is connected; then the one that this is connected to, and the others in any order.
    pub async fn databases(&self) -> Result<Vec<(String, bool)>, BaselineError> {
        let doing = "list the databases";
        let sql = "select datname::text, datallowconn from pg_database where datname <> 'template0' \
                   order by not datistemplate, datname <> current_database(), random()";
        let rows = self.rows(doing, sql, &[]).await?;
        let database = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(|row| database(row).map_err(self.failed(doing))).collect()
    }
}
