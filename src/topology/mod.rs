//! What the servers of each cluster are right now: who takes writes, who follows, who is gone.
//!
//! ```text
//!   probe      asks one server every half second (I/O)
//!   board      what all of them said, and what follows from it, for all who ask
//!   urgency    when they are asked sooner than that
//!   health     whether a server answers (pure)
//!   failover   who is the primary (pure)
//!   patroni    who leads, and which servers there are, as Patroni says (I/O)
//!   roster     the same, answer by answer (pure)
//!   samples    how far each had come when (pure)
//!   functions  which of a database's may be called on a replica (I/O)
//!   look       the same once, for commands (I/O)
//!   snapshot   what is published: replaced, never changed
//!   writers    who may take writes, before anybody follows (I/O)
//!   way        a connection to whoever does (I/O)
//! ```
//!
//! Who is promoted is for others to decide (Patroni, or a person); here it is found out and followed.

mod board;
mod failover;
mod functions;
mod health;
mod look;
mod patroni;
mod probe;
mod roster;
mod samples;
mod snapshot;
mod urgency;
mod way;
mod writers;

pub use board::{Board, Topology};
pub use failover::Role;
pub use functions::{DatabaseFunctions, Functions};
pub use health::Health;
pub use look::{Look, look};
pub use patroni::{PatroniError, watch as watch_patroni};
pub use probe::{Probed, watch};
pub use samples::{Sample, Samples};
pub use snapshot::{Balance, Lag, NotReplica, Seen, ServerView, Snapshot};
pub use way::{Errand, Way, WayError};
pub use writers::{Writers, WritersError, writers};
