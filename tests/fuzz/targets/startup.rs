//! The first packet of a connection, beside a reader that is written as the documentation reads (55.7, 55.2).

use std::collections::BTreeSet;

use pgward::wire::startup::{First, MAX_PACKET, NEWEST_MINOR, StartupError, read};

use super::Target;

pub const TARGET: Target = Target {
    name: "startup",
    check,
    words: &[
        "user",
        "database",
        "options",
        "_pq_.x",
        "\0",
        "\0\0",
        "\0\u{3}\0\0",
        "\0\u{3}\0\u{2}",
        "replication",
        "é",
    ],
    rounds: 200_000,
    longest: 12_000,
};

fn check(bytes: &[u8]) {
    let whole = read(bytes);
    assert_eq!(whole, expected(bytes));
    // Arriving in pieces changes nothing but the time at which the answer is known.
    let ends = (0..bytes.len().min(24)).chain((24..bytes.len()).step_by(61));
    for end in ends {
        let part = read(&bytes[..end]);
        assert!(part == Ok(None) || part == whole, "{end} bytes: {part:?}, and all: {whole:?}");
    }
    let Ok(Some((first, used))) = whole else { return };
    assert!((8..=MAX_PACKET.min(bytes.len())).contains(&used));
    assert_eq!(read(&bytes[..used]), Ok(Some((first.clone(), used))), "what follows the packet was looked at");
    if let First::Startup(startup) = &first {
        assert!([0, NEWEST_MINOR].contains(&startup.spoken_minor()) && startup.spoken_minor() <= startup.minor);
        let names: BTreeSet<&str> = startup.parameters.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), startup.parameters.len(), "a parameter is there twice");
        for (name, value) in &startup.parameters {
            assert_eq!(startup.get(name), Some(value.as_str()));
        }
    }
    assert_eq!(read(&written(&first)), Ok(Some((first.clone(), written(&first).len()))), "{first:?}");
}

/// The packet as a client would write it. The values of options that nobody knows are not kept.
fn written(first: &First) -> Vec<u8> {
    let (code, body) = match first {
        First::Ssl => (80_877_103, Vec::new()),
        First::GssEnc => (80_877_104, Vec::new()),
        First::Cancel { pid, secret } => (80_877_102, [&pid.to_be_bytes()[..], secret.expose()].concat()),
        First::Startup(startup) => {
            let options = startup.unknown_options.iter().map(|name| (name.as_str(), ""));
            let parameters = startup.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let pairs: String = parameters.chain(options).map(|(name, value)| format!("{name}\0{value}\0")).collect();
            (196_608 + u32::from(startup.minor), [pairs.as_bytes(), b"\0"].concat())
        }
    };
    let length = u32::try_from(body.len() + 8).unwrap();
    [&length.to_be_bytes()[..], &u32::to_be_bytes(code), &body].concat()
}

type Expected = Result<Option<(First, usize)>, StartupError>;

fn expected(bytes: &[u8]) -> Expected {
    let number = |at: usize| bytes.get(at..at + 4).map(|four| u32::from_be_bytes(four.try_into().unwrap()));
    let Some(length) = number(0) else { return Ok(None) };
    if !(8..=10_000).contains(&length) {
        return Err(StartupError::Length(length));
    }
    let total = length as usize;
    if bytes.len() < total {
        return Ok(None);
    }
    let (code, body) = (number(4).unwrap(), &bytes[8..total]);
    let first = match (code, body.len()) {
        (80_877_103, 0) => First::Ssl,
        (80_877_104, 0) => First::GssEnc,
        (80_877_102, 8..=260) => {
            First::Cancel { pid: number(8).unwrap(), secret: pgward::base::Secret::new(&body[4..]) }
        }
        (80_877_102, _) => return Err(StartupError::Cancel),
        (_, _) if code >> 16 != 3 => {
            return Err(StartupError::Version { major: (code >> 16) as u16, minor: code as u16 });
        }
        _ => First::Startup(list(code as u16, body)?),
    };
    Ok(Some((first, total)))
}

/// Pairs of texts up to an empty name, which is the last byte.
fn list(minor: u16, body: &[u8]) -> Result<pgward::wire::startup::Startup, StartupError> {
    let mut out = pgward::wire::startup::Startup { minor, parameters: Vec::new(), unknown_options: Vec::new() };
    let mut texts = body.split_inclusive(|byte| *byte == 0);
    let mut next = || {
        let text = texts.next().and_then(|text| text.strip_suffix(b"\0")).ok_or(StartupError::Layout)?;
        String::from_utf8(text.to_vec()).map_err(|_| StartupError::Encoding)
    };
    loop {
        let name = next()?;
        if name.is_empty() {
            return if texts.next().is_none() { Ok(out) } else { Err(StartupError::Layout) };
        }
        let value = next()?;
        if name.starts_with("_pq_.") {
            out.unknown_options.push(name);
        } else if out.get(&name).is_some() {
            return Err(StartupError::Twice);
        } else {
            out.parameters.push((name, value));
        }
    }
}
