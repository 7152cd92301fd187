//! `pgward install`: the schema `pgward`, its keys, and the login roles of a database's tenants.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use super::{channels, login_password};
use crate::base::{ClusterName, Secret, TenantId};
use crate::config::{Isolation, Login, Roles, Settings};

/// The functions, as plain SQL.
const FUNCTIONS: &str = include_str!("install.sql");

/// What was done, for the person who asked for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Installed {
    pub keys: Vec<String>,
    pub roles: Vec<String>,
    pub schemas: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("cluster {0} is not in the configuration")]
    UnknownCluster(ClusterName),
    #[error("no tenant of the configuration lives in database {database} of cluster {cluster}")]
    NoTenants { cluster: ClusterName, database: String },
    #[error("role {0} has no password, and there is no master key to derive one from")]
    NoPassword(String),
    #[error("PostgreSQL refused while {doing}")]
    Sql {
        doing: String,
        #[source]
        source: tokio_postgres::Error,
    },
}

/// One statement batch and what it is for.
struct Batch {
    doing: String,
    sql: String,
}

/// Runs everything in one transaction on a connection to `database`, as a role that may create roles and
/// schemas there.
pub async fn install(
    client: &Client,
    settings: &Settings,
    cluster: &ClusterName,
    database: &str,
) -> Result<Installed, InstallError> {
    let (batches, installed) = plan(settings, cluster, database)?;
    let run = async |batch: &Batch| {
        client
            .batch_execute(&batch.sql)
            .await
            .map_err(|source| InstallError::Sql { doing: batch.doing.clone(), source })
    };
    let bracket = |sql: &str| Batch { doing: format!("running {sql}"), sql: sql.to_owned() };
    run(&bracket("begin")).await?;
    for batch in &batches {
        if let Err(error) = run(batch).await {
            // The error at hand is the one to tell; a failing rollback ends with the connection anyway.
            let _ = client.batch_execute("rollback").await;
            return Err(error);
        }
    }
    run(&bracket("commit")).await?;
    Ok(installed)
}

/// The same as text, for a DBA to read. Keys and verifiers are in it: it is a secret.
pub fn script(settings: &Settings, cluster: &ClusterName, database: &str) -> Result<String, InstallError> {
    let (batches, _) = plan(settings, cluster, database)?;
    let body: String = batches.iter().map(|batch| format!("-- {}\n{}\n", batch.doing, batch.sql)).collect();
    Ok(format!("begin;\n{body}commit;\n"))
}

fn plan(settings: &Settings, cluster: &ClusterName, database: &str) -> Result<(Vec<Batch>, Installed), InstallError> {
    let known = settings.clusters.get(cluster).ok_or_else(|| InstallError::UnknownCluster(cluster.clone()))?;
    let mut tenants: Vec<_> =
        settings.tenants.values().filter(|t| t.cluster == *cluster && t.database == database).collect();
    if tenants.is_empty() {
        return Err(InstallError::NoTenants { cluster: cluster.clone(), database: database.to_owned() });
    }
    tenants.sort_by(|a, b| a.id.cmp(&b.id));
    let mut installed = Installed::default();
    let mut batches = Vec::new();
    let mut roles: BTreeMap<&str, (&Login, Option<&TenantId>)> = BTreeMap::new();
    if tenants.iter().any(|tenant| tenant.isolation.shares_database()) {
        batches.push(Batch { doing: "creating the schema pgward".to_owned(), sql: FUNCTIONS.to_owned() });
        if let Some(key) = channels::secret(settings) {
            let sql = key_sql(channels::KEY_ID, &key);
            batches.push(Batch { doing: "storing the key for notification channels".to_owned(), sql });
        }
    }
    if tenants.iter().any(|tenant| tenant.isolation == Isolation::Rows) {
        for (kid, key) in &settings.context.keys {
            batches.push(Batch { doing: format!("storing key {kid}"), sql: key_sql(kid, key) });
            installed.keys.push(kid.clone());
        }
        roles.extend(known.logins.values().map(|login| (login.role.as_str(), (login, None))));
    }
    for tenant in &tenants {
        if let Roles::Own(logins) = &tenant.roles {
            roles.extend(logins.values().map(|login| (login.role.as_str(), (login, Some(&tenant.id)))));
        }
    }
    for (role, (login, _)) in &roles {
        let password = login_password(settings.master_key.as_ref(), cluster, login)
            .ok_or_else(|| InstallError::NoPassword((*role).to_owned()))?;
        batches
            .push(Batch { doing: format!("creating the login role {role}"), sql: role_sql(role, &password, database) });
        installed.roles.push((*role).to_owned());
    }
    for tenant in &tenants {
        let Roles::Own(logins) = &tenant.roles else { continue };
        let mut sql = own_sql(tenant.isolation, &tenant.search_path, logins.values(), database);
        if tenant.isolation.shares_database() {
            sql.extend(logins.values().map(|login| tenant_sql(&login.role, &tenant.id)));
        }
        batches.push(Batch { doing: format!("giving tenant {} what is its own", tenant.id), sql });
        if tenant.isolation == Isolation::Schema {
            installed.schemas.extend(tenant.search_path.first().cloned());
        }
    }
    Ok((batches, installed))
}

/// Whose login this is.
fn tenant_sql(role: &str, tenant: &TenantId) -> String {
    let (role, tenant) = (literal(role), literal(tenant.as_str()));
    format!(
        "insert into pgward.logins (role, tenant) values ({role}, {tenant})\n\
         on conflict (role) do update set tenant = excluded.tenant;\n"
    )
}

/// The key's two blocks, as RFC 2104 makes them.
fn key_sql(kid: &str, key: &Secret) -> String {
    let mut block = [0u8; 64];
    let hashed = Sha256::digest(key.expose());
    let short: &[u8] = if key.expose().len() > block.len() { &hashed } else { key.expose() };
    block.iter_mut().zip(short).for_each(|(to, from)| *to = *from);
    let hex = |pad: u8| block.iter().map(|byte| format!("{:02x}", byte ^ pad)).collect::<String>();
    format!(
        "insert into pgward.keys (kid, inner_block, outer_block) values ({}, '\\x{}', '\\x{}')\n\
         on conflict (kid) do update set inner_block = excluded.inner_block, outer_block = excluded.outer_block;",
        literal(kid),
        hex(0x36),
        hex(0x5c)
    )
}

/// A role that can log in and nothing else. PostgreSQL gets the SCRAM verifier, never the password.
fn role_sql(role: &str, password: &Secret, database: &str) -> String {
    let verifier = postgres_protocol::password::scram_sha_256(password.expose());
    let name = identifier(role);
    format!(
        "do $do$ begin\n  if not exists (select from pg_catalog.pg_roles where rolname = {}) then create role {name}; end if;\nend $do$;\n\
         alter role {name} login nosuperuser nocreatedb nocreaterole noreplication nobypassrls password {};\n\
         grant connect on database {} to {name};",
        literal(role),
        literal(&verifier),
        identifier(database)
    )
}

/// The schema or database that belongs to one tenant alone. Its first role (`app`, if it has one of that
/// name and no other before it in the alphabet) owns what is created here.
fn own_sql<'a>(
    isolation: Isolation,
    search_path: &[String],
    logins: impl Iterator<Item = &'a Login>,
    database: &str,
) -> String {
    let roles: Vec<String> = logins.map(|login| identifier(&login.role)).collect();
    let Some(schema) = search_path.first().map(|schema| identifier(schema)) else { return String::new() };
    let (Some(owner), all) = (roles.first(), roles.join(", ")) else { return String::new() };
    match isolation {
        Isolation::Schema => format!(
            "create schema if not exists {schema} authorization {owner};\n\
             revoke all on schema {schema} from public;\ngrant usage on schema {schema} to {all};",
        ),
        Isolation::Database | Isolation::Cluster => {
            format!("revoke connect on database {} from public;", identifier(database))
        }
        Isolation::Rows => String::new(),
    }
}

/// A quoted identifier (PostgreSQL documentation, 4.1.1).
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant that means the same under every setting of standard_conforming_strings.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("a'b\\c"), "E'a''b\\\\c'");
    }

    #[test]
    fn the_password_itself_is_not_in_the_sql() {
        let sql = role_sql("kandy", &Secret::new("the-password"), "app");
        assert!(sql.contains("SCRAM-SHA-256$4096:"));
        assert!(!sql.contains("the-password"));
    }
}
