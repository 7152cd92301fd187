//! One table's turn.

use std::time::Duration;

use tokio_postgres::Client;

use super::error::MaintenanceError;
use super::partman::{Partman, Standing};
use super::plan::Table;
use crate::config::{Cluster, Maintenance};

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
    pub table: &'a Table,
    pub cluster: &'a Cluster,
    pub rules: &'a Maintenance,
}

impl Task<'_> {
    fn partman(&self) -> Partman<'_> {
        Partman { client: self.client, table: self.table }
    }

    /// How it is off. `None`: a tenant does not have such a table.
    pub async fn look(&self) -> Result<Option<Standing>, MaintenanceError> {
        match self.partman().find().await? {
            Some(_) => Ok(Some(self.partman().standing().await?)),
            None => self.absent().map(|()| None),
        }
    }

    /// Partitions ahead first: without them rows go where nobody looks for them.
    pub async fn run(&self, deeds: &mut Deeds) -> Result<(), MaintenanceError> {
        let partman = self.partman();
        let Some(found) = partman.find().await? else { return self.absent() };
        self.refuse_owner(&found.owner, found.superuser)?;
        let before = partman.standing().await?.partitions;
        self.tried(Step::Make).await?;
        deeds.made = u64::try_from(partman.standing().await?.partitions - before).unwrap_or(0);
        deeds.dropped = self.tried(Step::Drop).await?;
        deeds.rows = self.tried(Step::Expire).await?;
        Ok(())
    }

    /// How much was done.
    async fn step(&self, step: Step) -> Result<u64, MaintenanceError> {
        let (partman, expiry) = (self.partman(), &self.table.expiry);
        match step {
            Step::Make => {
                let known = partman.find().await?.is_some_and(|found| found.known);
                partman.make(known, self.rules.max_rows).await?;
                self.enough().await.map(|()| 0)
            }
            Step::Drop => match expiry.drop_after {
                Some(age) => partman.drop_older(age.as_secs()).await,
                None => Ok(0),
            },
            Step::Expire => partman.expire(&expiry.rows, self.rules).await,
        }
    }

    /// pg_partman does nothing, and says so by a notice alone, while somebody holds its lock.
    async fn enough(&self) -> Result<(), MaintenanceError> {
        let (ahead, premake) = (self.partman().standing().await?.ahead, self.table.rules.premake);
        match usize::try_from(ahead).is_ok_and(|ahead| ahead >= premake) {
            true => Ok(()),
            false => Err(MaintenanceError::Behind { table: self.table.parent(), ahead, premake }),
        }
    }

    /// What tenants share has to be there.
    fn absent(&self) -> Result<(), MaintenanceError> {
        match self.table.owner {
            Some(_) => Ok(()),
            None => Err(MaintenanceError::NoTable(self.table.parent())),
        }
    }

    /// A shared table's owner decides what runs when it is changed.
    fn refuse_owner(&self, owner: &str, superuser: bool) -> Result<(), MaintenanceError> {
        let of_tenants = || self.cluster.logins.values().any(|login| login.role == owner);
        let why = match &self.table.owner {
            Some(_) => return Ok(()),
            None if superuser => "a superuser",
            None if of_tenants() => "a login of tenants",
            None => return Ok(()),
        };
        Err(MaintenanceError::Owner { table: self.table.parent(), owner: owner.to_owned(), why })
    }

    /// Tried again after what may pass.
    async fn tried(&self, step: Step) -> Result<u64, MaintenanceError> {
        let mut wait = BACKOFF;
        for _ in 1..TRIES {
            match self.step(step).await {
                Err(error) if error.may_pass() => {
                    let (table, error) = (self.table.parent(), error.word());
                    tracing::info!(table, error, ?wait, "work on partitions is tried again");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                done => return done,
            }
        }
        self.step(step).await
    }
}
