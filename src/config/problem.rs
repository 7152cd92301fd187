use std::fmt;
use std::path::Path;

/// One thing wrong with a configuration: where, what stands there, why it is refused, and what would
/// be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub path: String,
    pub value: Option<String>,
    pub reason: String,
    pub example: Option<String>,
}

impl Problem {
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), value: None, reason: reason.into(), example: None }
    }

    #[must_use]
    pub fn value(mut self, value: impl fmt::Display) -> Self {
        self.value = Some(value.to_string());
        self
    }

    #[must_use]
    pub fn example(mut self, example: impl Into<String>) -> Self {
        self.example = Some(example.into());
        self
    }

    pub(super) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::new(path.display().to_string(), format!("the file cannot be read: {error}"))
    }

    /// A TOML syntax error. The parser's own text quotes the line, which may hold a secret, so only
    /// its message and position are kept.
    pub(super) fn syntax(what: &str, error: &toml::de::Error) -> Self {
        let at = error.span().map(|span| format!(" at byte {}", span.start)).unwrap_or_default();
        Self::new(what, format!("is not valid TOML{at}: {}", error.message()))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}", self.reason)?;
        if let Some(example) = &self.example {
            write!(f, " (for example: {example})")?;
        }
        Ok(())
    }
}
