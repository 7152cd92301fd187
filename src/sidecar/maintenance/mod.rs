//! Tables that are partitioned by time, kept by pg_partman: partitions ahead of time, and rows gone when their tenants'
//! time is up.
//!
//! ```text
//!   plan      which tables, and whose rows are kept how long (pure)
//!   partman   what is asked of pg_partman, of one table
//!   lock      pg_partman's advisory locks, and who has them
//!   leave     whether something may still go, asked right before it does, and who is told once it is gone
//!   drop      partitions that nobody keeps anything in any more
//!   expire    rows whose partition stays
//!   table     one table's turn: in small transactions, tried again
//!   visit     all tables of a database, by one node at a time
//!   pass      all databases of a cluster
//!   setup     the extension, the login and its privileges
//!   keep      again and again, a task for each cluster
//!   board     what is known of each table, and its metrics
//! ```
//!
//! A tenant that owns its tables may have put anything into them: triggers, expressions in indexes. So nothing is done to
//! those but by the tenant's own login. docs/maintenance.md has the rest.

mod board;
mod drop;
mod error;
mod expire;
mod keep;
mod leave;
mod lock;
mod partman;
mod pass;
mod plan;
mod setup;
mod table;
mod visit;

pub use error::MaintenanceError;
pub use keep::Keeper;
pub use leave::{Answer, Gone, InForce};
pub use partman::Standing;
pub use pass::{Pass, Turn, Verdict};
pub use setup::Setup;
pub use table::Deeds;
