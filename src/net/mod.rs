//! Sockets and TLS, for both sides: clients that connect to pgward and servers it connects to.

mod administration;
mod fetch;
mod peers;
mod socket;
mod stream;
mod tls;

pub use administration::AdministrationTls;
pub use fetch::{FetchError, FileError, authorities, fetch, identity};
pub use peers::{Peers, host_asked_for};
pub use socket::Socket;
pub use stream::Stream;
pub use tls::{TlsError, connector, end_point_hash, listener};
