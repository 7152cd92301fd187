//! Servers are asked at once while somebody waits for what they say, and not more often than they can bear.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep_until;

/// Between two questions to one server.
const GAP: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Urgency {
    /// It was raised, and nobody has been asked since. Read on each raise, so that most of them wake nobody.
    ///
    /// Whoever asks lowers it first. So while it is up, all who were woken by the raise have yet to ask, and what they hear
    /// is of a later time than any raise that found it up.
    up: AtomicBool,
    raised: watch::Sender<()>,
}

impl Urgency {
    pub fn new() -> Self {
        Self { up: AtomicBool::new(false), raised: watch::channel(()).0 }
    }

    pub fn raise(&self) {
        if !self.up.load(Ordering::SeqCst) && !self.up.swap(true, Ordering::SeqCst) {
            self.raised.send_replace(());
        }
    }

    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.raised.subscribe()
    }

    /// Until it is raised, and not sooner than a while after `last`.
    pub async fn raised(&self, receiver: &mut watch::Receiver<()>, last: Instant) {
        if receiver.changed().await.is_err() {
            // Nobody is left who could raise it.
            std::future::pending::<()>().await;
        }
        sleep_until((last + GAP).into()).await;
    }

    /// Somebody is about to ask.
    pub fn lower(&self) {
        self.up.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_raise_is_lost_and_questions_keep_their_distance() {
        let urgency = Urgency::new();
        let mut receivers = [urgency.subscribe(), urgency.subscribe()];
        for _ in 0..3 {
            let last = Instant::now();
            urgency.raise();
            urgency.raise();
            for receiver in &mut receivers {
                urgency.raised(receiver, last).await;
                assert!(last.elapsed() >= GAP);
                urgency.lower();
            }
        }
        let [mut first, mut second] = receivers;
        urgency.raise();
        urgency.raised(&mut first, Instant::now()).await;
        urgency.lower();
        // Behind the first one's question, before the second one's.
        urgency.raise();
        urgency.raised(&mut second, Instant::now()).await;
        urgency.lower();
        urgency.raised(&mut first, Instant::now()).await;
    }
}
