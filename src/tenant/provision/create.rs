//! A tenant's roles, schema, privileges and first contents, in one transaction on its database.

use tokio_postgres::Client;

use super::template::Template;
use super::{FUNCTIONS, ProvisionError, own_roles};
use crate::base::Access;
use crate::config::{Isolation, Roles, Settings, Tenant};
use crate::tenant::Sealer;
use crate::tenant::install::{self, Batch, Installation, Installed, Scope, sql};

/// Whether the template was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// There is none.
    None,
    Now,
    /// The same, by an earlier attempt.
    Before,
    /// Another than the one that is given now.
    Another,
}

#[derive(Debug)]
pub struct Provisioned {
    pub applied: Applied,
    /// What tenants share was not there, or not all of it.
    pub installed: Option<Installed>,
}

/// A tenant that is to be, in settings that have it already.
#[derive(Debug, Clone, Copy)]
pub struct Provision<'a> {
    pub settings: &'a Settings,
    pub tenant: &'a Tenant,
    pub template: Option<&'a Template>,
}

impl<'a> Provision<'a> {
    /// On a connection to the tenant's database. All or nothing; repeated, it changes nothing.
    pub async fn run(&self, client: &Client) -> Result<Provisioned, ProvisionError> {
        let tenant = self.tenant;
        let whole = Installation::new(self.settings, &tenant.cluster, &tenant.database);
        let ready = !tenant.isolation.shares_database() || whole.shared_is_there(client, tenant).await?;
        let scope = if ready { Scope::Only(&tenant.id) } else { Scope::With(&tenant.id) };
        let installation = Installation { scope, ..whole };
        let (batches, mut installed) = installation.plan()?;
        let applied = install::atomically(client, install::BEGIN, async || self.within(client, batches).await).await?;
        installed.left_open = installation.left_open(client).await?;
        Ok(Provisioned { applied, installed: (!ready).then_some(installed) })
    }

    async fn within(&self, client: &Client, batches: Vec<Batch>) -> Result<Applied, ProvisionError> {
        let (first, rest) = batches.split_at(1.min(batches.len()));
        let claims = self.claims();
        for batch in first.iter().chain(&claims).chain(rest).chain(&self.home()) {
            install::run(client, &batch.doing, &batch.sql).await?;
        }
        let Some(template) = self.template else { return Ok(Applied::None) };
        match self.noted(client, template).await? {
            Some(digest) if digest == template.digest => Ok(Applied::Before),
            Some(_) => Ok(Applied::Another),
            None => self.apply(client, template).await.map(|()| Applied::Now),
        }
    }

    /// Makes sure, before anything is made, that nothing of somebody else's is taken for the tenant's.
    fn claims(&self) -> Vec<Batch> {
        let tenant = self.tenant;
        let mut batches = vec![Batch::open("preparing", FUNCTIONS)];
        for role in own_roles(tenant) {
            let sql =
                format!("select pg_temp.pgward_claim({}, {});", sql::literal(role), sql::literal(tenant.id.as_str()));
            batches.push(Batch::open(format!("making the role {role}"), sql));
        }
        if let (Isolation::Schema, Some(schema), Some(owner)) =
            (tenant.isolation, tenant.search_path.first(), own_roles(tenant).first())
        {
            let sql = format!("select pg_temp.pgward_claim_schema({}, {});", sql::literal(schema), sql::literal(owner));
            batches.push(Batch::open(format!("making the schema {schema}"), sql));
        }
        batches
    }

    /// In a database of the tenant's own.
    fn home(&self) -> Option<Batch> {
        let tenant = self.tenant;
        let schema = tenant.search_path.first()?;
        let own = matches!(tenant.isolation, Isolation::Database | Isolation::Cluster);
        let logins = sql::array(own_roles(tenant).into_iter(), "name");
        let sql = format!("select pg_temp.pgward_home({}, {logins});", sql::literal(schema));
        own.then(|| Batch::open(format!("giving the tenant the schema {schema}"), sql))
    }

    /// The template that was applied, by its digest.
    async fn noted(&self, client: &Client, template: &Template) -> Result<Option<String>, ProvisionError> {
        let found = match own_roles(self.tenant).first() {
            None => {
                let sql = "insert into pgward.applied (tenant, template) values ($1, $2) \
                    on conflict (tenant) do update set tenant = excluded.tenant returning case when xmax = 0 then '' else template end";
                install::texts(client, sql, &[&self.tenant.id.as_str(), &template.digest]).await?
            }
            Some(role) => {
                let sql = "select pg_catalog.split_part(coalesce(pg_catalog.shobj_description(oid, 'pg_authid'), ''), '; template ', 2) \
                    from pg_catalog.pg_roles where rolname = $1";
                install::texts(client, sql, &[role]).await?
            }
        };
        Ok(found.into_iter().next().filter(|digest| !digest.is_empty()))
    }

    /// As the tenant would: by its first login, in its schema, and at level `rows` with its context.
    async fn apply(&self, client: &Client, template: &Template) -> Result<(), ProvisionError> {
        let (role, tenant) = (self.role()?, self.tenant);
        let quoted = sql::identifier(role);
        // Since PostgreSQL 16, who creates a role is a member of it and may still not take its part.
        let may = "select case when pg_catalog.current_setting('server_version_num')::int4 >= 160000 \
            then pg_catalog.pg_has_role($1::name, 'set') else pg_catalog.pg_has_role($1::name, 'member') end::text";
        let stranger = install::texts(client, may, &[&role]).await? != ["true"];
        let doing = format!("taking the part of {role}");
        if stranger {
            install::run(client, &doing, &format!("grant {quoted} to current_user")).await?;
        }
        let begun = transaction(client).await?;
        let path: Vec<String> = tenant.search_path.iter().map(|schema| sql::identifier(schema)).collect();
        let (path, id) = (sql::literal(&path.join(", ")), sql::literal(tenant.id.as_str()));
        for file in &template.files {
            let part = format!(
                "set local role {quoted}; select set_config('search_path', {path}, true), \
                 set_config('pgward.new_tenant', {id}, true)"
            );
            install::run(client, &doing, &part).await?;
            self.seal(client).await?;
            install::run(client, &format!("applying {} of the template", file.name), &file.sql).await?;
            if transaction(client).await? != begun {
                return Err(ProvisionError::TemplateCommitted(file.name.clone()));
            }
        }
        install::run(client, "going on as administrator", "reset role; set local search_path to default").await?;
        if stranger {
            install::run(client, &doing, &format!("revoke {quoted} from current_user")).await?;
        }
        if let Some(role) = own_roles(tenant).first() {
            let note = format!("{}; template {}", super::mark(&tenant.id), template.digest);
            let note = format!("comment on role {} is {}", sql::identifier(role), sql::literal(&note));
            install::run(client, "noting that the template is applied", &note).await?;
        }
        Ok(())
    }

    /// Who applies the template: the owner of what the tenant has, or at level `rows` the login for `app`.
    fn role(&self) -> Result<&'a str, ProvisionError> {
        let none = || ProvisionError::NoLogin(self.tenant.id.clone());
        let Roles::Shared(names) = &self.tenant.roles else {
            return self.tenant.own_logins().next().map(|login| login.role.as_str()).ok_or_else(none);
        };
        let cluster = self.settings.clusters.get(&self.tenant.cluster).ok_or_else(none)?;
        let allowed = |access: &&Access| names.is_empty() || names.contains(access);
        let mut accesses: Vec<&Access> = cluster.logins.keys().filter(allowed).collect();
        accesses.sort_by_key(|access| access.as_str() != "app");
        let login = accesses.first().and_then(|access| cluster.logins.get(*access));
        login.map(|login| login.role.as_str()).ok_or_else(none)
    }

    async fn seal(&self, client: &Client) -> Result<(), ProvisionError> {
        match self.tenant.isolation {
            Isolation::Rows => seal(client, self.settings, self.tenant).await,
            Isolation::Schema | Isolation::Database | Isolation::Cluster => Ok(()),
        }
    }
}

/// Gives this backend the tenant's context, up to the transaction's end.
pub async fn seal(client: &Client, settings: &Settings, tenant: &Tenant) -> Result<(), ProvisionError> {
    let context = &settings.context;
    let key = context.keys.get(&context.active).ok_or(ProvisionError::NoKey)?;
    let sealer = Sealer::new(&context.active, key).ok_or(ProvisionError::NoKey)?;
    let pid = install::texts(client, "select pg_catalog.pg_backend_pid()::text", &[]).await?;
    let pid = pid.first().and_then(|pid| pid.parse().ok()).unwrap_or(0);
    // As a parameter: literals show in logs.
    let sql = "select left(pg_catalog.set_config('pgward.context', $1, true), 0)";
    install::texts(client, sql, &[&sealer.context(pid, &tenant.id)]).await?;
    Ok(())
}

async fn transaction(client: &Client) -> Result<Vec<String>, ProvisionError> {
    Ok(install::texts(client, "select pg_catalog.pg_current_xact_id()::text", &[]).await?)
}
