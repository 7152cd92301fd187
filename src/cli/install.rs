use tokio_postgres::Client;

use super::ConfigArgument;
use super::connect::AdministrationArguments;
use super::failure::Failure;
use super::output::say;
use crate::base::ClusterName;
use crate::config::Settings;
use crate::tenant;

/// Create the schema `pgward`, its functions and the login roles in a cluster's databases
///
/// Needs a superuser, or on managed PostgreSQL a role that may create roles and schemas. Can be
/// repeated at any time: what is there already is brought up to date, as after a change of keys.
/// Tables and the privileges on them stay yours; pgward does not touch them.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    administration: AdministrationArguments,

    /// Print the SQL instead of running it, to review it or to run it by psql
    #[arg(long)]
    print: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.config.load()?;
    let cluster = arguments.administration.cluster(&settings)?;
    let databases = arguments.administration.databases(&settings, cluster);
    if databases.is_empty() {
        return Err(Failure::said(format!(
            "no tenant has a database on cluster {}; name one with --database",
            cluster.name
        )));
    }
    if arguments.print {
        for database in &databases {
            say(format_args!("-- in database {database} of cluster {}", cluster.name));
            say(tenant::script(&settings, &cluster.name, database)?);
        }
        return Ok(());
    }
    let administrator = arguments.administration.administrator(cluster)?;
    super::runtime()?.block_on(async {
        for database in &databases {
            let client = administrator.connect(database).await?;
            install(&client, &settings, &cluster.name, database).await?;
            say(format_args!("installed in database {database} of cluster {}", cluster.name));
        }
        Ok(())
    })
}

pub(super) async fn install(
    client: &Client,
    settings: &Settings,
    cluster: &ClusterName,
    database: &str,
) -> Result<(), Failure> {
    tenant::install(client, settings, cluster, database).await?;
    Ok(())
}
