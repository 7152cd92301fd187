//! What one pgward tells another ahead of a client's bytes that it forwards: a length of two bytes and JSON. What follows
//! is as if the client had come by itself.

use std::net::SocketAddr;

use bytes::{Buf, BufMut, BytesMut};
use serde::{Deserialize, Serialize};

/// What the two speak, as their TLS negotiates it (ALPN).
pub const ALPN: &[u8] = b"pgward-forward/1";

/// A preamble is no longer.
pub const LONGEST: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Preamble {
    /// A client whose TLS, if it speaks any, has ended at the other node: its startup packet or cancel request follows.
    Session { peer: Option<SocketAddr>, tls: bool },
    /// A client whose TLS ends here: it follows.
    DirectTls { peer: Option<SocketAddr> },
    /// No client: those that have come by the other node are to end between transactions.
    Drain,
}

#[derive(Debug, thiserror::Error)]
pub enum PreambleError {
    #[error("the preamble is {0} bytes long, which is too much")]
    Length(usize),
    #[error("the preamble is not understood")]
    Json(#[source] serde_json::Error),
}

impl Preamble {
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), PreambleError> {
        let json = serde_json::to_vec(self).map_err(PreambleError::Json)?;
        let length = u16::try_from(json.len()).map_err(|_| PreambleError::Length(json.len()))?;
        out.put_u16(length);
        out.extend_from_slice(&json);
        Ok(())
    }

    /// Takes it off the start of `buf`. `None` while it is incomplete.
    pub fn read(buf: &mut BytesMut) -> Result<Option<Self>, PreambleError> {
        let Some(&length) = buf.first_chunk::<2>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(length));
        if length > LONGEST {
            return Err(PreambleError::Length(length));
        }
        let Some(json) = buf.get(2..2 + length) else { return Ok(None) };
        let preamble = serde_json::from_slice(json).map_err(PreambleError::Json)?;
        buf.advance(2 + length);
        Ok(Some(preamble))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_is_read_once_it_is_whole_and_takes_nothing_of_what_follows() {
        let peer = Some("[2001:db8::1]:5432".parse().unwrap());
        for preamble in [Preamble::Session { peer, tls: true }, Preamble::DirectTls { peer: None }, Preamble::Drain] {
            let mut whole = BytesMut::new();
            preamble.encode(&mut whole).unwrap();
            for end in 0..whole.len() {
                assert!(Preamble::read(&mut BytesMut::from(&whole[..end])).unwrap().is_none());
            }
            whole.extend_from_slice(b"rest");
            assert_eq!(Preamble::read(&mut whole).unwrap(), Some(preamble));
            assert_eq!(&whole[..], b"rest");
        }
    }

    #[test]
    fn what_is_no_preamble_is_refused() {
        let long = Preamble::read(&mut BytesMut::from(&b"\xff\xff"[..]));
        assert!(matches!(long, Err(PreambleError::Length(65_535))));
        for json in ["", "{}", "null", r#"{"kind":"else"}"#, r#"{"kind":"session","tls":1}"#] {
            let mut buf = BytesMut::new();
            buf.put_u16(json.len() as u16);
            buf.extend_from_slice(json.as_bytes());
            assert!(matches!(Preamble::read(&mut buf), Err(PreambleError::Json(_))), "{json}");
        }
    }
}
