//! What is found on a cluster of what a tenant has there.

use tokio_postgres::Client;

use super::{ProvisionError, own_roles};
use crate::config::{Isolation, Settings, Tenant};
use crate::tenant::install::{self, Installation};

/// One thing that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub what: String,
    pub found: String,
    /// As it should be.
    pub sound: bool,
}

impl Seen {
    pub(super) fn new(what: impl Into<String>, found: impl Into<String>, sound: bool) -> Self {
        Self { what: what.into(), found: found.into(), sound }
    }

    /// What there is to be none of.
    pub(in crate::tenant) fn count(what: impl Into<String>, count: u64) -> Self {
        Self::new(what, count.to_string(), count == 0)
    }

    /// On a connection to any database of the cluster. Says what a tenant needs there.
    pub async fn cluster(client: &Client, tenant: &Tenant) -> Result<Vec<Self>, ProvisionError> {
        let mut seen = Vec::new();
        for role in own_roles(tenant) {
            let sql = "select case when rolcanlogin then 'there' else 'may not log in' end \
                from pg_catalog.pg_roles where rolname = $1";
            seen.push(one(format!("role {role}"), install::texts(client, sql, &[&role]).await?));
        }
        let sql = "select 'there' from pg_catalog.pg_database where datname = $1";
        let found = install::texts(client, sql, &[&tenant.database.as_str()]).await?;
        seen.push(one(format!("database {}", tenant.database), found));
        Ok(seen)
    }

    /// On a connection to the tenant's database.
    pub async fn database(client: &Client, settings: &Settings, tenant: &Tenant) -> Result<Vec<Self>, ProvisionError> {
        let mut seen = Vec::new();
        if tenant.isolation.shares_database() {
            let installation = Installation::new(settings, &tenant.cluster, &tenant.database);
            let there = installation.shared_is_there(client, tenant).await?;
            let found = if there { "there" } else { "not there, or not up to date" };
            seen.push(Self::new("schema pgward, keys and shared logins", found, there));
        }
        if tenant.isolation == Isolation::Rows {
            return Ok(seen);
        }
        for schema in &tenant.search_path {
            let sql = "select 'there' from pg_catalog.pg_namespace where nspname = $1";
            seen.push(one(format!("schema {schema}"), install::texts(client, sql, &[schema]).await?));
        }
        let size = match tenant.isolation {
            Isolation::Schema => {
                "select pg_catalog.pg_size_pretty(coalesce(sum(pg_catalog.pg_total_relation_size(c.oid)), 0)) \
                    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
                    where n.nspname = $1 and c.relkind in ('r', 'm')"
            }
            _ => "select pg_catalog.pg_size_pretty(pg_catalog.pg_database_size(current_database())) where $1 <> ''",
        };
        let first = tenant.search_path.first().map_or("", String::as_str);
        let found = install::texts(client, size, &[&first]).await?;
        seen.push(Self::new("size", found.into_iter().next().unwrap_or_default(), true));
        Ok(seen)
    }
}

fn one(what: String, found: Vec<String>) -> Seen {
    let found = found.into_iter().next().unwrap_or_else(|| "missing".to_owned());
    let sound = found == "there";
    Seen::new(what, found, sound)
}
