//! The console: psql, or any driver, to the database `pgward`.
//!
//! ```text
//!   connection  messages in, answers out, until the client leaves or pgward drains
//!   extended    statements and portals, for drivers that prepare everything
//!   parse       text -> commands
//!   command     what each command answers; one file per SHOW
//! ```
//!
//! docs/console.md describes every command and column. Nothing here shows a secret, a token or the text
//! of anybody's SQL.

mod clients;
mod clusters;
mod command;
mod connection;
mod extended;
mod help;
mod parse;
mod pools;
mod servers;
mod stats;
mod tenants;
mod version;

pub use connection::serve;
