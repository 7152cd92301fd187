//! What a client is told when pgward refuses or fails: the fields of an ErrorResponse.

use std::borrow::Cow;

use super::SqlState;

/// `ERROR` leaves the session alive, `FATAL` ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Fatal,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// A function of PostgreSQL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routine {
    RevalidateCachedQuery,
}

impl Routine {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RevalidateCachedQuery => "RevalidateCachedQuery",
        }
    }
}

/// Message says what happened and to what; hint says what to do. Neither may hold a secret or a
/// parameter value, since a report is also what is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub severity: Severity,
    pub sqlstate: SqlState,
    pub message: Cow<'static, str>,
    pub detail: Option<Cow<'static, str>>,
    pub hint: Option<Cow<'static, str>>,
    /// The function of PostgreSQL's that drivers know an error by.
    pub routine: Option<Routine>,
    /// What the audit log calls it, which may say more than the client is told.
    pub reason: Option<&'static str>,
}

impl Report {
    pub fn error(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        let (severity, message) = (Severity::Error, message.into());
        Self { severity, sqlstate, message, detail: None, hint: None, routine: None, reason: None }
    }

    pub fn fatal(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(sqlstate, message) }
    }

    #[must_use]
    pub fn detail(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(text.into());
        self
    }

    #[must_use]
    pub fn routine(mut self, routine: Routine) -> Self {
        self.routine = Some(routine);
        self
    }

    /// The first reason that is given stays.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = self.reason.or(Some(reason));
        self
    }

    #[must_use]
    pub fn hint(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(text.into());
        self
    }
}
