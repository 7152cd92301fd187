//! The first packet of a connection, before which nothing is known about the other side
//! (protocol documentation, 55.2.1 and 55.2.10).

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;

use crate::base::Secret;

/// MAX_STARTUP_PACKET_LENGTH in pqcomm.h.
pub const MAX_PACKET: usize = 10_000;

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

/// The newest minor version of protocol 3 that pgward speaks.
pub const NEWEST_MINOR: u16 = 2;

/// The TLS record type of a handshake: a client that starts TLS without asking.
pub const TLS_HANDSHAKE: u8 = 0x16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    Ssl,
    GssEnc,
    Cancel { pid: u32, secret: Secret },
    Startup(Startup),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// As the client asked for it; what is spoken is the lesser of this and [`NEWEST_MINOR`].
    pub minor: u16,
    /// In the client's order, names starting with `_pq_.` apart.
    pub parameters: Vec<(String, String)>,
    /// Protocol options that pgward does not know.
    pub unknown_options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    #[error("the startup packet has the impossible length {0}")]
    Length(u32),
    #[error("protocol version {major}.{minor} is not supported")]
    Version { major: u16, minor: u16 },
    #[error("the startup packet is not a list of NUL-terminated names and values")]
    Layout,
    #[error("the startup packet is not UTF-8")]
    Encoding,
    #[error("the startup packet names a parameter twice")]
    Twice,
    #[error("the cancel request has the wrong length")]
    Cancel,
}

/// The packet at the start of `buf` and its length, or `None` while it is incomplete.
pub fn read(buf: &[u8]) -> Result<Option<(First, usize)>, StartupError> {
    let Some(length) = word(buf, 0) else { return Ok(None) };
    let total = length as usize;
    if !(8..=MAX_PACKET).contains(&total) {
        return Err(StartupError::Length(length));
    }
    let (Some(code), Some(packet)) = (word(buf, 4), buf.get(..total)) else { return Ok(None) };
    let body = packet.get(8..).unwrap_or_default();
    let first = match code {
        SSL if body.is_empty() => First::Ssl,
        GSSENC if body.is_empty() => First::GssEnc,
        CANCEL => cancel(body)?,
        _ => First::Startup(startup(code, body)?),
    };
    Ok(Some((first, total)))
}

fn word(buf: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*buf.get(at..at + 4)?.first_chunk()?))
}

/// What asks a server to cancel what a backend does.
pub fn cancel_request(pid: u32, key: &Secret, out: &mut BytesMut) {
    let key = key.expose();
    out.put_u32(u32::try_from(12 + key.len()).unwrap_or(u32::MAX));
    out.put_u32(CANCEL);
    out.put_u32(pid);
    out.put_slice(key);
}

/// A process id and a key of 4 to 256 bytes.
fn cancel(body: &[u8]) -> Result<First, StartupError> {
    let pid = word(body, 0).ok_or(StartupError::Cancel)?;
    let secret = body.get(4..).filter(|key| (4..=256).contains(&key.len())).ok_or(StartupError::Cancel)?;
    Ok(First::Cancel { pid, secret: Secret::new(secret) })
}

fn startup(code: u32, body: &[u8]) -> Result<Startup, StartupError> {
    let [a, b, c, d] = code.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if major != 3 {
        return Err(StartupError::Version { major, minor });
    }
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut unknown_options = Vec::new();
    let mut rest = body;
    loop {
        let name = text(&mut rest)?;
        if name.is_empty() {
            // Whatever followed the final NUL would be a message smuggled in before authentication.
            return if rest.is_empty() {
                Ok(Startup { minor, parameters, unknown_options })
            } else {
                Err(StartupError::Layout)
            };
        }
        let value = text(&mut rest)?;
        if name.starts_with("_pq_.") {
            unknown_options.push(name.to_owned());
        } else if parameters.iter().any(|(known, _)| known == name) {
            return Err(StartupError::Twice);
        } else {
            parameters.push((name.to_owned(), value.to_owned()));
        }
    }
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, StartupError> {
    let end = memchr::memchr(0, rest).ok_or(StartupError::Layout)?;
    let (text, tail) = rest.split_at(end);
    *rest = tail.get(1..).unwrap_or_default();
    std::str::from_utf8(text).map_err(|_| StartupError::Encoding)
}

impl Startup {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// As a client sends it that speaks what both sides speak, without options that are unknown here.
    pub fn encode(&self, out: &mut BytesMut) -> std::io::Result<()> {
        let start = out.len();
        let parameters = self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        frontend::startup_message(parameters, out)?;
        if let Some(minor) = out.get_mut(start + 6..start + 8) {
            minor.copy_from_slice(&self.spoken_minor().to_be_bytes());
        }
        Ok(())
    }

    /// The minor version that both sides speak.
    pub fn spoken_minor(&self) -> u16 {
        // 3.1 was never given to anybody (protocol documentation, 55.1).
        if self.minor >= NEWEST_MINOR { NEWEST_MINOR } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut out = ((body.len() + 8) as u32).to_be_bytes().to_vec();
        out.extend(code.to_be_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn a_startup_packet_is_read_whatever_the_split() {
        let bytes = packet(196_610, b"user\0acme\0database\0app\0_pq_.x\x001\0\0");
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None));
        }
        let Ok(Some((First::Startup(startup), used))) = read(&bytes) else { panic!("not read") };
        assert_eq!(used, bytes.len());
        assert_eq!(startup.spoken_minor(), 2);
        let mut again = BytesMut::new();
        startup.encode(&mut again).unwrap();
        let Ok(Some((First::Startup(again), _))) = read(&again) else { panic!("not read") };
        assert_eq!((again.minor, &again.parameters), (2, &startup.parameters));
        assert_eq!(startup.get("user"), Some("acme"));
        assert_eq!(startup.unknown_options, ["_pq_.x"]);
    }

    #[test]
    fn a_second_startup_behind_the_first_is_refused() {
        let bytes = packet(196_608, b"user\0acme\0\0user\0globex\0\0");
        assert_eq!(read(&bytes), Err(StartupError::Layout));
        let bytes = packet(196_608, b"user\0acme\0user\0globex\0\0");
        assert_eq!(read(&bytes), Err(StartupError::Twice));
    }

    #[test]
    fn special_requests_are_told_apart() {
        assert_eq!(read(&packet(SSL, b"")), Ok(Some((First::Ssl, 8))));
        assert_eq!(read(&packet(GSSENC, b"")), Ok(Some((First::GssEnc, 8))));
        let long_key = [&7u32.to_be_bytes()[..], &[9; 32]].concat();
        let expected = First::Cancel { pid: 7, secret: Secret::new([9; 32]) };
        assert_eq!(read(&packet(CANCEL, &long_key)), Ok(Some((expected, 44))));
        assert_eq!(read(&packet(CANCEL, b"1234567")), Err(StartupError::Cancel));
        assert_eq!(read(&packet(131_072, b"\0")), Err(StartupError::Version { major: 2, minor: 0 }));
        assert_eq!(read(&[0, 0, 255, 255]), Err(StartupError::Length(65_535)));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn random_bodies_never_panic(code in any::<u32>(), body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&packet(code, &body));
        }
    }
}
