//! For how long a backend is waited for.

use std::time::Duration;

use super::registry::Pool;
use super::shard::AcquireError;
use crate::limits::Usage;

/// How often somebody who is excused looks whether it still is.
pub(super) const LOOK: Duration = Duration::from_millis(100);

impl Pool {
    /// Whoever has waited as long as it may goes on waiting: it is no lack of backends.
    pub fn excuses(&self, usage: &Usage) -> bool {
        self.awaits_primary() || self.is_held(usage)
    }

    /// There is no server to take the writes, or one has just begun to, and others are before it in the queue.
    fn awaits_primary(&self) -> bool {
        let at = self.head().at();
        let limit = at.endpoint.as_ref().map_or(at.patience, |_| Some(self.rules().acquire_timeout));
        at.patience.is_some() && limit.is_some_and(|limit| at.since.elapsed() < limit)
    }

    /// Somebody at the console holds it back, or did a moment ago.
    fn is_held(&self, usage: &Usage) -> bool {
        let afterwards = self.rules().acquire_timeout;
        let most = self.head().at().patience.unwrap_or_default().max(afterwards);
        [&self.budget.hold, &usage.hold].into_iter().any(|hold| hold.excuses(most, afterwards))
    }

    /// What who is not excused is told.
    pub fn waited_too_long(&self) -> AcquireError {
        let at = self.head().at();
        match at.patience.filter(|_| at.endpoint.is_none()) {
            Some(patience) => AcquireError::NoPrimary(patience),
            None => AcquireError::Timeout(self.rules().acquire_timeout),
        }
    }
}
