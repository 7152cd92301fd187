//! Keeps the partitions of all clusters, again and again. Each cluster has a task of its own, so that one that is slow or
//! gone keeps no other waiting, and what is known of all is shown meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::board::Board;
use super::leave::{Answer, Gone, InForce};
use super::pass::{Pass, Turn, Verdict};
use super::plan::{self, Job};
use crate::audit::{Event, Text};
use crate::base::ClusterName;
use crate::catalogue::Standing;
use crate::config::{Cluster, Maintenance, Settings};
use crate::session::{Shared, World};

/// How often metrics are renewed, and it is looked whether the configuration is another one.
const LOOK: Duration = Duration::from_secs(1);

/// Nothing is asked more often, whatever fails.
const LEAST: Duration = Duration::from_millis(500);

/// The longest time until another node's work is looked at, or a server that could not be reached.
const MOST: Duration = Duration::from_secs(60);

/// Readings of the catalogue that may be missed before what it says is in doubt.
const MISSED: u32 = 3;

/// The work of one pgward.
pub struct Keeper {
    shared: Arc<Shared>,
    catalogue: Option<Arc<Standing>>,
    board: Board,
}

impl Keeper {
    pub fn new(shared: Arc<Shared>, catalogue: Option<Arc<Standing>>) -> Self {
        Self { shared, catalogue, board: Board::default() }
    }

    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(Arc::new(self).keep()).await;
    }

    async fn keep(self: Arc<Self>) {
        let mut tasks: BTreeMap<ClusterName, AbortOnDropHandle<()>> = BTreeMap::new();
        loop {
            let settings = Arc::clone(&self.shared.world.load().settings);
            let clusters: BTreeSet<ClusterName> = kept(&settings).map(|cluster| cluster.name.clone()).collect();
            tasks.retain(|cluster, task| clusters.contains(cluster) && !task.is_finished());
            self.board.retain(&clusters);
            for cluster in clusters {
                let begin = || AbortOnDropHandle::new(tokio::spawn(Arc::clone(&self).keep_one(cluster.clone())));
                tasks.entry(cluster.clone()).or_insert_with(begin);
            }
            self.shared.telemetry.publish("maintenance", self.board.samples(&settings.maintenance));
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Until it has no partitions any more.
    async fn keep_one(self: Arc<Self>, name: ClusterName) {
        loop {
            let world = self.shared.world.load_full();
            let Some(plan) = plan(&world.settings, &name) else { return };
            self.board.expect(&name, &plan.1);
            let seen = Arc::downgrade(&world);
            let wait = self.pass(&world.settings, &name).await;
            drop(world);
            self.rest(&name, seen, &plan, wait).await;
        }
    }

    /// Until the next turn, or until other tables are to be kept, or for another time.
    async fn rest(&self, name: &ClusterName, mut seen: Weak<World>, plan: &Plan, wait: Duration) {
        let begin = Instant::now();
        loop {
            let left = wait.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
            let world = self.shared.world.load_full();
            let now = Arc::downgrade(&world);
            if !Weak::ptr_eq(&seen, &now) && self::plan(&world.settings, name).as_ref() != Some(plan) {
                return;
            }
            seen = now;
        }
    }

    /// How long until the next.
    async fn pass(&self, settings: &Settings, cluster: &ClusterName) -> Duration {
        let interval = settings.maintenance.interval;
        let pass = match Pass::new(settings, cluster) {
            Ok(pass) => pass.disposing_by(self),
            Err(error) => {
                tracing::warn!(%cluster, %error, "partitions cannot be kept");
                return interval.clamp(LEAST, MOST);
            }
        };
        let mut wait = interval;
        let each = |turn: Turn| {
            let next = match (&turn.verdict, turn.next) {
                (Verdict::Elsewhere, _) | (_, None) => interval.min(MOST),
                (_, Some(next)) => next,
            };
            wait = wait.min(next);
            self.tell(cluster, &turn);
            self.board.note(cluster, turn);
        };
        let all = pass.run_due(each).await;
        if all { wait.max(LEAST) } else { LEAST }
    }

    fn tell(&self, cluster: &ClusterName, turn: &Turn) {
        let (telemetry, table) = (&self.shared.telemetry, turn.label.as_str());
        let labels = [("cluster", cluster.as_str()), ("table", table)];
        let deeds = &turn.deeds;
        telemetry.count("pgward_partitions_made_total", &labels, deeds.made);
        let (database, table) = (&turn.database, &turn.table);
        if let Verdict::Failed { text, .. } = &turn.verdict {
            telemetry.count("pgward_maintenance_failures_total", &labels, 1);
            tracing::warn!(%cluster, database, table, error = text, "the partitions of a table could not be kept");
        }
        if deeds.dropped + deeds.rows > 0 {
            let (partitions, rows) = (deeds.dropped, deeds.rows);
            tracing::info!(%cluster, database, table, partitions, rows, "rows whose time was up are gone");
        }
    }
}

impl InForce for Keeper {
    fn now(&self) -> Answer<'_> {
        Box::pin(async {
            loop {
                let settings = Arc::clone(&self.shared.world.load().settings);
                if self.is_certain(&settings) {
                    return Some(settings);
                }
                // What was read a moment ago may be about to be taken up.
                tokio::time::sleep(LEAST / 10).await;
            }
        })
    }

    fn gone(&self, gone: &Gone<'_>) {
        let labels = [("cluster", gone.cluster.as_str()), ("table", gone.label.as_str())];
        self.shared.telemetry.count("pgward_partitions_dropped_total", &labels, gone.partitions);
        self.shared.telemetry.count("pgward_rows_expired_total", &labels, gone.rows);
        self.shared.audit.record(|| Event::Expired {
            tenant: gone.tenant.cloned(),
            place: Text::new(&format!("{}@{}", gone.database, gone.cluster)),
            table: Text::new(gone.table),
            partitions: gone.partitions,
            rows: gone.rows,
        });
    }
}

impl Keeper {
    /// Whether a change of the catalogue would be known by now, and in force. One that is known from its cache alone may not
    /// know of a hold yet.
    fn is_certain(&self, settings: &Settings) -> bool {
        let Some(in_force) = &settings.catalogue else { return true };
        self.catalogue.as_ref().is_some_and(|standing| {
            standing.is_told() && standing.age() <= in_force.poll * MISSED && !standing.is_refused(in_force)
        })
    }
}

fn kept(settings: &Settings) -> impl Iterator<Item = &Cluster> {
    settings.clusters.values().map(AsRef::as_ref).filter(|cluster| !cluster.upkeep.partitions.is_empty())
}

/// What there is to keep, and how.
type Plan = (Maintenance, Vec<Job>);

/// `None`: nothing.
fn plan(settings: &Settings, name: &ClusterName) -> Option<Plan> {
    let cluster = kept(settings).find(|cluster| cluster.name == *name)?;
    Some((settings.maintenance.clone(), plan::jobs(settings, cluster)))
}
