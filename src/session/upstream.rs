//! Client bytes become server bytes. Messages are looked at by header; only statement names and texts are
//! read, and most bytes are passed on as they came.

use std::rc::Rc;
use std::task::Context as Cx;
use std::time::Instant;

use super::entry::Phase;
use super::refuse;
use super::relay::Relay;
use super::serve::{End, Handover, Link, Need, Session};
use crate::pool::{Request, Statement, statement_name};
use crate::sql::{Facts, Pin};
use crate::telemetry::add;
use crate::wire::flow::{Owed, Own};
use crate::wire::frontend::{self, BindHead, Named, Parse};
use crate::wire::handover::{self, Checker};
use crate::wire::{Header, Origin, encode, frame};

/// Queries up to this length are kept until they are whole and analysed. Longer ones are streamed, and
/// the session keeps its backend, since nobody knows what is in them.
const ANALYSED: usize = 1024 * 1024;

/// Prepared statements must be whole, since they may have to be sent again on another backend.
const PREPARED: usize = 16 * 1024 * 1024;

/// Statement names that backends know mean nothing in a client's mouth.
const OWN_PREFIX: &[u8] = b"pgward_";

/// What became of a message.
enum Taken {
    Yes,
    Not(Need),
}

impl Session {
    /// Takes what can be taken of the client's bytes and sends it on. Says how many were taken; what the
    /// rest waits for stands in `need`.
    pub(super) fn upstream(&mut self, input: &[u8], cx: &mut Cx<'_>) -> Result<usize, End> {
        let mut out = self.core.take_write_buffer();
        let mut relay = Relay::new(input, &mut out);
        self.begin_retry(&mut relay);
        let result = self.take_messages(&mut relay);
        if self.rest == 0 && self.link.as_ref().is_some_and(|link| link.lease.conn.backend.flow.unsynced()) {
            self.flush_handover(&mut relay);
        }
        let consumed = relay.consumed();
        let written = relay.finish();
        if let Some(link) = &mut self.link
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
        result.map(|()| consumed)
    }

    /// After a failed hand-over: what was sent behind it goes to another backend, behind another one.
    fn begin_retry(&mut self, relay: &mut Relay<'_>) -> Option<()> {
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
        link.handover.as_mut()?.closed = true;
        Some(())
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
                if self.rest == 0 {
                    self.release_if_done();
                }
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
            if self.skipping {
                self.skip_request(header, relay);
                continue;
            }
            match self.take_message(header, relay)? {
                Taken::Yes => {}
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
        if matches!(header.tag, b'Q' | b'S' | b'F') {
            self.skipping = false;
            self.to_client.queue(encode::READY);
        }
    }

    fn drop_message(&mut self, header: Header, relay: &mut Relay<'_>) {
        let here = header.total.min(relay.rest().len());
        relay.skip(here);
        self.rest = header.total - here;
        self.rest_dropped = true;
    }

    fn pass_message(&mut self, header: Header, relay: &mut Relay<'_>) {
        let here = header.total.min(relay.rest().len());
        if here < header.total {
            self.flush_handover(relay);
        }
        relay.forward(here);
        self.rest = header.total - here;
        self.rest_dropped = false;
    }

    /// The server keeps its last answers to a hand-over in its buffer until it has answered a Query or a
    /// Sync. Where none follows in the same write, since the client has not sent it yet, a Flush does.
    fn flush_handover(&mut self, relay: &mut Relay<'_>) {
        let in_this_write = |handover: &Handover| handover.held.is_empty();
        if self.link.as_ref().is_some_and(|link| link.handover.as_ref().is_some_and(in_this_write)) {
            relay.own().extend_from_slice(frontend::FLUSH);
        }
    }

    fn take_message(&mut self, header: Header, relay: &mut Relay<'_>) -> Result<Taken, End> {
        let whole = relay.rest().get(frame::HEADER..header.total);
        match header.tag {
            b'Q' => {
                if whole.is_none() && header.total <= ANALYSED {
                    return Ok(Taken::Not(Need::Bytes));
                }
                if !self.linked(relay) {
                    return Ok(Taken::Not(Need::Lease));
                }
                self.query(header, whole, relay)?;
            }
            b'P' | b'D' | b'C' => {
                if header.total > PREPARED {
                    return Err(refuse::statement_too_long().into());
                }
                let Some(body) = whole else { return Ok(Taken::Not(Need::Bytes)) };
                if header.tag == b'P' && self.awaits_name(body) {
                    return Ok(Taken::Not(Need::Answers));
                }
                if !self.linked(relay) {
                    return Ok(Taken::Not(Need::Lease));
                }
                match header.tag {
                    b'P' => self.parse(header, body, relay)?,
                    b'D' => self.describe(header, body, relay)?,
                    _ => self.close(header, body, relay)?,
                }
            }
            b'B' => {
                let seen = relay.rest().get(frame::HEADER..header.total.min(relay.rest().len())).unwrap_or_default();
                let Some(head) = BindHead::read(seen) else {
                    let hopeless = whole.is_some() || seen.len() > ANALYSED;
                    return if hopeless { Err(refuse::malformed(b'B').into()) } else { Ok(Taken::Not(Need::Bytes)) };
                };
                if !self.linked(relay) {
                    return Ok(Taken::Not(Need::Lease));
                }
                self.bind(header, &head, relay);
            }
            b'E' => {
                if !self.linked(relay) {
                    return Ok(Taken::Not(Need::Lease));
                }
                self.owe(Owed::Execute);
                self.pass_message(header, relay);
            }
            b'S' => self.sync(header, relay),
            b'H' if self.link.is_some() => self.pass_message(header, relay),
            b'H' => self.drop_message(header, relay),
            b'd' | b'c' | b'f' => self.copy(header, relay),
            b'F' => self.function_call(header, relay),
            b'X' => return Err(End::Client),
            other => return Err(refuse::malformed(other).into()),
        }
        Ok(Taken::Yes)
    }

    /// Makes sure there is a backend that knows whom it serves.
    fn linked(&mut self, relay: &mut Relay<'_>) -> bool {
        if self.link.is_none() {
            let request =
                Request { context: &self.context, usage: &self.usage, max_leases: self.tenant.limits.max_leases };
            let Some(lease) = self.core.shard.try_acquire(&self.local, request) else { return false };
            self.link_up(lease);
        }
        let due = self.link.as_mut().is_some_and(|link| {
            // A pinned session that reset its settings gets its context back between transactions.
            let between = link.at_rest && link.transaction == crate::wire::backend::Transaction::Idle;
            link.handover_due |= link.reset && between;
            link.handover_due && between
        });
        if due {
            self.put_handover(relay);
        }
        true
    }

    fn put_handover(&mut self, relay: &mut Relay<'_>) {
        let Some(link) = &mut self.link else { return };
        let conn = &mut link.lease.conn;
        // A pinned session keeps what it has; it only lost its context.
        let discard = conn.used && self.pin.is_none();
        let switch = conn.context.as_ref().is_some_and(|before| before.tenant() != self.context.tenant());
        let gate = handover::gate();
        let settings = self.context.for_backend(conn.backend.pid, |settings| {
            handover::put(relay.own(), discard, settings, gate.as_bytes());
            !settings.is_empty()
        });
        // Until it is answered, nobody knows whom the backend would serve.
        conn.context = None;
        conn.used = true;
        if discard {
            conn.prepared.clear();
        }
        link.handover_due = false;
        link.reset = false;
        // The hand-over uses it.
        link.unnamed_known = false;
        link.handover = Some(Handover {
            checker: Checker::new(discard, settings),
            held: Vec::new(),
            starts: relay.written(),
            closed: false,
            switch,
        });
    }

    /// Takes note of an answer owed.
    fn owe(&mut self, owed: Owed) {
        let Some(link) = &mut self.link else { return };
        if link.at_rest {
            link.at_rest = false;
            if self.pin.is_some() || link.transaction != crate::wire::backend::Transaction::Idle {
                let now = Instant::now();
                link.since = if self.pin.is_some() { now } else { link.since };
                self.entry.set(Phase::Active, now);
            }
        }
        link.lease.conn.backend.flow.push(owed);
        let skipped = link.lease.conn.backend.flow.skipping();
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
    fn give_own(&mut self) {
        let Some(link) = &mut self.link else { return };
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
    fn apply(&mut self, facts: Facts) {
        if facts == Facts::default() {
            return;
        }
        let Some(link) = &mut self.link else { return };
        if let Some(pin) = facts.pin {
            if self.pin.is_none() {
                self.pin = Some(pin);
                self.entry.pinned.set(Some(pin.label()));
                self.core.stats.pin(pin.label());
            }
            link.lease.conn.dirty = true;
        }
        link.reset |= facts.resets;
        if facts.deallocates {
            link.prepared_doubtful = true;
            link.lease.conn.prepared.clear();
        }
    }

    fn query(&mut self, header: Header, whole: Option<&[u8]>, relay: &mut Relay<'_>) -> Result<(), End> {
        let facts = match whole {
            Some(body) => {
                let text = frontend::query_text(body).ok_or_else(|| refuse::malformed(b'Q'))?;
                self.core.analyser.borrow_mut().facts(text)
            }
            None => Facts { pin: Some(Pin::Unknown), ..Facts::default() },
        };
        self.owe(Owed::Query);
        self.apply(facts);
        // A simple query drops the unnamed statement (exec_simple_query in postgres.c).
        self.names.forget_unnamed();
        if let Some(link) = &mut self.link {
            link.unnamed_known = false;
        }
        self.pass_message(header, relay);
        Ok(())
    }

    /// A name is used again while the Parse that took it is not answered: whether it is taken is not
    /// known. Where a batch begins, that can be waited for.
    fn awaits_name(&mut self, body: &[u8]) -> bool {
        let again = || Parse::read(body).is_some_and(|parse| self.names.get(parse.name).is_some());
        if !self.names.awaits_answers() || !again() {
            return false;
        }
        let Some(link) = &mut self.link else { return false };
        link.unsure = true;
        self.gated()
    }

    fn parse(&mut self, header: Header, body: &[u8], relay: &mut Relay<'_>) -> Result<(), End> {
        let parse = Parse::read(body).ok_or_else(|| refuse::malformed(b'P'))?;
        if parse.name.is_empty() {
            self.names.unnamed.clear();
            self.names.unnamed.extend_from_slice(parse.definition);
            self.names.unnamed_facts = self.core.analyser.borrow_mut().facts(parse.text);
            self.names.asked_unnamed();
            if let Some(link) = &mut self.link {
                link.unnamed_known = true;
            }
            self.owe(Owed::Parse { statement: None, hidden: false });
            self.pass_message(header, relay);
            return Ok(());
        }
        if let Some(taken) = self.names.get(parse.name).cloned() {
            // The server says what it thinks of a name that is taken.
            self.make_known(&taken, relay);
            self.names.asked_again();
            self.owe(Owed::Parse { statement: None, hidden: false });
            frontend::put_parse(relay.own(), &statement_name(taken.id), &taken.definition);
        } else {
            if self.names.len() >= self.max_prepared {
                return Err(refuse::too_many_prepared(self.max_prepared).into());
            }
            let statement = self.core.statement(parse.definition, parse.text);
            self.names.asked(parse.name, Rc::clone(&statement));
            if self.knows(&statement) {
                self.owe(Owed::Own(Own::ParseComplete));
            } else {
                self.prepare(&statement, false, relay);
            }
        }
        relay.skip(header.total);
        Ok(())
    }

    fn knows(&mut self, statement: &Statement) -> bool {
        self.link.as_mut().is_some_and(|link| link.lease.conn.prepared.touch(statement.id))
    }

    /// Prepares a statement on the backend, unless it is.
    fn make_known(&mut self, statement: &Rc<Statement>, relay: &mut Relay<'_>) {
        if !self.knows(statement) {
            self.prepare(statement, true, relay);
        }
    }

    fn prepare(&mut self, statement: &Statement, hidden: bool, relay: &mut Relay<'_>) {
        let limit = self.local.pool.rules().prepared_per_backend;
        let Some(link) = &mut self.link else { return };
        link.unsure |= hidden;
        let evicted = link.lease.conn.prepared.add(statement.id, limit);
        let doubtful = link.prepared_doubtful.then_some(statement.id);
        for closed in evicted.into_iter().chain(doubtful) {
            self.owe(Owed::Close { hidden: true });
            frontend::put_statement(relay.own(), b'C', &statement_name(closed));
        }
        self.owe(Owed::Parse { statement: Some(statement.id), hidden });
        frontend::put_parse(relay.own(), &statement_name(statement.id), &statement.definition);
    }

    /// The unnamed statement may have been made on another backend. Where the session has none, the
    /// backend's is of pgward's own or of another session: it is closed, so that the server says so.
    fn make_unnamed_known(&mut self, relay: &mut Relay<'_>) {
        let Some(link) = self.link.as_mut().filter(|link| !link.unnamed_known) else { return };
        link.unnamed_known = true;
        link.unsure = true;
        if self.names.unnamed.is_empty() {
            self.owe(Owed::Close { hidden: true });
            frontend::put_statement(relay.own(), b'C', b"");
        } else {
            self.owe(Owed::Parse { statement: None, hidden: true });
            frontend::put_parse(relay.own(), b"", &self.names.unnamed);
        }
    }

    fn bind(&mut self, header: Header, head: &BindHead<'_>, relay: &mut Relay<'_>) {
        if relay.rest().len() < header.total {
            self.flush_handover(relay);
        }
        if head.statement.is_empty() {
            self.make_unnamed_known(relay);
            self.owe(Owed::Bind);
            self.apply(self.names.unnamed_facts);
            self.pass_message(header, relay);
            return;
        }
        let after = header.total - frame::HEADER - head.length;
        match self.names.get(head.statement).cloned() {
            Some(statement) => {
                self.make_known(&statement, relay);
                self.owe(Owed::Bind);
                self.apply(statement.facts);
                frontend::put_bind_head(relay.own(), head.portal, &statement_name(statement.id), after);
            }
            None => {
                self.owe(Owed::Bind);
                frontend::put_bind_head(relay.own(), head.portal, &foreign(head.statement), after);
            }
        }
        relay.skip(frame::HEADER + head.length);
        let here = after.min(relay.rest().len());
        relay.forward(here);
        self.rest = after - here;
        self.rest_dropped = false;
    }

    fn describe(&mut self, header: Header, body: &[u8], relay: &mut Relay<'_>) -> Result<(), End> {
        match Named::read(body).ok_or_else(|| refuse::malformed(b'D'))? {
            Named::Statement(b"") => {
                self.make_unnamed_known(relay);
                self.owe(Owed::Describe);
                self.pass_message(header, relay);
            }
            Named::Statement(name) => {
                let known = self.names.get(name).cloned();
                if let Some(statement) = &known {
                    self.make_known(statement, relay);
                }
                self.owe(Owed::Describe);
                match known {
                    Some(statement) => frontend::put_statement(relay.own(), b'D', &statement_name(statement.id)),
                    None => frontend::put_statement(relay.own(), b'D', &foreign(name)),
                }
                relay.skip(header.total);
            }
            Named::Portal(_) => {
                self.owe(Owed::Describe);
                self.pass_message(header, relay);
            }
        }
        Ok(())
    }

    /// A named statement is closed for the session only: others may share it on the backend.
    fn close(&mut self, header: Header, body: &[u8], relay: &mut Relay<'_>) -> Result<(), End> {
        match Named::read(body).ok_or_else(|| refuse::malformed(b'C'))? {
            Named::Statement(b"") => {
                self.names.forget_unnamed();
                self.owe(Owed::Close { hidden: false });
                self.pass_message(header, relay);
            }
            Named::Statement(name) => {
                self.names.close(name);
                self.owe(Owed::Own(Own::CloseComplete));
                relay.skip(header.total);
            }
            Named::Portal(_) => {
                self.owe(Owed::Close { hidden: false });
                self.pass_message(header, relay);
            }
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
                if header.tag != b'd' {
                    link.lease.conn.backend.flow.copy_ended();
                }
                self.pass_message(header, relay);
            }
            None => self.drop_message(header, relay),
        }
    }

    fn function_call(&mut self, header: Header, relay: &mut Relay<'_>) {
        self.drop_message(header, relay);
        if self.link.is_some() {
            self.owe(Owed::Query);
            frontend::put_text(relay.own(), b'Q', refuse::FUNCTION_CALL);
        } else {
            self.tell_client(&refuse::function_call());
            self.to_client.queue(encode::READY);
        }
    }

    /// A hand-over was answered as it should be.
    pub(super) fn handed_over(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some(handover) = link.handover.take() else { return };
        link.lease.conn.context = Some(std::sync::Arc::clone(&self.context));
        link.lease.conn.dirty &= self.pin.is_some();
        add(&self.core.stats.contexts, 1);
        add(&self.core.stats.tenant_switches, u64::from(handover.switch));
        self.handover_failures = 0;
        self.give_own();
    }
}

/// A statement name that the session did not make, spelled so that it can hit none of pgward's own.
fn foreign(name: &[u8]) -> Vec<u8> {
    if name.starts_with(OWN_PREFIX) { [b"unknown ", name].concat() } else { name.to_vec() }
}
