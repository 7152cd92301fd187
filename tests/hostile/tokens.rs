//! Tokens of all the bad kinds (line 7).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use crate::case::{Case, Told, run};
use crate::support::unix_now;
use crate::tap::{Hostile, ask, first, held, leave};

/// The issuer's secret in the tests' configuration.
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PUBLIC: &str = include_str!("../../src/auth/testkit/rsa.pub.pem");

fn coded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// By hand, since an attacker makes them by hand too.
fn hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let head = format!("{}.{}", coded(header), coded(claims));
    let mut mac: Hmac<Sha256> = Hmac::new_from_slice(secret).unwrap();
    mac.update(head.as_bytes());
    format!("{head}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

fn good(tenant: &str) -> Map<String, Value> {
    let claims = json!({ "iss": "tests", "aud": "pgward", "tenant": tenant, "role": "app", "exp": unix_now() + 600, "iat": unix_now() });
    claims.as_object().cloned().unwrap_or_default()
}

/// Signed as it should be, with these claims over the good ones. `null` takes one away.
pub fn signed(h: &Hostile, more: Value) -> String {
    let mut claims = good(h.place.level.hostile());
    for (name, value) in more.as_object().cloned().unwrap_or_default() {
        if value.is_null() {
            claims.remove(&name);
        } else {
            claims.insert(name, value);
        }
    }
    hs256(&json!({ "alg": "HS256", "typ": "JWT" }), &Value::Object(claims), SECRET.as_bytes())
}

async fn all_refused(h: &Hostile, tokens: &[String]) -> Told {
    for (n, token) in tokens.iter().enumerate() {
        for user in [h.place.level.hostile(), h.place.level.victim()] {
            let code = h.refused(user, "app", token, &[]).await;
            held(
                code.as_deref() == Some("28000") || code.as_deref() == Some("08P01"),
                format!("token {n} as {user}: {code:?}"),
            )?;
        }
        // What is refused at login is refused in a session too, and nothing of the tenant before is left.
        if !token.is_empty() && token.len() < 5000 && !token.contains(['\0', '\'']) {
            let mut wire = h.session().await;
            let said = ask(&mut wire, &format!("set pgward.token = '{token}'; ").replace("; ", "")).await;
            let codes = crate::support::raw::errors(&said);
            held(codes == ["28000"], format!("token {n} in a session: {codes:?}"))?;
            leave(wire).await;
        }
    }
    Ok("refused, 28000".to_owned())
}

pub fn cases() -> Vec<Case> {
    let mut cases = forged();
    cases.extend(claims());
    cases.extend(times());
    cases.into_iter().map(Case::of_pgward).collect()
}

fn forged() -> Vec<Case> {
    vec![
        run(
            "token.control",
            7,
            "a token made by hand that is good is let in, so that the others are refused for what is bad",
            |h| {
                Box::pin(async move {
                    let token = signed(&h, json!({}));
                    let code = h.refused(h.place.level.hostile(), "app", &token, &[]).await;
                    held(code.is_none(), format!("let in{}", code.unwrap_or_default()))
                })
            },
        ),
        run("token.none", 7, "alg none in all spellings", |h| {
            Box::pin(async move {
                let claims = coded(&Value::Object(good(h.place.level.victim())));
                let mut all = Vec::new();
                for alg in ["none", "None", "NONE", "nOnE", "", "null"] {
                    let head = coded(&json!({ "alg": alg, "typ": "JWT" }));
                    all.push(format!("{head}.{claims}."));
                    all.push(format!("{head}.{claims}"));
                    all.push(format!("{head}.{claims}.AA"));
                }
                all.push(format!("{}.{claims}.", coded(&json!({ "typ": "JWT" }))));
                all.push(format!("{}.{claims}.", coded(&json!({ "alg": null }))));
                all.push(format!("{}.{claims}.", coded(&json!({ "alg": ["none", "HS256"] }))));
                all_refused(&h, &all).await
            })
        }),
        run("token.swapped", 7, "another alg in the header than it is signed by", |h| {
            Box::pin(async move {
                let claims = Value::Object(good(h.place.level.victim()));
                let all: Vec<String> = ["HS384", "HS512", "RS256", "ES256", "EdDSA", "PS256", "hs256", "HS256 "]
                    .iter()
                    .map(|alg| hs256(&json!({ "alg": alg }), &claims, SECRET.as_bytes()))
                    .collect();
                all_refused(&h, &all).await
            })
        }),
        run("token.public-key", 7, "HMAC with the public key of another issuer", |h| {
            Box::pin(async move {
                let mut claims = good(h.place.level.victim());
                claims.insert("iss".to_owned(), "keys".into());
                let claims = Value::Object(claims);
                let header = json!({ "alg": "HS256", "typ": "JWT" });
                let stripped: String = PUBLIC.lines().filter(|line| !line.starts_with('-')).collect();
                let der = base64::engine::general_purpose::STANDARD.decode(&stripped).unwrap();
                let all = [
                    PUBLIC.as_bytes(),
                    PUBLIC.trim_end().as_bytes(),
                    stripped.as_bytes(),
                    &der[..],
                    b"",
                    SECRET.as_bytes(),
                ]
                .map(|key| hs256(&header, &claims, key))
                .to_vec();
                all_refused(&h, &all).await
            })
        }),
        run("token.other-secret", 7, "signed with secrets that are not the issuer's", |h| {
            Box::pin(async move {
                let claims = Value::Object(good(h.place.level.victim()));
                let secrets: [&[u8]; 6] = [
                    b"",
                    b"secret",
                    b"fedcba9876543210fedcba9876543210",
                    b"0123456789abcdef0123456789abcde",
                    b"0123456789abcdef0123456789abcdef0",
                    &[0; 32],
                ];
                let all = secrets.map(|key| hs256(&json!({ "alg": "HS256" }), &claims, key)).to_vec();
                all_refused(&h, &all).await
            })
        }),
        run("token.headers", 7, "headers that bring their own key, or ask for more than is known", |h| {
            Box::pin(async move {
                let claims = Value::Object(good(h.place.level.victim()));
                let bad = b"the attacker's own key, long enough";
                let jwk = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(bad), "alg": "HS256" });
                let all = [
                    json!({ "alg": "HS256", "jwk": jwk }),
                    json!({ "alg": "HS256", "jku": "http://127.0.0.1:1/keys" }),
                    json!({ "alg": "HS256", "x5u": "http://127.0.0.1:1/" }),
                    json!({ "alg": "HS256", "x5c": ["MIIB"] }),
                    json!({ "alg": "HS256", "kid": "../../../../dev/null" }),
                    json!({ "alg": "HS256", "kid": "' or 1=1; --" }),
                    json!({ "alg": "HS256", "crit": ["exp"] }),
                    json!({ "alg": "HS256", "b64": false, "crit": ["b64"] }),
                    json!({ "alg": "HS256", "cty": "JWT", "zip": "DEF" }),
                ]
                .map(|header| hs256(&header, &claims, bad))
                .to_vec();
                all_refused(&h, &all).await
            })
        }),
        run("token.changed", 7, "a good token of one's own with a byte changed, at every place", |h| {
            Box::pin(async move {
                let token = signed(&h, json!({}));
                for at in (0..token.len()).step_by(3) {
                    let mut bytes = token.clone().into_bytes();
                    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                    let other = String::from_utf8(bytes).unwrap();
                    let code = h.refused(h.place.level.hostile(), "app", &other, &[]).await;
                    held(code.as_deref() == Some("28000"), format!("changed at {at}: {code:?}"))?;
                }
                Ok("refused, 28000".to_owned())
            })
        }),
        run("token.shapes", 7, "what is no token at all", |h| {
            Box::pin(async move {
                let own = signed(&h, json!({}));
                let all = [
                    "",
                    ".",
                    "..",
                    "...",
                    "a.b.c",
                    "null",
                    "{}",
                    "undefined",
                    &own[..own.len() - 1],
                    &own[1..],
                    &format!("{own}="),
                    &format!("{own}.x"),
                    &format!(" {own}"),
                    &format!("{own} "),
                    &format!("Bearer {own}"),
                    &own.replace('.', ". "),
                    &format!("{own}\n"),
                    &"x".repeat(4000),
                    &format!("{own}{own}"),
                ]
                .map(str::to_owned);
                all_refused(&h, &all).await
            })
        }),
        run("token.long", 7, "tokens of megabytes", |h| {
            Box::pin(async move {
                let code = h.refused(h.place.level.hostile(), "app", &"x".repeat(60_000), &[]).await;
                held(code.is_some(), format!("{code:?}"))?;
                let mut wire = h.connect().await;
                wire.send(crate::support::raw::startup(
                    crate::support::raw::V3_0,
                    &[("user", h.place.level.hostile()), ("database", "app")],
                ))
                .await;
                wire.try_send(crate::support::raw::password(&"x".repeat(3_000_000))).await;
                drop(wire);
                crate::hurting::others_are_served(&h).await?;
                Ok("refused".to_owned())
            })
        }),
    ]
}

fn claims() -> Vec<Case> {
    vec![
        run("token.issuer", 7, "wrong, missing and many issuers", |h| {
            Box::pin(async move {
                let all = [
                    json!({ "iss": null }),
                    json!({ "iss": "" }),
                    json!({ "iss": "TESTS" }),
                    json!({ "iss": "tests " }),
                    json!({ "iss": "keys" }),
                    json!({ "iss": ["tests"] }),
                    json!({ "iss": 1 }),
                    json!({ "iss": "http://tests" }),
                ]
                .map(|more| signed(&h, more))
                .to_vec();
                all_refused(&h, &all).await
            })
        }),
        run("token.audience", 7, "wrong and missing audiences", |h| {
            Box::pin(async move {
                let all = [
                    json!({ "aud": null }),
                    json!({ "aud": "" }),
                    json!({ "aud": "other" }),
                    json!({ "aud": [] }),
                    json!({ "aud": ["other"] }),
                    json!({ "aud": "PGWARD" }),
                    json!({ "aud": { "pgward": true } }),
                    json!({ "aud": true }),
                ]
                .map(|more| signed(&h, more))
                .to_vec();
                all_refused(&h, &all).await
            })
        }),
        run("token.tenant", 7, "tenants with quotes, NUL, unicode, of another type, or none", |h| {
            Box::pin(async move {
                let long = "x".repeat(129);
                let all = [
                    json!({ "tenant": null }),
                    json!({ "tenant": "" }),
                    json!({ "tenant": ["mallory", "acme"] }),
                    json!({ "tenant": ["acme"] }),
                    json!({ "tenant": 1 }),
                    json!({ "tenant": true }),
                    json!({ "tenant": { "id": "acme" } }),
                    json!({ "tenant": "acme'" }),
                    json!({ "tenant": "acme\u{0}" }),
                    json!({ "tenant": "acme\u{0}mallory" }),
                    json!({ "tenant": "\u{430}cme" }),
                    json!({ "tenant": "acme " }),
                    json!({ "tenant": "ACME" }),
                    json!({ "tenant": "acme\n" }),
                    json!({ "tenant": "acme; drop table orders" }),
                    json!({ "tenant": "*" }),
                    json!({ "tenant": "%" }),
                    json!({ "tenant": "../acme" }),
                    json!({ "tenant": long }),
                    json!({ "tenant": "pgward" }),
                    json!({ "tenant": "app" }),
                    json!({ "tenant": "postgres" }),
                    json!({ "tenant": "ledger" }),
                ]
                .map(|more| signed(&h, more))
                .to_vec();
                all_refused(&h, &all).await
            })
        }),
        run("token.role", 7, "roles that there are not", |h| {
            Box::pin(async move {
                let all = [
                    json!({ "role": null }),
                    json!({ "role": "" }),
                    json!({ "role": "postgres" }),
                    json!({ "role": "superuser" }),
                    json!({ "role": "APP" }),
                    json!({ "role": ["app"] }),
                    json!({ "role": "app' or '1" }),
                    json!({ "role": "pgward_app" }),
                    json!({ "role": 0 }),
                    json!({ "role": "service" }),
                ]
                .map(|more| signed(&h, more))
                .to_vec();
                all_refused(&h, &all).await
            })
        }),
        run("token.twice", 7, "a claim that stands there twice", |h| {
            Box::pin(async move {
                let me = h.place.level.hostile();
                let body = format!(
                    r#"{{"iss":"tests","aud":"pgward","role":"app","exp":{},"tenant":"{me}","tenant":"{}"}}"#,
                    unix_now() + 600,
                    h.place.level.victim()
                );
                let head = format!("{}.{}", coded(&json!({ "alg": "HS256" })), URL_SAFE_NO_PAD.encode(body));
                let mut mac: Hmac<Sha256> = Hmac::new_from_slice(SECRET.as_bytes()).unwrap();
                mac.update(head.as_bytes());
                let token = format!("{head}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
                // Whoever can sign can name either; what counts is that it is not both.
                let first = h.refused(me, "app", &token, &[]).await;
                held(first.as_deref() == Some("28000"), format!("as oneself: {first:?}"))
            })
        }),
        run("token.others", 7, "one's own token as every other tenant", |h| {
            Box::pin(async move {
                let token = signed(&h, json!({}));
                for user in ["acme", "globex", "kandy", "t0", "t49", "ann", "admin", "", "mallory\u{200b}", "Mallory"] {
                    let code = h.refused(user, "app", &token, &[]).await;
                    held(code.as_deref() == Some("28000"), format!("{user:?}: {code:?}"))?;
                }
                Ok("refused, 28000".to_owned())
            })
        }),
    ]
}

fn times() -> Vec<Case> {
    vec![
        run("token.expired", 7, "expired, not yet valid, without an end", |h| {
            Box::pin(async move {
                let now = unix_now();
                let all = [
                    json!({ "exp": null }),
                    json!({ "exp": 0 }),
                    json!({ "exp": now - 1 }),
                    json!({ "exp": -1 }),
                    json!({ "exp": "never" }),
                    json!({ "exp": true }),
                    json!({ "nbf": now + 3600 }),
                    json!({ "nbf": "now" }),
                    json!({ "nbf": 1e300 }),
                ]
                .map(|more| signed(&h, more))
                .to_vec();
                all_refused(&h, &all).await
            })
        }),
        run("token.expires-in-session", 7, "a session whose token expires, in a transaction", |h| {
            Box::pin(async move {
                let me = h.place.level.hostile();
                let token = signed(&h, json!({ "exp": unix_now() + 2 }));
                let mut wire = h.connect().await;
                let said = wire.log_in(crate::support::raw::V3_0, &[("user", me), ("database", "app")], &token).await;
                held(said.last().map(|last| last.tag) == Some(b'Z'), "let in")?;
                wire.send(crate::support::raw::query("begin; select 1")).await;
                let said = tokio::time::timeout(Duration::from_secs(15), wire.rest())
                    .await
                    .map_err(|_| "it outlives its token".to_owned())?;
                held(crate::support::raw::errors(&said).last().is_some_and(|code| code == "28000"), "ended, 28000")
            })
        }),
        run("token.expires-in-statement", 7, "a session whose token expires while its statement runs", |h| {
            Box::pin(async move {
                let me = h.place.level.hostile();
                let token = signed(&h, json!({ "exp": unix_now() + 2 }));
                let mut wire = h.connect().await;
                wire.log_in(crate::support::raw::V3_0, &[("user", me), ("database", "app")], &token).await;
                wire.try_send(crate::support::raw::query("select pg_sleep(30)")).await;
                let said = tokio::time::timeout(Duration::from_secs(15), wire.rest())
                    .await
                    .map_err(|_| "it outlives its token".to_owned())?;
                held(crate::support::raw::errors(&said).last().is_some_and(|code| code == "28000"), "ended, 28000")
            })
        }),
        run("token.pipelined-past-end", 7, "requests sent ahead, to be run when the token has expired", |h| {
            Box::pin(async move {
                let me = h.place.level.hostile();
                let token = signed(&h, json!({ "exp": unix_now() + 2 }));
                let mut wire = h.connect().await;
                wire.log_in(crate::support::raw::V3_0, &[("user", me), ("database", "app")], &token).await;
                let sleeps = crate::support::raw::query("select pg_sleep(0.5)").repeat(20);
                wire.try_send(sleeps).await;
                let said = tokio::time::timeout(Duration::from_secs(15), wire.rest())
                    .await
                    .map_err(|_| "it outlives its token".to_owned())?;
                let run = said.iter().filter(|message| message.tag == b'C').count();
                held(run < 20, format!("ended behind {run}"))
            })
        }),
        run("token.told", 7, "a token in errors, SHOW, metrics and settings", |h| {
            Box::pin(async move {
                let stage = h.place.stage();
                let token = stage.token(h.place.level.hostile(), "app");
                let signature = token.rsplit('.').next().unwrap_or_default().to_owned();
                let mut wire = h.connect().await;
                wire.log_in(
                    crate::support::raw::V3_0,
                    &[("user", h.place.level.hostile()), ("database", "app")],
                    &token,
                )
                .await;
                ask(&mut wire, &format!("set pgward.token = '{token}'")).await;
                ask(&mut wire, &format!("set pgward.token = '{token}x'")).await;
                ask(&mut wire, &format!("select 1; set pgward.token = '{token}'")).await;
                ask(&mut wire, "select query from pg_stat_activity; show all").await;
                held(!h.heard.has(&signature), "it was told to the client")?;
                held(!stage.control.shared.telemetry.render().contains(&signature), "it is among the metrics")?;
                for core in stage.control.cores.iter() {
                    core.ask(pgward::session::Command::Flush).await;
                }
                let (console, connection) = tokio_postgres::connect(
                    &format!(
                        "host=127.0.0.1 port={} user=admin password=console-password dbname=pgward",
                        h.place.address.port()
                    ),
                    tokio_postgres::NoTls,
                )
                .await
                .map_err(|e| e.to_string())?;
                let task = tokio::spawn(connection);
                for show in ["SHOW CLIENTS", "SHOW SERVERS", "SHOW POOLS", "SHOW STATS", "SHOW TENANTS"] {
                    let text = format!("{:?}", console.simple_query(show).await.map_err(|e| e.to_string())?);
                    held(!text.contains(&signature) && !text.contains(&h.place.secret), format!("{show} tells it"))?;
                }
                drop(console);
                let _ = task.await;
                let seen = h.place.really("select string_agg(query, ' ') from pg_stat_activity").await;
                held(!seen.contains(&signature), "the server has it")?;
                let log = std::fs::read_to_string(h.place.cluster.primary().log()).unwrap_or_default();
                held(!log.contains(&signature), "the server's log has it")?;
                held(!crate::log_text().contains(&signature), "the log has it")?;
                let alive = first(&ask(&mut wire, "select 1").await);
                leave(wire).await;
                Ok(format!("nowhere {alive}"))
            })
        }),
    ]
}
