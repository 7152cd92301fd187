//! Messages by their headers, and the readers of their bodies beside the writers.

use pgward::wire::backend::{self, Transaction};
use pgward::wire::frame::HEADER;
use pgward::wire::frontend::{self, Bind, BindHead, Execute, Named, Parse, SaslInitial};
use pgward::wire::{Header, HeaderError, Origin};

use super::Target;
use crate::input::Input;

pub const TARGET: Target = Target {
    name: "frame",
    check,
    words: &[
        "Q\0\0\0\u{6}x\0",
        "S\0\0\0\u{4}",
        "E\0\0\0\u{9}\0\0\0\0\0",
        "Z\0\0\0\u{5}I",
        "SCRAM-SHA-256\0",
        "select 1\0",
        "SERROR\0C28000\0Mno\0\0",
        "\0\u{1}\0\0\0\u{1}a",
    ],
    rounds: 60_000,
    longest: 600,
};

/// The first byte says who speaks, and some more where the stream is cut.
fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let origin = if input.flag() { Origin::Client } else { Origin::Server };
    let cuts: Vec<usize> = input.piece().iter().map(|cut| usize::from(*cut)).collect();
    let stream = input.rest();

    let whole = messages(stream, origin);
    assert_eq!(whole, arriving(stream, origin, &cuts), "cut in pieces of {cuts:?}");
    let (found, end) = whole;
    let mut at = 0;
    for header in found {
        assert_eq!(header.tag, stream[at]);
        assert!((HEADER..=0x4000_0000).contains(&header.total) || origin == Origin::Server);
        if let Some(message) = stream.get(at..at + header.total) {
            match origin {
                Origin::Client => client(message, header.tag),
                Origin::Server => server(&message[HEADER..]),
            }
        }
        at += header.total;
    }
    if let Some(HeaderError::UnknownType(tag)) = end {
        assert!(Header::read(&[tag], origin).is_err(), "known at its first byte");
    }
    // Readers are given bodies only; what the header was does not matter to them.
    server(stream);
    bodies(stream);
}

type Messages = (Vec<Header>, Option<HeaderError>);

/// With all bytes there at once.
fn messages(stream: &[u8], origin: Origin) -> Messages {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < stream.len() {
        match Header::read(&stream[at..], origin) {
            Ok(Some(header)) => {
                let length = u32::from_be_bytes(stream[at + 1..at + 5].try_into().unwrap());
                assert_eq!(header.total, length as usize + 1);
                found.push(header);
                at += header.total;
            }
            Ok(None) => break,
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}

/// With a piece at a time, as a socket has it.
fn arriving(stream: &[u8], origin: Origin, cuts: &[usize]) -> Messages {
    let (mut found, mut held, mut skip) = (Vec::new(), Vec::new(), 0);
    let mut rest = stream;
    let mut cuts = cuts.iter().chain(std::iter::repeat(&1));
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((*cuts.next().unwrap()).clamp(1, rest.len()));
        rest = after;
        held.extend_from_slice(piece);
        loop {
            let gone = skip.min(held.len());
            held.drain(..gone);
            skip -= gone;
            if skip > 0 {
                break;
            }
            match Header::read(&held, origin) {
                Ok(Some(header)) => {
                    found.push(header);
                    skip = header.total;
                }
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

/// A message that was read and is written again is the same.
fn client(message: &[u8], tag: u8) {
    let body = &message[HEADER..];
    let mut out = Vec::new();
    match tag {
        b'P' => {
            let Some(parse) = Parse::read(body) else { return };
            frontend::put_parse(&mut out, parse.name, parse.definition);
            assert!(parse.definition.starts_with(&[parse.text, b"\0"].concat()));
        }
        b'B' => {
            let Some(head) = BindHead::read(body) else { return };
            frontend::put_bind_head(&mut out, head.portal, head.statement, body.len() - head.length);
            out.extend_from_slice(&body[head.length..]);
        }
        b'D' | b'C' => {
            let Some(Named::Statement(name)) = Named::read(body) else { return };
            frontend::put_statement(&mut out, tag, name);
        }
        b'E' => {
            // A negative number of rows is read as all of them.
            let Some(Execute { portal, rows: 0 }) = Execute::read(body) else { return };
            if !body.ends_with(&[0; 4]) {
                return;
            }
            frontend::put_execute_of(&mut out, portal);
        }
        b'Q' => {
            let Some(text) = frontend::query_text(body) else { return };
            frontend::put_text(&mut out, b'Q', text);
        }
        _ => return,
    }
    assert_eq!(out, message);
}

/// What is read to its end is none with a byte less or a byte more.
fn exact<T>(body: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> bool {
    let good = read(body).is_some();
    if good {
        for end in (0..body.len()).rev().take(80) {
            assert!(read(&body[..end]).is_none(), "{end} bytes of {}", body.len());
        }
        assert!(read(&[body, b"\0"].concat()).is_none(), "a byte more");
    }
    good
}

fn bodies(body: &[u8]) {
    exact(body, |body| frontend::query_text(body).map(drop));
    exact(body, |body| Named::read(body).map(drop));
    exact(body, |body| Execute::read(body).map(drop));
    exact(body, |body| SaslInitial::read(body).map(drop));
    let parse = Parse::read(body);
    if parse.is_some() {
        assert!(Parse::read(&[body, b"\0"].concat()).is_none());
    }
    if exact(body, |body| Bind::read(body).map(drop)) {
        let (bind, head) = (Bind::read(body).unwrap(), BindHead::read(body).unwrap());
        assert_eq!((bind.portal, bind.statement), (head.portal, head.statement));
        let mut out = Vec::new();
        frontend::put_bind(&mut out, bind.statement, &bind.parameters);
        let again = Bind::read(&out[HEADER..]).expect("what was written");
        assert!(again.statement == bind.statement && again.parameters == bind.parameters);
    }
}

fn server(body: &[u8]) {
    exact(body, |body| backend::row(body).map(drop));
    assert!(Transaction::read(body).is_none() || matches!(body, b"I" | b"T" | b"E"));
    for code in [b'S', b'C', b'M', 0] {
        if let Some(value) = backend::field(body, code) {
            assert!(code != 0 && !value.contains(&0));
            let written = [&[code], value, b"\0"].concat();
            assert!(body.windows(written.len()).any(|part| part == written));
        }
    }
    assert_eq!(backend::sqlstate(body).is_some(), backend::field(body, b'C').is_some_and(|code| code.len() == 5));
    if let Some((name, value)) = backend::parameter(body) {
        assert!(body.starts_with(format!("{name}\0{value}\0").as_bytes()));
    }
    if let Some((pid, channel, payload)) = backend::notification(body) {
        assert!(body.starts_with(&[&pid[..], channel, b"\0", payload, b"\0"].concat()));
    }
    if let Some(shape) = backend::shape(body) {
        assert_eq!(backend::shape(body), Some(shape));
    }
}
