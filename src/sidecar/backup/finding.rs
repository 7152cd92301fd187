//! What the trial of a backup finds.

use serde::Serialize;

/// Danger: what is needed is not in the backup, or cannot be had from it. Warning: it could not be shown to be.
pub use crate::doctor::Severity;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The word for machines.
    pub kind: &'static str,
    /// The database, table, file or tenant that it is about.
    pub object: Option<String>,
    pub text: String,
}

impl Finding {
    pub fn danger(kind: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Danger, kind, object: None, text: text.into() }
    }

    pub fn warning(kind: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, kind, object: None, text: text.into() }
    }

    #[must_use]
    pub fn of(self, object: impl Into<String>) -> Self {
        Self { object: Some(object.into()), ..self }
    }
}
