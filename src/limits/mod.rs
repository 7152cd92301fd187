//! What a tenant may use at once, and whose turn it is when something is short.

mod fairness;
mod hold;
mod usage;

pub use fairness::FairQueue;
pub use hold::{Held, Hold};
pub use usage::{ClientSlot, LeaseSlot, PinSlot, Usage, Usages};
