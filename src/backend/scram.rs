//! SCRAM-SHA-256 on the client's side (RFC 5802, 7677) by the keys that a password makes, where the
//! password itself is not known. postgres-protocol's own takes passwords only.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use crate::base::ScramKeys;
use crate::base::scram::{Key, hash, sign, xor};

/// What a login is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// There is no TLS, or no hash of its certificate.
    Unsupported,
    /// The server does not offer it.
    Unrequested,
    /// The hash of the server's certificate (RFC 5929).
    EndPoint(Vec<u8>),
}

/// A login under way.
#[derive(Debug)]
pub struct KeyedScram {
    keys: ScramKeys,
    /// The header, and what the login is bound to.
    binding: Vec<u8>,
    nonce: String,
    bare: String,
    /// What the server must answer in the end.
    signature: Key,
}

impl KeyedScram {
    /// With client-first-message. The server takes the user from the startup packet.
    pub fn new(keys: ScramKeys, binding: &Binding, nonce: String) -> (Self, String) {
        let header = match binding {
            Binding::Unsupported => "n,,",
            Binding::Unrequested => "y,,",
            Binding::EndPoint(_) => "p=tls-server-end-point,,",
        };
        let bare = format!("n=,r={nonce}");
        let first = format!("{header}{bare}");
        let mut bound = header.as_bytes().to_vec();
        if let Binding::EndPoint(hash) = binding {
            bound.extend_from_slice(hash);
        }
        (Self { keys, binding: bound, nonce, bare, signature: Key::default() }, first)
    }

    /// Takes server-first-message, gives client-final-message. `None`: the server does not speak SCRAM.
    pub fn answer(&mut self, challenge: &[u8]) -> Option<String> {
        let challenge = std::str::from_utf8(challenge).ok()?;
        let nonce = challenge.split(',').next()?.strip_prefix("r=")?;
        // A server that adds nothing of its own could have recorded the login it replays.
        if nonce.strip_prefix(&self.nonce)?.is_empty() {
            return None;
        }
        let unproved = format!("c={},r={nonce}", STANDARD.encode(&self.binding));
        let message = format!("{},{challenge},{unproved}", self.bare);
        let client = Key::try_from(self.keys.client.expose()).ok()?;
        let proof = xor(&client, &sign(&hash(&client), &[message.as_bytes()]));
        self.signature = sign(self.keys.server.expose(), &[message.as_bytes()]);
        Some(format!("{unproved},p={}", STANDARD.encode(proof)))
    }

    /// Takes server-final-message: whether the server has the verifier too.
    pub fn proves(&self, last: &[u8]) -> bool {
        let signature = last.strip_prefix(b"v=").and_then(|text| STANDARD.decode(text).ok());
        signature.is_some_and(|signature| bool::from(signature.ct_eq(&self.signature)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Secret, Verifier};

    // The example of RFC 7677, section 3.
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn keys() -> ScramKeys {
        let mut salted = [0; 32];
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        pbkdf2::pbkdf2_hmac::<sha2::Sha256>(b"pencil", &salt, 4096, &mut salted);
        let server = Verifier::of_password(&Secret::new("pencil"), &salt, 4096).server_key;
        ScramKeys { client: Secret::new(sign(&salted, &[b"Client Key"])), server: Secret::new(server) }
    }

    /// As the RFC has it, whose message names the user.
    fn example() -> KeyedScram {
        let (mut scram, first) = KeyedScram::new(keys(), &Binding::Unsupported, NONCE.to_owned());
        assert_eq!(first, format!("n,,n=,r={NONCE}"));
        scram.bare = format!("n=user,r={NONCE}");
        scram
    }

    #[test]
    fn the_example_of_rfc_7677_logs_in() {
        let mut scram = example();
        let last = scram.answer(CHALLENGE.as_bytes()).unwrap();
        assert!(last.ends_with(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), "{last}");
        assert!(scram.proves(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!scram.proves(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!scram.proves(b"e=other-error"));
    }

    #[test]
    fn a_server_that_answers_another_login_is_not_followed() {
        for challenge in ["", "r=", "r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=1", "r=xOprNGfwEbeRWgbNEkqO1,s=AAAA,i=1", "e=x"] {
            assert_eq!(example().answer(challenge.as_bytes()), None, "{challenge}");
        }
    }

    #[test]
    fn a_login_names_what_it_is_bound_to() {
        let (mut scram, first) = KeyedScram::new(keys(), &Binding::EndPoint(vec![1, 2, 3]), "abc".to_owned());
        assert_eq!(first, "p=tls-server-end-point,,n=,r=abc");
        let last = scram.answer(b"r=abcd,s=AAAA,i=4096").unwrap();
        let bound = STANDARD.encode(b"p=tls-server-end-point,,\x01\x02\x03");
        assert!(last.starts_with(&format!("c={bound},r=abcd,p=")), "{last}");
    }
}
