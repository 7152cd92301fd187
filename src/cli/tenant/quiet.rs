//! Waiting until a tenant does nothing any more, so that what it has can be taken away or exchanged.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::Failure;
use crate::cli::output::say;
use crate::config::{Isolation, Settings, Tenant};
use crate::tenant::Removal;

/// By then a running pgward has noticed in the tenants file that the tenant is suspended, and has ended its sessions.
const NOTICED: Duration = Duration::from_secs(2);

/// By then one has read the catalogue that it began to read, has judged it, and has ended the sessions.
const TAKEN_UP: Duration = Duration::from_secs(10);

/// For each of all tenants, which it judges anew: twice what an unoptimised build was measured to take.
const JUDGED: Duration = Duration::from_micros(100);

/// How long a tenant's own backends may take to come to rest before they are ended.
const REST: Duration = Duration::from_secs(5);

/// A tenant that has just been suspended.
pub(super) struct Quiet<'a> {
    pub settings: &'a Settings,
    pub tenant: &'a Tenant,
    pub seat: &'a Client,
    pub removal: &'a Removal<'a>,
    /// At level `rows`: how long transactions of the shared logins that began before may take to end.
    pub wait: Duration,
    /// What is told of the tenant where others do not let it come.
    pub otherwise: &'a str,
}

impl Quiet<'_> {
    /// Waits until the tenant does nothing any more, and sees to it that it cannot.
    pub async fn come(&self) -> Result<(), Failure> {
        let rows = self.tenant.isolation == Isolation::Rows;
        if rows {
            noticed(self.settings).await;
        }
        let since = Removal::now(self.seat).await?;
        let limit = if rows { self.wait } else { REST };
        let begin = Instant::now();
        loop {
            let busy = self.removal.busy(self.seat, &since).await?;
            if busy == 0 {
                break;
            }
            if begin.elapsed() >= limit {
                if !rows {
                    break;
                }
                return Err(Failure::said(format!(
                    "{busy} transactions of the shared logins are open since before tenant {0} was suspended, and one \
                     could be its last; end them, or wait longer with --wait. {1}",
                    self.tenant.id, self.otherwise
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if rows {
            return Ok(());
        }
        let begin = Instant::now();
        while self.removal.close(self.seat).await? > 0 {
            if begin.elapsed() >= REST {
                return Err(Failure::said(format!(
                    "sessions of the tenant's roles do not end; see pg_stat_activity. {}",
                    self.otherwise
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// Waits until the pgwards that run have taken up that the tenant is suspended. Whether they have, none of them tells.
async fn noticed(settings: &Settings) {
    let judged = JUDGED.saturating_mul(u32::try_from(settings.tenants.len()).unwrap_or(u32::MAX));
    let Some(catalogue) = &settings.catalogue else { return tokio::time::sleep(NOTICED + judged).await };
    // Whoever is not told of the change finds it by looking.
    let wait = catalogue.poll + TAKEN_UP + judged;
    say(format_args!(
        "waiting {} s, by when every node that can read the catalogue has looked (catalogue.poll) and ended the \
         tenant's sessions",
        wait.as_secs()
    ));
    tokio::time::sleep(wait).await;
}
