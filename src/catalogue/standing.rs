//! What a running pgward knows of its catalogue, for all who ask.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::cache;
use crate::base::{ClusterName, clock};
use crate::config::{Catalogue, Settings, Snapshot};

pub struct Standing {
    pub cluster: ClusterName,
    /// What was read last, be it in force or refused.
    seen: ArcSwap<Snapshot>,
    /// When the table was found as `seen` has it, in seconds since 1970.
    read_at: AtomicU64,
    /// Somebody tells of changes.
    told: AtomicBool,
    /// What stands in the cache.
    kept: Mutex<Option<Arc<Snapshot>>>,
}

impl Standing {
    /// With what the configuration was loaded with. `None`: it has no catalogue.
    pub fn of(settings: &Settings) -> Option<Self> {
        let catalogue = settings.catalogue.as_ref()?;
        let snapshot = &catalogue.snapshot;
        Some(Self {
            cluster: catalogue.cluster.clone(),
            seen: ArcSwap::from(Arc::clone(snapshot)),
            read_at: AtomicU64::new(snapshot.at),
            told: AtomicBool::new(false),
            kept: Mutex::new(snapshot.cached.then(|| Arc::clone(snapshot))),
        })
    }

    pub fn seen(&self) -> Arc<Snapshot> {
        self.seen.load_full()
    }

    /// Takes note of a reading. `true`: there is something else than there was.
    pub fn note(&self, read: Snapshot) -> bool {
        self.read_at.store(read.at, Ordering::Relaxed);
        let new = !read.has_same(&self.seen.load());
        if new {
            self.seen.store(Arc::new(read));
        }
        new
    }

    /// How old what is known is, whether or not it is in force.
    pub fn age(&self) -> Duration {
        Duration::from_secs(clock::unix_now().saturating_sub(self.read_at.load(Ordering::Relaxed)))
    }

    pub fn set_told(&self, told: bool) {
        self.told.store(told, Ordering::Relaxed);
    }

    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Whether what was read last is not what is in force: it was refused.
    pub fn is_refused(&self, in_force: &Catalogue) -> bool {
        !self.seen.load().has_same(&in_force.snapshot)
    }

    /// Writes what is in force into the cache, unless it stands there already. Blocks.
    pub fn keep(&self, in_force: impl FnOnce() -> Option<Catalogue>) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that what is older never comes last.
        let Some(catalogue) = in_force() else { return Ok(()) };
        let Some(file) = catalogue.cache.as_ref() else { return Ok(()) };
        if kept.as_ref().is_none_or(|kept| !Arc::ptr_eq(kept, &catalogue.snapshot)) {
            cache::write(file, &catalogue)?;
            *kept = Some(catalogue.snapshot);
        }
        Ok(())
    }
}
