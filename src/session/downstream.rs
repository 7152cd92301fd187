//! Server bytes become client bytes. Messages are looked at by header: hand-over answers and answers to
//! what pgward added are kept back, ReadyForQuery tells when the backend can go.

use std::task::Context as Cx;
use std::time::Instant;

use super::aside::{MISPLACED, MISROUTED};
use super::entry::Phase;
use super::names::Describing;
use super::refuse;
use super::relay::Relay;
use super::serve::{End, Session};
use super::state;
use super::statements::STALE;
use super::trial::{Leaving, Stage};
use crate::base::Report;
use crate::telemetry::add;
use crate::wire::backend::{self as answer, Transaction};
use crate::wire::encode;
use crate::wire::flow::{Described, Fate, Flow, Lost, Own};
use crate::wire::handover::Step;
use crate::wire::{Header, Origin, frame};
use bytes::BytesMut;

/// Messages that are read, rather than passed on, are awaited whole up to this length. A longer error
/// text is passed on without its SQLSTATE being counted.
const READ_WHOLE: usize = 16 * 1024;

/// What `pgward.tenant()` says of a context that is forged, changed, copied or too old
/// (context.sql).
const NOT_GENUINE: &[u8] = b"pgward: the tenant context of this session is not genuine";

/// How the look at one message ended.
pub(super) enum Seen {
    Next,
    /// The rest of it has not arrived.
    Cut,
    /// The hand-over failed: the backend is gone, another one is wanted.
    Lost,
}

impl Session {
    /// Takes what the server sent, all of it, and passes on what is the client's.
    pub(super) fn downstream(&mut self, input: &[u8], cx: &mut Cx<'_>) -> Result<(), End> {
        let mut out = self.core.take_write_buffer();
        let mut relay = Relay::new(input, &mut out);
        let result = self.see_messages(&mut relay);
        let cut = relay.rest();
        if let Some(link) = self.link.as_mut() {
            link.lease.conn.backend.cut.extend_from_slice(cut);
        }
        let written = relay.finish();
        add(&self.core.stats.bytes_to_clients, written.len() as u64);
        let sent = self.to_client.write(&mut self.client, cx, written);
        self.core.give_write_buffer(out);
        result?;
        sent.map_err(|_| End::Client)?;
        self.release_if_done();
        Ok(())
    }

    fn see_messages(&mut self, relay: &mut Relay<'_>) -> Result<(), End> {
        loop {
            let Some(link) = self.link.as_mut() else { return Ok(()) };
            let backend = &mut link.lease.conn.backend;
            if link.handover.is_none() {
                while let Some(own) = backend.flow.next_own() {
                    if own == Own::ParseComplete {
                        self.names.confirmed();
                    }
                    if link.trial == Stage::On {
                        self.reading.iter_mut().for_each(|reading| reading.trial.hold_own(own));
                    } else {
                        relay.own().extend_from_slice(own.message());
                    }
                }
            }
            let input = relay.rest();
            if input.is_empty() {
                return Ok(());
            }
            if backend.rest > 0 {
                let n = backend.rest.min(input.len());
                backend.rest -= n;
                relay.forward(n);
                continue;
            }
            let header = match Header::read(input, Origin::Server) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.garbled(&error.to_string())),
            };
            match self.see_message(header, relay)? {
                Seen::Next => {}
                Seen::Cut => return Ok(()),
                Seen::Lost => {
                    relay.skip(input.len());
                    return Ok(());
                }
            }
        }
    }

    fn see_message(&mut self, header: Header, relay: &mut Relay<'_>) -> Result<Seen, End> {
        let input = relay.rest();
        let Some(link) = self.link.as_mut() else { return Ok(Seen::Next) };
        let here = header.total.min(input.len());
        let whole = here == header.total;
        let own = link.handover.is_some() || link.inquiry.is_some();
        if !own && matches!(header.tag, b'D' | b'd') {
            self.end_trial(relay);
            return Ok(self.forward(header, here, relay));
        }
        if !whole && (header.total <= READ_WHOLE || link.inquiry.is_some()) {
            return Ok(Seen::Cut);
        }
        if !whole && link.handover.is_some() {
            // Nothing long is to be expected.
            return self.handover_failed(b"");
        }
        let body = input.get(frame::HEADER..here).unwrap_or_default();
        if let Some(handover) = &mut link.handover {
            let step = handover.checker.take(header.tag, body);
            return match step {
                Step::Continue | Step::Done => {
                    relay.skip(here);
                    if step == Step::Done {
                        self.handed_over();
                    }
                    Ok(Seen::Next)
                }
                Step::Failed => self.handover_failed(if header.tag == b'E' { body } else { b"" }),
            };
        }
        if link.inquiry.is_some()
            && matches!(header.tag, b'1' | b'2' | b'D' | b'C' | b'E' | b'Z')
            && !is_fatal_error(header.tag, body)
        {
            relay.skip(here);
            return self
                .answer(header.tag, body)
                .map(|()| Seen::Next)
                .ok_or_else(|| self.garbled("the answer to a question of pgward's own"));
        }
        if header.tag == b'A' && (self.hearing.key.is_some() || self.mail.is_some()) {
            relay.skip(here);
            self.notify(body, relay.own());
            return Ok(Seen::Next);
        }
        if header.tag == b'E' {
            return self.see_error(header, here, body, relay);
        }
        self.see_answer(header, here, body, relay)
    }

    fn see_error(&mut self, header: Header, here: usize, body: &[u8], relay: &mut Relay<'_>) -> Result<Seen, End> {
        let Some(link) = self.link.as_mut() else { return Ok(Seen::Next) };
        let fatal = is_fatal(body);
        let refused = match link.lease.conn.backend.flow.statement_in_turn() {
            Some(STALE) => Some(refuse::stale_plan()),
            Some(MISPLACED) => Some(refuse::token_misplaced()),
            Some(MISROUTED) => Some(refuse::route_too_late()),
            _ => None,
        };
        if let Some(report) = refused.filter(|_| !fatal) {
            self.lose(|flow, lost| flow.error(lost));
            self.end_trial(relay);
            relay.skip(here);
            self.put_report(&report, relay);
            return Ok(Seen::Next);
        }
        if fatal && (self.lost_between() || self.leave_replica(Leaving::Told)) {
            return Ok(Seen::Lost);
        }
        let replays = if is_outdated(body) { self.replays() } else { self.tries_elsewhere(body) };
        self.error(body, replays);
        if replays {
            relay.skip(here);
            return Ok(Seen::Next);
        }
        self.end_trial(relay);
        let seen = self.forward(header, here, relay);
        if fatal { Err(End::ServerSaid) } else { Ok(seen) }
    }

    fn see_answer(&mut self, header: Header, here: usize, body: &[u8], relay: &mut Relay<'_>) -> Result<Seen, End> {
        let Some(link) = self.link.as_mut() else { return Ok(Seen::Next) };
        if link.replay.is_on() && !matches!(header.tag, b'N' | b'S' | b'A') {
            link.no_replay();
        }
        let trial = link.trial;
        let hides_rest = link.replay.awaits_rest() || trial == Stage::Again;
        let conn = &mut link.lease.conn;
        let described = matches!(header.tag, b'T' | b'n')
            && matches!(conn.backend.flow.describes(), Some(Described::Statement(_) | Described::Hidden));
        let fate = conn.backend.flow.take(header.tag, body);
        match fate {
            Fate::Hide => relay.skip(here),
            Fate::Unexpected => return Err(self.garbled(&format!("a message of type '{}'", char::from(header.tag)))),
            Fate::Settled(_) if hides_rest => relay.skip(here),
            Fate::Forward | Fate::Settled(_)
                if trial == Stage::On && self.hold(header.tag, here, here == header.total, relay) => {}
            Fate::Forward | Fate::Settled(_) => {
                self.forward(header, here, relay);
            }
        }
        match (header.tag, fate) {
            (b'1', Fate::Forward) => self.names.confirmed(),
            _ if described => self.described(body),
            (b'S', _) => self.setting_reported(),
            // DISCARD, DEALLOCATE, ROLLBACK
            (b'C', _) if matches!(body.first_chunk(), Some(b"DI" | b"DE" | b"RO")) => self.command_completed(body),
            (_, Fate::Settled(transaction)) => self.settled(transaction),
            _ => {}
        }
        Ok(Seen::Next)
    }

    /// Passes a message on, the rest of it as it comes.
    fn forward(&mut self, header: Header, here: usize, relay: &mut Relay<'_>) -> Seen {
        relay.forward(here);
        if let Some(link) = self.link.as_mut() {
            link.lease.conn.backend.rest = header.total - here;
        }
        Seen::Next
    }

    fn put_report(&mut self, report: &Report, relay: &mut Relay<'_>) {
        let mut out = BytesMut::new();
        encode::report(&mut out, report);
        self.note_denial(report);
        self.core.stats.error(report.sqlstate.as_str().as_bytes());
        relay.own().extend_from_slice(&out);
    }

    fn settled(&mut self, transaction: Transaction) {
        let Some(link) = self.link.as_mut() else { return };
        let inquires = transaction == Transaction::Idle && link.touched.is_some();
        link.transaction = transaction;
        link.at_rest = true;
        link.may_commit = false;
        link.unsure = false;
        link.bound = false;
        link.unnamed_copy = None;
        link.deallocating = None;
        if transaction == Transaction::Idle {
            add(&self.core.stats.transactions, 1);
            if !self.pins.is_empty() {
                let now = Instant::now();
                self.core.stats.transaction_time.record(now.duration_since(link.since));
                self.entry.set(Phase::Idle, now);
            }
        } else {
            self.entry.set(Phase::IdleInTransaction, Instant::now());
        }
        if transaction == Transaction::Idle {
            self.end_unlistens();
        }
        if inquires {
            self.inquire(state::TRIES);
        }
        if self.link.as_ref().is_some_and(|link| link.trial == Stage::Again) {
            self.ask_elsewhere();
        } else if self.link.as_ref().is_some_and(|link| link.replay.awaits_rest()) {
            self.replay();
        } else {
            self.replayed = 0;
        }
    }

    /// An ErrorResponse to something of the client's.
    fn error(&mut self, body: &[u8], hidden: bool) {
        if !hidden {
            let state = answer::sqlstate(body);
            if state == Some(*b"28000") && answer::field(body, b'M') == Some(NOT_GENUINE) {
                self.note_forgery();
            }
            self.core.stats.error(state.as_ref().map_or(b"".as_slice(), |state| state));
        }
        if is_outdated(body) {
            self.renew_statement();
        }
        if let Some(link) = self.link.as_mut()
            && answer::field(body, b'R') == Some(b"CopyGetData")
        {
            link.lease.conn.backend.flow.copy_refused();
        }
        self.lose(|flow, lost| flow.error(lost));
        if let Some(link) = self.link.as_mut() {
            link.unlistens = Vec::new();
        }
    }

    /// A table was altered, so the plan that the backend keeps does not fit what it told whoever prepared it.
    fn renew_statement(&mut self) {
        let Some(link) = self.link.as_mut() else { return };
        link.unnamed_known = false;
        if let Some(id) = link.lease.conn.backend.flow.statement_in_turn() {
            let core = &self.core;
            self.names.outlived(id, |statement| core.renewed(statement));
        }
    }

    /// Takes note of what the server skips.
    pub(super) fn lose(&mut self, skip: impl FnOnce(&mut Flow, &mut dyn FnMut(Lost))) {
        let Some(link) = self.link.as_mut() else { return };
        let conn = &mut link.lease.conn;
        let names = &mut self.names;
        let prepared = &mut conn.prepared;
        skip(&mut conn.backend.flow, &mut |lost| match lost {
            Lost::Parse { statement, asked } => {
                if let Some(statement) = statement {
                    prepared.forget(statement);
                }
                if asked {
                    names.lost();
                }
                link.unnamed_known &= statement.is_some();
            }
            Lost::Describe => {
                if let Some(Describing::Check(_)) = names.describing.pop_front() {
                    link.checking = false;
                }
            }
            Lost::Close => {
                link.prepared_doubtful = true;
                link.unnamed_known = false;
            }
        });
    }

    fn garbled(&self, what: &str) -> End {
        tracing::error!(tenant = %self.terms.id, what, "a server's answer was not what was expected; its backend is closed");
        refuse::server_garbled(self.loss()).into()
    }
}

/// The plan of a prepared statement does not fit its tables any more (plancache.c).
fn is_outdated(body: &[u8]) -> bool {
    answer::sqlstate(body) == Some(*b"0A000") && answer::field(body, b'R') == Some(b"RevalidateCachedQuery")
}

fn is_fatal_error(tag: u8, body: &[u8]) -> bool {
    tag == b'E' && is_fatal(body)
}

/// FATAL and PANIC end the connection (field V, never translated).
fn is_fatal(body: &[u8]) -> bool {
    matches!(answer::field(body, b'V'), Some(b"FATAL" | b"PANIC"))
}
