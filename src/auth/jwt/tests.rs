use std::io::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::super::testkit::*;
use super::*;
use crate::base::ids::NameError;
use crate::base::{Access, Region, TenantId};

thread_local! {
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
}

fn done<T>(verification: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(verification))
}

#[test]
fn only_a_signature_that_is_new_is_waited_for() {
    let signer = Signer::new(Algorithm::ES256);
    let verifier = Verifier::new(&[signer.issuer()]).unwrap();
    let token = signer.sign(&claims());
    let at_once = || futures_util::FutureExt::now_or_never(verifier.verify(token.as_bytes(), NOW));
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    let _entered = runtime.enter();
    // The only thread that could check it has something else to do.
    let (free, freed) = std::sync::mpsc::channel();
    let busy = runtime.spawn_blocking(move || freed.recv().unwrap());
    assert!(at_once().is_none());
    free.send(()).unwrap();
    runtime.block_on(busy).unwrap();
    runtime.block_on(verifier.verify(token.as_bytes(), NOW)).unwrap();
    assert!(at_once().unwrap().is_ok());
}

fn verify_at(issuer: &Issuer, token: impl AsRef<[u8]>, now: u64) -> Result<Identity, AuthError> {
    let verifier = Verifier::new(std::slice::from_ref(issuer)).unwrap();
    done(verifier.verify(token.as_ref(), now))
}

fn verify(issuer: &Issuer, token: impl AsRef<[u8]>) -> Result<Identity, AuthError> {
    verify_at(issuer, token, NOW)
}

fn refused(issuer: &Issuer, token: impl AsRef<[u8]>) -> AuthError {
    verify(issuer, token).expect_err("the token was accepted")
}

/// What an issuer of one ES256 key makes of these claims.
fn judged(claims: &Value) -> Result<Identity, AuthError> {
    let signer = Signer::new(Algorithm::ES256);
    verify(&signer.issuer(), signer.sign(claims))
}

fn claim(claim: &'static str, problem: ClaimProblem) -> AuthError {
    AuthError::Claim { claim, problem }
}

fn jwks_issuer(keys: &[Value], algorithms: &[Algorithm]) -> (Issuer, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "{}", json!({"keys": keys})).unwrap();
    (issuer(KeySource::JwksFile(file.path().to_owned()), algorithms), file)
}

fn load_problem(issuer: Issuer) -> KeyProblem {
    match Verifier::new(&[issuer]) {
        Err(error) => error.problem,
        Ok(_) => panic!("the issuer was accepted"),
    }
}

#[test]
fn every_algorithm_is_accepted_with_its_key() {
    for (name, algorithm) in Algorithm::ALL {
        let signer = Signer::new(algorithm);
        let identity = verify(&signer.issuer(), signer.sign(&claims())).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(identity.tenant, TenantId::parse("acme").unwrap());
        assert_eq!(identity.access, Access::parse("app").unwrap());
        assert_eq!(identity.region, None);
        assert_eq!(&*identity.issuer, ISS);
        assert_eq!(identity.subject.as_deref(), Some("alice"));
        assert_eq!(identity.expires_at, NOW + 600 + LEEWAY);
        assert_eq!(identity.claims["tenant"], "acme");
    }
}

#[test]
fn every_algorithm_is_accepted_out_of_a_key_set() {
    for (name, algorithm) in Algorithm::ALL.into_iter().filter(|(_, a)| *a != Algorithm::HS256) {
        let signer = Signer::new(algorithm);
        let (issuer, _file) = jwks_issuer(&[signer.jwk("k")], &[algorithm]);
        for token in [signer.sign_as("k", &claims()), signer.sign(&claims())] {
            verify(&issuer, token).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

#[test]
fn a_token_without_a_signature_is_refused() {
    let signer = Signer::new(Algorithm::ES256);
    for alg in ["none", "None", "NONE", "", "ES256 ", "es256", "HS512"] {
        let header = encoded(json!({"alg": alg}).to_string());
        for signature in ["", "AA"] {
            let token = format!("{header}.{}.{signature}", encoded(claims().to_string()));
            assert_eq!(refused(&signer.issuer(), token), AuthError::Algorithm, "{alg:?}");
        }
    }
    let good = signer.sign(&claims());
    let stripped = format!("{}.", good.rsplit_once('.').unwrap().0);
    assert_eq!(refused(&signer.issuer(), stripped), AuthError::Signature);
}

#[test]
fn an_algorithm_that_is_not_pinned_is_refused_although_the_key_would_do() {
    let signer = Signer::new(Algorithm::RS256);
    let issuer = issuer(signer.source(), &[Algorithm::RS512, Algorithm::PS256]);
    assert_eq!(refused(&issuer, signer.sign(&claims())), AuthError::Algorithm);
}

#[test]
fn a_header_that_names_another_algorithm_than_the_signature_is_refused() {
    let signer = Signer::new(Algorithm::RS256);
    let issuer = issuer(signer.source(), &[Algorithm::RS256, Algorithm::PS256, Algorithm::ES256]);
    let as_named = |name: &str| signer.sign_text(&json!({"alg": name}).to_string(), &claims().to_string());
    assert!(verify(&issuer, as_named("RS256")).is_ok());
    assert_eq!(refused(&issuer, as_named("PS256")), AuthError::Signature);
    assert_eq!(refused(&issuer, as_named("ES256")), AuthError::Algorithm);
}

#[test]
fn an_hmac_keyed_with_the_public_key_is_refused() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let honest = Signer::new(algorithm);
        for secret in [honest.public.clone(), honest.public.trim_end().to_owned()] {
            let forger = Signer { algorithm: Algorithm::HS256, private: secret.clone(), public: secret };
            let token = forger.sign(&claims());
            assert_eq!(refused(&honest.issuer(), token), AuthError::Algorithm);
            let posing = forger.sign_text(&json!({"alg": honest.name()}).to_string(), &claims().to_string());
            assert_eq!(refused(&honest.issuer(), posing), AuthError::Signature);
        }
    }
}

#[test]
fn a_public_key_and_hs256_never_meet_even_if_the_configuration_says_so() {
    let signer = Signer::new(Algorithm::RS256);
    let mixed = issuer(signer.source(), &[Algorithm::RS256, Algorithm::HS256]);
    assert!(matches!(load_problem(mixed), KeyProblem::SecretAlgorithm));
    let secret = issuer(Signer::new(Algorithm::HS256).source(), &[Algorithm::RS256]);
    assert!(matches!(load_problem(secret), KeyProblem::SecretAlgorithm));
}

#[test]
fn keys_that_a_token_brings_along_are_not_looked_at() {
    let (honest, forger) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
    let header = json!({"alg": "ES256", "jwk": forger.jwk("k"), "jku": "https://evil.example/", "x5c": ["AA"]});
    let token = forger.sign_text(&header.to_string(), &claims().to_string());
    assert_eq!(refused(&honest.issuer(), token), AuthError::Signature);
}

#[test]
fn the_key_of_one_issuer_signs_nothing_for_another() {
    let (one, other) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
    let second = Issuer { issuer: "https://other.example/".into(), ..other.issuer() };
    let verifier = Verifier::new(&[one.issuer(), second]).unwrap();
    let theirs = claims_with("iss", json!("https://other.example/"));
    assert!(done(verifier.verify(other.sign(&theirs).as_bytes(), NOW)).is_ok());
    assert_eq!(done(verifier.verify(one.sign(&theirs).as_bytes(), NOW)).unwrap_err(), AuthError::Signature);
}

#[test]
fn two_issuers_of_one_name_are_refused() {
    let signer = Signer::new(Algorithm::ES256);
    let error = Verifier::new(&[signer.issuer(), signer.issuer()]).err().unwrap();
    assert!(matches!(error.problem, KeyProblem::Duplicate));
}

#[test]
fn the_issuer_is_compared_exactly() {
    for iss in [json!(null), json!("https://login.example.com"), json!("HTTPS://login.example.com/"), json!([ISS])] {
        assert_eq!(judged(&claims_with("iss", iss.clone())).unwrap_err(), AuthError::UnknownIssuer, "{iss}");
    }
}

#[test]
fn the_audience_is_one_string_or_one_of_an_array() {
    for aud in [json!(AUD), json!([AUD]), json!(["other", AUD])] {
        assert!(judged(&claims_with("aud", aud.clone())).is_ok(), "{aud}");
    }
    for aud in [json!(null), json!("other"), json!("PGWARD"), json!([]), json!(["x"]), json!([AUD, 1]), json!({AUD: 1})]
    {
        assert_eq!(judged(&claims_with("aud", aud.clone())).unwrap_err(), AuthError::Audience, "{aud}");
    }
}

#[test]
fn a_token_is_valid_until_just_before_its_expiry_and_the_leeway() {
    let signer = Signer::new(Algorithm::ES256);
    let token = signer.sign(&claims_with("exp", json!(NOW)));
    let at = |now| verify_at(&signer.issuer(), &token, now).map(|identity| identity.expires_at);
    assert_eq!(at(NOW + LEEWAY - 1), Ok(NOW + LEEWAY));
    assert_eq!(at(NOW + LEEWAY), Err(AuthError::Expired));
    assert_eq!(at(u64::MAX), Err(AuthError::Expired));
}

#[test]
fn a_token_is_valid_from_its_nbf_less_the_leeway() {
    let signer = Signer::new(Algorithm::ES256);
    let token = signer.sign(&claims_with("nbf", json!(NOW)));
    let at = |now| verify_at(&signer.issuer(), &token, now).map(drop);
    assert_eq!(at(NOW - LEEWAY), Ok(()));
    assert_eq!(at(NOW - LEEWAY - 1), Err(AuthError::NotYetValid));
}

#[test]
fn dates_may_have_fractions_and_nothing_else() {
    let signer = Signer::new(Algorithm::ES256);
    let exact = Issuer { leeway: std::time::Duration::ZERO, ..signer.issuer() };
    let token = signer.sign(&claims_with("exp", json!(NOW as f64 + 0.9)));
    assert_eq!(verify(&exact, token).unwrap_err(), AuthError::Expired);
    let token = signer.sign(&claims_with("nbf", json!(NOW as f64 + 0.1)));
    assert_eq!(verify(&exact, token).unwrap_err(), AuthError::NotYetValid);
    assert_eq!(judged(&claims_with("exp", json!(1e300))).unwrap().expires_at, u64::MAX);
    for exp in [json!(-1), json!("1700000600"), json!([NOW]), json!(true), json!(-1.5)] {
        assert_eq!(judged(&claims_with("exp", exp)).unwrap_err(), claim("exp", ClaimProblem::NotDate));
    }
    assert_eq!(judged(&claims_with("exp", json!(null))).unwrap_err(), claim("exp", ClaimProblem::Missing));
    assert_eq!(judged(&claims_with("nbf", json!("now"))).unwrap_err(), claim("nbf", ClaimProblem::NotDate));
}

#[test]
fn a_key_id_must_match_and_no_key_id_needs_a_single_key() {
    let (a, b, rsa) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256), Signer::new(Algorithm::RS256));
    let algorithms = [Algorithm::ES256, Algorithm::RS256];
    let (issuer, _file) = jwks_issuer(&[a.jwk("a"), b.jwk("b"), rsa.jwk("r")], &algorithms);
    assert!(verify(&issuer, a.sign_as("a", &claims())).is_ok());
    assert!(verify(&issuer, b.sign_as("b", &claims())).is_ok());
    assert_eq!(refused(&issuer, a.sign_as("b", &claims())), AuthError::Signature);
    assert_eq!(refused(&issuer, a.sign_as("A", &claims())), AuthError::UnknownKey);
    assert_eq!(refused(&issuer, a.sign_as("", &claims())), AuthError::UnknownKey);
    assert_eq!(refused(&issuer, a.sign_as("r", &claims())), AuthError::Algorithm);
    assert_eq!(refused(&issuer, a.sign(&claims())), AuthError::AmbiguousKey);
    assert!(verify(&issuer, rsa.sign(&claims())).is_ok());
    for kid in [json!(1), json!(null), json!(["a"])] {
        let header = json!({"alg": "ES256", "kid": kid}).to_string();
        assert_eq!(refused(&issuer, a.sign_text(&header, &claims().to_string())).outcome(), "malformed");
    }
}

#[test]
fn two_keys_of_one_id_are_told_apart_by_type_only() {
    let (a, b, rsa) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256), Signer::new(Algorithm::RS256));
    let algorithms = [Algorithm::ES256, Algorithm::RS256];
    let (issuer, _file) = jwks_issuer(&[a.jwk("k"), rsa.jwk("k")], &algorithms);
    assert!(verify(&issuer, a.sign_as("k", &claims())).is_ok());
    assert!(verify(&issuer, rsa.sign_as("k", &claims())).is_ok());
    let (issuer, _file) = jwks_issuer(&[a.jwk("k"), b.jwk("k")], &algorithms);
    assert_eq!(refused(&issuer, a.sign_as("k", &claims())), AuthError::AmbiguousKey);
}

#[test]
fn a_single_key_verifies_tokens_with_any_key_id() {
    let signer = Signer::new(Algorithm::ES256);
    assert!(verify(&signer.issuer(), signer.sign_as("whatever", &claims())).is_ok());
}

#[test]
fn keys_for_other_uses_and_algorithms_are_left_out_of_a_set() {
    let signer = Signer::new(Algorithm::RS256);
    let with = |name: &str, value: Value| {
        let mut jwk = signer.jwk("k");
        jwk[name] = value;
        jwk
    };
    for usable in [with("use", json!("sig")), with("alg", json!("RS256")), with("key_ops", json!(["verify"]))] {
        let (issuer, _file) = jwks_issuer(&[usable], &[Algorithm::RS256]);
        assert!(verify(&issuer, signer.sign_as("k", &claims())).is_ok());
    }
    for useless in [
        with("use", json!("enc")),
        with("use", json!("other")),
        with("alg", json!("RS512")),
        with("alg", json!("RSA-OAEP")),
        with("alg", json!("HS256")),
        with("alg", json!("ES256")),
        with("key_ops", json!(["sign"])),
        with("kty", json!("AKP")),
        with("n", json!("AQAB")),
        with("n", json!("not base64!")),
        json!({"kty": "oct", "kid": "k", "k": encoded(SECRET)}),
        json!("no key at all"),
    ] {
        let (issuer, _file) = jwks_issuer(std::slice::from_ref(&useless), &[Algorithm::RS256]);
        assert!(matches!(load_problem(issuer), KeyProblem::NoUsableKey), "{useless}");
    }
}

#[test]
fn a_token_whose_algorithm_is_not_the_one_of_its_key_is_refused() {
    let signer = Signer::new(Algorithm::PS256);
    let mut jwk = signer.jwk("k");
    jwk["alg"] = "RS256".into();
    let (issuer, _file) = jwks_issuer(&[jwk], &[Algorithm::RS256, Algorithm::PS256]);
    assert_eq!(refused(&issuer, signer.sign_as("k", &claims())), AuthError::Algorithm);
}

#[test]
fn unusable_key_files_are_refused_at_load() {
    let es = Signer::new(Algorithm::ES256);
    let rs = Signer::new(Algorithm::RS256);
    let pem = |text: &str| issuer(KeySource::Pem(text.as_bytes().to_vec()), &[Algorithm::RS256]);
    let two = format!("{}{}", rs.public, es.public);
    for bad in ["", "garbage", &rs.private, &es.private, &two] {
        assert!(matches!(load_problem(pem(bad)), KeyProblem::Pem), "{bad}");
    }
    assert!(matches!(load_problem(pem(RSA_1024_PUBLIC)), KeyProblem::KeyType));
    assert!(matches!(load_problem(pem(&es.public)), KeyProblem::NoUsableKey));
    let file = |name: &str| issuer(KeySource::JwksFile(name.into()), &[Algorithm::RS256]);
    assert!(matches!(load_problem(file("/does/not/exist")), KeyProblem::Read { .. }));
    assert!(matches!(load_problem(file("Cargo.toml")), KeyProblem::Jwks));
}

#[test]
fn the_tenant_is_exactly_one_string_that_is_a_tenant_id() {
    let tenant = |value: Value| judged(&claims_with("tenant", value)).map(|identity| identity.tenant.to_string());
    assert_eq!(tenant(json!("acme.example@eu:1")), Ok("acme.example@eu:1".to_owned()));
    assert_eq!(tenant(json!(null)), Err(claim("tenant", ClaimProblem::Missing)));
    for no_text in [json!(1), json!(["acme"]), json!({"id": "acme"}), json!(true)] {
        assert_eq!(tenant(no_text), Err(claim("tenant", ClaimProblem::NotText)));
    }
    for (name, why) in [
        ("", NameError::Empty),
        (&*"x".repeat(129), NameError::TooLong(128)),
        ("a'b", NameError::Character("A-Z a-z 0-9 _ - . @ :")),
        ("a\"b", NameError::Character("A-Z a-z 0-9 _ - . @ :")),
        ("a\0b", NameError::Character("A-Z a-z 0-9 _ - . @ :")),
        ("a;b", NameError::Character("A-Z a-z 0-9 _ - . @ :")),
        ("a\\b", NameError::Character("A-Z a-z 0-9 _ - . @ :")),
        ("acme ", NameError::Character("A-Z a-z 0-9 _ - . @ :")),
        // A Cyrillic a, and a zero width space.
        ("\u{430}cme", NameError::Character("A-Z a-z 0-9 _ - . @ :")),
        ("ac\u{200b}me", NameError::Character("A-Z a-z 0-9 _ - . @ :")),
    ] {
        assert_eq!(tenant(json!(name)), Err(claim("tenant", ClaimProblem::Name(why))), "{name:?}");
    }
}

#[test]
fn two_tenants_are_refused_even_if_they_are_equal() {
    let signer = Signer::new(Algorithm::ES256);
    let issuer = Issuer { tenant_claim: path("$.tenants[*].id"), ..signer.issuer() };
    let with = |tenants: Value| verify(&issuer, signer.sign(&claims_with("tenants", tenants)));
    assert_eq!(with(json!([{"id": "acme"}])).unwrap().tenant.as_str(), "acme");
    for several in [json!([{"id": "acme"}, {"id": "globex"}]), json!([{"id": "acme"}, {"id": "acme"}])] {
        assert_eq!(with(several).unwrap_err(), claim("tenant", ClaimProblem::Several));
    }
}

#[test]
fn a_claim_named_twice_is_refused() {
    let signer = Signer::new(Algorithm::ES256);
    let once = claims().to_string();
    for second in [r#","tenant":"globex"}"#, r#","\u0074enant":"globex"}"#, r#","x":{"y":1,"y":1}}"#] {
        let twice = format!("{}{second}", once.strip_suffix('}').unwrap());
        assert_eq!(refused(&signer.issuer(), signer.sign_text(r#"{"alg":"ES256"}"#, &twice)).outcome(), "malformed");
    }
    let header = r#"{"alg":"ES256","alg":"ES256"}"#;
    assert_eq!(refused(&signer.issuer(), signer.sign_text(header, &once)).outcome(), "malformed");
}

#[test]
fn nested_claims_are_found() {
    let signer = Signer::new(Algorithm::ES256);
    let issuer = Issuer {
        tenant_claim: path("$.app_metadata.tenant"),
        role_claim: path("$['https://example.com/claims'].role"),
        region_claim: path("$.app_metadata.regions[0]"),
        ..signer.issuer()
    };
    let mut claims = claims_with("app_metadata", json!({"tenant": "globex", "regions": ["lk", "sg"]}));
    claims["https://example.com/claims"] = json!({"role": "readonly"});
    let identity = verify(&issuer, signer.sign(&claims)).unwrap();
    assert_eq!(identity.tenant.as_str(), "globex");
    assert_eq!(identity.access.as_str(), "readonly");
    assert_eq!(identity.region, Some(Region::parse("lk").unwrap()));
}

#[test]
fn a_missing_role_is_the_default_role_or_a_refusal() {
    let signer = Signer::new(Algorithm::ES256);
    let token = signer.sign(&claims_with("role", json!(null)));
    assert_eq!(refused(&signer.issuer(), &token), claim("role", ClaimProblem::Missing));
    let lenient = Issuer { default_role: Some(Access::parse("readonly").unwrap()), ..signer.issuer() };
    assert_eq!(verify(&lenient, &token).unwrap().access.as_str(), "readonly");
    // What is there but makes no sense is no reason to take the default.
    for (role, problem) in [
        (json!(["admin"]), ClaimProblem::NotText),
        (json!(""), ClaimProblem::Name(NameError::Empty)),
        (json!("a b"), ClaimProblem::Name(NameError::Character("A-Z a-z 0-9 _ -"))),
    ] {
        assert_eq!(refused(&lenient, signer.sign(&claims_with("role", role))), claim("role", problem));
    }
    let many = Issuer { role_claim: path("$.roles[*]"), ..lenient };
    let token = signer.sign(&claims_with("roles", json!(["app", "admin"])));
    assert_eq!(refused(&many, token), claim("role", ClaimProblem::Several));
}

#[test]
fn several_regions_or_a_subject_that_is_no_string_are_refused() {
    let signer = Signer::new(Algorithm::ES256);
    let issuer = Issuer { region_claim: path("$.regions[*]"), ..signer.issuer() };
    let token = signer.sign(&claims_with("regions", json!(["lk", "sg"])));
    assert_eq!(refused(&issuer, token), claim("region", ClaimProblem::Several));
    assert_eq!(judged(&claims_with("sub", json!(7))).unwrap_err(), claim("sub", ClaimProblem::NotText));
    assert_eq!(judged(&claims_with("sub", json!(null))).unwrap().subject, None);
}

#[test]
fn critical_extensions_and_tokens_of_other_types_are_refused() {
    let signer = Signer::new(Algorithm::ES256);
    let with = |name: &str, value: Value| {
        let header = json!({"alg": "ES256", name: value}).to_string();
        verify(&signer.issuer(), signer.sign_text(&header, &claims().to_string())).map(drop)
    };
    for typ in ["JWT", "jwt", "at+jwt", "application/at+JWT", "JOSE"] {
        assert_eq!(with("typ", json!(typ)), Ok(()), "{typ}");
    }
    for typ in [json!("logout+jwt"), json!("dpop+jwt"), json!(""), json!(1), json!("application/")] {
        assert_eq!(with("typ", typ.clone()).unwrap_err().outcome(), "malformed", "{typ}");
    }
    for crit in [json!(["b64"]), json!([]), json!("exp"), json!(null)] {
        assert_eq!(with("crit", crit).unwrap_err().outcome(), "malformed");
    }
}

#[test]
fn every_truncation_and_every_changed_byte_is_refused() {
    let signer = Signer::new(Algorithm::EdDSA);
    let verifier = Verifier::new(&[signer.issuer()]).unwrap();
    let token = signer.sign(&claims()).into_bytes();
    for end in 0..token.len() {
        assert!(done(verifier.verify(&token[..end], NOW)).is_err(), "cut at {end}");
    }
    for at in 0..token.len() {
        let mut changed = token.clone();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(done(verifier.verify(&changed, NOW)).is_err(), "changed at {at}");
    }
}

#[test]
fn what_is_no_compact_jws_is_malformed() {
    let signer = Signer::new(Algorithm::ES256);
    let good = signer.sign(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let long = format!("{message}{}.{signature}", "A".repeat(16 * 1024));
    let padded = format!("{}=.{}.{signature}", encoded(r#"{"alg":"ES256"}"#), encoded(claims().to_string()));
    let mut not_utf8 = good.clone().into_bytes();
    not_utf8[3] = 0xff;
    for bad in [
        b"".as_slice(),
        b".",
        b"..",
        b"...",
        b"hunter2",
        long.as_bytes(),
        padded.as_bytes(),
        &not_utf8,
        format!("{good}.").as_bytes(),
        format!("{good}.x").as_bytes(),
        format!(" {message}.{signature}").as_bytes(),
        format!("{}.{}.x", encoded("[]"), encoded("{}")).as_bytes(),
        format!("{}.{}.x", encoded("{}"), encoded("{}")).as_bytes(),
        format!("{}.{}.x", encoded(r#"{"alg":1}"#), encoded("{}")).as_bytes(),
        format!("{}.{}.x", encoded(r#"{"alg":"ES256"}"#), encoded("null")).as_bytes(),
    ] {
        assert_eq!(refused(&signer.issuer(), bad).outcome(), "malformed", "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn a_token_of_just_16_kib_is_read() {
    let signer = Signer::new(Algorithm::ES256);
    let token = signer.sign(&claims_with("fill", json!("x".repeat(12_000))));
    assert!(token.len() > 16_000 && token.len() <= 16 * 1024, "{}", token.len());
    assert!(verify(&signer.issuer(), token).is_ok());
}

#[test]
fn neither_errors_nor_identities_print_the_token_or_its_claims() {
    let signer = Signer::new(Algorithm::ES256);
    let token = signer.sign(&claims_with("email", json!("alice@example.com")));
    let shown = format!("{:?}", verify(&signer.issuer(), &token).unwrap());
    let mut texts = vec![shown];
    for (issuer, now) in [(signer.issuer(), NOW + 9999), (Signer::new(Algorithm::ES256).issuer(), NOW)] {
        let error = verify_at(&issuer, &token, now).unwrap_err();
        texts.extend([format!("{error:?}"), error.to_string(), error.hint().to_owned()]);
    }
    let error = judged(&claims_with("tenant", json!("secret tenant"))).unwrap_err();
    texts.extend([format!("{error:?}"), error.to_string()]);
    for text in texts {
        assert!(!text.contains("alice@example.com") && !text.contains("secret tenant"), "{text}");
        assert!(token.split('.').all(|part| !text.contains(part)), "{text}");
    }
}

#[test]
fn verification_can_move_between_threads() {
    fn both<T: Send + Sync>(_: &T) {}
    fn send<T: Send>(_: &T) {}
    let verifier = Verifier::new(&[Signer::new(Algorithm::ES256).issuer()]).unwrap();
    both(&verifier);
    send(&verifier.verify(b"", NOW));
    send(&verifier.refreshers());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let verifier = Verifier::new(&[Signer::new(Algorithm::HS256).issuer()]).unwrap();
        prop_assert!(done(verifier.verify(&bytes, NOW)).is_err());
    }

    #[test]
    fn random_json_in_all_three_parts_never_panics(header in "\\{.{0,40}\\}", claims in "\\{.{0,80}\\}", signature in ".{0,20}") {
        let signer = Signer::new(Algorithm::HS256);
        let verifier = Verifier::new(&[signer.issuer()]).unwrap();
        let token = format!("{}.{}.{signature}", encoded(header), encoded(&claims));
        prop_assert!(done(verifier.verify(token.as_bytes(), NOW)).is_err());
        let signed = signer.sign_text(r#"{"alg":"HS256"}"#, &claims);
        prop_assert!(done(verifier.verify(signed.as_bytes(), NOW)).is_err());
    }

    #[test]
    fn a_tenant_that_is_accepted_is_a_tenant_id(tenant in ".{0,140}") {
        if let Ok(identity) = judged(&claims_with("tenant", json!(tenant))) {
            prop_assert_eq!(TenantId::parse(&tenant).unwrap(), identity.tenant);
        }
    }
}
