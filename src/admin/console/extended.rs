//! The extended query protocol, for drivers that prepare everything: named statements and portals of
//! commands that take no parameters (protocol documentation, 55.2.3).

use std::collections::HashMap;

use bytes::BytesMut;

use super::command::{Command, Operator, Row};
use super::parse::parse;
use crate::admin::Control;
use crate::base::{Report, SqlState};
use crate::wire::encode;
use crate::wire::frontend::{Bind, Execute, Named, Parse};
use crate::wire::table::{self, Formats};

/// Statements, and portals, that one connection may keep.
const MOST: usize = 1_000;

/// Why a message was not carried out.
#[derive(Debug)]
pub(super) enum Fault {
    /// It does not follow the protocol: the connection ends.
    Malformed,
    /// The client is told, and what follows is skipped up to its Sync.
    Error(Box<Report>),
}

impl From<Report> for Fault {
    fn from(report: Report) -> Self {
        Self::Error(Box::new(report))
    }
}

/// `None` is a text without a command, which PostgreSQL permits.
type Statement = Option<Command>;

#[derive(Default)]
pub(super) struct Extended {
    statements: HashMap<Vec<u8>, Statement>,
    portals: HashMap<Vec<u8>, Portal>,
}

struct Portal {
    statement: Statement,
    formats: Formats,
    /// What is still to be fetched, once the command was run. It is run once.
    rows: Option<std::vec::IntoIter<Row>>,
}

impl Extended {
    /// Carries out one message.
    pub async fn take(
        &mut self,
        tag: u8,
        body: &[u8],
        out: &mut BytesMut,
        control: &Control,
        operator: &Operator,
    ) -> Result<(), Fault> {
        match tag {
            b'P' => self.parse(&Parse::read(body).ok_or(Fault::Malformed)?, out),
            b'B' => self.bind(Bind::read(body).ok_or(Fault::Malformed)?, out),
            b'D' => self.describe(&Named::read(body).ok_or(Fault::Malformed)?, out),
            b'C' => {
                match Named::read(body).ok_or(Fault::Malformed)? {
                    Named::Statement(name) => drop(self.statements.remove(name)),
                    Named::Portal(name) => drop(self.portals.remove(name)),
                }
                // Closing what does not exist is no error.
                out.extend_from_slice(encode::CLOSE_COMPLETE);
                Ok(())
            }
            b'E' => self.execute(&Execute::read(body).ok_or(Fault::Malformed)?, out, control, operator).await,
            _ => Err(Fault::Malformed),
        }
    }

    /// The end of the implicit transaction, which portals do not outlive.
    pub fn sync(&mut self) {
        self.portals.clear();
    }

    /// A simple query takes the unnamed statement's place.
    pub fn simple_query(&mut self) {
        self.statements.remove(b"".as_slice());
        self.portals.clear();
    }

    fn parse(&mut self, message: &Parse<'_>, out: &mut BytesMut) -> Result<(), Fault> {
        let commands = parse(message.text)?;
        let statement = match commands.as_slice() {
            [] => None,
            [command] => Some(command.clone()),
            _ => {
                return Err(Report::error(SqlState::SYNTAX_ERROR, "a prepared statement holds one command only")
                    .hint("Prepare the commands one by one.")
                    .into());
            }
        };
        insert(&mut self.statements, message.name, statement, SqlState::DUPLICATE_PREPARED_STATEMENT)?;
        out.extend_from_slice(encode::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, message: Bind<'_>, out: &mut BytesMut) -> Result<(), Fault> {
        let statement = self.statements.get(message.statement).ok_or_else(no_statement)?.clone();
        if !message.parameters.is_empty() {
            return Err(Report::error(SqlState::PROTOCOL_VIOLATION, "commands of the console take no parameters")
                .hint("Send the command without parameters.")
                .into());
        }
        let columns = statement.as_ref().and_then(Command::columns).map_or(0, <[_]>::len);
        if !message.formats.fit(columns) {
            return Err(Report::error(
                SqlState::PROTOCOL_VIOLATION,
                "Bind asks for another number of result formats than there are columns",
            )
            .hint("Ask for one format, or for one of each column.")
            .into());
        }
        let portal = Portal { statement, formats: message.formats, rows: None };
        insert(&mut self.portals, message.portal, portal, SqlState::DUPLICATE_CURSOR)?;
        out.extend_from_slice(encode::BIND_COMPLETE);
        Ok(())
    }

    fn describe(&self, message: &Named<'_>, out: &mut BytesMut) -> Result<(), Fault> {
        let text = Formats::default();
        let (statement, formats) = match message {
            Named::Statement(name) => {
                let statement = self.statements.get(*name).ok_or_else(no_statement)?;
                encode::parameters(out, &[]);
                (statement, &text)
            }
            Named::Portal(name) => {
                let portal = self.portals.get(*name).ok_or_else(no_portal)?;
                (&portal.statement, &portal.formats)
            }
        };
        match statement.as_ref().and_then(Command::columns) {
            Some(columns) => table::columns(out, columns, formats),
            None => out.extend_from_slice(encode::NO_DATA),
        }
        Ok(())
    }

    async fn execute(
        &mut self,
        message: &Execute<'_>,
        out: &mut BytesMut,
        control: &Control,
        operator: &Operator,
    ) -> Result<(), Fault> {
        let portal = self.portals.get_mut(message.portal).ok_or_else(no_portal)?;
        let Some(command) = &portal.statement else {
            out.extend_from_slice(encode::EMPTY);
            return Ok(());
        };
        let rows = match &mut portal.rows {
            Some(rows) => rows,
            none => none.insert(command.run(control, operator).await?.into_iter()),
        };
        let wanted = if message.rows == 0 { usize::MAX } else { message.rows };
        for row in rows.take(wanted) {
            table::row(out, &row, &portal.formats);
        }
        if rows.len() > 0 {
            out.extend_from_slice(encode::PORTAL_SUSPENDED);
        } else {
            encode::complete(out, command.tag());
        }
        Ok(())
    }
}

/// The unnamed one is replaced, others must be new.
fn insert<T>(all: &mut HashMap<Vec<u8>, T>, name: &[u8], item: T, taken: SqlState) -> Result<(), Report> {
    if !name.is_empty() && all.contains_key(name) {
        return Err(Report::error(taken, "a statement or portal of this name exists already")
            .hint("Close it first, or choose another name."));
    }
    if all.len() >= MOST {
        return Err(Report::error(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            "the console connection has too many statements or portals",
        )
        .hint("Close those that are no longer used."));
    }
    all.insert(name.to_vec(), item);
    Ok(())
}

fn no_statement() -> Report {
    Report::error(SqlState::INVALID_STATEMENT_NAME, "there is no prepared statement of this name")
        .hint("Prepare it on this connection first.")
}

fn no_portal() -> Report {
    Report::error(SqlState::INVALID_CURSOR_NAME, "there is no portal of this name")
        .hint("Portals end with the next Sync; bind it again.")
}
