//! Levels `database` and `cluster`: what was there is loaded into a database beside the tenant's, and the two change
//! names. The connection is to another database of the cluster.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::RestoreError;
use super::compare::{Difference, differences};
use super::shape::{Shape, Within};
use crate::config::Tenant;
use crate::tenant::install::{self, InstallError, sql};
use crate::tenant::provision::{mark, own_roles, unique};

pub struct TwinDatabase<'a> {
    tenant: &'a Tenant,
    /// The tenant's, by which the other one is made.
    home: &'a str,
    /// What the names begin with of those that are beside it.
    prefix: String,
    next: String,
    was: String,
}

/// How long sessions may take to end.
const REST: Duration = Duration::from_secs(10);

impl<'a> TwinDatabase<'a> {
    pub fn of(tenant: &'a Tenant) -> Self {
        let unique = unique(&tenant.id, &tenant.database);
        let (prefix, was) = (format!("pgward_next_{unique}_"), format!("pgward_was_{unique}"));
        Self { tenant, home: &tenant.database, next: super::beside(&prefix), prefix, was }
    }

    pub fn next(&self) -> &str {
        &self.next
    }

    /// An empty one that is otherwise as the tenant's. Nobody but the tenant's roles can connect to it.
    pub async fn create(&self, client: &Client) -> Result<(), RestoreError> {
        self.sweep(client).await?;
        let doing = format!("making a database beside {}", self.home);
        let mut made = install::texts(client, AS_IT_IS, &[&self.home, &self.next]).await?;
        if made.is_empty() {
            made.push(format!("create database {} template template0", sql::identifier(&self.next)));
        }
        for statement in &made {
            install::run(client, &doing, statement).await?;
        }
        let next = sql::identifier(&self.next);
        let mut closed = format!("revoke connect, temporary on database {next} from public;");
        for role in own_roles(self.tenant) {
            closed.push_str(&format!("grant connect on database {next} to {};", sql::identifier(role)));
        }
        let settings = install::texts(client, SETTINGS, &[&self.home, &self.next]).await?;
        Ok(install::run(client, &doing, &format!("{closed}{}", settings.concat())).await?)
    }

    /// Removes what attempts have left.
    pub async fn sweep(&self, client: &Client) -> Result<(), InstallError> {
        super::end(client, &self.prefix).await?;
        for name in self.names(client).await? {
            let sql = format!("drop database if exists {} with (force)", sql::identifier(&name));
            install::run(client, "removing the database beside the tenant's", &sql).await?;
        }
        Ok(())
    }

    /// Those that are beside the tenant's.
    pub(super) async fn names(&self, client: &Client) -> Result<Vec<String>, InstallError> {
        let names = "select datname::text from pg_catalog.pg_database \
            where pg_catalog.starts_with(datname::text, $1) or datname = $2";
        install::texts(client, names, &[&self.prefix, &self.was]).await
    }

    /// Whether the tenant has its database.
    pub async fn is_there(&self, client: &Client) -> Result<bool, InstallError> {
        let sql = "select 'there' from pg_catalog.pg_database where datname = $1";
        Ok(!install::texts(client, sql, &[&self.home]).await?.is_empty())
    }

    /// Table by table: the one connection is to the tenant's database, if it is there, the other to the one beside it.
    pub async fn difference(&self, now: Option<&Client>, then: &Client) -> Result<Vec<Difference>, RestoreError> {
        super::prepare(then).await?;
        let was = Shape::all(then, Within::Database).await?;
        let Some(now) = now else { return differences(then, then, Vec::new(), was, true).await };
        super::prepare(now).await?;
        let is = Shape::all(now, Within::Database).await?;
        differences(now, then, is, was, true).await
    }

    /// In one transaction the two change names. The tenant's roles cannot log in meanwhile; who else is connected is
    /// disconnected.
    pub async fn swap(&self, client: &Client) -> Result<(), RestoreError> {
        let begin = Instant::now();
        let [home, next, was] = [self.home, &self.next, &self.was].map(sql::identifier);
        let aside = format!("alter database {home} rename to {was}; comment on database {was} is null;");
        let aside = if self.is_there(client).await? { aside } else { String::new() };
        let rename = format!(
            "begin; {aside} alter database {next} rename to {home}; comment on database {home} is {}; commit",
            sql::literal(&mark(&self.tenant.id))
        );
        loop {
            let end = "select pg_catalog.pg_terminate_backend(pid)::text from pg_catalog.pg_stat_activity \
                where datname = any ($1) and pid <> pg_catalog.pg_backend_pid()";
            install::texts(client, end, &[&vec![self.home, &self.next]]).await?;
            let Err(error) = install::run(client, "exchanging the databases", &rename).await else { break };
            let _ = client.batch_execute("rollback").await;
            let InstallError::Sql { source, .. } = &error else { return Err(error.into()) };
            // object_in_use: somebody has not gone yet, or has come back.
            if source.code().is_none_or(|code| code.code() != "55006") {
                return Err(error.into());
            }
            if begin.elapsed() > REST {
                return Err(RestoreError::Busy(self.home.to_owned()));
            }
        }
        Ok(self.sweep(client).await?)
    }
}

/// The statements that make a database like another, each by itself, since the first cannot be in a transaction.
const AS_IT_IS: &str = "
with home as (
    select d.*, to_jsonb(d) as facts, (select spcname from pg_catalog.pg_tablespace t where t.oid = d.dattablespace) as space
    from pg_catalog.pg_database d where d.datname = $1)
select pg_catalog.format('create database %I template template0 encoding %L lc_collate %L lc_ctype %L tablespace %I connection limit %s',
        $2::text, pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype, space, datconnlimit)
    || case when facts ->> 'datlocprovider' = 'i'
        then pg_catalog.format(' locale_provider icu icu_locale %L', coalesce(facts ->> 'daticulocale', facts ->> 'datlocale')) else '' end
from home
union all
select pg_catalog.format('alter database %I owner to %I', $2::text, pg_catalog.pg_get_userbyid(datdba)) from home
where datdba <> (select oid from pg_catalog.pg_roles where rolname = current_user)";

/// What the other database has set. Lists are kept as PostgreSQL writes them, in quotes where they need any.
const SETTINGS: &str = "
select case when split_part(s.setting, '=', 1) in ('search_path', 'local_preload_libraries', 'session_preload_libraries', 'temp_tablespaces')
    then pg_catalog.format('alter database %I set %I to %s;', $2::text, split_part(s.setting, '=', 1), substr(s.setting, strpos(s.setting, '=') + 1))
    else pg_catalog.format('alter database %I set %I to %L;', $2::text, split_part(s.setting, '=', 1), substr(s.setting, strpos(s.setting, '=') + 1)) end
from pg_catalog.pg_db_role_setting r join pg_catalog.pg_database d on d.oid = r.setdatabase, unnest(r.setconfig) s(setting)
where d.datname = $1 and r.setrole = 0";
