//! One file per family of rules. A check is a query, which goes on where `prelude.sql` ends, and a pure function
//! from one of its rows to findings.

mod classification;
mod functions;
mod grants;
mod installed;
mod keys;
mod policies;
mod roles;
mod schemas;
mod server;
mod tables;
mod views;

use serde::de::DeserializeOwned;

pub(super) use classification::RULES as CLASSIFICATION;
pub(super) use installed::{KEY_LEFT, KEY_MISSING};
pub(super) use roles::LOGIN_SETTING;

use super::examine::NotExamined;
use super::finding::{Finding, Rule};
use super::question::Question;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// What each database has of its own.
    Database,
    /// What all databases of a cluster share.
    Cluster,
}

pub(super) struct Check {
    /// Completes "... could not be examined".
    pub about: &'static str,
    pub scope: Scope,
    pub rules: &'static [&'static Rule],
    pub sql: &'static str,
    pub judge: fn(&Question, &str) -> serde_json::Result<Judged>,
}

/// What a row comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    pub findings: Vec<Finding>,
    pub not_examined: Vec<NotExamined>,
}

impl From<Vec<Finding>> for Judged {
    fn from(findings: Vec<Finding>) -> Self {
        Self { findings, not_examined: Vec::new() }
    }
}

impl From<Finding> for Judged {
    fn from(finding: Finding) -> Self {
        vec![finding].into()
    }
}

impl From<Option<Finding>> for Judged {
    fn from(finding: Option<Finding>) -> Self {
        finding.into_iter().collect::<Vec<_>>().into()
    }
}

/// Reads a row as what a judge takes.
fn row<T: DeserializeOwned, J: Into<Judged>>(row: &str, judge: impl FnOnce(T) -> J) -> serde_json::Result<Judged> {
    serde_json::from_str(row).map(|row| judge(row).into())
}

pub(super) const CHECKS: [&[Check]; 11] = [
    tables::CHECKS,
    policies::CHECKS,
    keys::CHECKS,
    views::CHECKS,
    functions::CHECKS,
    grants::CHECKS,
    schemas::CHECKS,
    roles::CHECKS,
    server::CHECKS,
    classification::CHECKS,
    installed::CHECKS,
];
