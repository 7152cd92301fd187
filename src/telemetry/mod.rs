//! What is counted and what is logged.

mod log;
mod metrics;
mod stats;

pub use log::init;
pub use metrics::Telemetry;
pub use stats::{CoreStats, Timings, add};
