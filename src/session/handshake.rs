//! From an accepted socket to a startup packet: TLS by request or direct, GSSAPI refused, cancel requests
//! told apart.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::refuse;
use super::world::World;
use crate::base::{Report, Secret};
use crate::net::{Socket, Stream};
use crate::wire::frame::HEADER;
use crate::wire::startup::{First, MAX_PACKET, Startup, TLS_HANDSHAKE, read};
use crate::wire::{Header, Origin, encode};

/// A client that nothing is known of yet.
#[derive(Debug)]
pub struct Accepted {
    pub tcp: TcpStream,
    pub peer: Option<SocketAddr>,
}

/// A client that has said who it wants to be.
#[derive(Debug)]
pub struct Started {
    pub(super) stream: Stream,
    pub(super) peer: Option<SocketAddr>,
    pub(super) startup: Startup,
    /// Bytes that came behind the startup packet.
    pub(super) input: BytesMut,
}

#[derive(Debug)]
pub enum Handshake {
    Started(Box<Started>),
    /// The client takes the end of its connection for the request's: the stream is kept until then.
    Cancel {
        id: u32,
        secret: Secret,
        stream: Stream,
    },
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
    pub(super) async fn handshake(self, world: &World) -> Result<Handshake, (Option<Stream>, Refused)> {
        let mut first = [0u8; 1];
        let tls = match self.tcp.peek(&mut first).await {
            Ok(1) if first == [TLS_HANDSHAKE] => world.tls.clone(),
            Ok(1) => None,
            _ => return Err((None, Refused::Gone)),
        };
        let direct = tls.is_some();
        let mut stream = Stream::Plain(self.tcp);
        if let Some(config) = tls {
            stream = secure(stream, config).await.map_err(|_| (None, Refused::Gone))?;
            if !speaks_postgresql(&stream) {
                return Err((Some(stream), refuse::alpn().into()));
            }
        }
        let mut input = BytesMut::new();
        match packets(&mut stream, &mut input, world, direct).await {
            Ok(Packet::Cancel { id, secret }) => Ok(Handshake::Cancel { id, secret, stream }),
            Ok(Packet::Startup(startup)) => {
                Ok(Handshake::Started(Box::new(Started { stream, peer: self.peer, startup, input })))
            }
            Ok(Packet::StartTls(config)) => {
                let mut stream = secure(stream, config).await.map_err(|_| (None, Refused::Gone))?;
                match packets(&mut stream, &mut input, world, true).await {
                    Ok(Packet::Cancel { id, secret }) => Ok(Handshake::Cancel { id, secret, stream }),
                    Ok(Packet::Startup(startup)) => {
                        Ok(Handshake::Started(Box::new(Started { stream, peer: self.peer, startup, input })))
                    }
                    Ok(Packet::StartTls(_)) => Err((Some(stream), refuse::malformed(b'S').into())),
                    Err(refused) => Err((Some(stream), refused)),
                }
            }
            Err(refused) => Err((Some(stream), refused)),
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
                _ => fill(&mut self.stream, &mut self.input, 128 * 1024).await?,
            }
        }
    }
}

/// Tells a refusal, as far as the client still listens.
pub async fn tell(mut stream: Stream, report: &Report) {
    let mut out = BytesMut::new();
    encode::report(&mut out, report);
    if stream.write_all(&out).await.is_ok() && stream.flush().await.is_ok() {
        let _ = stream.shutdown().await;
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
