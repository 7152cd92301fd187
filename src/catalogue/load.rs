//! A configuration with its tenants, wherever they stand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::{self, CacheError};
use super::errand;
use super::table::{ReadError, Reader};
use crate::base::causes;
use crate::config::{Catalogue, Draft, Problem, Settings, Snapshot};
use crate::topology::{Way, WayError};

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{} has problems", .path.display())]
    Problems { path: PathBuf, problems: Vec<Problem> },
    #[error("the catalogue of tenants ({place}) cannot be read")]
    Unread {
        place: String,
        #[source]
        source: Unread,
    },
    #[error("the catalogue of tenants ({place}) cannot be read, and there is no catalogue.cache to start from")]
    Uncached {
        place: String,
        #[source]
        source: Unread,
    },
    #[error("the catalogue of tenants ({place}) cannot be read: {because}; and neither can its cache")]
    NoCache {
        place: String,
        because: String,
        #[source]
        source: CacheError,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error(transparent)]
    Way(#[from] WayError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// As it is now. Tenants of a catalogue are read from its table and from nowhere else.
pub async fn load(path: &Path) -> Result<Settings, LoadError> {
    load_by(path, |catalogue, source| Err(LoadError::Unread { place: catalogue.place(), source })).await
}

/// The same to run by, for which the last good catalogue will do while the table cannot be read.
pub async fn load_to_run(path: &Path) -> Result<Settings, LoadError> {
    load_by(path, |catalogue, source| {
        let place = catalogue.place();
        let Some(file) = &catalogue.cache else { return Err(LoadError::Uncached { place, source }) };
        let because = causes(&source);
        cache::read(file, catalogue).map_err(|source| LoadError::NoCache { place, because, source })
    })
    .await
}

async fn load_by(
    path: &Path,
    instead: impl FnOnce(&Catalogue, Unread) -> Result<Snapshot, LoadError>,
) -> Result<Settings, LoadError> {
    let failed = |problems| LoadError::Problems { path: path.to_owned(), problems };
    let draft = Draft::read(path).map_err(failed)?;
    let mut snapshot = Snapshot::default();
    // Where there is something wrong, all of it is told below.
    if let Ok(outline) = draft.outline()
        && let Some(catalogue) = &outline.catalogue
    {
        let read = read(&outline, catalogue).await;
        snapshot = read.or_else(|unread| instead(catalogue, unread))?;
    }
    draft.with_catalogue(&Arc::new(snapshot)).map_err(failed)
}

async fn read(settings: &Settings, catalogue: &Catalogue) -> Result<Snapshot, Unread> {
    Ok(Reader::new(&Way::find(settings, errand(catalogue)).await?)?.read().await?)
}
