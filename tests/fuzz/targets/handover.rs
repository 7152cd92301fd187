//! The check of a hand-over's answers beside a server that answers what was really sent.

use pgward::wire::frame::HEADER;
use pgward::wire::frontend::{Named, Parse};
use pgward::wire::handover::{Checker, Orders, Step, put};
use pgward::wire::{Header, Origin};

use super::Target;
use crate::input::Input;

pub const TARGET: Target =
    Target { name: "handover", check, words: &["\0\0\0\0\0\0\0\0", "\u{1}\u{1}\u{1}"], rounds: 120_000, longest: 120 };

const GATE: &[u8] = b"pgward_gate_0";
const TAGS: &[u8] = b"123CDEGHIKNRSTVWZAcdnstv";
const BODIES: [&[u8]; 9] =
    [b"", b"I", b"T", b"E", b"DISCARD ALL\0", b"SELECT 1\0", b"SELECT 0\0", b"DISCARD\0", b"TimeZone\0UTC\0"];

type Answer = (u8, &'static [u8]);

/// The first bytes choose the orders, the others what the server says: as it should, or anything.
fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (discard, settings, statements) = (input.flag(), input.below(4), input.below(4));
    let orders = Orders {
        discard,
        settings: (0..settings).map(|i| ("a.b", (i % 2 == 0).then_some("value"))).collect(),
        statements: (0..statements).map(|_| "PREPARE a AS SELECT 1".into()).collect(),
    };
    let mut sent = Vec::new();
    put(&mut sent, &orders, GATE);
    let expected = answers(&sent);
    let mut checker = Checker::new(&orders);
    let mut answered = 0;
    loop {
        let honest = expected[answered];
        let (tag, body) = if input.is_empty() || input.below(4) > 0 {
            honest
        } else {
            (TAGS[input.below(TAGS.len())], BODIES[input.below(BODIES.len())])
        };
        let step = checker.take(tag, body);
        if matches!(tag, b'S' | b'N' | b'A') {
            assert_eq!(step, Step::Continue, "what may come at any time");
        } else if goes_for(honest, (tag, body)) {
            answered += 1;
            let done = answered == expected.len();
            assert_eq!(step, if done { Step::Done } else { Step::Continue }, "answer {answered} of {expected:?}");
            if done {
                return;
            }
        } else {
            assert_eq!(step, Step::Failed, "{} {body:?} in the place of {honest:?}", char::from(tag));
            return;
        }
    }
}

/// Tags of commands matter where they say what was done, and ReadyForQuery's state always.
fn goes_for(honest: Answer, given: Answer) -> bool {
    let told = match honest {
        (b'C', b"DISCARD ALL\0" | b"SELECT 1\0") | (b'Z', _) => honest.1 == given.1,
        _ => true,
    };
    honest.0 == given.0 && told
}

/// What a server says to these messages when all goes well.
fn answers(mut sent: &[u8]) -> Vec<Answer> {
    let mut out = Vec::new();
    let mut text = Vec::new();
    while let Some(header) = Header::read(sent, Origin::Client).expect("messages of a client") {
        let (message, after) = sent.split_at(header.total);
        let body = &message[HEADER..];
        match header.tag {
            b'P' => {
                let parse = Parse::read(body).expect("a Parse");
                assert_eq!(parse.name == GATE, parse.text.is_empty(), "the gate alone has a name and no text");
                text = parse.text.to_vec();
                out.push((b'1', &b""[..]));
            }
            b'B' => out.push((b'2', b"")),
            b'E' if text.starts_with(b"select ") => out.extend([(b'D', &b""[..]), (b'C', b"SELECT 1\0")]),
            b'E' if text == b"DISCARD ALL" => out.push((b'C', b"DISCARD ALL\0")),
            b'E' => out.push((b'C', b"PREPARE\0")),
            b'S' => out.push((b'Z', b"I")),
            b'D' => {
                assert_eq!(Named::read(body), Some(Named::Statement(GATE)));
                out.extend([(b't', &b""[..]), (b'n', b"")]);
            }
            b'C' => {
                assert_eq!(Named::read(body), Some(Named::Statement(GATE)));
                out.push((b'3', b""));
            }
            other => panic!("a hand-over has no {}", char::from(other)),
        }
        sent = after;
    }
    assert!(sent.is_empty());
    out
}
