//! `SHOW HELP`

use super::command::{Command, Gate, Row};
use crate::wire::table::Column;

pub(super) const COLUMNS: &[Column] = &[Column::text("command"), Column::text("description")];

pub(super) fn rows() -> Vec<Row> {
    let gates = Gate::ALL.iter().map(|gate| gate.help());
    let all = Command::ALL.iter().map(|(words, _, does)| (*words, *does)).chain(gates);
    all.map(|(words, does)| vec![words.into(), does.into()]).collect()
}
