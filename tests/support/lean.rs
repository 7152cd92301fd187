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

pub struct Lean<S = TcpStream> {
    stream: S,
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
        Self::log_in(tcp(address)?, user, database, by_password(password))
    }

    /// The socket itself. Between requests nothing is left in the buffer.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    pub fn into_socket(self) -> TcpStream {
        self.stream
    }
}

/// Connected, and not logged in.
pub fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What a client answers to a request for authentication, by its number and what follows it, if anything.
pub fn by_password(password: &str) -> impl FnMut(u32, &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut scram = None;
    move |method, body| {
        let under_way = scram.as_mut().ok_or(io::ErrorKind::InvalidData);
        Ok(match method {
            3 => Some([password.as_bytes(), b"\0"].concat()),
            10 => {
                let fresh = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                let first = initial_response(fresh.message());
                scram = Some(fresh);
                Some(first)
            }
            11 => {
                let scram = under_way?;
                scram.update(body)?;
                Some(scram.message().to_vec())
            }
            12 => {
                under_way?.finish(body)?;
                None
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }
}

/// SASLInitialResponse, which chooses SCRAM-SHA-256.
pub fn initial_response(first: &[u8]) -> Vec<u8> {
    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
    [SCRAM_SHA_256.as_bytes(), b"\0", &length, first].concat()
}

impl<S: Read + Write> Lean<S> {
    pub fn log_in(
        stream: S,
        user: &str,
        database: &str,
        mut proof: impl FnMut(u32, &[u8]) -> io::Result<Option<Vec<u8>>>,
    ) -> io::Result<Self> {
        let mut lean = Self { stream, buffer: Box::new([0; BUFFER]), seen: 0, filled: 0 };
        let parameters = format!("user\0{user}\0database\0{database}\0\0");
        let length = u32::try_from(parameters.len() + 8).unwrap().to_be_bytes();
        let startup = [&length, &196_608_u32.to_be_bytes(), parameters.as_bytes()].concat();
        lean.stream.write_all(&startup)?;
        loop {
            let (tag, body) = lean.message()?;
            let body = &lean.buffer[body];
            match (tag, body) {
                (b'R', [0, 0, 0, 0]) | (b'S' | b'K' | b'N', _) => {}
                (b'R', [a, b, c, d, rest @ ..]) => {
                    if let Some(answer) = proof(u32::from_be_bytes([*a, *b, *c, *d]), rest)? {
                        lean.stream.write_all(&message(b'p', &answer))?;
                    }
                }
                (b'Z', _) => return Ok(lean),
                (_, body) => return Err(io::Error::other(text(tag, body))),
            }
        }
    }

    /// Sends prepared bytes and takes the answers up to ReadyForQuery.
    pub fn run(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.send(request)?;
        self.take()
    }

    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)
    }

    /// The answers up to ReadyForQuery.
    pub fn take(&mut self) -> io::Result<Answer> {
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
