//! Prepared statements: the names that clients give them are the session's, the names that backends know are
//! pgward's, and each backend is told of a statement when it is first needed there.

use std::rc::Rc;

use super::refuse;
use super::relay::Relay;
use super::serve::{End, Session};
use crate::pool::{Statement, statement_name};
use crate::sql::{Deallocate, Facts};
use crate::wire::backend::Transaction;
use crate::wire::flow::{Owed, Own};
use crate::wire::frontend::{self, BindHead, Named, Parse};
use crate::wire::{Header, frame, handover};

/// Statement names that backends know mean nothing in a client's mouth.
pub(super) const OWN_PREFIX: &[u8] = b"pgward_";

impl Session {
    /// DEALLOCATE of a statement that the client prepared by the protocol. Others may share it on the
    /// backend, so an empty one is made to be deallocated in its stead; the text that does so.
    pub(super) fn deallocate(&mut self, facts: &Facts, relay: &mut Relay<'_>) -> Option<String> {
        let Some(Deallocate::One(name)) = &facts.deallocates else { return None };
        self.names.get(name.as_bytes())?;
        if self.link.as_ref()?.transaction != Transaction::Failed {
            self.names.close(name.as_bytes());
        }
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
        let Some(link) = &mut self.link else { return false };
        link.unsure = true;
        self.gated()
    }

    pub(super) fn parse(&mut self, header: Header, body: &[u8], relay: &mut Relay<'_>) -> Result<(), End> {
        let parse = Parse::read(body).ok_or_else(|| refuse::malformed(b'P'))?;
        let facts = self.core.analyser.borrow_mut().facts(parse.text);
        let renamed = self.rename_channels(&facts, parse.text).map(|text| {
            let types = parse.definition.get(parse.text.len()..).unwrap_or_default();
            [&text, types].concat()
        });
        let definition = renamed.as_deref().unwrap_or(parse.definition);
        if parse.name.is_empty() {
            self.parse_unnamed(header, facts, definition, renamed.is_some(), relay);
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
            let statement = self.core.statement(definition, facts);
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

    fn parse_unnamed(&mut self, header: Header, facts: Facts, definition: &[u8], renamed: bool, relay: &mut Relay<'_>) {
        let stand_in = self.deallocate(&facts, relay);
        self.names.unnamed_facts = facts;
        self.names.unnamed.clear();
        self.names.asked_unnamed();
        if let Some(link) = &mut self.link {
            link.unnamed_known = true;
        }
        self.owe(Owed::Parse { statement: None, hidden: false });
        match &stand_in {
            Some(text) => {
                self.names.unnamed.extend_from_slice(text.as_bytes());
                self.names.unnamed.extend_from_slice(b"\0\0\0");
            }
            None => self.names.unnamed.extend_from_slice(definition),
        }
        if stand_in.is_some() || renamed {
            frontend::put_parse(relay.own(), b"", &self.names.unnamed);
            relay.skip(header.total);
        } else {
            self.pass_message(header, relay);
        }
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

    pub(super) fn bind(&mut self, header: Header, head: &BindHead<'_>, relay: &mut Relay<'_>) {
        if relay.rest().len() < header.total {
            self.flush_handover(relay);
        }
        if head.statement.is_empty() {
            self.make_unnamed_known(relay);
            self.owe(Owed::Bind { statement: None });
            let facts = self.names.unnamed_facts.clone();
            let lets_go = self.lets_go(&self.names.unnamed);
            self.apply(&facts, lets_go);
            self.pass_message(header, relay);
            return;
        }
        let after = header.total - frame::HEADER - head.length;
        match self.names.get(head.statement).cloned() {
            Some(statement) => {
                self.make_known(&statement, relay);
                self.owe(Owed::Bind { statement: Some(statement.id) });
                self.apply(&statement.facts, self.lets_go(statement.text()));
                frontend::put_bind_head(relay.own(), head.portal, &statement_name(statement.id), after);
            }
            None => {
                self.owe(Owed::Bind { statement: None });
                frontend::put_bind_head(relay.own(), head.portal, &foreign(head.statement), after);
            }
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
                self.owe(Owed::Describe { statement: None });
                self.pass_message(header, relay);
            }
            Named::Statement(name) => {
                let known = self.names.get(name).cloned();
                if let Some(statement) = &known {
                    self.make_known(statement, relay);
                }
                self.owe(Owed::Describe { statement: known.as_ref().map(|statement| statement.id) });
                match known {
                    Some(statement) => frontend::put_statement(relay.own(), b'D', &statement_name(statement.id)),
                    None => frontend::put_statement(relay.own(), b'D', &foreign(name)),
                }
                relay.skip(header.total);
            }
            Named::Portal(_) => {
                self.owe(Owed::Describe { statement: None });
                self.pass_message(header, relay);
            }
        }
        Ok(())
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
