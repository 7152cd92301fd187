//! `SHOW VERSION`

use super::command::Row;
use crate::wire::table::Column;

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) const COLUMNS: &[Column] = &[Column::text("version")];

pub(super) fn rows() -> Vec<Row> {
    vec![vec![format!("pgward {VERSION}").into()]]
}
