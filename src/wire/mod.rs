//! The PostgreSQL protocol (version 3), bytes in and bytes out: no sockets, no runtime.
//!
//! - `frame`: message headers, and which lengths are believable
//! - `startup`: the first packet of a connection
//! - `frontend`: the parts of client messages that pgward reads or rewrites
//! - `backend`: the parts of server messages that pgward reads
//! - `flow`: which answers are still expected from a backend
//! - `handover`: what turns a backend from one tenant to the next, and the check of its answers
//! - `encode`: messages that pgward itself sends to clients
//! - `forward`: what one pgward tells another of a client that it forwards
//! - `table`: rows that pgward itself returns

pub mod backend;
pub mod encode;
pub mod flow;
pub mod forward;
pub mod frame;
pub mod frontend;
pub mod handover;
pub mod startup;
pub mod table;

pub use frame::{Header, HeaderError, Origin};
