//! Where tenants are added, changed and removed: the tenants file, or the catalogue that several pgwards share.

use std::path::PathBuf;
use std::sync::Arc;

use toml_edit::{DocumentMut, Table, TableLike};

use super::file::{self, TenantsFile};
use super::{Failure, Reach, TenantArgument};
use crate::base::TenantId;
use crate::catalogue::{self, WriteError};
use crate::cli::catalogue::{judged, name};
use crate::config::{Catalogue, Settings, Snapshot};

pub(super) enum Store {
    File(TenantsFile),
    Table(TenantsTable),
}

/// What becomes of a tenant's entry.
#[derive(Clone)]
pub(super) enum Change {
    /// It is made, unless there is one.
    Put(Table),
    Suspended(bool),
    /// A restore suspends it, unless it is, or is done with it.
    Restoring(bool),
    /// Why nothing of it may be deleted, or that there is no reason any more.
    Hold(Option<String>),
    TakeOut,
}

impl Change {
    /// What changes within an entry that is there.
    fn amend(&self, entry: &mut dyn TableLike) {
        match self {
            Self::Suspended(suspended) => file::suspend(entry, *suspended),
            Self::Restoring(begun) => file::restoring(entry, *begun),
            Self::Hold(reason) => file::hold(entry, reason.as_deref()),
            Self::Put(_) | Self::TakeOut => {}
        }
    }
}

impl Store {
    pub fn of(argument: &TenantArgument, settings: &Settings) -> Result<Self, Failure> {
        let config = &argument.config.path;
        match &settings.catalogue {
            Some(catalogue) => Ok(Self::Table(TenantsTable { config: config.clone(), catalogue: catalogue.clone() })),
            None => Ok(Self::File(TenantsFile::of(config, settings)?)),
        }
    }

    /// For people.
    pub fn place(&self) -> String {
        match self {
            Self::File(file) => file.path().display().to_string(),
            Self::Table(table) => table.place(),
        }
    }

    pub fn has(&self, id: &TenantId) -> Result<bool, Failure> {
        match self {
            Self::File(file) => file.has(id),
            Self::Table(table) => Ok(table.definition(id).is_some()),
        }
    }

    /// Makes sure that the tenant, which the configuration has, is in here.
    pub fn must_have(&self, id: &TenantId) -> Result<(), Failure> {
        if self.has(id)? {
            return Ok(());
        }
        let config = match self {
            Self::File(file) => file.config(),
            Self::Table(table) => &table.config,
        };
        Err(Failure::said(format!(
            "tenant {id} stands in {}, which pgward does not write; move its table to {}, or change it by hand",
            config.display(),
            self.place()
        )))
    }

    /// The configuration as it would be with this entry for the tenant, whatever it has now; nothing is written.
    pub fn proposed(&self, id: &TenantId, entry: &Table) -> Result<Settings, Failure> {
        match self {
            Self::File(file) => file.proposed(|document| {
                file::take_out(document, id);
                file::put(document, id, entry.clone());
            }),
            Self::Table(table) => {
                let mut snapshot = Snapshot::clone(&table.catalogue.snapshot);
                snapshot.entries.insert(id.to_string(), file::text(entry));
                table.judged(snapshot)
            }
        }
    }

    /// Changes the tenant's entry, unless the configuration would then have problems.
    pub async fn edit(&mut self, id: &TenantId, change: Change, reach: &Reach<'_>) -> Result<(), Failure> {
        match self {
            Self::File(file) => file.edit(|document| {
                match change {
                    Change::Put(entry) => file::put(document, id, entry),
                    Change::TakeOut => {
                        file::held(document, id).map_or(Ok(()), |reason| Err(stays(id, &reason)))?;
                        file::take_out(document, id);
                    }
                    _ => file::amend(document, id, |entry| change.amend(entry)),
                }
                Ok(())
            }),
            Self::Table(table) => table.edit(id, &change, reach).await,
        }
    }
}

/// The catalogue as it was read, and the configuration that names it.
pub(super) struct TenantsTable {
    config: PathBuf,
    catalogue: Catalogue,
}

impl TenantsTable {
    fn place(&self) -> String {
        name(&self.catalogue)
    }

    fn definition(&self, id: &TenantId) -> Option<&str> {
        self.catalogue.snapshot.entries.get(id.as_str()).map(String::as_str)
    }

    /// The configuration with these tenants.
    fn judged(&self, snapshot: Snapshot) -> Result<Settings, Failure> {
        judged(&self.config, &self.catalogue, snapshot)
    }

    /// Refuses where the row is not the one that was read: somebody else has other ideas of it. A restore, which takes its
    /// time, minds nothing of the row but its own word.
    async fn edit(&mut self, id: &TenantId, change: &Change, reach: &Reach<'_>) -> Result<(), Failure> {
        let administrator = reach.catalogue(&self.catalogue).await?;
        let mut client = administrator.connect(&self.catalogue.database).await?;
        if matches!(change, Change::Restoring(_)) {
            self.catalogue.snapshot = Arc::new(catalogue::read(&client).await?);
        }
        let before = self.definition(id).map(str::to_owned);
        let after = self.changed(id, before.as_deref(), change)?;
        let row = catalogue::Change { id: id.clone(), before, after };
        let judge = |snapshot| self.judged(snapshot).map(|settings| settings.catalogue);
        match catalogue::change(&mut client, &[row], judge).await {
            Ok(Some(Some(catalogue))) => self.catalogue = catalogue,
            // Nothing was to do, or the configuration has just lost its catalogue.
            Ok(Some(None) | None) => {}
            Err(WriteError::Refused(failure)) => return Err(failure),
            Err(WriteError::Changed(id)) => {
                return Err(Failure::said(format!(
                    "somebody else has changed tenant {id} in {} meanwhile; nothing was written there. Look again, \
                     and repeat the command",
                    self.place()
                )));
            }
            Err(WriteError::Failed(error)) => return Err(error.into()),
        }
        Ok(())
    }

    /// What the row will have. `None`: there will be none.
    fn changed(&self, id: &TenantId, before: Option<&str>, change: &Change) -> Result<Option<String>, Failure> {
        Ok(match (before, change) {
            (Some(before), Change::Put(_)) => Some(before.to_owned()),
            (None, Change::Put(entry)) => Some(file::text(entry)),
            (Some(before), _) => {
                // It was judged before, so that this does not fail.
                let mut document: DocumentMut = before.parse().map_err(|_| {
                    Failure::said(format!("what {} has of tenant {id} is not valid TOML", self.place()))
                })?;
                if matches!(change, Change::TakeOut) {
                    return file::reason(document.as_table()).map_or(Ok(None), |reason| Err(stays(id, &reason)));
                }
                change.amend(document.as_table_mut());
                Some(document.to_string())
            }
            (None, _) => None,
        })
    }
}

/// It was held when there was nothing left to keep but its entry.
fn stays(id: &TenantId, reason: &str) -> Failure {
    Failure::said(format!(
        "tenant {id} has come under legal hold ({reason}) when what it had was deleted already; its entry stays. pgward \
         tenant release {id}, and then the same command again, takes that out too"
    ))
}
