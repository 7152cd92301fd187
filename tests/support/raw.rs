//! A client that speaks the protocol by hand, to pgward or straight to PostgreSQL, and may say anything.

use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take before a test says that none came.
const PATIENCE: Duration = Duration::from_secs(20);

pub const V3_0: u32 = 196_608;
pub const V3_2: u32 = 196_610;
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
pub const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// One server message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse: `C` the SQLSTATE, `M` the message, `S` the severity.
    pub fn field(&self, code: u8) -> String {
        let text = pgward::wire::backend::field(&self.body, code).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// ParameterStatus: name and value.
    pub fn parameter(&self) -> Option<(String, String)> {
        let (name, value) = pgward::wire::backend::parameter(&self.body).filter(|_| self.tag == b'S')?;
        Some((name.to_owned(), value.to_owned()))
    }

    /// The columns of a DataRow as text.
    pub fn columns(&self) -> Vec<String> {
        let mut body = &self.body[..];
        let count = body.get_u16();
        (0..count)
            .map(|_| match body.get_i32() {
                -1 => "NULL".to_owned(),
                n => {
                    let (value, rest) = body.split_at(usize::try_from(n).unwrap());
                    body = rest;
                    String::from_utf8_lossy(value).into_owned()
                }
            })
            .collect()
    }

    /// What a test compares: the type and what does not change from run to run.
    pub fn gist(&self) -> String {
        let tag = char::from(self.tag);
        match self.tag {
            b'E' => format!("E {}", self.field(b'C')),
            b'D' => format!("D {}", self.columns().join(",")),
            b'C' | b'd' => format!("{tag} {}", String::from_utf8_lossy(&self.body)),
            b'Z' => format!("Z {}", char::from(self.body[0])),
            _ => tag.to_string(),
        }
    }
}

/// The types of messages, in one word. Notices and parameter changes may come at any time and are left out.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).filter(|tag| !"NS".contains(*tag)).collect()
}

pub fn gists(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| !b"NS".contains(&message.tag)).map(Message::gist).collect()
}

/// The SQLSTATEs of all errors among messages.
pub fn errors(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'E').map(|message| message.field(b'C')).collect()
}

/// A connection; `input` is what has arrived and was not looked at.
pub struct Raw<S = TcpStream> {
    pub stream: S,
    pub input: BytesMut,
}

impl Raw<TcpStream> {
    pub async fn connect(address: impl tokio::net::ToSocketAddrs) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }

    /// Logged in to pgward, or to PostgreSQL by SCRAM, by URL.
    pub async fn open(url: &str) -> Self {
        Self::open_with(url, &[]).await
    }

    pub async fn open_with(url: &str, parameters: &[(&str, &str)]) -> Self {
        let config: tokio_postgres::Config = url.parse().unwrap();
        let tokio_postgres::config::Host::Tcp(host) = &config.get_hosts()[0] else { panic!("{url} has no host") };
        let mut raw = Self::connect((host.as_str(), config.get_ports()[0])).await;
        let mut all = vec![("user", config.get_user().unwrap()), ("database", config.get_dbname().unwrap())];
        all.extend_from_slice(parameters);
        let password = String::from_utf8(config.get_password().unwrap().to_vec()).unwrap();
        let messages = raw.log_in(V3_0, &all, &password).await;
        assert_eq!(messages.last().map(|message| message.tag), Some(b'Z'), "the login failed: {messages:?}");
        raw
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, input: BytesMut::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// As [`Raw::send`], for bytes after which the other side may have hung up. `false`: it has.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Sends byte after byte, giving the other side the chance to read in between.
    pub async fn send_split(&mut self, bytes: &[u8], at: usize) {
        let (one, two) = bytes.split_at(at);
        self.send(one).await;
        pause().await;
        self.send(two).await;
    }

    async fn fill(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.input);
        let read = tokio::time::timeout(PATIENCE, read).await;
        matches!(read.expect("no answer came, and the connection stands"), Ok(n) if n > 0)
    }

    /// One byte that is no message: the answer to a request for TLS.
    pub async fn byte(&mut self) -> Option<u8> {
        if self.input.is_empty() && !self.fill().await {
            return None;
        }
        Some(self.input.get_u8())
    }

    /// The next message; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Message> {
        while self.input.len() < 5 || self.input.len() < self.length() {
            if !self.fill().await {
                return None;
            }
        }
        let message = self.input.split_to(self.length());
        Some(Message { tag: message[0], body: message[5..].to_vec() })
    }

    fn length(&self) -> usize {
        1 + usize::try_from(u32::from_be_bytes(self.input[1..5].try_into().unwrap())).unwrap()
    }

    /// Messages up to one that `last` takes, or to the end of the connection.
    pub async fn until(&mut self, mut last: impl FnMut(&Message) -> bool) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await {
            let end = last(&message);
            messages.push(message);
            if end {
                break;
            }
        }
        messages
    }

    /// Messages up to ReadyForQuery.
    pub async fn ready(&mut self) -> Vec<Message> {
        self.until(|message| message.tag == b'Z').await
    }

    /// Messages up to the `n`th ReadyForQuery.
    pub async fn ready_times(&mut self, n: usize) -> Vec<Message> {
        let mut seen = 0;
        self.until(|message| {
            seen += usize::from(message.tag == b'Z');
            seen == n
        })
        .await
    }

    /// Everything to the end of the connection.
    pub async fn rest(&mut self) -> Vec<Message> {
        self.until(|_| false).await
    }

    /// Startup and password; all messages up to ReadyForQuery or the end.
    pub async fn log_in(&mut self, version: u32, parameters: &[(&str, &str)], password: &str) -> Vec<Message> {
        self.send(startup(version, parameters)).await;
        let mut messages = Vec::new();
        loop {
            let Some(message) = self.next().await else { return messages };
            messages.push(message.clone());
            match (message.tag, message.body.first_chunk::<4>().map(|code| u32::from_be_bytes(*code))) {
                (b'R', Some(3)) => self.send(self::password(password)).await,
                (b'R', Some(10)) => self.scram(password).await,
                (b'Z', _) => return messages,
                _ => {}
            }
        }
    }

    async fn scram(&mut self, password: &str) {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let mut first = [SCRAM_SHA_256.as_bytes(), b"\0"].concat();
        first.put_u32(u32::try_from(scram.message().len()).unwrap());
        first.extend_from_slice(scram.message());
        self.send(message(b'p', &first)).await;
        scram.update(&self.next().await.unwrap().body[4..]).unwrap();
        self.send(message(b'p', scram.message())).await;
        scram.finish(&self.next().await.unwrap().body[4..]).unwrap();
    }

    /// By hand, so that a refusal is seen rather than a failure to go on.
    pub async fn log_in_by_scram(&mut self, user: &str, database: &str, password: &str) -> Vec<Message> {
        use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
        self.send(startup(V3_0, &[("user", user), ("database", database)])).await;
        let mut messages = vec![self.next().await.unwrap()];
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let length = u32::try_from(scram.message().len()).unwrap().to_be_bytes();
        self.send(message(b'p', &[b"SCRAM-SHA-256\0", &length[..], scram.message()].concat())).await;
        messages.push(self.next().await.unwrap());
        scram.update(&messages[1].body[4..]).unwrap();
        self.send(message(b'p', scram.message())).await;
        messages.extend(self.rest().await);
        messages
    }

    pub async fn query(&mut self, text: &str) -> Vec<Message> {
        self.send(query(text)).await;
        self.ready().await
    }

    /// The first column of the first row.
    pub async fn one(&mut self, text: &str) -> String {
        let messages = self.query(text).await;
        let row = messages.iter().find(|message| message.tag == b'D');
        row.unwrap_or_else(|| panic!("{text}: {:?}", gists(&messages))).columns().remove(0)
    }
}

/// Lets what was written so far be read as a piece of its own, most of the time. Tests hold either way.
pub async fn pause() {
    tokio::time::sleep(Duration::from_micros(300)).await;
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.put_u32(u32::try_from(body.len() + 4).unwrap());
    out.extend_from_slice(body);
    out
}

pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u32(version);
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    packet(&body)
}

/// A packet without a type: its length and its body.
pub fn packet(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(u32::try_from(body.len() + 4).unwrap());
    out.extend_from_slice(body);
    out
}

pub fn password(text: &str) -> Vec<u8> {
    message(b'p', format!("{text}\0").as_bytes())
}

pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

pub fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

/// All parameters and results as text.
pub fn bind(portal: &str, statement: &str, parameters: &[&str]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0").into_bytes();
    body.put_u16(u16::try_from(parameters.len()).unwrap());
    for parameter in parameters {
        body.put_u32(u32::try_from(parameter.len()).unwrap());
        body.extend_from_slice(parameter.as_bytes());
    }
    body.put_u16(0);
    message(b'B', &body)
}

/// `kind` is `S` for a statement, `P` for a portal.
pub fn describe(kind: char, name: &str) -> Vec<u8> {
    message(b'D', format!("{kind}{name}\0").as_bytes())
}

pub fn close(kind: char, name: &str) -> Vec<u8> {
    message(b'C', format!("{kind}{name}\0").as_bytes())
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    let mut body = format!("{portal}\0").into_bytes();
    body.put_u32(rows);
    message(b'E', &body)
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    message(b'H', b"")
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

pub fn copy_fail() -> Vec<u8> {
    message(b'f', b"no more\0")
}

pub fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

/// Calls the function with this OID, without arguments, by the fast path.
pub fn function_call(oid: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u32(oid);
    body.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    message(b'F', &body)
}

/// Calls it with arguments in binary format, and asks for the same back.
pub fn function_call_with(oid: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u32(oid);
    body.extend_from_slice(&[0, 1, 0, 1]);
    body.put_u16(u16::try_from(arguments.len()).unwrap());
    for argument in arguments {
        body.put_u32(u32::try_from(argument.len()).unwrap());
        body.extend_from_slice(argument);
    }
    body.extend_from_slice(&[0, 1]);
    message(b'F', &body)
}

/// Parse, Bind, Execute of the unnamed statement; no Sync.
pub fn extended(text: &str) -> Vec<u8> {
    [parse("", text), bind("", "", &[]), execute("", 0)].concat()
}

pub fn cancel_request(pid: u32, key: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u32(80_877_102);
    body.put_u32(pid);
    body.extend_from_slice(key);
    packet(&body)
}
