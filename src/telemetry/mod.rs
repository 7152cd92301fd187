//! What is counted and what is logged.

mod histogram;
mod log;
mod metrics;
mod samples;
mod stats;

pub use histogram::Timings;
pub use log::init;
pub use metrics::Telemetry;
pub use samples::Sample;
pub use stats::{CoreStats, add};
