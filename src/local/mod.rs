//! PostgreSQL servers of our own on this machine: the demo's, the tests', and those that backups are tried on. They
//! live no longer than the process that started them.

mod cluster;
mod error;
mod host;
mod server;
mod tls;

pub use cluster::{Builder, Cluster};
pub use error::ClusterError;
pub use host::Host;
pub(crate) use host::{open_plain, own_as_folder, read_plain};
pub(crate) use server::postmaster;
pub use server::{Server, Stop, free_port};
pub use tls::{Authority, Identity};
