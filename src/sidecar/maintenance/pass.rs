//! All tables of a cluster, database by database. One node does it at a time: it holds a lock that no tenant can take, on
//! a table that is nobody else's.

use std::time::Duration;

use super::error::MaintenanceError;
use super::partman::Standing;
use super::plan::{self, Table};
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
}

impl<'a> Pass<'a> {
    pub fn new(settings: &'a Settings, cluster: &ClusterName) -> Result<Self, MaintenanceError> {
        let cluster =
            settings.clusters.get(cluster).ok_or_else(|| MaintenanceError::UnknownCluster(cluster.clone()))?;
        let login = cluster.upkeep.login.as_ref();
        let login = login.ok_or_else(|| MaintenanceError::NoLogin(cluster.name.clone()))?;
        Ok(Self { settings, cluster, login })
    }

    /// Every table has its turn now.
    pub async fn run(&self) -> Vec<Turn> {
        self.go(Which::All).await
    }

    /// Those whose turn it is.
    pub async fn run_due(&self) -> Vec<Turn> {
        self.go(Which::Due).await
    }

    pub async fn look(&self) -> Vec<Turn> {
        self.go(Which::None).await
    }

    async fn go(&self, which: Which) -> Vec<Turn> {
        let mut turns = Vec::new();
        for job in plan::jobs(self.settings, self.cluster) {
            match Visit::begin(self, &job, which).await {
                Ok(mut visit) => {
                    for table in &job.tables {
                        turns.push(visit.turn(table).await);
                    }
                    visit.end().await;
                }
                Err(error) => turns.extend(job.tables.iter().map(|table| {
                    let mut turn = Turn::new(&job.database, table);
                    turn.fail(&error);
                    turn
                })),
            }
        }
        turns
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
