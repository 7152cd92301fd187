//! Cancel keys: what a client may present on another connection to stop its own statement.
//!
//! A request that arrives late must not hit the next session on the same backend. So a backend on which
//! a request is under way is not given back until the server has closed the request's connection, by
//! which time the signal has been sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use dashmap::DashMap;
use tokio::sync::Notify;

use crate::backend::{self, CancelTarget};
use crate::base::Secret;

/// All sessions' keys, by the number that stands for a process id.
#[derive(Debug, Default)]
pub struct CancelKeys(DashMap<u32, Arc<CancelSlot>>);

/// What a cancel request for one session would hit right now.
#[derive(Debug)]
pub(super) struct CancelSlot {
    pub secret: Secret,
    state: Mutex<State>,
    /// Requests under way have come to their end.
    settled: Notify,
}

/// Whether the session waits for a backend, and how to tell it to stop.
#[derive(Debug, Default)]
enum Waiting {
    #[default]
    No,
    Yes(Waker),
    Cancelled,
}

#[derive(Debug, Default)]
struct State {
    target: Option<Arc<CancelTarget>>,
    waiting: Waiting,
    under_way: usize,
}

/// A session's place among the keys; the key is dead when this is dropped.
#[derive(Debug)]
pub(super) struct CancelKey {
    pub id: u32,
    pub slot: Arc<CancelSlot>,
    shared: Arc<super::Shared>,
}

impl std::fmt::Debug for super::Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// What became of a cancel request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It was sent to a server.
    Sent,
    /// The session has nothing to be cancelled at a server, or that could not be reached.
    Nothing,
    /// The key is no session's. One that has just ended is among these.
    WrongKey,
}

impl CancelKeys {
    /// A key of random bits: 4 bytes for protocol 3.0, 32 from 3.2 on. `mark` puts into its number whose it is.
    pub(super) fn issue(shared: &Arc<super::Shared>, minor: u16, mark: impl Fn(u32) -> u32) -> CancelKey {
        let long: [u8; 32] = rand::random();
        let length = if minor >= 2 { long.len() } else { 4 };
        let secret = Secret::new(long.get(..length).unwrap_or(&long));
        let slot = Arc::new(CancelSlot { secret, state: Mutex::default(), settled: Notify::new() });
        loop {
            // Positive as an i32: some drivers show it to people.
            let id = mark(rand::random_range(1..=i32::MAX.cast_unsigned()));
            if let dashmap::Entry::Vacant(place) = shared.cancel_keys.0.entry(id) {
                place.insert(Arc::clone(&slot));
                return CancelKey { id, slot, shared: Arc::clone(shared) };
            }
        }
    }

    /// Carries out a request. A wrong key does nothing and is told nothing, as in PostgreSQL.
    pub async fn cancel(&self, id: u32, secret: &Secret) -> Cancelled {
        let slot = self.0.get(&id).map(|slot| Arc::clone(&slot));
        let Some(slot) = slot.filter(|slot| slot.secret.matches(secret.expose())) else { return Cancelled::WrongKey };
        let target = {
            let mut state = slot.state();
            if let Waiting::Yes(waker) = std::mem::replace(&mut state.waiting, Waiting::No) {
                state.waiting = Waiting::Cancelled;
                waker.wake();
            }
            if state.target.is_some() {
                state.under_way += 1;
            }
            state.target.clone()
        };
        let Some(target) = target else { return Cancelled::Nothing };
        let guard = UnderWay(slot);
        let sent = backend::cancel(&target).await;
        drop(guard);
        if let Err(error) = &sent {
            tracing::warn!(error = %error, "a cancel request could not be forwarded");
        }
        if sent.is_ok() { Cancelled::Sent } else { Cancelled::Nothing }
    }
}

/// A request under way; its end is told even if its task is dropped.
struct UnderWay(Arc<CancelSlot>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way -= 1;
        if state.under_way == 0 {
            self.0.settled.notify_waiters();
        }
    }
}

impl CancelSlot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn aim(&self, target: Arc<CancelTarget>) {
        self.state().target = Some(target);
    }

    /// The session begins to wait for a backend.
    pub fn wait(&self, waker: &Waker) {
        self.state().waiting = Waiting::Yes(waker.clone());
    }

    /// As [`CancelSlot::wait`], unless it was cancelled already: then `true`.
    pub fn poll_cancelled(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        let cancelled = matches!(state.waiting, Waiting::Cancelled);
        if !cancelled {
            state.waiting = Waiting::Yes(waker.clone());
        }
        cancelled
    }

    /// The wait is over. `true`: because a cancel request ended it.
    pub fn waited(&self) -> bool {
        matches!(std::mem::take(&mut self.state().waiting), Waiting::Cancelled)
    }

    pub fn wait_cancelled(&self) -> bool {
        matches!(self.state().waiting, Waiting::Cancelled)
    }

    /// The session leaves its backend. `true`: requests are under way, see [`CancelSlot::settled`].
    pub fn clear(&self) -> bool {
        let mut state = self.state();
        state.target = None;
        state.under_way > 0
    }

    /// Waits until no request is under way.
    pub async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if self.state().under_way == 0 {
                return;
            }
            settled.await;
        }
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        self.shared.cancel_keys.0.remove(&self.id);
    }
}
