//! How far a server had come when it was asked, time after time. A bound costs the writer nothing by this: whatever was
//! acknowledged before the primary was asked lies behind the place that it told.

use std::sync::Arc;
use std::time::Instant;

use crate::base::Lsn;

/// More than these, and every second of the older half goes.
const MOST: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When the question was sent: the answer is of this moment or a later one.
    pub asked: Instant,
    pub lsn: Lsn,
}

/// Of one server while it is what it is, the oldest first. Never changed, only replaced.
#[derive(Debug, Clone, Default)]
pub struct Samples(Arc<[Sample]>);

impl Samples {
    #[must_use]
    pub(crate) fn with(&self, asked: Instant, lsn: Lsn) -> Self {
        let thin = self.0.len() >= MOST;
        let kept = self.0.iter().enumerate().filter(|(at, _)| !thin || *at >= MOST / 2 || at % 2 == 0);
        Self(kept.map(|(_, sample)| *sample).chain([Sample { asked, lsn }]).collect())
    }

    pub fn last(&self) -> Option<Lsn> {
        self.0.last().map(|sample| sample.lsn)
    }

    /// Where it was when it was asked first at this time or later: past everything that it had done until then.
    pub fn since(&self, then: Instant) -> Option<Lsn> {
        self.0.get(self.0.partition_point(|sample| sample.asked < then)).map(|sample| sample.lsn)
    }

    /// Everything that this server had done before this time is done by one that has come as far as `lsn`.
    pub fn covered(&self, lsn: Lsn) -> Option<Instant> {
        self.0.iter().rev().find(|sample| sample.lsn <= lsn).map(|sample| sample.asked)
    }

    /// When the first thing is known to have been there that one as far as `lsn` does not have. `None`: it has all.
    pub fn missing(&self, lsn: Lsn) -> Option<Instant> {
        self.0.get(self.0.partition_point(|sample| sample.lsn <= lsn)).map(|sample| sample.asked)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn samples(begin: Instant, lsns: &[u64]) -> Samples {
        let add = |samples: Samples, (at, lsn): (usize, &u64)| samples.with(begin + seconds(at), Lsn(*lsn));
        lsns.iter().enumerate().fold(Samples::default(), add)
    }

    fn seconds(seconds: usize) -> Duration {
        Duration::from_secs(seconds as u64)
    }

    #[test]
    fn only_a_question_asked_afterwards_bounds_what_was_done_before() {
        let begin = Instant::now();
        let samples = samples(begin, &[10, 20, 30]);
        assert_eq!(samples.since(begin), Some(Lsn(10)), "asked at that moment");
        assert_eq!(samples.since(begin + Duration::from_millis(1)), Some(Lsn(20)));
        assert_eq!(samples.since(begin + seconds(3)), None);
        assert_eq!(Samples::default().since(begin), None);
    }

    #[test]
    fn how_old_a_replicas_data_is_follows_from_how_far_it_has_come() {
        let begin = Instant::now();
        let samples = samples(begin, &[10, 20, 20, 30]);
        assert_eq!(samples.covered(Lsn(25)), Some(begin + seconds(2)));
        assert_eq!(samples.missing(Lsn(25)), Some(begin + seconds(3)));
        assert_eq!((samples.covered(Lsn(9)), samples.missing(Lsn(9))), (None, Some(begin)));
        assert_eq!((samples.covered(Lsn(30)), samples.missing(Lsn(30))), (Some(begin + seconds(3)), None));
    }

    #[test]
    fn few_are_kept_and_they_reach_far_back() {
        let begin = Instant::now();
        let lsns: Vec<u64> = (1..=10_000).collect();
        let samples = samples(begin, &lsns);
        assert!(samples.0.len() <= MOST + 1, "{}", samples.0.len());
        assert_eq!(samples.missing(Lsn(0)), Some(begin), "the first one");
        assert!(samples.0.is_sorted_by_key(|sample| (sample.asked, sample.lsn)));
        assert_eq!(samples.since(begin + seconds(9_990)), Some(Lsn(9_991)), "the last ones are all there");
    }
}
