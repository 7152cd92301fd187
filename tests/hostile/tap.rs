//! The hostile tenant's connections: every byte that comes back is kept.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::place::Place;
use crate::support::raw::{Message, Raw, V3_0, errors, query, terminate};

/// All that a case's connections have heard.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    /// Whether this was among it, as it is or as PostgreSQL prints bytes.
    pub fn has(&self, secret: &str) -> bool {
        let heard = self.0.lock().unwrap();
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        [secret, &hex].iter().any(|text| memchr::memmem::find(&heard, text.as_bytes()).is_some())
    }

    /// What stands around it, to be shown.
    pub fn around(&self, secret: &str) -> String {
        let heard = self.0.lock().unwrap();
        let at = memchr::memmem::find(&heard, secret.as_bytes()).unwrap_or_default();
        let piece = &heard[at.saturating_sub(120)..(at + 80).min(heard.len())];
        String::from_utf8_lossy(piece).replace('\0', " ")
    }
}

pub struct Tap {
    stream: TcpStream,
    heard: Heard,
}

impl Tap {
    pub fn new(stream: TcpStream, heard: Heard) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, heard }
    }
}

impl AsyncRead for Tap {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let tap = self.get_mut();
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut tap.stream).poll_read(cx, into));
        tap.heard.0.lock().unwrap().extend_from_slice(&into.filled()[before..]);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

pub type Wire = Raw<Tap>;

/// What a case that is a program of its own has to work with.
#[derive(Clone)]
pub struct Hostile {
    pub place: Arc<Place>,
    pub heard: Heard,
}

impl Hostile {
    pub fn new(place: &Arc<Place>) -> Self {
        Self { place: Arc::clone(place), heard: Heard::default() }
    }

    /// A connection that has said nothing yet.
    pub async fn connect(&self) -> Wire {
        Raw::new(Tap::new(TcpStream::connect(self.place.address).await.unwrap(), self.heard.clone()))
    }

    /// Logged in as the hostile tenant.
    pub async fn session(&self) -> Wire {
        self.log_in(&self.place.level.hostile_login(), &[]).await.0
    }

    /// And all that was said at login.
    pub async fn log_in(&self, login: &Login, more: &[(&str, &str)]) -> (Wire, Vec<Message>) {
        let (wire, said) = self.try_log_in(login, more).await;
        assert_eq!(said.last().map(|message| message.tag), Some(b'Z'), "{:?}", errors(&said));
        (wire, said)
    }

    pub async fn try_log_in(&self, login: &Login, more: &[(&str, &str)]) -> (Wire, Vec<Message>) {
        let mut wire = self.connect().await;
        let user = if self.place.is_pgward() { login.user.as_str() } else { "app" };
        let mut all = vec![("user", user), ("database", login.database.as_str())];
        all.extend_from_slice(more);
        let password = self.place.password(login);
        let said = wire.log_in(V3_0, &all, &password).await;
        (wire, said)
    }

    /// The SQLSTATE with which this login is refused; none if it is let in.
    pub async fn refused(&self, user: &str, database: &str, password: &str, more: &[(&str, &str)]) -> Option<String> {
        let mut wire = self.connect().await;
        let mut all = vec![("user", user), ("database", database)];
        all.extend_from_slice(more);
        let said = wire.log_in(V3_0, &all, password).await;
        errors(&said).first().cloned()
    }

    pub fn words(&self, text: &str) -> String {
        self.place.words(text)
    }
}

/// Whom to log in as.
#[derive(Debug, Clone)]
pub struct Login {
    pub user: String,
    pub database: String,
    /// The token's tenant, or the password where there are no tokens.
    pub secret: String,
}

/// One simple query and its answers; a COPY that it begins is broken off.
pub async fn ask(wire: &mut Wire, text: &str) -> Vec<Message> {
    answers(wire, query(text)).await
}

/// Sends this, and hears all up to ReadyForQuery or the end of the connection.
pub async fn answers(wire: &mut Wire, bytes: Vec<u8>) -> Vec<Message> {
    if !wire.try_send(bytes).await {
        return wire.rest().await;
    }
    let mut said = Vec::new();
    loop {
        let more = wire.until(|message| matches!(message.tag, b'Z' | b'G')).await;
        let copies = more.last().is_some_and(|message| message.tag == b'G');
        said.extend(more);
        if !copies || !wire.try_send(crate::support::raw::copy_fail()).await {
            return said;
        }
    }
}

/// The rows of the last result.
pub fn rows(said: &[Message]) -> Vec<Vec<String>> {
    let begin = said.iter().rposition(|message| message.tag == b'T').unwrap_or(0);
    said[begin..].iter().filter(|message| message.tag == b'D').map(Message::columns).collect()
}

pub fn first(said: &[Message]) -> String {
    rows(said).first().and_then(|row| row.first().cloned()).unwrap_or_default()
}

/// Leaves, and hears what was still to come.
pub async fn leave(mut wire: Wire) {
    if wire.try_send(terminate()).await {
        wire.rest().await;
    }
}

/// `Ok` with what happened, if it is so.
pub fn held(so: bool, what: impl Into<String>) -> Result<String, String> {
    if so { Ok(what.into()) } else { Err(what.into()) }
}
