//! Putting a tenant back to what it was: what is different, and the swap, which is one transaction at every level.

mod compare;
mod database;
mod rows;
mod schema;
mod shape;

use tokio_postgres::Client;

use super::install::{self, InstallError};
use super::{ProvisionError, Seen};
use crate::config::{Isolation, Tenant};

pub use compare::{Counts, Difference, compare};
pub use database::TwinDatabase;
pub use rows::{Staging, TableSource};
pub use schema::TwinSchema;
pub use shape::{Column, Shape, Within};

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    #[error(
        "table {table} is not what it was: {what}. Rows of then do not fit it; make it what it was, or leave this table \
         out with --leave {table}"
    )]
    Shape { table: String, what: String },
    #[error("foreign key {constraint} of {table} would not hold for {rows} rows; nothing was changed")]
    ForeignKey { constraint: String, table: String, rows: u64 },
    #[error(
        "{rows} rows of {table} are not what was restored, since a trigger or a rule changes them; nothing was changed"
    )]
    Altered { table: String, rows: u64 },
    #[error("outside of schema {schema}, these need what is in it: {what}; they would be lost, so nothing was changed")]
    Needed { schema: String, what: String },
    #[error("large object {0} is somebody else's now; nothing was changed")]
    LargeObject(String),
    #[error("what was there cannot be read")]
    Read(#[source] std::io::Error),
    #[error("sessions in database {0} do not end; see pg_stat_activity. Nothing was changed")]
    Busy(String),
}

impl From<InstallError> for RestoreError {
    fn from(error: InstallError) -> Self {
        Self::Provision(error.into())
    }
}

/// How values are written while they are compared or copied: the same on both sides, and without running what a tenant
/// has made (a view in a table's place would).
pub async fn prepare(client: &Client) -> Result<(), InstallError> {
    let settings = "set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set extra_float_digits = 3; \
        set timezone = 'UTC'; set bytea_output = 'hex'; set search_path = pg_catalog; \
        select left(set_config(name, 'view, foreign-table', false), 0) from pg_settings \
        where name = 'restrict_nonsystem_relation_kind'";
    install::run(client, "preparing", settings).await?;
    install::unhurried(client).await
}

/// Removes whatever restores have left beside what the tenant has, on a connection that nobody else works on it by. At level
/// `rows` that is nothing: it goes with the connection that it was made on.
pub async fn sweep(client: &Client, tenant: &Tenant) -> Result<(), InstallError> {
    match tenant.isolation {
        Isolation::Rows => Ok(()),
        Isolation::Schema => {
            // An export of a schema gets another name in a database that is there for that alone.
            TwinDatabase::of(tenant).sweep(client).await?;
            TwinSchema::of(tenant).sweep(client).await
        }
        Isolation::Database | Isolation::Cluster => TwinDatabase::of(tenant).sweep(client).await,
    }
}

/// Looks whether anything of that is there.
pub async fn left_behind(client: &Client, tenant: &Tenant) -> Result<Vec<Seen>, InstallError> {
    if tenant.isolation == Isolation::Rows {
        return Ok(Vec::new());
    }
    let count = |what, names: Vec<String>| Seen::count(what, u64::try_from(names.len()).unwrap_or(u64::MAX));
    let mut seen = vec![count("databases that restores have left", TwinDatabase::of(tenant).names(client).await?)];
    if tenant.isolation == Isolation::Schema {
        seen.push(count("schemas that restores have left", TwinSchema::of(tenant).names(client).await?));
    }
    Ok(seen)
}

/// The tenant waits outside: rather let it in again than have it wait for whoever holds a lock.
const PATIENCE: &str = "set local lock_timeout = '1min'";

fn failed(doing: &str) -> impl FnOnce(tokio_postgres::Error) -> InstallError {
    let doing = doing.to_owned();
    move |source| InstallError::Sql { doing, source }
}

/// A number that a query answers.
async fn number(client: &Client, doing: &str, sql: &str) -> Result<u64, InstallError> {
    let row = client.query_one(sql, &[]).await.map_err(failed(doing))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// A name beside the tenant's. Each attempt has its own, so that what an earlier one has left running does no harm to it.
fn beside(prefix: &str) -> String {
    format!("{prefix}{:08x}", rand::random::<u32>())
}

/// Ends the programs of earlier attempts, whose names begin as what they were to make.
async fn end(client: &Client, prefix: &str) -> Result<(), InstallError> {
    let end = "select pg_catalog.pg_terminate_backend(pid)::text from pg_catalog.pg_stat_activity \
        where pg_catalog.starts_with(application_name, $1)";
    install::texts(client, end, &[&prefix]).await.map(drop)
}
