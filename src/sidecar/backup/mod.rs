//! Backups of whole clusters by pgBackRest, proven by restoring them.
//!
//! ```text
//!   tiers       what is due, what may go (pure)
//!   target      up to where a copy is replayed, and which backup that takes (pure)
//!   conf, info  pgBackRest's file, made; its answer, read (pure)
//!   pgbackrest  the program, run
//!   site        one cluster's: repositories, folder, lock, way to the primary
//!   make        a backup is made, and old ones let go
//!   restore     data put where a server is to be started on it
//!   scratch     a copy, restored aside
//!   standing    what there should be by now
//!   watch       how the log gets to the archive
//!   receive     the log as it is written, for what is not in the archive yet
//!   wal         the folder that it is received into
//!   baseline    what a cluster holds, to compare a copy with
//!   verify      a backup is tried: restored, compared, examined
//!   trials      what is remembered of that
//!   drill       a region is lost, on paper and on scratch servers
//!   schedule    all of it by itself
//! ```

pub mod baseline;
mod conf;
mod drill;
mod error;
mod finding;
mod gauges;
mod info;
mod make;
mod pgbackrest;
mod programs;
mod receive;
mod recorded;
mod reports;
mod restore;
mod schedule;
mod scratch;
mod site;
mod standing;
mod target;
mod tiers;
mod trials;
mod verify;
mod wal;
mod watch;

pub use drill::{ClusterDrill, Drilled, Fate, Rehearsal, TenantDrill, drill, regions};
pub use error::BackupError;
pub use finding::{Finding, Severity};
pub use info::{Holdings, Kept};
pub use make::{Made, Order, Pruned, archive_command, archive_setting, being_made, holds, kept_until, make, prune};
pub use pgbackrest::{Progress, Unseen};
pub use receive::{Receiving, receiving};
pub use restore::{Place, Restored, restore};
pub use schedule::{Source, keep};
pub use scratch::{Recovered, Scratch, Took};
pub use site::{Lock, Primary, Site, Writer};
pub use standing::{Standing, standing};
pub use target::{Target, Wanted, moment};
pub use tiers::{FOREVER, last_full};
pub use trials::LastTrial;
pub use verify::{Against, Trial, Verified, verify};
pub use watch::{Archiving, Unarchived, archiving, end_segment};
