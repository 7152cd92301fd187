//! Getting a backend: at hand, by waiting, or opened for the session; and what becomes of a request that gets none.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Cx, Poll};
use std::time::Instant;

use super::entry::Phase;
use super::refuse;
use super::serve::{End, Need, Session, Skipping};
use crate::base::{Report, Severity};
use crate::pool::{AcquireError, Claim, Granted, Lease, Request};
use crate::telemetry::add;

impl Session {
    /// Gets a backend or waits for one. Ready with a grant that takes more than that; otherwise the session
    /// is linked, or the request was refused.
    pub(super) fn poll_lease(&mut self, cx: &mut Cx<'_>) -> Result<Poll<Option<Granted>>, End> {
        let core = Rc::clone(&self.core);
        if self.nobody {
            self.refuse_request(&refuse::no_tenant())?;
            return Ok(Poll::Ready(None));
        }
        let Some(waiting) = &mut self.waiting else {
            let request =
                Request { context: &self.context, usage: &self.usage, max_leases: self.terms.limits.max_leases };
            match core.shard.claim(self.target(), request) {
                Claim::Lease(lease) => self.lease_came(lease)?,
                Claim::Granted(granted) => return Ok(Poll::Ready(Some(granted))),
                Claim::Wait(waiting) => {
                    // Rather than wait for a replica, where that is all the same.
                    let primary = self.may_take_primary().then(|| core.shard.try_acquire(&self.local, request));
                    if let Some(lease) = primary.flatten() {
                        self.lease_came(lease)?;
                        return Ok(Poll::Ready(None));
                    }
                    self.entry.set(Phase::Waiting, Instant::now());
                    self.key.slot.wait(cx.waker());
                    self.waiting = Some(waiting);
                    add(&core.stats.waits, 1);
                    return self.poll_lease(cx);
                }
            }
            return Ok(Poll::Ready(None));
        };
        match waiting.poll(cx) {
            Poll::Ready(Some(granted)) => {
                self.end_wait();
                match core.shard.at_hand(granted, self.target()) {
                    Ok(lease) => self.lease_came(lease)?,
                    Err(granted) => return Ok(Poll::Ready(Some(granted))),
                }
            }
            // What was sent once is sent again: it cannot be refused, and the session need not end.
            Poll::Pending if self.retry.is_none() && self.key.slot.wait_cancelled() => {
                self.end_wait();
                self.refuse_request(&refuse::canceled())?;
            }
            Poll::Pending if !self.entry.take_wait_over() || self.target().pool.excuses(&self.usage) => {
                self.entry.listen(cx);
                return Ok(Poll::Pending);
            }
            Poll::Pending | Poll::Ready(None) => {
                self.end_wait();
                self.no_lease(&self.target().pool.waited_too_long())?;
            }
        }
        Ok(Poll::Ready(None))
    }

    fn end_wait(&mut self) {
        self.waiting = None;
        self.key.slot.waited();
        self.entry.take_wait_over();
        let (_, since) = self.entry.phase.get();
        self.core.stats.wait_time.record(since.elapsed());
    }

    fn lease_came(&mut self, lease: Lease) -> Result<(), End> {
        if lease.conn.is_outdated() {
            // Another server has become the primary meanwhile: it asks again.
            return Ok(());
        }
        if self.may_show_less(&lease) {
            self.core.shard.release(lease, Instant::now());
            self.need = self.await_proof();
            return Ok(());
        }
        if let Err(refusal) = self.admits(&lease) {
            self.core.shard.release(lease, Instant::now());
            return self.refuse_request(&self.not_here(&refusal));
        }
        self.link_up(lease);
        self.need = Need::Answers;
        Ok(())
    }

    /// Opens a backend or fetches it from another core; a kick ends that.
    pub(super) async fn fulfil(&mut self, granted: Granted) -> Result<(), End> {
        let (core, entry, target) = (Rc::clone(&self.core), Rc::clone(&self.entry), Rc::clone(self.target()));
        let slot = Arc::clone(&self.key.slot);
        let refusable = self.retry.is_none();
        let cancelled =
            poll_fn(|cx| if refusable && slot.poll_cancelled(cx.waker()) { Poll::Ready(()) } else { Poll::Pending });
        let outcome = tokio::select! {
            biased;
            () = cancelled => Err(None),
            lease = core.shard.fulfil(granted, &target) => lease.map_err(Some),
            () = entry.until_kicked() => return Err(self.heed_kick().err().unwrap_or(End::Client)),
        };
        match (outcome, self.key.slot.waited() && refusable) {
            (Ok(lease), false) => self.lease_came(lease),
            (Ok(lease), true) => {
                core.shard.release(lease, Instant::now());
                self.refuse_request(&refuse::canceled())
            }
            (Err(Some(error)), false) => self.no_lease(&error),
            (Err(_), _) => self.refuse_request(&refuse::canceled()),
        }
    }

    fn no_lease(&mut self, error: &AcquireError) -> Result<(), End> {
        let source = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(tenant = %self.terms.id, %error, source, "no backend");
        if self.looks_elsewhere(error) {
            self.need = if self.retry.is_some() { Need::Lease } else { Need::Answers };
            return Ok(());
        }
        let report = Report { severity: Severity::Error, ..refuse::acquire(error) };
        self.refuse_request(&report)
    }

    /// Answers the request at the head of the inbox in the backend's stead.
    pub(super) fn refuse_request(&mut self, report: &Report) -> Result<(), End> {
        if self.retry.take().is_some() {
            // Part of it was sent once; what was taken cannot be told from what was not.
            return Err(Report { severity: Severity::Fatal, ..report.clone() }.into());
        }
        self.forget_trial();
        self.entry.set(Phase::Idle, Instant::now());
        self.tell_client(report);
        self.skipping = Skipping::Request;
        self.need = Need::Answers;
        Ok(())
    }
}
