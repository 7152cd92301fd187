//! What goes to the terminal. A reader that went away (`pgward check FILE | head`) is no failure.

use std::fmt::Display;
use std::io::Write;

pub(super) fn say(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

pub(super) fn warn(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "pgward: {text}");
}

/// Prints columns as wide as what is in them.
pub(super) fn table<const N: usize>(rows: Vec<[&str; N]>) {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column).unwrap_or(0);
            format!("{cell:width$}")
        });
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
