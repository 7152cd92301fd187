//! The parts of server messages that pgward reads.

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

/// A column of a DataRow as text. The inner `None` is NULL.
pub fn column(body: &[u8], wanted: usize) -> Option<Option<&str>> {
    let (_, mut rest) = body.split_first_chunk::<2>()?;
    for at in 0.. {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let value = match i32::from_be_bytes(*length) {
            -1 => None,
            length => Some(after.get(..usize::try_from(length).ok()?)?),
        };
        if at == wanted {
            return value.map(std::str::from_utf8).transpose().ok();
        }
        rest = after.get(value.map_or(0, <[u8]>::len)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_row_are_found() {
        let body = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x02bc";
        assert_eq!(
            (0..4).map(|at| column(body, at)).collect::<Vec<_>>(),
            [Some(Some("a")), Some(None), Some(Some("bc")), None]
        );
        for end in 0..body.len() {
            assert_eq!(column(&body[..end], 2), None, "{end} bytes of it");
        }
        assert_eq!(column(b"\0\x01\0\0\0\x01\xff", 0), None, "not UTF-8");
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
}
