//! What sessions asked for and what they were told, and when.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Since the beginning of the run, by the one clock that all sessions share.
pub type Moment = Duration;

/// What reads of a tenant are promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    Session,
    Tenant,
    Bounded(Duration),
    Eventual,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Tenant => "tenant",
            Self::Bounded(_) => "bounded",
            Self::Eventual => "eventual",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One session at a time sets it, always higher.
    Register,
    /// Anybody adds one to it.
    Counter,
    /// One session at a time appends to it.
    List,
}

/// What is written and read under one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    pub mode: Mode,
    pub kind: Kind,
    pub tenant: String,
    pub key: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} of {} (mode {})", self.kind, self.key, self.tenant, self.mode.name())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// 0: there is none yet.
    Value(u64),
    List(Vec<u64>),
}

impl Shown {
    pub fn nothing(kind: Kind) -> Self {
        if kind == Kind::List { Self::List(Vec::new()) } else { Self::Value(0) }
    }

    /// Whether it shows that `value` was written: values only grow, so a higher one does.
    pub fn has(&self, value: u64) -> bool {
        match self {
            Self::Value(shown) => *shown >= value,
            Self::List(elements) => elements.contains(&value),
        }
    }

    pub fn values(&self) -> &[u64] {
        match self {
            Self::Value(0) => &[],
            Self::Value(value) => std::slice::from_ref(value),
            Self::List(elements) => elements,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    /// The answer was lost: it may show or not.
    InDoubt,
    /// The client was told that nothing was written, or asked for no commit.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `None`: what a counter became nobody was told.
    Write {
        value: Option<u64>,
        outcome: Outcome,
    },
    Read(Shown),
}

#[derive(Debug, Clone)]
pub struct Event {
    /// A connection's, from the login to the end.
    pub session: usize,
    pub object: Arc<Object>,
    /// Of a read in a transaction: when that began.
    pub sent: Moment,
    pub done: Moment,
    pub action: Action,
    /// The port of the server that answered a read.
    pub by: Option<u16>,
}

/// Events of one session stand in the order in which it asked.
#[derive(Debug, Default)]
pub struct History {
    pub events: Vec<Event>,
    /// What the primary had when all was over.
    pub last: Vec<(Arc<Object>, Shown)>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |moment: Moment| moment.as_secs_f64() * 1e3;
        write!(f, "{:>10.2} to {:>10.2} ms  session {:>4}  ", ms(self.sent), ms(self.done), self.session)?;
        match (&self.action, self.by) {
            (Action::Write { value: Some(value), outcome }, _) => write!(f, "writes {value}: {outcome:?}"),
            (Action::Write { value: None, outcome }, _) => write!(f, "adds one: {outcome:?}"),
            (Action::Read(shown), Some(port)) => write!(f, "reads {shown:?} at {port}"),
            (Action::Read(shown), None) => write!(f, "reads {shown:?}"),
        }
    }
}
