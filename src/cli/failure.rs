use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use crate::base::causes;
use crate::catalogue::LoadError;
use crate::config::Problem;

/// Why a command ended with exit code 1.
pub(super) enum Failure {
    Config { path: PathBuf, problems: Vec<Problem> },
    Said(String),
}

impl Failure {
    pub fn said(text: impl Into<String>) -> Self {
        Self::Said(text.into())
    }

    /// All that is wrong with a configuration, or why its tenants cannot be read.
    pub fn load(error: LoadError) -> Self {
        match error {
            LoadError::Problems { path, problems } => Self::Config { path, problems },
            other => other.into(),
        }
    }
}

/// An error with all its causes. `Failure` is itself no `Error`, so that this covers every one.
impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Said(causes(&error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(text) => f.write_str(text),
            Self::Config { path, problems } => {
                let things = if problems.len() == 1 { "problem" } else { "problems" };
                write!(f, "{} has {} {things}", path.display(), problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n{problem}"))
            }
        }
    }
}
