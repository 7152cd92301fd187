//! Whether something may still go, asked right before it does: a tenant may have been put on hold since its turn was
//! planned. And who is told once it is gone.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::error::MaintenanceError;
use super::pass::Pass;
use super::plan::{self, Expiry, Table};
use crate::base::{ClusterName, PartitionsName, TenantId};
use crate::config::Settings;

/// Clients may wait behind what is asked about.
const ANSWER: Duration = Duration::from_secs(3);

/// `None`: that is not known for certain, and so nothing may go.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Option<Arc<Settings>>> + Send + 'a>>;

/// What a transaction has taken out of a table.
#[derive(Debug, Clone, Copy)]
pub struct Gone<'a> {
    pub cluster: &'a ClusterName,
    pub database: &'a str,
    pub label: &'a PartitionsName,
    /// With its schema.
    pub table: &'a str,
    /// Whose it is, if it is one tenant's.
    pub tenant: Option<&'a TenantId>,
    pub partitions: u64,
    pub rows: u64,
}

/// Knows the configuration that is in force, with the tenants of now.
pub trait InForce: Send + Sync {
    fn now(&self) -> Answer<'_>;

    /// Told right after each commit, so that what is gone is recorded even if the turn never ends.
    fn gone(&self, _gone: &Gone<'_>) {}
}

/// What is in force, if that is known for certain within a moment.
pub(super) async fn ask(in_force: &dyn InForce) -> Option<Arc<Settings>> {
    tokio::time::timeout(ANSWER, in_force.now()).await.ok().flatten()
}

/// For one table.
pub(super) struct Leave<'a> {
    pub pass: &'a Pass<'a>,
    pub database: &'a str,
    pub table: &'a Table,
}

impl Leave<'_> {
    /// What may go of the table at this moment.
    pub async fn now(&self) -> Result<Cow<'_, Expiry>, MaintenanceError> {
        let Some(in_force) = self.pass.in_force else { return Ok(Cow::Owned(Expiry::default())) };
        let settings = ask(in_force).await.ok_or_else(|| MaintenanceError::InDoubt(self.table.parent()))?;
        if std::ptr::eq(settings.as_ref(), self.pass.settings) {
            return Ok(Cow::Borrowed(&self.table.expiry));
        }
        Ok(Cow::Owned(plan::expiry(&settings, &self.pass.cluster.name, self.database, self.table)))
    }

    /// These are gone, and that is committed.
    pub fn gone(&self, partitions: u64, rows: u64) {
        let Some(in_force) = self.pass.in_force.filter(|_| partitions + rows > 0) else { return };
        in_force.gone(&Gone {
            cluster: &self.pass.cluster.name,
            database: self.database,
            label: &self.table.label,
            table: &self.table.parent(),
            tenant: self.table.owner.as_ref().map(|(tenant, _)| tenant),
            partitions,
            rows,
        });
    }
}
