use super::{Asked, Failure, runtime, show};
use crate::sidecar::maintenance::Pass;

/// Show each table: its partitions, how many are ahead, rows that fit into none, its last turn and the next
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
            all.push((&cluster.name, Pass::new(&settings, &cluster.name)?.look().await));
        }
        Ok::<_, Failure>(all)
    })?;
    show::turns(&turns, arguments.asked.json)
}
