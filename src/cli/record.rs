//! What administrators do by commands, for the audit log. The running pgward writes to its own files, so commands have
//! one beside it: `pgward.jsonl` gets a `pgward.admin.jsonl`, a chain of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::output::warn;
use crate::audit::{Audit, AuditError, Event, Here, Text};
use crate::base::TenantId;
use crate::config::{self, OnFailure, Settings};
use crate::telemetry::Telemetry;

/// Another command may be writing at the moment.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Install,
    Uninstall,
    InstallCatalogue,
    ImportCatalogue,
    Mend,
    AddTenant,
    SuspendTenant,
    ResumeTenant,
    HoldTenant,
    ReleaseTenant,
    ExportTenant,
    RestoreTenant,
    RemoveTenant,
    EraseTenant,
    ImportClassification,
    SetUpPartitions,
    KeepPartitions,
    SetUpBackup,
    RunBackup,
    PruneBackup,
    RestoreBackup,
    VerifyBackup,
    DrillBackup,
}

impl Deed {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Uninstall => "uninstall",
            Self::InstallCatalogue => "catalogue_install",
            Self::ImportCatalogue => "catalogue_import",
            Self::Mend => "doctor_fix",
            Self::AddTenant => "tenant_add",
            Self::SuspendTenant => "tenant_suspend",
            Self::ResumeTenant => "tenant_resume",
            Self::HoldTenant => "tenant_hold",
            Self::ReleaseTenant => "tenant_release",
            Self::ExportTenant => "tenant_export",
            Self::RestoreTenant => "tenant_restore",
            Self::RemoveTenant => "tenant_remove",
            Self::EraseTenant => "tenant_erase",
            Self::ImportClassification => "classification_import",
            Self::SetUpPartitions => "maintenance_setup",
            Self::KeepPartitions => "maintenance_run",
            Self::SetUpBackup => "backup_setup",
            Self::RunBackup => "backup_run",
            Self::PruneBackup => "backup_prune",
            Self::RestoreBackup => "backup_restore",
            Self::VerifyBackup => "backup_verify",
            Self::DrillBackup => "backup_drill",
        }
    }
}

/// What is done, and to what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Act<'a> {
    pub settings: &'a Settings,
    pub deed: Deed,
    pub tenant: Option<&'a TenantId>,
    /// `database@cluster`.
    pub place: Option<&'a str>,
}

impl<'a> Act<'a> {
    pub fn on_tenant(settings: &'a Settings, deed: Deed, tenant: &'a TenantId) -> Self {
        Self { settings, deed, tenant: Some(tenant), place: None }
    }

    pub fn at(settings: &'a Settings, deed: Deed, place: &'a str) -> Self {
        Self { settings, deed, tenant: None, place: Some(place) }
    }

    /// Does it, recorded before and after. What cannot be recorded and would have to be is not done.
    pub async fn recorded<T>(self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        self.record("begun").await?;
        let done = work.await;
        let noted = self.record(if done.is_ok() { "done" } else { "failed" }).await;
        if let Err(failure) = noted {
            warn(format_args!(
                "this was {}, but could not be recorded: {failure}",
                if done.is_ok() { "done" } else { "tried" }
            ));
        }
        done
    }

    async fn record(self, outcome: &'static str) -> Result<(), Failure> {
        let Some(rules) = &self.settings.audit else { return Ok(()) };
        let rules = config::Audit { file: beside(&rules.file), ..rules.clone() };
        let begin = Instant::now();
        let audit = loop {
            // To be told of a failure; whether it matters is decided below.
            let strict = config::Audit { on_failure: OnFailure::Refuse, ..rules.clone() };
            match Audit::start(Some(&strict), Here::from(self.settings), &Arc::new(Telemetry::new())) {
                Ok(audit) => break audit,
                Err(AuditError::Write { .. }) if begin.elapsed() < PATIENCE && is_busy(&rules.file) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return self.unrecorded(&rules, &Failure::from(error)),
            }
        };
        let event = Event::Administration {
            act: self.deed.as_str(),
            tenant: self.tenant.cloned(),
            place: self.place.map(Text::new),
            operator: operator().as_deref().map(Text::new),
            outcome,
        };
        let recorded = audit.admit(|| event).await;
        audit.stop().await;
        match recorded {
            Ok(()) => Ok(()),
            Err(_) => self.unrecorded(&rules, &Failure::said("the disk may be full")),
        }
    }

    fn unrecorded(self, rules: &config::Audit, why: &Failure) -> Result<(), Failure> {
        let said = format!(
            "the audit log {} cannot be written, and audit.on_failure is \"refuse\": {why}",
            rules.file.display()
        );
        match rules.on_failure {
            OnFailure::Refuse => Err(Failure::said(said)),
            OnFailure::Drop => {
                warn(format_args!("{} is not recorded: {why}", self.deed.as_str()));
                Ok(())
            }
        }
    }
}

/// Whether somebody has the file open for writing, by the lock that writers take.
fn is_busy(file: &Path) -> bool {
    let Ok(file) = std::fs::File::open(file) else { return false };
    matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
}

/// `pgward.jsonl` becomes `pgward.admin.jsonl`.
pub(super) fn beside(file: &Path) -> PathBuf {
    let part = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let stem = part(file.file_stem()).unwrap_or_default();
    match part(file.extension()) {
        Some(extension) => file.with_file_name(format!("{stem}.admin.{extension}")),
        None => file.with_file_name(format!("{stem}.admin")),
    }
}

/// Who calls the command, as the system has it.
pub(super) fn operator() -> Option<String> {
    let name = |key| std::env::var(key).ok().filter(|name| !name.is_empty());
    // Behind sudo, the one who called it.
    name("SUDO_USER").or_else(|| name("USER")).or_else(|| name("LOGNAME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_a_file_of_their_own_beside_the_running_ones() {
        assert_eq!(beside(Path::new("audit/pgward.jsonl")), Path::new("audit/pgward.admin.jsonl"));
        assert_eq!(beside(Path::new("/var/log/pgward")), Path::new("/var/log/pgward.admin"));
    }
}
