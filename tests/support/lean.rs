//! A PostgreSQL client over a plain blocking socket: for clients by the thousand, and for measurements
//! in which the client itself must not count. Once connected, a request allocates nothing.

#![allow(dead_code, reason = "each user of this file needs its own part of it")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

/// Longer messages are not understood; nothing that is sent here is.
const BUFFER: usize = 4096;

/// Nothing that is measured or tested takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Lean {
    stream: TcpStream,
    buffer: Box<[u8; BUFFER]>,
    seen: usize,
    filled: usize,
}

/// What came up to ReadyForQuery.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub rows: u64,
    pub errors: u64,
}

impl Lean {
    pub fn connect(address: SocketAddr, user: &str, database: &str, password: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut raw = Self { stream, buffer: Box::new([0; BUFFER]), seen: 0, filled: 0 };
        raw.log_in(user, database, password)?;
        Ok(raw)
    }

    fn log_in(&mut self, user: &str, database: &str, password: &str) -> io::Result<()> {
        let mut out = Vec::new();
        let parameters = format!("user\0{user}\0database\0{database}\0\0");
        out.extend_from_slice(&u32::try_from(parameters.len() + 8).unwrap().to_be_bytes());
        out.extend_from_slice(&196_608_u32.to_be_bytes());
        out.extend_from_slice(parameters.as_bytes());
        self.stream.write_all(&out)?;
        let mut scram = None;
        loop {
            let (tag, body) = self.message()?;
            let body = &self.buffer[body];
            let answer = match (tag, body) {
                (b'R', [0, 0, 0, 0]) | (b'S' | b'K' | b'N', _) => continue,
                (b'R', [0, 0, 0, 3]) => [password.as_bytes(), b"\0"].concat(),
                (b'R', [0, 0, 0, 10, ..]) => {
                    let fresh = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                    let first = fresh.message().to_vec();
                    scram = Some(fresh);
                    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                    [SCRAM_SHA_256.as_bytes(), b"\0", &length, &first].concat()
                }
                (b'R', [0, 0, 0, 11, challenge @ ..]) => {
                    let scram = scram.as_mut().ok_or(io::ErrorKind::InvalidData)?;
                    scram.update(challenge)?;
                    scram.message().to_vec()
                }
                (b'R', [0, 0, 0, 12, last @ ..]) => {
                    scram.as_mut().ok_or(io::ErrorKind::InvalidData)?.finish(last)?;
                    continue;
                }
                (b'Z', _) => return Ok(()),
                (_, body) => return Err(io::Error::other(text(tag, body))),
            };
            self.stream.write_all(&message(b'p', &answer))?;
        }
    }

    /// The socket itself. Between requests nothing is left in the buffer.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    pub fn into_socket(self) -> TcpStream {
        self.stream
    }

    /// Sends prepared bytes and takes the answers up to ReadyForQuery.
    pub fn run(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request)?;
        let mut answer = Answer::default();
        loop {
            let (tag, _) = self.message()?;
            match tag {
                b'D' => answer.rows += 1,
                b'E' => answer.errors += 1,
                b'Z' => return Ok(answer),
                _ => {}
            }
        }
    }

    /// The same for one row that must be this.
    pub fn expect(&mut self, request: &[u8], column: &str) -> io::Result<()> {
        self.stream.write_all(request)?;
        let mut found = String::new();
        loop {
            let (tag, body) = self.message()?;
            let body = &self.buffer[body];
            match tag {
                b'D' => found = String::from_utf8_lossy(body.get(6..).unwrap_or_default()).into_owned(),
                b'E' => found = text(tag, body),
                b'Z' if found == column => return Ok(()),
                b'Z' => return Err(io::Error::other(format!("{found:?} instead of {column:?}"))),
                _ => {}
            }
        }
    }

    fn message(&mut self) -> io::Result<(u8, Range<usize>)> {
        loop {
            if let Some([tag, a, b, c, d]) = self.buffer[self.seen..self.filled].first_chunk() {
                let end = self.seen + 1 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                if end <= self.filled {
                    let body = self.seen + 5..end;
                    self.seen = end;
                    return Ok((*tag, body));
                }
            }
            self.buffer.copy_within(self.seen..self.filled, 0);
            self.filled -= self.seen;
            self.seen = 0;
            match self.stream.read(&mut self.buffer[self.filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.filled += n,
            }
        }
    }
}

fn text(tag: u8, body: &[u8]) -> String {
    format!("{}: {}", char::from(tag), String::from_utf8_lossy(body).replace('\0', " "))
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], u32::try_from(body.len() + 4).unwrap().to_be_bytes().as_slice(), body].concat()
}

/// A simple query.
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// Parse under a name (none: the unnamed one), without types.
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

/// Bind, Describe and Execute of a statement with these text parameters, as libpq sends them.
pub fn execute(name: &str, parameters: &[&str]) -> Vec<u8> {
    let mut bind = format!("\0{name}\0\0\0").into_bytes();
    bind.extend_from_slice(&u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        bind.extend_from_slice(&u32::try_from(parameter.len()).unwrap().to_be_bytes());
        bind.extend_from_slice(parameter.as_bytes());
    }
    bind.extend_from_slice(&[0, 0]);
    [message(b'B', &bind), message(b'D', b"P\0"), message(b'E', &[0; 5])].concat()
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}
