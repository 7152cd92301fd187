//! What databases say of their functions: which may be called where nothing can be written.
//!
//! Judged by name alone, since the text of a call does not tell which of several functions of that name is meant: none of
//! them may be volatile. What is not known is not called on a replica; and what is wrong here costs a detour, since a
//! replica refuses to write.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::Notify;

use crate::backend::{self, BackendError, Credentials, Endpoint};
use crate::base::ClusterName;

/// Of those that PostgreSQL has itself, some are volatile only since they give something else each time.
const QUESTION: &str = "
    select proname::text from pg_catalog.pg_proc group by proname
    having not bool_or(provolatile = 'v' and (pronamespace <> 'pg_catalog'::pg_catalog.regnamespace or proname not in (
        'clock_timestamp', 'gen_random_uuid', 'pg_sleep', 'pg_sleep_for', 'pg_sleep_until', 'random', 'timeofday')))";

/// How old what is known may become while somebody asks for it.
const FRESH: Duration = Duration::from_secs(60);

/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);

type Names = HashSet<Box<str>, RandomState>;

/// Of all databases that somebody reads in.
#[derive(Debug, Default)]
pub struct Functions {
    known: DashMap<(ClusterName, String), Arc<DatabaseFunctions>>,
    wanted: Notify,
}

/// Of one database.
#[derive(Debug)]
pub struct DatabaseFunctions {
    pub cluster: ClusterName,
    pub database: String,
    calm: ArcSwapOption<Names>,
    asked: std::sync::Mutex<Option<Instant>>,
}

impl Functions {
    /// What is known of a database, from now on.
    pub fn of(&self, cluster: &ClusterName, database: &str) -> Arc<DatabaseFunctions> {
        let key = (cluster.clone(), database.to_owned());
        if let Some(known) = self.known.get(&key) {
            return Arc::clone(&known);
        }
        let fresh = || {
            let (cluster, database) = key.clone();
            Arc::new(DatabaseFunctions {
                cluster,
                database,
                calm: ArcSwapOption::empty(),
                asked: std::sync::Mutex::new(None),
            })
        };
        let functions = Arc::clone(&self.known.entry(key.clone()).or_insert_with(fresh));
        self.wanted.notify_one();
        functions
    }

    /// Those that are to be asked for now. Waits until there may be some; forgets those that nobody has any more.
    pub async fn due(&self) -> Vec<Arc<DatabaseFunctions>> {
        let _ = tokio::time::timeout(AGAIN, self.wanted.notified()).await;
        // One is the map's own.
        self.known.retain(|_, functions| Arc::strong_count(functions) > 1);
        self.known.iter().filter(|functions| functions.is_due()).map(|functions| Arc::clone(&functions)).collect()
    }

    /// Takes note of what a database said. Databases that are alike share it.
    fn note(&self, functions: &DatabaseFunctions, names: Names) {
        let alike = self.known.iter().find_map(|other| other.calm.load_full().filter(|known| **known == names));
        functions.calm.store(Some(alike.unwrap_or_else(|| Arc::new(names))));
    }

    /// Asks one database for its functions.
    pub async fn ask(
        &self,
        functions: &DatabaseFunctions,
        endpoint: &Endpoint,
        credentials: &Credentials,
    ) -> Result<(), BackendError> {
        functions.begin();
        let asked = async {
            let (mut backend, _) = backend::open(endpoint, credentials).await?;
            let rows = backend::ask(&mut backend, QUESTION, &[]).await;
            rows.map_err(|source| BackendError::Ask { server: endpoint.name(), source })
        };
        let late = |_| BackendError::Timeout { server: endpoint.name(), seconds: endpoint.timeout.as_secs() };
        let rows = tokio::time::timeout(endpoint.timeout, asked).await.map_err(late)??;
        let names = rows.into_iter().flatten().flatten().map(String::into_boxed_str).collect();
        self.note(functions, names);
        Ok(())
    }
}

impl DatabaseFunctions {
    /// Whether nothing is done by calling any of these.
    pub fn are_calm(&self, names: &[Box<str>]) -> bool {
        let known = self.calm.load();
        known.as_ref().is_some_and(|known| names.iter().all(|name| known.contains(name)))
    }

    /// Panics under the lock cannot leave it half changed.
    fn asked(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn begin(&self) {
        *self.asked() = Some(Instant::now());
    }

    fn is_due(&self) -> bool {
        let wait = if self.calm.load().is_some() { FRESH } else { AGAIN };
        self.asked().is_none_or(|at| at.elapsed() >= wait)
    }
}
