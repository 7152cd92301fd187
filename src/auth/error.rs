//! Why a token was refused, and why an issuer's keys could not be used. No text here holds any part
//! of a token: these errors are logged, audited and counted.

use std::path::PathBuf;

use crate::base::ids::NameError;
use crate::net::FileError;

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("the password is not a usable JWT: it {0}")]
    Malformed(&'static str),
    #[error("the token's algorithm is not among its issuer's, or does not fit the key")]
    Algorithm,
    #[error("the token's issuer is missing or not configured")]
    UnknownIssuer,
    #[error("no key of the issuer is the one that the token names")]
    UnknownKey,
    #[error("the token names no key id and the issuer has several keys that would do")]
    AmbiguousKey,
    #[error("the issuer's keys have never been fetched")]
    KeysUnavailable,
    #[error("the token's signature does not match")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is meant for another audience")]
    Audience,
    #[error("the token's {claim} claim {problem}")]
    Claim { claim: &'static str, problem: ClaimProblem },
}

/// What is wrong with a claim. The text completes the sentence "the ... claim".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimProblem {
    #[error("is missing")]
    Missing,
    #[error("is there more than once")]
    Several,
    #[error("is not a string")]
    NotText,
    #[error("is not a NumericDate")]
    NotDate,
    #[error("{0}")]
    Name(NameError),
}

impl AuthError {
    /// A short label out of a fixed set, for metrics and audit.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnknownKey | Self::AmbiguousKey => "unknown_key",
            Self::KeysUnavailable => "keys_unavailable",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Audience => "audience",
            Self::Claim { .. } => "claims",
        }
    }

    /// What the client may be told: enough for an honest one to mend its set-up, nothing that tells a
    /// dishonest one which issuers, keys or tenants exist.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "Send a signed JWT of at most 16 KiB as the password.",
            Self::Expired => "The token has expired; get a new one and connect again.",
            Self::NotYetValid => "The token is not valid yet; check the clocks of its issuer and of pgward.",
            Self::KeysUnavailable => "The keys to verify the token cannot be had at the moment; try again shortly.",
            Self::Algorithm
            | Self::UnknownIssuer
            | Self::UnknownKey
            | Self::AmbiguousKey
            | Self::Signature
            | Self::Audience
            | Self::Claim { .. } => "The token was not accepted; pgward's log says why.",
        }
    }
}

/// Why a verifier could not be made from the configuration: which issuer's keys, and what about them.
#[derive(Debug, thiserror::Error)]
#[error("the keys of issuer {issuer} cannot be used")]
pub struct KeyError {
    pub issuer: String,
    #[source]
    pub problem: KeyProblem,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    #[error("two issuers have this name; the iss claim must choose exactly one")]
    Duplicate,
    #[error("HS256 goes with a secret, and a secret with HS256 only")]
    SecretAlgorithm,
    #[error("the public key is not one PEM block of type PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE")]
    Pem,
    #[error("the public key is not RSA of 2048 bits or more, P-256, P-384 or Ed25519")]
    KeyType,
    #[error("{} cannot be read", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the key set is not a JSON object with an array `keys`")]
    Jwks,
    #[error("no key fits the issuer's algorithms")]
    NoUsableKey,
    #[error(transparent)]
    Authority(#[from] FileError),
    #[error("the HTTPS client for the key set cannot be set up")]
    Client(#[source] reqwest::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_would_tell_what_exists_share_one_hint() {
        let secretive = [
            AuthError::Algorithm,
            AuthError::UnknownIssuer,
            AuthError::UnknownKey,
            AuthError::AmbiguousKey,
            AuthError::Signature,
            AuthError::Audience,
            AuthError::Claim { claim: "tenant", problem: ClaimProblem::Missing },
        ];
        for error in secretive {
            assert_eq!(error.hint(), AuthError::Signature.hint(), "{error}");
        }
    }
}
