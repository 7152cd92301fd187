//! Verification keys: what each is for, sets of them (RFC 7517), and sets behind a URL.
//!
//! A key becomes a `DecodingKey` once, when it is loaded; thousands of clients that connect at once
//! then only look it up.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use super::seen::{self, Seen};
use super::{AuthError, KeyProblem};
use crate::base::{Secret, causes};
use crate::config::{Algorithm, JwksUrl};
use crate::net::{self, FetchError};

/// One fetch from beginning to end.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a session waits for a fetch: a little longer than one can take.
const NEWS_TIMEOUT: Duration = Duration::from_secs(6);
const MAX_JWKS: usize = 1024 * 1024;
const MAX_REDIRECTS: usize = 3;
const MIN_RSA_BITS: usize = 2048;

pub(super) struct Key {
    kid: Option<String>,
    shape: Shape,
    /// The only algorithm that the JWK allows, if it names one.
    only: Option<Algorithm>,
    decoding: DecodingKey,
    seen: Seen,
}

/// What a key is made of, which decides the algorithms that it can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Rsa,
    P256,
    P384,
    Ed25519,
    Secret,
}

impl Key {
    pub fn from_secret(secret: &Secret) -> Self {
        let decoding = DecodingKey::from_secret(secret.expose());
        Self { kid: None, shape: Shape::Secret, only: None, decoding, seen: Seen::default() }
    }

    /// The one public key of a PEM file.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyProblem> {
        let text = String::from_utf8_lossy(pem);
        // A private key would be read as well, but has no business here; of two keys one would be
        // ignored without a word.
        if text.matches("-----BEGIN ").count() != 1 || text.contains("PRIVATE KEY-----") {
            return Err(KeyProblem::Pem);
        }
        let decoding = DecodingKey::from_rsa_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .map_err(|_| KeyProblem::Pem)?;
        let jwk = Jwk::from_decoding_key(&decoding, None).map_err(|_| KeyProblem::KeyType)?;
        let shape = Shape::of(&jwk).ok_or(KeyProblem::KeyType)?;
        Ok(Self { kid: None, shape, only: None, decoding, seen: Seen::default() })
    }

    /// A key of a set, if it is one that verifies signatures with an algorithm we know. A symmetric one
    /// is not: whoever can read the set could sign with it.
    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        if common.key_operations.as_ref().is_some_and(|allowed| !allowed.contains(&KeyOperations::Verify)) {
            return None;
        }
        let shape = Shape::of(jwk)?;
        let only = match common.key_algorithm {
            None => None,
            Some(named) => Some(known_algorithm(named).filter(|algorithm| shape.serves(*algorithm))?),
        };
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { kid: common.key_id.clone(), shape, only, decoding, seen: Seen::default() })
    }

    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.shape.serves(algorithm) && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether `signature`, in base64url, is this key's for the message. Checking one that is new takes as long as
    /// ten transactions, so another thread does it, which waits its turn at `checks`.
    pub async fn verifies(
        self: &Arc<Self>,
        algorithm: Algorithm,
        message: &str,
        signature: &str,
        checks: &Arc<Semaphore>,
    ) -> bool {
        if !self.fits(algorithm) {
            return false;
        }
        if matches!(self.shape, Shape::Secret) {
            // As quick as looking it up.
            return self.check(algorithm, message, signature);
        }
        let hash = seen::hash(algorithm, message.as_bytes(), signature);
        if self.seen.knows(&hash) {
            return true;
        }
        let turn = Arc::clone(checks).acquire_owned().await;
        // Clients that come at once bring the same token, and one of them may have been here before.
        if self.seen.knows(&hash) {
            return true;
        }
        let (key, message, signature) = (Arc::clone(self), message.to_owned(), signature.to_owned());
        let check = tokio::task::spawn_blocking(move || {
            // As long as the check takes, though nobody may wait for it any more.
            let _turn = turn;
            let good = key.check(algorithm, &message, &signature);
            if good {
                key.seen.remember(hash);
            }
            good
        });
        check.await.unwrap_or(false)
    }

    fn check(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        let (message, algorithm) = (message.as_bytes(), spoken(algorithm));
        jsonwebtoken::crypto::verify(signature, message, &self.decoding, algorithm).unwrap_or(false)
    }
}

impl Shape {
    /// The shape of a public key whose parts have the right sizes; nothing for any other.
    fn of(jwk: &Jwk) -> Option<Self> {
        match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => {
                let modulus = bytes(&rsa.n)?;
                let leading = modulus.iter().take_while(|byte| **byte == 0).count();
                let (first, rest) = modulus.get(leading..)?.split_first()?;
                let bits = (rest.len() + 1) * 8 - first.leading_zeros() as usize;
                (bits >= MIN_RSA_BITS).then_some(Self::Rsa)
            }
            AlgorithmParameters::EllipticCurve(point) => {
                let (shape, size) = match point.curve {
                    EllipticCurve::P256 => (Self::P256, 32),
                    EllipticCurve::P384 => (Self::P384, 48),
                    _ => return None,
                };
                (bytes(&point.x)?.len() == size && bytes(&point.y)?.len() == size).then_some(shape)
            }
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                (bytes(&pair.x)?.len() == 32).then_some(Self::Ed25519)
            }
            _ => None,
        }
    }

    const fn serves(self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => matches!(self, Self::Rsa),
            Algorithm::ES256 => matches!(self, Self::P256),
            Algorithm::ES384 => matches!(self, Self::P384),
            Algorithm::EdDSA => matches!(self, Self::Ed25519),
            Algorithm::HS256 => matches!(self, Self::Secret),
        }
    }
}

fn bytes(base64url: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(base64url).ok()
}

/// The algorithm as jsonwebtoken calls it.
pub(super) const fn spoken(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
    }
}

fn known_algorithm(named: KeyAlgorithm) -> Option<Algorithm> {
    Algorithm::ALL.iter().map(|(_, algorithm)| *algorithm).find(|known| KeyAlgorithm::from(spoken(*known)) == named)
}

/// The usable keys of a JWK set.
pub(super) struct KeySet {
    keys: Vec<Arc<Key>>,
}

impl KeySet {
    /// Nothing if the text is no key set. Keys of kinds we do not know are left out, as RFC 7517,
    /// section 5, asks; so the set may be empty, and that is then what the issuer says.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut set: Value = serde_json::from_slice(text).ok()?;
        let Value::Array(keys) = set.get_mut("keys")?.take() else { return None };
        let keys = keys
            .into_iter()
            .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
            .filter_map(|jwk| Key::from_jwk(&jwk))
            .map(Arc::new)
            .collect();
        Some(Self { keys })
    }

    pub fn serves(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.fits(algorithm))
    }

    /// The key that a token means: with a key id the one of that id, without the only one that fits.
    /// Trying several in turn would let a token choose among keys by guessing.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, AuthError> {
        let mut named = self.keys.iter().filter(|key| kid.is_none() || key.kid.as_deref() == kid).peekable();
        if kid.is_some() && named.peek().is_none() {
            return Err(AuthError::UnknownKey);
        }
        let mut fitting = named.filter(|key| key.fits(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key.clone()),
            (Some(_), Some(_)) => Err(AuthError::AmbiguousKey),
            (None, _) if kid.is_some() => Err(AuthError::Algorithm),
            (None, _) => Err(AuthError::UnknownKey),
        }
    }
}

/// A key set behind a URL, as the cores see it: a snapshot to look keys up in, and a way to ask for
/// news. Fetching belongs to [`Remote::refresher`].
///
/// Fetches are numbered in rounds. Who misses a key in the snapshot of round `n` asks for round `n+1`
/// and waits for its end, so any number of askers share one fetch, and one that was answered by a
/// fetch already under way leaves no request behind for another.
pub(super) struct Remote {
    shared: Arc<Shared>,
    /// The highest round that somebody asked for. Dropped with the verifier, which ends the refresher.
    wanted: watch::Sender<u64>,
}

struct Shared {
    issuer: Arc<str>,
    source: JwksUrl,
    client: reqwest::Client,
    snapshot: ArcSwap<Snapshot>,
    /// The last round that has ended; sent after the snapshot was stored.
    rounds: watch::Sender<u64>,
}

#[derive(Clone, Default)]
struct Snapshot {
    /// The last good set, however many fetches have failed since.
    keys: Option<Arc<KeySet>>,
    round: u64,
    ended: Option<Instant>,
}

impl Snapshot {
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, AuthError> {
        self.keys.as_ref().ok_or(AuthError::KeysUnavailable)?.find(kid, algorithm)
    }
}

impl Remote {
    pub fn new(issuer: Arc<str>, source: &JwksUrl) -> Result<Self, KeyProblem> {
        let shared = Shared {
            issuer,
            source: source.clone(),
            client: https_client(source)?,
            snapshot: ArcSwap::default(),
            rounds: watch::Sender::new(0),
        };
        Ok(Self { shared: Arc::new(shared), wanted: watch::Sender::new(0) })
    }

    pub fn inherit(&self, old: &Self) {
        let keys = old.shared.snapshot.load().keys.clone();
        if self.shared.source.url == old.shared.source.url && keys.is_some() {
            // Never over a set that this one has fetched by itself.
            self.shared.snapshot.rcu(|now| match now.round {
                0 => Arc::new(Snapshot { keys: keys.clone(), ..Snapshot::default() }),
                _ => now.clone(),
            });
        }
    }

    pub async fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, AuthError> {
        match self.shared.snapshot.load().find(kid, algorithm) {
            Err(AuthError::UnknownKey | AuthError::KeysUnavailable) => self.find_in_news(kid, algorithm).await,
            settled => settled,
        }
    }

    async fn find_in_news(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, AuthError> {
        // One snapshot for both the look and the round asked for: news that arrived meanwhile is in it.
        let snapshot = self.shared.snapshot.load_full();
        let miss = match snapshot.find(kid, algorithm) {
            Err(miss @ (AuthError::UnknownKey | AuthError::KeysUnavailable)) => miss,
            settled => return settled,
        };
        self.want(snapshot.round + 1);
        // The refresher will not fetch again yet, so waiting would only let a stranger with made-up key
        // ids hold connections open.
        if snapshot.ended.is_some_and(|ended| ended.elapsed() < self.shared.source.min_refresh) {
            return Err(miss);
        }
        let mut rounds = self.shared.rounds.subscribe();
        let news = rounds.wait_for(|round| *round > snapshot.round);
        // Late or not, the latest snapshot decides.
        drop(tokio::time::timeout(NEWS_TIMEOUT, news).await);
        self.shared.snapshot.load().find(kid, algorithm)
    }

    fn want(&self, round: u64) {
        self.wanted.send_if_modified(|wanted| {
            let more = round > *wanted;
            *wanted = round.max(*wanted);
            more
        });
    }

    /// Fetches at once, then every `refresh`, and when a round is asked for, `min_refresh` after the last
    /// one at the earliest. A failed fetch is repeated sooner than `refresh`, ever less so.
    pub fn refresher(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        let mut wanted = self.wanted.subscribe();
        // Closed when the verifier is gone.
        let mut verifier = self.wanted.subscribe();
        async move {
            let mut failures = 0;
            loop {
                let (round, good) = shared.refresh().await;
                failures = if good { 0 } else { failures + 1 };
                let JwksUrl { refresh, min_refresh, .. } = shared.source;
                let ended = tokio::time::Instant::now();
                let pause = match failures {
                    0 => refresh,
                    _ => min_refresh.saturating_mul(1 << (failures - 1).min(16)).min(refresh),
                };
                let asked = async { wanted.wait_for(|wanted| *wanted > round).await.map(drop) };
                let due = async {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        Ok(()) = asked => tokio::time::sleep_until(ended + min_refresh.min(pause)).await,
                    }
                };
                let orphaned = async { while verifier.changed().await.is_ok() {} };
                tokio::select! {
                    () = due => {}
                    () = orphaned => return,
                }
            }
        }
    }
}

impl Shared {
    /// One round: its number, and whether it brought a key set.
    async fn refresh(&self) -> (u64, bool) {
        let fetched = self.fetch().await;
        let last = self.snapshot.load_full();
        let round = last.round + 1;
        let (keys, good) = match fetched {
            Ok(set) => {
                if set.keys.is_empty() {
                    tracing::warn!(issuer = %self.issuer, "the issuer's key set holds no usable key; its tokens are refused");
                } else {
                    tracing::debug!(issuer = %self.issuer, keys = set.keys.len(), "key set fetched");
                }
                (Some(Arc::new(set)), true)
            }
            Err(error) => {
                let kept = last.keys.as_ref().map_or(0, |set| set.keys.len());
                tracing::warn!(issuer = %self.issuer, kept, error = causes(&error), "fetching the issuer's key set failed");
                (last.keys.clone(), false)
            }
        };
        self.snapshot.store(Arc::new(Snapshot { keys, round, ended: Some(Instant::now()) }));
        self.rounds.send_replace(round);
        (round, good)
    }

    async fn fetch(&self) -> Result<KeySet, Unusable> {
        let body = net::fetch(&self.client, &self.source.url, MAX_JWKS).await?;
        KeySet::parse(&body).ok_or(Unusable::NoKeySet)
    }
}

#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Answer(#[from] FetchError),
    #[error("the answer is not a JSON object with an array `keys`")]
    NoKeySet,
}

/// HTTPS and nothing else, redirects included: whoever can replace the answer chooses the keys.
fn https_client(source: &JwksUrl) -> Result<reqwest::Client, KeyProblem> {
    let mut builder = reqwest::Client::builder()
        .https_only(true)
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
        .timeout(FETCH_TIMEOUT)
        // Minutes lie between two fetches; a kept connection would only be found dead.
        .pool_max_idle_per_host(0)
        .user_agent(concat!("pgward/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &source.ca {
        builder = builder.tls_certs_merge(net::authorities(path)?);
    }
    builder.build().map_err(KeyProblem::Client)
}

#[cfg(test)]
mod tests;
