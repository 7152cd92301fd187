use std::path::PathBuf;

use toml_edit::{Array, InlineTable, Table, Value, value};

use super::super::record::{Act, Deed};
use super::store::{Change, Store};
use super::{CatalogueUrlArgument, Failure, Reach, TenantArgument, UrlArgument, cluster, runtime, seat};
use crate::base::Access;
use crate::cli::output::{say, warn};
use crate::config::{Settings, Tenant};
use crate::tenant::{Applied, Database, Installed, Provision, Template};

/// Add a tenant: its roles, schema or database in PostgreSQL, then its entry in the tenants file or catalogue
///
/// What tenants share (the schema `pgward`, keys, shared logins) is installed where it is missing. Interrupted or
/// failed, the same command again goes on where it ended. What is there already and does not belong to the tenant is
/// never taken over.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    tenant: TenantArgument,

    #[command(flatten)]
    url: UrlArgument,

    #[command(flatten)]
    catalogue: CatalogueUrlArgument,

    /// What keeps the tenant apart from others
    #[arg(long, value_parser = ["rows", "schema", "database", "cluster"])]
    isolation: String,

    /// The cluster, as the configuration names it
    #[arg(long)]
    cluster: String,

    /// Its database there; at levels database and cluster it is made
    #[arg(long)]
    database: String,

    /// Where the tenant is at home
    #[arg(long, value_name = "REGION")]
    home: String,

    /// Where its data may be, home among them; home alone unless named
    #[arg(long, value_delimiter = ',', value_name = "REGION,...")]
    regions: Vec<String>,

    /// The schema of its tables; at level schema its own, called as the tenant unless named
    #[arg(long)]
    schema: Option<String>,

    /// A login of its own for an access, as in app=kandy; at level rows an access that it may use. Repeatable
    #[arg(long = "role", value_name = "ACCESS=LOGIN", value_parser = role)]
    roles: Vec<(Access, Option<String>)>,

    /// The epoch that its logins' passwords are derived with; 1 unless named
    #[arg(long)]
    epoch: Option<i64>,

    /// A setting of its logins, such as work_mem=16MB. Repeatable
    #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,

    /// How long its sessions keep a backend
    #[arg(long, value_parser = ["transaction", "session"])]
    mode: Option<String>,

    /// How long its rows are kept in tables that are partitioned by time, one of the configuration's classes
    #[arg(long)]
    class: Option<String>,

    /// Clients at a time
    #[arg(long, value_name = "N")]
    max_clients: Option<i64>,

    /// Backends in use at a time
    #[arg(long, value_name = "N")]
    max_leases: Option<i64>,

    /// Sessions that keep their backend at a time
    #[arg(long, value_name = "N")]
    max_pinned: Option<i64>,

    /// A folder of *.sql files to begin with, applied in the order of their names, all or nothing and once
    #[arg(long, value_name = "FOLDER")]
    template: Option<PathBuf>,
}

fn role(text: &str) -> Result<(Access, Option<String>), String> {
    let (access, login) = text.split_once('=').map_or((text, None), |(access, login)| (access, Some(login.to_owned())));
    Ok((Access::parse(access).map_err(|error| format!("{access:?} {error}"))?, login))
}

fn setting(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as work_mem=16MB")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let id = &arguments.tenant.name;
    let settings = arguments.tenant.config.load()?;
    let mut store = Store::of(&arguments.tenant, &settings)?;
    if settings.tenants.contains_key(id) {
        store.must_have(id)?;
    }
    let entry = arguments.entry()?;
    let template = arguments.template.as_deref().map(Template::read).transpose()?;
    let proposed = store.proposed(id, &entry)?;
    let tenant = TenantArgument::find(&arguments.tenant, &proposed)?;
    same(&settings, &tenant)?;
    let provision = Provision { settings: &proposed, tenant: &tenant, template: template.as_ref() };
    let reach = Reach { settings: &settings, tenant: &tenant, url: &arguments.url, catalogue: &arguments.catalogue };
    runtime()?.block_on(Act::on_tenant(&settings, Deed::AddTenant, id).recorded(async {
        arguments.provide(&provision).await?;
        store.edit(id, Change::Put(entry), &reach).await?;
        // Somebody may have written another one of this name by hand.
        same(&arguments.tenant.config.load_now().await?, &tenant)
    }))?;
    let (level, place) = (tenant.isolation.as_str(), store.place());
    say(format_args!(
        "tenant {id} is there, at level {level}, and in {place}; a running pgward follows within seconds"
    ));
    Ok(())
}

/// A tenant that is there already must be the one that is asked for: then this is an add that is repeated.
fn same(settings: &Settings, tenant: &Tenant) -> Result<(), Failure> {
    match settings.tenants.get(&tenant.id) {
        Some(known) if **known != *tenant => Err(Failure::said(format!(
            "there is a tenant {0} already, and it is another: see pgward tenant show {0}",
            tenant.id
        ))),
        _ => Ok(()),
    }
}

impl Arguments {
    async fn provide(&self, provision: &Provision<'_>) -> Result<(), Failure> {
        let tenant = provision.tenant;
        let administrator = self.url.administrator(cluster(provision.settings, tenant)?).await?;
        let seat = seat(&administrator, tenant).await?;
        // Who had the seat before may have added another of this name.
        same(&self.tenant.config.load_now().await.unwrap_or_else(|_| provision.settings.clone()), tenant)?;
        let provisioned = if tenant.isolation.shares_database() {
            provision.run(&seat).await?
        } else {
            if Database::of(tenant).create(&seat).await? {
                say(format_args!("made database {}", tenant.database));
            }
            provision.run(&administrator.connect(&tenant.database).await?).await?
        };
        if let Some(installed) = &provisioned.installed {
            tell(installed, &tenant.database);
        }
        match provisioned.applied {
            Applied::None => {}
            Applied::Now => say("applied the template"),
            Applied::Before => say("the template was applied before"),
            Applied::Another => warn("another template was applied before; this one was not"),
        }
        Ok(())
    }

    /// What the tenants file or the catalogue will have.
    fn entry(&self) -> Result<Table, Failure> {
        let mut entry = Table::new();
        entry.insert("isolation", value(&self.isolation));
        entry.insert("cluster", value(&self.cluster));
        entry.insert("database", value(&self.database));
        if let Some(schema) = &self.schema {
            entry.insert("schema", value(schema));
        }
        entry.insert("home", value(&self.home));
        if !self.regions.is_empty() {
            entry.insert("regions", value(self.regions.iter().collect::<Array>()));
        }
        let roles = if self.isolation == "rows" { self.accesses()? } else { self.logins() };
        if let Some(roles) = roles {
            entry.insert("roles", value(roles));
        }
        if let Some(mode) = &self.mode {
            entry.insert("mode", value(mode));
        }
        if let Some(class) = &self.class {
            entry.insert("class", value(class));
        }
        let limits =
            [("max_clients", self.max_clients), ("max_leases", self.max_leases), ("max_pinned", self.max_pinned)];
        for (key, limit) in limits {
            if let Some(limit) = limit {
                entry.insert(key, value(limit));
            }
        }
        Ok(entry)
    }

    fn accesses(&self) -> Result<Option<Value>, Failure> {
        let own = self.roles.iter().any(|(_, login)| login.is_some());
        if own || self.epoch.is_some() || !self.settings.is_empty() {
            return Err(Failure::said(
                "at level rows the logins are the cluster's, with their settings and epochs; --role names an access alone",
            ));
        }
        let names: Array = self.roles.iter().map(|(access, _)| access.as_str()).collect();
        Ok((!names.is_empty()).then_some(names.into()))
    }

    fn logins(&self) -> Option<Value> {
        let plain = self.epoch.is_none() && self.settings.is_empty();
        let id = self.tenant.name.as_str();
        let mut roles: Vec<(&str, String)> = Vec::new();
        for (access, login) in &self.roles {
            let default = || if access.as_str() == "app" { id.to_owned() } else { format!("{id}_{access}") };
            roles.push((access.as_str(), login.clone().unwrap_or_else(default)));
        }
        if roles.is_empty() {
            if plain {
                return None;
            }
            roles.push(("app", id.to_owned()));
        }
        let mut all = InlineTable::new();
        for (access, role) in roles {
            let mut login = InlineTable::new();
            login.insert("role", role.clone().into());
            if let Some(epoch) = self.epoch {
                login.insert("epoch", epoch.into());
            }
            if !self.settings.is_empty() {
                let settings: InlineTable =
                    self.settings.iter().map(|(name, value)| (name.as_str(), Value::from(value))).collect();
                login.insert("settings", settings.into());
            }
            all.insert(access, if plain { role.into() } else { login.into() });
        }
        Some(all.into())
    }
}

fn tell(installed: &Installed, database: &str) {
    say(format_args!("installed what tenants share in database {database}"));
    if !installed.left_open.is_empty() {
        warn("left open, since closing it takes a superuser (docs/isolation.md):");
        installed.left_open.iter().for_each(warn);
    }
}
