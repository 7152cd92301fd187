//! What was done to tenants, for the record.

use serde_json::json;

use super::super::failure::Failure;
use crate::base::{TenantId, clock};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Add,
    Suspend,
    Resume,
    Export,
    Remove,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Begun,
    Done,
    /// Why, as the person at the terminal is told.
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Act {
    pub deed: Deed,
    pub tenant: TenantId,
    pub stage: Stage,
}

impl Deed {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "tenant.add",
            Self::Suspend => "tenant.suspend",
            Self::Resume => "tenant.resume",
            Self::Export => "tenant.export",
            Self::Remove => "tenant.remove",
        }
    }
}

/// The one place that acts are written by: a line of JSON on standard error.
pub(super) fn record(act: &Act) {
    let (stage, reason) = match &act.stage {
        Stage::Begun => ("begun", None),
        Stage::Done => ("done", None),
        Stage::Failed(reason) => ("failed", Some(reason)),
    };
    let time = clock::timestamp(clock::unix_now());
    let mut line = json!({ "time": time, "act": act.deed.as_str(), "tenant": act.tenant.as_str(), "stage": stage });
    if let (Some(reason), Some(line)) = (reason, line.as_object_mut()) {
        line.insert("reason".to_owned(), reason.as_str().into());
    }
    eprintln!("{line}");
}

/// Does something for the record, whatever it comes to.
pub(super) fn recorded<T>(
    deed: Deed,
    tenant: &TenantId,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let put = |stage| record(&Act { deed, tenant: tenant.clone(), stage });
    put(Stage::Begun);
    let done = work();
    put(match &done {
        Ok(_) => Stage::Done,
        Err(failure) => Stage::Failed(failure.to_string()),
    });
    done
}
