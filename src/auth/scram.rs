//! SCRAM-SHA-256 on the server's side (RFC 5802, 7677), as PostgreSQL's libpq speaks it: bytes in, bytes
//! out. With TLS it is bound to the listener's certificate (`tls-server-end-point`, RFC 5929).
//!
//! A user that does not exist gets a [`mock`] verifier and goes through all of it, so that neither the
//! messages nor the work done tell which users there are.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::base::scram::{Key, sign};
use crate::base::{ScramKeys, Secret, Verifier};

pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

const END_POINT: &str = "tls-server-end-point";

/// Why a login by SCRAM ends. None of it says whether the user exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("the client chose a mechanism that was not offered")]
    Mechanism,
    #[error("a SCRAM message is malformed: {0}")]
    Malformed(&'static str),
    #[error("the client asks for what is not supported: {0}")]
    Unsupported(&'static str),
    /// Somebody between client and proxy may have taken the mechanism with binding off the offer, or shows
    /// a certificate of its own.
    #[error("the login is not bound to this TLS connection")]
    Binding,
    #[error("the proof is wrong, or there is no such user")]
    Proof,
}

/// What the proxy has of a user, for the length of one login.
#[derive(Debug)]
pub struct Scram {
    verifier: Verifier,
    /// There is no such user.
    mock: bool,
    /// The hash of the listener's certificate, where there is TLS and a hash.
    end_point: Option<Vec<u8>>,
}

/// The client was sent its challenge.
#[derive(Debug)]
pub struct Challenged {
    verifier: Verifier,
    mock: bool,
    /// What the client must repeat: its own header, and what it binds to.
    binding: Vec<u8>,
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

/// The client has proved that it knows the password.
#[derive(Debug)]
pub struct Proved {
    /// With these one can log in as the user, wherever its verifier is the same.
    pub keys: ScramKeys,
    pub server_final: String,
}

/// The verifier of a user that does not exist: always the same for a name, so that asking twice tells
/// nothing. `key` is random and stays in the process.
pub fn mock(key: &Secret, user: &str, iterations: u32) -> Verifier {
    // Nobody can find a password whose keys these are, and the login is refused even so.
    let [stored_key, server_key] = ["stored", "server"].map(|purpose| purposed(key, purpose, user));
    Verifier { iterations, salt: salt(key, user), stored_key, server_key }
}

/// The salt of a user that has none: that of the mock, and that of a password kept readably.
pub fn salt(key: &Secret, user: &str) -> Vec<u8> {
    purposed(key, "salt", user).iter().take(16).copied().collect()
}

fn purposed(key: &Secret, purpose: &str, user: &str) -> Key {
    sign(key.expose(), &[purpose.as_bytes(), b"\0", user.as_bytes()])
}

/// The proxy's part of the nonce. 18 bytes as in PostgreSQL, in base64.
pub fn nonce() -> String {
    STANDARD.encode(rand::random::<[u8; 18]>())
}

impl Scram {
    pub fn new(verifier: Verifier, mock: bool, end_point: Option<Vec<u8>>) -> Self {
        Self { verifier, mock, end_point }
    }

    /// What is offered, the best first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.end_point {
            Some(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
            None => &[SCRAM_SHA_256],
        }
    }

    /// Takes client-first-message; gives the challenge, which is server-first-message.
    pub fn challenge(self, mechanism: &str, message: &[u8], nonce: &str) -> Result<(Challenged, String), ScramError> {
        let plus = match mechanism {
            SCRAM_SHA_256 => false,
            SCRAM_SHA_256_PLUS if self.end_point.is_some() => true,
            _ => return Err(ScramError::Mechanism),
        };
        let text = text(message)?;
        let (header, bare) = split_header(text)?;
        let mut binding = header.as_bytes().to_vec();
        match (header.split_once(',').map_or(header, |(flag, _)| flag), plus) {
            ("n", false) => {}
            // It could bind and thinks that this side cannot. If that was not so, the offer was tampered with.
            ("y", false) if self.end_point.is_none() => {}
            ("y", false) => return Err(ScramError::Binding),
            ("n" | "y", true) => return Err(ScramError::Malformed("it lacks channel binding")),
            (flag, true) if flag.strip_prefix("p=") == Some(END_POINT) => {
                binding.extend(self.end_point.iter().flatten());
            }
            (flag, true) if flag.starts_with("p=") => return Err(ScramError::Unsupported("this channel binding")),
            _ => return Err(ScramError::Malformed("its channel binding flag")),
        }
        let mut attributes = bare.split(',');
        let user = attributes.next().unwrap_or_default();
        if user.starts_with("m=") {
            return Err(ScramError::Unsupported("a mandatory extension"));
        }
        // The name is that of the startup packet, as in PostgreSQL.
        user.strip_prefix("n=").ok_or(ScramError::Malformed("its user"))?;
        let theirs = attributes.next().and_then(|nonce| nonce.strip_prefix("r="));
        let theirs = theirs.filter(|nonce| !nonce.is_empty() && nonce.bytes().all(|b| b.is_ascii_graphic()));
        let nonce = format!("{}{nonce}", theirs.ok_or(ScramError::Malformed("its nonce"))?);
        let Self { verifier, mock, .. } = self;
        let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        let said = server_first.clone();
        Ok((Challenged { verifier, mock, binding, nonce, client_first_bare: bare.to_owned(), server_first }, said))
    }
}

impl Challenged {
    /// Takes client-final-message.
    pub fn finish(self, message: &[u8]) -> Result<Proved, ScramError> {
        let text = text(message)?;
        let (unproved, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed("it has no proof"))?;
        let proof = STANDARD.decode(proof).ok().and_then(|proof| Key::try_from(proof).ok());
        let proof = proof.ok_or(ScramError::Malformed("its proof"))?;
        let mut attributes = unproved.split(',');
        let binding = attributes.next().and_then(|binding| binding.strip_prefix("c="));
        let binding = binding.and_then(|binding| STANDARD.decode(binding).ok());
        if binding.ok_or(ScramError::Malformed("its channel binding"))? != self.binding {
            return Err(ScramError::Binding);
        }
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r="));
        if nonce != Some(&self.nonce) {
            return Err(ScramError::Malformed("its nonce"));
        }
        let auth_message = format!("{},{},{unproved}", self.client_first_bare, self.server_first);
        let client_key = self.verifier.client_key(auth_message.as_bytes(), &proof).filter(|_| !self.mock);
        let client_key = client_key.ok_or(ScramError::Proof)?;
        let signature = sign(&self.verifier.server_key, &[auth_message.as_bytes()]);
        Ok(Proved {
            keys: ScramKeys { client: Secret::new(client_key), server: Secret::new(self.verifier.server_key) },
            server_final: format!("v={}", STANDARD.encode(signature)),
        })
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("it is not UTF-8"))?;
    if text.contains('\0') { Err(ScramError::Malformed("it holds a NUL")) } else { Ok(text) }
}

/// The header (RFC 5801: flag, comma, no other identity, comma) and what follows.
fn split_header(text: &str) -> Result<(&str, &str), ScramError> {
    let malformed = ScramError::Malformed("its header");
    let flag = text.find(',').ok_or(malformed)?;
    let rest = text.get(flag + 1..).ok_or(malformed)?;
    if rest.starts_with("a=") {
        return Err(ScramError::Unsupported("another identity to act as"));
    }
    if !rest.starts_with(',') {
        return Err(malformed);
    }
    text.split_at_checked(flag + 2).ok_or(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // The example of RFC 7677, section 3.
    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const UNPROVED: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const PROOF: &str = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SIGNATURE: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn pencil() -> Verifier {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Verifier::of_password(&Secret::new("pencil"), &salt, 4096)
    }

    fn challenged(first: &[u8], end_point: Option<&[u8]>) -> Result<Challenged, ScramError> {
        let plus = first.starts_with(b"p=");
        let scram = Scram::new(pencil(), false, end_point.map(<[u8]>::to_vec));
        let mechanism = if plus { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 };
        scram.challenge(mechanism, first, NONCE).map(|(challenged, _)| challenged)
    }

    #[test]
    fn the_example_of_rfc_7677_logs_in() {
        let scram = Scram::new(pencil(), false, None);
        let (challenged, challenge) = scram.challenge(SCRAM_SHA_256, FIRST, NONCE).unwrap();
        assert_eq!(challenge, CHALLENGE);
        let proved = challenged.finish(format!("{UNPROVED},p={PROOF}").as_bytes()).unwrap();
        assert_eq!(proved.server_final, SIGNATURE);
        assert_eq!(crate::base::scram::hash(proved.keys.client.expose()), pencil().stored_key);
    }

    #[test]
    fn a_wrong_proof_and_a_user_that_does_not_exist_are_refused_alike() {
        let wrong = STANDARD.encode([7; 32]);
        let refused = challenged(FIRST, None).unwrap().finish(format!("{UNPROVED},p={wrong}").as_bytes());
        assert_eq!(refused.unwrap_err(), ScramError::Proof);
        let scram = Scram::new(pencil(), true, None);
        let (challenged, _) = scram.challenge(SCRAM_SHA_256, FIRST, NONCE).unwrap();
        let refused = challenged.finish(format!("{UNPROVED},p={PROOF}").as_bytes());
        assert_eq!(refused.unwrap_err(), ScramError::Proof, "even with the right proof");
    }

    #[test]
    fn a_mock_is_the_same_for_a_name_and_another_for_each_name_and_key() {
        let (one, two) = (Secret::new([1; 32]), Secret::new([2; 32]));
        assert_eq!(mock(&one, "nobody", 4096), mock(&one, "nobody", 4096));
        assert_ne!(mock(&one, "nobody", 4096).salt, mock(&one, "somebody", 4096).salt);
        assert_ne!(mock(&one, "nobody", 4096).salt, mock(&two, "nobody", 4096).salt);
        assert_eq!(mock(&one, "nobody", 4096).salt.len(), 16, "as PostgreSQL's are");
    }

    #[test]
    fn a_login_is_bound_to_the_certificate() {
        let finish = |shown: &[u8]| {
            let first = b"p=tls-server-end-point,,n=,r=abc";
            let challenged = challenged(first, Some(b"certificate")).unwrap();
            let bound = [b"p=tls-server-end-point,,".as_slice(), shown].concat();
            let unproved = format!("c={},r=abc{NONCE}", STANDARD.encode(bound));
            challenged.finish(format!("{unproved},p={}", STANDARD.encode([7; 32])).as_bytes()).unwrap_err()
        };
        assert_eq!(finish(b"certificate"), ScramError::Proof, "the binding was good");
        assert_eq!(finish(b"another"), ScramError::Binding);
        assert_eq!(finish(b""), ScramError::Binding);
    }

    #[test]
    fn an_offer_without_binding_that_was_not_ours_is_refused() {
        assert!(challenged(b"y,,n=,r=abc", None).is_ok());
        assert_eq!(challenged(b"y,,n=,r=abc", Some(b"x")).unwrap_err(), ScramError::Binding);
        assert!(challenged(b"n,,n=,r=abc", Some(b"x")).is_ok(), "a client that cannot bind");
        assert_eq!(challenged(b"p=tls-server-end-point,,n=,r=abc", None).unwrap_err(), ScramError::Mechanism);
        let unique = challenged(b"p=tls-unique,,n=,r=abc", Some(b"x"));
        assert_eq!(unique.unwrap_err(), ScramError::Unsupported("this channel binding"));
        let scram = Scram::new(pencil(), false, Some(b"x".to_vec()));
        assert!(scram.challenge(SCRAM_SHA_256_PLUS, b"n,,n=,r=abc", NONCE).is_err());
    }

    #[test]
    fn messages_that_are_cut_or_bent_are_malformed() {
        for first in
            ["", "n", "n,", "n,,", "n,,n=", "n,,n=,r=", "n,,n=,r=a b", "n,,r=abc", "x,,n=,r=abc", "n,,n=,r=\u{e9}"]
        {
            assert!(matches!(challenged(first.as_bytes(), None), Err(ScramError::Malformed(_))), "{first:?}");
        }
        for (first, what) in [("n,a=root,n=,r=abc", "another"), ("n,,m=x,n=,r=abc", "a mandatory")] {
            let Err(ScramError::Unsupported(said)) = challenged(first.as_bytes(), None) else { panic!("{first}") };
            assert!(said.starts_with(what), "{said}");
        }
        let other = UNPROVED.replace("r=r", "r=x");
        for last in
            ["", "c=biws", UNPROVED, &format!("{UNPROVED},p=AAAA"), &format!("{other},p={PROOF}"), ",p=", "c=!,p="]
        {
            let refused = challenged(FIRST, None).unwrap().finish(last.as_bytes());
            assert!(matches!(refused, Err(ScramError::Malformed(_))), "{last:?}: {refused:?}");
        }
    }

    proptest! {
        #[test]
        fn random_messages_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), text in "[nypcr=,a-z]{0,40}") {
            for message in [&bytes[..], text.as_bytes()] {
                let scram = Scram::new(mock(&Secret::new("k"), "u", 4096), true, Some(vec![1]));
                let _ = scram.challenge(SCRAM_SHA_256, message, NONCE);
                let scram = Scram::new(mock(&Secret::new("k"), "u", 4096), true, None);
                let (challenged, _) = scram.challenge(SCRAM_SHA_256, FIRST, NONCE).unwrap();
                prop_assert!(challenged.finish(message).is_err());
            }
        }
    }
}
