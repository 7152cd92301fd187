//! Signatures that a key has verified already. All connections of an application bring the same token, and checking a
//! signature costs more than the rest of a login. Only that is remembered, by a hash, with the key: what a token
//! claims is judged each time anew, and a key that is gone knows nothing any more.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::config::Algorithm;

/// Of each generation. When the young are as many, the old are forgotten.
const MOST: usize = 4_096;

type Hash = [u8; 32];

#[derive(Default)]
pub(super) struct Seen(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashSet<Hash>,
    old: HashSet<Hash>,
}

/// Of all that goes into a verification.
pub(super) fn hash(algorithm: Algorithm, message: &[u8], signature: &str) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([algorithm as u8]);
    for part in [signature.as_bytes(), message] {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

impl Seen {
    /// Whether this was good before.
    pub fn knows(&self, hash: &Hash) -> bool {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.young.contains(hash) {
            return true;
        }
        let known = generations.old.remove(hash);
        if known {
            generations.young.insert(*hash);
        }
        known
    }

    /// To be called of what was found good, and of nothing else.
    pub fn remember(&self, hash: Hash) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.young.len() >= MOST {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_good_is_not_verified_again_and_what_was_not_is() {
        let seen = Seen::default();
        let one = hash(Algorithm::ES256, b"header.claims", "signature");
        assert!(!seen.knows(&one));
        seen.remember(one);
        assert!(seen.knows(&one));
        for other in [
            hash(Algorithm::RS256, b"header.claims", "signature"),
            hash(Algorithm::ES256, b"header.claim", "ssignature"),
            hash(Algorithm::ES256, b"header.claims", "signaturf"),
        ] {
            assert!(!seen.knows(&other));
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_those_in_use_are_not() {
        let seen = Seen::default();
        let at = |n: usize| hash(Algorithm::ES256, &n.to_be_bytes(), "");
        for n in 0..3 * MOST {
            seen.remember(at(n));
            assert!(seen.knows(&at(0)), "the one in use is forgotten");
        }
        assert!(!seen.knows(&at(1)));
        let generations = seen.0.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 2 * MOST);
    }
}
