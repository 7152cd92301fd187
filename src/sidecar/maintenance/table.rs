//! One table's turn.

use std::time::Duration;

use tokio_postgres::Client;

use super::error::MaintenanceError;
use super::leave::Leave;
use super::partman::{Partman, Standing};

/// How often a step is tried that met a lock, and how long it waits then, twice as long each time.
const TRIES: u32 = 4;
const BACKOFF: Duration = Duration::from_millis(200);

/// What a turn did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Partitions.
    pub made: u64,
    pub dropped: u64,
    /// Rows whose time was up while their partition stays.
    pub rows: u64,
}

/// Each in a transaction of its own, or several.
#[derive(Debug, Clone, Copy)]
enum Step {
    Make,
    Drop,
    Expire,
}

/// A table, and the connection that it is worked on by.
pub(super) struct Task<'a> {
    pub client: &'a Client,
    pub leave: Leave<'a>,
}

impl Task<'_> {
    fn partman(&self) -> Partman<'_> {
        Partman { client: self.client, table: self.leave.table }
    }

    /// How it is off. `None`: a tenant does not have such a table.
    pub async fn look(&self) -> Result<Option<Standing>, MaintenanceError> {
        match self.partman().find().await? {
            Some(_) => Ok(Some(self.partman().standing().await?)),
            None => self.absent().map(|()| None),
        }
    }

    /// Partitions ahead first: without them rows go where nobody looks for them. What keeps one step from being done is no
    /// reason to leave the others. What was done is known whatever comes of the rest.
    pub async fn run(&self, deeds: &mut Deeds) -> Result<(), MaintenanceError> {
        let partman = self.partman();
        let Some(found) = partman.find().await? else { return self.absent() };
        self.leave.pass.refuse_owner(self.leave.table, &found.owner, found.superuser)?;
        let mut all = Ok(());
        for step in [Step::Make, Step::Drop, Step::Expire] {
            let done = self.tried(step, deeds).await;
            all = all.and(done);
        }
        all
    }

    async fn step(&self, step: Step, deeds: &mut Deeds) -> Result<(), MaintenanceError> {
        let (partman, rules) = (self.partman(), &self.leave.pass.settings.maintenance);
        match step {
            Step::Make => partman.make(rules.max_rows, deeds).await,
            Step::Drop => partman.drop_old(&self.leave, deeds).await,
            Step::Expire => partman.expire(&self.leave, rules, deeds).await,
        }
    }

    /// What tenants share has to be there.
    fn absent(&self) -> Result<(), MaintenanceError> {
        match self.leave.table.owner {
            Some(_) => Ok(()),
            None => Err(MaintenanceError::NoTable(self.leave.table.parent())),
        }
    }

    /// Tried again after what may pass.
    async fn tried(&self, step: Step, deeds: &mut Deeds) -> Result<(), MaintenanceError> {
        let mut wait = BACKOFF;
        for _ in 1..TRIES {
            match self.step(step, deeds).await {
                Err(error) if error.may_pass() => {
                    let (table, error) = (self.leave.table.parent(), error.word());
                    tracing::info!(table, error, ?wait, "work on partitions is tried again");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                done => return done,
            }
        }
        self.step(step, deeds).await
    }
}
