//! Backends lent to sessions.
//!
//! A [`Pool`] is one login (role and database) on one server, known to all cores. Its idle backends lie
//! in the [`Shard`]s, one per core, and are lent on their own core without a lock or a system call. Only
//! when something is short do cores talk: the server's [`Budget`] counts what is open, holds the queue
//! of those who wait, and a core that has what another one needs is poked through its mailbox.
//!
//! ```text
//!   acquire: idle on this core? -> lend                              (no lock)
//!            budget left?       -> open one, with a Permit           (a lock)
//!            else               -> queue, poke cores that have idle backends, wait for a Grant
//!   release: nobody waits?      -> back to this core's idle list     (no lock)
//!            else               -> to the waiter whose turn it is, of whatever core
//! ```

mod budget;
mod conn;
mod head;
mod patience;
mod prepared;
mod registry;
mod scope;
mod shard;
mod vetting;

pub use budget::{Budget, Permit};
pub use conn::{Conn, Lease};
pub use head::{At, Head};
pub use prepared::{Prepared, Statement, name as statement_name, text_of};
pub use registry::{BackendRow, Follow, Place, Pool, PoolKey, PoolRow, Pools};
pub use scope::Scope;
pub use shard::{AcquireError, Claim, Granted, Local, Poke, Request, Shard, Waiting};
pub use vetting::Vetting;
