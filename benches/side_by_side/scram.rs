//! A client's side of SCRAM-SHA-256 that hashes its password once and for all: where logins are counted, it is not
//! the client that is to be measured.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgward::backend::scram::{Binding, KeyedScram};
use pgward::base::scram::{ITERATIONS, sign};
use pgward::base::{ScramKeys, Secret, Verifier};
use sha2::Sha256;

use super::lean::initial_response;

const SALT: &[u8; 16] = b"sixteen of salt.";

/// What a file of users holds of a password, and what a client keeps of it.
pub fn verifier_and_keys(password: &str) -> (String, ScramKeys) {
    let Verifier { stored_key, server_key, .. } = Verifier::of_password(&Secret::new(password), SALT, ITERATIONS);
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), SALT, ITERATIONS, &mut salted);
    let [salt, stored, server] = [SALT.as_slice(), &stored_key, &server_key].map(|bytes| STANDARD.encode(bytes));
    let keys = ScramKeys { client: Secret::new(sign(&salted, &[b"Client Key"])), server: Secret::new(server_key) };
    (format!("SCRAM-SHA-256${ITERATIONS}:{salt}${stored}:{server}"), keys)
}

/// Answers to requests for authentication.
pub fn by_keys(keys: &ScramKeys) -> impl FnMut(u32, &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut scram = None;
    move |method, body| {
        let under_way = scram.as_mut().ok_or(io::ErrorKind::InvalidData);
        match method {
            10 => {
                let nonce = STANDARD.encode(rand::random::<[u8; 18]>());
                let (fresh, first) = KeyedScram::new(keys.clone(), &Binding::Unsupported, nonce);
                scram = Some(fresh);
                Ok(Some(initial_response(first.as_bytes())))
            }
            11 => {
                let last = under_way?.answer(body).ok_or(io::ErrorKind::InvalidData)?;
                Ok(Some(last.into_bytes()))
            }
            12 if under_way?.proves(body) => Ok(None),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
