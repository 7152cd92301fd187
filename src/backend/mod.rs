//! One connection to a PostgreSQL server: opening it, logging in, cancelling on it, and bringing it back
//! to rest when a client left in the middle of something.

mod ask;
mod cancel;
mod connect;
mod login;
mod recover;
pub mod scram;

use std::time::Instant;

use crate::base::Secret;
use crate::net::Stream;
use crate::wire::flow::Flow;

pub use ask::{AskError, Row, ask};
pub use cancel::{CancelTarget, cancel};
pub use connect::{Endpoint, open};
pub use login::{Credentials, Greeting, LoginSecret};
pub use recover::{dispose, recover};

/// A backend that is logged in.
#[derive(Debug)]
pub struct Backend {
    pub stream: Stream,
    pub pid: u32,
    pub key: Secret,
    pub born: Instant,
    /// Answers the server owes.
    pub flow: Flow,
    /// Bytes of a server message whose header was seen and which are still to come.
    pub rest: usize,
    /// The start of a server message that was cut by the end of a read.
    pub cut: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("cannot connect to {server}")]
    Connect {
        server: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{server} did not answer within {seconds} s")]
    Timeout { server: String, seconds: u64 },
    #[error("TLS with {server} failed")]
    Tls {
        server: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{server} does not offer TLS, which the configuration demands")]
    NoTls { server: String },
    /// The server's own refusal, by its SQLSTATE. Its text may name roles and databases, so it is for
    /// the log and not for clients.
    #[error("{server} refused the login: SQLSTATE {sqlstate}: {message}")]
    Refused { server: String, sqlstate: String, message: String },
    #[error("{server} asks for the authentication method {method}, which is not spoken here; use scram-sha-256")]
    Method { server: String, method: &'static str },
    #[error("{server} broke the protocol during login: {what}")]
    Protocol { server: String, what: String },
    #[error("{server} did not answer whether its login can be used")]
    Ask {
        server: String,
        #[source]
        source: AskError,
    },
    #[error("database {database} of {server} is not prepared; run pgward install")]
    NotInstalled { server: String, database: String },
    #[error("the login {role} on {server} could get around the isolation of tenants: {reasons}")]
    Unsafe { server: String, role: String, reasons: String },
    #[error("the login {role} on {server} could do more than the grant that it is for: {reasons}")]
    OutOfScope { server: String, role: String, reasons: String },
    #[error("the settings of login {role} on {server} are not those it was installed with, and could not be mended")]
    Unsound { server: String, role: String },
}

impl BackendError {
    /// Whether the server may be on its way up or down: it is not reached, or says so (57P01 to 57P03).
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Protocol { .. } => true,
            // What is wrong with a certificate stays wrong.
            Self::Tls { source, .. } => source.kind() != std::io::ErrorKind::InvalidData,
            Self::Refused { sqlstate, .. } => ["57P01", "57P02", "57P03"].contains(&sqlstate.as_str()),
            Self::Ask { source, .. } => matches!(source, AskError::Lost),
            _ => false,
        }
    }
}
