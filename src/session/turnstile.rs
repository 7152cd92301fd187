//! What clients pass that log in, so that a crowd of them does not hold up those who are in.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Semaphore;

/// The shortest that the runtime's clock tells apart, which rounds up: it takes up to twice that.
const PACE: Duration = Duration::from_millis(1);

/// Who go in together at each pace. That makes about a thousand a second, a tenth of what a core could do.
const ABREAST: usize = 2;

/// One core's.
pub(super) struct Turnstile {
    /// For what takes long: one at a time.
    turns: Semaphore,
    paced: Cell<bool>,
    places: Semaphore,
}

impl Default for Turnstile {
    fn default() -> Self {
        Self { turns: Semaphore::new(1), paced: Cell::new(false), places: Semaphore::new(ABREAST) }
    }
}

impl Turnstile {
    /// Waits for the turn to do what takes long on this thread, such as a login: between two of these all sockets are
    /// looked at.
    pub async fn take_turn(&self) {
        // Never closed, so there is no error.
        let _turn = self.turns.acquire().await;
        tokio::task::yield_now().await;
    }

    /// Whether clients that log in wait while those who are in have much to do.
    pub fn set_paced(&self, paced: bool) {
        self.paced.set(paced);
    }

    pub fn is_paced(&self) -> bool {
        self.paced.get()
    }

    /// Where a client waits that logs in: only so many come in at a time.
    pub async fn keep_pace(&self) {
        let _place = self.places.acquire().await;
        // Those who are in may have come to rest meanwhile.
        if self.paced.get() {
            tokio::time::sleep(PACE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    async fn crowd(turnstile: &Turnstile, clients: u32) -> Duration {
        let began = Instant::now();
        futures_util::future::join_all((0..clients).map(|_| turnstile.keep_pace())).await;
        began.elapsed()
    }

    #[tokio::test]
    async fn a_crowd_comes_in_at_a_pace_while_others_work_and_at_once_else() {
        let turnstile = Turnstile::default();
        let at_once = crowd(&turnstile, 100).await;
        turnstile.set_paced(true);
        let paced = crowd(&turnstile, 100).await;
        assert!(paced >= PACE * 50 && at_once < paced, "{at_once:?} {paced:?}");
    }

    #[tokio::test]
    async fn who_waits_goes_on_at_once_when_those_who_work_have_come_to_rest() {
        let turnstile = Turnstile::default();
        turnstile.set_paced(true);
        let (all, ()) = tokio::join!(crowd(&turnstile, 10_000), async {
            tokio::time::sleep(10 * PACE).await;
            turnstile.set_paced(false);
        });
        assert!(all < PACE * 5_000, "{all:?}");
    }
}
