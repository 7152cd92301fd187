//! For those who run pgward: the console by psql, and HTTP for Prometheus and health checks.

pub mod console;
mod control;
mod gate;
mod gauges;
pub mod http;

pub use control::{Control, ReloadError, Request};
pub use gate::{GateError, Target};
