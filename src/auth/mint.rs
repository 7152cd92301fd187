//! Tokens of our own making, for `pgward token`: development and tests, with a key that the operator
//! put into the configuration for that.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header};
use serde_json::{Map, Value};

use super::jwks::spoken;
use crate::base::{Access, TenantId};
use crate::config::{ClaimPath, Issuer, Signing};

/// Claims that `extra` cannot set, since they are what makes the token valid.
const RESERVED: [&str; 5] = ["iss", "aud", "iat", "exp", "jti"];

#[derive(Debug, thiserror::Error)]
pub enum MintError {
    #[error("issuer {0} has no [issuers.signing] in the configuration, so pgward cannot sign for it")]
    NoSigningKey(String),
    #[error("issuer {0} has no audience in the configuration")]
    NoAudience(String),
    #[error("the signing algorithm is not among the algorithms of issuer {0}, so pgward would refuse the token")]
    NotAccepted(String),
    #[error("the claim path {0} is not a plain path such as $.a.b, so there is no one place to write to")]
    Path(String),
    #[error("the claim path {0} leads through, or to, a claim that has a value already")]
    Occupied(String),
    #[error("the claim {0} is set by pgward and cannot be given")]
    Reserved(&'static str),
    #[error(
        "the signing key does not fit its algorithm; RSA needs PEM, ECDSA and EdDSA need PKCS#8 PEM (openssl pkcs8 -topk8 -nocrypt)"
    )]
    Key(#[source] jsonwebtoken::errors::Error),
}

/// A token of this issuer for the tenant, with `extra` claims besides, valid from `now` for `ttl`. The
/// subject is the tenant unless `extra` has another.
pub fn mint(
    issuer: &Issuer,
    tenant: &TenantId,
    access: &Access,
    ttl: Duration,
    extra: &Map<String, Value>,
    now: u64,
) -> Result<String, MintError> {
    let name = || issuer.issuer.clone();
    let signing = issuer.signing.as_ref().ok_or_else(|| MintError::NoSigningKey(name()))?;
    if !issuer.algorithms.contains(&signing.algorithm) {
        return Err(MintError::NotAccepted(name()));
    }
    let audience = issuer.audiences.first().ok_or_else(|| MintError::NoAudience(name()))?;
    if let Some(claim) = RESERVED.into_iter().find(|claim| extra.contains_key(*claim)) {
        return Err(MintError::Reserved(claim));
    }

    let mut claims = extra.clone();
    claims.insert("iss".into(), name().into());
    claims.insert("aud".into(), audience.as_str().into());
    claims.insert("iat".into(), now.into());
    claims.insert("exp".into(), now.saturating_add(ttl.as_secs()).into());
    claims.insert("jti".into(), URL_SAFE_NO_PAD.encode(rand::random::<u128>().to_be_bytes()).into());
    write(&mut claims, &issuer.tenant_claim, tenant.as_str())?;
    write(&mut claims, &issuer.role_claim, access.as_str())?;
    claims.entry("sub").or_insert_with(|| tenant.as_str().into());

    let mut header = Header::new(spoken(signing.algorithm));
    header.kid = signing.kid.clone();
    let key = encoding_key(signing).map_err(MintError::Key)?;
    jsonwebtoken::encode(&header, &claims, &key).map_err(MintError::Key)
}

fn encoding_key(signing: &Signing) -> Result<EncodingKey, jsonwebtoken::errors::Error> {
    let key = signing.key.expose();
    match spoken(signing.algorithm).family() {
        AlgorithmFamily::Hmac => Ok(EncodingKey::from_secret(key)),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(key),
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(key),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(key),
    }
}

/// Puts the text where the path points, making the objects on the way.
fn write(claims: &mut Map<String, Value>, path: &ClaimPath, text: &str) -> Result<(), MintError> {
    let names = plain_names(&path.text).ok_or_else(|| MintError::Path(path.text.clone()))?;
    let (last, parents) = names.split_last().ok_or_else(|| MintError::Path(path.text.clone()))?;
    let occupied = || MintError::Occupied(path.text.clone());
    let mut object = claims;
    for parent in parents {
        let below = object.entry(*parent).or_insert_with(|| Value::Object(Map::new()));
        object = below.as_object_mut().ok_or_else(occupied)?;
    }
    match object.insert((*last).to_owned(), text.into()) {
        None => Ok(()),
        Some(_) => Err(occupied()),
    }
}

/// The member names of a path that has nothing but names: `$.a.b`, `$['https://example.com/a'].b`.
fn plain_names(path: &str) -> Option<Vec<&str>> {
    let mut rest = path.strip_prefix('$')?;
    let mut names = Vec::new();
    while !rest.is_empty() {
        let name;
        if let Some(quoted) = rest.strip_prefix("['") {
            (name, rest) = quoted.split_once("']")?;
        } else if let Some(quoted) = rest.strip_prefix("[\"") {
            (name, rest) = quoted.split_once("\"]")?;
        } else {
            let bare = rest.strip_prefix('.')?;
            (name, rest) = bare.split_at(bare.find(['.', '[']).unwrap_or(bare.len()));
            if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()) {
                return None;
            }
        }
        if name.is_empty() || name.contains(['\\', '\'', '"']) {
            return None;
        }
        names.push(name);
    }
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Verifier;
    use super::super::testkit::{NOW, Signer, path};
    use super::*;
    use crate::config::Algorithm;

    const HOUR: Duration = Duration::from_secs(3600);

    fn mint_acme(issuer: &Issuer, extra: Value) -> Result<String, MintError> {
        let (tenant, access) = (TenantId::parse("acme").unwrap(), Access::parse("readonly").unwrap());
        mint(issuer, &tenant, &access, HOUR, extra.as_object().unwrap(), NOW)
    }

    fn signing_issuer(algorithm: Algorithm) -> Issuer {
        let signer = Signer::new(algorithm);
        Issuer { signing: Some(signer.signing(Some("dev"))), ..signer.issuer() }
    }

    #[tokio::test]
    async fn a_minted_token_is_accepted_whatever_the_algorithm() {
        for (name, algorithm) in Algorithm::ALL {
            let issuer = signing_issuer(algorithm);
            let token = mint_acme(&issuer, json!({"email": "a@b"})).unwrap();
            let identity = Verifier::new(&[issuer]).unwrap().verify(token.as_bytes(), NOW).await.unwrap();
            assert_eq!(identity.tenant.as_str(), "acme", "{name}");
            assert_eq!(identity.access.as_str(), "readonly");
            assert_eq!(identity.subject.as_deref(), Some("acme"));
            assert_eq!(identity.claims["exp"], NOW + 3600);
            assert_eq!(identity.claims["iat"], NOW);
            assert_eq!(identity.claims["email"], "a@b");
            assert_eq!(jsonwebtoken::decode_header(token).unwrap().kid.as_deref(), Some("dev"));
        }
    }

    #[tokio::test]
    async fn nested_claim_paths_are_written_where_they_are_read() {
        let issuer = Issuer {
            tenant_claim: path("$.app_metadata.tenant"),
            role_claim: path("$['https://example.com/x'][\"role\"]"),
            ..signing_issuer(Algorithm::ES256)
        };
        let extra = json!({"app_metadata": {"plan": "free"}, "sub": "alice"});
        let token = mint_acme(&issuer, extra).unwrap();
        let identity = Verifier::new(&[issuer]).unwrap().verify(token.as_bytes(), NOW).await.unwrap();
        assert_eq!(identity.tenant.as_str(), "acme");
        assert_eq!(identity.access.as_str(), "readonly");
        assert_eq!(identity.subject.as_deref(), Some("alice"));
        assert_eq!(identity.claims["app_metadata"]["plan"], "free");
    }

    #[test]
    fn every_token_has_an_id_of_its_own() {
        let issuer = signing_issuer(Algorithm::HS256);
        assert_ne!(mint_acme(&issuer, json!({})).unwrap(), mint_acme(&issuer, json!({})).unwrap());
    }

    #[test]
    fn paths_that_name_no_single_place_are_refused() {
        for text in ["$", "$..tenant", "$.*", "$.a[0]", "$.a[?@.b].c", "$['a','b']", "$[\"a\\nb\"]"] {
            let issuer = Issuer { tenant_claim: path(text), ..signing_issuer(Algorithm::HS256) };
            assert!(matches!(mint_acme(&issuer, json!({})), Err(MintError::Path(_))), "{text}");
        }
    }

    #[test]
    fn claims_that_are_taken_are_refused() {
        let issuer = signing_issuer(Algorithm::HS256);
        for claim in RESERVED {
            assert!(matches!(mint_acme(&issuer, json!({claim: 1})), Err(MintError::Reserved(_))), "{claim}");
        }
        assert!(matches!(mint_acme(&issuer, json!({"tenant": "x"})), Err(MintError::Occupied(_))));
        let nested = Issuer { tenant_claim: path("$.iss.tenant"), ..issuer };
        assert!(matches!(mint_acme(&nested, json!({})), Err(MintError::Occupied(_))));
    }

    #[test]
    fn an_issuer_that_cannot_sign_says_why() {
        let issuer = Signer::new(Algorithm::ES256).issuer();
        assert!(matches!(mint_acme(&issuer, json!({})), Err(MintError::NoSigningKey(_))));
        let other = Issuer { signing: Some(Signer::new(Algorithm::ES384).signing(None)), ..issuer.clone() };
        assert!(matches!(mint_acme(&other, json!({})), Err(MintError::NotAccepted(_))));
        let mut wrong = Signer::new(Algorithm::RS256).signing(None);
        wrong.algorithm = Algorithm::ES256;
        let wrong = Issuer { signing: Some(wrong), ..issuer };
        assert!(matches!(mint_acme(&wrong, json!({})), Err(MintError::Key(_))));
    }
}
