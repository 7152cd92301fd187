//! Requests that are held back because somebody at the console says so.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    No,
    /// Requests wait.
    Paused,
    /// Sessions are ended, and nobody is let in.
    Drained,
}

impl Held {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Paused => "paused",
            Self::Drained => "drained",
        }
    }
}

#[derive(Debug)]
pub struct Hold {
    /// Read for each lease.
    state: AtomicU8,
    changed: Mutex<Instant>,
}

impl Default for Hold {
    fn default() -> Self {
        Self { state: AtomicU8::new(0), changed: Mutex::new(Instant::now()) }
    }
}

impl Hold {
    pub fn set(&self, held: Held) {
        // Whoever looks at the time because of the state finds the new one.
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.state.store(held as u8, Ordering::SeqCst);
    }

    pub fn state(&self) -> Held {
        match self.state.load(Ordering::SeqCst) {
            0 => Held::No,
            1 => Held::Paused,
            _ => Held::Drained,
        }
    }

    /// Nobody is to be served.
    pub fn is_on(&self) -> bool {
        self.state.load(Ordering::SeqCst) != 0
    }

    /// Whoever waits may have to because of it: it is on, for no longer than `most`, or was until a moment ago.
    pub fn excuses(&self, most: Duration, afterwards: Duration) -> bool {
        let since = self.changed.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        since < if self.is_on() { most } else { afterwards }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_excused_while_it_is_on_and_for_a_moment_afterwards() {
        let hold = Hold::default();
        let (long, none) = (Duration::from_secs(60), Duration::ZERO);
        assert!(!hold.is_on() && !hold.excuses(long, none));
        hold.set(Held::Paused);
        assert!(hold.is_on() && hold.excuses(long, none) && !hold.excuses(none, long));
        hold.set(Held::No);
        assert!(!hold.is_on() && hold.excuses(none, long) && !hold.excuses(long, none));
    }
}
