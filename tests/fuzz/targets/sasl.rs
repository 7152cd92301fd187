//! SCRAM on both sides, beside one that is written out of RFC 5802 again: only the right proof gets in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use pgward::auth::scram::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Scram};
use pgward::backend::scram::{Binding, KeyedScram};
use pgward::base::{ScramKeys, Secret, StoredPassword, Verifier};
use sha2::{Digest, Sha256};

use super::Target;
use crate::input::{Input, bent};

pub const TARGET: Target = Target {
    name: "sasl",
    check,
    words: &[
        "n,,n=,r=abc",
        "y,,",
        "p=tls-server-end-point,,",
        ",p=",
        "c=biws",
        ",r=",
        ",a=root",
        "m=x,",
        "n=user",
        "SCRAM-SHA-256$4096:",
        "SCRAM-SHA-256$1:AAAA$",
        "md5",
        "=",
        ",x=y",
        ",s=",
        ",i=4096",
        "v=",
        "e=other-error",
    ],
    rounds: 25_000,
    longest: 600,
};

const PASSWORDS: [&str; 4] =
    ["pencil", "p\u{e9}ncil", "", "a longer password than the block of the hash is, which is hashed first, always"];
const THEIRS: &str = "rOprNGfwEbeRWgbNEkqO";
const OURS: &str = "3rfcNHYJY1ZVvWVs7j";
const END_POINT: &[u8] = b"hash of the certificate";

fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.below(4) {
        0 | 1 => server(&mut input),
        2 => client(&mut input),
        _ => stored(input.rest()),
    }
}

// ------------------------------------------------------------------------------------------- the RFC

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(message).finalize().into_bytes().to_vec()
}

/// ClientKey and ServerKey of a password that SASLprep leaves as it is.
fn keys(password: &str, salt: &[u8], iterations: u32) -> (Vec<u8>, Vec<u8>) {
    let mut round = mac(password.as_bytes(), &[salt, &[0, 0, 0, 1]].concat());
    let mut salted = round.clone();
    for _ in 1..iterations {
        round = mac(password.as_bytes(), &round);
        salted.iter_mut().zip(&round).for_each(|(all, one)| *all ^= one);
    }
    (mac(&salted, b"Client Key"), mac(&salted, b"Server Key"))
}

fn proof(client_key: &[u8], message: &str) -> Vec<u8> {
    let signature = mac(&Sha256::digest(client_key), message.as_bytes());
    client_key.iter().zip(signature).map(|(key, byte)| key ^ byte).collect()
}

// ------------------------------------------------------------------------------- towards clients

/// A client with the password, whose messages may be bent on the way.
fn server(input: &mut Input<'_>) {
    let (password, iterations) = (PASSWORDS[input.below(4)], 1 + input.below(3) as u32);
    let (mock, tls, plus) = (input.below(8) == 0, input.flag(), input.flag());
    let salt = [7; 16];
    let (client_key, server_key) = keys(password, &salt, iterations);
    let verifier = Verifier::of_password(&Secret::new(password), &salt, iterations);
    assert_eq!(verifier.server_key.as_slice(), server_key);
    let scram = Scram::new(verifier, mock, tls.then(|| END_POINT.to_vec()));
    assert_eq!(scram.mechanisms().contains(&SCRAM_SHA_256_PLUS), tls);

    let header = match (plus, tls) {
        (true, _) => "p=tls-server-end-point,,",
        (false, true) => "n,,",
        (false, false) => "y,,",
    };
    let honest_first = format!("{header}n=user,r={THEIRS}");
    let first = bent(input, honest_first.as_bytes());
    let mechanism = if plus { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 };
    let answer = scram.challenge(mechanism, first.as_deref().unwrap_or(honest_first.as_bytes()), OURS);
    if first.is_none() {
        assert_eq!(answer.is_ok(), !plus || tls, "an honest first message");
    }
    let Ok((challenged, challenge)) = answer else { return };
    let first = String::from_utf8(first.unwrap_or(honest_first.into_bytes())).expect("what was taken is text");
    let (header, bare) = first.match_indices(',').nth(1).map(|(at, _)| first.split_at(at + 1)).expect("a header");
    let nonce = challenge.strip_prefix("r=").and_then(|rest| rest.split(',').next()).expect("a nonce");
    assert!(nonce.len() > OURS.len() && nonce.ends_with(OURS) && bare.contains(nonce.strip_suffix(OURS).unwrap()));

    let bound = [header.as_bytes(), if plus { END_POINT } else { b"" }].concat();
    let unproved = format!("c={},r={nonce}", STANDARD.encode(&bound));
    let message = format!("{bare},{challenge},{unproved}");
    let honest = format!("{unproved},p={}", STANDARD.encode(proof(&client_key, &message)));
    let last = bent(input, honest.as_bytes());
    let proved = challenged.finish(last.as_deref().unwrap_or(honest.as_bytes()));
    match (last, proved) {
        (None, proved) if !mock => {
            let proved = proved.expect("the right password");
            assert_eq!(proved.keys.client.expose(), client_key);
            assert_eq!(proved.server_final, format!("v={}", STANDARD.encode(mac(&server_key, message.as_bytes()))));
        }
        (_, Ok(_)) => panic!("a bent message or a mock got in: {honest}"),
        (_, Err(_)) => {}
    }
}

// ------------------------------------------------------------------------------- towards servers

/// A server with the verifier, whose messages may be bent.
fn client(input: &mut Input<'_>) {
    let (client_key, server_key) = keys(PASSWORDS[input.below(4)], b"salt", 1);
    let keys = ScramKeys { client: Secret::new(&client_key), server: Secret::new(&server_key) };
    let binding =
        [Binding::Unsupported, Binding::Unrequested, Binding::EndPoint(END_POINT.to_vec())][input.below(3)].clone();
    let (mut login, first) = KeyedScram::new(keys, &binding, THEIRS.to_owned());
    let at = first.match_indices(',').nth(1).map(|(at, _)| at + 1).expect("a header");
    let honest = format!("r={THEIRS}{OURS},s=c2FsdA==,i=1");
    let challenge = bent(input, honest.as_bytes());
    let answer = login.answer(challenge.as_deref().unwrap_or(honest.as_bytes()));
    assert!(challenge.is_some() || answer.is_some(), "an honest server is answered");
    let Some(answer) = answer else { return };
    let challenge = String::from_utf8(challenge.unwrap_or(honest.into_bytes())).expect("what was taken is text");
    let nonce = challenge.strip_prefix("r=").and_then(|rest| rest.split(',').next()).expect("a nonce");
    assert!(nonce.len() > THEIRS.len() && nonce.starts_with(THEIRS), "a server that adds nothing: {challenge}");

    let (unproved, sent) = answer.rsplit_once(",p=").expect("a proof");
    let message = format!("{},{challenge},{unproved}", &first[at..]);
    assert_eq!(STANDARD.decode(sent).unwrap(), proof(&client_key, &message));
    let honest = format!("v={}", STANDARD.encode(mac(&server_key, message.as_bytes())));
    let last = bent(input, honest.as_bytes());
    assert_eq!(login.proves(last.as_deref().unwrap_or(honest.as_bytes())), last.is_none());
}

// ------------------------------------------------------------------------------------------- verifiers

fn stored(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match StoredPassword::parse(text) {
        Ok(StoredPassword::Verifier(verifier)) => {
            let [salt, stored, server] =
                [&verifier.salt[..], &verifier.stored_key, &verifier.server_key].map(|key| STANDARD.encode(key));
            assert!(verifier.iterations > 0 && !verifier.salt.is_empty());
            let written = format!("SCRAM-SHA-256${}:{salt}${stored}:{server}", verifier.iterations);
            assert_eq!(StoredPassword::parse(&written), Ok(StoredPassword::Verifier(verifier)));
            assert_eq!(text.split_once(':').map(|(_, rest)| rest), written.split_once(':').map(|(_, rest)| rest));
        }
        Ok(StoredPassword::Plain(password)) => {
            assert_eq!(password.expose(), bytes);
            assert!(!text.starts_with("SCRAM-SHA-256$"));
        }
        Err(error) => assert!(text.starts_with("md5") || text.starts_with("SCRAM-SHA-256$"), "{error}"),
    }
}
