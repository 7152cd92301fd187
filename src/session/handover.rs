//! A backend comes into the session's hands: it is told whom it serves, ahead of the client's own bytes in the
//! same write. Where that fails, the bytes go to another backend.

use std::sync::Arc;
use std::time::Instant;

use super::downstream::Seen;
use super::refuse;
use super::relay::Relay;
use super::serve::{End, HANDOVER_TRIES, Handover, Need, Retry, Session};
use crate::backend;
use crate::base::Report;
use crate::pool::Request;
use crate::sql::{Pin, Pins};
use crate::telemetry::add;
use crate::tenant::{Context, Known};
use crate::wire::backend::{self as answer, Transaction};
use crate::wire::frontend;
use crate::wire::handover::{self, Checker};

impl Session {
    /// Makes sure there is a backend that knows whom it serves.
    pub(super) fn linked(&mut self, relay: &mut Relay<'_>) -> bool {
        if self.link.is_none() {
            if self.nobody {
                return false;
            }
            let request =
                Request { context: &self.context, usage: &self.usage, max_leases: self.terms.limits.max_leases };
            let Some(lease) = self.core.shard.try_acquire(self.target(), request) else { return false };
            if self.may_show_less(&lease) || self.admits(&lease).is_err() {
                // It is refused where a request can be.
                self.core.shard.release(lease, Instant::now());
                return false;
            }
            self.link_up(lease);
        }
        let due = self.link.as_mut().is_some_and(|link| {
            // A pinned session that reset its settings gets its context back between transactions.
            let between = link.at_rest && link.transaction == Transaction::Idle;
            between && (link.handover_due || link.reset || link.lease.conn.turn != self.context.turn())
        });
        if due {
            self.put_handover(relay);
        }
        true
    }

    fn put_handover(&mut self, relay: &mut Relay<'_>) {
        let Some(link) = self.link.as_mut() else { return };
        let conn = &mut link.lease.conn;
        let switch = conn.context.as_ref().is_some_and(|before| before.tenant() != self.context.tenant());
        // A session that is on the backend already keeps what it has there. What it reset goes back to what
        // the session began with.
        let kept = !link.handover_due;
        let own = self.own.as_deref().filter(|_| kept).map(|own| self.base.without_settings(&own.settings));
        let context = own.as_ref().unwrap_or(if kept { &self.base } else { &self.context });
        // Sessions of one tenant are told the difference.
        let alike = |before: &Arc<Context>| before.whose() == self.context.whose();
        let before = conn.context.take().filter(|before| !kept && !conn.dirty && alike(before));
        let known = match &before {
            Some(context) => Known::Context { context, turn: conn.turn },
            None if kept && !link.reset => Known::Sealed,
            None if conn.used && !kept => Known::Discarded,
            None => Known::Nothing,
        };
        let discard = matches!(known, Known::Discarded);
        // Before it is sealed: if it becomes old in between, it is sealed once more.
        let turn = context.turn();
        let gate = handover::gate();
        let checker = context.for_backend(conn.backend.pid, &known, |orders| {
            handover::put(relay.own(), orders, gate.as_bytes());
            Checker::new(orders)
        });
        // Until it is answered, nobody knows whom the backend would serve: its context is none.
        conn.used = true;
        conn.turn = turn;
        if discard {
            conn.prepared.clear();
            conn.dirty = false;
        }
        link.handover_due = false;
        link.reset = false;
        // The hand-over uses it.
        link.unnamed_known = false;
        link.handover =
            Some(Handover { checker, held: Vec::new(), starts: relay.written(), closed: false, switch, kept });
    }

    /// After a failed hand-over: what was sent behind it goes to another backend, behind another one.
    pub(super) fn begin_retry(&mut self, relay: &mut Relay<'_>) -> Option<()> {
        self.link.as_ref()?;
        let retry = self.retry.take()?;
        self.put_handover(relay);
        // What is held may end within a message or a batch.
        relay.own().extend_from_slice(frontend::FLUSH);
        relay.own().extend_from_slice(&retry.held);
        let limit = self.local.pool.rules().prepared_per_backend;
        let link = self.link.as_mut()?;
        let conn = &mut link.lease.conn;
        for statement in retry.flow.statements() {
            conn.prepared.add(statement, limit);
        }
        conn.backend.flow = retry.flow;
        link.unnamed_known = retry.unnamed_known;
        link.at_rest = false;
        link.may_commit = true;
        link.handover.as_mut()?.closed = true;
        Some(())
    }

    /// The server keeps its last answers to a hand-over in its buffer until it has answered a Query or a
    /// Sync. Where none follows in the same write, since the client has not sent it yet, a Flush does.
    pub(super) fn flush_handover(&mut self, relay: &mut Relay<'_>) {
        let in_this_write = |handover: &Handover| handover.held.is_empty();
        if self.link.as_ref().is_some_and(|link| link.handover.as_ref().is_some_and(in_this_write)) {
            relay.own().extend_from_slice(frontend::FLUSH);
        }
    }

    /// A hand-over was answered as it should be.
    pub(super) fn handed_over(&mut self) {
        let Some(link) = self.link.as_mut() else { return };
        let Some(handover) = link.handover.take() else { return };
        link.lease.conn.context = Some(Arc::clone(&self.context));
        add(&self.core.stats.contexts, 1);
        add(&self.core.stats.tenant_switches, u64::from(handover.switch));
        self.handover_failures = 0;
        self.give_own();
    }

    /// Nothing of the client's was run, so another backend is tried, or the session ends.
    pub(super) fn handover_failed(&mut self, error: &[u8]) -> Result<Seen, End> {
        add(&self.core.stats.handovers_failed, 1);
        let state = answer::sqlstate(error).map(|state| String::from_utf8_lossy(&state).into_owned());
        tracing::warn!(tenant = %self.terms.id, sqlstate = state, "a backend was closed: its hand-over was not answered as expected");
        self.handover_failures += 1;
        let Some(link) = self.link.take(&self.core.links) else { return Ok(Seen::Lost) };
        self.key.slot.clear();
        self.entry.backend.set(None);
        let replica = link.lease.replica().is_some();
        // The primary has everything that may be missing on a replica.
        self.give_up_replica();
        let mut lease = link.lease;
        let flow = std::mem::take(&mut lease.conn.backend.flow);
        tokio::task::spawn_local(async move {
            backend::dispose(&mut lease.conn.backend, &lease.conn.cancel).await;
        });
        let Some(handover) = link.handover else { return Ok(Seen::Lost) };
        // The class of errors about objects: something that SQL's PREPARE named is gone, or not yet at a replica.
        if !replica && state.as_ref().is_some_and(|state| state.starts_with("42")) && self.forget_prepared() {
            self.handover_failures -= 1;
        }
        // A cancel request of the client's own: no fault of the backend's.
        if state.as_deref() == Some("57014") {
            self.handover_failures -= 1;
        }
        // What pins it went out in part, or is on the backend that is lost.
        let moves = self.pins.without(Pins::of(Pin::Mode)).is_empty() && !handover.kept;
        if !moves || self.handover_failures >= HANDOVER_TRIES {
            return Err(no_clean_backend(state.as_deref()).into());
        }
        self.retry = Some(Box::new(Retry { held: handover.held, flow, unnamed_known: link.unnamed_known }));
        self.need = Need::Lease;
        Ok(Seen::Lost)
    }
}

fn no_clean_backend(state: Option<&str>) -> Report {
    let report = refuse::no_clean_backend();
    match state {
        Some(state) => report.detail(format!("The server answered with SQLSTATE {state}.")),
        None => report,
    }
}
