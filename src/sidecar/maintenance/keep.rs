//! Keeps the partitions of all clusters, again and again, and shows in metrics how they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::pass::{Pass, Turn, Verdict};
use super::plan::{self, Job};
use crate::audit::{Event, Text};
use crate::base::{ClusterName, PartitionsName, clock};
use crate::config::{Maintenance, Settings};
use crate::session::{Shared, World};
use crate::telemetry::Sample;

/// How often it is looked whether the configuration is another one.
const LOOK: Duration = Duration::from_secs(1);

/// Nothing is asked more often, whatever fails.
const LEAST: Duration = Duration::from_millis(500);

/// The longest time until another node's work is looked at, or a server that could not be reached.
const MOST: Duration = Duration::from_secs(60);

const SUCCEEDED: (&str, &str) =
    ("pgward_maintenance_success_timestamp_seconds", "When the partitions of a table were kept last; 0 for never.");
const OVERDUE: (&str, &str) =
    ("pgward_maintenance_overdue", "1 while a table has gone without for maintenance.alert_after intervals.");
const FAILING: (&str, &str) = ("pgward_maintenance_failing", "Tables of that name whose last turn failed.");
const AHEAD: (&str, &str) = ("pgward_partitions_ahead", "Partitions that are there ahead of time.");
const DEFAULT_ROWS: (&str, &str) = ("pgward_partitions_default_rows", "Rows that fit into no partition.");

/// The work of one pgward.
pub struct Keeper {
    shared: Arc<Shared>,
    /// When each table was seen first, or went well last.
    known: BTreeMap<Place, Known>,
}

/// A table of a cluster, and the database.
type Place = (ClusterName, PartitionsName, String, String);

struct Known {
    since: u64,
    last: Option<Turn>,
    succeeded: Option<u64>,
}

impl Keeper {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, known: BTreeMap::new() }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&mut self) {
        loop {
            let world = self.shared.world.load_full();
            let (seen, plan) = (Arc::downgrade(&world), plan(&world.settings));
            let wait = self.pass(&world.settings).await;
            drop(world);
            self.rest(seen, &plan, wait).await;
        }
    }

    /// Until the next turn, or until other tables are to be kept, or for another time.
    async fn rest(&self, mut seen: Weak<World>, plan: &Plan, wait: Duration) {
        let begin = Instant::now();
        loop {
            let left = wait.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
            let world = self.shared.world.load_full();
            let now = Arc::downgrade(&world);
            if !Weak::ptr_eq(&seen, &now) && self::plan(&world.settings) != *plan {
                return;
            }
            seen = now;
        }
    }

    /// How long until the next.
    async fn pass(&mut self, settings: &Settings) -> Duration {
        let interval = settings.maintenance.interval;
        let mut wait = interval;
        let mut seen = Vec::new();
        for cluster in settings.clusters.values().filter(|cluster| !cluster.upkeep.partitions.is_empty()) {
            let turns = match Pass::new(settings, &cluster.name) {
                Ok(pass) => pass.run_due().await,
                Err(error) => {
                    tracing::warn!(cluster = %cluster.name, %error, "partitions cannot be kept");
                    continue;
                }
            };
            for turn in turns {
                let next = match (&turn.verdict, turn.next) {
                    (Verdict::Elsewhere, _) | (_, None) => interval.min(MOST),
                    (_, Some(next)) => next,
                };
                wait = wait.min(next);
                self.tell(&cluster.name, &turn);
                seen.push(self.remember(&cluster.name, turn));
            }
        }
        self.known.retain(|place, _| seen.contains(place));
        self.shared.telemetry.publish("maintenance", self.samples(settings));
        wait.max(LEAST)
    }

    fn tell(&self, cluster: &ClusterName, turn: &Turn) {
        let (telemetry, table) = (&self.shared.telemetry, turn.label.as_str());
        let labels = [("cluster", cluster.as_str()), ("table", table)];
        let deeds = &turn.deeds;
        telemetry.count("pgward_partitions_made_total", &labels, deeds.made);
        telemetry.count("pgward_partitions_dropped_total", &labels, deeds.dropped);
        telemetry.count("pgward_rows_expired_total", &labels, deeds.rows);
        let (database, table) = (&turn.database, &turn.table);
        if let Verdict::Failed { text, .. } = &turn.verdict {
            telemetry.count("pgward_maintenance_failures_total", &labels, 1);
            tracing::warn!(%cluster, database, table, error = text, "the partitions of a table could not be kept");
        }
        if deeds.dropped + deeds.rows > 0 {
            let (partitions, rows) = (deeds.dropped, deeds.rows);
            tracing::info!(%cluster, database, table, partitions, rows, "rows whose time was up are gone");
            self.shared.audit.record(|| Event::Expired {
                tenant: turn.tenant.clone(),
                place: Text::new(&format!("{database}@{cluster}")),
                table: Text::new(table),
                partitions,
                rows,
            });
        }
    }

    fn remember(&mut self, cluster: &ClusterName, turn: Turn) -> Place {
        let place = (cluster.clone(), turn.label.clone(), turn.database.clone(), turn.table.clone());
        let new = || Known { since: clock::unix_now(), last: None, succeeded: None };
        let known = self.known.entry(place.clone()).or_insert_with(new);
        // Where nobody can be asked, what was known holds.
        known.succeeded = turn.succeeded.or(known.succeeded);
        known.last = Some(turn);
        place
    }

    /// One line for each name of the configuration: the worst of the tables that it stands for.
    fn samples(&self, settings: &Settings) -> Vec<Sample> {
        let mut labels: BTreeMap<(&ClusterName, &PartitionsName), Vec<&Known>> = BTreeMap::new();
        for ((cluster, label, ..), known) in &self.known {
            labels.entry((cluster, label)).or_default().push(known);
        }
        let patience = settings.maintenance.patience().as_secs();
        let now = clock::unix_now();
        let mut samples = Vec::new();
        for ((cluster, label), all) in labels {
            let labels = vec![("cluster", cluster.to_string()), ("table", label.to_string())];
            let mut add = |family, value: f64| samples.push(Sample { family, labels: labels.clone(), value });
            let there = || all.iter().filter(|known| !known.is_absent());
            let overdue = there().any(|known| now.saturating_sub(known.succeeded.unwrap_or(known.since)) > patience);
            add(OVERDUE, f64::from(u8::from(overdue)));
            add(SUCCEEDED, there().map(|known| known.succeeded.unwrap_or(0)).min().unwrap_or(0) as f64);
            add(FAILING, all.iter().filter(|known| known.is_failing()).count() as f64);
            let standings = || all.iter().filter_map(|known| known.last.as_ref()?.standing.as_ref());
            add(AHEAD, standings().map(|standing| standing.ahead).min().map_or(f64::NAN, |ahead| ahead as f64));
            add(DEFAULT_ROWS, standings().map(|standing| standing.default_rows as f64).sum());
        }
        samples
    }
}

/// What there is to keep, and how.
type Plan = (Maintenance, Vec<Vec<Job>>);

fn plan(settings: &Settings) -> Plan {
    let kept = settings.clusters.values().filter(|cluster| !cluster.upkeep.partitions.is_empty());
    (settings.maintenance.clone(), kept.map(|cluster| plan::jobs(settings, cluster)).collect())
}

impl Known {
    fn is_absent(&self) -> bool {
        self.last.as_ref().is_some_and(|turn| turn.verdict == Verdict::Absent)
    }

    fn is_failing(&self) -> bool {
        self.last.as_ref().is_some_and(|turn| matches!(turn.verdict, Verdict::Failed { .. }))
    }
}
