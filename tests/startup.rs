//! The first packets of a connection: versions, requests for encryption, startup parameters, and what
//! is refused before anybody is logged in.

mod support;

use std::time::{Duration, Instant};

use support::raw::{self, Message, Raw, SSL_REQUEST, V3_0, V3_2, errors, gists, packet, startup, tags};
use support::{HEAD, Stage, configuration};

const ACME: [(&str, &str); 2] = [("user", "acme"), ("database", "app")];

async fn log_in(stage: &Stage, version: u32, parameters: &[(&str, &str)]) -> (Raw, Vec<Message>) {
    let mut raw = Raw::connect(stage.address).await;
    let all = [&ACME, parameters].concat();
    let messages = raw.log_in(version, &all, &stage.token("acme", "app")).await;
    (raw, messages)
}

fn find(messages: &[Message], tag: u8) -> Option<&Message> {
    messages.iter().find(|message| message.tag == tag)
}

/// The one error a refused login ends with.
async fn refusal(stage: &Stage, bytes: &[u8]) -> Message {
    let mut raw = Raw::connect(stage.address).await;
    raw.send(bytes).await;
    let messages = raw.rest().await;
    assert_eq!(tags(&messages), "E", "{messages:?}");
    assert_eq!(messages[0].field(b'S'), "FATAL");
    messages[0].clone()
}

async fn serves(stage: &Stage) {
    assert_eq!(stage.raw("globex").await.one("select pgward.tenant()").await, "globex");
}

#[tokio::test]
async fn protocol_3_0_has_short_cancel_keys_and_3_2_has_long_ones() {
    let stage = Stage::new("").await;
    for (version, key) in [(V3_0, 4), (V3_2, 32)] {
        let (mut raw, messages) = log_in(&stage, version, &[]).await;
        assert!(find(&messages, b'v').is_none(), "nothing to negotiate: {messages:?}");
        assert_eq!(find(&messages, b'K').unwrap().body.len(), 4 + key);
        assert_eq!(raw.one("select pgward.tenant()").await, "acme");
    }
}

#[tokio::test]
async fn newer_versions_and_unknown_options_are_negotiated_down() {
    let stage = Stage::new("").await;
    let negotiated = |messages: &[Message]| {
        let body = &messages[0].body;
        assert_eq!(messages[0].tag, b'v', "the negotiation comes first");
        let number = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
        (number(0), number(4), String::from_utf8_lossy(&body[8..]).into_owned())
    };
    let (mut raw, messages) = log_in(&stage, 196_617, &[]).await;
    assert_eq!(negotiated(&messages), (V3_2, 0, String::new()));
    assert_eq!(find(&messages, b'K').unwrap().body.len(), 36);
    assert_eq!(raw.one("select 1").await, "1");
    let (mut raw, messages) = log_in(&stage, V3_0, &[("_pq_.new", "1"), ("_pq_.newer", "x")]).await;
    assert_eq!(negotiated(&messages), (V3_0, 2, "_pq_.new\0_pq_.newer\0".to_owned()));
    assert_eq!(raw.one("select 1").await, "1");
    let (_, messages) = log_in(&stage, 196_609, &[]).await;
    assert_eq!(negotiated(&messages).0, V3_0, "3.1 was never given to anybody");
    assert_eq!(find(&messages, b'K').unwrap().body.len(), 8);
}

#[tokio::test]
async fn encryption_that_is_not_there_is_declined_and_startup_goes_on() {
    let stage = Stage::new("").await;
    let token = stage.token("acme", "app");
    for requests in [&[SSL_REQUEST][..], &[raw::GSSENC_REQUEST], &[raw::GSSENC_REQUEST, SSL_REQUEST]] {
        let mut raw = Raw::connect(stage.address).await;
        for request in requests {
            raw.send(request).await;
            assert_eq!(raw.byte().await, Some(b'N'));
        }
        let messages = raw.log_in(V3_0, &ACME, &token).await;
        assert_eq!(messages.last().unwrap().tag, b'Z', "{messages:?}");
        assert_eq!(raw.one("select pgward.tenant()").await, "acme");
    }
    let mut raw = Raw::connect(stage.address).await;
    raw.send([raw::GSSENC_REQUEST, raw::GSSENC_REQUEST].concat()).await;
    assert_eq!(raw.byte().await, Some(b'N'));
    assert_eq!(errors(&raw.rest().await), ["08P01"], "once is enough");
}

#[tokio::test]
async fn parameters_that_pgward_does_not_carry_are_refused_before_a_password_is_asked_for() {
    let stage = Stage::new("").await;
    let refused = async |name: &str, value: &str| {
        let packet = startup(V3_0, &[&ACME[..], &[(name, value)]].concat());
        refusal(&stage, &packet).await.field(b'C')
    };
    for value in ["true", "1", "on", "database"] {
        assert_eq!(refused("replication", value).await, "0A000");
    }
    for name in ["role", "session_authorization", "pgward.context", "row_security", "no_such_setting"] {
        assert_eq!(refused(name, "x").await, "0A000", "{name}");
        assert_eq!(refused("options", &format!("-c {name}=x")).await, "0A000", "{name} in options");
    }
    assert_eq!(refused("options", "-d 5").await, "22023");
    let message = refusal(&stage, &startup(V3_0, &[("database", "app")])).await;
    assert_eq!(message.field(b'C'), "28000", "no user");
}

#[tokio::test]
async fn startup_parameters_take_effect_and_are_reported() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    let wanted = [("options", "-c statement_timeout=1234 --work-mem=8MB"), ("timezone", "Asia/Colombo")];
    let (mut acme, messages) = log_in(&stage, V3_0, &wanted).await;
    let reported: Vec<_> = messages.iter().filter_map(Message::parameter).collect();
    let zones: Vec<_> = reported.iter().filter(|(name, _)| name == "TimeZone").collect();
    assert_eq!(zones, [&("TimeZone".to_owned(), "Asia/Colombo".to_owned())], "reported once, as it will be");
    let mut globex = stage.raw("globex").await;
    for _ in 0..3 {
        assert_eq!(acme.one("show statement_timeout").await, "1234ms");
        assert_eq!(acme.one("show work_mem").await, "8MB");
        assert_eq!(acme.one("show timezone").await, "Asia/Colombo");
        assert_eq!(globex.one("show statement_timeout").await, "0", "another session has its own");
        assert_ne!(globex.one("show timezone").await, "Asia/Colombo");
    }
    let (mut plain, _) = log_in(&stage, V3_0, &[]).await;
    assert_eq!(plain.one("show statement_timeout").await, "0", "the tenant's other session has its own too");
}

#[tokio::test]
async fn a_value_that_the_server_does_not_take_is_refused_at_login() {
    let stage = Stage::new("[pool]\nmax_per_login = 1\n").await;
    for (name, value) in
        [("TimeZone", "Mars/Olympus"), ("statement_timeout", "soon"), ("DateStyle", "no"), ("work_mem", "-1")]
    {
        let (_, messages) = log_in(&stage, V3_0, &[(name, value)]).await;
        assert_eq!(errors(&messages), ["22023"], "{name}: {messages:?}");
        assert!(!tags(&messages).contains('Z'), "{name}");
        serves(&stage).await;
    }
    stage.at_rest(0).await;
}

#[tokio::test]
async fn lengths_that_cannot_be_are_refused() {
    let stage = Stage::new("").await;
    for length in [0u32, 3, 7, 10_001, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let message = refusal(&stage, &length.to_be_bytes()).await;
        assert_eq!(message.field(b'C'), "08P01", "{length}");
    }
    let layouts: [&[u8]; 6] = [
        b"",
        b"user",
        b"user\0acme",
        b"user\0acme\0",
        b"user\0acme\0\0database\0app\0\0",
        b"user\0acme\0user\0globex\0\0",
    ];
    for layout in layouts {
        let message = refusal(&stage, &packet(&[&V3_0.to_be_bytes()[..], layout].concat())).await;
        assert_eq!(message.field(b'C'), "08P01", "{layout:?}");
    }
    assert_eq!(refusal(&stage, &startup(131_072, &ACME)).await.field(b'C'), "0A000", "protocol 2.0");
    assert_eq!(refusal(&stage, &startup(262_144, &ACME)).await.field(b'C'), "0A000", "protocol 4.0");
    serves(&stage).await;
}

#[tokio::test]
async fn a_message_of_another_type_is_no_password() {
    let stage = Stage::new("").await;
    let token = stage.token("acme", "app");
    let second = startup(V3_0, &[("user", "globex"), ("database", "app")]);
    let mut long = vec![b'p'];
    long.extend(0x7fff_ffffu32.to_be_bytes());
    let nul = raw::message(b'p', format!("{token}\0{token}\0").as_bytes());
    let unended = raw::message(b'p', token.as_bytes());
    for wrong in [raw::query("select 1"), raw::sync(), second, long, nul, unended, b"\xff\xff\xff\xff\xff".to_vec()] {
        let mut raw = Raw::connect(stage.address).await;
        raw.send(startup(V3_0, &ACME)).await;
        assert_eq!(raw.next().await.unwrap().tag, b'R');
        raw.send(&wrong).await;
        let messages = raw.rest().await;
        assert_eq!(errors(&messages), ["08P01"], "{wrong:?}: {messages:?}");
    }
    serves(&stage).await;
}

#[tokio::test]
async fn a_second_startup_after_login_ends_the_session() {
    let stage = Stage::new("").await;
    let mut raw = stage.raw("acme").await;
    raw.send(startup(V3_0, &[("user", "globex"), ("database", "app")])).await;
    let messages = raw.rest().await;
    assert_eq!(errors(&messages), ["08P01"], "{messages:?}");
    let mut raw = stage.raw("acme").await;
    raw.send([raw::password(&stage.token("globex", "app")), raw::query("select pgward.tenant()")].concat()).await;
    assert_eq!(errors(&raw.rest().await), ["08P01"], "a second password");
    stage.at_rest(0).await;
}

#[tokio::test]
async fn a_client_that_is_slow_to_log_in_is_dropped() {
    let head = HEAD.replace("cores = 2", "cores = 2, startup_timeout = \"1s\"");
    let stage = Stage::with(&format!("{head}{}", configuration(support::cluster().await.primary().port(), ""))).await;
    let packet = startup(V3_0, &ACME);
    let (token, begin) = (stage.token("acme", "app"), Instant::now());
    let password = raw::password(&token);
    // Silent from the start; in the middle of the packet; before the password; in the middle of it.
    for sent in [0, 1, packet.len() - 1, packet.len(), packet.len() + password.len() - 1] {
        let mut raw = Raw::connect(stage.address).await;
        raw.send(&[&packet[..], &password].concat()[..sent]).await;
        let messages = raw.rest().await;
        assert!(!tags(&messages).contains('Z'), "{messages:?}");
    }
    assert!(begin.elapsed() > Duration::from_secs(4), "each had its second");
    // A byte now and then does not buy more time.
    let (mut raw, begin) = (Raw::connect(stage.address).await, Instant::now());
    for byte in &packet {
        if !raw.try_send([*byte]).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(raw.rest().await.is_empty());
    stage.at_rest(0).await;
    // Who is in may be as slow as it likes.
    serves(&stage).await;
}

#[tokio::test]
async fn a_login_may_be_split_at_every_byte() {
    let stage = Stage::new("").await;
    let token = stage.token("acme", "app");
    let packet = startup(V3_2, &[&ACME[..], &[("TimeZone", "Asia/Colombo")]].concat());
    let requests = [&SSL_REQUEST[..], &packet].concat();
    for at in 0..=requests.len() {
        let mut raw = Raw::connect(stage.address).await;
        raw.send_split(&requests, at).await;
        assert_eq!(raw.byte().await, Some(b'N'));
        assert_eq!(raw.next().await.unwrap().tag, b'R', "split at {at}");
        let password = [raw::password(&token), raw::query("select pgward.tenant()")].concat();
        // The whole startup matters at each byte; the password, which is long, at some.
        raw.send_split(&password, (at * 37) % (password.len() + 1)).await;
        raw.ready().await;
        let messages = raw.ready().await;
        assert_eq!(gists(&messages), ["T", "D acme", "C SELECT 1\0", "Z I"], "split at {at}");
    }
}

#[tokio::test]
async fn random_bytes_instead_of_a_startup_are_refused_and_harm_nobody() {
    let stage = Stage::new("").await;
    for i in 0..300usize {
        let mut raw = Raw::connect(stage.address).await;
        let bytes: Vec<u8> = (0..i % 64 + 1).map(|_| rand::random()).collect();
        raw.try_send(&bytes).await;
        // Closing is the answer to whatever was a beginning.
        tokio::io::AsyncWriteExt::shutdown(&mut raw.stream).await.unwrap_or_default();
        let messages = raw.rest().await;
        assert!(!tags(&messages).contains('Z'), "{bytes:?}: {messages:?}");
    }
    serves(&stage).await;
    stage.at_rest(0).await;
}
