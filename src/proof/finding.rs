//! What a report finds.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Data was where it may not be, or that it was not cannot be shown.
    Danger,
    /// Somebody should look at it.
    Warning,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Danger => "danger",
            Self::Warning => "warning",
        }
    }
}

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
