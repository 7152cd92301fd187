use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::base::ClusterName;
use crate::tenant::InstallError;
use crate::topology::WayError;

/// The word for what took too long.
pub(super) const TIMEOUT: &str = "timeout";

/// Versions of pg_partman whose functions are known.
pub(super) const DRIVEN: &str = "4.7";

#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    #[error("cluster {0} is not in the configuration")]
    UnknownCluster(ClusterName),
    #[error("cluster {0} has no login for the work on partitions; say it with clusters.{0}.maintenance")]
    NoLogin(ClusterName),
    #[error(transparent)]
    Way(#[from] WayError),
    #[error(transparent)]
    Verifier(#[from] InstallError),
    #[error("cannot connect to database {database} as {role}{}; is `pgward maintenance setup` done there?", said(.source))]
    Connect {
        database: String,
        role: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("{doing} took longer than {} s", .limit.as_secs())]
    Timeout { doing: String, limit: Duration },
    #[error(
        "database {0} is not set up for partitions; run `pgward maintenance setup`, and again after each upgrade of pg_partman"
    )]
    NotSetUp(String),
    #[error("PostgreSQL refused while {doing}{}", said(.source))]
    Sql {
        doing: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("there is no table {0}; create it, partitioned by range of its column")]
    NoTable(String),
    #[error("table {0} is not partitioned; create it with `partition by range`, and move its rows there")]
    NotPartitioned(String),
    #[error("table {table} has no column {column} of type timestamptz, timestamp or date that it is partitioned by")]
    Column { table: String, column: String },
    #[error(
        "row-level security of table {0} hides rows from the login that is to keep it; one for shared tables needs BYPASSRLS, \
         and a tenant's own table must not force row security on its owner"
    )]
    RowSecurity(String),
    #[error("table {0} has no column {1} that says whose a row is; name it with tenant_column")]
    TenantColumn(String, String),
    #[error(
        "table {table} belongs to {owner}, {why}; give it to a role that neither tenants nor administrators log in as: \
         alter table {table} owner to ..."
    )]
    Owner { table: String, owner: String, why: &'static str },
    #[error(
        "the default partition of {table} has rows where a partition is to be, and they cannot be moved by themselves: {why}; \
         move them with partman.partition_data_proc"
    )]
    InTheWay { table: String, why: &'static str },
    #[error(
        "table {table} has {ahead} partitions ahead after the run, and {premake} are wanted; are their names taken?"
    )]
    Behind { table: String, ahead: i64, premake: usize },
    #[error(
        "pg_partman could not do its work on table {table}, since its advisory lock '{lock}' is held by {holder}; end that \
         session, which anybody who can log in to the database may be"
    )]
    Locked { table: String, lock: &'static str, holder: String },
    #[error(
        "pg_partman's part_config has another column or interval for table {0} than clusters.NAME.partitions or the \
         partitions themselves; make them the same, of tables with partitions by changing the configuration back"
    )]
    Interval(String),
    #[error(
        "what may go of table {0} is not known for certain now, since the configuration or its catalogue cannot be read; \
         nothing more of it goes"
    )]
    InDoubt(String),
    #[error("pg_partman is {version} in database {database}, and pgward drives {DRIVEN}; install that")]
    Version { version: String, database: String },
    #[error("the connection to database {0} is gone; the table has its turn once there is one again")]
    Gone(String),
    #[error("pg_partman is in schema {0} of database {1}; pgward needs it in schema partman")]
    Elsewhere(String, String),
    #[error("role {0} is a superuser; the work on partitions is done as one that is none")]
    Superuser(String),
}

impl MaintenanceError {
    pub(super) fn sql(doing: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Sql { doing, source }
    }

    /// Whether it may go better in a moment. pg_partman raises every error anew, so that only the text tells.
    pub(super) fn may_pass(&self) -> bool {
        let Self::Sql { source, .. } = self else { return matches!(self, Self::Locked { .. }) };
        let Some(error) = source.as_db_error() else { return false };
        let passing =
            [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
        passing.contains(error.code())
            || error.message().starts_with("canceling statement due to lock timeout")
            || error.message().starts_with("deadlock detected")
    }

    /// A word for it, without names and values.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Sql { source, .. } | Self::Connect { source, .. } => match source.code() {
                _ if self.may_pass() => "lock_timeout".to_owned(),
                Some(code) => format!("sqlstate_{}", code.code()),
                None => "connection".to_owned(),
            },
            Self::NoTable(_) => "no_table".to_owned(),
            Self::NotPartitioned(_) => "not_partitioned".to_owned(),
            Self::Column { .. } | Self::TenantColumn(..) => "column".to_owned(),
            Self::RowSecurity(_) => "row_security".to_owned(),
            Self::Owner { .. } => "owner".to_owned(),
            Self::InTheWay { .. } => "rows_in_the_way".to_owned(),
            Self::Behind { .. } => "behind".to_owned(),
            Self::Locked { .. } => "locked".to_owned(),
            Self::Interval(_) => "interval".to_owned(),
            Self::InDoubt(_) => "in_doubt".to_owned(),
            Self::Version { .. } => "version".to_owned(),
            Self::Gone(_) => "connection".to_owned(),
            Self::Timeout { .. } => TIMEOUT.to_owned(),
            _ => "not_set_up".to_owned(),
        }
    }
}

/// The first line of the server's own words: what follows may have a row's values in it.
fn said(error: &tokio_postgres::Error) -> String {
    let Some(error) = error.as_db_error() else { return String::new() };
    let line = error.message().lines().next().unwrap_or_default();
    format!(": {line} (SQLSTATE {})", error.code().code())
}
