use std::sync::Arc;

use super::{Asked, ConfigArgument, Failure, runtime, show};
use crate::cli::output::warn;
use crate::cli::record::{Act, Deed};
use crate::sidecar::maintenance::{Answer, InForce, Pass};

/// Give every table its turn now
///
/// What a running pgward does when it is time for it: partitions ahead are made, old ones dropped, and rows deleted whose
/// time is up. A database that a running pgward or another command works on is left to it.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.asked.config.load()?;
    let clusters = arguments.asked.clusters(&settings)?;
    let turns = runtime()?.block_on(async {
        let mut all = Vec::new();
        for cluster in clusters {
            let work = async {
                let pass = Pass::new(&settings, &cluster.name)?.disposing_by(&arguments.asked.config);
                Ok(pass.run().await)
            };
            let act = Act::at(&settings, Deed::KeepPartitions, cluster.name.as_str());
            all.push((&cluster.name, act.recorded(work).await?));
        }
        Ok::<_, Failure>(all)
    })?;
    show::turns(&turns, arguments.asked.json)
}

/// A hold that somebody sets while this runs stands in the files or in the catalogue.
impl InForce for ConfigArgument {
    fn now(&self) -> Answer<'_> {
        Box::pin(async {
            let now = self.load_now().await;
            now.map_err(|why| warn(format_args!("what may go cannot be read: {why}"))).ok().map(Arc::new)
        })
    }
}
