//! Reading the configuration again. A file with problems is refused whole.

use std::path::Path;
use std::sync::Arc;

use crate::admin::ReloadError;
use crate::config::{self, Settings};
use crate::session::{Shared, World};

pub(super) fn reload(path: &Path, shared: &Arc<Shared>) -> Result<(), ReloadError> {
    let outcome = replace(path, shared);
    match &outcome {
        Ok(()) => tracing::info!(path = %path.display(), "the configuration was read again"),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the new configuration was refused; the old one stays")
        }
    }
    outcome
}

fn replace(path: &Path, shared: &Arc<Shared>) -> Result<(), ReloadError> {
    let settings =
        config::load(path).map_err(|problems| ReloadError(problems.iter().map(ToString::to_string).collect()))?;
    let before = shared.world.load_full();
    let mut problems = fixed(&before.settings, &settings);
    if !problems.is_empty() {
        problems.push("restart pgward to change these".to_owned());
        return Err(ReloadError(problems));
    }
    let world = World::new(settings, Some(&before)).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        ReloadError(vec![format!("{error}{cause}")])
    })?;
    shared.world.store(Arc::new(world));
    spawn_refreshers(shared);
    Ok(())
}

/// What is laid out at the start and cannot change while running.
fn fixed(before: &Settings, after: &Settings) -> Vec<String> {
    let changes = [
        ("listen.address", before.listen.addresses != after.listen.addresses),
        ("listen.cores", before.listen.cores != after.listen.cores),
        ("http.address", before.http != after.http),
        ("log", before.log != after.log),
    ];
    changes.iter().filter(|(_, changed)| *changed).map(|(key, _)| format!("{key} has changed")).collect()
}

/// Key sets by URL are fetched for as long as the configuration that names them is in force.
pub(super) fn spawn_refreshers(shared: &Arc<Shared>) {
    for refresher in shared.world.load().verifier.refreshers() {
        tokio::spawn(refresher);
    }
}
