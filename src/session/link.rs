//! The backend in a session's hands: how it comes there, and how it goes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::{Held, Phase};
use super::refuse::{self, Loss};
use super::relay::Sink;
use super::replay::Replay;
use super::serve::{End, Handover, Session};
use super::state::{Inquiry, Touched};
use super::trial::{Leaving, Stage};
use crate::backend;
use crate::base::Report;
use crate::pool::{Lease, Statement};
use crate::route::{self, Refusal};
use crate::sql::ListenOrder;
use crate::telemetry::add;
use crate::wire::backend::Transaction;

/// How long an abandoned backend may take to come to rest before it is closed.
pub(super) const RECOVERY: Duration = Duration::from_secs(5);

/// A backend in this session's hands.
pub(super) struct Link {
    pub lease: Lease,
    pub to_server: Sink,
    pub handover: Option<Handover>,
    /// The context must be set before the next client message goes out.
    pub handover_due: bool,
    /// As the last ReadyForQuery said.
    pub transaction: Transaction,
    /// Nothing was sent since.
    pub at_rest: bool,
    /// What was sent since may have committed something.
    pub may_commit: bool,
    /// The backend has this session's unnamed statement.
    pub unnamed_known: bool,
    /// It is a fresh copy of this statement, for the batch that prepares it under a name.
    pub unnamed_copy: Option<Rc<Statement>>,
    /// What it stops listening to when its transaction is through, and whether by the server's names.
    pub unlistens: Vec<(ListenOrder, bool)>,
    /// A name that the client deallocates by SQL.
    pub deallocating: Option<Rc<str>>,
    /// The client reset the settings that the context is made of.
    pub reset: bool,
    /// DEALLOCATE may have taken prepared statements away.
    pub prepared_doubtful: bool,
    /// What is known about the backend's statements rests on a batch that may yet fail: it is to be
    /// answered before the next one goes out.
    pub unsure: bool,
    /// A description is awaited before the next request goes out.
    pub checking: bool,
    /// A portal was made since it was at rest.
    pub bound: bool,
    /// The batch under way, for a second time.
    pub replay: Replay,
    /// The same where it may be another server's.
    pub trial: Stage,
    /// The transaction may have changed the session's state: the backend will be asked.
    pub touched: Option<Box<Touched>>,
    /// It is being asked.
    pub inquiry: Option<Box<Inquiry>>,
    /// It had nothing to read when it was asked last in this turn of the session's.
    pub is_dry: bool,
    pub since: Instant,
    /// Writing failed; what the server still has to say is read before the end.
    pub write_failed: bool,
}

impl Link {
    /// The hand-over was sent, with what could go along with it.
    pub fn awaits_handover(&self) -> bool {
        self.handover.as_ref().is_some_and(|handover| handover.closed)
    }
}

impl Session {
    /// What is lost with the session's backend.
    pub(super) fn loss(&self) -> Loss {
        match self.link.as_ref() {
            // What the client asked for has been answered: the question is pgward's own.
            Some(link) if link.inquiry.is_some() => Loss::Nothing,
            Some(link) if !link.at_rest && link.may_commit && link.lease.replica().is_none() => Loss::InDoubt,
            Some(link) if !link.at_rest || link.transaction != Transaction::Idle => Loss::RolledBack,
            Some(_) | None => Loss::Nothing,
        }
    }

    /// Whether the session may be at the server of this backend.
    pub(super) fn admits(&mut self, lease: &Lease) -> Result<(), Refusal> {
        let Some(regions) = &self.terms.regions else { return Ok(()) };
        let (conn, replica) = (&lease.conn, lease.replica().is_some());
        if replica || self.admitted_era != conn.era() {
            let endpoint = &conn.cancel.endpoint;
            route::admit(regions, &endpoint.server, &endpoint.region)?;
            // Replicas have numbers of their own.
            self.admitted_era = if replica { self.admitted_era } else { conn.era() };
        }
        Ok(())
    }

    /// Whether it may be at the server that takes writes now.
    pub(super) fn admitted_at_head(&self) -> Result<(), Report> {
        let at = self.local.pool.head().at();
        let (Some(regions), Some(endpoint)) = (&self.terms.regions, &at.endpoint) else { return Ok(()) };
        route::admit(regions, &endpoint.server, &endpoint.region).map_err(|refusal| self.not_here(&refusal))
    }

    /// Refuses what it asked for, since the server is where it may not be.
    pub(super) fn not_here(&self, refusal: &Refusal) -> Report {
        tracing::warn!(tenant = %self.terms.id, %refusal, "a request was refused");
        self.note_region(refusal, refuse::no_server_here())
    }

    /// Takes a backend into the session's hands.
    pub(super) fn link_up(&mut self, lease: Lease) {
        if lease.replica().is_none() {
            self.asks_primary();
        }
        let conn = &lease.conn;
        if let (Some(stay), Some(regions)) = (&mut self.stay, &self.terms.regions) {
            stay.note_served(&lease.local().pool.key.cluster, &conn.cancel.endpoint, regions, lease.since);
        }
        self.key.slot.aim(Arc::clone(&conn.cancel));
        self.entry.set(Phase::Active, lease.since);
        let pool = lease.local().pool.id();
        self.entry.backend.set(Some(Held { pool, pid: conn.backend.pid, born: conn.backend.born }));
        self.found_server();
        let link = Link {
            to_server: Sink::default(),
            handover: None,
            handover_due: self.retry.is_some() || !conn.serves(&self.context),
            transaction: Transaction::Idle,
            at_rest: true,
            may_commit: false,
            unnamed_known: false,
            unnamed_copy: None,
            unlistens: Vec::new(),
            deallocating: None,
            reset: false,
            prepared_doubtful: false,
            unsure: false,
            checking: false,
            bound: false,
            replay: Replay::default(),
            trial: self.trial_stage(lease.replica().is_some()),
            touched: None,
            inquiry: None,
            is_dry: false,
            since: lease.since,
            write_failed: false,
            lease,
        };
        self.link.put(&self.core.links, link);
    }

    /// The backend is at rest and nothing ties the session to it.
    fn is_done(&self) -> bool {
        self.pins.is_empty()
            && self.rest == 0
            && self.link.as_ref().is_some_and(|link| {
                link.at_rest
                    && link.transaction == Transaction::Idle
                    && link.handover.is_none()
                    && link.touched.is_none()
                    && link.to_server.is_clear()
                    && link.lease.conn.backend.rest == 0
                    && link.lease.conn.backend.cut.is_empty()
            })
    }

    /// Gives the backend back if the session is done with it.
    pub(super) fn release_if_done(&mut self) {
        if !self.is_done() {
            self.note_kept();
            return;
        }
        let now = Instant::now();
        let Some(lease) = self.part(now) else { return };
        if self.key.slot.clear() {
            let (core, slot) = (Rc::clone(&self.core), Arc::clone(&self.key.slot));
            tokio::task::spawn_local(async move {
                slot.settled().await;
                core.shard.release(lease, Instant::now());
            });
        } else {
            self.core.shard.release(lease, now);
        }
    }

    /// A session that keeps its backend is served by its server for as long as it has it.
    fn note_kept(&mut self) {
        let at_rest = self.link.as_ref().filter(|link| link.at_rest && !self.pins.is_empty());
        if let (Some(link), Some(stay)) = (at_rest, &mut self.stay) {
            stay.note_still(&link.lease.conn.cancel.endpoint, Instant::now());
        }
    }

    /// Another server takes the writes now, or the replica is not to be read from any more.
    pub(super) fn server_changed(&mut self) -> Result<(), End> {
        let replica = self.link.as_ref().is_some_and(|link| link.lease.replica().is_some());
        if !replica {
            return Err(refuse::primary_lost(self.loss()).into());
        }
        if self.leave_replica(Leaving::Down) || self.lost_between() {
            return Ok(());
        }
        Err(refuse::server_lost(self.loss()).into())
    }

    /// The server ends the connection just when the session is done with it, which is then no concern of the client's.
    pub(super) fn lost_between(&mut self) -> bool {
        if !self.is_done() {
            return false;
        }
        drop(self.part(Instant::now()));
        self.key.slot.clear();
        true
    }

    fn part(&mut self, now: Instant) -> Option<Lease> {
        let mut link = self.link.take(&self.core.links)?;
        self.core.give_replay_buffer(link.replay.take_buffer());
        self.core.stats.transaction_time.record(now.duration_since(link.since));
        self.entry.set(Phase::Idle, now);
        self.entry.backend.set(None);
        self.is_new = false;
        let mut lease = link.lease;
        self.stay.iter_mut().for_each(|stay| stay.note_part(&lease.conn.cancel.endpoint, now));
        self.note_served(lease.local(), now);
        if link.reset {
            lease.conn.context = None;
        }
        lease.conn.dirty |= link.prepared_doubtful;
        Some(lease)
    }

    /// Leaves a backend in the middle of something to a task that brings it to rest or closes it.
    pub(super) fn abandon_link(&mut self, server_gone: bool) {
        let Some(link) = self.link.take(&self.core.links) else { return };
        self.stay.iter_mut().for_each(|stay| stay.note_part(&link.lease.conn.cancel.endpoint, Instant::now()));
        let under_way = self.key.slot.clear();
        let resumable = !server_gone && !link.write_failed && link.to_server.is_clear() && link.handover.is_none();
        let resumable = resumable && (self.rest == 0 || self.rest_dropped);
        // A question of pgward's own ends by itself, and soon.
        let busy = !link.at_rest && link.inquiry.is_none();
        let (core, slot) = (Rc::clone(&self.core), Arc::clone(&self.key.slot));
        let Link { mut lease, transaction, .. } = link;
        if lease.conn.is_outdated() {
            // There is nothing to be told to that server, and somebody may wait for the place.
            return;
        }
        tokio::task::spawn_local(async move {
            if under_way {
                slot.settled().await;
            }
            let conn = &mut lease.conn;
            if resumable {
                if busy {
                    // Stops a statement whose result nobody will read.
                    let _ = backend::cancel(&conn.cancel).await;
                }
                let recovery = backend::recover(&mut conn.backend, transaction);
                if let Ok(true) = tokio::time::timeout(RECOVERY, recovery).await {
                    conn.forget();
                    add(&core.stats.recovered, 1);
                    core.shard.release(lease, Instant::now());
                    return;
                }
            }
            backend::dispose(&mut conn.backend, &conn.cancel).await;
        });
    }
}
