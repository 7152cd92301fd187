//! Statements that no backend gets to see: pgward does what they say, and speaks the protocol for them, named
//! or not. They are about the session's token, which stands alone outside of transactions, or about
//! listening, which goes to a backend where it cannot be done aside.

use bytes::BytesMut;

use super::names::Describing;
use super::refuse;
use super::relay::Relay;
use super::serve::{End, Need, Session, Skipping};
use super::upstream::{ANALYSED, Taken};
use crate::base::{Report, Secret, Severity};
use crate::sql::{ListenOrder, TokenStatement, TokenValue, begins_with_listen, listen_orders, token_statement};
use crate::wire::backend::Transaction;
use crate::wire::flow::{Described, Owed, StatementId};
use crate::wire::frontend::{self, Bind, BindHead, Execute, Named, Parse};
use crate::wire::table::{self, Column, Formats};
use crate::wire::{Header, encode, frame};

/// Stands for what the server is made to refuse, since the token is not to be changed there.
pub(super) const MISPLACED: StatementId = StatementId::MAX - 1;

/// Stands for one that says too late where its transaction is to be.
pub(super) const MISROUTED: StatementId = StatementId::MAX - 2;

/// A name that no client's statement has on a backend.
pub(super) const MISPLACED_NAME: &[u8] = b"pgward_token";

/// Such statements in a session, and portals of them in a batch.
const MOST: usize = 64;

/// What `set_config` gives.
pub(super) const ROW: &[Column] = &[Column::text("set_config")];

/// Their numbers in pg_type.
const TEXT: u32 = 25;
const BOOL: u32 = 16;

/// Whether a parameter says false, as text or binary.
const FALSE: &[&[u8]] = &[b"f", b"false", b"off", b"0", b"n", b"no", b"\0"];

#[derive(Debug, Default)]
pub(super) struct Aside {
    named: Vec<(Box<[u8]>, Statement)>,
    portals: Vec<(Box<[u8]>, Errand)>,
    /// Since the last Sync messages about the token have been answered: there may be no others.
    in_batch: bool,
}

#[derive(Debug, Clone)]
enum Statement {
    Token(TokenStatement),
    Listen {
        orders: Vec<ListenOrder>,
        /// As in Parse, for a backend.
        definition: Box<[u8]>,
    },
}

/// What such a statement asks for.
#[derive(Debug)]
pub(super) struct Errand {
    what: What,
    /// How the row that it gives is to be written.
    pub row: Option<Formats>,
    pub tag: &'static str,
    /// By the simple protocol.
    pub simple: bool,
}

#[derive(Debug)]
enum What {
    /// A change of the token. `None`: there is to be none any more.
    Token(Option<Secret>),
    Listen(Vec<ListenOrder>),
}

/// Whether something can be done aside where the session stands.
enum Place {
    Here,
    /// Known once the backend has answered.
    Wait,
    /// In a transaction, or in one batch with other statements.
    Elsewhere,
}

/// What an answered message leaves to do. The error is the client's: what follows is skipped to its Sync.
type Answered = Result<Option<Need>, Report>;

impl Aside {
    fn statement(&self, name: &[u8]) -> Option<&Statement> {
        self.named.iter().find(|(known, _)| **known == *name).map(|(_, statement)| statement)
    }

    fn portal(&self, name: &[u8]) -> Option<&Errand> {
        self.portals.iter().find(|(known, _)| **known == *name).map(|(_, errand)| errand)
    }

    fn take_portal(&mut self, name: &[u8]) -> Option<Errand> {
        let at = self.portals.iter().position(|(known, _)| **known == *name)?;
        Some(self.portals.swap_remove(at).1)
    }

    fn close(&mut self, name: &[u8]) {
        self.named.retain(|(known, _)| **known != *name);
    }

    /// What listens is of no use to another tenant.
    pub fn leave_tenant(&mut self) {
        self.named.retain(|(_, statement)| matches!(statement, Statement::Token(_)));
        self.portals.clear();
    }
}

impl Session {
    /// Takes a message that is about such a statement. `None`: it is about something else.
    pub(super) fn take_aside(&mut self, header: Header, relay: &mut Relay<'_>) -> Result<Option<Taken>, End> {
        let in_batch = self.aside.as_ref().is_some_and(|aside| aside.in_batch);
        let seen = relay.rest().get(frame::HEADER..).unwrap_or_default();
        let Some(body) = seen.get(..header.total - frame::HEADER) else {
            // Whether it is one of ours may be known only once it is whole. What is so long is not.
            let wanted = in_batch || (self.aside.is_some() && matches!(header.tag, b'B' | b'E' | b'D' | b'C'));
            if wanted && header.total > ANALYSED && (in_batch || self.named_aside(header.tag, seen).is_some()) {
                self.leave_batch();
                self.refuse_request(&refuse::token_misplaced())?;
                return Ok(Some(Taken::Not(Need::Answers)));
            }
            return Ok((wanted && header.total <= ANALYSED).then_some(Taken::Not(Need::Bytes)));
        };
        let statement = match header.tag {
            b'Q' => frontend::query_text(body).and_then(|text| self.statement_aside(text, text)),
            b'P' => Parse::read(body).and_then(|parse| self.statement_aside(parse.text, parse.definition)),
            b'B' | b'D' | b'C' => self.named_aside(header.tag, body),
            _ => None,
        };
        let taken = header.tag == b'P' && statement.is_none() && self.takes_name(body);
        if statement.is_none() && !in_batch && !taken && !self.names_portal(header.tag, body) {
            self.others(header.tag, body);
            return Ok(None);
        }
        if !in_batch {
            let listens = matches!(statement, Some(Statement::Listen { .. }));
            match self.place(matches!(statement, Some(Statement::Token(_)))) {
                Place::Wait => return Ok(Some(Taken::Not(Need::Answers))),
                Place::Here if !listens || self.listens_aside() => {}
                Place::Here | Place::Elsewhere => return self.elsewhere(header, body, statement, relay),
            }
        }
        match self.answer_aside(header, body, statement)? {
            Ok(need) => {
                self.drop_message(header, relay);
                Ok(Some(need.map_or(Taken::Yes, Taken::Not)))
            }
            Err(report) => {
                self.leave_batch();
                self.refuse_request(&report)?;
                Ok(Some(Taken::Not(Need::Answers)))
            }
        }
    }

    fn statement_aside(&self, text: &[u8], definition: &[u8]) -> Option<Statement> {
        if begins_with_listen(text) && self.listens_aside() {
            let found = listen_orders(text).filter(|found| found.alone)?;
            return Some(Statement::Listen { orders: found.orders, definition: definition.into() });
        }
        token_statement(text).map(Statement::Token)
    }

    /// `leaves`: the session lets go of its backend anyway.
    fn place(&mut self, leaves: bool) -> Place {
        let Some(link) = self.link.as_mut() else { return Place::Here };
        let flow = &link.lease.conn.backend.flow;
        // Nothing but preparations, as drivers send them with a Flush behind.
        let prepares = flow.unsynced() && flow.is_empty() && !flow.in_copy() && !link.bound;
        if leaves && prepares && link.transaction == Transaction::Idle {
            return Place::Here;
        }
        if flow.unsynced() || flow.in_copy() {
            return Place::Elsewhere;
        }
        if !link.at_rest {
            link.unsure = true;
            return Place::Wait;
        }
        if link.transaction == Transaction::Idle { Place::Here } else { Place::Elsewhere }
    }

    /// The statement that a message names, if it is one of these.
    fn named_aside(&self, tag: u8, body: &[u8]) -> Option<Statement> {
        let aside = self.aside.as_ref()?;
        let name = match tag {
            b'B' => BindHead::read(body)?.statement,
            _ => match Named::read(body)? {
                Named::Statement(name) => name,
                Named::Portal(_) => return None,
            },
        };
        aside.statement(name).cloned()
    }

    fn names_portal(&self, tag: u8, body: &[u8]) -> bool {
        let name = match tag {
            b'E' => Execute::read(body).map(|execute| execute.portal),
            b'D' | b'C' => Named::read(body).and_then(|named| match named {
                Named::Portal(name) => Some(name),
                Named::Statement(_) => None,
            }),
            _ => None,
        };
        name.is_some_and(|name| self.aside.as_ref().is_some_and(|aside| aside.portal(name).is_some()))
    }

    /// Whether a Parse of another statement is of a name that one of these has.
    fn takes_name(&self, body: &[u8]) -> bool {
        let name = Parse::read(body).map(|parse| parse.name).filter(|name| !name.is_empty());
        name.is_some_and(|name| self.has_aside(name))
    }

    pub(super) fn has_aside(&self, name: &[u8]) -> bool {
        self.aside.as_ref().is_some_and(|aside| aside.statement(name).is_some())
    }

    /// `None`: all of them.
    pub(super) fn forget_aside(&mut self, name: Option<&[u8]>) {
        let Some(aside) = &mut self.aside else { return };
        match name {
            Some(name) => aside.close(name),
            None => aside.named.clear(),
        }
    }

    /// Another statement or portal takes a place, or the batch ends.
    fn others(&mut self, tag: u8, body: &[u8]) {
        let Some(aside) = &mut self.aside else { return };
        match tag {
            b'Q' => {
                aside.close(b"");
                aside.portals.clear();
            }
            b'P' if body.first() == Some(&0) => aside.close(b""),
            b'B' => drop(BindHead::read(body).and_then(|head| aside.take_portal(head.portal))),
            b'S' => aside.portals.clear(),
            _ => {}
        }
    }

    /// In a transaction, or among others. A token is not to be changed there; to listen takes a backend.
    fn elsewhere(
        &mut self,
        header: Header,
        body: &[u8],
        statement: Option<Statement>,
        relay: &mut Relay<'_>,
    ) -> Result<Option<Taken>, End> {
        let name = match header.tag {
            b'B' => BindHead::read(body).map(|head| head.statement),
            _ => Named::read(body).and_then(|named| match named {
                Named::Statement(name) => Some(name),
                Named::Portal(_) => None,
            }),
        };
        match (header.tag, statement, name) {
            (b'B' | b'D', Some(Statement::Token(_)), _) => {
                self.misplaced(header, relay);
                Ok(Some(Taken::Yes))
            }
            (b'B' | b'D' | b'C', Some(Statement::Listen { definition, .. }), Some(name)) => {
                self.aside.iter_mut().for_each(|aside| aside.close(name));
                self.adopt(name, &definition);
                Ok(None)
            }
            (b'C', _, Some(name)) => {
                self.aside.iter_mut().for_each(|aside| aside.close(name));
                Ok(None)
            }
            (b'P', None, _) => {
                let name = Parse::read(body).map(|parse| parse.name).unwrap_or_default();
                if let Some(Statement::Listen { definition, .. }) = self.aside.as_ref().and_then(|a| a.statement(name))
                {
                    let definition = definition.clone();
                    self.adopt(name, &definition);
                }
                self.forget_aside(Some(name));
                Ok(None)
            }
            // Refused on its usual way, since the text tells of the token; or done there.
            (b'Q' | b'P', ..) => Ok(None),
            // A portal that was made ahead of other statements of its batch.
            _ => Err(refuse::malformed(header.tag).into()),
        }
    }

    fn answer_aside(&mut self, header: Header, body: &[u8], statement: Option<Statement>) -> Result<Answered, End> {
        let malformed = || refuse::malformed(header.tag);
        let mut out = BytesMut::new();
        // Preparing alone is no part of a transaction.
        let occupies = header.tag == b'B' && matches!(statement, Some(Statement::Token(_)));
        let answered = match (header.tag, statement) {
            (b'Q', Some(statement)) => {
                self.forget_unnamed();
                self.forget_aside(Some(b""));
                self.leave_batch();
                return Ok(statement.errand(&[], Formats::default(), true).map(|errand| self.send_on(errand)));
            }
            (b'P', Some(statement)) => {
                let parse = Parse::read(body).ok_or_else(malformed)?;
                self.parse_aside(parse.name, statement, &mut out)
            }
            (b'B', Some(statement)) => {
                let bind = Bind::read(body).ok_or_else(malformed)?;
                self.bind_aside(bind, &statement, &mut out)
            }
            (b'D', Some(statement)) => {
                encode::parameters(&mut out, &statement.parameters());
                describe(statement.gives_row().then(Formats::default).as_ref(), &mut out);
                Ok(())
            }
            (b'D', None) => match Named::read(body).ok_or_else(malformed)? {
                Named::Portal(name) => match self.aside.as_ref().and_then(|aside| aside.portal(name)) {
                    Some(errand) => {
                        describe(errand.row.as_ref(), &mut out);
                        Ok(())
                    }
                    None => Err(refuse::no_portal()),
                },
                Named::Statement(_) => Err(refuse::token_misplaced()),
            },
            (b'C', _) => {
                self.close_aside(&Named::read(body).ok_or_else(malformed)?);
                out.extend_from_slice(encode::CLOSE_COMPLETE);
                Ok(())
            }
            (b'E', _) => {
                let execute = Execute::read(body).ok_or_else(malformed)?;
                let errand = self.aside.as_mut().and_then(|aside| aside.take_portal(execute.portal));
                return Ok(errand.ok_or_else(refuse::no_portal).map(|errand| self.send_on(errand)));
            }
            (b'S', _) => {
                self.leave_batch();
                self.to_client.queue(encode::READY);
                return Ok(Ok(None));
            }
            (b'H', _) => Ok(()),
            (b'X', _) => return Err(End::Client),
            (b'P', None) if !self.aside.as_ref().is_some_and(|aside| aside.in_batch) => Err(refuse::statement_exists()),
            // The batch would be a transaction with more in it.
            _ => Err(refuse::token_misplaced()),
        };
        self.to_client.queue(&out);
        self.aside.get_or_insert_default().in_batch |= occupies;
        Ok(answered.map(|()| None))
    }

    fn send_on(&mut self, errand: Errand) -> Option<Need> {
        self.errand = Some(Box::new(errand));
        Some(Need::Errand)
    }

    fn leave_batch(&mut self) {
        if let Some(aside) = &mut self.aside {
            aside.in_batch = false;
            aside.portals.clear();
            if aside.named.is_empty() {
                self.aside = None;
            }
        }
    }

    fn parse_aside(&mut self, name: &[u8], statement: Statement, out: &mut BytesMut) -> Result<(), Report> {
        if name.is_empty() {
            self.forget_unnamed();
        }
        let aside = self.aside.get_or_insert_default();
        if aside.in_batch && matches!(statement, Statement::Listen { .. }) {
            return Err(refuse::token_misplaced());
        }
        if name.is_empty() {
            aside.close(name);
        } else if self.names.get(name).is_some() || aside.statement(name).is_some() {
            return Err(refuse::statement_exists());
        }
        if aside.named.len() >= MOST {
            return Err(Report { severity: Severity::Error, ..refuse::too_many_prepared(MOST) });
        }
        aside.named.push((name.into(), statement));
        out.extend_from_slice(encode::PARSE_COMPLETE);
        Ok(())
    }

    fn bind_aside(&mut self, bind: Bind<'_>, statement: &Statement, out: &mut BytesMut) -> Result<(), Report> {
        let errand = statement.errand(&bind.parameters, bind.formats, false)?;
        let aside = self.aside.get_or_insert_default();
        aside.take_portal(bind.portal);
        if aside.portals.len() >= MOST {
            return Err(Report { severity: Severity::Error, ..refuse::too_many_prepared(MOST) });
        }
        aside.portals.push((bind.portal.into(), errand));
        out.extend_from_slice(encode::BIND_COMPLETE);
        Ok(())
    }

    fn close_aside(&mut self, what: &Named<'_>) {
        match what {
            Named::Statement(b"") => self.forget_unnamed(),
            Named::Statement(name) => self.names.close(name),
            Named::Portal(_) => {}
        }
        let Some(aside) = &mut self.aside else { return };
        match what {
            Named::Statement(name) => aside.close(name),
            Named::Portal(name) => drop(aside.take_portal(name)),
        }
    }

    /// Has the server refuse what is not for it: in a transaction, that ends the transaction.
    pub(super) fn misplaced(&mut self, header: Header, relay: &mut Relay<'_>) {
        self.refused_by_server(MISPLACED, header, relay);
    }

    /// `why`: what stands for the statement, and tells what the client is to hear.
    pub(super) fn refused_by_server(&mut self, why: StatementId, header: Header, relay: &mut Relay<'_>) {
        if header.tag == b'B' {
            self.owe(Owed::Bind { statement: Some(why) });
            frontend::put_bind(relay.own(), MISPLACED_NAME, &[]);
        } else {
            self.owe_description(Described::Statement(Some(why)), Describing::Tell(Box::default()));
            frontend::put_statement(relay.own(), b'D', MISPLACED_NAME);
        }
        relay.skip(header.total);
    }

    /// Does what such a statement asks for.
    pub(super) async fn run_errand(&mut self) -> Result<(), End> {
        let Some(errand) = self.errand.take() else { return Ok(()) };
        self.need = Need::Answers;
        match &errand.what {
            What::Token(token) => self.switch(&errand, token.as_ref()).await,
            What::Listen(orders) => self.listen(&errand, orders).await,
        }
    }

    pub(super) fn fail_errand(&mut self, errand: &Errand, report: &Report) {
        self.tell_client(&Report { severity: Severity::Error, ..report.clone() });
        if errand.simple {
            self.to_client.queue(encode::READY);
        } else {
            self.leave_batch();
            self.skipping = Skipping::ToSync;
        }
    }

    pub(super) fn complete(&mut self, tag: &str) {
        let mut out = BytesMut::new();
        encode::complete(&mut out, tag);
        self.to_client.queue(&out);
    }
}

impl Statement {
    fn gives_row(&self) -> bool {
        matches!(self, Self::Token(statement) if statement.call.is_some())
    }

    fn parameters(&self) -> Vec<u32> {
        match self {
            Self::Token(statement) => statement.parameters(),
            Self::Listen { .. } => Vec::new(),
        }
    }

    /// What it asks for with these parameters.
    fn errand(&self, parameters: &[Option<&[u8]>], formats: Formats, simple: bool) -> Result<Errand, Report> {
        if parameters.len() != self.parameters().len() || !formats.fit(usize::from(self.gives_row())) {
            return Err(refuse::statement_parameters());
        }
        let (what, tag) = match self {
            Self::Token(statement) => (What::Token(statement.token(parameters)?), statement.tag),
            // Several are for the simple protocol.
            Self::Listen { orders, .. } if orders.len() > 1 && !simple => return Err(refuse::several_commands()),
            Self::Listen { orders, .. } => (What::Listen(orders.clone()), ""),
        };
        Ok(Errand { what, row: self.gives_row().then_some(formats), tag, simple })
    }
}

impl TokenStatement {
    /// The types of its parameters, in order.
    fn parameters(&self) -> Vec<u32> {
        let is_local = self.call.and_then(|call| call.is_local);
        let value = match self.value {
            TokenValue::Parameter(number) => Some(number),
            TokenValue::Literal(_) | TokenValue::Reset => None,
        };
        let count = value.max(is_local).unwrap_or(0);
        (1..=count).map(|number| if Some(number) == is_local { BOOL } else { TEXT }).collect()
    }

    /// The token that it sets with these parameters.
    fn token(&self, parameters: &[Option<&[u8]>]) -> Result<Option<Secret>, Report> {
        let bound = |number: u16| parameters.get(usize::from(number) - 1).copied().flatten();
        let is_local = self.call.and_then(|call| call.is_local).map(bound);
        if is_local.is_some_and(|value| !value.is_some_and(|value| FALSE.contains(&value))) {
            return Err(refuse::token_misplaced());
        }
        Ok(match &self.value {
            TokenValue::Literal(text) => Some(Secret::new(text.as_bytes())),
            TokenValue::Parameter(number) => bound(*number).filter(|token| !token.is_empty()).map(Secret::new),
            TokenValue::Reset => None,
        })
    }
}

fn describe(row: Option<&Formats>, out: &mut BytesMut) {
    match row {
        Some(formats) => table::columns(out, ROW, formats),
        None => out.extend_from_slice(encode::NO_DATA),
    }
}
