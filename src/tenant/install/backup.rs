//! `pgward backup setup`: the login that backups are made as.

use tokio_postgres::Client;

use super::{Batch, InstallError, ROLES, sql, transaction, verifier};
use crate::config::{Cluster, ClusterBackup, Settings};

const RIGHTS: &str = include_str!("backup.sql");

/// In one transaction, on a superuser's connection to the database that backups are begun in.
pub async fn install_backup(
    client: &Client,
    settings: &Settings,
    cluster: &Cluster,
    of: &ClusterBackup,
) -> Result<(), InstallError> {
    let role = &of.login.role;
    let password = sql::password(role, &verifier(settings, &cluster.name, &of.login)?);
    let batches = [
        Batch::open("preparing", ROLES),
        Batch::open("preparing what backups may do", RIGHTS),
        Batch::open(format!("creating the login role {role}"), sql::login(&of.login, &of.database)),
        Batch::secret(format!("setting the password of {role}"), password),
        Batch::open(format!("letting {role} make backups"), sql::backup(role, &of.database, of.receive_wal.is_some())),
    ];
    transaction(client, &batches).await
}
