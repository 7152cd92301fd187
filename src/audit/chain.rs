//! The chain: each line carries the hash of the line before it and its own, so that a line cannot be changed,
//! taken out, put in or moved without its neighbours telling.
//!
//! ```text
//!   {"seq":7,"time":"...", ... ,"prev":"hash of line 6","hash":"hash of all that stands before this member"}
//! ```
//!
//! Nothing here reads or writes a file.

use std::fmt;

use crate::base::Secret;
use crate::base::scram::{Key, hash, sign};

/// Of a line: SHA-256, or HMAC-SHA-256 where there is a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(Key);

impl Hash {
    /// What the first line of all follows.
    pub const NONE: Self = Self([0; 32]);

    pub fn parse(hex: &str) -> Option<Self> {
        let mut bytes = Key::default();
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// What lines are hashed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seal {
    /// Shows that lines were changed by accident, or by somebody who did not redo the chain.
    Plain,
    /// Only who has the key can make a line.
    Keyed(Secret),
}

impl Seal {
    pub fn new(key: Option<Secret>) -> Self {
        key.map_or(Self::Plain, Self::Keyed)
    }

    pub fn hash(&self, bytes: &[u8]) -> Hash {
        Hash(match self {
            Self::Plain => hash(bytes),
            Self::Keyed(key) => sign(key.expose(), &[bytes]),
        })
    }
}

/// The last line so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: Hash,
}

impl Head {
    pub const NONE: Self = Self { seq: 0, hash: Hash::NONE };

    /// Appends the next line to `out`. `members`: of the line's JSON object, without braces and not empty.
    pub fn append(&mut self, seal: &Seal, time: &str, members: &str, out: &mut Vec<u8>) {
        let seq = self.seq + 1;
        let signed = format!("{{\"seq\":{seq},\"time\":\"{time}\",{members},\"prev\":\"{}\"", self.hash);
        let hash = seal.hash(signed.as_bytes());
        out.extend_from_slice(signed.as_bytes());
        out.extend_from_slice(format!(",\"hash\":\"{hash}\"}}\n").as_bytes());
        *self = Self { seq, hash };
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

/// A line as it stands in a file, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    pub seq: u64,
    pub prev: Hash,
    /// What it says its hash is.
    pub hash: Hash,
    signed: &'a [u8],
    text: &'a [u8],
}

const PREV: &[u8] = b",\"prev\":\"";
const HASH: &[u8] = b"\",\"hash\":\"";
const HEX: usize = 64;

impl<'a> Line<'a> {
    /// By position, and not as JSON: an object may say a thing twice.
    pub fn read(text: &'a [u8]) -> Option<Self> {
        let body = text.strip_suffix(b"\"}")?;
        let (body, hash) = body.split_at_checked(body.len().checked_sub(HEX)?)?;
        let (body, prev) = body.strip_suffix(HASH)?.split_at_checked(body.len().checked_sub(HASH.len() + HEX)?)?;
        body.strip_suffix(PREV)?;
        let signed = text.get(..body.len() + HEX + 1)?;
        let digits = body.strip_prefix(b"{\"seq\":")?.split(|byte| *byte == b',').next()?;
        let hex = |bytes| std::str::from_utf8(bytes).ok().and_then(Hash::parse);
        let number = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        Some(Self { seq: number.parse().ok()?, prev: hex(prev)?, hash: hex(hash)?, signed, text })
    }

    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }

    pub fn is_sealed_by(&self, seal: &Seal) -> bool {
        seal.hash(self.signed) == self.hash
    }

    /// Its members, for those few that the chain itself goes by.
    pub fn members(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_slice(self.text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for seal in [Seal::Plain, Seal::new(Some(Secret::new("k")))] {
            let (mut head, mut out) = (Head::NONE, Vec::new());
            head.append(&seal, "t", "\"event\":\"start\"", &mut out);
            let line = Line::read(out.strip_suffix(b"\n").unwrap()).unwrap();
            assert_eq!((line.head(), line.prev), (head, Hash::NONE));
            assert!(line.is_sealed_by(&seal));
            assert!(!line.is_sealed_by(&Seal::new(Some(Secret::new("other")))));
            assert_eq!(line.members()["event"], "start");
        }
    }

    #[test]
    fn what_is_no_line_is_none() {
        for text in ["", "{}", "\"}", "{\"seq\":1,\"prev\":\"\",\"hash\":\"\"}", &"\"}".repeat(100)] {
            assert_eq!(Line::read(text.as_bytes()), None, "{text}");
        }
    }
}
