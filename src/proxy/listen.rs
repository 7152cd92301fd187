//! Accepting clients and dealing them to cores.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::balance::CARRIES;
use crate::admin::Control;
use crate::session::{Command, CoreHandle, Door, Place};

/// Connections that the kernel holds until they are accepted; it caps this at net.core.somaxconn.
const BACKLOG: i32 = 4_096;

pub(super) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until draining begins.
pub(super) async fn accept(listener: TcpListener, door: Door, control: Control, draining: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(tcp, peer)| Ok((prepare(tcp)?, peer))) {
            Ok((tcp, peer)) => deal(&control, tcp, peer, door),
            Err(error) => {
                // Out of file descriptors, mostly: accepting goes on as soon as some are free.
                tracing::warn!(%error, "a client could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn prepare(tcp: tokio::net::TcpStream) -> std::io::Result<std::net::TcpStream> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    tcp.into_std()
}

fn deal(control: &Control, tcp: std::net::TcpStream, peer: SocketAddr, door: Door) {
    // Logins cost most, so they are shared out; else one core is filled before the next, as `balance` has it.
    let cost = |core: &&CoreHandle| {
        let is_full = core.load.load(Ordering::Relaxed) > CARRIES;
        (core.logins.load(Ordering::Relaxed), is_full)
    };
    let Some(core) = control.cores.iter().min_by_key(cost) else { return };
    let limit = control.shared.world.load().settings.listen.max_clients;
    let (place, clients) = Place::take(&control.shared.clients);
    let (on_core, _) = Place::take(&core.clients);
    let (login, _) = Place::take(&core.logins);
    core.send(Command::Serve { tcp, peer, door, crowded: clients > limit, places: [place, on_core], login });
}
