//! Which server serves a session: a pure function of what is known.

mod decide;

pub use decide::{Refusal, Route, admit, decide};
