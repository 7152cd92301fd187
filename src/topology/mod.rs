//! What the servers of each cluster are right now: who takes writes, who follows, who is gone.
//!
//! ```text
//!   probe      asks one server every half second (I/O)
//!   board      what all of them said, and what follows from it, for all who ask
//!   health     whether a server answers (pure)
//!   failover   who is the primary (pure)
//!   snapshot   what is published: replaced, never changed
//! ```
//!
//! Who is promoted is for others to decide (Patroni, or a person); here it is found out and followed.

mod board;
mod failover;
mod health;
mod probe;
mod snapshot;

pub use board::{Board, Topology};
pub use failover::Role;
pub use health::Health;
pub use probe::{Probed, watch};
pub use snapshot::{Seen, ServerView, Snapshot};
