use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::store::Store;
use super::{Failure, MAINTENANCE, TenantArgument, UrlArgument, cluster, runtime};
use crate::base::Access;
use crate::cli::output::{say, table};
use crate::config::{Cluster, Login, LoginPassword, Roles, Settings, Tenant};
use crate::tenant::Seen;

/// Show a tenant: what the configuration says of it, and whether what it needs is on its cluster
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    tenant: TenantArgument,

    #[command(flatten)]
    url: UrlArgument,

    /// As a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.tenant.config.load()?;
    let tenant = arguments.tenant.find(&settings)?;
    let cluster = cluster(&settings, &tenant)?;
    let elsewhere = settings.tenants_file.is_some() || settings.catalogue.is_some();
    let editable = elsewhere && Store::of(&arguments.tenant, &settings)?.has(&tenant.id)?;
    // A cluster that cannot be reached is no reason not to show the rest.
    let seen = runtime()?.block_on(look(arguments, &settings, &tenant, cluster));
    let mut facts = facts(&tenant, cluster);
    facts.insert("in_tenants_file", (editable && settings.catalogue.is_none()).into());
    facts.insert("in_catalogue", (editable && settings.catalogue.is_some()).into());
    if arguments.json {
        let seen = match &seen {
            Ok(seen) => seen
                .iter()
                .map(|seen| json!({ "what": seen.what, "found": seen.found, "sound": seen.sound }))
                .collect::<Vec<_>>()
                .into(),
            Err(_) => Value::Null,
        };
        facts.insert("on_the_cluster", seen);
        say(format_args!("{:#}", json!(facts)));
        return Ok(());
    }
    let texts: Vec<(&str, String)> = facts.iter().map(|(name, value)| (*name, plain(value))).collect();
    table(texts.iter().map(|(name, text)| [*name, text.as_str()]).collect());
    say("");
    match &seen {
        Ok(seen) => table(seen.iter().map(|seen| [seen.what.as_str(), seen.found.as_str()]).collect()),
        Err(failure) => say(format_args!("The cluster was not looked at: {failure}")),
    }
    Ok(())
}

async fn look(
    arguments: &Arguments,
    settings: &Settings,
    tenant: &Tenant,
    cluster: &Cluster,
) -> Result<Vec<Seen>, Failure> {
    let administrator = arguments.url.administrator(cluster).await?;
    let mut seen = Seen::cluster(&administrator.connect(MAINTENANCE).await?, tenant).await?;
    if seen.iter().all(|seen| seen.sound) {
        let client = administrator.connect(&tenant.database).await?;
        seen.extend(Seen::database(&client, settings, tenant).await?);
    }
    Ok(seen)
}

/// All that is in force, whether the file says it or it is the default.
fn facts(tenant: &Tenant, cluster: &Cluster) -> BTreeMap<&'static str, Value> {
    let servers: Vec<_> = cluster.all_servers().map(|server| format!("{} in {}", server.name, server.region)).collect();
    let regions: Vec<&str> = tenant.regions.iter().map(|region| region.as_str()).collect();
    let mut facts = BTreeMap::from([
        ("tenant", tenant.id.as_str().into()),
        ("isolation", tenant.isolation.as_str().into()),
        ("cluster", tenant.cluster.as_str().into()),
        ("servers", servers.into()),
        ("database", tenant.database.as_str().into()),
        ("search_path", tenant.search_path.clone().into()),
        ("home", tenant.home.as_str().into()),
        ("regions", regions.into()),
        ("logins", logins(tenant, cluster)),
        ("mode", tenant.mode.as_str().into()),
        ("max_clients", tenant.limits.max_clients.into()),
        ("max_leases", tenant.limits.max_leases.into()),
        ("max_pinned", tenant.limits.max_pinned.into()),
        ("suspended", tenant.suspended.into()),
        ("legal_hold", tenant.legal_hold.clone().into()),
    ]);
    facts.extend(tenant.class.iter().map(|class| ("class", class.as_str().into())));
    facts
}

fn logins(tenant: &Tenant, cluster: &Cluster) -> Value {
    let (logins, wanted): (&BTreeMap<Access, Login>, &[Access]) = match &tenant.roles {
        Roles::Shared(names) => (&cluster.logins, names),
        Roles::Own(logins) => (logins, &[]),
    };
    let logins = logins.iter().filter(|(access, _)| wanted.is_empty() || wanted.contains(access));
    let logins = logins.map(|(access, login)| {
        let password = match &login.password {
            LoginPassword::Derived { epoch } => json!({ "derived_with_epoch": epoch }),
            LoginPassword::Fixed(_) => json!("fixed"),
        };
        let mode = login.mode.map(|mode| mode.as_str());
        let shown = json!({ "role": login.role, "password": password, "settings": login.settings, "mode": mode });
        (access.to_string(), shown)
    });
    Value::Object(logins.collect())
}

/// For a person: no quotes around words, lists with commas, what is not set left out.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null() && **value != json!({}));
            fields.map(|(name, value)| format!("{name}: {}", plain(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}
