//! What the tests of this room share: keys that sign nothing but tests, and tokens made by hand, since
//! an attacker makes them by hand too.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, EncodingKey};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use serde_json::{Value, json};

use super::jwks::spoken;
use crate::base::Secret;
use crate::config::{Algorithm, ClaimPath, Issuer, KeySource, Signing};

pub const ISS: &str = "https://login.example.com/";
pub const AUD: &str = "pgward";
pub const NOW: u64 = 1_700_000_000;
pub const LEEWAY: u64 = 30;
pub const SECRET: &str = "a secret of the tests, long enough for HS256";

/// rcgen's default backend makes no RSA keys, so there is one at hand.
const RSA: &str = include_str!("testkit/rsa.pem");
pub const RSA_PUBLIC: &str = include_str!("testkit/rsa.pub.pem");
pub const RSA_1024_PUBLIC: &str = include_str!("testkit/rsa-1024.pub.pem");

/// A key pair and the algorithm that it signs with.
pub struct Signer {
    pub algorithm: Algorithm,
    pub private: String,
    pub public: String,
}

impl Signer {
    /// A new key, except that all RSA signers share one.
    pub fn new(algorithm: Algorithm) -> Self {
        let (private, public) = match algorithm {
            Algorithm::ES256 => pair(&PKCS_ECDSA_P256_SHA256),
            Algorithm::ES384 => pair(&PKCS_ECDSA_P384_SHA384),
            Algorithm::EdDSA => pair(&PKCS_ED25519),
            Algorithm::HS256 => (SECRET.to_owned(), SECRET.to_owned()),
            _ => (RSA.to_owned(), RSA_PUBLIC.to_owned()),
        };
        Self { algorithm, private, public }
    }

    pub fn name(&self) -> &'static str {
        Algorithm::ALL.iter().find(|(_, known)| *known == self.algorithm).unwrap().0
    }

    /// What an issuer that trusts this key alone is configured with.
    pub fn source(&self) -> KeySource {
        match self.algorithm {
            Algorithm::HS256 => KeySource::Secret(Secret::new(&self.private)),
            _ => KeySource::Pem(self.public.clone().into_bytes()),
        }
    }

    pub fn jwk(&self, kid: &str) -> Value {
        let pem = self.public.as_bytes();
        let key = match self.algorithm {
            Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(pem),
            Algorithm::EdDSA => DecodingKey::from_ed_pem(pem),
            _ => DecodingKey::from_rsa_pem(pem),
        };
        let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&key.unwrap(), None).unwrap()).unwrap();
        jwk["kid"] = kid.into();
        jwk
    }

    pub fn encoding_key(&self) -> EncodingKey {
        let key = self.private.as_bytes();
        match self.algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(key).unwrap(),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(key).unwrap(),
            Algorithm::HS256 => EncodingKey::from_secret(key),
            _ => EncodingKey::from_rsa_pem(key).unwrap(),
        }
    }

    pub fn signing(&self, kid: Option<&str>) -> Signing {
        Signing { algorithm: self.algorithm, kid: kid.map(Into::into), key: Secret::new(&self.private) }
    }

    /// Signs these very texts as header and claims, whatever they are.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let algorithm = spoken(self.algorithm);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.encoding_key(), algorithm).unwrap();
        format!("{message}.{signature}")
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_text(&json!({"alg": self.name(), "typ": "JWT"}).to_string(), &claims.to_string())
    }

    pub fn sign_as(&self, kid: &str, claims: &Value) -> String {
        self.sign_text(&json!({"alg": self.name(), "kid": kid}).to_string(), &claims.to_string())
    }

    /// An issuer that trusts this key alone.
    pub fn issuer(&self) -> Issuer {
        issuer(self.source(), &[self.algorithm])
    }
}

fn pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let pair = KeyPair::generate_for(algorithm).unwrap();
    (pair.serialize_pem(), pair.public_key_pem())
}

pub fn encoded(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

pub fn path(text: &str) -> ClaimPath {
    ClaimPath { text: text.to_owned(), path: serde_json_path::JsonPath::parse(text).unwrap() }
}

pub fn issuer(keys: KeySource, algorithms: &[Algorithm]) -> Issuer {
    Issuer {
        issuer: ISS.to_owned(),
        audiences: vec![AUD.to_owned()],
        algorithms: algorithms.to_vec(),
        keys,
        leeway: Duration::from_secs(LEEWAY),
        tenant_claim: path("$.tenant"),
        role_claim: path("$.role"),
        region_claim: path("$.region"),
        default_role: None,
        signing: None,
    }
}

/// Claims that are accepted at [`NOW`].
pub fn claims() -> Value {
    json!({"iss": ISS, "aud": AUD, "sub": "alice", "exp": NOW + 600, "tenant": "acme", "role": "app"})
}

/// The same with one claim replaced, or taken out by `null`.
pub fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    let map = claims.as_object_mut().unwrap();
    match value {
        Value::Null => map.remove(name),
        value => map.insert(name.to_owned(), value),
    };
    claims
}
