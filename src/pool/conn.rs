//! A backend as the pool keeps it, and as a session holds it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::budget::{Lent, Permit};
use super::prepared::Prepared;
use super::registry::Place;
use super::shard::Local;
use crate::backend::{Backend, CancelTarget};
use crate::base::ServerName;
use crate::limits::LeaseSlot;
use crate::tenant::Context;
use crate::wire::Header;

/// A backend and what is known about the state it is in.
#[derive(Debug)]
pub struct Conn {
    pub backend: Backend,
    /// Whose session it was last told to serve. `None`: nobody's that counts.
    pub context: Option<Arc<Context>>,
    /// How old what is sealed of that was ([`Context::turn`]).
    pub turn: u32,
    /// A session has run on it: it needs DISCARD ALL before it serves another context.
    pub used: bool,
    /// A session left state behind: DISCARD ALL even before the same context.
    pub dirty: bool,
    pub prepared: Prepared,
    /// For cancel requests.
    pub cancel: Arc<CancelTarget>,
    pub(super) core: usize,
    /// Of the server that its pool leads to ([`super::Head`]).
    pub(super) era: u32,
    pub(super) idle_since: Instant,
    pub(super) expires: Instant,
    pub(super) permit: Permit,
}

impl Conn {
    /// Whether it can serve this context with nothing in between.
    pub fn serves(&self, context: &Arc<Context>) -> bool {
        let same = |known: &Arc<Context>| Arc::ptr_eq(known, context) || known == context;
        !self.dirty && self.turn == context.turn() && self.context.as_ref().is_some_and(same)
    }

    /// It is as after login, by a DISCARD ALL that was answered.
    pub fn forget(&mut self) {
        self.context = None;
        self.used = false;
        self.dirty = false;
        self.prepared.clear();
    }

    /// Looks at what arrived while nobody used the backend. `false`: it is dead or out of step, or its server is not
    /// the primary any more.
    pub(super) fn still_good(&mut self) -> bool {
        !self.is_outdated() && (self.backend.stream.is_quiet() || self.only_harmless())
    }

    pub fn era(&self) -> u32 {
        self.era
    }

    /// Another server has become the primary since it was opened, or none is.
    pub fn is_outdated(&self) -> bool {
        self.permit.pool().head.era() != self.era
    }

    #[cold]
    fn only_harmless(&mut self) -> bool {
        let mut buf = [0u8; 1024];
        loop {
            match self.backend.stream.read_unasked(&mut buf) {
                None => return true,
                Some(Ok(n)) if n > 0 => {
                    if !buf.get(..n).is_some_and(harmless) {
                        return false;
                    }
                }
                Some(_) => return false,
            }
        }
    }

    pub fn expired(&self, now: Instant) -> bool {
        // A cancel request that comes whenever it likes must not hit another session.
        let unsettled = self.cancel.unsettled.load(std::sync::atomic::Ordering::Relaxed);
        unsettled || now > self.expires || self.is_outdated()
    }
}

/// Notices, notifications and parameter changes may come at any time (protocol documentation, 55.2.7).
fn harmless(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match Header::read(bytes, crate::wire::Origin::Server) {
            Ok(Some(header)) if matches!(header.tag, b'N' | b'A' | b'S') && header.total <= bytes.len() => {
                bytes = bytes.get(header.total..).unwrap_or_default();
            }
            _ => return false,
        }
    }
    true
}

/// A backend lent to a session. Dropping it closes the backend; [`super::Shard::release`] gives it back.
#[derive(Debug)]
pub struct Lease {
    // The slot goes first on drop, so that whom the permit wakes finds it free.
    pub(super) slot: LeaseSlot,
    pub conn: Box<Conn>,
    pub since: Instant,
    pub(super) local: Rc<Local>,
    /// Of a replica's backend, since it matters there who is how busy.
    pub(super) _lent: Option<Lent>,
}

impl Lease {
    pub fn local(&self) -> &Rc<Local> {
        &self.local
    }

    /// The replica that it is of, if it is one's.
    pub fn replica(&self) -> Option<&ServerName> {
        match &self.local.pool.key.place {
            Place::Primary => None,
            Place::Replica(server) => Some(server),
        }
    }
}
