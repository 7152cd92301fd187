//! Has databases that are read from asked for their functions, for as long as somebody reads there.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::backend::{Credentials, Endpoint};
use crate::pool::Place;
use crate::session::{Shared, World};
use crate::topology::DatabaseFunctions;

pub(super) async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    let functions = &shared.functions;
    while let Some(due) = stop.run_until_cancelled(functions.due()).await {
        for wanted in due {
            let world = shared.world.load_full();
            let Some(endpoint) = shared.pools.leads_to(&wanted.cluster, &Place::Primary) else { continue };
            stop.run_until_cancelled(ask(&shared, &world, &wanted, &endpoint)).await;
        }
    }
}

/// As pgward itself, which may not be let in where a database is one tenant's alone: then in another one, which has
/// PostgreSQL's own functions as well.
async fn ask(shared: &Shared, world: &World, wanted: &DatabaseFunctions, endpoint: &Endpoint) {
    let Some(cluster) = world.settings.clusters.get(&wanted.cluster) else { return };
    let probe = cluster.probe.as_ref().map(|probe| probe.database.as_str());
    let databases = std::iter::once(wanted.database.as_str()).chain(probe);
    let credentials: Vec<Credentials> = databases.filter_map(|database| world.service(cluster, database)).collect();
    for credentials in &credentials {
        match shared.functions.ask(wanted, endpoint, credentials).await {
            Ok(()) => return,
            Err(error) => {
                let (cluster, database) = (&wanted.cluster, &credentials.database);
                tracing::info!(%cluster, database, %error, "a database could not be asked for its functions");
            }
        }
    }
}
