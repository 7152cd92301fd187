//! What the rest of the process may ask of a core.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::entry::{ClientRow, Kick};
use super::handshake::Door;
use super::travel::Parcel;
use crate::base::{NodeName, Party};
use crate::pool::BackendRow;

/// A client's place among all; given back on drop.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Place {
    /// Counts a client, and says how many there are with it.
    pub fn take(clients: &Arc<AtomicUsize>) -> (Self, usize) {
        let count = clients.fetch_add(1, Ordering::Relaxed) + 1;
        (Self(Arc::clone(clients)), count)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub enum Command {
    /// Serve this client. `places` are its places in the process and on the core, `login` that among those that log in.
    Serve {
        tcp: TcpStream,
        peer: SocketAddr,
        door: Door,
        crowded: bool,
        places: [Place; 2],
        login: Place,
    },
    /// Go on with a session that comes from another core.
    Arrive {
        parcel: Box<Parcel>,
        places: [Place; 2],
    },
    /// List the sessions.
    Clients(oneshot::Sender<Vec<ClientRow>>),
    /// List idle backends by the number of their pool.
    Idle(oneshot::Sender<Vec<(usize, usize)>>),
    /// List the backends.
    Backends(oneshot::Sender<Vec<BackendRow>>),
    /// Carry the counters over to the shared metrics.
    Flush(oneshot::Sender<()>),
    /// Another server has become a cluster's primary, or none is: backends of the one before are of no use.
    Recheck,
    Kick(Kick),
    /// End the sessions of these parties.
    KickOf(Arc<HashSet<Party>>, Kick),
    /// Let the sessions finish that have come by this node.
    DrainOf(NodeName),
    /// Stop serving; sessions that are left are dropped.
    End,
}

/// How a core is reached.
#[derive(Debug, Clone)]
pub struct CoreHandle {
    commands: mpsc::UnboundedSender<Command>,
    /// Clients on this core.
    pub clients: Arc<AtomicUsize>,
    /// Those of them that are logging in.
    pub logins: Arc<AtomicUsize>,
    /// How busy its thread is, in thousandths of a CPU.
    pub load: Arc<AtomicUsize>,
    /// How much of that is for sessions that work, about.
    pub work: Arc<AtomicUsize>,
}

impl CoreHandle {
    pub fn new(commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { commands, clients: Arc::default(), logins: Arc::default(), load: Arc::default(), work: Arc::default() }
    }

    /// A core that has stopped drops what it is sent.
    pub fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Asks and waits; `None` when the core has stopped.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply));
        answer.await.ok()
    }
}
