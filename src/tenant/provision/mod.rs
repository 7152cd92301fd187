//! What a tenant gets when it is added, and what goes when it is removed.
//!
//! Everything that can be done in one transaction is. What cannot (`CREATE DATABASE`, `DROP DATABASE`) can be
//! repeated: whatever is found half done is recognised as the tenant's, and finished. What is found and is not
//! recognised is left alone.

mod create;
mod database;
mod removal;
mod seen;
mod tables;
mod template;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use super::install::{self, InstallError};
use crate::base::TenantId;
use crate::config::Tenant;

pub use create::{Applied, Provision, Provisioned, seal};
pub use database::Database;
pub use removal::Removal;
pub use seen::Seen;
pub use tables::TenantTable;
pub use template::{Template, TemplateError};

const FUNCTIONS: &str = include_str!("provision.sql");

#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error("file {0} of the template ended the transaction that it ran in; what came before it was committed")]
    TemplateCommitted(String),
    #[error(
        "there is a database {database} already, and nothing says that it is tenant {tenant}'s; name another with \
         --database, or, if it is meant: comment on database {quoted} is 'pgward: tenant {tenant}'"
    )]
    StrangeDatabase { database: String, quoted: String, tenant: TenantId },
    #[error(
        "nothing says that role {role} is tenant {tenant}'s, so it is not dropped; if it is meant: comment on role \
         {quoted} is 'pgward: tenant {tenant}'"
    )]
    StrangeRole { role: String, quoted: String, tenant: TenantId },
    #[error("schema {schema} belongs to {owner}, which is no role of tenant {tenant}, so it is not dropped")]
    StrangeSchema { schema: String, owner: String, tenant: TenantId },
    #[error("what tenants share in database {0} is not there or not up to date; run pgward install first")]
    NotInstalled(String),
    #[error("tenant {0} has no login role to apply a template as")]
    NoLogin(TenantId),
    #[error("there is no context key to seal the tenant's context with (context.keys)")]
    NoKey,
    #[error("{table} had {exported} rows of the tenant when it was exported and has {found} now; nothing was deleted")]
    Changed { table: String, exported: u64, found: u64 },
}

/// Waits until nobody else adds or removes this tenant by way of this database, and keeps others waiting as long as
/// the connection lasts. `waiting` is called if there is somebody.
pub async fn lock(client: &Client, tenant: &TenantId, waiting: impl FnOnce()) -> Result<(), ProvisionError> {
    install::unhurried(client).await?;
    let key = "(1885828965, pg_catalog.hashtext($1))";
    let sql = format!("select pg_catalog.pg_try_advisory_lock{key}::text");
    let got = install::texts(client, &sql, &[&tenant.as_str()]).await?;
    if got != ["true"] {
        waiting();
        let sql = format!("select pg_catalog.pg_advisory_lock{key}::text");
        install::texts(client, &sql, &[&tenant.as_str()]).await?;
    }
    Ok(())
}

/// Part of a name that only this tenant's would have.
pub(super) fn unique(tenant: &TenantId, name: &str) -> String {
    let digest = Sha256::digest(format!("{tenant}\0{name}"));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What comments say of what is a tenant's.
pub(super) fn mark(tenant: &TenantId) -> String {
    format!("pgward: tenant {tenant}")
}

/// Of its own logins, the one that owns what it has first.
pub fn own_roles(tenant: &Tenant) -> Vec<&str> {
    tenant.own_logins().map(|login| login.role.as_str()).collect()
}
