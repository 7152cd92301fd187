//! Client bytes become server bytes. Messages are looked at by header; only statement names and texts are
//! read, and most bytes are passed on as they came.

use std::task::Context as Cx;
use std::time::Instant;

use super::aside::MISROUTED;
use super::entry::Phase;
use super::link::Link;
use super::names::Names;
use super::refuse;
use super::relay::Relay;
use super::serve::{End, Need, Session, Skipping};
use super::statements::OWN_PREFIX;
use super::trial::Stage;
use crate::sql::{Deallocate, Facts, may_commit, mentions_token};
use crate::wire::backend::Transaction;
use crate::wire::flow::{Owed, Own};
use crate::wire::frontend::{self, BindHead, Parse};
use crate::wire::{Header, Origin, encode, frame};

/// Queries up to this length are kept until they are whole and analysed. Longer ones are streamed, and
/// the session keeps its backend, since nobody knows what is in them.
pub(super) const ANALYSED: usize = 1024 * 1024;

/// Prepared statements must be whole, since they may have to be sent again on another backend.
const PREPARED: usize = 16 * 1024 * 1024;

/// The functions that libpq's lo_* are made of, by their numbers in pg_proc (pg_proc.dat): lo_open, lo_close,
/// loread, lowrite, lo_lseek, lo_creat, lo_create, lo_tell, lo_truncate, lo_unlink, and those for 64 bits.
const LARGE_OBJECT_FUNCTIONS: [u32; 13] = [952, 953, 954, 955, 956, 957, 715, 958, 1004, 964, 3170, 3171, 3172];

/// What became of a message.
pub(super) enum Taken {
    Yes,
    Not(Need),
}

impl Session {
    /// Takes what can be taken of the client's bytes and sends it on. Says how many were taken; what the
    /// rest waits for stands in `need`.
    pub(super) fn upstream(&mut self, input: &[u8], cx: &mut Cx<'_>) -> Result<usize, End> {
        let mut out = self.core.take_write_buffer();
        let mut relay = Relay::new(input, &mut out);
        let within_message = self.rest > 0;
        self.begin_retry(&mut relay);
        let result = self.take_messages(&mut relay);
        if self.rest == 0 && self.link.as_ref().is_some_and(|link| link.lease.conn.backend.flow.unsynced()) {
            self.flush_handover(&mut relay);
        }
        let consumed = relay.consumed();
        let written = relay.finish();
        if let Some(link) = self.link.as_mut()
            && !written.is_empty()
        {
            if let Some(handover) = link.handover.as_mut().filter(|handover| handover.held.is_empty()) {
                handover.held.extend_from_slice(written.get(handover.starts..).unwrap_or_default());
                handover.closed = true;
            }
            let stream = &mut link.lease.conn.backend.stream;
            if link.to_server.write(stream, cx, written).is_err() {
                link.write_failed = true;
            }
        }
        self.core.give_write_buffer(out);
        if within_message {
            // The transaction may be over since: an error in a COPY ends it in the middle of a message.
            self.release_if_done();
        }
        result.map(|()| consumed)
    }

    fn take_messages(&mut self, relay: &mut Relay<'_>) -> Result<(), End> {
        loop {
            let input = relay.rest();
            if input.is_empty() {
                self.need = Need::Bytes;
                return Ok(());
            }
            if self.rest > 0 {
                // On another try the message is sent again from its start, so no more of it goes out yet.
                if self.link.as_ref().is_some_and(Link::awaits_handover) {
                    self.need = Need::Answers;
                    return Ok(());
                }
                let n = self.rest.min(input.len());
                if self.rest_dropped {
                    relay.skip(n)
                } else {
                    relay.forward(n)
                }
                self.rest -= n;
                continue;
            }
            if self.gated() {
                self.need = Need::Answers;
                return Ok(());
            }
            let header = match Header::read(input, Origin::Client) {
                Ok(Some(header)) => header,
                Ok(None) => {
                    self.need = Need::Bytes;
                    return Ok(());
                }
                Err(error) => return Err(refuse::header(&error).into()),
            };
            if self.skipping != Skipping::Nothing {
                self.skip_request(header, relay);
                continue;
            }
            match self.take_message(header, relay)? {
                Taken::Yes => {
                    if self.link.as_ref().is_some_and(|link| link.trial != Stage::Off) {
                        self.note_sent(header.total);
                    }
                    if let Some(link) = self.link.as_mut().filter(|link| link.replay.is_on()) {
                        link.replay.sent(header.tag, input.get(..header.total));
                    }
                }
                Taken::Not(need) => {
                    self.need = need;
                    return Ok(());
                }
            }
        }
    }

    /// A request that was refused is dropped up to its end, which is answered.
    fn skip_request(&mut self, header: Header, relay: &mut Relay<'_>) {
        self.drop_message(header, relay);
        // The server ignores a Query too before the Sync (ignore_till_sync in postgres.c).
        let ends = header.tag == b'S' || (self.skipping == Skipping::Request && matches!(header.tag, b'Q' | b'F'));
        self.skipping = if ends { Skipping::Nothing } else { Skipping::ToSync };
        if ends {
            self.to_client.queue(encode::READY);
        }
    }

    pub(super) fn drop_message(&mut self, header: Header, relay: &mut Relay<'_>) {
        let here = header.total.min(relay.rest().len());
        relay.skip(here);
        self.rest = header.total - here;
        self.rest_dropped = true;
    }

    pub(super) fn pass_message(&mut self, header: Header, relay: &mut Relay<'_>) {
        let here = header.total.min(relay.rest().len());
        if here < header.total {
            self.flush_handover(relay);
        }
        relay.forward(here);
        self.rest = header.total - here;
        self.rest_dropped = false;
    }

    fn take_message(&mut self, header: Header, relay: &mut Relay<'_>) -> Result<Taken, End> {
        let whole = relay.rest().get(frame::HEADER..header.total);
        let harmless = self.is_harmless(header, whole);
        // Nothing that pgward answers itself is harmless. Who has such a statement may name it without saying what it is.
        if (self.aside.is_some() || !harmless)
            && let Some(taken) = self.take_aside(header, relay)?
        {
            return Ok(taken);
        }
        let requests = matches!(header.tag, b'Q' | b'P' | b'B' | b'D' | b'E');
        if requests
            && self.link.is_none()
            && let Some(need) = self.aim(relay.rest())?
        {
            return Ok(Taken::Not(need));
        }
        match header.tag {
            b'Q' => {
                if whole.is_none() && header.total <= ANALYSED {
                    return Ok(Taken::Not(Need::Bytes));
                }
                if !self.linked(relay) {
                    return Ok(Taken::Not(Need::Lease));
                }
                self.query(header, whole, harmless, relay)?;
            }
            b'P' | b'D' | b'C' => {
                if header.total > PREPARED {
                    return Err(refuse::statement_too_long().into());
                }
                let Some(body) = whole else { return Ok(Taken::Not(Need::Bytes)) };
                if header.tag == b'P' && self.awaits_name(body) {
                    return Ok(Taken::Not(Need::Answers));
                }
                if header.tag == b'C' && self.closes_aside(body) {
                    self.drop_message(header, relay);
                    return Ok(Taken::Yes);
                }
                if !self.linked(relay) {
                    return Ok(Taken::Not(Need::Lease));
                }
                match header.tag {
                    b'P' => self.parse(header, body, harmless, relay)?,
                    b'D' => self.describe(header, body, relay)?,
                    _ => self.close(header, body, relay)?,
                }
            }
            b'B' => return self.take_bind(header, relay),
            b'E' => {
                if !self.linked(relay) {
                    return Ok(Taken::Not(Need::Lease));
                }
                self.owe(Owed::Execute);
                // A portal from before could be of any statement.
                self.link.as_mut().into_iter().for_each(|link| link.may_commit |= !link.bound);
                self.pass_message(header, relay);
            }
            b'S' => self.sync(header, relay),
            b'H' if self.link.is_some() => self.pass_message(header, relay),
            b'H' => self.drop_message(header, relay),
            b'd' | b'c' | b'f' => self.copy(header, relay),
            b'F' => return self.function_call(header, relay),
            b'X' => return Err(End::Client),
            other => return Err(refuse::malformed(other).into()),
        }
        Ok(Taken::Yes)
    }

    /// Whether it has no text that could do anything to the session.
    fn is_harmless(&self, header: Header, whole: Option<&[u8]>) -> bool {
        match (header.tag, whole) {
            (b'Q', Some(body)) => frontend::query_text(body).is_some_and(|text| self.core.is_harmless(text, false)),
            (b'P', Some(body)) => Parse::read(body).is_some_and(|parse| self.core.is_harmless(parse.text, true)),
            (b'Q' | b'P', None) => false,
            _ => true,
        }
    }

    fn take_bind(&mut self, header: Header, relay: &mut Relay<'_>) -> Result<Taken, End> {
        let whole = relay.rest().get(frame::HEADER..header.total);
        let seen = relay.rest().get(frame::HEADER..header.total.min(relay.rest().len())).unwrap_or_default();
        let Some(head) = BindHead::read(seen) else {
            let hopeless = whole.is_some() || seen.len() > ANALYSED;
            return if hopeless { Err(refuse::malformed(b'B').into()) } else { Ok(Taken::Not(Need::Bytes)) };
        };
        let known = self.names.resolve(head.statement);
        if self.names_setting(head.statement, &known) {
            // It may be the token's, which is not for a server.
            let Some(body) = whole else {
                let long = header.total > ANALYSED;
                return if long { Err(refuse::malformed(b'B').into()) } else { Ok(Taken::Not(Need::Bytes)) };
            };
            if mentions_token(body) && self.linked(relay) {
                self.misplaced(header, relay);
                return Ok(Taken::Yes);
            }
        }
        if !self.linked(relay) {
            return Ok(Taken::Not(Need::Lease));
        }
        if self.checks(header, head.statement, &known, relay) {
            return Ok(Taken::Not(Need::Answers));
        }
        self.note_bound(head.statement)?;
        // It has no parameters: a Bind that is longer is the server's to refuse.
        if whole.is_some() && self.comes_too_late(|names| names.text(head.statement)) {
            self.refused_by_server(MISROUTED, header, relay);
            return Ok(Taken::Yes);
        }
        self.note_commit(|names| names.text(head.statement).is_none_or(may_commit));
        self.bind(header, &head, known, relay);
        Ok(Taken::Yes)
    }

    /// Takes note of an answer owed.
    pub(super) fn owe(&mut self, owed: Owed) {
        let Some(link) = self.link.as_mut() else { return };
        if link.at_rest {
            link.at_rest = false;
            if !self.pins.is_empty() || link.transaction != Transaction::Idle {
                let now = Instant::now();
                link.since = if !self.pins.is_empty() { now } else { link.since };
                self.entry.set(Phase::Active, now);
            }
        }
        // Outside of a transaction whatever runs commits by itself.
        link.may_commit |= link.transaction == Transaction::Idle;
        link.lease.conn.backend.flow.push(owed);
        let skipped = link.lease.conn.backend.flow.skipping();
        if matches!(owed, Owed::Query | Owed::Sync) {
            self.reading.iter_mut().for_each(|reading| reading.note_request());
        }
        if let Some(handover) = &mut link.handover
            && matches!(owed, Owed::Query | Owed::Sync)
        {
            handover.closed = true;
        }
        if skipped {
            self.lose(|flow, lost| flow.skip(lost));
        } else if matches!(owed, Owed::Own(_)) {
            self.give_own();
        }
    }

    /// Gives answers of pgward's own whose turn it is.
    pub(super) fn give_own(&mut self) {
        let Some(link) = self.link.as_mut() else { return };
        if link.handover.is_some() {
            return;
        }
        while let Some(own) = link.lease.conn.backend.flow.next_own() {
            if own == Own::ParseComplete {
                self.names.confirmed();
            }
            self.to_client.queue(own.message());
        }
    }

    /// What a statement does to the session.
    pub(super) fn apply(&mut self, facts: &Facts, lets_go: bool) {
        if !lets_go && *facts == Facts::default() {
            return;
        }
        self.touch(facts, lets_go);
        let Some(link) = self.link.as_mut() else { return };
        match &facts.deallocates {
            // Another statement's, by SQL's PREPARE.
            Some(Deallocate::One(name)) if !name.as_bytes().starts_with(OWN_PREFIX) => {}
            Some(_) => {
                link.prepared_doubtful = true;
                link.unsure = true;
                link.lease.conn.prepared.clear();
            }
            None => {}
        }
    }

    /// Takes note of a statement that may commit the transaction it is sent in.
    fn note_commit(&mut self, may: impl FnOnce(&Names) -> bool) {
        if let Some(link) = self.link.as_mut().filter(|link| link.transaction != Transaction::Idle) {
            link.may_commit = link.may_commit || may(&self.names);
        }
    }

    fn query(
        &mut self,
        header: Header,
        whole: Option<&[u8]>,
        harmless: bool,
        relay: &mut Relay<'_>,
    ) -> Result<(), End> {
        let text = match whole {
            Some(body) => Some(frontend::query_text(body).ok_or_else(|| refuse::malformed(b'Q'))?),
            None => None,
        };
        let facts = match text {
            _ if harmless => Facts::default(),
            Some(text) => self.core.analyser.borrow_mut().facts_unless_harmless(text),
            None => Facts::unknown(),
        };
        self.note_statement(text, header.total.saturating_sub(frame::HEADER + 1))?;
        self.note_commit(|_| text.is_none_or(may_commit));
        self.make_way(text.unwrap_or_default());
        let stand_in = self.deallocate(&facts, relay).map(String::into_bytes);
        let instead = stand_in.or_else(|| self.rename_channels(&facts, text?));
        let instead = if facts.token {
            self.note_denial(&refuse::token_misplaced());
            Some(refuse::by_server(&refuse::token_misplaced()))
        } else if self.comes_too_late(|_| text) {
            Some(refuse::by_server(&refuse::route_too_late()))
        } else {
            instead
        };
        self.owe(Owed::Query);
        if !facts.token {
            self.apply(&facts, text.is_some_and(|text| self.lets_go(text)));
        }
        if facts.channels {
            self.note_unlisten(text.unwrap_or_default(), false);
        }
        // A simple query drops the unnamed statement (exec_simple_query in postgres.c).
        self.names.forget_unnamed();
        if let Some(link) = self.link.as_mut() {
            link.unnamed_known = false;
            link.unnamed_copy = None;
        }
        match instead {
            Some(text) => {
                frontend::put_text(relay.own(), b'Q', &text);
                relay.skip(header.total);
            }
            None => self.pass_message(header, relay),
        }
        Ok(())
    }

    fn sync(&mut self, header: Header, relay: &mut Relay<'_>) {
        if self.link.is_some() {
            self.owe(Owed::Sync);
            self.pass_message(header, relay);
        } else {
            self.drop_message(header, relay);
            self.to_client.queue(encode::READY);
        }
    }

    /// Copy data outside of a COPY is ignored, as PostgreSQL does: a client may still be sending when
    /// its COPY has failed.
    fn copy(&mut self, header: Header, relay: &mut Relay<'_>) {
        let expected = self.link.as_mut().filter(|link| !link.lease.conn.backend.flow.is_empty());
        match expected {
            Some(link) => {
                let flow = &mut link.lease.conn.backend.flow;
                if header.tag == b'd' {
                    flow.copy_data()
                } else {
                    flow.copy_ended()
                }
                self.pass_message(header, relay);
            }
            None => self.drop_message(header, relay),
        }
    }

    /// Large objects have their own functions, which libpq calls by the fast path. They are let through in a
    /// database that is one tenant's alone; any other function could change what nobody would look for.
    fn function_call(&mut self, header: Header, relay: &mut Relay<'_>) -> Result<Taken, End> {
        let Some(function) = relay.rest().get(frame::HEADER..).and_then(|body| body.first_chunk()) else {
            return Ok(Taken::Not(Need::Bytes));
        };
        let function = u32::from_be_bytes(*function);
        let large_object = LARGE_OBJECT_FUNCTIONS.contains(&function);
        if large_object && self.hearing.key.is_none() {
            if self.link.is_none() {
                self.aim_blindly();
            }
            if !self.linked(relay) {
                return Ok(Taken::Not(Need::Lease));
            }
            self.note_function(function)?;
            self.owe(Owed::Query);
            self.pass_message(header, relay);
            return Ok(Taken::Yes);
        }
        self.drop_message(header, relay);
        if self.link.is_some() {
            self.owe(Owed::Query);
            self.note_denial(&refuse::function_call());
            frontend::put_text(relay.own(), b'Q', refuse::FUNCTION_CALL);
        } else {
            self.tell_client(&refuse::function_call());
            self.to_client.queue(encode::READY);
        }
        Ok(Taken::Yes)
    }
}
