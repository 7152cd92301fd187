//! Backups of whole clusters by pgBackRest, proven by restoring them.
//!
//! ```text
//!   tiers       what is due, what may go (pure)
//!   conf, info  pgBackRest's file, made; its answer, read (pure)
//!   pgbackrest  the program, run
//!   site        one cluster's: repositories, folder, lock, way to the primary
//! ```

pub mod baseline;
mod conf;
mod error;
mod finding;
mod info;
mod pgbackrest;
mod site;
mod tiers;

pub use error::BackupError;
pub use finding::{Finding, Severity};
pub use info::{Holdings, Kept};
pub use pgbackrest::{Progress, Unseen};
pub use site::{Lock, Primary, Site};
