//! The shared metrics, rendered as Prometheus text. Names and labels are documented in docs/metrics.md.

use std::cell::Cell;

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::histogram::Histogram;
use super::samples::{Sample, Samples};
use super::stats::CoreStats;

/// A recorder of this proxy's own: nothing is registered process-wide.
pub struct Telemetry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    transactions: Histogram,
    waits: Histogram,
    logins: Histogram,
    samples: Samples,
}

const METADATA: Metadata<'static> = Metadata::new("pgward", Level::INFO, None);

/// Every metric, its kind and what it says.
const COUNTERS: [(&str, &str); 23] = [
    ("pgward_transactions_total", "Leases of a backend that ended, which is one per transaction."),
    ("pgward_replica_transactions_total", "Those of them that a replica served."),
    ("pgward_replica_retries_total", "Reads that a replica could not do, which were asked for elsewhere."),
    ("pgward_replica_waits_total", "Reads that waited for a replica to come far enough."),
    ("pgward_bytes_total", "Bytes relayed, by direction."),
    ("pgward_contexts_total", "Backends that were told whose session they serve."),
    ("pgward_tenant_switches_total", "Contexts given to a backend that had served another tenant."),
    ("pgward_handovers_failed_total", "Backends closed because a hand-over was not answered as expected."),
    ("pgward_waits_total", "Leases that had to wait for a backend."),
    ("pgward_backends_recovered_total", "Backends brought back to rest after their client had left."),
    ("pgward_logins_paced_total", "Logins that were made to wait, since sessions had much to do."),
    ("pgward_sessions_moved_total", "Sessions that went on at another of pgward's threads."),
    ("pgward_cancels_total", "Cancel requests forwarded to a server."),
    ("pgward_pins_total", "Sessions that had to keep their backend, by reason."),
    ("pgward_logins_total", "Logins, by outcome."),
    ("pgward_audit_events_total", "Lines of the audit log, by event."),
    ("pgward_audit_lost_total", "Events that could not be written to the audit log."),
    ("pgward_backup_failures_total", "Backups that could not be made, by cluster."),
    ("pgward_partitions_made_total", "Partitions made ahead of time."),
    ("pgward_partitions_dropped_total", "Partitions dropped since all rows in them were older than they are kept."),
    ("pgward_rows_expired_total", "Rows deleted for their age out of partitions that stay."),
    ("pgward_maintenance_failures_total", "Turns of partitioned tables that failed."),
    ("pgward_errors_total", "Errors sent to clients, by SQLSTATE class."),
];
/// Those of servers and tenants, which come and go, are not among them.
const GAUGES: [(&str, &str); 3] = [
    ("pgward_clients", "Connected clients."),
    ("pgward_audit_failing", "1 while the audit log cannot be written."),
    ("pgward_audit_lines", "The number of the audit log's last line."),
];

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        for (name, help) in COUNTERS {
            recorder.describe_counter(name.into(), None, help.into());
        }
        for (name, help) in GAUGES {
            recorder.describe_gauge(name.into(), None, help.into());
        }
        let (transactions, waits, logins, samples) = Default::default();
        Self { recorder, handle, transactions, waits, logins, samples }
    }

    pub fn count(&self, name: &'static str, labels: &[(&'static str, &str)], amount: u64) {
        if amount > 0 {
            self.recorder.register_counter(&key(name, labels), &METADATA).increment(amount);
        }
    }

    /// Shows a counter before there is anything to count, so that an alert can be made of it.
    pub fn begin(&self, name: &'static str) {
        self.recorder.register_counter(&key(name, &[]), &METADATA).increment(0);
    }

    pub fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        self.recorder.register_gauge(&key(name, labels), &METADATA).set(value);
    }

    /// Gauges that are shown until the same measurer gives others.
    pub fn publish(&self, of: &'static str, samples: Vec<Sample>) {
        self.samples.set(of, samples);
    }

    /// Those that were published, for whoever renders gauges.
    pub fn published(&self) -> Vec<Sample> {
        self.samples.all()
    }

    /// Takes over what a core counted since the last time.
    pub fn flush(&self, stats: &CoreStats) {
        let cell = |name, labels: &[(&'static str, &str)], cell: &Cell<u64>| self.count(name, labels, cell.take());
        cell("pgward_transactions_total", &[], &stats.transactions);
        cell("pgward_replica_transactions_total", &[], &stats.replica_transactions);
        cell("pgward_replica_retries_total", &[], &stats.replica_retries);
        cell("pgward_replica_waits_total", &[], &stats.replica_waits);
        cell("pgward_bytes_total", &[("direction", "from_clients")], &stats.bytes_from_clients);
        cell("pgward_bytes_total", &[("direction", "to_clients")], &stats.bytes_to_clients);
        cell("pgward_contexts_total", &[], &stats.contexts);
        cell("pgward_tenant_switches_total", &[], &stats.tenant_switches);
        cell("pgward_handovers_failed_total", &[], &stats.handovers_failed);
        cell("pgward_waits_total", &[], &stats.waits);
        cell("pgward_backends_recovered_total", &[], &stats.recovered);
        cell("pgward_logins_paced_total", &[], &stats.paced);
        cell("pgward_sessions_moved_total", &[], &stats.moved);
        cell("pgward_cancels_total", &[], &stats.cancels);
        let families = [
            ("pgward_pins_total", "reason", &stats.pins),
            ("pgward_logins_total", "outcome", &stats.logins),
            ("pgward_errors_total", "class", &stats.errors),
        ];
        for (name, label, counts) in families {
            for (value, count) in std::mem::take(&mut *counts.borrow_mut()) {
                self.count(name, &[(label, value)], count);
            }
        }
        self.transactions.take_over(&stats.transaction_time);
        self.waits.take_over(&stats.wait_time);
        self.logins.take_over(&stats.login_time);
    }

    /// The metrics as Prometheus text.
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        let histograms = [
            ("pgward_transaction_seconds", "From lease to release of a backend.", &self.transactions),
            ("pgward_wait_seconds", "From asking for a backend to having one, where it took a wait.", &self.waits),
            ("pgward_login_seconds", "From accept to ReadyForQuery.", &self.logins),
        ];
        for (name, help, histogram) in histograms {
            histogram.render(name, help, &mut text);
        }
        text
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::add;
    use std::time::Duration;

    #[test]
    fn what_a_core_counted_shows_in_the_text() {
        let telemetry = Telemetry::new();
        let stats = CoreStats::default();
        add(&stats.transactions, 3);
        stats.login("ok");
        stats.transaction_time.record(Duration::from_micros(80));
        telemetry.flush(&stats);
        add(&stats.transactions, 1);
        telemetry.flush(&stats);
        let text = telemetry.render();
        assert!(text.contains("pgward_transactions_total 4"), "{text}");
        assert!(text.contains("pgward_logins_total{outcome=\"ok\"} 1"), "{text}");
        assert!(text.contains("pgward_transaction_seconds_bucket{le=\"0.0001\"} 1"), "{text}");
        assert!(text.contains("pgward_transaction_seconds_bucket{le=\"0.00005\"} 0"), "{text}");
    }
}
