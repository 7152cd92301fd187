//! Tenants that several pgwards share: a table of PostgreSQL, read as a whole, watched and remembered.
//!
//! ```text
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

use crate::config::Catalogue;
use crate::topology::Errand;
pub use listen::{ListenError, Listener};
pub use load::{LoadError, Unread, load, load_to_run};
pub use standing::Standing;
pub use table::{Change, ChangeError, ReadError, Reader, WriteError, change, read};

/// To where the table is, as who may read it.
pub fn errand(catalogue: &Catalogue) -> Errand<'_> {
    Errand {
        cluster: &catalogue.cluster,
        database: &catalogue.database,
        login: &catalogue.login,
        application_name: "pgward catalogue",
    }
}
