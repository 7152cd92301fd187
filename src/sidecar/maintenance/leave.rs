//! Whether something may still go, asked right before it does: a tenant may have been put on hold since its turn was
//! planned.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::error::MaintenanceError;
use super::pass::Pass;
use super::plan::{self, Expiry, Table};
use crate::config::Settings;

/// Clients may wait behind what is asked about.
const ANSWER: Duration = Duration::from_secs(3);

/// `None`: that is not known for certain, and so nothing may go.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Option<Arc<Settings>>> + Send + 'a>>;

/// Knows the configuration that is in force, with the tenants of now.
pub trait InForce: Send + Sync {
    fn now(&self) -> Answer<'_>;
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
}
