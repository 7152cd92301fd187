//! One core's counters: plain cells, since only that core touches them. [`super::Telemetry::flush`]
//! carries them over to the shared metrics once in a while.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::histogram::Timings;

#[derive(Debug, Default)]
pub struct CoreStats {
    pub transactions: Cell<u64>,
    /// Those of them that a replica served.
    pub replica_transactions: Cell<u64>,
    /// Reads that a replica could not do, which were asked for elsewhere.
    pub replica_retries: Cell<u64>,
    /// Reads that waited for a replica to come far enough.
    pub replica_waits: Cell<u64>,
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
    /// Logins that were paced.
    pub paced: Cell<u64>,
    /// Sessions that went on at another core.
    pub moved: Cell<u64>,
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
}
