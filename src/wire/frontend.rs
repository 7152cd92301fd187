//! The parts of client messages that pgward reads or rewrites: statement names and texts.
//! Layouts are those of the protocol documentation, 55.7.

use memchr::memchr;

use super::table::{Format, Formats};

/// Where a body's strings end; `None` when a terminator is missing.
fn cstr(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(0, body)?;
    Some((body.get(..end)?, body.get(end + 1..)?))
}

/// The same, for what is short or empty most of the time: then looking is quicker than a search made for long texts.
#[inline]
fn name(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let near = body.get(..SHORT).unwrap_or(body);
    match near.iter().position(|byte| *byte == 0) {
        Some(end) => Some((body.get(..end)?, body.get(end + 1..)?)),
        None => cstr(body),
    }
}

const SHORT: usize = 16;

/// `Parse`: the statement's name, and the rest (text, NUL, parameter types) as it stands.
#[derive(Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub text: &'a [u8],
    /// Text, NUL and parameter types: what makes two statements the same.
    pub definition: &'a [u8],
}

impl<'a> Parse<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (name, definition) = name(body)?;
        let (text, types) = cstr(definition)?;
        let (count, oids) = types.split_first_chunk::<2>()?;
        (oids.len() == usize::from(u16::from_be_bytes(*count)) * 4).then_some(Self { name, text, definition })
    }
}

/// The head of `Bind`: portal and statement. The rest is parameters, which nobody here looks at.
#[derive(Debug, PartialEq, Eq)]
pub struct BindHead<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    /// Bytes of the body up to and including the statement's NUL.
    pub length: usize,
}

impl<'a> BindHead<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (portal, rest) = name(body)?;
        let (statement, _) = name(rest)?;
        Some(Self { portal, statement, length: portal.len() + statement.len() + 2 })
    }
}

/// All of `Bind` but the parameters' formats: for statements that pgward itself answers, whose parameters
/// are texts, which look the same in both.
#[derive(PartialEq, Eq)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    pub parameters: Vec<Option<&'a [u8]>>,
    pub formats: Formats,
}

impl<'a> Bind<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let BindHead { portal, statement, length } = BindHead::read(body)?;
        let mut rest = body.get(length..)?;
        read_formats(&mut rest)?;
        let count = u16::from_be_bytes(take(&mut rest)?);
        let value = |_| {
            let (value, after) = match i32::from_be_bytes(take(&mut rest)?) {
                // NULL, which has no bytes.
                -1 => (None, rest),
                length => {
                    let (value, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                    (Some(value), after)
                }
            };
            rest = after;
            Some(value)
        };
        let parameters = (0..count).map(value).collect::<Option<_>>()?;
        let formats = read_formats(&mut rest)?;
        rest.is_empty().then_some(Self { portal, statement, parameters, formats })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

fn read_formats(rest: &mut &[u8]) -> Option<Formats> {
    let count = u16::from_be_bytes(take(rest)?);
    let format = |_| match u16::from_be_bytes(take(rest)?) {
        0 => Some(Format::Text),
        1 => Some(Format::Binary),
        _ => None,
    };
    (0..count).map(format).collect::<Option<_>>().map(Formats)
}

/// `Execute`: the portal, and the most rows wanted (0: all).
#[derive(Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    pub portal: &'a [u8],
    pub rows: usize,
}

impl<'a> Execute<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (portal, rest) = name(body)?;
        // A negative number means all rows, as in PostgreSQL.
        let rows = i32::from_be_bytes(rest.try_into().ok()?);
        Some(Self { portal, rows: usize::try_from(rows).unwrap_or(0) })
    }
}

/// `Describe` and `Close`: a kind and a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Named<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
}

impl<'a> Named<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (kind, rest) = body.split_first()?;
        let (name, after) = name(rest)?;
        match (kind, after.is_empty()) {
            (b'S', true) => Some(Self::Statement(name)),
            (b'P', true) => Some(Self::Portal(name)),
            _ => None,
        }
    }
}

/// `SASLInitialResponse`: the mechanism that the client chose, and its first message.
#[derive(Debug, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    pub mechanism: &'a str,
    pub data: &'a [u8],
}

impl<'a> SaslInitial<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (mechanism, mut data) = cstr(body)?;
        // -1, no message yet, is of no use: SCRAM's client speaks first.
        let length = usize::try_from(i32::from_be_bytes(take(&mut data)?)).ok()?;
        (data.len() == length).then_some(Self { mechanism: std::str::from_utf8(mechanism).ok()?, data })
    }
}

/// The text of `Query`, without its NUL.
pub fn query_text(body: &[u8]) -> Option<&[u8]> {
    let (text, after) = cstr(body)?;
    after.is_empty().then_some(text)
}

/// Starts a message; [`end`] fills in its length.
fn begin(out: &mut Vec<u8>, tag: u8) -> usize {
    out.push(tag);
    out.extend_from_slice(&[0; 4]);
    out.len() - 4
}

fn end(out: &mut [u8], at: usize, more: usize) {
    let length = out.len() - at + more;
    if let (Ok(length), Some(place)) = (u32::try_from(length), out.get_mut(at..at + 4)) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

/// A `Parse` of a definition under another name.
pub fn put_parse(out: &mut Vec<u8>, name: &[u8], definition: &[u8]) {
    let at = begin(out, b'P');
    put_cstr(out, name);
    out.extend_from_slice(definition);
    end(out, at, 0);
}

/// The head of a `Bind` to another statement; `rest` bytes of the original body follow it.
pub fn put_bind_head(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest: usize) {
    let at = begin(out, b'B');
    put_cstr(out, portal);
    put_cstr(out, statement);
    end(out, at, rest);
}

/// `Describe` (`D`) or `Close` (`C`) of a statement.
pub fn put_statement(out: &mut Vec<u8>, tag: u8, statement: &[u8]) {
    let at = begin(out, tag);
    out.push(b'S');
    put_cstr(out, statement);
    end(out, at, 0);
}

/// A message whose body is one string: `Query` or `CopyFail`.
pub fn put_text(out: &mut Vec<u8>, tag: u8, text: &[u8]) {
    let at = begin(out, tag);
    put_cstr(out, text);
    end(out, at, 0);
}

/// `Bind` of the unnamed portal to a statement, all parameters and results in text format; `None` is NULL.
pub fn put_bind(out: &mut Vec<u8>, statement: &[u8], parameters: &[Option<&[u8]>]) {
    let at = begin(out, b'B');
    put_cstr(out, b"");
    put_cstr(out, statement);
    out.extend_from_slice(&0u16.to_be_bytes());
    out.extend_from_slice(&u16::try_from(parameters.len()).unwrap_or(u16::MAX).to_be_bytes());
    for parameter in parameters {
        match parameter {
            Some(value) => {
                out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
                out.extend_from_slice(value);
            }
            None => out.extend_from_slice(&(-1i32).to_be_bytes()),
        }
    }
    out.extend_from_slice(&0u16.to_be_bytes());
    end(out, at, 0);
}

/// `Execute` of the unnamed portal, all rows.
pub fn put_execute(out: &mut Vec<u8>) {
    out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
}

/// `Execute` of a named portal, all rows.
pub fn put_execute_of(out: &mut Vec<u8>, portal: &[u8]) {
    let at = begin(out, b'E');
    put_cstr(out, portal);
    out.extend_from_slice(&[0; 4]);
    end(out, at, 0);
}

pub const SYNC: &[u8] = b"S\0\0\0\x04";
pub const FLUSH: &[u8] = b"H\0\0\0\x04";
pub const TERMINATE: &[u8] = b"X\0\0\0\x04";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_to_its_end_however_long_it_is() {
        for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, 63] {
            let body = [&vec![b'n'; length][..], b"\0rest"].concat();
            assert_eq!(name(&body), Some((&body[..length], &b"rest"[..])), "{length}");
            assert_eq!(name(&body[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_parse_is_taken_apart_and_put_together() {
        let mut out = Vec::new();
        put_parse(&mut out, b"a", b"select $1\0\0\x01\0\0\0\x17");
        let parse = Parse::read(&out[5..]).unwrap();
        assert_eq!((parse.name, parse.text), (&b"a"[..], &b"select $1"[..]));
        assert_eq!(u32::from_be_bytes(*out[1..].first_chunk().unwrap()) as usize, out.len() - 1);
        assert_eq!(Parse::read(b"a\0select 1\0\0\x01"), None, "a type is missing");
        assert_eq!(Parse::read(b"a\0select 1"), None);
    }

    #[test]
    fn a_bind_gets_another_statement_and_keeps_its_parameters() {
        let body = b"\0old\0\0\0\0\0\0\0";
        let head = BindHead::read(body).unwrap();
        let rest = &body[head.length..];
        let mut out = Vec::new();
        put_bind_head(&mut out, head.portal, b"new_name", rest.len());
        out.extend_from_slice(rest);
        assert_eq!(u32::from_be_bytes(*out[1..].first_chunk().unwrap()) as usize, out.len() - 1);
        assert_eq!(BindHead::read(&out[5..]).unwrap().statement, b"new_name");
        assert_eq!(BindHead::read(b"\0unfinished"), None);
    }

    #[test]
    fn a_bind_and_an_execute_are_read_to_their_last_byte() {
        let body = b"p\0s\0\0\x01\0\0\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\x01\0\x01";
        let bind = Bind::read(body).unwrap();
        assert_eq!((bind.portal, bind.statement, bind.parameters.len()), (&b"p"[..], &b"s"[..], 2));
        assert_eq!(bind.formats, Formats(vec![Format::Binary]));
        for end in 0..body.len() {
            assert!(Bind::read(&body[..end]).is_none(), "{end} bytes of it");
        }
        assert!(Bind::read(b"\0\0\0\0\0\0\0\x01\0\x02").is_none(), "format 2 does not exist");
        assert_eq!(Execute::read(b"p\0\0\0\0\x05"), Some(Execute { portal: b"p", rows: 5 }));
        assert_eq!(Execute::read(b"p\0\0\0\x05"), None);
    }

    #[test]
    fn a_first_message_of_sasl_is_read_whole() {
        let body = b"SCRAM-SHA-256\0\0\0\0\x03n,,";
        assert_eq!(SaslInitial::read(body), Some(SaslInitial { mechanism: "SCRAM-SHA-256", data: b"n,," }));
        for end in 0..body.len() {
            assert_eq!(SaslInitial::read(&body[..end]), None, "{end} bytes of it");
        }
        for bad in [&b"X\0\xff\xff\xff\xff"[..], b"X\0\0\0\0\x01ab", b"\xff\0\0\0\0\0"] {
            assert_eq!(SaslInitial::read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn describe_and_close_name_a_statement_or_a_portal() {
        assert_eq!(Named::read(b"Sx\0"), Some(Named::Statement(b"x")));
        assert_eq!(Named::read(b"P\0"), Some(Named::Portal(b"")));
        assert_eq!(Named::read(b"Qx\0"), None);
        assert_eq!(Named::read(b"Sx\0y"), None);
        assert_eq!(query_text(b"a\0b\0"), None);
    }
}
