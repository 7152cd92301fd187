//! What a hostile tenant tries, as data: how, and what must come of it.

use std::pin::Pin;

use crate::place::Level;
use crate::tap::Hostile;

pub type Told = Result<String, String>;
pub type Running = Pin<Box<dyn Future<Output = Told> + Send>>;

/// One attempt. Texts may hold words in braces, which [`crate::place::Place::words`] fills in.
pub struct Case {
    pub id: &'static str,
    /// The line of the list of threats that it belongs to.
    pub line: u8,
    pub what: &'static str,
    pub levels: &'static [Level],
    pub how: How,
    pub expected: [Expected; 2],
    pub session: Session,
    /// It may leave something that only a later login would notice, so a second proxy is asked.
    pub logins: bool,
    /// Whether it can be tried through another proxy too: plain SQL with nothing of pgward in it.
    pub anywhere: bool,
}

pub enum How {
    /// Each a simple query.
    Simple(Vec<&'static str>),
    /// Each Parse, Bind, Execute and Sync: a text and its parameters.
    Extended(Vec<(&'static str, &'static [&'static str])>),
    Run(fn(Hostile) -> Running),
}

/// What must come of it, besides what is checked after every case: that no byte of another tenant's came
/// back, and that nobody else was disturbed.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// The first error of it all has one of these SQLSTATEs, blank between them.
    Denied(&'static str),
    /// It ends in an error, or in no row.
    Blind,
    /// The last statement gives no row, and nothing is refused.
    NoRow,
    /// Nothing is refused, and the last row's columns are these, comma between them.
    Shows(&'static str),
    /// It may succeed or not: what counts is what is checked after every case.
    Harmless,
    /// PostgreSQL cannot keep a role from this: exactly so much is possible, the last row says.
    Remains(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    Lives,
    Either,
}

pub const BOTH: &[Level] = &[Level::Rows, Level::Schema];
const ROWS: &[Level] = &[Level::Rows];
const SCHEMA: &[Level] = &[Level::Schema];

fn case(id: &'static str, line: u8, what: &'static str, how: How) -> Case {
    let anywhere = !matches!(how, How::Run(_));
    let expected = [Expected::Harmless; 2];
    Case { id, line, what, levels: BOTH, how, expected, session: Session::Lives, logins: false, anywhere }
}

pub fn sql(id: &'static str, line: u8, what: &'static str, texts: &[&'static str]) -> Case {
    case(id, line, what, How::Simple(texts.to_vec()))
}

pub fn extended(
    id: &'static str,
    line: u8,
    what: &'static str,
    texts: &[(&'static str, &'static [&'static str])],
) -> Case {
    case(id, line, what, How::Extended(texts.to_vec()))
}

pub fn run(id: &'static str, line: u8, what: &'static str, how: fn(Hostile) -> Running) -> Case {
    Case { session: Session::Either, ..case(id, line, what, How::Run(how)) }
}

impl Case {
    fn expect(mut self, expected: Expected) -> Self {
        self.expected = [expected; 2];
        self
    }

    pub fn denied(self, codes: &'static str) -> Self {
        self.expect(Expected::Denied(codes))
    }

    pub fn blind(self) -> Self {
        self.expect(Expected::Blind)
    }

    pub fn no_row(self) -> Self {
        self.expect(Expected::NoRow)
    }

    pub fn shows(self, row: &'static str) -> Self {
        self.expect(Expected::Shows(row))
    }

    pub fn remains(self, row: &'static str) -> Self {
        self.expect(Expected::Remains(row))
    }

    /// At level schema something else must come of it than said before.
    pub fn at_schema(mut self, expected: Expected) -> Self {
        self.expected[Level::Schema as usize] = expected;
        self
    }

    pub fn rows_only(self) -> Self {
        Self { levels: ROWS, ..self }
    }

    pub fn schema_only(self) -> Self {
        Self { levels: SCHEMA, ..self }
    }

    pub fn may_end(self) -> Self {
        Self { session: Session::Either, ..self }
    }

    pub fn later_logins(self) -> Self {
        Self { logins: true, ..self }
    }

    pub fn of_pgward(self) -> Self {
        Self { anywhere: false, ..self }
    }
}
