use std::path::PathBuf;

use super::failure::Failure;
use crate::proxy;

/// Run the proxy
///
/// Stays in the foreground. SIGTERM ends it once the transactions in flight are done; SIGHUP reads the
/// configuration again, and keeps the old one if the new one has problems.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration file
    file: PathBuf,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = super::load(&arguments.file)?;
    Ok(proxy::run(arguments.file.clone(), settings)?)
}
