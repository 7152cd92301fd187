//! One core's counters: plain cells, since only that core touches them. [`super::Telemetry::flush`]
//! carries them over to the shared metrics once in a while.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

/// Upper bounds of the latency buckets, in microseconds.
pub const BOUNDS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    10_000_000,
];

/// Durations by bucket, each with its sum, so that means stay exact.
#[derive(Debug, Default)]
pub struct Timings([Cell<(u64, u64)>; BOUNDS.len() + 1]);

impl Timings {
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        if let Some(cell) = self.0.get(bucket) {
            let (count, sum) = cell.get();
            cell.set((count + 1, sum.saturating_add(micros)));
        }
    }

    /// Takes what was recorded: per bucket its mean in seconds and how many.
    pub fn drain(&self) -> impl Iterator<Item = (f64, usize)> {
        self.0.iter().filter_map(|cell| {
            let (count, sum) = cell.take();
            let mean = sum as f64 / count as f64 / 1e6;
            (count > 0).then(|| (mean, usize::try_from(count).unwrap_or(usize::MAX)))
        })
    }
}

#[derive(Debug, Default)]
pub struct CoreStats {
    pub transactions: Cell<u64>,
    pub bytes_from_clients: Cell<u64>,
    pub bytes_to_clients: Cell<u64>,
    /// Backends told whose session they serve.
    pub contexts: Cell<u64>,
    /// Those of them that had served another tenant before.
    pub tenant_switches: Cell<u64>,
    pub handovers_failed: Cell<u64>,
    /// Leases that had to wait.
    pub waits: Cell<u64>,
    pub recovered: Cell<u64>,
    pub cancels: Cell<u64>,
    pub pins: RefCell<BTreeMap<&'static str, u64>>,
    pub logins: RefCell<BTreeMap<&'static str, u64>>,
    /// Errors by the class of their SQLSTATE, from servers and from pgward itself.
    pub errors: RefCell<BTreeMap<&'static str, u64>>,
    pub transaction_time: Timings,
    pub wait_time: Timings,
    pub login_time: Timings,
}

/// Classes of PostgreSQL's appendix A. A statement can raise any SQLSTATE, so others share one label.
const CLASSES: [&str; 43] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "25", "26",
    "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57", "58",
    "72", "F0", "HV", "P0", "XX",
];

impl CoreStats {
    pub fn error(&self, sqlstate: &[u8]) {
        let class = CLASSES.iter().find(|class| sqlstate.starts_with(class.as_bytes())).copied().unwrap_or("other");
        *self.errors.borrow_mut().entry(class).or_default() += 1;
    }

    pub fn login(&self, outcome: &'static str) {
        *self.logins.borrow_mut().entry(outcome).or_default() += 1;
    }

    pub fn pin(&self, reason: &'static str) {
        *self.pins.borrow_mut().entry(reason).or_default() += 1;
    }
}

/// Adds to a cell.
pub fn add(cell: &Cell<u64>, amount: u64) {
    cell.set(cell.get().wrapping_add(amount));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_sqlstates_share_one_label() {
        let stats = CoreStats::default();
        for code in [&b"28000"[..], b"ZZ123", b"QQ999", b""] {
            stats.error(code);
        }
        let errors = stats.errors.borrow();
        assert_eq!(errors.get("28"), Some(&1));
        assert_eq!(errors.get("other"), Some(&3));
    }

    #[test]
    fn timings_keep_their_mean() {
        let timings = Timings::default();
        timings.record(Duration::from_micros(60));
        timings.record(Duration::from_micros(80));
        timings.record(Duration::from_secs(60));
        let drained: Vec<_> = timings.drain().collect();
        assert_eq!(drained, [(0.000_07, 2), (60.0, 1)]);
        assert_eq!(timings.drain().count(), 0);
    }
}
