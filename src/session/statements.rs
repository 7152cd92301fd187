//! Prepared statements: the names that clients give them are the session's, the names that backends know are
//! pgward's, and each backend is told of a statement when it is first needed there.

use std::rc::Rc;

use super::aside::{MISPLACED, MISPLACED_NAME};
use super::names::{Describing, Resolved};
use super::refuse;
use super::relay::Relay;
use super::serve::{End, Session};
use crate::pool::{Statement, statement_name, text_of};
use crate::sql::{Deallocate, Facts};
use crate::wire::backend::{self as answer, Transaction};
use crate::wire::flow::{Described, Owed, Own, StatementId};
use crate::wire::frontend::{self, BindHead, Named, Parse};
use crate::wire::{Header, encode, frame, handover};

/// Statement names that backends know mean nothing in a client's mouth.
pub(super) const OWN_PREFIX: &[u8] = b"pgward_";

/// Stands for a statement that the server is made to refuse.
pub(super) const STALE: StatementId = StatementId::MAX;

impl Session {
    /// DEALLOCATE of a statement that the client prepared by the protocol. Others may share it on the
    /// backend, so an empty one is made to be deallocated in its stead; the text that does so.
    pub(super) fn deallocate(&mut self, facts: &Facts, relay: &mut Relay<'_>) -> Option<String> {
        let Some(Deallocate::One(name)) = &facts.deallocates else { return None };
        if self.names.get(name.as_bytes()).is_none() && !self.has_aside(name.as_bytes()) {
            return None;
        }
        let link = self.link.as_mut()?;
        link.deallocating = Some(Rc::clone(name));
        link.unsure = true;
        let stand_in = handover::gate();
        self.owe(Owed::Parse { statement: None, hidden: true });
        frontend::put_parse(relay.own(), stand_in.as_bytes(), b"\0\0\0");
        Some(format!("deallocate {stand_in}"))
    }

    /// A name is used again while the Parse that took it is not answered: whether it is taken is not
    /// known. Where a batch begins, that can be waited for.
    pub(super) fn awaits_name(&mut self, body: &[u8]) -> bool {
        let again = || Parse::read(body).is_some_and(|parse| self.names.get(parse.name).is_some());
        if !self.names.awaits_answers() || !again() {
            return false;
        }
        let Some(link) = self.link.as_mut() else { return false };
        link.unsure = true;
        self.gated()
    }

    /// `harmless`: its text can do nothing to the session.
    pub(super) fn parse(
        &mut self,
        header: Header,
        body: &[u8],
        harmless: bool,
        relay: &mut Relay<'_>,
    ) -> Result<(), End> {
        let parse = Parse::read(body).ok_or_else(|| refuse::malformed(b'P'))?;
        let facts =
            if harmless { Facts::default() } else { self.core.analyser.borrow_mut().facts_unless_harmless(parse.text) };
        if facts.token {
            self.names.asked_again();
            self.owe(Owed::Parse { statement: Some(MISPLACED), hidden: false });
            frontend::put_parse(relay.own(), MISPLACED_NAME, refuse::NO_STATEMENT);
            relay.skip(header.total);
            return Ok(());
        }
        self.make_way(parse.text);
        let renamed = self.rename_definition(&facts, parse.text, parse.definition);
        let definition = renamed.as_deref().unwrap_or(parse.definition);
        if parse.name.is_empty() {
            self.parse_unnamed(header, facts, definition, renamed.is_some(), relay);
            return Ok(());
        }
        if let Some(taken) = self.names.get(parse.name).map(|named| Rc::clone(&named.statement)) {
            // The server says what it thinks of a name that is taken.
            self.make_known(&taken, relay);
            self.names.asked_again();
            self.owe(Owed::Parse { statement: None, hidden: false });
            frontend::put_parse(relay.own(), &statement_name(taken.id), &taken.definition);
        } else {
            let limit = self.core.shared.world.load().settings.session.prepared_per_session;
            if self.names.len() >= limit {
                return Err(refuse::too_many_prepared(limit).into());
            }
            let statement = self.core.statement(definition, facts);
            self.names.asked(parse.name, Rc::clone(&statement));
            let known = self.knows(&statement);
            if known {
                // The server reads the text afresh, so that the client learns what is true now.
                self.spend_unnamed(Some(&statement));
                self.owe(Owed::Parse { statement: None, hidden: false });
                frontend::put_parse(relay.own(), b"", &statement.definition);
            } else {
                self.prepare(&statement, false, relay);
            }
            let name = if known { Vec::new() } else { statement_name(statement.id).to_vec() };
            self.owe_description(Described::Hidden, Describing::Learn(statement));
            frontend::put_statement(relay.own(), b'D', &name);
        }
        relay.skip(header.total);
        Ok(())
    }

    /// Neither the session nor its backend has an unnamed statement of the session's any more.
    pub(super) fn forget_unnamed(&mut self) {
        self.names.forget_unnamed();
        self.spend_unnamed(None);
    }

    fn rename_definition(&mut self, facts: &Facts, text: &[u8], definition: &[u8]) -> Option<Vec<u8>> {
        let renamed = self.rename_channels(facts, text)?;
        Some([&renamed, definition.get(text.len()..).unwrap_or_default()].concat())
    }

    /// Has backends know a statement from now on that pgward answered itself so far.
    pub(super) fn adopt(&mut self, name: &[u8], definition: &[u8]) {
        let text = text_of(definition);
        let facts = self.core.analyser.borrow_mut().facts(text);
        let renamed = self.rename_definition(&facts, text, definition);
        let definition = renamed.as_deref().unwrap_or(definition);
        if name.is_empty() {
            self.names.forget_unnamed();
            self.names.set_unnamed_facts(facts);
            self.names.unnamed.extend_from_slice(definition);
            self.spend_unnamed(None);
        } else {
            self.names.adopt(name, self.core.statement(definition, facts));
        }
    }

    fn parse_unnamed(&mut self, header: Header, facts: Facts, definition: &[u8], renamed: bool, relay: &mut Relay<'_>) {
        let stand_in = self.deallocate(&facts, relay);
        self.names.forget_unnamed();
        self.names.set_unnamed_facts(facts);
        self.names.asked_unnamed();
        self.spend_unnamed(None);
        if let Some(link) = self.link.as_mut() {
            link.unnamed_known = true;
        }
        match &stand_in {
            Some(text) => {
                self.names.unnamed.extend_from_slice(text.as_bytes());
                self.names.unnamed.extend_from_slice(b"\0\0\0");
            }
            None => self.names.unnamed.extend_from_slice(definition),
        }
        // Where the server skips it, owing takes the text away again.
        let definition = (stand_in.is_some() || renamed).then(|| self.names.unnamed.clone());
        self.owe(Owed::Parse { statement: None, hidden: false });
        if let Some(definition) = definition {
            frontend::put_parse(relay.own(), b"", &definition);
            relay.skip(header.total);
        } else {
            self.pass_message(header, relay);
        }
    }

    /// The backend's unnamed statement is not the session's any more.
    fn spend_unnamed(&mut self, copy: Option<&Rc<Statement>>) {
        if let Some(link) = self.link.as_mut() {
            link.unnamed_known = false;
            link.unnamed_copy = copy.cloned();
        }
    }

    /// What this statement is called on the backend in this batch; `None`: nothing, it is the unnamed one.
    fn own_name(&mut self, statement: &Rc<Statement>, relay: &mut Relay<'_>) -> Option<[u8; 23]> {
        let copy = self.link.as_ref().and_then(|link| link.unnamed_copy.as_ref());
        if copy.is_some_and(|copy| Rc::ptr_eq(copy, statement)) {
            return None;
        }
        if !self.knows(statement) {
            self.prepare(statement, true, relay);
            self.owe_description(Described::Hidden, Describing::Learn(Rc::clone(statement)));
            frontend::put_statement(relay.own(), b'D', &statement_name(statement.id));
        }
        Some(statement_name(statement.id))
    }

    pub(super) fn owe_description(&mut self, described: Described, why: Describing) {
        // First, since an answer that will never come takes it away again.
        self.names.describing.push_back(why);
        self.owe(Owed::Describe(described));
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
        let Some(link) = self.link.as_mut() else { return };
        link.unsure |= hidden;
        let evicted = link.lease.conn.prepared.add(statement.id, limit);
        let doubtful = link.lease.conn.prepared.take_outlived(statement.id) || link.prepared_doubtful;
        let doubtful = doubtful.then_some(statement.id);
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
        link.unnamed_copy = None;
        link.unsure = true;
        if self.names.unnamed.is_empty() {
            self.owe(Owed::Close { hidden: true });
            frontend::put_statement(relay.own(), b'C', b"");
        } else {
            self.owe(Owed::Parse { statement: None, hidden: true });
            frontend::put_parse(relay.own(), b"", &self.names.unnamed);
        }
    }

    /// Where the backend does not know a statement whose rows were described to the client, it is prepared
    /// and described again first: rows of another make would be misread. `true`: the answer is awaited.
    pub(super) fn checks(&mut self, header: Header, name: &[u8], known: &Resolved, relay: &mut Relay<'_>) -> bool {
        if known.told.is_none() || known.stale || Self::asks_anew(header, relay) {
            return false;
        }
        let own_name = match &known.statement {
            Some(statement) if !self.knows(statement) => {
                self.make_known(statement, relay);
                statement_name(statement.id).to_vec()
            }
            None if self.link.as_ref().is_some_and(|link| !link.unnamed_known) => {
                self.make_unnamed_known(relay);
                Vec::new()
            }
            _ => return false,
        };
        self.owe_description(Described::Hidden, Describing::Check(name.into()));
        frontend::put_statement(relay.own(), b'D', &own_name);
        relay.own().extend_from_slice(frontend::FLUSH);
        match self.link.as_mut() {
            // Where the server skips all this, there is nothing to wait for.
            Some(link) if !link.lease.conn.backend.flow.skipping() => {
                link.checking = true;
                true
            }
            _ => false,
        }
    }

    /// A statement was described: to the client, or to pgward.
    pub(super) fn described(&mut self, body: &[u8]) {
        let (Some(why), Some(shape)) = (self.names.describing.pop_front(), answer::shape(body)) else { return };
        match why {
            Describing::Tell(name) => self.names.tell(&name, shape),
            Describing::Gone => {}
            Describing::Learn(statement) => match statement.shape.get() {
                None => statement.shape.set(Some(shape)),
                Some(known) if known == shape => {}
                Some(_) => {
                    self.outlive(statement.id);
                    let core = &self.core;
                    self.names.renew(statement.id, |old| {
                        let renewed = core.renewed(old);
                        if renewed.shape.get().is_none() {
                            renewed.shape.set(Some(shape));
                        }
                        renewed
                    });
                }
            },
            Describing::Check(name) => {
                if self.names.told(&name).is_some_and(|told| told != shape) {
                    self.names.make_stale(&name);
                    if let Some(id) = self.names.get(&name).map(|named| named.statement.id) {
                        self.outlive(id);
                    }
                }
                self.checked();
            }
        }
    }

    /// What the backend has under this number does not look as it should: no session may take it for that.
    fn outlive(&mut self, id: StatementId) {
        if let Some(link) = self.link.as_mut() {
            link.lease.conn.prepared.outlive(id);
        }
    }

    /// From its next use on the statement of this name is one that is prepared now.
    fn renew(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.names.unnamed_stale = false;
            self.names.unnamed_told = None;
            self.spend_unnamed(None);
        } else if let Some(id) = self.names.get(name).map(|named| named.statement.id) {
            let core = &self.core;
            self.names.renew(id, |statement| core.renewed(statement));
        }
    }

    /// The description that a request waits for is here, or will never be.
    pub(super) fn checked(&mut self) {
        if let Some(link) = self.link.as_mut() {
            link.checking = false;
        }
    }

    /// A statement whose rows look otherwise than the client was told is refused, as PostgreSQL does.
    fn bind_stale(&mut self, head: &BindHead<'_>, after: usize, relay: &mut Relay<'_>) {
        self.owe(Owed::Bind { statement: Some(STALE) });
        frontend::put_bind_head(relay.own(), head.portal, b"pgward_stale", after);
    }

    /// The client asks for a description of the rows right behind its Bind, so it does not go by an old one.
    fn asks_anew(header: Header, relay: &Relay<'_>) -> bool {
        relay.rest().get(header.total..).is_some_and(|next| next.first() == Some(&b'D') && next.get(5) == Some(&b'P'))
    }

    pub(super) fn bind(&mut self, header: Header, head: &BindHead<'_>, mut known: Resolved, relay: &mut Relay<'_>) {
        if relay.rest().len() < header.total {
            self.flush_handover(relay);
        }
        let after = header.total - frame::HEADER - head.length;
        if let Some(link) = self.link.as_mut() {
            link.bound = true;
        }
        let first = self.link.as_ref().is_some_and(|link| link.at_rest && link.transaction == Transaction::Idle);
        if known.stale && Self::asks_anew(header, relay) {
            self.renew(head.statement);
            known = self.names.resolve(head.statement);
        }
        if known.stale {
            self.bind_stale(head, after, relay);
        } else if head.statement.is_empty() {
            self.make_unnamed_known(relay);
            self.owe(Owed::Bind { statement: None });
            let facts = self.names.unnamed_facts().cloned().unwrap_or_default();
            let lets_go = self.lets_go(&self.names.unnamed);
            self.apply(&facts, lets_go);
            if facts.channels {
                let text = text_of(&self.names.unnamed).to_vec();
                self.note_unlisten(&text, self.hearing.key.is_some());
            }
            self.pass_message(header, relay);
            return;
        } else if let Some(statement) = known.statement {
            let goes_by_old = known.told.is_some() && !Self::asks_anew(header, relay);
            if first && !goes_by_old && self.knows(&statement) {
                self.begin_replay(statement.id);
            }
            let name = self.own_name(&statement, relay);
            self.owe(Owed::Bind { statement: Some(statement.id) });
            self.apply(&statement.facts, self.lets_go(statement.text()));
            if statement.facts.channels {
                self.note_unlisten(statement.text(), self.hearing.key.is_some());
            }
            frontend::put_bind_head(relay.own(), head.portal, name.as_ref().map_or(b"", |name| name), after);
        } else {
            self.owe(Owed::Bind { statement: None });
            frontend::put_bind_head(relay.own(), head.portal, &foreign(head.statement), after);
        }
        relay.skip(frame::HEADER + head.length);
        let here = after.min(relay.rest().len());
        relay.forward(here);
        self.rest = after - here;
        self.rest_dropped = false;
    }

    pub(super) fn describe(&mut self, header: Header, body: &[u8], relay: &mut Relay<'_>) -> Result<(), End> {
        match Named::read(body).ok_or_else(|| refuse::malformed(b'D'))? {
            Named::Statement(b"") => {
                self.make_unnamed_known(relay);
                self.owe_description(Described::Statement(None), Describing::Tell(Box::default()));
                self.pass_message(header, relay);
            }
            Named::Statement(name) => {
                let known = self.names.get(name).map(|named| Rc::clone(&named.statement));
                let own_name = known.as_ref().map(|statement| self.own_name(statement, relay));
                let id = known.as_ref().map(|statement| statement.id);
                self.owe_description(Described::Statement(id), Describing::Tell(name.into()));
                match own_name {
                    Some(own) => frontend::put_statement(relay.own(), b'D', own.as_ref().map_or(b"", |own| own)),
                    None => frontend::put_statement(relay.own(), b'D', &foreign(name)),
                }
                relay.skip(header.total);
            }
            Named::Portal(_) => {
                self.owe(Owed::Describe(Described::Portal));
                self.pass_message(header, relay);
            }
        }
        Ok(())
    }

    pub(super) fn names_setting(&self, name: &[u8], known: &Resolved) -> bool {
        match &known.statement {
            Some(statement) => statement.facts.names_setting,
            None => name.is_empty() && self.names.unnamed_facts().is_some_and(|facts| facts.names_setting),
        }
    }

    /// Where there is no backend, none is needed to close a named statement.
    pub(super) fn closes_aside(&mut self, body: &[u8]) -> bool {
        match Named::read(body) {
            Some(Named::Statement(name)) if !name.is_empty() && self.link.is_none() => {
                self.names.close(name);
                self.to_client.queue(encode::CLOSE_COMPLETE);
                true
            }
            _ => false,
        }
    }

    /// A named statement is closed for the session only: others may share it on the backend.
    pub(super) fn close(&mut self, header: Header, body: &[u8], relay: &mut Relay<'_>) -> Result<(), End> {
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
}

/// A statement name that the session did not make, spelled so that it can hit none of pgward's own.
fn foreign(name: &[u8]) -> Vec<u8> {
    if name.starts_with(OWN_PREFIX) { [b"unknown ", name].concat() } else { name.to_vec() }
}
