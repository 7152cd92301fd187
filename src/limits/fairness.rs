//! Whose turn it is: a queue that serves the tenant that has used the least server time.
//!
//! Start-time fair queueing over tenants. Each lane (a tenant's waiters, first come first served) carries
//! the server time its tenant had used when the lane was last looked at. A tenant that was away does not
//! save up: its clock is set forward to the queue's when it comes back.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

use foldhash::fast::RandomState;

/// How many of a lane's waiters are asked whether they can be served.
const HEAD: usize = 32;

#[derive(Debug)]
struct Lane<T> {
    clock: u64,
    waiting: VecDeque<T>,
}

#[derive(Debug)]
pub struct FairQueue<K, T> {
    /// By numbers of pgward's own, so the hash need not withstand anybody.
    lanes: HashMap<K, Lane<T>, RandomState>,
    /// Lanes that have waiters, by clock. Never holds an empty lane.
    order: BTreeSet<(u64, K)>,
    now: u64,
    length: usize,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self { lanes: HashMap::default(), order: BTreeSet::new(), now: 0, length: 0 }
    }
}

impl<K: Clone + Eq + Hash + Ord, T> FairQueue<K, T> {
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn push(&mut self, tenant: &K, waiter: T) {
        let now = self.now;
        let lane = self.lanes.entry(tenant.clone()).or_insert_with(|| Lane { clock: now, waiting: VecDeque::new() });
        if lane.waiting.is_empty() {
            lane.clock = lane.clock.max(now);
            self.order.insert((lane.clock, tenant.clone()));
        }
        lane.waiting.push_back(waiter);
        self.length += 1;
    }

    /// The first waiter, by turn, that `wanted` takes; of a lane, those at its head are asked. `cost` is
    /// what its tenant's clock advances by.
    pub fn pop(&mut self, cost: impl Fn(&K) -> u64, mut wanted: impl FnMut(&K, &T) -> bool) -> Option<T> {
        let ((clock, tenant), at) = self.order.iter().find_map(|entry| {
            let lane = self.lanes.get(&entry.1)?;
            let at = lane.waiting.iter().take(HEAD).position(|waiter| wanted(&entry.1, waiter))?;
            Some((entry.clone(), at))
        })?;
        self.order.remove(&(clock, tenant.clone()));
        self.now = self.now.max(clock);
        let lane = self.lanes.get_mut(&tenant)?;
        let waiter = lane.waiting.remove(at);
        lane.clock = clock.saturating_add(cost(&tenant).max(1));
        if lane.waiting.is_empty() {
            // A lane that is as far as the queue's own clock carries no debt worth remembering.
            if lane.clock <= self.now {
                self.lanes.remove(&tenant);
            }
        } else {
            self.order.insert((lane.clock, tenant));
        }
        self.length -= usize::from(waiter.is_some());
        if self.length == 0 {
            self.lanes.clear();
            self.now = 0;
        }
        waiter
    }

    /// Removes waiters that `gone` names, wherever they stand.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for (tenant, lane) in &mut self.lanes {
            let before = lane.waiting.len();
            lane.waiting.retain(&mut keep);
            self.length -= before - lane.waiting.len();
            if before > 0 && lane.waiting.is_empty() {
                self.order.remove(&(lane.clock, tenant.clone()));
            }
        }
        if self.length == 0 {
            self.lanes.clear();
            self.now = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut FairQueue<&'static str, u32>, cost: impl Fn(&&'static str) -> u64) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(&cost, |_, _| true)).collect()
    }

    #[test]
    fn a_noisy_tenant_does_not_hold_up_a_quiet_one() {
        let mut queue = FairQueue::default();
        (0..100).for_each(|i| queue.push(&"noisy", i));
        queue.push(&"quiet", 1000);
        let order = drain(&mut queue, |_| 10);
        assert!(order.iter().position(|waiter| *waiter == 1000).unwrap() <= 1);
        assert_eq!(order.len(), 101);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_tenant_whose_statements_cost_more_comes_less_often() {
        let mut queue = FairQueue::default();
        (0..50).for_each(|i| queue.push(&"slow", i));
        (100..150).for_each(|i| queue.push(&"swift", i));
        let order = drain(&mut queue, |tenant| if *tenant == "slow" { 10 } else { 1 });
        let slow_in_first_half = order[..50].iter().filter(|waiter| **waiter < 100).count();
        assert!(slow_in_first_half <= 6, "{slow_in_first_half}");
    }

    #[test]
    fn one_that_cannot_be_served_does_not_block_the_rest() {
        let mut queue = FairQueue::default();
        queue.push(&"full", 1);
        queue.push(&"free", 2);
        assert_eq!(queue.pop(|_| 1, |tenant, _| *tenant != "full"), Some(2));
        queue.retain(|waiter| *waiter != 1);
        assert_eq!(queue.pop(|_| 1, |_, _| true), None);
        assert_eq!(queue.len(), 0);
    }
}
