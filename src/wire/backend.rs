//! The parts of server messages that pgward reads.

use std::hash::{Hash, Hasher};

use memchr::memchr;

/// What ReadyForQuery says about the transaction (protocol documentation, 55.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    Idle,
    Open,
    Failed,
}

impl Transaction {
    pub fn read(body: &[u8]) -> Option<Self> {
        match body {
            b"I" => Some(Self::Idle),
            b"T" => Some(Self::Open),
            b"E" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// One field of an ErrorResponse or NoticeResponse (protocol documentation, 55.8).
pub fn field(body: &[u8], code: u8) -> Option<&[u8]> {
    let mut rest = body;
    loop {
        let (&found, after) = rest.split_first()?;
        if found == 0 {
            return None;
        }
        let end = memchr(0, after)?;
        if found == code {
            return after.get(..end);
        }
        rest = after.get(end + 1..)?;
    }
}

pub fn sqlstate(body: &[u8]) -> Option<[u8; 5]> {
    field(body, b'C').and_then(|code| code.try_into().ok())
}

/// ParameterStatus: name and value.
pub fn parameter(body: &[u8]) -> Option<(&str, &str)> {
    let name_end = memchr(0, body)?;
    let rest = body.get(name_end + 1..)?;
    let value_end = memchr(0, rest)?;
    Some((std::str::from_utf8(body.get(..name_end)?).ok()?, std::str::from_utf8(rest.get(..value_end)?).ok()?))
}

/// NotificationResponse: the process id of who notified, channel and payload.
pub fn notification(body: &[u8]) -> Option<([u8; 4], &[u8], &[u8])> {
    let (pid, rest) = body.split_first_chunk::<4>()?;
    let end = memchr(0, rest)?;
    let (channel, rest) = (rest.get(..end)?, rest.get(end + 1..)?);
    Some((*pid, channel, rest.get(..memchr(0, rest)?)?))
}

/// What a client goes by when it reads rows: names, types and modifiers of the columns in a RowDescription.
/// No description (NoData, an empty body) is one of its own.
pub fn shape(body: &[u8]) -> Option<u64> {
    let mut hasher = std::hash::DefaultHasher::new();
    if let Some((count, mut rest)) = body.split_first_chunk::<2>() {
        for _ in 0..u16::from_be_bytes(*count) {
            let end = memchr(0, rest)?;
            let (name, fields) = (rest.get(..end)?, rest.get(end + 1..)?);
            // Table and column number (6 bytes), type (4), its length (2), modifier (4), format (2).
            let (fields, after) = fields.split_at_checked(18)?;
            (name, fields.get(6..16)?).hash(&mut hasher);
            rest = after;
        }
    }
    Some(hasher.finish())
}

/// DataRow: its columns, `None` for NULL.
pub fn row(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        columns.push(match i32::from_be_bytes(*length) {
            -1 => None,
            length => {
                let (value, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                rest = after;
                Some(value)
            }
        });
    }
    rest.is_empty().then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_row_are_found() {
        let body = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x02bc";
        assert_eq!(row(body), Some(vec![Some(&b"a"[..]), None, Some(b"bc")]));
        for end in 0..body.len() {
            assert_eq!(row(&body[..end]), None, "{end} bytes of it");
        }
        assert_eq!(row(b"\0\0?"), None, "more than its columns");
    }

    #[test]
    fn fields_of_an_error_are_found() {
        let body = b"SERROR\0C28000\0Mno\0\0";
        assert_eq!(sqlstate(body), Some(*b"28000"));
        assert_eq!(field(body, b'M'), Some(&b"no"[..]));
        assert_eq!(field(body, b'H'), None);
        assert_eq!(field(b"Sunfinished", b'S'), None);
        assert_eq!(parameter(b"TimeZone\0UTC\0"), Some(("TimeZone", "UTC")));
        assert_eq!(parameter(b"TimeZone"), None);
    }

    #[test]
    fn a_shape_is_names_and_types_and_not_tables() {
        let column = |name: &str, table: u8, kind: u8| {
            let fields = [0, 0, 0, table, 0, 1, 0, 0, 0, kind, 0, 4, 255, 255, 255, 255, 0, 0];
            [name.as_bytes(), b"\0", &fields].concat()
        };
        let of = |columns: &[Vec<u8>]| {
            shape(&[&[0, u8::try_from(columns.len()).unwrap()], columns.concat().as_slice()].concat())
        };
        let one = of(&[column("a", 1, 23)]);
        assert!(one.is_some());
        assert_eq!(one, of(&[column("a", 2, 23)]));
        for other in
            [of(&[column("b", 1, 23)]), of(&[column("a", 1, 20)]), of(&[column("a", 1, 23), column("b", 1, 23)])]
        {
            assert_ne!(one, other);
        }
        assert_eq!(shape(b"\0\x01a\0short"), None);
        assert_eq!(shape(b""), shape(b""));
    }

    #[test]
    fn a_row_is_read_to_its_last_byte() {
        let body = b"\0\x02\0\0\0\x01x\xff\xff\xff\xff";
        assert_eq!(row(body), Some(vec![Some(&b"x"[..]), None]));
        for end in 0..body.len() {
            assert_eq!(row(&body[..end]), None, "{end} bytes of it");
        }
        assert_eq!(row(b"\0\x01\0\0\0\x01xy"), None);
    }
}
