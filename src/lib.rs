pub mod base;
pub mod config;
pub mod residency;
pub mod sql;
