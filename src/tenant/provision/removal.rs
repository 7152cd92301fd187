//! Taking a tenant's things away, step by step. Each step can be repeated; the caller connects and waits.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::tables::{self, Tables};
use super::{Database, ProvisionError, Seen, TenantTable, mark, own_roles};
use crate::config::{Isolation, Roles, Settings, Tenant};
use crate::tenant::install::{self, Installation, sql};

/// A tenant that is to go. The connection that it is given is, at levels `rows` and `schema`, one to the tenant's
/// database, and otherwise one to another database of its cluster.
pub struct Removal<'a> {
    settings: &'a Settings,
    tenant: &'a Tenant,
    /// Of its roles, as text. Those that are gone already have none.
    oids: Vec<String>,
    tables: Tables,
}

impl<'a> Removal<'a> {
    /// Looks at what there is, and makes sure that all of it is this tenant's.
    pub async fn begin(client: &Client, settings: &'a Settings, tenant: &'a Tenant) -> Result<Self, ProvisionError> {
        let installation = Installation::new(settings, &tenant.cluster, &tenant.database);
        if tenant.isolation.shares_database() && !installation.shared_is_there(client, tenant).await? {
            return Err(ProvisionError::NotInstalled(tenant.database.clone()));
        }
        let roles = own_roles(tenant);
        for role in &roles {
            check_role(client, tenant, role).await?;
        }
        match tenant.isolation {
            Isolation::Rows => {}
            Isolation::Schema => check_schema(client, tenant).await?,
            Isolation::Database | Isolation::Cluster => drop(Database::of(tenant).check(client).await?),
        }
        let tables = match tenant.isolation {
            Isolation::Rows => tables::tables(client, tenant).await?,
            _ => Tables::default(),
        };
        Self::of(client, settings, tenant, tables).await
    }

    /// The same in a copy of the cluster, which is nobody's and may be older than what is installed now: only to look.
    pub async fn in_copy(client: &Client, settings: &'a Settings, tenant: &'a Tenant) -> Result<Self, ProvisionError> {
        let tables = match tenant.isolation {
            Isolation::Rows => tables::tables(client, tenant).await?,
            _ => Tables::default(),
        };
        Self::of(client, settings, tenant, tables).await
    }

    async fn of(
        client: &Client,
        settings: &'a Settings,
        tenant: &'a Tenant,
        tables: Tables,
    ) -> Result<Self, ProvisionError> {
        let sql = "select oid::text from pg_catalog.pg_roles where rolname = any ($1)";
        let oids = install::texts(client, sql, &[&own_roles(tenant)]).await?;
        Ok(Self { settings, tenant, oids, tables })
    }

    /// Level `rows`: the tables that the tenant's rows are found in.
    pub fn tables(&self) -> &[TenantTable] {
        &self.tables.followed
    }

    /// Level `rows`: tables whose policies ask for the tenant in a way that does not tell which rows are whose.
    pub fn unclear(&self) -> &[String] {
        &self.tables.unclear
    }

    /// Level `rows`: tables whose row security does not ask `pgward.tenant()`.
    pub fn otherwise(&self) -> &[String] {
        &self.tables.otherwise
    }

    /// Whether anything is left that could be exported.
    pub async fn has_data(&self, client: &Client) -> Result<bool, ProvisionError> {
        match self.tenant.isolation {
            Isolation::Rows => Ok(self.counts(client).await?.iter().any(|count| *count > 0)),
            Isolation::Schema => Ok(self.count(client, NAMESPACE, &self.schema()).await? > 0),
            Isolation::Database | Isolation::Cluster => Database::of(self.tenant).check(client).await,
        }
    }

    /// The server's time.
    pub async fn now(client: &Client) -> Result<String, ProvisionError> {
        let now = install::texts(client, "select pg_catalog.clock_timestamp()::text", &[]).await?;
        Ok(now.into_iter().next().unwrap_or_default())
    }

    /// How many statements or transactions may still be the tenant's. At level `rows`: transactions of the shared
    /// logins that are older than this moment. Otherwise: what the tenant's own roles do.
    pub async fn busy(&self, client: &Client, since: &str) -> Result<i64, ProvisionError> {
        let sql = match self.tenant.isolation {
            Isolation::Rows => {
                "select count(*)::text from pg_catalog.pg_stat_activity where datname = current_database() \
                    and usename::text = any ($1) and xact_start < $2::text::timestamptz"
            }
            _ => {
                "select count(*)::text from pg_catalog.pg_stat_activity where usename::text = any ($1) \
                    and state is distinct from 'idle' and $2::text <> ''"
            }
        };
        let count = install::texts(client, sql, &[&self.roles(), &since]).await?;
        Ok(count.first().and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    /// Ends what the tenant's own roles have open, and lets them open nothing more. Returns how many were left.
    pub async fn close(&self, client: &Client) -> Result<i64, ProvisionError> {
        for role in self.present(client).await? {
            let quoted = sql::identifier(&role);
            let mut sql = format!("alter role {quoted} nologin;");
            let member = format!("select pg_catalog.pg_has_role({}, 'usage')::text", sql::literal(&role));
            if install::texts(client, &member, &[]).await? != ["true"] {
                // Who drops what a role owns must have its privileges.
                sql.push_str(&format!("grant {quoted} to current_user;"));
            }
            install::run(client, &format!("closing role {role}"), &sql).await?;
        }
        let sql = "select pg_catalog.pg_terminate_backend(pid)::text from pg_catalog.pg_stat_activity where usename::text = any ($1)";
        Ok(i64::try_from(install::texts(client, sql, &[&self.roles()]).await?.len()).unwrap_or(i64::MAX))
    }

    /// Lets the tenant's own roles log in again, which [`Removal::close`] has not let.
    pub async fn open(&self, client: &Client) -> Result<(), ProvisionError> {
        for role in self.present(client).await? {
            let sql = format!("alter role {} login", sql::identifier(&role));
            install::run(client, &format!("opening role {role}"), &sql).await?;
        }
        Ok(())
    }

    /// Databases where the tenant's own roles have something.
    pub async fn databases(&self, client: &Client) -> Result<Vec<String>, ProvisionError> {
        let sql = "select distinct d.datname::text from pg_catalog.pg_shdepend s join pg_catalog.pg_database d on d.oid = s.dbid \
            where s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass and s.refobjid::text = any ($1) and d.datallowconn";
        Ok(install::texts(client, sql, &[&self.oids]).await?)
    }

    /// On a connection to one of them: what the roles own goes, and what they were granted.
    pub async fn drop_owned(&self, client: &Client) -> Result<(), ProvisionError> {
        let roles: Vec<String> = self.present(client).await?.iter().map(|role| sql::identifier(role)).collect();
        if roles.is_empty() {
            return Ok(());
        }
        let sql = format!("drop owned by {} cascade", roles.join(", "));
        Ok(install::run(client, "dropping what the tenant's roles own", &sql).await?)
    }

    /// Level `schema`, all in one transaction: the schema, the roles, and what is noted of them.
    pub async fn drop_schema(&self, client: &Client) -> Result<(), ProvisionError> {
        install::run(client, "beginning", install::BEGIN).await?;
        let done = async {
            let sql = format!("drop schema if exists {} cascade", sql::identifier(&self.schema()));
            install::run(client, "dropping the schema", &sql).await?;
            self.drop_owned(client).await?;
            let id = sql::literal(self.tenant.id.as_str());
            let sql = format!("delete from pgward.logins where tenant = {id}");
            install::run(client, "forgetting the logins", &sql).await?;
            self.drop_roles(client).await
        };
        if let Err(error) = done.await {
            let _ = client.batch_execute("rollback").await;
            return Err(error);
        }
        Ok(install::run(client, "committing", "commit").await?)
    }

    /// Levels `database` and `cluster`.
    pub async fn drop_database(&self, client: &Client) -> Result<(), ProvisionError> {
        Database::of(self.tenant).drop(client).await
    }

    pub async fn drop_roles(&self, client: &Client) -> Result<(), ProvisionError> {
        for role in self.present(client).await? {
            let sql = format!("drop role {}", sql::identifier(&role));
            install::run(client, &format!("dropping role {role}"), &sql).await?;
        }
        Ok(())
    }

    /// Level `rows`: deletes the tenant's rows. `exported`: what must be found, by table.
    pub async fn erase(
        &self,
        client: &Client,
        exported: Option<&BTreeMap<String, u64>>,
    ) -> Result<Vec<(String, u64)>, ProvisionError> {
        let counts = tables::erase(client, self.settings, self.tenant, self.tables(), exported).await?;
        Ok(self.tables().iter().map(TenantTable::label).zip(counts).collect())
    }

    /// Looks again, at everything. What is not sound is left over.
    pub async fn proof(&self, client: &Client) -> Result<Vec<Seen>, ProvisionError> {
        let mut seen = Vec::new();
        let id = self.tenant.id.to_string();
        let mut add = |what: String, count: u64| seen.push(Seen::count(what, count));
        if self.tenant.isolation == Isolation::Rows {
            for (table, count) in self.tables().iter().zip(self.counts(client).await?) {
                add(format!("rows in {}", table.label()), count);
            }
            let sql = "select count(*)::text from pgward.applied where tenant = $1";
            add("notes of templates".to_owned(), self.count(client, sql, &id).await?);
            return Ok(seen);
        }
        for role in own_roles(self.tenant) {
            let sql = "select count(*)::text from pg_catalog.pg_roles where rolname = $1";
            add(format!("role {role}"), self.count(client, sql, role).await?);
        }
        for (what, sql) in OF_ROLES {
            let found = install::texts(client, sql, &[&self.oids]).await?;
            add(what.to_owned(), number(&found));
        }
        if self.tenant.isolation == Isolation::Schema {
            add(format!("schema {}", self.schema()), self.count(client, NAMESPACE, &self.schema()).await?);
            let sql = "select count(*)::text from pgward.logins where tenant = $1";
            add("notes of logins".to_owned(), self.count(client, sql, &id).await?);
        } else {
            let sql = "select count(*)::text from pg_catalog.pg_database where datname = $1";
            let database = &self.tenant.database;
            add(format!("database {database}"), self.count(client, sql, database).await?);
        }
        Ok(seen)
    }

    /// Level `rows`: begins a transaction that sees one moment, and says how many rows each table has in it.
    pub async fn snapshot(&self, client: &Client) -> Result<Vec<u64>, ProvisionError> {
        install::run(client, "beginning", "begin isolation level repeatable read read only").await?;
        super::create::seal(client, self.settings, self.tenant).await?;
        tables::counts(client, self.tables(), self.tenant).await
    }

    /// Sends the large objects of the tenant's own roles as CSV with a head line. `None`: they have none.
    pub async fn large_objects(&self, client: &Client) -> Result<Option<String>, ProvisionError> {
        let (_, sql) = LARGE_OBJECTS;
        if number(&install::texts(client, sql, &[&self.oids]).await?) == 0 {
            return Ok(None);
        }
        let oids = sql::array(self.oids.iter().map(String::as_str), "text");
        Ok(Some(format!(
            "copy (select oid, lo_get(oid) as data, pg_get_userbyid(lomowner) as owner from pg_catalog.pg_largeobject_metadata \
             where lomowner::text = any ({oids})) to stdout with (format csv, header)"
        )))
    }

    /// In a transaction with the tenant's context, for those whom row security is forced upon.
    async fn counts(&self, client: &Client) -> Result<Vec<u64>, ProvisionError> {
        install::run(client, "beginning", "begin read only").await?;
        let counted = async {
            super::create::seal(client, self.settings, self.tenant).await?;
            tables::counts(client, self.tables(), self.tenant).await
        };
        let counted = counted.await;
        let ended = install::run(client, "ending", "rollback").await;
        let counted = counted?;
        ended?;
        Ok(counted)
    }

    async fn count(&self, client: &Client, sql: &str, name: &str) -> Result<u64, ProvisionError> {
        Ok(number(&install::texts(client, sql, &[&name]).await?))
    }

    fn schema(&self) -> String {
        self.tenant.search_path.first().cloned().unwrap_or_default()
    }

    /// Whose backends serve the tenant.
    fn roles(&self) -> Vec<&str> {
        let Roles::Shared(_) = &self.tenant.roles else { return own_roles(self.tenant) };
        let cluster = self.settings.clusters.get(&self.tenant.cluster);
        cluster.map(|cluster| cluster.logins.values().map(|login| login.role.as_str()).collect()).unwrap_or_default()
    }

    /// Those of its own roles that exist.
    async fn present(&self, client: &Client) -> Result<Vec<String>, ProvisionError> {
        let sql = "select rolname::text from pg_catalog.pg_roles where rolname = any ($1) order by 1";
        Ok(install::texts(client, sql, &[&own_roles(self.tenant)]).await?)
    }
}

const NAMESPACE: &str = "select count(*)::text from pg_catalog.pg_namespace where nspname = $1";

const LARGE_OBJECTS: (&str, &str) =
    ("large objects", "select count(*)::text from pg_catalog.pg_largeobject_metadata where lomowner::text = any ($1)");

/// By the roles' numbers, which the catalogues keep even where a name is gone.
const OF_ROLES: [(&str, &str); 6] = [
    (
        "objects and privileges in any database",
        "select count(*)::text from pg_catalog.pg_shdepend \
        where refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass and refobjid::text = any ($1)",
    ),
    LARGE_OBJECTS,
    ("default privileges", "select count(*)::text from pg_catalog.pg_default_acl where defaclrole::text = any ($1)"),
    ("settings", "select count(*)::text from pg_catalog.pg_db_role_setting where setrole::text = any ($1)"),
    (
        "memberships",
        "select count(*)::text from pg_catalog.pg_auth_members \
        where roleid::text = any ($1) or member::text = any ($1)",
    ),
    ("sessions", "select count(*)::text from pg_catalog.pg_stat_activity where usesysid::text = any ($1)"),
];

fn number(found: &[String]) -> u64 {
    found.first().and_then(|count| count.parse().ok()).unwrap_or(0)
}

async fn check_role(client: &Client, tenant: &Tenant, role: &str) -> Result<(), ProvisionError> {
    let sql = "select pg_catalog.split_part(coalesce(pg_catalog.shobj_description(oid, 'pg_authid'), ''), ';', 1) \
        from pg_catalog.pg_roles where rolname = $1";
    let comment = install::texts(client, sql, &[&role]).await?;
    if comment.first().is_none_or(|comment| *comment == mark(&tenant.id)) {
        return Ok(());
    }
    if tenant.isolation == Isolation::Schema {
        let sql = "select 'noted' from pgward.logins where role = $1 and tenant = $2";
        if !install::texts(client, sql, &[&role, &tenant.id.as_str()]).await?.is_empty() {
            return Ok(());
        }
    }
    let (quoted, role) = (sql::identifier(role), role.to_owned());
    Err(ProvisionError::StrangeRole { role, quoted, tenant: tenant.id.clone() })
}

async fn check_schema(client: &Client, tenant: &Tenant) -> Result<(), ProvisionError> {
    let schema = tenant.search_path.first().cloned().unwrap_or_default();
    let sql = "select pg_catalog.pg_get_userbyid(nspowner)::text from pg_catalog.pg_namespace where nspname = $1";
    match install::texts(client, sql, &[&schema]).await?.into_iter().next() {
        Some(owner) if !own_roles(tenant).contains(&owner.as_str()) => {
            Err(ProvisionError::StrangeSchema { schema, owner, tenant: tenant.id.clone() })
        }
        _ => Ok(()),
    }
}
