pub mod cluster;
mod error;
mod host;
mod server;
mod tls;
