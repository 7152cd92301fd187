//! Tokens: only what the issuer signed gets in, and what gets in says what the claims say.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use hmac::{Hmac, KeyInit, Mac};
use pgward::auth::Verifier;
use pgward::config;
use serde_json::Value;
use sha2::Sha256;

use super::Target;
use crate::input::{Input, bent};

pub const TARGET: Target = Target {
    name: "token",
    check,
    words: &[
        "\"alg\":\"none\"",
        "\"alg\":\"HS256\"",
        "\"alg\":\"RS256\"",
        "\"crit\":[]",
        "\"typ\":\"at+jwt\"",
        "\"kid\":\"k\"",
        "\"exp\":1700000600",
        "\"exp\":1e99",
        "\"exp\":-1",
        "\"exp\":\"x\"",
        "\"nbf\":1800000000",
        "\"aud\":[\"pgward\"]",
        "\"aud\":[1]",
        "\"tenant\":\"globex\"",
        "\"tenant\":[\"acme\"]",
        "\"tenant\":\"a'b\"",
        "\"role\":\"admin\"",
        "\"region\":\"lk\"",
        "\"sub\":1",
        "{",
        "}",
        "[",
        ",",
        ":",
        "\\u0061",
        ".",
        "==",
        "null",
    ],
    rounds: 30_000,
    longest: 900,
};

const SECRET: &str = "abcdef0123456789abcdef0123456789";
const NOW: u64 = 1_700_000_000;
const LEEWAY: u64 = 30;
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const CLAIMS: &str = r#"{"iss":"https://login.example.com/","aud":"pgward","sub":"alice","exp":1700000600,"tenant":"acme","role":"app"}"#;

thread_local! {
    static VERIFIER: Verifier = verifier();
}

fn verifier() -> Verifier {
    let text = format!(
        r#"
        listen.address = "127.0.0.1:0"
        master_key = "0123456789abcdef0123456789abcdef"
        [[issuers]]
        issuer = "https://login.example.com/"
        audience = "pgward"
        algorithms = ["HS256"]
        secret = "{SECRET}"
        leeway = "{LEEWAY}s"
        [clusters.main]
        tls.mode = "off"
        servers = [{{ name = "main-1", host = "127.0.0.1", port = 1, region = "lk" }}]
        [tenants.acme]
        isolation = "database"
        cluster = "main"
        database = "acme"
        home = "lk"
        "#
    );
    let settings = config::parse(&text, std::path::Path::new(".")).expect("a good configuration");
    Verifier::new(&settings.issuers).expect("good keys")
}

fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (form, header, claims) =
        (input.below(4), bent(&mut input, HEADER.as_bytes()), bent(&mut input, CLAIMS.as_bytes()));
    let honest = header.is_none() && claims.is_none();
    let [header, claims] = [header, claims].map(|part| part.unwrap_or_default());
    let parts = [(&header, HEADER), (&claims, CLAIMS)];
    let parts =
        parts.map(|(bent, honest)| URL_SAFE_NO_PAD.encode(if bent.is_empty() { honest.as_bytes() } else { bent }));
    let message = parts.join(".");
    let key = if form == 1 { &SECRET[1..] } else { SECRET };
    let signed = format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac(key, &message)));
    let (token, honest) = match form {
        0 | 1 => (signed.into_bytes(), honest && form == 0),
        2 => match bent(&mut input, signed.as_bytes()) {
            Some(token) => (token, false),
            None => (signed.into_bytes(), honest),
        },
        _ => (bytes.to_vec(), false),
    };
    let verified = VERIFIER.with(|verifier| verifier.verify(&token, NOW).now_or_never()).expect("the key is at hand");
    match verified {
        Ok(identity) => {
            let claims = signed_claims(&token).expect("what the issuer signed");
            assert_eq!(claims["iss"], "https://login.example.com/");
            assert!(for_us(&claims["aud"]), "another audience: {claims}");
            let expires = claims["exp"].as_f64().expect("a time at which it expires");
            assert!(expires + LEEWAY as f64 > NOW as f64 && identity.expires_at > NOW);
            assert!(claims.get("nbf").is_none_or(|from| from.as_f64().is_some_and(|n| n <= (NOW + LEEWAY) as f64)));
            assert_eq!(claims["tenant"], identity.tenant.as_str());
            assert_eq!(claims["role"], identity.access.as_str());
            assert_eq!(
                claims.get("region").and_then(Value::as_str),
                identity.region.as_ref().map(|region| region.as_str())
            );
            assert!(identity.tenant.as_str().bytes().all(|byte| byte.is_ascii_graphic() && !b"'\"\\;".contains(&byte)));
        }
        Err(error) => {
            assert!(!honest, "an honest token is refused: {error}");
            // Neither the log nor the client is told any part of it. What has blanks may be words of the error's.
            let said = format!("{error} {error:?} {} {}", error.hint(), error.outcome());
            for part in token.split(|byte| *byte == b'.').filter(|part| part.len() > 24 && !part.contains(&b' ')) {
                assert!(!said.as_bytes().windows(part.len()).any(|window| window == part));
            }
        }
    }
}

fn mac(key: &str, message: &str) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap().chain_update(message);
    mac.finalize().into_bytes().to_vec()
}

/// The claims of a token with the issuer's signature.
fn signed_claims(token: &[u8]) -> Option<Value> {
    let parts: Vec<&str> = std::str::from_utf8(token).ok()?.split('.').collect();
    let [header, claims, signature] = parts[..] else { return None };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    (decode(signature)? == mac(SECRET, &format!("{header}.{claims}"))).then_some(())?;
    let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
    (header["alg"] == "HS256" && header.get("crit").is_none()).then_some(())?;
    serde_json::from_slice(&decode(claims)?).ok()
}

fn for_us(audience: &Value) -> bool {
    audience == "pgward" || audience.as_array().is_some_and(|all| all.iter().any(|one| one == "pgward"))
}
