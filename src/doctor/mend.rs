//! The one part that writes.

use tokio_postgres::{Client, Error};

use super::finding::Finding;
use super::report::statements;

/// As for the examination, so that what it printed means the same. A lock that somebody holds is not waited for
/// long: everybody else would wait behind it.
pub(super) const SETTINGS: &str = "set local search_path = pg_catalog, pg_temp;\nset local lock_timeout = '10s';";

#[derive(Debug, thiserror::Error)]
pub enum MendError {
    #[error("nothing was changed: PostgreSQL refused what mends {rule} at {object}")]
    Refused {
        rule: &'static str,
        object: String,
        #[source]
        source: Error,
    },
    #[error("nothing was changed: the transaction failed")]
    Transaction(#[source] Error),
}

/// Runs what findings have for SQL, in one transaction, and says how many it mended.
pub async fn mend<'a>(client: &Client, findings: impl Iterator<Item = &'a Finding>) -> Result<usize, MendError> {
    client.batch_execute(&format!("begin;\n{SETTINGS}")).await.map_err(MendError::Transaction)?;
    let mut mended = 0;
    for (finding, sql) in statements(findings) {
        if let Some(sql) = sql
            && let Err(source) = client.batch_execute(sql).await
        {
            // The error at hand is the one to tell; a failing rollback ends with the connection anyway.
            let _ = client.batch_execute("rollback").await;
            return Err(MendError::Refused { rule: finding.rule.id, object: finding.object.clone(), source });
        }
        mended += 1;
    }
    client.batch_execute("commit").await.map_err(MendError::Transaction)?;
    Ok(mended)
}
