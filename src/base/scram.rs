//! What SCRAM-SHA-256 keeps of a password (RFC 5802, section 3; RFC 7677), as PostgreSQL stores it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Secret;

/// A key, a hash or a signature.
pub type Key = [u8; 32];

/// What PostgreSQL takes for new passwords, unless `scram_iterations` says otherwise.
pub const ITERATIONS: u32 = 4096;

/// What a password is checked by. With `server_key` one can pose as the server, so it is kept as a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Verifier {
    pub iterations: u32,
    pub salt: Vec<u8>,
    pub stored_key: Key,
    pub server_key: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(hidden)")
    }
}

/// What logs in without the password: the client's key, which a login shows to whoever has the verifier,
/// and the server's key, by which the server proves itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScramKeys {
    pub client: Secret,
    pub server: Secret,
}

/// Why a text is no verifier. The text completes the sentence "`password` ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    #[error("is an MD5 hash, which is not taken: it can be guessed fast and serves as the password itself")]
    Md5,
    #[error(
        "begins as a SCRAM-SHA-256 verifier and is none: it must be SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"
    )]
    Malformed,
}

/// A password as user lists and `pg_shadow` hold it: some hash, or the password itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPassword {
    Verifier(Verifier),
    Plain(Secret),
}

impl StoredPassword {
    pub fn parse(text: &str) -> Result<Self, VerifierError> {
        if let Some(rest) = text.strip_prefix("SCRAM-SHA-256$") {
            return verifier(rest).map(Self::Verifier).ok_or(VerifierError::Malformed);
        }
        // get_password_type in crypt.c tells them by the same marks.
        let md5 = text.strip_prefix("md5").is_some_and(|hex| hex.len() == 32 && hex.bytes().all(is_hex));
        if md5 { Err(VerifierError::Md5) } else { Ok(Self::Plain(Secret::new(text))) }
    }
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// `iterations:salt$StoredKey:ServerKey`
fn verifier(text: &str) -> Option<Verifier> {
    let (head, keys) = text.split_once('$')?;
    let (iterations, salt) = head.split_once(':')?;
    let (stored, server) = keys.split_once(':')?;
    let key = |text: &str| Key::try_from(STANDARD.decode(text).ok()?).ok();
    let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
    let iterations = iterations.parse().ok().filter(|n| *n > 0)?;
    Some(Verifier { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
}

impl Verifier {
    /// Takes some milliseconds: that is the purpose of iterations.
    pub fn of_password(password: &Secret, salt: &[u8], iterations: u32) -> Self {
        let prepared = prepared(password.expose());
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(&prepared, salt, iterations, &mut salted);
        let stored_key = hash(&sign(&salted, &[b"Client Key"]));
        Self { iterations, salt: salt.to_vec(), stored_key, server_key: sign(&salted, &[b"Server Key"]) }
    }

    /// The client's key, if this proof shows that the client has it (RFC 5802, section 3).
    pub fn client_key(&self, auth_message: &[u8], proof: &Key) -> Option<Key> {
        let client_key = xor(proof, &sign(&self.stored_key, &[auth_message]));
        bool::from(hash(&client_key).ct_eq(&self.stored_key)).then_some(client_key)
    }
}

/// SASLprep (RFC 4013) where it can be applied, as PostgreSQL does it (pg_saslprep).
fn prepared(password: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(password).ok();
    let prepared = text.and_then(|text| stringprep::saslprep(text).ok());
    prepared.map_or_else(|| password.to_vec(), |text| text.as_bytes().to_vec())
}

pub fn hash(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

/// HMAC-SHA-256 over all parts.
pub fn sign(key: &[u8], parts: &[&[u8]]) -> Key {
    // RFC 2104: keys longer than a block are hashed first. Done here, `new` cannot fail.
    let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
    let short = if key.len() > block.len() { &hash(key)[..] } else { key };
    for (to, from) in block.iter_mut().zip(short) {
        *to = *from;
    }
    let mut mac = Hmac::<Sha256>::new(&block);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_read_as_postgresql_writes_it() {
        let written = postgres_protocol::password::scram_sha_256(b"pencil");
        let Ok(StoredPassword::Verifier(verifier)) = StoredPassword::parse(&written) else { panic!("{written}") };
        assert_eq!(Verifier::of_password(&Secret::new("pencil"), &verifier.salt, verifier.iterations), verifier);
        assert_ne!(Verifier::of_password(&Secret::new("Pencil"), &verifier.salt, verifier.iterations), verifier);
        assert_eq!(format!("{verifier:?}"), "Verifier(hidden)");
    }

    #[test]
    fn hashes_that_are_not_scram_are_told_from_passwords() {
        assert_eq!(StoredPassword::parse("md5c53b5e1b6e8c4e1c2a3d7f6b1a2c3d4e"), Err(VerifierError::Md5));
        assert_eq!(StoredPassword::parse("md5"), Ok(StoredPassword::Plain(Secret::new("md5"))));
        for broken in ["SCRAM-SHA-256$", "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA", "SCRAM-SHA-256$0:AAAA$x:y"] {
            assert_eq!(StoredPassword::parse(broken), Err(VerifierError::Malformed), "{broken}");
        }
    }

    #[test]
    fn long_keys_are_hashed_first() {
        // RFC 4231, test case 6.
        let mac = sign(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - ", b"Hash Key First"]);
        assert_eq!(mac[..4], [0x60, 0xe4, 0x31, 0x59]);
    }
}
