//! What clients pass that log in, so that a crowd of them does not hold up those who are in.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Semaphore;

/// The shortest that the runtime's clock tells apart.
const PACE: Duration = Duration::from_millis(1);

/// Who go in together at each pace: with a check of the token a quarter of what a thread could do in that time.
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

    /// Where a client waits that logs in: only so many come in at a time. Says whether it had to.
    pub async fn keep_pace(&self) -> bool {
        if !self.paced.get() {
            return false;
        }
        let _place = self.places.acquire().await;
        tokio::time::sleep(PACE).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    async fn crowd(turnstile: &Turnstile, clients: u32) -> (Duration, bool) {
        let began = Instant::now();
        let waited = futures_util::future::join_all((0..clients).map(|_| turnstile.keep_pace())).await;
        assert!(waited.iter().all(|one| one == &waited[0]));
        (began.elapsed(), waited[0])
    }

    #[tokio::test]
    async fn a_crowd_comes_in_at_a_pace_while_others_work_and_at_once_else() {
        let turnstile = Turnstile::default();
        let (at_once, waited) = crowd(&turnstile, 100).await;
        assert!(!waited);
        turnstile.set_paced(true);
        let (paced, waited) = crowd(&turnstile, 100).await;
        assert!(waited && paced >= PACE * 50 && at_once < paced, "{at_once:?} {paced:?}");
        turnstile.set_paced(false);
        assert!(crowd(&turnstile, 100).await.0 < paced);
    }
}
