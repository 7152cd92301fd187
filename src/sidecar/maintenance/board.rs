//! What is known of each table that a running pgward keeps, and how metrics show it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pass::{Turn, Verdict};
use super::plan::Job;
use crate::base::{ClusterName, PartitionsName, clock};
use crate::config::Maintenance;
use crate::telemetry::Sample;

const SUCCEEDED: (&str, &str) =
    ("pgward_maintenance_success_timestamp_seconds", "When the partitions of a table were kept last; 0 for never.");
const OVERDUE: (&str, &str) =
    ("pgward_maintenance_overdue", "1 while a table has gone without for maintenance.alert_after intervals.");
const FAILING: (&str, &str) = ("pgward_maintenance_failing", "Tables of that name whose last turn failed.");
const AHEAD: (&str, &str) = ("pgward_partitions_ahead", "Partitions that are there ahead of time.");
const DEFAULT_ROWS: (&str, &str) = ("pgward_partitions_default_rows", "Rows that fit into no partition.");

/// Of all clusters, each of which a task of its own writes.
#[derive(Default)]
pub(super) struct Board {
    known: Mutex<BTreeMap<Place, Known>>,
}

/// A table of a cluster, and the database.
type Place = (ClusterName, PartitionsName, String, String);

struct Known {
    /// When it was heard of first.
    since: u64,
    /// `None`: its turn is yet to come.
    last: Option<Turn>,
    succeeded: Option<u64>,
}

impl Board {
    /// These are the tables of a cluster, and there are no others.
    pub fn expect(&self, cluster: &ClusterName, jobs: &[Job]) {
        let tables = jobs.iter().flat_map(|job| job.tables.iter().map(|table| (&job.database, table)));
        let places: BTreeSet<Place> = tables
            .map(|(database, table)| (cluster.clone(), table.label.clone(), database.clone(), table.parent()))
            .collect();
        let mut known = self.lock();
        known.retain(|place, _| place.0 != *cluster || places.contains(place));
        let now = clock::unix_now();
        for place in places {
            known.entry(place).or_insert(Known { since: now, last: None, succeeded: None });
        }
    }

    /// Of clusters that are none of these nothing is known.
    pub fn retain(&self, clusters: &BTreeSet<ClusterName>) {
        self.lock().retain(|place, _| clusters.contains(&place.0));
    }

    pub fn note(&self, cluster: &ClusterName, turn: Turn) {
        let place = (cluster.clone(), turn.label.clone(), turn.database.clone(), turn.table.clone());
        if let Some(known) = self.lock().get_mut(&place) {
            // Where nobody can be asked, what was known holds.
            known.succeeded = turn.succeeded.or(known.succeeded);
            known.last = Some(turn);
        }
    }

    /// One line for each name of the configuration: the worst of the tables that it stands for. One whose turn does not end is
    /// overdue as any other.
    pub fn samples(&self, rules: &Maintenance) -> Vec<Sample> {
        let all = self.lock();
        let mut labels: BTreeMap<(&ClusterName, &PartitionsName), Vec<&Known>> = BTreeMap::new();
        for ((cluster, label, ..), known) in all.iter() {
            labels.entry((cluster, label)).or_default().push(known);
        }
        let patience = rules.patience().as_secs();
        let now = clock::unix_now();
        let mut samples = Vec::new();
        for ((cluster, label), all) in labels {
            let labels = vec![("cluster", cluster.to_string()), ("table", label.to_string())];
            let mut add = |family, value: f64| samples.push(Sample { family, labels: labels.clone(), value });
            let there = || all.iter().filter(|known| !known.is_absent());
            let overdue = there().any(|known| now.saturating_sub(known.succeeded.unwrap_or(known.since)) > patience);
            add(OVERDUE, f64::from(u8::from(overdue)));
            let turned = || there().filter(|known| known.last.is_some());
            if all.iter().any(|known| known.last.is_some()) {
                add(SUCCEEDED, turned().map(|known| known.succeeded.unwrap_or(0)).min().unwrap_or(0) as f64);
            }
            add(FAILING, all.iter().filter(|known| known.is_failing()).count() as f64);
            let standings = || all.iter().filter_map(|known| known.last.as_ref()?.standing.as_ref());
            add(AHEAD, standings().map(|standing| standing.ahead).min().map_or(f64::NAN, |ahead| ahead as f64));
            add(DEFAULT_ROWS, standings().map(|standing| standing.default_rows as f64).sum());
        }
        samples
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_absent(&self) -> bool {
        self.last.as_ref().is_some_and(|turn| turn.verdict == Verdict::Absent)
    }

    fn is_failing(&self) -> bool {
        self.last.as_ref().is_some_and(|turn| matches!(turn.verdict, Verdict::Failed { .. }))
    }
}
