//! What is shown of backups, until it changes or its cluster or repository is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::{ClusterName, RepositoryName};
use crate::telemetry::{Sample, Telemetry};

/// A gauge's name, and what it says.
pub(super) type Family = (&'static str, &'static str);

pub(super) const OF_REPOSITORY: [Family; 4] = [BACKUPS, LAST, OVERDUE, STORED];
pub(super) const BACKUPS: Family = ("pgward_backups", "Backups in a repository.");
pub(super) const LAST: Family =
    ("pgward_backup_last_seconds", "When the newest backup of a repository ended, in Unix time; 0: there is none.");
pub(super) const OVERDUE: Family =
    ("pgward_backup_overdue", "1 while a repository has not got the backup that has been due for an hour.");
pub(super) const STORED: Family = ("pgward_backup_stored_bytes", "What the backups of a repository take there.");

pub(super) const OF_MAKING: [Family; 7] = [RUNNING, FAILING, DURATION, VERIFIED, UNSOUND, RTO, RPO];
pub(super) const RUNNING: Family =
    ("pgward_backup_running", "1 while a backup of the cluster is made by the schedule.");
pub(super) const FAILING: Family = ("pgward_backup_failing", "1 while what is due fails.");
pub(super) const DURATION: Family = ("pgward_backup_duration_seconds", "How long the cluster's last backup took.");
pub(super) const VERIFIED: Family = (
    "pgward_backup_verified_seconds",
    "When a backup of the cluster was last restored and tried, in Unix time; 0: none was.",
);
pub(super) const UNSOUND: Family = ("pgward_backup_unsound", "1 while the last one that was tried was not sound.");
pub(super) const RTO: Family = ("pgward_backup_rto_seconds", "How long it took then to be back.");
pub(super) const RPO: Family = ("pgward_backup_rpo_seconds", "How old the end of the archive was then.");

pub(super) const OF_WATCHING: [Family; 4] = [ALERT, LAG, WAITING, ARCHIVE_FAILING];
pub(super) const ALERT: Family =
    ("pgward_archive_alert", "1 while the cluster's log is archived too slowly, or how it is archived is not known.");
pub(super) const LAG: Family =
    ("pgward_archive_lag_seconds", "How long the oldest part of the log has waited to be archived.");
pub(super) const WAITING: Family = ("pgward_archive_waiting_bytes", "How much of the log waits to be archived.");
pub(super) const ARCHIVE_FAILING: Family =
    ("pgward_archive_failing", "1 while the last attempt to archive a part of the log has failed.");

pub(super) const OF_RECEIVING: [Family; 3] = [RECEIVING, BEHIND, RECEIVED];
pub(super) const RECEIVING: Family =
    ("pgward_wal_receiving", "1 while the cluster's log is received here as it is written (receive_wal).");
pub(super) const BEHIND: Family =
    ("pgward_wal_receive_lag_bytes", "How much of the log is written there and not on the disk here.");
pub(super) const RECEIVED: Family = ("pgward_wal_received_bytes", "How much of the log is kept there.");

/// The cluster, the repository if it is of one, and the gauge.
type Key = (ClusterName, Option<RepositoryName>, Family);

/// Those of all clusters.
pub(super) struct Gauges {
    telemetry: Arc<Telemetry>,
    values: Mutex<BTreeMap<Key, f64>>,
}

impl Gauges {
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { telemetry, values: Mutex::default() }
    }

    /// Shows a cluster's before anything is known, so that alerts can be made of them.
    pub fn begin(&self, cluster: &ClusterName, repository: Option<&RepositoryName>, families: &[Family]) {
        families.iter().for_each(|family| self.set(cluster, repository, *family, 0.0));
    }

    pub fn set(&self, cluster: &ClusterName, repository: Option<&RepositoryName>, family: Family, value: f64) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.insert((cluster.clone(), repository.cloned(), family), value);
        self.telemetry.publish("backup", values.iter().map(|(key, value)| sample(key, *value)).collect());
    }

    pub fn end(&self, gone: &ClusterName, families: &[Family]) {
        self.retain(|(cluster, _, family)| cluster != gone || !families.contains(family));
    }

    /// Takes away those of repositories that the cluster does not have any more.
    pub fn keep_repositories(&self, of: &ClusterName, kept: &[&RepositoryName]) {
        let kept = |name: &Option<RepositoryName>| name.as_ref().is_none_or(|name| kept.contains(&name));
        self.retain(|(cluster, repository, _)| cluster != of || kept(repository));
    }

    fn retain(&self, stays: impl Fn(&Key) -> bool) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.retain(|key, _| stays(key));
        self.telemetry.publish("backup", values.iter().map(|(key, value)| sample(key, *value)).collect());
    }

    pub fn failed(&self, cluster: &ClusterName) {
        self.telemetry.count("pgward_backup_failures_total", &[("cluster", cluster.as_str())], 1);
    }
}

fn sample((cluster, repository, family): &Key, value: f64) -> Sample {
    let of = repository.iter().map(|name| ("repository", name.to_string()));
    Sample { family: *family, labels: std::iter::once(("cluster", cluster.to_string())).chain(of).collect(), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_that_is_taken_out_of_the_configuration_is_not_overdue_for_ever() {
        let telemetry = Arc::new(Telemetry::new());
        let gauges = Gauges::new(Arc::clone(&telemetry));
        let [main, other] = ["main", "other"].map(|name| ClusterName::parse(name).unwrap());
        let [near, far] = ["near", "far"].map(|name| RepositoryName::parse(name).unwrap());
        for (cluster, repository) in [(&main, Some(&near)), (&main, Some(&far)), (&main, None), (&other, Some(&far))] {
            gauges.set(cluster, repository, OVERDUE, 1.0);
        }
        gauges.keep_repositories(&main, &[&near]);
        let shown: Vec<String> = telemetry.published().iter().map(|sample| format!("{:?}", sample.labels)).collect();
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(!shown.iter().any(|labels| labels.contains("main") && labels.contains("far")), "{shown:?}");
    }
}
