//! Who a client is: the JWT it sends as its password, verified, and what its claims say; or, where there
//! are no tenants, a user that knows its password ([`scram`]).
//!
//! The token's `iss` is read before anything is verified, and only to choose the issuer's rules and
//! keys. From there on nothing in the token can widen what the configuration allows: the algorithm
//! must be pinned for that issuer *and* fit the type of the key, header fields that bring keys along
//! (`jwk`, `jku`, `x5u`, `x5c`) are never looked at, and the signature comes before every other claim.
//!
//! Sessions verify on the cores, and a known key needs neither lock nor network. Keys behind a URL are
//! fetched by [`Verifier::refreshers`], which the control runtime drives; a core that meets an unknown
//! key asks for a fetch and waits for its end, bounded, with everyone else who asked.

mod error;
mod identity;
mod json;
mod jwks;
mod jwt;
mod mint;
pub mod scram;
mod seen;

#[cfg(test)]
mod testkit;

pub use error::{AuthError, ClaimProblem, KeyError, KeyProblem};
pub use identity::Identity;
pub use jwt::Verifier;
pub use mint::{MintError, mint};
