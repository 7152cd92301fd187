use std::path::PathBuf;

use super::failure::Failure;
use crate::{catalogue, proxy};

/// Run the proxy
///
/// Stays in the foreground. SIGTERM ends it once the transactions in flight are done; SIGHUP reads the
/// configuration again, and keeps the old one if the new one has problems. With [catalogue] it begins with the
/// tenants that the table has, or, while that cannot be read, with those of catalogue.cache.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration file
    file: PathBuf,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = super::runtime()?.block_on(catalogue::load_to_run(&arguments.file)).map_err(Failure::load)?;
    Ok(proxy::run(arguments.file.clone(), settings)?)
}
