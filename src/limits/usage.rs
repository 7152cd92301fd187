//! What each tenant, and each database without tenants, uses right now, shared by all cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;

use super::hold::Hold;

use crate::base::Party;

/// What one party uses. The counters outlive reloads of the catalogue.
#[derive(Debug)]
pub struct Usage {
    pub party: Party,
    /// Its number in this process, which queues go by.
    pub id: u64,
    clients: AtomicUsize,
    leases: AtomicUsize,
    pinned: AtomicUsize,
    pub hold: Hold,
    /// Microseconds of backend time, and the leases they were spent in.
    server_time: AtomicU64,
    transactions: AtomicU64,
}

/// All parties that were seen since the start.
#[derive(Debug, Default)]
pub struct Usages {
    all: DashMap<Party, Arc<Usage>>,
    next: AtomicU64,
}

impl Usages {
    pub fn of(&self, party: &Party) -> Arc<Usage> {
        if let Some(usage) = self.all.get(party) {
            return Arc::clone(&usage);
        }
        Arc::clone(&self.all.entry(party.clone()).or_insert_with(|| self.apart(party.clone())))
    }

    /// A use that is counted by itself and listed nowhere: pgward's own.
    pub fn apart(&self, party: Party) -> Arc<Usage> {
        Arc::new(Usage {
            party,
            id: self.next.fetch_add(1, Ordering::Relaxed),
            clients: AtomicUsize::new(0),
            leases: AtomicUsize::new(0),
            pinned: AtomicUsize::new(0),
            hold: Hold::default(),
            server_time: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
        })
    }

    /// Drops what was made for a login that came to nothing: a name that a client made up must not stay.
    pub fn forget(&self, party: &Party) {
        // One is the map's own. A login that comes in between makes it anew, and counts from there.
        self.all.remove_if(party, |_, usage| Arc::strong_count(usage) == 1);
    }

    pub fn all(&self) -> Vec<Arc<Usage>> {
        self.all.iter().map(|entry| Arc::clone(&entry)).collect()
    }
}

impl Usage {
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    pub fn leases(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    pub fn pinned(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }

    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    pub fn server_time(&self) -> Duration {
        Duration::from_micros(self.server_time.load(Ordering::Relaxed))
    }

    /// A lease of this party ended.
    pub fn served(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.server_time.fetch_add(micros, Ordering::Relaxed);
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    /// What one more lease will cost in microseconds of backend time, going by those before.
    pub fn expected_cost(&self) -> u64 {
        let transactions = self.transactions.load(Ordering::Relaxed).max(1);
        self.server_time.load(Ordering::Relaxed) / transactions
    }

    pub fn client(self: &Arc<Self>, limit: usize) -> Option<ClientSlot> {
        take(&self.clients, limit).then(|| ClientSlot(Arc::clone(self)))
    }

    pub fn lease(self: &Arc<Self>, limit: usize) -> Option<LeaseSlot> {
        (!self.hold.is_on() && take(&self.leases, limit)).then(|| LeaseSlot(Arc::clone(self)))
    }

    /// Whether it may have one more lease.
    pub fn may_lease(&self, limit: usize) -> bool {
        !self.hold.is_on() && self.leases() < limit
    }

    pub fn pin(self: &Arc<Self>, limit: usize) -> Option<PinSlot> {
        take(&self.pinned, limit).then(|| PinSlot(Arc::clone(self)))
    }
}

fn take(counter: &AtomicUsize, limit: usize) -> bool {
    // SeqCst: the pool's waiters look at the lease counter after they have queued, see pool::budget.
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| (used < limit).then_some(used + 1)).is_ok()
}

/// One session of a party; given back on drop.
#[derive(Debug)]
pub struct ClientSlot(Arc<Usage>);

impl Drop for ClientSlot {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One backend in use by a party; given back on drop.
#[derive(Debug)]
pub struct LeaseSlot(Arc<Usage>);

impl LeaseSlot {
    pub fn usage(&self) -> &Arc<Usage> {
        &self.0
    }
}

impl Drop for LeaseSlot {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One session of a tenant that keeps its backend for what it did; given back on drop.
#[derive(Debug)]
pub struct PinSlot(Arc<Usage>);

impl Drop for PinSlot {
    fn drop(&mut self) {
        self.0.pinned.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::TenantId;

    #[test]
    fn a_limit_holds_until_a_slot_is_dropped() {
        let usages = Usages::default();
        let party = Party::Tenant(TenantId::parse("acme").unwrap());
        let acme = usages.of(&party);
        let one = acme.client(1);
        assert!(one.is_some());
        assert!(acme.client(1).is_none());
        drop(one);
        assert!(acme.client(1).is_some());
        assert!(Arc::ptr_eq(&acme, &usages.of(&party)));
        usages.forget(&party);
        assert!(Arc::ptr_eq(&acme, &usages.of(&party)), "it is in use");
    }
}
