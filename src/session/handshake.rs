//! From an accepted socket to a startup packet: TLS by request or direct, GSSAPI refused, cancel requests
//! told apart.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::forward::Way;
use super::incoming::{self, Came, Hop, Incoming};
use super::refuse;
use super::world::World;
use crate::base::{NodeName, Report, Secret};
use crate::net::{Socket, Stream};
use crate::wire::frame::HEADER;
use crate::wire::startup::{First, MAX_PACKET, Startup, TLS_HANDSHAKE, read};
use crate::wire::{Header, Origin, encode};

/// A client that nothing is known of yet.
#[derive(Debug)]
pub struct Accepted {
    pub tcp: TcpStream,
    pub peer: Option<SocketAddr>,
    pub door: Door,
}

/// A message of authentication, at most.
const MAX_MESSAGE: usize = 128 * 1024;

/// Where somebody came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Clients,
    /// Other nodes, with clients of theirs.
    Nodes,
}

/// Where a client is, and by which other node it has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Visitor {
    pub peer: Option<SocketAddr>,
    pub hop: Option<Arc<Hop>>,
}

impl Visitor {
    fn came(peer: Option<SocketAddr>, came: Came) -> Self {
        Self { peer, hop: Some(Arc::new(Hop::Came(came))) }
    }

    /// The node that it has come by.
    pub fn by_node(&self) -> Option<&Came> {
        self.hop.as_ref()?.came()
    }
}

/// A client that has said who it wants to be.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) stream: Stream,
    pub(super) visitor: Visitor,
    pub(super) startup: Startup,
    /// Bytes that came behind the startup packet.
    pub(super) input: BytesMut,
}

#[derive(Debug)]
pub(super) enum Handshake {
    Started(Box<Started>),
    /// The client takes the end of its connection for the request's: the stream is kept until then.
    Cancel {
        id: u32,
        secret: Secret,
        stream: Stream,
        visitor: Visitor,
    },
    /// Its TLS is for another node.
    Elsewhere {
        tcp: TcpStream,
        way: Way,
    },
    /// A node that is shutting down, and no client.
    Drains(NodeName),
}

/// Why a connection ends before it is logged in.
#[derive(Debug)]
pub(super) enum Refused {
    /// The client is told.
    Told(Box<Report>),
    /// There is nobody to tell.
    Gone,
}

impl From<Report> for Refused {
    fn from(report: Report) -> Self {
        Self::Told(Box::new(report))
    }
}

impl From<io::Error> for Refused {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Accepted {
    /// A refusal, with the stream to tell it on where there is one.
    pub(super) async fn handshake(self, world: &World) -> Entering {
        let Self { tcp, peer, door } = self;
        if door == Door::Clients {
            return on_socket(tcp, Visitor { peer, hop: None }, world).await;
        }
        match incoming::receive(tcp, peer, world).await.ok_or((None, Refused::Gone))? {
            Incoming::Session { stream, input, peer, tls, came } => {
                on_stream(stream, input, Visitor::came(peer, came), world, tls).await
            }
            Incoming::DirectTls { tcp, peer, came } => on_socket(tcp, Visitor::came(peer, came), world).await,
            Incoming::Drain(node) => Ok(Handshake::Drains(node)),
        }
    }
}

type Entering = Result<Handshake, (Option<Stream>, Refused)>;

async fn on_socket(tcp: TcpStream, visitor: Visitor, world: &World) -> Entering {
    let mut first = [0u8; 1];
    let tls = match tcp.peek(&mut first).await {
        Ok(1) if first == [TLS_HANDSHAKE] => world.tls.clone(),
        Ok(1) => None,
        _ => return Err((None, Refused::Gone)),
    };
    // Who has come by another node goes no further.
    if first == [TLS_HANDSHAKE]
        && visitor.hop.is_none()
        && let Some(way) = Way::by_host_name(world, &tcp).await
    {
        return Ok(Handshake::Elsewhere { tcp, way });
    }
    let Some(config) = tls else { return on_stream(Stream::Plain(tcp), BytesMut::new(), visitor, world, false).await };
    let stream = secure(Stream::Plain(tcp), config).await.map_err(|_| (None, Refused::Gone))?;
    if !speaks_postgresql(&stream) {
        return Err((Some(stream), refuse::alpn().into()));
    }
    on_stream(stream, BytesMut::new(), visitor, world, true).await
}

/// `secured`: it is encrypted as it is, or was as far as another node.
async fn on_stream(
    mut stream: Stream,
    mut input: BytesMut,
    visitor: Visitor,
    world: &World,
    mut secured: bool,
) -> Entering {
    loop {
        match packets(&mut stream, &mut input, world, secured).await {
            Ok(Packet::Cancel { id, secret }) => return Ok(Handshake::Cancel { id, secret, stream, visitor }),
            Ok(Packet::Startup(startup)) => {
                return Ok(Handshake::Started(Box::new(Started { stream, visitor, startup, input })));
            }
            // Asked for once only.
            Ok(Packet::StartTls(config)) => {
                stream = secure(stream, config).await.map_err(|_| (None, Refused::Gone))?;
                secured = true;
            }
            Err(refused) => return Err((Some(stream), refused)),
        }
    }
}

async fn secure(stream: Stream, config: Arc<rustls::ServerConfig>) -> io::Result<Stream> {
    match stream {
        Stream::Plain(tcp) => {
            let tls = TlsAcceptor::from(config).accept(Socket::new(tcp)).await?;
            Ok(Stream::Tls(Box::new(tls.into())))
        }
        Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn speaks_postgresql(stream: &Stream) -> bool {
    match stream {
        Stream::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"postgresql"),
        Stream::Plain(_) => false,
    }
}

enum Packet {
    Startup(Startup),
    StartTls(Arc<rustls::ServerConfig>),
    Cancel { id: u32, secret: Secret },
}

/// Reads packets until one decides how it goes on.
async fn packets(stream: &mut Stream, input: &mut BytesMut, world: &World, secured: bool) -> Result<Packet, Refused> {
    let mut gss_refused = false;
    loop {
        let (first, used) = match read(input).map_err(|error| refuse::startup(&error))? {
            Some(found) => found,
            None => {
                fill(stream, input, MAX_PACKET).await?;
                continue;
            }
        };
        input.advance(used);
        match first {
            First::Cancel { pid, secret } => return Ok(Packet::Cancel { id: pid, secret }),
            First::Ssl if !secured => match &world.tls {
                Some(config) => {
                    if !input.is_empty() {
                        return Err(refuse::bytes_before_tls().into());
                    }
                    stream.write_all(b"S").await?;
                    return Ok(Packet::StartTls(Arc::clone(config)));
                }
                None => stream.write_all(b"N").await?,
            },
            First::GssEnc if !gss_refused => {
                gss_refused = true;
                stream.write_all(b"N").await?;
                stream.flush().await?;
            }
            First::Ssl | First::GssEnc => return Err(refuse::malformed(b'S').into()),
            First::Startup(startup) => {
                let demanded = world.settings.listen.tls.as_ref().is_some_and(|tls| tls.require);
                if demanded && !secured {
                    return Err(refuse::plaintext().into());
                }
                return Ok(Packet::Startup(startup));
            }
        }
    }
}

async fn fill(stream: &mut Stream, input: &mut BytesMut, limit: usize) -> Result<(), Refused> {
    if input.len() > limit || stream.read_buf(input).await? == 0 {
        return Err(Refused::Gone);
    }
    Ok(())
}

impl Started {
    /// Asks for a password and reads it. It is the last that is read before authentication.
    pub(super) async fn password(&mut self) -> Result<Secret, Refused> {
        let mut out = BytesMut::new();
        self.negotiate(&mut out);
        encode::ask_password(&mut out);
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        let body = self.authentication().await?;
        let sound = body.strip_suffix(b"\0").filter(|password| !password.contains(&0));
        sound.map(Secret::new).ok_or_else(|| refuse::malformed(b'p').into())
    }

    /// What goes ahead of the first request for a password.
    pub(super) fn negotiate(&self, out: &mut BytesMut) {
        if self.startup.minor > self.startup.spoken_minor() || !self.startup.unknown_options.is_empty() {
            encode::negotiate(out, self.startup.spoken_minor(), &self.startup.unknown_options);
        }
    }

    /// The body of the client's next message, which must be one of authentication: a password, or SASL's.
    pub(super) async fn authentication(&mut self) -> Result<BytesMut, Refused> {
        loop {
            match Header::read(&self.input, Origin::Client).map_err(|error| refuse::header(&error))? {
                Some(header) if header.tag != b'p' => return Err(refuse::malformed(header.tag).into()),
                Some(header) if header.total <= self.input.len() => {
                    let mut message = self.input.split_to(header.total);
                    message.advance(HEADER.min(message.len()));
                    return Ok(message);
                }
                _ => self.hear().await?,
            }
        }
    }

    /// What comes of something else, unless the client hangs up meanwhile. What it sends is for later.
    pub(super) async fn unless_gone<T>(
        &mut self,
        done: impl Future<Output = Result<T, Refused>>,
    ) -> Result<T, Refused> {
        let Self { stream, input, .. } = self;
        let gone = async {
            while input.len() <= MAX_MESSAGE {
                if fill(stream, input, MAX_MESSAGE).await.is_err() {
                    return;
                }
            }
            // Whoever sends so much is there.
            std::future::pending().await
        };
        tokio::select! {
            biased;
            done = done => done,
            () = gone => Err(Refused::Gone),
        }
    }

    /// Reads more of what the client sends, which is not much before it is in.
    pub(super) async fn hear(&mut self) -> Result<(), Refused> {
        fill(&mut self.stream, &mut self.input, MAX_MESSAGE).await
    }
}

/// Tells a refusal, as far as the client still listens.
pub async fn tell(mut stream: Stream, report: &Report) {
    let mut out = BytesMut::new();
    encode::report(&mut out, report);
    if stream.write_all(&out).await.is_ok() && stream.flush().await.is_ok() {
        close(stream).await;
    }
}

/// Ends a connection so that what was written on it arrives.
pub(super) async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    if stream.shutdown().await.is_ok() {
        // Closing with unread bytes would reset the connection and take the message with it.
        let mut rest = [0u8; 1024];
        for _ in 0..64 {
            match tokio::time::timeout(std::time::Duration::from_millis(200), stream.read(&mut rest)).await {
                Ok(Ok(n)) if n > 0 => {}
                _ => break,
            }
        }
    }
}
