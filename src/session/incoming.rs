//! Clients that another node forwards to this one, which is at home for their tenant.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};

use super::forward::COPIED;
use super::refuse;
use super::world::World;
use crate::base::{NodeName, Report, causes};
use crate::config::{Forward, Node, Settings, Tenant};
use crate::net::Stream;
use crate::wire::forward::{Preamble, PreambleError};

/// By which node a client has come, and what of it that one saw.
#[derive(Debug)]
pub struct Came {
    pub node: Arc<Node>,
    /// Its own TLS ends here.
    pub direct_tls: bool,
}

#[derive(Debug)]
pub(super) enum Incoming {
    /// As it left the other node: decrypted, if it had been encrypted at all.
    Session {
        stream: Stream,
        input: BytesMut,
        peer: Option<SocketAddr>,
        tls: bool,
        came: Came,
    },
    DirectTls {
        tcp: TcpStream,
        peer: Option<SocketAddr>,
        came: Came,
    },
    /// The other node is shutting down.
    Drain(NodeName),
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no other node may come in here")]
    Closed,
    #[error("its certificate is made out to no node that is known here, but to {0:?}")]
    Unknown(Vec<String>),
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("it does not speak as a node does")]
    Preamble(#[from] PreambleError),
}

/// A node that comes in, with a client. `None`: it was none, and nobody is told.
pub(super) async fn receive(tcp: TcpStream, peer: Option<SocketAddr>, world: &World) -> Option<Incoming> {
    let received = read(tcp, world).await;
    received.inspect_err(|error| tracing::warn!(?peer, why = causes(error), "a node was refused")).ok()
}

async fn read(tcp: TcpStream, world: &World) -> Result<Incoming, Refused> {
    let peers = world.peers.as_ref().ok_or(Refused::Closed)?;
    let (mut stream, names) = peers.accept(tcp).await?;
    let settings = &world.settings;
    let mut others = settings.nodes.values().filter(|node| Some(&node.name) != settings.node.as_ref());
    let named = others.find(|node| names.iter().any(|name| name.as_str() == node.name.as_str()));
    let node = Arc::clone(named.ok_or(Refused::Unknown(names))?);
    let mut input = BytesMut::new();
    let preamble = loop {
        if let Some(preamble) = Preamble::read(&mut input)? {
            break preamble;
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    Ok(match preamble {
        Preamble::Session { peer, tls } => {
            let came = Came { node, direct_tls: false };
            Incoming::Session { stream, input, peer, tls, came }
        }
        Preamble::DirectTls { peer } => {
            let tcp = unwrapped(stream, input).await?;
            Incoming::DirectTls { tcp, peer, came: Came { node, direct_tls: true } }
        }
        Preamble::Drain => Incoming::Drain(node.name.clone()),
    })
}

/// What comes on a stream, on a socket of its own: clients' TLS is spoken on sockets, and moves between threads with them.
async fn unwrapped(mut outer: Stream, input: BytesMut) -> io::Result<TcpStream> {
    let (mut near, far) = pair().await?;
    tokio::task::spawn_local(async move {
        // Whoever reads from either end learns of the end of the other by its own.
        if near.write_all(&input).await.is_ok() {
            let _ = copy_bidirectional_with_sizes(&mut outer, &mut near, COPIED, COPIED).await;
        }
    });
    Ok(far)
}

/// Two sockets of this machine, connected to each other and to nobody else.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let own = near.local_addr()?;
    loop {
        let (far, peer) = listener.accept().await?;
        // Anybody on this machine could have been faster.
        if peer == own {
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

/// Another node that has to do with a client.
#[derive(Debug)]
pub enum Hop {
    Came(Came),
    /// It serves the client.
    Goes(Arc<Node>),
}

impl Hop {
    /// The node that the client has come by.
    pub fn came(&self) -> Option<&Came> {
        match self {
            Self::Came(came) => Some(came),
            Self::Goes(_) => None,
        }
    }

    /// Whether that node is still what it was.
    pub(super) fn stands(&self, settings: &Settings) -> bool {
        let (Self::Came(Came { node, .. }) | Self::Goes(node)) = self;
        settings.nodes.get(&node.name) == Some(node)
    }
}

/// Whether a tenant's clients may come by other nodes.
pub(super) fn admit(tenant: &Tenant, came: Option<&Came>) -> Result<(), Report> {
    let least = came.map_or(Forward::Off, |came| if came.direct_tls { Forward::DirectTls } else { Forward::Any });
    if tenant.forward >= least { Ok(()) } else { Err(refuse::not_forwarded()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_ends_of_a_pair_are_connected_to_each_other() {
        let (mut near, mut far) = pair().await.unwrap();
        assert_eq!(near.local_addr().unwrap(), far.peer_addr().unwrap());
        near.write_all(b"over").await.unwrap();
        let mut seen = [0; 4];
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"over");
    }
}
