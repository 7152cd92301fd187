//! What goes to the terminal. A reader that went away (`pgward check FILE | head`) is no failure.

use std::fmt::Display;
use std::io::Write;

pub(super) fn say(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

pub(super) fn warn(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "pgward: {text}");
}
