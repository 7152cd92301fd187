//! What a report finds.

use serde::Serialize;

/// Danger: data was where it may not be, or that it was not cannot be shown. Warning: somebody should look at it.
pub use crate::doctor::Severity;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The word for machines.
    pub kind: &'static str,
    pub tenant: Option<String>,
    pub text: String,
}

impl Finding {
    pub fn danger(kind: &'static str, text: String) -> Self {
        Self { severity: Severity::Danger, kind, tenant: None, text }
    }

    pub fn warning(kind: &'static str, text: String) -> Self {
        Self { severity: Severity::Warning, kind, tenant: None, text }
    }

    #[must_use]
    pub fn of(self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self }
    }
}
