use std::collections::BTreeSet;

use super::{ConfigArgument, Failure, runtime};
use crate::cli::connect::AdministrationArguments;
use crate::cli::output::say;
use crate::cli::record::{Act, Deed};
use crate::sidecar::maintenance::{Pass, Setup};

/// Create pg_partman in a cluster's databases, and the login that keeps the partitions
///
/// Needs a superuser, and the extension's files on the server (Debian: postgresql-15-partman). The tables that tenants
/// share must be there, partitioned by range of their column, and belong to a role that nobody logs in as. Can be repeated
/// at any time, as after a change of the configuration. `pgward maintenance run` then makes the partitions.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    administration: AdministrationArguments,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.config.load()?;
    let cluster = arguments.administration.cluster(&settings)?;
    let pass = Pass::new(&settings, &cluster.name)?;
    let meant = arguments.administration.databases(&settings, cluster);
    let kept: BTreeSet<String> = Setup::databases(&pass).into_iter().collect();
    let databases: Vec<&String> = kept.intersection(&meant).collect();
    if databases.is_empty() {
        let said = format!("clusters.{}.partitions names no table in a database that is meant", cluster.name);
        return Err(Failure::said(said));
    }
    runtime()?.block_on(async {
        let administrator = arguments.administration.administrator(cluster).await?;
        for database in databases {
            let client = administrator.connect(database).await?;
            let place = format!("{database}@{}", cluster.name);
            let work = async { Ok(Setup { pass: &pass, database }.run(&client).await?) };
            let noted = Act::at(&settings, Deed::SetUpPartitions, &place).recorded(work).await?;
            noted.iter().for_each(say);
            say(format_args!("database {database} of cluster {} is set up for partitions", cluster.name));
        }
        Ok(())
    })
}
