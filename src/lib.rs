pub mod auth;
pub mod base;
pub mod config;
pub mod residency;
