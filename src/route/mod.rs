//! Which server serves a session: a pure function of what is known.

mod decide;
mod reads;

pub use decide::{Here, Refusal, Route, admit, decide};
pub use reads::{Before, Choice, Read, Server, Unfit, choose, fitness, serves, sharing};
