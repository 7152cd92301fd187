//! Configuration: TOML in, [`Settings`] out, or every [`Problem`] at once.
//!
//! [`load`] reads the file (and the tenants file it names), `settings` are the validated types that
//! the rest of the house is handed, `reader` walks the TOML and remembers problems instead of
//! stopping at the first, `sections` and its like read one table each and `check` looks across tables.
//! Nothing live is kept in here: settings are values.

mod audit;
mod break_glass;
mod check;
mod clusters;
mod forwarding;
mod grants;
mod logins;
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

use std::path::Path;

pub use forwarding::{Forward, Forwarding, ServerNames};
pub use grants::Grant;
pub use places::{Node, Patroni, Url};
pub use problem::Problem;
pub use settings::*;

use reader::Reader;
pub use reader::parse_duration;

/// Reads and validates a configuration file. `Err` holds all problems found.
pub fn load(path: &Path) -> Result<Settings, Vec<Problem>> {
    parse(&read(path)?, folder(path))
}

/// The same, as if this text stood in the tenants file that it names.
pub fn load_with_tenants(path: &Path, tenants: &str) -> Result<Settings, Vec<Problem>> {
    parse_by(Reader::with_tenants(folder(path), tenants), &read(path)?)
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
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return Err(vec![Problem::syntax("the configuration file", &error)]),
    };
    let settings = sections::settings(&mut reader, table);
    let mut problems = reader.into_problems();
    match settings {
        Some(settings) => {
            problems.extend(check::across(&settings));
            if problems.is_empty() { Ok(settings) } else { Err(problems) }
        }
        None => Err(problems),
    }
}
