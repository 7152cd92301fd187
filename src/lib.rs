#![forbid(unsafe_code)]
pub mod admin;
pub mod auth;
pub mod backend;
pub mod base;
pub mod cli;
pub mod config;
pub mod limits;
pub mod net;
pub mod pool;
pub mod proxy;
pub mod residency;
pub mod route;
pub mod session;
pub mod sql;
pub mod telemetry;
pub mod tenant;
pub mod wire;
