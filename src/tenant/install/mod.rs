//! `pgward install`: the schema `pgward`, its keys, and the login roles of a database's tenants.
//!
//! What stands in the files beside this one is the same for everybody; [`sql`] writes what depends on the
//! configuration. All of it can be run again, and over what an older version installed.

mod backup;
mod catalogue;
pub(super) mod sql;

use std::collections::BTreeMap;

use tokio_postgres::Client;

pub use backup::install_backup;
pub use catalogue::{catalogue_script, install_catalogue};

use super::{channels, login_password};
use crate::base::{ClusterName, TenantId};
use crate::config::{Cluster, Isolation, Login, Roles, Settings, Tenant};

/// Of the schema `pgward` that this pgward installs.
pub const SCHEMA_VERSION: u32 = 3;

const ROLES: &str = include_str!("roles.sql");
const SCHEMA: [(&str, &str); 2] = [
    ("creating the schema pgward", include_str!("schema.sql")),
    ("creating the tables of classified columns", include_str!("classification.sql")),
];
/// What databases need besides that tenants share.
const SHARED: [(&str, &str); 3] = [
    ("creating the sealed context", include_str!("context.sql")),
    ("creating pgward.protect", include_str!("protect.sql")),
    ("creating the guard of shared logins", include_str!("guard.sql")),
];
const DOORS: &str = include_str!("doors.sql");
const UNINSTALL: &str = include_str!("uninstall.sql");

/// Two installations in one database would meet in its catalogue.
pub(super) const BEGIN: &str = "begin; select pg_catalog.pg_advisory_xact_lock(1885828964, 0)";

/// How often an installation is tried when others run at the same time.
const TRIES: usize = 8;

/// What was done, for the person who asked for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Installed {
    pub keys: Vec<String>,
    pub roles: Vec<String>,
    pub schemas: Vec<String>,
    /// Settings of login roles that the configuration does not have: `role: setting`.
    pub settings_removed: Vec<String>,
    /// What only a superuser could have closed.
    pub left_open: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("cluster {0} is not in the configuration")]
    UnknownCluster(ClusterName),
    #[error("no tenant of the configuration lives in database {database} of cluster {cluster}")]
    NoTenants { cluster: ClusterName, database: String },
    #[error("role {0} has no password, and there is no master key to derive one from")]
    NoPassword(String),
    #[error("PostgreSQL refused while {doing}{}", words(source))]
    Sql {
        doing: String,
        #[source]
        source: tokio_postgres::Error,
    },
}

/// The server's own words, which the driver's error leaves out.
pub(super) fn words(error: &tokio_postgres::Error) -> String {
    let Some(error) = error.as_db_error() else { return String::new() };
    let more = [error.detail(), error.hint()].into_iter().flatten();
    more.fold(format!(": {} (SQLSTATE {})", error.message(), error.code().code()), |text, more| {
        format!("{text}\n{more}")
    })
}

/// One statement batch and what it is for.
pub(super) struct Batch {
    pub doing: String,
    pub sql: String,
    /// Keys or verifiers are in it.
    secret: bool,
}

impl Batch {
    pub fn open(doing: impl Into<String>, sql: impl Into<String>) -> Self {
        Self { doing: doing.into(), sql: sql.into(), secret: false }
    }

    fn secret(doing: impl Into<String>, sql: String) -> Self {
        Self { doing: doing.into(), sql, secret: true }
    }
}

/// Where to install, and what.
#[derive(Debug, Clone, Copy)]
pub struct Installation<'a> {
    pub settings: &'a Settings,
    pub cluster: &'a ClusterName,
    pub database: &'a str,
    /// Delete context keys that the configuration does not have.
    pub prune: bool,
    pub scope: Scope<'a>,
}

/// Whom an installation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// All tenants of the database, and what they share.
    All,
    /// What they share, and of what is tenants' own that of this one.
    With(&'a TenantId),
    /// What is this tenant's own. What is shared is there already.
    Only(&'a TenantId),
}

impl<'a> Installation<'a> {
    pub fn new(settings: &'a Settings, cluster: &'a ClusterName, database: &'a str) -> Self {
        Self { settings, cluster, database, prune: false, scope: Scope::All }
    }

    /// Runs everything in one transaction on a connection to the database, as a role that may create roles and
    /// schemas there.
    pub async fn run(&self, client: &Client) -> Result<Installed, InstallError> {
        let (batches, mut installed) = self.plan()?;
        installed.settings_removed = self.strange_settings(client).await?;
        transaction(client, &batches).await?;
        installed.left_open = self.left_open(client).await?;
        Ok(installed)
    }

    /// What only a superuser could have closed.
    pub(super) async fn left_open(&self, client: &Client) -> Result<Vec<String>, InstallError> {
        let rows = self.tenants()?.iter().any(|tenant| tenant.isolation == Isolation::Rows);
        match self.scope {
            Scope::All | Scope::With(_) if rows => texts(client, "select * from pgward.left_open()", &[]).await,
            Scope::All | Scope::With(_) | Scope::Only(_) => Ok(Vec::new()),
        }
    }

    /// Whether what this tenant shares with others is there, of this version and with the keys and logins of the
    /// configuration.
    pub(super) async fn shared_is_there(&self, client: &Client, tenant: &Tenant) -> Result<bool, InstallError> {
        let version = "select coalesce(obj_description(to_regnamespace('pgward'), 'pg_namespace'), '') \
            where to_regclass('pgward.applied') is not null";
        let found = texts(client, version, &[]).await?;
        if !found.first().is_some_and(|found| found.starts_with(&format!("pgward {SCHEMA_VERSION}:"))) {
            return Ok(false);
        }
        if tenant.isolation != Isolation::Rows {
            return Ok(true);
        }
        let logins: Vec<&str> = self.cluster()?.logins.values().map(|login| login.role.as_str()).collect();
        let kids: Vec<&str> = self.settings.context.keys.keys().map(String::as_str).collect();
        let missing = "select name::text from unnest($1::text[]) name where not exists (select from pgward.logins l \
            join pg_roles r on r.rolname = l.role where l.role = name and l.tenant is null) union all \
            select wanted from unnest($2::text[]) wanted where not exists (select from pgward.keys k where k.kid = wanted)";
        Ok(texts(client, missing, &[&logins, &kids]).await?.is_empty())
    }

    /// The same as text, for a DBA to read. `secrets`: to run it as well; without, keys and passwords are left out.
    pub fn script(&self, secrets: bool) -> Result<String, InstallError> {
        Ok(script(&self.plan()?.0, secrets))
    }

    fn cluster(&self) -> Result<&'a Cluster, InstallError> {
        let cluster = self.settings.clusters.get(self.cluster);
        cluster.map(AsRef::as_ref).ok_or_else(|| InstallError::UnknownCluster(self.cluster.clone()))
    }

    fn tenants(&self) -> Result<Vec<&'a Tenant>, InstallError> {
        let here = |tenant: &&Tenant| tenant.cluster == *self.cluster && tenant.database == self.database;
        let mut tenants: Vec<_> = self.settings.tenants.values().map(AsRef::as_ref).filter(here).collect();
        if tenants.is_empty() {
            let (cluster, database) = (self.cluster.clone(), self.database.to_owned());
            return Err(InstallError::NoTenants { cluster, database });
        }
        tenants.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(tenants)
    }

    /// The logins of the tenants here, each with the tenant whose own it is.
    fn logins(&self) -> Result<BTreeMap<&'a str, (&'a Login, Option<&'a TenantId>)>, InstallError> {
        let (cluster, tenants) = (self.cluster()?, self.tenants()?);
        let mut logins = BTreeMap::new();
        let shared = !matches!(self.scope, Scope::Only(_));
        if shared && tenants.iter().any(|tenant| tenant.isolation == Isolation::Rows) {
            logins.extend(cluster.logins.values().map(|login| (login.role.as_str(), (login, None))));
        }
        for tenant in self.own(&tenants) {
            if let Roles::Own(own) = &tenant.roles {
                logins.extend(own.values().map(|login| (login.role.as_str(), (login, Some(&tenant.id)))));
            }
        }
        Ok(logins)
    }

    /// Those that get what is their own.
    fn own(&self, tenants: &[&'a Tenant]) -> Vec<&'a Tenant> {
        let meant = |tenant: &&&Tenant| match self.scope {
            Scope::All => true,
            Scope::With(id) | Scope::Only(id) => tenant.id == *id,
        };
        tenants.iter().filter(meant).copied().collect()
    }

    pub(super) fn plan(&self) -> Result<(Vec<Batch>, Installed), InstallError> {
        let (cluster, tenants, logins) = (self.cluster()?, self.tenants()?, self.logins()?);
        let base = !matches!(self.scope, Scope::Only(_));
        let shared = tenants.iter().any(|tenant| tenant.isolation.shares_database());
        let rows = base && tenants.iter().any(|tenant| tenant.isolation == Isolation::Rows);
        let mut installed = Installed::default();
        let mut batches = vec![Batch::open("preparing", ROLES)];
        if base || !shared {
            batches.extend(SCHEMA.map(|(doing, sql)| Batch::open(doing, sql)));
        }
        if shared && base {
            batches.extend(SHARED.map(|(doing, sql)| Batch::open(doing, sql)));
        }
        if rows {
            self.plan_keys(&mut batches, &mut installed);
        }
        if let Some(key) = channels::secret(self.settings).filter(|_| shared && base) {
            batches.push(Batch::secret("storing the key for notification channels", sql::key(channels::KEY_ID, &key)));
        }
        for (role, (login, tenant)) in &logins {
            let verifier = self.verifier(login)?;
            batches.push(Batch::open(format!("creating the login role {role}"), sql::login(login, self.database)));
            batches.push(Batch::secret(format!("setting the password of {role}"), sql::password(role, &verifier)));
            if shared {
                let known = sql::known(role, tenant.map(TenantId::as_str), &verifier);
                batches.push(Batch::secret(format!("noting how {role} is to be"), known));
            }
            installed.roles.push((*role).to_owned());
        }
        if let Some(service) = cluster.service.as_ref().filter(|_| shared && base) {
            let role = &service.role;
            let prober = cluster.probe.as_ref().map(|_| sql::prober(role)).unwrap_or_default();
            let sql = format!("{}\n{}\n{prober}", sql::login(service, self.database), sql::service(role));
            batches.push(Batch::open(format!("creating pgward's own login role {role}"), sql));
            let password = sql::password(role, &self.verifier(service)?);
            batches.push(Batch::secret(format!("setting the password of {role}"), password));
            installed.roles.push(role.clone());
        }
        for tenant in self.own(&tenants) {
            let Roles::Own(own) = &tenant.roles else { continue };
            let sql = match (tenant.isolation, tenant.search_path.first()) {
                (Isolation::Schema, Some(schema)) => {
                    installed.schemas.push(schema.clone());
                    sql::schema(schema, own.values())
                }
                (Isolation::Database | Isolation::Cluster, _) => sql::database(self.database),
                (Isolation::Schema | Isolation::Rows, _) => continue,
            };
            batches.push(Batch::open(format!("giving tenant {} what is its own", tenant.id), sql));
        }
        if rows {
            batches.push(Batch::open("closing what tenants could do to each other", DOORS));
        }
        Ok((batches, installed))
    }

    fn plan_keys(&self, batches: &mut Vec<Batch>, installed: &mut Installed) {
        let keys = &self.settings.context.keys;
        for (kid, key) in keys {
            batches.push(Batch::secret(format!("storing key {kid}"), sql::key(kid, key)));
            installed.keys.push(kid.clone());
        }
        if self.prune {
            let kept = keys.keys().map(String::as_str).chain([channels::KEY_ID]);
            batches.push(Batch::open("deleting keys that are not in the configuration", sql::prune_keys(kept)));
        }
    }

    fn verifier(&self, login: &Login) -> Result<String, InstallError> {
        verifier(self.settings, self.cluster, login)
    }

    /// Settings that the login roles have and are going to lose.
    async fn strange_settings(&self, client: &Client) -> Result<Vec<String>, InstallError> {
        let logins = self.logins()?;
        let roles: Vec<&str> = logins.keys().copied().collect();
        let sql = "select r.rolname::text || ': ' || pg_catalog.split_part(setting, '=', 1) \
            from pg_catalog.pg_db_role_setting s join pg_catalog.pg_roles r on r.oid = s.setrole, \
            pg_catalog.unnest(s.setconfig) setting where r.rolname = any ($1) order by 1";
        let mut found = texts(client, sql, &[&roles]).await?;
        let wanted = logins.values().flat_map(|(login, _)| {
            login.settings.keys().map(|setting| format!("{}: {}", login.role, setting.to_ascii_lowercase()))
        });
        let wanted: Vec<String> = wanted.collect();
        found.retain(|setting| !wanted.contains(&setting.to_ascii_lowercase()));
        Ok(found)
    }
}

/// Takes the schema `pgward` out of a database again, and gives PUBLIC back what was taken from it. Login roles stay.
pub async fn uninstall(client: &Client) -> Result<(), InstallError> {
    transaction(client, &[Batch::open("removing the schema pgward", UNINSTALL)]).await
}

/// What [`uninstall`] runs, to review it.
pub fn uninstall_script() -> String {
    format!("begin;\n{UNINSTALL}commit;\n")
}

/// Two that change the same row of the catalogue, or create the same role: PostgreSQL has one of them fail.
fn met_another(error: &InstallError) -> bool {
    let InstallError::Sql { source, .. } = error else { return false };
    let Some(error) = source.as_db_error() else { return false };
    match error.code().code() {
        "XX000" => error.message().starts_with("tuple concurrently "),
        "40P01" => true,
        "23505" | "42710" => error.message().contains("role") || error.message().contains("pg_authid"),
        _ => false,
    }
}

/// What a login's password is checked by.
pub fn verifier(settings: &Settings, cluster: &ClusterName, login: &Login) -> Result<String, InstallError> {
    let password = login_password(settings.master_key.as_ref(), cluster, login);
    let password = password.ok_or_else(|| InstallError::NoPassword(login.role.clone()))?;
    Ok(postgres_protocol::password::scram_sha_256(password.expose()))
}

fn script(batches: &[Batch], secrets: bool) -> String {
    let shown = |batch: &Batch| match batch.secret && !secrets {
        true => format!("-- {}: left out, it is secret\n", batch.doing),
        false => format!("-- {}\n{}\n", batch.doing, batch.sql),
    };
    format!("begin;\n{}commit;\n", batches.iter().map(shown).collect::<String>())
}

async fn transaction(client: &Client, batches: &[Batch]) -> Result<(), InstallError> {
    let work = async || {
        for batch in batches {
            run(client, &batch.doing, &batch.sql).await?;
        }
        Ok(())
    };
    let mut tries = 1;
    while let Err(error) = atomically(client, BEGIN, work).await {
        // Roles are the cluster's: another installation may have changed one at the same moment.
        if !met_another(&error) || tries == TRIES {
            return Err(error);
        }
        tries += 1;
    }
    Ok(())
}

/// All or nothing. `begin` begins the transaction.
pub(super) async fn atomically<T, E: From<InstallError>>(
    client: &Client,
    begin: &str,
    work: impl AsyncFnOnce() -> Result<T, E>,
) -> Result<T, E> {
    run(client, "beginning", begin).await?;
    match work().await {
        Ok(done) => {
            run(client, "committing", "commit").await?;
            Ok(done)
        }
        Err(error) => {
            // The error at hand is the one to tell; a failing rollback ends with the connection anyway.
            let _ = client.batch_execute("rollback").await;
            Err(error)
        }
    }
}

/// Whatever the database or the role has set: a connection that others go by lasts as long as its work does. Not every
/// version has all of these.
pub(super) async fn unhurried(client: &Client) -> Result<(), InstallError> {
    let settings = "select pg_catalog.left(pg_catalog.set_config(name, '0', false), 0) from pg_catalog.pg_settings \
        where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')";
    run(client, "preparing", settings).await
}

pub(super) async fn run(client: &Client, doing: &str, sql: &str) -> Result<(), InstallError> {
    client.batch_execute(sql).await.map_err(|source| InstallError::Sql { doing: doing.to_owned(), source })
}

pub(super) async fn texts(
    client: &Client,
    sql: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<String>, InstallError> {
    let rows = client.query(sql, parameters).await;
    let rows = rows.map_err(|source| InstallError::Sql { doing: "looking at what is there".to_owned(), source })?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_stands_in_the_sql() {
        let schema = SCHEMA[0].1;
        assert!(schema.contains(&format!("comment on schema pgward is 'pgward {SCHEMA_VERSION}:")));
        assert!(schema.contains(&format!("::pg_catalog.int4 > {SCHEMA_VERSION} then")));
    }
}
