#![forbid(unsafe_code)]
pub mod base;
pub mod cli;
pub mod config;
pub mod residency;
