//! The table itself: read as a whole, changed row by row.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use futures_util::TryStreamExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls};

use crate::base::{TenantId, clock};
use crate::config::Snapshot;
use crate::topology::Way;

/// More are not read: somebody has filled the table with something else.
pub const MOST_TENANTS: usize = 500_000;

/// Of all names and definitions.
pub const MOST_BYTES: usize = 256 * 1024 * 1024;

/// All of a connection, or of a reading.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is longer is cut, and refused for it: a name by its rules, a definition here.
const TENANTS: &str = "select pg_catalog.left(name, 129), \
    case when pg_catalog.octet_length(definition) <= 65536 then definition end from pgward_catalogue.tenants";

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("no connection to the server that takes writes could be had")]
    Connect(#[source] Error),
    #[error("no connection to the server that takes writes could be had")]
    Wait(#[source] PoolError),
    #[error("the pool of connections cannot be set up")]
    Pool(#[source] deadpool_postgres::BuildError),
    #[error("there is no table pgward_catalogue.tenants there; run pgward catalogue install")]
    NotInstalled,
    #[error("the login may not read pgward_catalogue.tenants; run pgward catalogue install")]
    Denied,
    #[error("the table could not be read")]
    Sql(#[source] Error),
    #[error("it was not read within {} s", DEADLINE.as_secs())]
    Timeout,
    #[error("it has more than {MOST_TENANTS} rows, or more than {} MiB", MOST_BYTES / 1024 / 1024)]
    TooLarge,
    #[error("the definition of tenant {0:?} has more than 65536 bytes")]
    LongDefinition(String),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        match error.code() {
            Some(&(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME | SqlState::UNDEFINED_COLUMN)) => {
                Self::NotInstalled
            }
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Self::Denied,
            _ => Self::Sql(error),
        }
    }
}

/// Reads the table by a connection that is kept.
pub struct Reader(Pool);

impl Reader {
    pub fn new(way: &Way) -> Result<Self, ReadError> {
        let rules = ManagerConfig { recycling_method: RecyclingMethod::Verified };
        let config = way.config.clone();
        let manager = match &way.tls {
            Some(tls) => Manager::from_config(config, tls.clone(), rules),
            None => Manager::from_config(config, NoTls, rules),
        };
        let limits = Timeouts { wait: Some(DEADLINE), create: Some(DEADLINE), recycle: Some(Duration::from_secs(5)) };
        let pool = Pool::builder(manager).max_size(1).timeouts(limits).runtime(Runtime::Tokio1).build();
        Ok(Self(pool.map_err(ReadError::Pool)?))
    }

    pub async fn read(&self) -> Result<Snapshot, ReadError> {
        let client = self.0.get().await.map_err(|error| match error {
            PoolError::Backend(error) => ReadError::Connect(error),
            other => ReadError::Wait(other),
        })?;
        read(&client).await
    }
}

/// All of one moment.
pub async fn read(client: &Client) -> Result<Snapshot, ReadError> {
    let reading = async {
        let at = clock::unix_now();
        let none: [&str; 0] = [];
        let mut rows = pin!(client.query_raw(TENANTS, none).await?);
        let (mut entries, mut bytes) = (BTreeMap::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let name: String = row.try_get(0)?;
            let Some(definition) = row.try_get::<_, Option<String>>(1)? else {
                return Err(ReadError::LongDefinition(name));
            };
            bytes += name.len() + definition.len();
            if entries.len() == MOST_TENANTS || bytes > MOST_BYTES {
                return Err(ReadError::TooLarge);
            }
            entries.insert(name, definition);
        }
        Ok(Snapshot { entries, at, cached: false })
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap_or(Err(ReadError::Timeout))
}

/// Why a row was not changed.
pub enum WriteError<E> {
    /// A row is not the one that was read before.
    Changed(TenantId),
    /// By whoever judges what the table would have.
    Refused(E),
    Failed(ChangeError),
}

#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "only the owner of pgward_catalogue.tenants may change it; connect as the role that installed it, by \
         --catalogue-url or PGUSER"
    )]
    Denied,
    #[error("the catalogue could not be changed")]
    Sql(#[source] Error),
}

impl<E> From<ReadError> for WriteError<E> {
    fn from(error: ReadError) -> Self {
        Self::Failed(error.into())
    }
}

impl<E> From<Error> for WriteError<E> {
    fn from(error: Error) -> Self {
        Self::Failed(match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => ChangeError::Denied,
            Some(&(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME)) => ReadError::NotInstalled.into(),
            _ => ChangeError::Sql(error),
        })
    }
}

/// Readers are not held up.
const LOCK: &str = "set local lock_timeout = '30s'; lock table pgward_catalogue.tenants in share row exclusive mode";

/// A row as it was read and as it is to be. `None` is no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub id: TenantId,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// Changes rows, all of them or none. One writes at a time, so that what is judged, which is all of the table, is what
/// will stand there. Says what came of it, or nothing if nothing was to do.
pub async fn change<T, E>(
    client: &mut Client,
    changes: &[Change],
    judge: impl FnOnce(Snapshot) -> Result<T, E>,
) -> Result<Option<T>, WriteError<E>> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(LOCK).await?;
    let mut snapshot = read(transaction.client()).await?;
    let (mut gone, mut names, mut definitions) = (Vec::new(), Vec::new(), Vec::new());
    for Change { id, before, after } in changes {
        if snapshot.entries.get(id.as_str()) != before.as_ref() {
            return Err(WriteError::Changed(id.clone()));
        }
        match after {
            _ if before == after => {}
            Some(definition) => {
                snapshot.entries.insert(id.to_string(), definition.clone());
                names.push(id.as_str());
                definitions.push(definition.as_str());
            }
            None => {
                snapshot.entries.remove(id.as_str());
                gone.push(id.as_str());
            }
        }
    }
    if names.is_empty() && gone.is_empty() {
        return Ok(None);
    }
    let judged = judge(snapshot).map_err(WriteError::Refused)?;
    let put = "insert into pgward_catalogue.tenants (name, definition) \
        select * from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) \
        on conflict (name) do update set definition = excluded.definition";
    transaction.execute(put, &[&names, &definitions]).await?;
    transaction.execute("delete from pgward_catalogue.tenants where name = any ($1)", &[&gone]).await?;
    transaction.commit().await?;
    Ok(Some(judged))
}
