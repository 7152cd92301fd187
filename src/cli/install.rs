use std::collections::BTreeSet;

use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};

use super::ConfigArgument;
use super::failure::Failure;
use super::output::{say, warn};
use crate::base::ClusterName;
use crate::config::{Cluster, ServerRole, ServerTlsMode, Settings};
use crate::tenant::{Installation, Installed};

/// Create the schema `pgward`, its functions and the login roles in a cluster's databases
///
/// Needs a superuser, or on managed PostgreSQL a role that may create roles and schemas. Can be
/// repeated at any time: what is there already is brought up to date, as after a change of keys.
/// Tables and the privileges on them stay yours; pgward does not touch them.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    /// The cluster, as the configuration names it
    #[arg(long, value_parser = ClusterName::parse)]
    cluster: ClusterName,

    /// A database of it; all that tenants have there unless named. Repeatable
    #[arg(long = "database")]
    databases: Vec<String>,

    /// Where and as whom to connect; without it, to the primary as PGUSER (or postgres) with PGPASSWORD
    #[arg(long, env = "PGWARD_INSTALL_URL", hide_env_values = true, value_name = "postgresql://USER@HOST:PORT/")]
    url: Option<String>,

    /// Print the SQL instead of running it, to review it or to run it by psql
    #[arg(long)]
    print: bool,

    /// With --print: leave out keys and password verifiers
    #[arg(long, requires = "print")]
    without_secrets: bool,

    /// Delete context keys that the configuration does not have any more
    #[arg(long)]
    prune: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.config.load()?;
    let Some(cluster) = settings.clusters.get(&arguments.cluster) else {
        let known = settings.clusters.keys().map(ClusterName::as_str).collect::<Vec<_>>().join(", ");
        return Err(Failure::said(format!(
            "there is no cluster {} in the configuration (there is {known})",
            arguments.cluster
        )));
    };
    let databases = databases(&settings, arguments);
    if databases.is_empty() {
        return Err(Failure::said(format!(
            "no tenant has a database on cluster {}; name one with --database",
            arguments.cluster
        )));
    }
    if arguments.print {
        for database in &databases {
            say(format_args!("-- in database {database} of cluster {}", cluster.name));
            say(Installation::new(&settings, &cluster.name, database).script(!arguments.without_secrets)?);
        }
        return Ok(());
    }
    let config = target(arguments, cluster)?;
    super::runtime()?.block_on(async {
        for database in &databases {
            let client = connect(&config, database).await?;
            let prune = arguments.prune;
            let installation = Installation { prune, ..Installation::new(&settings, &cluster.name, database) };
            let installed = installation.run(&client).await?;
            say(format_args!("installed in database {database} of cluster {}", cluster.name));
            tell(&installed);
        }
        Ok(())
    })
}

/// What the person who installs has to know.
fn tell(installed: &Installed) {
    for setting in &installed.settings_removed {
        warn(format_args!("removed a setting that is not in the configuration ({setting}); see the login's settings"));
    }
    if !installed.left_open.is_empty() {
        warn("left open, since closing it takes a superuser (docs/isolation.md):");
        installed.left_open.iter().for_each(warn);
    }
}

fn databases(settings: &Settings, arguments: &Arguments) -> BTreeSet<String> {
    if !arguments.databases.is_empty() {
        return arguments.databases.iter().cloned().collect();
    }
    let here = settings.tenants.values().filter(|tenant| tenant.cluster == arguments.cluster);
    here.map(|tenant| tenant.database.clone()).collect()
}

fn target(arguments: &Arguments, cluster: &Cluster) -> Result<Config, Failure> {
    let mut config: Config = match &arguments.url {
        Some(url) => url.parse()?,
        None => Config::new(),
    };
    if config.get_hosts().is_empty() {
        let primary = cluster.servers.iter().find(|server| server.role == ServerRole::Primary);
        let primary = primary.ok_or_else(|| Failure::said("the cluster has no primary"))?;
        config.host(&primary.host).port(primary.port);
    }
    if config.get_user().is_none() {
        config.user(std::env::var("PGUSER").unwrap_or_else(|_| "postgres".to_owned()));
    }
    if config.get_password().is_none()
        && let Ok(password) = std::env::var("PGPASSWORD")
    {
        config.password(password);
    }
    // What is sent holds password verifiers and the context key.
    let near = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
        Host::Unix(_) => true,
    });
    if !near && cluster.tls.mode != ServerTlsMode::Off {
        return Err(Failure::said(format!(
            "cluster {} demands TLS, which this command does not speak yet; run it on the server itself, \
             or pipe --print into psql",
            cluster.name
        )));
    }
    Ok(config)
}

async fn connect(config: &Config, database: &str) -> Result<Client, Failure> {
    let (client, connection) = config.clone().dbname(database).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
