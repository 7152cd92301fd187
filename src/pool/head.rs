//! Where a cluster's writes go: one place for all its pools to look at, so that they follow at once.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::backend::Endpoint;

#[derive(Debug)]
pub struct Head {
    at: ArcSwap<At>,
    /// That of `at`. Read each time that a backend is lent, which is why it stands alone as well.
    era: AtomicU32,
    /// There are other servers that can be read from. Read each time, too.
    replicas: AtomicBool,
    changed: watch::Sender<()>,
    /// Held by whoever changes it, from finding out to writing down.
    turn: Mutex<()>,
}

/// The primary of a while.
#[derive(Debug, Clone)]
pub struct At {
    /// `None`: there is no primary.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Another number each time that another server takes the writes. A backend of an earlier one is not used again.
    pub era: u32,
    pub since: Instant,
    /// Others may take its place: a request had better wait than fail. For so long.
    pub patience: Option<Duration>,
}

impl Head {
    pub(super) fn new() -> Self {
        let at = At { endpoint: None, era: 1, since: Instant::now(), patience: None };
        Self {
            at: ArcSwap::from_pointee(at),
            era: AtomicU32::new(1),
            replicas: AtomicBool::new(false),
            changed: watch::channel(()).0,
            turn: Mutex::default(),
        }
    }

    /// Who it is, and since when.
    pub fn at(&self) -> Arc<At> {
        self.at.load_full()
    }

    pub fn has_replicas(&self) -> bool {
        self.replicas.load(Ordering::Relaxed)
    }

    pub(super) fn set_replicas(&self, any: bool) {
        self.replicas.store(any, Ordering::Relaxed);
    }

    pub fn era(&self) -> u32 {
        self.era.load(Ordering::SeqCst)
    }

    /// Has writes go to where this says from now on. True: that is another server than before, or none.
    pub fn point(&self, where_to: impl FnOnce() -> (Option<Arc<Endpoint>>, Option<Duration>)) -> bool {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (endpoint, patience) = where_to();
        let before = self.at.load();
        let same = match (&before.endpoint, &endpoint) {
            (Some(one), Some(other)) => one.same_place(other),
            (None, None) => true,
            _ => false,
        };
        let (era, since) = if same { (before.era, before.since) } else { (before.era.wrapping_add(1), Instant::now()) };
        // The number first: what is opened in between is of the old one, and not used.
        self.era.store(era, Ordering::SeqCst);
        self.at.store(Arc::new(At { endpoint, era, since, patience }));
        if !same {
            self.changed.send_replace(());
        }
        !same
    }

    /// The primary, for whom there is one before `until`.
    pub(super) async fn primary(&self, until: Instant) -> Option<(Arc<Endpoint>, u32)> {
        let mut changes = self.changed.subscribe();
        loop {
            let at = self.at.load_full();
            if let Some(endpoint) = &at.endpoint {
                return Some((Arc::clone(endpoint), at.era));
            }
            match tokio::time::timeout_at(until.into(), changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }

    /// Until another server takes the writes.
    pub async fn outdated(&self, era: u32) {
        let mut changes = self.changed.subscribe();
        while self.era() == era {
            // Never closed while somebody looks at it.
            let _ = changes.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Region, ServerName};

    fn endpoint(name: &str, port: u16) -> Arc<Endpoint> {
        let server = ServerName::parse(name).unwrap();
        let (region, host) = (Region::parse("lk").unwrap(), "127.0.0.1".to_owned());
        Arc::new(Endpoint { server, region, host, port, tls: None, timeout: Duration::from_secs(1) })
    }

    fn point(head: &Head, to: Option<Arc<Endpoint>>) -> bool {
        head.point(|| (to, None))
    }

    #[test]
    fn backends_of_a_server_that_was_the_primary_once_are_not_those_of_now() {
        let head = Head::new();
        assert!(point(&head, Some(endpoint("a", 1))));
        let first = head.era();
        assert!(!point(&head, Some(endpoint("a", 1))), "a reload");
        assert_eq!(head.era(), first);
        assert!(point(&head, Some(endpoint("b", 2))) && point(&head, Some(endpoint("a", 1))));
        assert_ne!(head.era(), first, "it may have gone on without what the other one took");
        assert!(point(&head, Some(endpoint("a", 3))), "it listens elsewhere");
        let before = head.era();
        assert!(point(&head, None) && point(&head, Some(endpoint("a", 3))));
        assert_ne!(head.era(), before);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_primary_is_told_at_once_or_in_time() {
        let head = Arc::new(Head::new());
        let soon = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert!(head.primary(Instant::now()).await.is_none());
        let waiting = tokio::spawn({
            let head = Arc::clone(&head);
            async move { head.primary(soon(60)).await.map(|(endpoint, _)| endpoint.port) }
        });
        tokio::task::yield_now().await;
        point(&head, Some(endpoint("a", 1)));
        assert_eq!(waiting.await.unwrap(), Some(1));
    }
}
