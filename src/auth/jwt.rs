//! Verification of one token: a JWS in compact form (RFC 7515) with the claims of RFC 7519, read with
//! the advice of RFC 8725.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::num::NonZero;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::identity::Places;
use super::jwks::{Key, KeySet, Remote};
use super::{AuthError, ClaimProblem, Identity, KeyError, KeyProblem, json};
use crate::config::{Algorithm, Issuer, KeySource};

const MAX_TOKEN: usize = 16 * 1024;

/// Header types that an access or identity token may carry. Tokens made for something else and signed
/// by the same issuer (`logout+jwt`, `dpop+jwt`, `secevent+jwt`) are no passwords: RFC 8725, 3.12.
const TYPES: [&str; 3] = ["JWT", "at+jwt", "JOSE"];

/// The configured issuers and their keys; one for all cores.
pub struct Verifier {
    issuers: HashMap<Arc<str>, Trusted>,
    /// As many signatures are checked at the same time as there are CPUs.
    checks: Arc<Semaphore>,
}

impl Verifier {
    /// Loads every key that is at hand. Keys behind a URL arrive once a refresher runs.
    pub fn new(issuers: &[Issuer]) -> Result<Self, KeyError> {
        let mut known = HashMap::new();
        for issuer in issuers {
            let refused = |problem| KeyError { issuer: issuer.issuer.clone(), problem };
            match known.entry(Arc::from(issuer.issuer.as_str())) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Trusted::load(issuer).map_err(refused)?);
                }
                Entry::Occupied(_) => return Err(refused(KeyProblem::Duplicate)),
            }
        }
        let checks = Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get)));
        Ok(Self { issuers: known, checks })
    }

    /// Takes over the fetched keys of the verifier that this one replaces, for every issuer whose URL is
    /// unchanged: a reload while the provider is down must not lock everyone out.
    pub fn inherit(&self, previous: &Self) {
        for (name, issuer) in &self.issuers {
            if let (Keys::Remote(remote), Some(Trusted { keys: Keys::Remote(old), .. })) =
                (&issuer.keys, previous.issuers.get(name))
            {
                remote.inherit(old);
            }
        }
    }

    /// Whom the token speaks for at `now`, in seconds since 1970. Waits for keys that are not known yet, a few
    /// seconds at most, and for another thread where the signature is new.
    pub async fn verify(&self, token: &[u8], now: u64) -> Result<Identity, AuthError> {
        let token = Unverified::parse(token)?;
        let issuer = self.issuers.get(token.issuer()?).ok_or(AuthError::UnknownIssuer)?;
        if !issuer.algorithms.contains(&token.algorithm) {
            return Err(AuthError::Algorithm);
        }
        let key = issuer.keys.find(token.kid.as_deref(), token.algorithm).await?;
        let claims = token.verify(&key, &self.checks).await?;
        issuer.accept(claims, now)
    }

    /// One endless task for each key set behind a URL, to be run where a reactor and a timer are. The
    /// first fetch is made at once. A task ends by itself when the verifier is gone.
    pub fn refreshers(&self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        self.issuers
            .values()
            .filter_map(|issuer| match &issuer.keys {
                Keys::Remote(remote) => Some(remote.refresher()),
                Keys::One(_) | Keys::Set(_) => None,
            })
            .collect()
    }

    #[cfg(test)]
    pub(super) fn remote(&self) -> &Remote {
        let remote = self.issuers.values().find_map(|issuer| match &issuer.keys {
            Keys::Remote(remote) => Some(remote),
            _ => None,
        });
        remote.expect("no issuer has its keys behind a URL")
    }
}

/// One issuer as its tokens are judged.
struct Trusted {
    name: Arc<str>,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    leeway: u64,
    keys: Keys,
    places: Places,
}

impl Trusted {
    fn load(issuer: &Issuer) -> Result<Self, KeyProblem> {
        let name = Arc::from(issuer.issuer.as_str());
        Ok(Self {
            keys: Keys::load(&name, issuer)?,
            name,
            audiences: issuer.audiences.clone(),
            algorithms: issuer.algorithms.clone(),
            leeway: issuer.leeway.as_secs(),
            places: Places::of(issuer),
        })
    }

    fn accept(&self, Signed(claims): Signed, now: u64) -> Result<Identity, AuthError> {
        let expires_at = date(&claims, "exp", f64::floor)?
            .ok_or(AuthError::Claim { claim: "exp", problem: ClaimProblem::Missing })?
            .saturating_add(self.leeway);
        if now >= expires_at {
            return Err(AuthError::Expired);
        }
        if date(&claims, "nbf", f64::ceil)?.is_some_and(|from| from > now.saturating_add(self.leeway)) {
            return Err(AuthError::NotYetValid);
        }
        if !self.is_meant_for_us(claims.get("aud")) {
            return Err(AuthError::Audience);
        }
        self.places.identity(self.name.clone(), Value::Object(claims), expires_at)
    }

    /// RFC 7519, 4.1.3: one string or an array of strings.
    fn is_meant_for_us(&self, audience: Option<&Value>) -> bool {
        let ours = |text: &str| self.audiences.iter().any(|audience| audience == text);
        match audience {
            Some(Value::String(text)) => ours(text),
            Some(Value::Array(items)) => {
                items.iter().all(Value::is_string) && items.iter().filter_map(Value::as_str).any(ours)
            }
            _ => false,
        }
    }
}

enum Keys {
    /// A single key of the operator's choosing; what the token calls it does not matter.
    One(Arc<Key>),
    Set(KeySet),
    Remote(Remote),
}

impl Keys {
    fn load(name: &Arc<str>, issuer: &Issuer) -> Result<Self, KeyProblem> {
        let secret = matches!(issuer.keys, KeySource::Secret(_));
        if issuer.algorithms.iter().any(|algorithm| (*algorithm == Algorithm::HS256) != secret) {
            return Err(KeyProblem::SecretAlgorithm);
        }
        let keys = match &issuer.keys {
            KeySource::Pem(pem) => Self::One(Arc::new(Key::from_pem(pem)?)),
            KeySource::Secret(secret) => Self::One(Arc::new(Key::from_secret(secret))),
            KeySource::JwksFile(path) => {
                let text = std::fs::read(path).map_err(|source| KeyProblem::Read { path: path.clone(), source })?;
                Self::Set(KeySet::parse(&text).ok_or(KeyProblem::Jwks)?)
            }
            KeySource::JwksUrl(url) => Self::Remote(Remote::new(name.clone(), url)?),
        };
        let usable = |algorithm: &Algorithm| match &keys {
            Self::One(key) => key.fits(*algorithm),
            Self::Set(set) => set.serves(*algorithm),
            Self::Remote(_) => true,
        };
        if issuer.algorithms.iter().any(usable) { Ok(keys) } else { Err(KeyProblem::NoUsableKey) }
    }

    async fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, AuthError> {
        match self {
            Self::One(key) if key.fits(algorithm) => Ok(key.clone()),
            Self::One(_) => Err(AuthError::Algorithm),
            Self::Set(set) => set.find(kid, algorithm),
            Self::Remote(remote) => remote.find(kid, algorithm).await,
        }
    }
}

/// A token taken apart. Nothing it says may be believed.
struct Unverified<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    claims: Map<String, Value>,
    /// Header and claims as they were signed.
    message: &'a str,
    signature: &'a str,
}

impl<'a> Unverified<'a> {
    fn parse(token: &'a [u8]) -> Result<Self, AuthError> {
        if token.len() > MAX_TOKEN {
            return Err(AuthError::Malformed("is longer than 16 KiB"));
        }
        let token = std::str::from_utf8(token).map_err(|_| AuthError::Malformed("is not UTF-8"))?;
        let parts = token.rsplit_once('.').and_then(|(message, signature)| {
            let (header, claims) = message.split_once('.')?;
            (!claims.contains('.')).then_some((header, claims, message, signature))
        });
        let (header, claims, message, signature) =
            parts.ok_or(AuthError::Malformed("does not have the three parts of a signed JWT"))?;
        let (algorithm, kid) = read_header(&decode(header)?)?;
        Ok(Self { algorithm, kid, claims: decode(claims)?, message, signature })
    }

    /// Which issuer's rules to judge the token by. Compared exactly, as the specification has it.
    fn issuer(&self) -> Result<&str, AuthError> {
        self.claims.get("iss").and_then(Value::as_str).ok_or(AuthError::UnknownIssuer)
    }

    async fn verify(self, key: &Arc<Key>, checks: &Arc<Semaphore>) -> Result<Signed, AuthError> {
        if key.verifies(self.algorithm, self.message, self.signature, checks).await {
            Ok(Signed(self.claims))
        } else {
            Err(AuthError::Signature)
        }
    }
}

/// Claims that the issuer has indeed signed.
struct Signed(Map<String, Value>);

fn decode(part: &str) -> Result<Map<String, Value>, AuthError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .ok()
        .and_then(|bytes| json::object(&bytes))
        .ok_or(AuthError::Malformed("has a part that is not base64url of an unambiguous JSON object"))
}

fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), AuthError> {
    // RFC 7515, 4.1.11: what is critical must be understood, and we understand no extension.
    if header.contains_key("crit") {
        return Err(AuthError::Malformed("has a critical header extension"));
    }
    match header.get("typ") {
        None => {}
        Some(Value::String(name)) if is_token_type(name) => {}
        Some(_) => return Err(AuthError::Malformed("is of a type that is no access token")),
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err(AuthError::Malformed("has a key id that is not a string")),
    };
    let algorithm = match header.get("alg") {
        Some(Value::String(name)) => Algorithm::ALL.iter().find(|(known, _)| known == name),
        _ => return Err(AuthError::Malformed("names no algorithm")),
    };
    algorithm.map(|(_, algorithm)| (*algorithm, kid)).ok_or(AuthError::Algorithm)
}

/// RFC 7515, 4.1.9: a media type, its `application/` left out or not.
fn is_token_type(name: &str) -> bool {
    let bare = match name.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        _ => name,
    };
    TYPES.iter().any(|known| bare.eq_ignore_ascii_case(known))
}

/// A NumericDate: seconds, possibly with a fraction, which is rounded to the stricter side.
fn date(claims: &Map<String, Value>, claim: &'static str, round: fn(f64) -> f64) -> Result<Option<u64>, AuthError> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    value
        .as_u64()
        // `as` saturates, which is right for a date beyond the end of time.
        .or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| round(seconds) as u64))
        .map(Some)
        .ok_or(AuthError::Claim { claim, problem: ClaimProblem::NotDate })
}

#[cfg(test)]
mod tests;
