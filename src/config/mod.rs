//! Configuration: TOML in, [`Settings`] out, or every [`Problem`] at once.
//!
//! [`load`] reads the file (and the tenants file it names), `settings` are the validated types that
//! the rest of the house is handed, `reader` walks the TOML and remembers problems instead of
//! stopping at the first, `sections` and its like read one table each and `check` looks across tables.
//! Nothing live is kept in here: settings are values.

mod audit;
mod backup;
mod break_glass;
mod catalogue;
mod check;
mod clusters;
mod forwarding;
mod grants;
mod logins;
mod maintenance;
mod places;
mod plain;
mod problem;
mod reader;
mod reads;
mod regions;
mod sections;
mod settings;
mod tenants;
mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use backup::{Backup, BackupKind, ClusterBackup, On, Repository, S3, Store, StorePlace, Tier, TimeOfDay};
pub use catalogue::{Catalogue, Snapshot};
pub use forwarding::{Forward, Forwarding, ServerNames};
pub use grants::Grant;
pub use maintenance::{Class, Every, Maintenance, Partitions, Upkeep};
pub use places::{Node, Patroni, Url};
pub use problem::Problem;
pub use settings::*;
pub use tenants::RESTORING;

use reader::Reader;
pub use reader::parse_duration;

/// Reads and validates a configuration file that has no `[catalogue]`. `Err` holds all problems found.
pub fn load(path: &Path) -> Result<Settings, Vec<Problem>> {
    parse(&read(path)?, folder(path))
}

/// The same, as if this text stood in the tenants file that it names.
pub fn load_with_tenants(path: &Path, tenants: &str) -> Result<Settings, Vec<Problem>> {
    parse_by(Reader::with_tenants(folder(path), tenants), &read(path)?)
}

/// A configuration file that was read once, whose tenants may stand elsewhere.
pub struct Draft {
    text: String,
    folder: PathBuf,
}

impl Draft {
    pub fn new(text: impl Into<String>, folder: &Path) -> Self {
        Self { text: text.into(), folder: folder.to_owned() }
    }

    pub fn read(path: &Path) -> Result<Self, Vec<Problem>> {
        Ok(Self::new(read(path)?, folder(path)))
    }

    /// Without the tenants of the catalogue, and not looked at as a whole: enough to get to the catalogue or to make it,
    /// and for whoever has nothing to do with tenants.
    pub fn outline(&self) -> Result<Settings, Vec<Problem>> {
        let mut reader = Reader::with_snapshot(&self.folder, Arc::default());
        let settings = sections::settings(&mut reader, table(&self.text)?);
        let mut problems = reader.into_problems();
        if let Some(settings) = &settings {
            catalogue::check(settings, &mut problems);
        }
        settings.filter(|_| problems.is_empty()).ok_or(problems)
    }

    /// As if these tenants stood in a tenants file, where the configuration has a catalogue.
    pub fn with_catalogue(&self, snapshot: &Arc<Snapshot>) -> Result<Settings, Vec<Problem>> {
        parse_by(Reader::with_snapshot(&self.folder, Arc::clone(snapshot)), &self.text)
    }
}

fn read(path: &Path) -> Result<String, Vec<Problem>> {
    std::fs::read_to_string(path).map_err(|error| vec![Problem::file(path, &error)])
}

/// Where relative file names start.
fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new("."))
}

/// Validates configuration text; relative file names in it are taken from `folder`.
pub fn parse(text: &str, folder: &Path) -> Result<Settings, Vec<Problem>> {
    parse_by(Reader::new(folder), text)
}

fn parse_by(mut reader: Reader, text: &str) -> Result<Settings, Vec<Problem>> {
    let settings = sections::settings(&mut reader, table(text)?);
    let mut problems = reader.into_problems();
    match settings {
        Some(settings) => {
            problems.extend(check::across(&settings));
            if problems.is_empty() { Ok(settings) } else { Err(problems) }
        }
        None => Err(problems),
    }
}

fn table(text: &str) -> Result<toml::Table, Vec<Problem>> {
    text.parse().map_err(|error| vec![Problem::syntax("the configuration file", &error)])
}
