//! Keeps up with the catalogue: is told of changes, reads it again, and has what it reads taken up.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::admin::{Control, ReloadError};
use crate::audit::Source;
use crate::backend::Endpoint;
use crate::base::causes;
use crate::catalogue::{ListenError, Listener, ReadError, Reader, Standing, errand};
use crate::config::Catalogue;
use crate::pool::Place;
use crate::topology::{Way, WayError};

/// Between two readings. Changes that come closer together are taken up together.
const GAP: Duration = Duration::from_millis(100);

/// How often it is looked whether another server takes the writes.
const LOOK: Duration = Duration::from_secs(1);

/// The first wait after a failure, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("nobody takes writes there")]
    NoPrimary,
    #[error(transparent)]
    Way(#[from] WayError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the connection that tells of changes is gone")]
    Gone,
    #[error("another server takes the writes")]
    Moved,
}

/// What is in force stays in force for as long as the table cannot be read.
pub(super) async fn watch(control: Control, standing: Arc<Standing>) {
    let mut wait = WAITS.0;
    let mut trouble = None;
    let mut refusal = None;
    loop {
        let draining = control.draining.clone();
        let begin = Instant::now();
        let following = follow(&control, &standing, &mut trouble, &mut refusal);
        let Some(Err(fault)) = draining.run_until_cancelled(following).await else { return };
        standing.set_told(false);
        let why = causes(&fault);
        // Said once for as long as it is the same.
        if trouble.as_ref() != Some(&why) {
            tracing::warn!(cluster = %standing.cluster, %why, "the catalogue is not watched; what is in force stays, and pgward goes on trying");
            trouble = Some(why);
        }
        if begin.elapsed() > WAITS.1 {
            wait = WAITS.0;
        }
        // Nodes that lost the same server are not to come back at the same moment.
        let jittered = wait.mul_f64(rand::random_range(0.5..1.0));
        if draining.run_until_cancelled(sleep(jittered)).await.is_none() {
            return;
        }
        wait = (wait * 2).min(WAITS.1);
    }
}

/// For as long as one server tells of changes.
async fn follow(
    control: &Control,
    standing: &Arc<Standing>,
    trouble: &mut Option<String>,
    refusal: &mut Option<ReloadError>,
) -> Result<Infallible, Fault> {
    let endpoint = leader(control, standing).ok_or(Fault::NoPrimary)?;
    let world = control.shared.world.load_full();
    let Some(catalogue) = &world.settings.catalogue else { return Err(Fault::Gone) };
    let way = Way::to(&world.settings, errand(catalogue), &endpoint)?;
    let mut listener = Listener::connect(&way).await?;
    let reader = Reader::new(&way)?;
    let mut poll = interval(catalogue.poll);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // The first tick comes at once: what was told before anybody listened is read then.
        let polled = tokio::select! {
            changed = listener.changed() => {
                changed.ok_or(Fault::Gone)?;
                false
            }
            _ = poll.tick() => true,
            _ = look.tick() => {
                if !leader(control, standing).is_some_and(|now| now.same_place(&endpoint)) {
                    return Err(Fault::Moved);
                }
                continue;
            }
        };
        let new = standing.note(reader.read().await?);
        standing.set_told(true);
        if trouble.take().is_some() {
            tracing::info!(cluster = %standing.cluster, "the catalogue is watched again");
        }
        // What was wrong may have been the main file, or another that it names.
        if new || polled && in_force(control).is_some_and(|in_force| standing.is_refused(&in_force)) {
            let known = refusal.take().filter(|_| !new);
            *refusal = control.reload_again(Source::Catalogue, known).await.err();
        }
        sleep(GAP).await;
    }
}

fn leader(control: &Control, standing: &Standing) -> Option<Arc<Endpoint>> {
    control.shared.pools.leads_to(&standing.cluster, &Place::Primary)
}

fn in_force(control: &Control) -> Option<Catalogue> {
    control.shared.world.load().settings.catalogue.clone()
}

/// Has the cache say what is in force. A file that cannot be written is told of and tried again at the next change.
pub(super) fn keep(control: &Control) {
    let Some(standing) = control.catalogue.clone() else { return };
    let control = control.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = standing.keep(|| in_force(&control)) {
            tracing::error!(cluster = %standing.cluster, %error, "the cache of the catalogue cannot be written");
        }
    });
}
