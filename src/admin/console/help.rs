//! `SHOW HELP`

use super::command::{Command, Row};
use crate::wire::table::Column;

pub(super) const COLUMNS: &[Column] = &[Column::text("command"), Column::text("description")];

pub(super) fn rows() -> Vec<Row> {
    Command::ALL.iter().map(|(words, _, does)| vec![(*words).into(), (*does).into()]).collect()
}
