//! The extension in a database, the login that keeps the partitions, and what it may do there.

use tokio_postgres::Client;

use super::error::MaintenanceError;
use super::partman::{driven, value};
use super::pass::Pass;
use super::plan;
use crate::sql::{identifier, literal};
use crate::tenant::verifier;

const EXTENSION: &str = include_str!("setup.sql");

/// One database, by an administrator's connection to it.
pub struct Setup<'a> {
    pub pass: &'a Pass<'a>,
    pub database: &'a str,
}

impl Setup<'_> {
    /// Where partitions are kept on a cluster.
    pub fn databases(pass: &Pass<'_>) -> Vec<String> {
        plan::jobs(pass.settings, pass.cluster).into_iter().map(|job| job.database).collect()
    }

    /// All or nothing; repeated, it brings up to date. What the person who asked has to know.
    pub async fn run(&self, client: &Client) -> Result<Vec<String>, MaintenanceError> {
        client.batch_execute("begin").await.map_err(MaintenanceError::sql("beginning"))?;
        let done = self.within(client).await;
        let end = if done.is_ok() { "commit" } else { "rollback" };
        let ended = client.batch_execute(end).await.map_err(MaintenanceError::sql("finishing"));
        done.and_then(|said| ended.map(|()| said))
    }

    async fn within(&self, client: &Client) -> Result<Vec<String>, MaintenanceError> {
        let sql = "select n.nspname::text from pg_catalog.pg_extension e
            join pg_catalog.pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_partman'";
        let found = client.query_opt(sql, &[]).await.map_err(MaintenanceError::sql("looking for pg_partman"))?;
        let schema = found.map(|row| value::<String>(&row, 0)).transpose()?;
        if let Some(schema) = schema.filter(|schema| schema != "partman") {
            return Err(MaintenanceError::Elsewhere(schema, self.database.to_owned()));
        }
        client.batch_execute(EXTENSION).await.map_err(MaintenanceError::sql("creating the extension pg_partman"))?;
        driven(client, self.database).await?;
        self.role(client).await?;
        self.tables(client).await
    }

    async fn role(&self, client: &Client) -> Result<(), MaintenanceError> {
        let login = self.pass.login;
        let sql = "select rolsuper from pg_catalog.pg_roles where rolname = $1::text";
        let found =
            client.query_opt(sql, &[&login.role]).await.map_err(MaintenanceError::sql("looking for the login"))?;
        let (role, database) = (identifier(&login.role), identifier(self.database));
        let create = match found {
            Some(row) if value(&row, 0)? => return Err(MaintenanceError::Superuser(login.role.clone())),
            Some(_) => format!("alter role {role} login bypassrls inherit"),
            None => format!("create role {role} login bypassrls inherit"),
        };
        let verifier = verifier(self.pass.settings, &self.pass.cluster.name, login)?;
        let sql = format!(
            "{create};
             alter role {role} password {};
             grant connect on database {database} to {role};
             grant usage on schema partman to {role} with grant option;
             grant select, insert, update, delete on partman.part_config to {role} with grant option;
             grant select on partman.part_config_sub, partman.custom_time_partitions to {role} with grant option;
             grant select, insert, update, delete on partman.pgward_state, partman.pgward_expired to {role}",
            literal(&verifier)
        );
        client.batch_execute(&sql).await.map_err(MaintenanceError::sql(format!("making the role {role}")))
    }

    /// The login may do as the owners of shared tables do. What is one tenant's own is changed as that tenant.
    async fn tables(&self, client: &Client) -> Result<Vec<String>, MaintenanceError> {
        let mut said = Vec::new();
        let jobs = plan::jobs(self.pass.settings, self.pass.cluster).into_iter();
        let tables = jobs.filter(|job| job.database == self.database).flat_map(|job| job.tables);
        for table in tables.filter(|table| table.owner.is_none()) {
            let doing =
                || MaintenanceError::sql(format!("giving the login the part of the owner of {}", table.parent()));
            let sql = "select r.rolname::text, r.rolsuper, pg_catalog.has_schema_privilege(r.oid, n.oid, 'create')
                from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                join pg_catalog.pg_roles r on r.oid = c.relowner where n.nspname = $1::text and c.relname = $2::text";
            let row = client.query_opt(sql, &[&table.schema, &table.rules.table]).await.map_err(doing())?;
            let Some(row) = row else { return Err(MaintenanceError::NoTable(table.parent())) };
            let owner: String = value(&row, 0)?;
            self.pass.refuse_owner(&table, &owner, value(&row, 1)?)?;
            let (schema, owner_name, role) =
                (identifier(&table.schema), identifier(&owner), identifier(&self.pass.login.role));
            let mut sql = format!("grant {owner_name} to {role}; grant usage, create on schema {schema} to {role};");
            if !value::<bool>(&row, 2)? {
                sql.push_str(&format!("grant create on schema {schema} to {owner_name};"));
                said.push(format!(
                    "{owner} may create in schema {} now, so that it can own its partitions",
                    table.schema
                ));
            }
            client.batch_execute(&sql).await.map_err(doing())?;
        }
        Ok(said)
    }
}
