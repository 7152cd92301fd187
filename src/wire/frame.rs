//! Message headers: a type byte and a length that counts itself (protocol documentation, 55.1.1).

/// Bytes of a header: the type and the length.
pub const HEADER: usize = 5;

/// Client messages other than these are short (PQ_SMALL_MESSAGE_LIMIT in pqcomm.h).
const SMALL: usize = 10_000;
/// PG_MAX_AUTH_TOKEN_LENGTH in auth.c.
const PASSWORD: usize = 65_535;
/// PQ_LARGE_MESSAGE_LIMIT: what palloc can hold.
const LARGE: usize = 0x3fff_ffff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Client,
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// The whole message: type byte, length and body.
    pub total: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("message type 0x{0:02x} does not exist")]
    UnknownType(u8),
    #[error("a message of type '{tag}' has the impossible length {length}", tag = char::from(*tag))]
    Length { tag: u8, length: u32 },
}

impl Header {
    /// The header at the start of `buf`, `None` while it is incomplete. A type that does not exist is
    /// refused at its first byte.
    #[inline]
    pub fn read(buf: &[u8], origin: Origin) -> Result<Option<Self>, HeaderError> {
        let Some(&tag) = buf.first() else { return Ok(None) };
        let limit = match origin {
            Origin::Client => client_limit(tag)?,
            Origin::Server => server_limit(tag)?,
        };
        let Some(&[a, b, c, d]) = buf.get(1..HEADER).and_then(|bytes| bytes.first_chunk::<4>()) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        if length < 4 || length as usize > limit {
            return Err(HeaderError::Length { tag, length });
        }
        Ok(Some(Self { tag, total: length as usize + 1 }))
    }
}

#[inline]
fn client_limit(tag: u8) -> Result<usize, HeaderError> {
    match tag {
        b'Q' | b'P' | b'B' | b'd' | b'F' => Ok(LARGE),
        b'E' | b'D' | b'C' | b'H' | b'S' | b'X' | b'c' | b'f' => Ok(SMALL),
        b'p' => Ok(PASSWORD),
        other => Err(HeaderError::UnknownType(other)),
    }
}

#[inline]
fn server_limit(tag: u8) -> Result<usize, HeaderError> {
    match tag {
        b'D' | b'd' | b'T' | b't' | b'E' | b'N' | b'A' | b'V' | b'C' | b'S' | b'R' => Ok(i32::MAX as usize),
        b'1' | b'2' | b'3' | b'I' | b'Z' | b'n' | b's' | b'c' | b'G' | b'H' | b'W' | b'K' | b'v' => Ok(SMALL * 3),
        other => Err(HeaderError::UnknownType(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_once_it_is_whole() {
        let message = [b'Q', 0, 0, 0, 6, b'x', 0];
        for end in 0..HEADER {
            assert_eq!(Header::read(&message[..end], Origin::Client), Ok(None));
        }
        assert_eq!(Header::read(&message, Origin::Client), Ok(Some(Header { tag: b'Q', total: 7 })));
    }

    #[test]
    fn a_length_that_overflows_is_refused() {
        for length in [0u32, 3, 0x4000_0000, u32::MAX] {
            let mut message = vec![b'Q'];
            message.extend(length.to_be_bytes());
            assert_eq!(Header::read(&message, Origin::Client), Err(HeaderError::Length { tag: b'Q', length }));
        }
        let mut long_sync = vec![b'S'];
        long_sync.extend(20_000u32.to_be_bytes());
        assert!(Header::read(&long_sync, Origin::Client).is_err());
    }

    #[test]
    fn an_unknown_type_is_refused_at_its_first_byte() {
        assert_eq!(Header::read(&[0x16], Origin::Client), Err(HeaderError::UnknownType(0x16)));
        assert_eq!(Header::read(b"?", Origin::Server), Err(HeaderError::UnknownType(b'?')));
    }
}
