use super::ConfigArgument;
use super::connect::AdministrationArguments;
use super::failure::Failure;
use super::output::say;
use super::record::{Act, Deed};
use crate::tenant;

/// Take the schema `pgward` out of a cluster's databases again
///
/// PUBLIC gets back what `pgward install` took from it. Nothing is done where tables, views or functions still use
/// the schema; the error names them (`select pgward.unprotect('table')`). Nor is it where pgward.classification or
/// pgward.export_view have rows. Login roles stay, as do the tenants' schemas and data.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    administration: AdministrationArguments,

    /// Print the SQL instead of running it
    #[arg(long)]
    print: bool,

    /// Do it
    #[arg(long, required_unless_present = "print")]
    yes: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.print {
        say(tenant::uninstall_script());
        return Ok(());
    }
    let settings = arguments.config.load()?;
    let cluster = arguments.administration.cluster(&settings)?;
    super::runtime()?.block_on(async {
        let administrator = arguments.administration.administrator(cluster).await?;
        for database in &arguments.administration.databases(&settings, cluster) {
            let client = administrator.connect(database).await?;
            let place = format!("{database}@{}", cluster.name);
            let work = async { Ok(tenant::uninstall(&client).await?) };
            Act::at(&settings, Deed::Uninstall, &place).recorded(work).await?;
            say(format_args!("uninstalled from database {database} of cluster {}", cluster.name));
        }
        Ok(())
    })
}
