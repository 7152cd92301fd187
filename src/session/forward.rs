//! Clients of a tenant that may not be served here, forwarded to a node that may. That one authenticates them; this one
//! passes bytes on and keeps none.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use futures_util::future::join_all;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, copy_buf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::cancel::{CancelKey, CancelKeys};
use super::command::Place;
use super::core::{Core, Shared};
use super::entry::{Entry, Kick, Phase, Profile, Said};
use super::handshake::{Refused, Started, close};
use super::incoming::Hop;
use super::login::{Login, being_drained, decide, place_of};
use super::refuse;
use super::world::World;
use crate::audit::{Event, Who};
use crate::auth::Identity;
use crate::base::{NodeName, Party, Region, Report, Secret};
use crate::config::{Forward, Node, PoolMode, Tenant};
use crate::limits::{ClientSlot, Held};
use crate::net::{Peers, Stream, host_asked_for};
use crate::residency;
use crate::route;
use crate::wire::forward::Preamble;
use crate::wire::startup::cancel_request;
use crate::wire::{Header, Origin};

/// Bytes that are on their way at one time, in each direction.
pub(super) const COPIED: usize = 16 * 1024;

/// Whom a connection is forwarded for, and the nodes that may serve it, the best first.
#[derive(Debug)]
pub(super) struct Way {
    tenant: Party,
    nodes: Vec<Arc<Node>>,
}

/// A client and the node that serves it.
pub(super) struct Forwarded {
    core: Rc<Core>,
    client: Stream,
    node: Stream,
    entry: Rc<Entry>,
    /// What each of the two has not been told yet.
    to_client: BytesMut,
    to_node: BytesMut,
    // Held for as long as it lasts.
    _key: CancelKey,
    _place: Place,
    _slot: ClientSlot,
}

/// The node that serves a client, which is counted among its tenant's.
struct Goes {
    stream: Stream,
    node: Arc<Node>,
    slot: ClientSlot,
}

/// A place among the tenant's clients here, unless nobody of it is to come in.
fn slot(core: &Core, world: &World, way: &Way) -> Result<ClientSlot, Report> {
    let tenant = way.tenant.tenant().and_then(|id| world.settings.tenants.get(id)).ok_or_else(refuse::no_access)?;
    let usage = core.shared.usages.of(&way.tenant);
    let slot = place_of(core, tenant, &usage)?;
    if usage.hold.state() == Held::Drained {
        return Err(being_drained(core));
    }
    Ok(slot)
}

impl Way {
    /// For whoever has shown a good token. `None`: it is served, or refused, here.
    pub fn by_token(world: &World, identity: &Identity) -> Option<Self> {
        world.peers.as_ref()?;
        let tenant = world.settings.tenants.get(&identity.tenant)?;
        let cluster = world.settings.clusters.get(&tenant.cluster)?;
        match decide(&world.settings, tenant, cluster, identity) {
            Err(route::Refusal::Node { regions, .. }) => Self::to(world, tenant, &regions, Forward::Any),
            _ => None,
        }
    }

    /// For whoever begins TLS and asks for a tenant's own host name.
    pub async fn by_host_name(world: &World, tcp: &TcpStream) -> Option<Self> {
        let names = world.settings.forwarding.as_ref()?.server_name.as_ref()?;
        let host = host_asked_for(tcp).await?;
        let tenant = world.settings.tenants.get(&names.tenant(&host)?)?;
        let here = world.settings.region.as_ref()?;
        let is_here = residency::allows(&tenant.regions, here);
        if is_here { None } else { Self::to(world, tenant, &tenant.regions, Forward::DirectTls) }
    }

    /// If the tenant's rule says at least this.
    fn to(world: &World, tenant: &Tenant, regions: &[Region], least: Forward) -> Option<Self> {
        if tenant.forward < least {
            return None;
        }
        let nodes = others(world).filter(|node| residency::allows(regions, &node.region));
        let mut nodes: Vec<Arc<Node>> = nodes.cloned().collect();
        nodes.sort_by_key(|node| node.region != tenant.home);
        (!nodes.is_empty()).then(|| Self { tenant: Party::Tenant(tenant.id.clone()), nodes })
    }
}

/// The nodes that this one may call.
fn others(world: &World) -> impl Iterator<Item = &Arc<Node>> {
    let own = world.settings.node.as_ref();
    world.settings.nodes.values().filter(move |node| node.peer_address.is_some() && Some(&node.name) != own)
}

/// Calls a node and tells it what comes.
async fn call(peers: &Peers, node: &Node, preamble: &Preamble, then: &[u8], limit: Duration) -> io::Result<Stream> {
    let address = node.peer_address.as_deref().ok_or(io::ErrorKind::NotFound)?;
    let mut out = BytesMut::new();
    preamble.encode(&mut out).map_err(io::Error::other)?;
    out.extend_from_slice(then);
    let called = async {
        let mut stream = peers.connect(node.name.as_str(), address).await?;
        stream.write_all(&out).await?;
        stream.flush().await?;
        Ok(stream)
    };
    tokio::time::timeout(limit, called).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// How long calling one node may take.
fn call_limit(world: &World) -> Duration {
    world.settings.forwarding.as_ref().map(|forwarding| forwarding.connect_timeout).unwrap_or_default()
}

/// Cancel requests that are handed to one node at one time.
fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(16))
}

/// Calls one node after the other until one is there. Each has its share of the time that a login has, and something is
/// left for the login.
async fn call_any<'a>(
    world: &World,
    way: &'a Way,
    preamble: &Preamble,
    then: &[u8],
) -> Result<(&'a Arc<Node>, Stream), Report> {
    let shares = u32::try_from(way.nodes.len()).unwrap_or(u32::MAX).saturating_add(1);
    let limit = call_limit(world).min(world.settings.listen.startup_timeout / shares);
    for node in &way.nodes {
        let Some(peers) = &world.peers else { break };
        match call(peers, node, preamble, then, limit).await {
            Ok(stream) => return Ok((node, stream)),
            Err(error) => {
                let (node, address) = (&node.name, &node.peer_address);
                tracing::warn!(%node, ?address, %error, "a node could not be reached to forward a client to");
            }
        }
    }
    Err(refuse::home_unreachable(way.nodes.iter()))
}

impl Started {
    /// With what it has said so far, and its token.
    pub(super) async fn forward(
        self,
        core: &Rc<Core>,
        world: &World,
        way: Way,
        identity: Option<&Identity>,
        token: &Secret,
    ) -> Result<Login, (Option<Stream>, Refused)> {
        match self.open(core, world, &way, self.who_proved(identity), token).await {
            Ok((goes, to_client)) => {
                let Self { stream, visitor, startup, input } = self;
                let said = Said::of(&startup);
                let mut forwarded = Forwarded::new(core, world, way, stream, goes, visitor.peer, said);
                (forwarded.to_client, forwarded.to_node) = (to_client, input);
                core.stats.login("forwarded");
                Ok(Login::Forwarded(Box::new(forwarded)))
            }
            Err(refused) => {
                self.audit_refusal(core, &refused, identity);
                Err((Some(self.stream), refused))
            }
        }
    }

    /// The node, and the first of its answers that is for the client.
    async fn open(
        &self,
        core: &Core,
        world: &World,
        way: &Way,
        who: Who,
        token: &Secret,
    ) -> Result<(Goes, BytesMut), Refused> {
        let slot = slot(core, world, way)?;
        let preamble = Preamble::Session { peer: self.visitor.peer, tls: self.stream.is_tls() };
        let mut out = BytesMut::new();
        self.startup.encode(&mut out).map_err(|_| Refused::Gone)?;
        frontend::password_message(token.expose(), &mut out).map_err(|_| Refused::Gone)?;
        let (node, mut stream) = call_any(world, way, &preamble, &out).await.inspect_err(unreachable(core))?;
        record(core, who, node, false).await?;
        let mut answers = BytesMut::new();
        let gone = |_: io::Error| Refused::from(refuse::home_unreachable(way.nodes.iter()));
        // The client has been asked for its token already, and told which protocol is spoken.
        while !is_for_client(&mut answers).map_err(|error| Refused::from(refuse::header(&error)))? {
            if stream.read_buf(&mut answers).await.map_err(gone)? == 0 {
                return Err(gone(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok((Goes { stream, node: Arc::clone(node), slot }, answers))
    }
}

fn unreachable(core: &Core) -> impl Fn(&Report) + '_ {
    |_| core.stats.login("home_unreachable")
}

/// Nobody is passed on unrecorded.
async fn record(core: &Core, who: Who, node: &Node, direct_tls: bool) -> Result<(), Refused> {
    let (who, node, region) = (Arc::new(who), node.name.clone(), node.region.clone());
    let recorded = core.shared.audit.admit(|| Event::Forwarded { who, node, region, direct_tls }).await;
    recorded.map_err(|_| {
        core.stats.login("audit");
        refuse::unrecordable().into()
    })
}

/// Takes what the client knows off the start of a node's answers. `true`: what is left begins with what it does not.
fn is_for_client(answers: &mut BytesMut) -> Result<bool, crate::wire::HeaderError> {
    while let Some(header) = Header::read(answers, Origin::Server)? {
        let asks = answers.get(5..9) == Some(&3u32.to_be_bytes()[..]);
        match header.tag {
            b'R' if answers.len() < 9 => return Ok(false),
            b'R' if !asks => return Ok(true),
            b'v' | b'R' if answers.len() < header.total => return Ok(false),
            b'v' | b'R' => answers.advance(header.total),
            _ => return Ok(true),
        }
    }
    Ok(false)
}

/// A client whose TLS goes through.
pub(super) async fn forward_tls(
    tcp: TcpStream,
    peer: Option<SocketAddr>,
    core: &Rc<Core>,
    world: &World,
    way: Way,
) -> Option<Login> {
    let who = Who { party: Some(way.tenant.clone()), peer, ..Who::default() };
    let slot = slot(core, world, &way).ok()?;
    let called = call_any(world, &way, &Preamble::DirectTls { peer }, &[]).await;
    // It has begun TLS, and there is none here to tell it anything by.
    let (node, stream) = called.inspect_err(unreachable(core)).ok()?;
    record(core, who, node, true).await.ok()?;
    let goes = Goes { stream, node: Arc::clone(node), slot };
    let forwarded = Forwarded::new(core, world, way, Stream::Plain(tcp), goes, peer, Said::default());
    core.stats.login("forwarded");
    Some(Login::Forwarded(Box::new(forwarded)))
}

/// Hands a cancel request to the nodes whose session it may be for. `false`: it can be no other node's.
pub(super) async fn forward_cancel(
    shared: &Shared,
    world: &World,
    id: u32,
    secret: &Secret,
    peer: Option<SocketAddr>,
) -> bool {
    let Some(peers) = &world.peers else { return false };
    let nodes: Vec<&Arc<Node>> = others(world).filter(|node| tag(&node.name) == id & TAG).collect();
    let mut request = BytesMut::new();
    cancel_request(id, secret, &mut request);
    let preamble = Preamble::Session { peer, tls: true };
    let limit = call_limit(world);
    let sent = nodes.iter().map(async |node| {
        // Anybody may ask for this, and each takes both nodes a TLS handshake. One that cannot be reached is in nobody's way
        // but its own. Never closed, so there is no error.
        let turns = Arc::clone(&shared.cancels_elsewhere.entry(node.name.clone()).or_insert_with(turns));
        let _turn = turns.acquire().await;
        match call(peers, node, &preamble, &request, limit).await {
            // It is done with it when it closes.
            Ok(mut stream) => drop(tokio::time::timeout(limit, stream.read(&mut [0; 1])).await),
            Err(error) => tracing::warn!(node = %node.name, %error, "a cancel request could not be handed to a node"),
        }
    });
    join_all(sent).await;
    !nodes.is_empty()
}

/// Has the nodes that serve clients for this one let them finish.
pub async fn drain(shared: &Shared) {
    let world = shared.world.load_full();
    let Some(peers) = &world.peers else { return };
    join_all(others(&world).map(async |node| {
        if let Err(error) = call(peers, node, &Preamble::Drain, &[], call_limit(&world)).await {
            tracing::warn!(node = %node.name, %error, "a node could not be told that this one is shutting down");
        }
    }))
    .await;
}

/// The bits of a cancel key's number that tell which node's it is.
const TAG: u32 = 0x7f00_0000;

/// Nodes may have the same one: then each is asked.
fn tag(node: &NodeName) -> u32 {
    use sha2::{Digest, Sha256};
    let first = Sha256::digest(node.as_str().as_bytes()).first().copied().unwrap_or_default();
    u32::from(first) << 24 & TAG
}

/// What makes a random number the number of a session of this node.
pub(super) fn tagged(world: &World, id: u32) -> u32 {
    match world.settings.node.as_ref().filter(|_| world.peers.is_some()) {
        Some(own) => id & !TAG | tag(own),
        None => id,
    }
}

impl Forwarded {
    fn new(
        core: &Rc<Core>,
        world: &World,
        way: Way,
        client: Stream,
        Goes { stream, node, slot }: Goes,
        peer: Option<SocketAddr>,
        said: Said,
    ) -> Self {
        let same = core.shared.world.load().has_same(world, &way.tenant);
        // For its number alone: the client has that of the other node's session.
        let key = CancelKeys::issue(&core.shared, 0, |id| id);
        let entry = Rc::new(Entry::new(Profile {
            id: key.id,
            pool: usize::MAX,
            party: Some(way.tenant),
            said,
            peer,
            tls: client.is_tls(),
            mode: PoolMode::Session,
            expires_at: None,
            break_glass: false,
            hop: Some(Arc::new(Hop::Goes(node))),
        }));
        entry.set(Phase::Forwarded, Instant::now());
        core.enter(&entry);
        if !same || core.draining.get() {
            // A reload meanwhile, or the beginning of the drain, has not seen it.
            entry.kick(Kick::Stop);
        }
        let (place, _) = Place::take(&core.shared.forwarded);
        let (to_client, to_node) = (BytesMut::new(), BytesMut::new());
        Self {
            core: Rc::clone(core),
            client,
            node: stream,
            entry,
            to_client,
            to_node,
            _key: key,
            _place: place,
            _slot: slot,
        }
    }

    /// Passes bytes on until either side ends it, or it is not to go on.
    pub async fn relay(mut self) {
        let Self { core, client, node, entry, to_client, to_node, .. } = &mut self;
        let limit = core.shared.world.load().settings.listen.drain_timeout;
        // The node sees where a transaction ends, and this one does not: whom it lets finish, it ends.
        let let_finish = async {
            entry.until_kicked().await;
            tokio::time::sleep(limit).await;
        };
        tokio::select! {
            // The node has said all that it had to, or is gone.
            () = pass(client, node, to_client, to_node) => close(client).await,
            () = let_finish => {}
            () = entry.until_ended() => {}
        }
    }
}

/// Passes bytes on in both directions until the node ends the connection, or cannot be told anything more.
async fn pass(client: &mut Stream, node: &mut Stream, to_client: &[u8], to_node: &[u8]) {
    let (client_in, mut client_out) = tokio::io::split(client);
    let (node_in, mut node_out) = tokio::io::split(node);
    let buffered = |from| BufReader::with_capacity(COPIED, from);
    let down = async {
        client_out.write_all(to_client).await?;
        copy_buf(&mut buffered(node_in), &mut client_out).await?;
        client_out.flush().await
    };
    let up = async {
        node_out.write_all(to_node).await?;
        copy_buf(&mut buffered(client_in), &mut node_out).await
    };
    tokio::pin!(down);
    tokio::select! {
        _ = &mut down => {}
        // The client is gone, or the node does not listen any more: it is to learn of the one, and may have said why of the
        // other.
        _ = up => drop(tokio::join!(node_out.shutdown(), down)),
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.core.leave(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_nodes_answers_the_client_gets_what_it_has_not_had() {
        let negotiation = [b'v', 0, 0, 0, 12, 0, 0, 0, 2, 0, 0, 0, 0];
        let request = [b'R', 0, 0, 0, 8, 0, 0, 0, 3];
        let good = [b'R', 0, 0, 0, 8, 0, 0, 0, 0];
        let refusal = [b'E', 0, 0, 0, 5, 0];
        for rest in [&good[..], &refusal] {
            let whole = [&negotiation[..], &request, rest].concat();
            for end in 0..whole.len() {
                let mut answers = BytesMut::from(&whole[..end]);
                let begun = is_for_client(&mut answers).unwrap();
                assert!(!begun || whole[whole.len() - rest.len()..].starts_with(&answers), "{end}");
            }
            let mut answers = BytesMut::from(&whole[..]);
            assert!(is_for_client(&mut answers).unwrap());
            assert_eq!(answers, rest);
        }
        assert!(is_for_client(&mut BytesMut::from(&b"?"[..])).is_err());
    }
}
