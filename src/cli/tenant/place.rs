//! Where a tenant's data is: on its cluster, or in a copy of that as it was.

use std::ffi::OsString;

use tokio_postgres::Client;

use super::Failure;
use crate::cli::connect::Administrator;
use crate::config::Cluster;
use crate::sidecar::backup::Scratch;

#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Live { administrator: &'a Administrator, cluster: &'a Cluster },
    Copy(&'a Scratch),
}

impl Place<'_> {
    pub async fn connect(&self, database: &str) -> Result<Client, Failure> {
        match self {
            Self::Live { administrator, .. } => Ok(administrator.connect(database).await?),
            Self::Copy(scratch) => Ok(scratch.connect(database).await?),
        }
    }

    /// The same connection for PostgreSQL's own programs.
    pub fn environment(&self, database: &str) -> Vec<(&'static str, OsString)> {
        match self {
            Self::Live { administrator, cluster } => administrator.environment(cluster, database),
            Self::Copy(scratch) => {
                let mut variables = scratch.environment();
                variables.push(("PGDATABASE", database.into()));
                variables
            }
        }
    }
}
