//! Tenants that several pgwards share: a table of PostgreSQL, read as a whole, watched and remembered.
//!
//! ```text
//!   way        which server, as whom
//!   table      what stands there; how somebody who may changes it
//!   listen     a connection that is told of changes
//!   cache      the last good one, in a file
//!   load       a configuration with its tenants
//!   standing   what a running pgward knows of it
//! ```
//!
//! What stands there is text until `config` has judged it, by the same code as a tenants file.

mod cache;
mod listen;
mod load;
mod standing;
mod table;
mod way;

pub use listen::{ListenError, Listener};
pub use load::{LoadError, Unread, load, load_to_run};
pub use standing::Standing;
pub use table::{Change, ChangeError, ReadError, Reader, WriteError, change, read};
pub use way::{Way, WayError};
