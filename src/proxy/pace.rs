//! Logins stand back where sessions work. A login costs as much as several transactions, and nobody who logs in has work
//! under way yet, so a crowd of them goes in at a pace that those who are in hardly notice.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::balance::share;
use crate::session::{Core, CoreHandle};

/// Sessions' part of a thread, in thousandths, from which on logins are paced: on the core that has it, and on all where
/// they have as much on average, since the CPUs are shared.
const BUSY: usize = 200;

/// Looks at which sessions have little to do before logins go as fast as they can again.
const LOOKS_TO_REST: u32 = 4;

/// What one core has found so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    /// For so many looks logins are paced yet.
    left: u32,
}

impl Pace {
    /// Called at each tick of the core `own`, which has worked for so long since the last.
    pub fn look(&mut self, core: &Core, worked: Duration, own: usize, cores: &[CoreHandle]) {
        let now = Instant::now();
        let Some(then) = self.last.replace(now) else { return };
        let work = share(worked, now.duration_since(then));
        if let Some(handle) = cores.get(own) {
            handle.work.store(work, Ordering::Relaxed);
        }
        let all = cores.iter().map(|core| core.work.load(Ordering::Relaxed)).sum();
        core.pace_logins(self.decide(work, all, cores.len()));
    }

    /// Whether logins are paced from now on.
    fn decide(&mut self, work: usize, all: usize, cores: usize) -> bool {
        let busy = work >= BUSY || all >= BUSY * cores;
        self.left = if busy { LOOKS_TO_REST } else { self.left.saturating_sub(1) };
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_paced_while_sessions_work_and_for_a_moment_after() {
        let decide = |work, all, cores| Pace::default().decide(work, all, cores);
        assert!(!decide(BUSY - 1, BUSY - 1, 1));
        assert!(decide(BUSY, BUSY, 8), "its own sessions work");
        assert!(decide(0, 2 * BUSY, 2), "others do, and leave no CPU");
        assert!(!decide(0, 2 * BUSY, 8));
        let mut pace = Pace::default();
        pace.decide(BUSY, BUSY, 1);
        let after: Vec<bool> = (0..LOOKS_TO_REST).map(|_| pace.decide(0, 0, 1)).collect();
        assert_eq!(after, [true, true, true, false]);
    }
}
