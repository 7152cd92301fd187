//! How far a server had come when it was asked, time after time. A bound costs the writer nothing by this: whatever was
//! acknowledged before the primary was asked lies behind the place that it told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::Lsn;

/// They lie no closer together than this part of their age.
const CLOSENESS: u32 = 8;

/// Nobody asks for what is older.
const OLDEST: Duration = Duration::from_secs(25 * 3600);

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
        let mut kept: Vec<Sample> = Vec::with_capacity(self.0.len() + 1);
        let behind = self.0.iter().skip(1).map(|next| next.asked).chain([asked]);
        for (sample, next) in self.0.iter().zip(behind) {
            let age = asked.duration_since(next);
            let close = kept.last().is_some_and(|last| next.duration_since(last.asked) < age / CLOSENESS);
            if !close && asked.duration_since(sample.asked) < OLDEST {
                kept.push(*sample);
            }
        }
        kept.push(Sample { asked, lsn });
        Self(kept.into())
    }

    pub fn last(&self) -> Option<Sample> {
        self.0.last().copied()
    }

    /// Where it was when it was asked first at this time or later: past everything that it had done until then.
    pub fn since(&self, then: Instant) -> Option<Lsn> {
        self.0.get(self.0.partition_point(|sample| sample.asked < then)).map(|sample| sample.lsn)
    }

    /// Everything that this server had done before this time is done by one that has come as far as `lsn`.
    pub fn covered(&self, lsn: Lsn) -> Option<Instant> {
        self.0.iter().rev().find(|sample| sample.lsn <= lsn).map(|sample| sample.asked)
    }

    /// When the first thing is known to have been there that one as far as `lsn` does not have, give or take an eighth of the
    /// time since. `None`: it has all.
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
    fn few_are_kept_and_how_old_something_is_stays_known() {
        let begin = Instant::now();
        let (mut samples, mut now) = (Samples::default(), begin);
        // Asked in a hurry, and then at ease for a day.
        let steps = std::iter::repeat_n(10, 60_000).chain(std::iter::repeat_n(500, 172_800));
        for (lsn, ms) in steps.enumerate() {
            now += Duration::from_millis(ms);
            samples = samples.with(now, Lsn(lsn as u64 + 1));
            if lsn % 10_007 == 0 {
                assert!(samples.0.is_sorted_by_key(|sample| (sample.asked, sample.lsn)));
                assert!(samples.0.len() < 200, "{}", samples.0.len());
            }
        }
        // Since the first one, and since the last hour and minute began.
        for (lsn, since) in [(0, now - begin), (60_000 + 165_600, seconds(3_600)), (60_000 + 172_680, seconds(60))] {
            let found = now - samples.missing(Lsn(lsn)).unwrap();
            let off = found.abs_diff(since);
            assert!(off <= since / 7, "{found:?} instead of {since:?}");
        }
        assert_eq!(samples.since(now - seconds(2)), Some(Lsn(60_000 + 172_796)), "the last ones are all there");
    }
}
