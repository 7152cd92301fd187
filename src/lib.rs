#![forbid(unsafe_code)]
pub mod backend;
pub mod base;
pub mod config;
pub mod limits;
pub mod net;
pub mod pool;
pub mod residency;
pub mod sql;
pub mod telemetry;
pub mod tenant;
pub mod wire;
