//! All tables of a cluster, database by database.

use std::time::{Duration, Instant};

use super::error::MaintenanceError;
use super::leave::{self, InForce};
use super::partman::Standing;
use super::plan::{self, Job, Table};
use super::table::Deeds;
use super::visit::Visit;
use crate::base::{ClusterName, PartitionsName, TenantId};
use crate::config::{Cluster, Login, Settings};

/// Which tables get their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Due,
    All,
    /// They are only looked at.
    None,
}

/// What came of a table's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// It was not its turn, or it was only to be looked at.
    Looked,
    /// Another node, or a command, works on this database.
    Elsewhere,
    /// The tenant has no such table.
    Absent,
    Failed {
        /// Without names and values.
        word: String,
        text: String,
    },
}

/// One table, after its turn.
#[derive(Debug, Clone)]
pub struct Turn {
    pub database: String,
    pub label: PartitionsName,
    /// With its schema.
    pub table: String,
    /// Whose it is, if it is one tenant's.
    pub tenant: Option<TenantId>,
    pub verdict: Verdict,
    pub deeds: Deeds,
    pub standing: Option<Standing>,
    /// When it went well last, in seconds since 1970.
    pub succeeded: Option<u64>,
    /// How long until its next turn. `None`: that is not known.
    pub next: Option<Duration>,
}

/// One cluster's tables, with the configuration of now.
pub struct Pass<'a> {
    pub(super) settings: &'a Settings,
    pub(super) cluster: &'a Cluster,
    pub(super) login: &'a Login,
    pub(super) in_force: Option<&'a dyn InForce>,
}

impl<'a> Pass<'a> {
    pub fn new(settings: &'a Settings, cluster: &ClusterName) -> Result<Self, MaintenanceError> {
        let cluster =
            settings.clusters.get(cluster).ok_or_else(|| MaintenanceError::UnknownCluster(cluster.clone()))?;
        let login = cluster.upkeep.login.as_ref();
        let login = login.ok_or_else(|| MaintenanceError::NoLogin(cluster.name.clone()))?;
        Ok(Self { settings, cluster, login, in_force: None })
    }

    /// Who knows what may go at any moment, and is told of what has gone. Without one nothing goes.
    pub fn disposing_by(self, in_force: &'a dyn InForce) -> Self {
        Self { in_force: Some(in_force), ..self }
    }

    /// Every table has its turn now.
    pub async fn run(&self) -> Vec<Turn> {
        self.all(Which::All).await
    }

    /// Those whose turn it is, each told of as soon as it has had it. Whether all had it: single tenants' tables, which their
    /// tenants may hold up, get an interval at most before those that tenants share come first again.
    pub async fn run_due(&self, each: impl FnMut(Turn) + Send) -> bool {
        self.go(Which::Due, each).await
    }

    pub async fn look(&self) -> Vec<Turn> {
        self.all(Which::None).await
    }

    /// A shared table's owner decides what runs when it is changed.
    pub(super) fn refuse_owner(&self, table: &Table, owner: &str, superuser: bool) -> Result<(), MaintenanceError> {
        let of_tenants = || self.settings.is_of_tenants(self.cluster, owner);
        let why = match &table.owner {
            Some(_) => return Ok(()),
            None if superuser => "a superuser",
            None if of_tenants() => "a login of tenants",
            None => return Ok(()),
        };
        Err(MaintenanceError::Owner { table: table.parent(), owner: owner.to_owned(), why })
    }

    async fn all(&self, which: Which) -> Vec<Turn> {
        let mut turns = Vec::new();
        self.go(which, |turn| turns.push(turn)).await;
        turns
    }

    async fn go(&self, which: Which, mut each: impl FnMut(Turn) + Send) -> bool {
        let interval = self.settings.maintenance.interval;
        let most = if which == Which::Due { interval } else { Duration::MAX };
        let mut share = Share { most, spent: Duration::ZERO, all: true };
        for job in self.jobs(which).await {
            if !job.tables.iter().any(|table| share.has_time_for(table)) {
                continue;
            }
            match Visit::begin(self, &job, which).await {
                Ok(mut visit) => {
                    for table in &job.tables {
                        if share.has_time_for(table) {
                            let begin = Instant::now();
                            each(visit.turn(table).await);
                            share.spend(table, begin.elapsed());
                        }
                    }
                    visit.end().await;
                }
                Err(error) => job.tables.iter().for_each(|table| {
                    let mut turn = Turn::new(&job.database, table);
                    turn.fail(&error);
                    each(turn);
                }),
            }
        }
        share.all
    }

    /// With nothing that may go, unless what may is known.
    async fn jobs(&self, which: Which) -> Vec<Job> {
        let mut jobs = plan::jobs(self.settings, self.cluster);
        if which == Which::Due {
            plan::begin_anywhere(&mut jobs);
        }
        let known = match self.in_force {
            Some(in_force) => which == Which::None || leave::ask(in_force).await.is_some(),
            None => false,
        };
        if !known {
            jobs.iter_mut().for_each(Job::keep_all);
            if which != Which::None {
                let cluster = &self.cluster.name;
                tracing::warn!(%cluster, "no rows go for their age: what tenants may lose is not known for certain now");
            }
        }
        jobs
    }
}

/// What single tenants' tables may take of a pass.
struct Share {
    most: Duration,
    spent: Duration,
    /// Whether every table could have its turn.
    all: bool,
}

impl Share {
    fn has_time_for(&mut self, table: &Table) -> bool {
        let has = table.owner.is_none() || self.spent <= self.most;
        self.all &= has;
        has
    }

    fn spend(&mut self, table: &Table, time: Duration) {
        if table.owner.is_some() {
            self.spent += time;
        }
    }
}

impl Turn {
    pub(super) fn new(database: &str, table: &Table) -> Self {
        Self {
            database: database.to_owned(),
            label: table.label.clone(),
            table: table.parent(),
            tenant: table.owner.as_ref().map(|(tenant, _)| tenant.clone()),
            verdict: Verdict::Looked,
            deeds: Deeds::default(),
            standing: None,
            succeeded: None,
            next: None,
        }
    }

    pub(super) fn fail(&mut self, error: &MaintenanceError) {
        self.verdict = Verdict::Failed { word: error.word(), text: error.to_string() };
    }
}
