//! Histograms of durations. A library's keep each value until somebody asks for the metrics, which costs the hot path
//! time and, where nobody asks, ever more memory; these count by bucket from the beginning.

use std::cell::Cell;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds. Behind them is one for all that took longer.
const BOUNDS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    10_000_000,
];
const BUCKETS: usize = BOUNDS.len() + 1;

/// One core's durations since they were last taken over.
#[derive(Debug, Default)]
pub struct Timings {
    counts: [Cell<u64>; BUCKETS],
    micros: Cell<u64>,
}

impl Timings {
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.counts.get(bucket) {
            count.set(count.get() + 1);
        }
        self.micros.set(self.micros.get().saturating_add(micros));
    }
}

/// All cores' together.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Histogram {
    /// Takes over what a core recorded since the last time.
    pub fn take_over(&self, timings: &Timings) {
        for (all, one) in self.counts.iter().zip(&timings.counts) {
            all.fetch_add(one.take(), Ordering::Relaxed);
        }
        self.micros.fetch_add(timings.micros.take(), Ordering::Relaxed);
    }

    /// Appends it in Prometheus' text format.
    pub fn render(&self, name: &str, help: &str, out: &mut String) {
        let mut count = 0;
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (bucket, bound) in self.counts.iter().zip(BOUNDS) {
            count += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {count}", seconds(bound));
        }
        count += self.counts.last().map_or(0, |bucket| bucket.load(Ordering::Relaxed));
        let sum = seconds(self.micros.load(Ordering::Relaxed));
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n");
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_within_their_bounds_and_below() {
        let (timings, histogram) = (Timings::default(), Histogram::default());
        for micros in [50, 51, 80, 60_000_000] {
            timings.record(Duration::from_micros(micros));
        }
        histogram.take_over(&timings);
        // What was taken over is not taken over again.
        histogram.take_over(&timings);
        let mut text = String::new();
        histogram.render("took_seconds", "How long.", &mut text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["# HELP took_seconds How long.", "# TYPE took_seconds histogram"]);
        assert_eq!(lines[2..4], ["took_seconds_bucket{le=\"0.00005\"} 1", "took_seconds_bucket{le=\"0.0001\"} 3"]);
        let last = ["took_seconds_bucket{le=\"+Inf\"} 4", "took_seconds_sum 60.000181", "took_seconds_count 4", ""];
        assert_eq!(lines[18..], last);
    }
}
