//! A database of a tenant's own. It cannot be made in a transaction, so it is made under a name that only this
//! tenant's would have, and gets its own name together with the comment that says whose it is.

use tokio_postgres::Client;

use super::{ProvisionError, mark, unique};
use crate::base::TenantId;
use crate::config::Tenant;
use crate::tenant::install::{self, sql};

#[derive(Debug, Clone, Copy)]
pub struct Database<'a> {
    name: &'a str,
    tenant: &'a TenantId,
}

/// What stands under the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Ours,
    Strange,
}

impl<'a> Database<'a> {
    pub fn of(tenant: &'a Tenant) -> Self {
        Self { name: &tenant.database, tenant: &tenant.id }
    }

    /// On a connection to another database of the cluster. Says whether it had to be made.
    pub async fn create(&self, client: &Client) -> Result<bool, ProvisionError> {
        match self.find(client).await? {
            Found::Ours => return Ok(false),
            Found::Strange => return Err(self.strange()),
            Found::Nothing => {}
        }
        let (name, nascent) = (sql::identifier(self.name), sql::identifier(&self.nascent()));
        let doing = format!("creating the database {}", self.name);
        install::run(client, &doing, &format!("drop database if exists {nascent}")).await?;
        install::run(client, &doing, &format!("create database {nascent}")).await?;
        let named = format!(
            "begin; alter database {nascent} rename to {name}; comment on database {name} is {}; \
             revoke connect on database {name} from public; commit",
            sql::literal(&mark(self.tenant))
        );
        if let Err(error) = install::run(client, &doing, &named).await {
            let _ = client.batch_execute("rollback").await;
            return Err(error.into());
        }
        Ok(true)
    }

    /// Makes sure that it is the tenant's, if it is there.
    pub async fn check(&self, client: &Client) -> Result<bool, ProvisionError> {
        match self.find(client).await? {
            Found::Nothing => Ok(false),
            Found::Ours => Ok(true),
            Found::Strange => Err(self.strange()),
        }
    }

    /// Drops it, and what an attempt to make it may have left. Whoever is connected is disconnected.
    pub async fn drop(&self, client: &Client) -> Result<(), ProvisionError> {
        let there = self.check(client).await?;
        let doing = format!("dropping the database {}", self.name);
        if there {
            install::run(client, &doing, &format!("drop database {} with (force)", sql::identifier(self.name))).await?;
        }
        let nascent = sql::identifier(&self.nascent());
        Ok(install::run(client, &doing, &format!("drop database if exists {nascent}")).await?)
    }

    /// What it is called as long as nothing says whose it is.
    fn nascent(&self) -> String {
        format!("pgward_nascent_{}", unique(self.tenant, self.name))
    }

    async fn find(&self, client: &Client) -> Result<Found, ProvisionError> {
        let sql = "select coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '') \
            from pg_catalog.pg_database where datname = $1";
        let found = install::texts(client, sql, &[&self.name]).await?;
        Ok(match found.first() {
            None => Found::Nothing,
            Some(comment) if *comment == mark(self.tenant) => Found::Ours,
            Some(_) => Found::Strange,
        })
    }

    fn strange(&self) -> ProvisionError {
        let (database, quoted) = (self.name.to_owned(), sql::identifier(self.name));
        ProvisionError::StrangeDatabase { database, quoted, tenant: self.tenant.clone() }
    }
}
