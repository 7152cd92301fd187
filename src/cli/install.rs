use super::ConfigArgument;
use super::connect::AdministrationArguments;
use super::failure::Failure;
use super::output::{say, warn};
use super::record::{Act, Deed};
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

    #[command(flatten)]
    administration: AdministrationArguments,

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
            say(Installation::new(&settings, &cluster.name, database).script(!arguments.without_secrets)?);
        }
        return Ok(());
    }
    super::runtime()?.block_on(async {
        let administrator = arguments.administration.administrator(cluster).await?;
        for database in &databases {
            let client = administrator.connect(database).await?;
            let prune = arguments.prune;
            let installation = Installation { prune, ..Installation::new(&settings, &cluster.name, database) };
            let place = format!("{database}@{}", cluster.name);
            let work = async { Ok(installation.run(&client).await?) };
            let installed = Act::at(&settings, Deed::Install, &place).recorded(work).await?;
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
