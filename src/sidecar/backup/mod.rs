//! Backups of whole clusters by pgBackRest, proven by restoring them.
//!
//! ```text
//!   tiers       what is due, what may go (pure)
//!   target      up to where a copy is replayed, and which backup that takes (pure)
//!   conf, info  pgBackRest's file, made; its answer, read (pure)
//!   pgbackrest  the program, run
//!   site        one cluster's: repositories, folder, lock, way to the primary
//!   make        a backup is made, and old ones let go
//!   scratch     a copy, restored aside
//!   baseline    what a cluster holds, to compare a copy with
//!   verify      a backup is tried: restored, compared, examined
//! ```

pub mod baseline;
mod conf;
mod error;
mod finding;
mod info;
mod make;
mod pgbackrest;
mod programs;
mod recorded;
mod reports;
mod scratch;
mod site;
mod target;
mod tiers;
mod verify;

pub use error::BackupError;
pub use finding::{Finding, Severity};
pub use info::{Holdings, Kept};
pub use make::{Made, Order, Pruned, archive_command, kept_until, make, prune};
pub use pgbackrest::{Progress, Unseen};
pub use scratch::{Recovered, Scratch, Took};
pub use site::{Lock, Primary, Site};
pub use target::{Target, Wanted, moment};
pub use verify::{Against, Trial, Verified, verify};
