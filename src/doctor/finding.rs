//! What is looked for and what was found.

use serde::Serialize;

/// How much depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A tenant could see or harm another's.
    Danger,
    /// It narrows what is left between tenants, or could become a danger.
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

#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Stable: configurations of CI name it.
    pub id: &'static str,
    pub severity: Severity,
    /// What is wrong where it applies, as docs/doctor.md has it.
    pub finds: &'static str,
}

impl Rule {
    pub(super) const fn danger(id: &'static str, finds: &'static str) -> Self {
        Self { id, severity: Severity::Danger, finds }
    }

    pub(super) const fn warning(id: &'static str, finds: &'static str) -> Self {
        Self { id, severity: Severity::Warning, finds }
    }
}

/// What makes a finding disappear.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mend {
    /// Statements that can be run as they are.
    Sql(String),
    /// Where only a person can know what is right.
    Advice(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub rule: &'static Rule,
    /// Kind and name, quoted as SQL would have it.
    pub object: String,
    /// What a tenant could do.
    pub danger: String,
    pub mend: Mend,
}

impl Finding {
    pub(super) fn new(
        rule: &'static Rule,
        object: impl Into<String>,
        danger: impl Into<String>,
        mend: impl Into<Mend>,
    ) -> Self {
        Self { rule, object: object.into(), danger: danger.into(), mend: mend.into() }
    }
}

/// SQL is the usual mend, so that it needs no word.
impl From<String> for Mend {
    fn from(sql: String) -> Self {
        Self::Sql(sql)
    }
}

pub(super) fn advice(text: impl Into<String>) -> Mend {
    Mend::Advice(text.into())
}
