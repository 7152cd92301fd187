//! What raw protocol allows (line 6): second startups, bytes before TLS, impossible lengths, messages in pieces.

use crate::case::{Case, Told, run};
use crate::hurting::others_are_served;
use crate::support::raw::{
    GSSENC_REQUEST, SSL_REQUEST, V3_0, bind, close, copy_data, copy_done, describe, errors, execute, extended as batch,
    flush, function_call, gists, message, packet, parse, password, query, startup, sync, terminate,
};
use crate::tap::{Hostile, ask, first, held, leave};

/// Bytes to a new connection; what is said up to its end must hold no row and let nobody in.
async fn at_the_door(h: &Hostile, bytes: &[u8]) -> Result<(), String> {
    let mut wire = h.connect().await;
    wire.try_send(bytes).await;
    wire.try_send(terminate()).await;
    // What is no message at all (one byte for TLS) is passed over.
    let _ = tokio::time::timeout(std::time::Duration::from_millis(150), wire.byte()).await;
    let said = String::from_utf8_lossy(&wire.input).into_owned();
    held(!said.contains("SELECT 1"), format!("{bytes:02x?} was answered")).map(drop)
}

async fn all_at_the_door(h: &Hostile, all: &[Vec<u8>]) -> Told {
    for bytes in all {
        at_the_door(h, bytes).await?;
    }
    others_are_served(h).await?;
    Ok("refused".to_owned())
}

/// Bytes to a session. It may end; what is said must be its own.
async fn inside(h: &Hostile, all: &[Vec<u8>]) -> Told {
    for bytes in all {
        let mut wire = h.session().await;
        wire.try_send(bytes).await;
        wire.try_send(terminate()).await;
        wire.rest().await;
    }
    others_are_served(h).await?;
    Ok("its own session only".to_owned())
}

pub fn cases() -> Vec<Case> {
    let mut cases = door();
    cases.extend(messages());
    cases.extend(pieces());
    cases.into_iter().map(Case::of_pgward).collect()
}

fn door() -> Vec<Case> {
    vec![
        run("wire.second-startup", 6, "a second startup as another tenant", |h| {
            Box::pin(async move {
                let victim = startup(V3_0, &[("user", h.place.level.victim()), ("database", "app")]);
                inside(
                    &h,
                    &[
                        victim.clone(),
                        [query("select 1"), victim.clone(), query("select 1")].concat(),
                        [query("begin"), victim].concat(),
                    ],
                )
                .await
            })
        }),
        run("wire.startup-twice", 6, "two startups before the password", |h| {
            Box::pin(async move {
                let (me, victim) = (h.place.level.hostile_login(), h.place.level.victim());
                let mut wire = h.connect().await;
                wire.send(
                    [
                        startup(V3_0, &[("user", &me.user), ("database", "app")]),
                        startup(V3_0, &[("user", victim), ("database", "app")]),
                    ]
                    .concat(),
                )
                .await;
                wire.try_send(password(&h.place.password(&me))).await;
                let said = wire.rest().await;
                held(said.iter().all(|message| message.tag != b'Z'), "not let in")
            })
        }),
        run("wire.user-twice", 6, "a startup that names user and database twice", |h| {
            Box::pin(async move {
                let me = h.place.level.hostile_login();
                let token = h.place.password(&me);
                for more in [
                    ("user", h.place.level.victim()),
                    ("database", "postgres"),
                    ("user", "postgres"),
                    ("User", "postgres"),
                    ("DATABASE", "postgres"),
                ] {
                    let code = h.refused(&me.user, "app", &token, &[more]).await;
                    held(code.is_some(), format!("{more:?} is taken"))?;
                }
                Ok("refused, 08P01".to_owned())
            })
        }),
        run("wire.after-ssl-request", 6, "a startup smuggled in behind SSLRequest", |h| {
            Box::pin(async move {
                let own = startup(V3_0, &[("user", h.place.level.victim()), ("database", "app")]);
                let login = password(&h.place.password(&h.place.level.hostile_login()));
                all_at_the_door(
                    &h,
                    &[
                        [&SSL_REQUEST[..], &own, &login, &query("select 1")].concat(),
                        [&SSL_REQUEST[..], &SSL_REQUEST, &own, &login, &query("select 1")].concat(),
                        [&GSSENC_REQUEST[..], &own, &login, &query("select 1")].concat(),
                        [&GSSENC_REQUEST[..], &SSL_REQUEST, &GSSENC_REQUEST, &own, &login].concat(),
                        SSL_REQUEST.repeat(50),
                        GSSENC_REQUEST.repeat(50),
                    ],
                )
                .await
            })
        }),
        run("wire.tls-bytes", 6, "bytes of TLS, HTTP and others where there is no TLS", |h| {
            Box::pin(async move {
                all_at_the_door(
                    &h,
                    &[
                        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00".to_vec(),
                        [&SSL_REQUEST[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"].concat(),
                        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
                        b"\0".repeat(64),
                        b"\xff".repeat(64),
                        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(),
                    ],
                )
                .await
            })
        }),
        run("wire.startup-lengths", 6, "startup packets of impossible lengths", |h| {
            Box::pin(async move {
                let mut all = Vec::new();
                for length in
                    [0_u32, 1, 3, 4, 5, 7, 8, 9, 10_000, 10_001, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xffff_fff8]
                {
                    all.push([&length.to_be_bytes()[..], &V3_0.to_be_bytes(), b"user\0mallory\0\0"].concat());
                }
                all_at_the_door(&h, &all).await
            })
        }),
        run("wire.versions", 6, "protocol versions that do not exist", |h| {
            Box::pin(async move {
                let mut all = Vec::new();
                for version in [0_u32, 1, 0x0002_0000, 0x0004_0000, 0xffff_ffff, 80_877_101, 80_877_104, 80_877_105] {
                    all.push(packet(&[&version.to_be_bytes()[..], b"user\0mallory\0database\0app\0\0"].concat()));
                }
                all_at_the_door(&h, &all).await
            })
        }),
        run("wire.startup-bodies", 6, "startup packets that are no list of names and values", |h| {
            Box::pin(async move {
                let of = |body: &[u8]| packet(&[&V3_0.to_be_bytes()[..], body].concat());
                all_at_the_door(
                    &h,
                    &[
                        of(b""),
                        of(b"\0"),
                        of(b"user"),
                        of(b"user\0"),
                        of(b"user\0mallory"),
                        of(b"user\0mallory\0"),
                        of(b"user\0mallory\0\0extra\0"),
                        of(b"\0\0\0\0"),
                        of(b"user\0\xff\xfe\0\0"),
                        of(b"user\0mallory\0database\0\0\0"),
                        of(&b"a\0b\0".repeat(2000)),
                    ],
                )
                .await
            })
        }),
        run("wire.query-before-password", 6, "queries before the password", |h| {
            Box::pin(async move {
                let me = startup(V3_0, &[("user", h.place.level.hostile()), ("database", "app")]);
                all_at_the_door(
                    &h,
                    &[
                        [me.clone(), query("select 1")].concat(),
                        [me.clone(), sync(), query("select 1")].concat(),
                        [me.clone(), batch("select 1"), sync()].concat(),
                        [me.clone(), terminate()].concat(),
                        [me, function_call(2026)].concat(),
                    ],
                )
                .await
            })
        }),
        run("wire.password-twice", 6, "a good password and a second one", |h| {
            Box::pin(async move {
                let me = h.place.level.hostile_login();
                let theirs = password(&h.place.stage().token(h.place.level.victim(), "app"));
                let _ = theirs;
                let mut wire = h.connect().await;
                wire.send(startup(V3_0, &[("user", &me.user), ("database", "app")])).await;
                wire.send([password(&h.place.password(&me)), password("another"), query("select 1")].concat()).await;
                let said = wire.rest().await;
                held(said.iter().all(|message| message.tag != b'D'), "the session ends")
            })
        }),
        run("wire.password-lengths", 6, "password messages of impossible lengths", |h| {
            Box::pin(async move {
                let me = startup(V3_0, &[("user", h.place.level.hostile()), ("database", "app")]);
                let mut all = Vec::new();
                for length in [0_u32, 1, 3, 4, 5, 70_000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
                    all.push([&me[..], b"p", &length.to_be_bytes(), b"x\0"].concat());
                }
                all.push([&me[..], &message(b'p', b"no end")].concat());
                all.push([&me[..], &message(b'p', b"a\0b\0")].concat());
                all_at_the_door(&h, &all).await
            })
        }),
    ]
}

fn messages() -> Vec<Case> {
    vec![
        run("wire.lengths", 6, "messages of negative, small and overflowing lengths", |h| {
            Box::pin(async move {
                let mut all = Vec::new();
                for tag in [b'Q', b'P', b'B', b'E', b'D', b'C', b'S', b'H', b'd', b'c', b'f', b'F', b'X', b'p'] {
                    for length in [0_u32, 3, 5, 0x4000_0001, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
                        all.push([&query("select 1")[..], &[tag], &length.to_be_bytes(), b"select 1\0"].concat());
                    }
                }
                inside(&h, &all).await
            })
        }),
        run("wire.types", 6, "message types that do not exist, and those of servers", |h| {
            Box::pin(async move {
                let all: Vec<Vec<u8>> = (0..=255_u8)
                    .filter(|tag| !b"QPBEDCSHdcfFXp".contains(tag))
                    .map(|tag| [query("select 1"), message(tag, b"x\0")].concat())
                    .collect();
                inside(&h, &all).await
            })
        }),
        run("wire.server-messages", 6, "messages of a server: RowDescription, ReadyForQuery, Authentication", |h| {
            Box::pin(async move {
                inside(
                    &h,
                    &[
                        message(b'Z', b"I"),
                        message(b'R', &[0; 4]),
                        message(b'T', &[0; 2]),
                        message(b'K', &[0; 8]),
                        message(b'1', b""),
                        message(b'2', b""),
                        message(b'3', b""),
                        message(b'G', &[0; 3]),
                        message(b'W', &[0; 3]),
                        message(b'N', b"\0"),
                        message(b'A', &[0; 6]),
                    ],
                )
                .await
            })
        }),
        run("wire.bodies", 6, "bodies that are no text, and bodies that end too soon", |h| {
            Box::pin(async move {
                inside(
                    &h,
                    &[
                        message(b'Q', b"select 1"),
                        message(b'Q', b""),
                        message(b'Q', b"select 1\0select 2\0"),
                        message(b'Q', b"\0"),
                        message(b'Q', b"\xff\xfe\0"),
                        message(b'P', b"x"),
                        message(b'P', b"x\0select 1"),
                        message(b'P', b"x\0select 1\0\xff\xff"),
                        message(b'P', b"x\0select 1\0\0\x01"),
                        message(b'B', b"\0"),
                        message(b'B', b"\0\0\xff\xff"),
                        message(b'B', b"\0\0\0\0\xff\xff"),
                        message(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"),
                        message(b'E', b"\0"),
                        message(b'E', b"x"),
                        message(b'D', b"X\0"),
                        message(b'D', b""),
                        message(b'C', b"?\0"),
                        message(b'C', b"S"),
                        message(b'F', b""),
                        message(b'F', &[0; 3]),
                        message(b'F', &[0xff; 10]),
                        message(b'S', b"x"),
                        message(b'H', b"x"),
                        message(b'c', b"x"),
                        message(b'X', b"x"),
                    ]
                    .map(|bytes| [bytes, sync(), query("select 1")].concat()),
                )
                .await
            })
        }),
        run("wire.copy-outside", 6, "copy messages outside of a COPY", |h| {
            Box::pin(async move {
                let mut wire = h.session().await;
                wire.send(
                    [copy_data(b"x\n"), copy_done(), message(b'f', b"x\0"), copy_data(b"y\n"), query("select 'alive'")]
                        .concat(),
                )
                .await;
                let said = wire.ready().await;
                leave(wire).await;
                held(first(&said) == "alive", "ignored, as PostgreSQL does")
            })
        }),
        run("wire.function-calls", 6, "function call messages for every function up to 7000", |h| {
            Box::pin(async move {
                let mut wire = h.session().await;
                for oids in (1..7000_u32).step_by(500) {
                    let many: Vec<u8> = (oids..oids + 500).flat_map(function_call).collect();
                    wire.send(many).await;
                    let said = wire.ready_times(500).await;
                    held(said.iter().all(|message| message.tag != b'V'), "a function was called")?;
                }
                leave(wire).await;
                Ok("refused, 0A000".to_owned())
            })
        }),
        run("wire.names", 6, "statements and portals with every kind of name", |h| {
            Box::pin(async move {
                let mut wire = h.session().await;
                let long = "n".repeat(5000);
                for name in [
                    "pgward_0000000000000000",
                    "pgward_",
                    "\u{1f600}",
                    "a b",
                    "'; select 1; --",
                    "\"",
                    long.as_str(),
                    "C_1",
                    "-",
                ] {
                    wire.send(
                        [
                            parse(name, "select 1"),
                            describe('S', name),
                            bind(name, name, &[]),
                            describe('P', name),
                            execute(name, 0),
                            close('P', name),
                            close('S', name),
                            sync(),
                        ]
                        .concat(),
                    )
                    .await;
                    wire.ready().await;
                }
                let alive = first(&ask(&mut wire, "select 'alive'").await);
                leave(wire).await;
                held(alive == "alive", "its own session only")
            })
        }),
        run("wire.flood-of-parses", 6, "Parse, Close and Bind in the wrong order", |h| {
            Box::pin(async move {
                inside(
                    &h,
                    &[
                        [close('S', ""), bind("", "", &[]), execute("", 0), sync()].concat(),
                        [execute("x", 0), execute("", 0), flush(), sync()].concat(),
                        [
                            parse("", "select 1"),
                            parse("", "select 2"),
                            bind("", "", &[]),
                            close('S', ""),
                            execute("", 0),
                            sync(),
                        ]
                        .concat(),
                        [
                            parse("a", "select 1"),
                            parse("a", "select 2"),
                            sync(),
                            bind("", "a", &[]),
                            execute("", 0),
                            sync(),
                        ]
                        .concat(),
                        [
                            bind("p", "nothing", &[]),
                            parse("nothing", "select 1"),
                            sync(),
                            bind("p", "nothing", &[]),
                            sync(),
                        ]
                        .concat(),
                        [sync(), sync(), flush(), flush(), sync()].concat(),
                    ],
                )
                .await
            })
        }),
        run("wire.nul-in-text", 6, "a NUL in a query's text, and another text behind it", |h| {
            Box::pin(async move {
                let peek = h.words("{peek}");
                inside(
                    &h,
                    &[
                        message(b'Q', format!("select 1\0{peek}\0").as_bytes()),
                        message(b'P', format!("\0select 1\0{peek}\0\0\0").as_bytes()),
                    ],
                )
                .await
            })
        }),
        run("wire.parameter-types", 6, "a Parse that claims to have tens of thousands of parameters", |h| {
            Box::pin(async move {
                let mut body = b"\0select 1\0\xff\xff".to_vec();
                body.extend_from_slice(&[0; 4 * 65535]);
                inside(&h, &[[message(b'P', &body), sync()].concat(), [message(b'P', &body[..100]), sync()].concat()])
                    .await
            })
        }),
    ]
}

fn pieces() -> Vec<Case> {
    vec![
        run("wire.split", 6, "a conversation split at every byte, another tenant's between", |h| {
            Box::pin(async move {
                let peek = h.words("{peek}");
                let bytes = [
                    batch("select 'mine'"),
                    sync(),
                    query("select 'two'; select 'three'"),
                    query(&format!("commit; {peek}")),
                ]
                .concat();
                let mut wire = h.session().await;
                let mut other = h.log_in(&crate::place::login("t1"), &[]).await.0;
                for at in 1..bytes.len() {
                    wire.send(&bytes[..at]).await;
                    let theirs = first(&ask(&mut other, "select 'theirs'").await);
                    held(theirs == "theirs", format!("the other gets {theirs:?}"))?;
                    wire.send(&bytes[at..]).await;
                    let said = wire.ready_times(3).await;
                    let found: Vec<String> =
                        said.iter().filter(|m| m.tag == b'D').map(|m| m.columns().join(",")).collect();
                    held(found == ["mine", "two", "three"], format!("split at {at}: {found:?}"))?;
                }
                leave(wire).await;
                leave(other).await;
                Ok("its own rows".to_owned())
            })
        }),
        run("wire.split-startup", 6, "a login split at every byte", |h| {
            Box::pin(async move {
                let me = h.place.level.hostile_login();
                let bytes = [
                    startup(V3_0, &[("user", &me.user), ("database", "app")]),
                    password(&h.place.password(&me)),
                    query("select 'mine'"),
                ]
                .concat();
                for at in (1..bytes.len()).step_by(7) {
                    let mut wire = h.connect().await;
                    wire.send_split(&bytes, at).await;
                    let said = wire.ready_times(2).await;
                    held(
                        first(&said) == "mine" && errors(&said).is_empty(),
                        format!("split at {at}: {:?}", gists(&said)),
                    )?;
                    leave(wire).await;
                }
                Ok("its own session".to_owned())
            })
        }),
        run("wire.cut", 6, "a conversation that ends at every byte", |h| {
            Box::pin(async move {
                let bytes = [
                    query("begin; set app.note = 'note'"),
                    batch("create temp table orders (x int)"),
                    sync(),
                    query("copy orders from stdin"),
                    copy_data(b"1\n"),
                    copy_done(),
                    query("commit"),
                ]
                .concat();
                for at in (1..bytes.len()).step_by(5) {
                    let mut wire = h.session().await;
                    wire.try_send(&bytes[..at]).await;
                    drop(wire);
                }
                others_are_served(&h).await?;
                Ok("nothing is left".to_owned())
            })
        }),
        run("wire.noise", 6, "noise", |h| {
            Box::pin(async move {
                let mut all = Vec::new();
                for n in 1..40_usize {
                    all.push((0..n * 13).map(|_| rand::random::<u8>()).collect::<Vec<u8>>());
                }
                for bytes in &all {
                    at_the_door(&h, bytes).await?;
                }
                // A length that noise claims may be waited for, so the session is not heard to its end.
                for bytes in &all {
                    let mut wire = h.session().await;
                    wire.try_send(bytes).await;
                    drop(wire);
                }
                others_are_served(&h).await?;
                Ok("refused".to_owned())
            })
        }),
    ]
}
