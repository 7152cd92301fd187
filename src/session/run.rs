//! One connection from accept to end.

use std::rc::Rc;
use std::time::Instant;

use super::allowance::Allowance;
use super::cancel::Cancelled;
use super::command::Place;
use super::core::Core;
use super::forward::{forward_cancel, forward_tls};
use super::handshake::{Accepted, Handshake, Refused, Visitor, tell};
use super::login::{Admin, Login};
use super::refuse;
use super::stay::refused_early;
use super::travel::Parcel;
use super::world::World;
use crate::audit::{Event, Refusal};
use crate::base::{NodeName, Report, Secret};
use crate::net::Stream;
use crate::telemetry::add;

/// What became of a client on one core.
#[derive(Debug)]
pub enum Outcome {
    Over,
    /// A node that is shutting down: whoever has come by it is to finish.
    Drains(NodeName),
    /// An administrator, for whom the console is.
    Console(Box<Admin>),
    /// To the core of this number, where it goes on.
    Leaves(usize, Box<Parcel>),
}

/// Serves a client. `crowded`: there are more clients than allowed, so this one is told so. `place` is its place among
/// those that log in.
pub fn run(core: Rc<Core>, accepted: Accepted, crowded: bool, place: Place) -> impl Future<Output = Outcome> {
    // Boxed: a session keeps none of the memory that TLS handshakes and logins take. And no async function, which
    // would keep its arguments as long as it runs.
    let login = Box::pin(login(core, accepted, crowded));
    async move {
        let login = login.await;
        drop(place);
        match login {
            Some(Login::Session(session)) => session.serve().await,
            Some(Login::Console(admin)) => Outcome::Console(admin),
            Some(Login::Forwarded(forwarded)) => {
                // Boxed: whoever is served here has no room for it.
                Box::pin(forwarded.relay()).await;
                Outcome::Over
            }
            Some(Login::Drains(node)) => Outcome::Drains(node),
            None => Outcome::Over,
        }
    }
}

/// Goes on with a session that comes from another core.
pub fn arrive(core: Rc<Core>, parcel: Parcel) -> impl Future<Output = Outcome> {
    // Before anything is awaited: the next kick is for it too.
    let session = parcel.unpack(core);
    async move {
        match session {
            Ok(session) => session.serve().await,
            Err(error) => {
                tracing::warn!(%error, "a session could not go on at another core");
                Outcome::Over
            }
        }
    }
}

/// Who may not go on has been told why.
async fn login(core: Rc<Core>, accepted: Accepted, crowded: bool) -> Option<Login> {
    let began = Instant::now();
    let world = core.shared.world.load_full();
    let allowance = Allowance::new(world.settings.listen.startup_timeout);
    let peer = accepted.peer;
    match allowance.bound(enter(&core, accepted, crowded, &allowance)).await {
        Some(Ok(login)) => {
            match &login {
                Some(Login::Session(_)) => {
                    core.stats.login("ok");
                    core.stats.login_time.record(began.elapsed());
                }
                Some(Login::Console(_)) => core.stats.login("console"),
                // Counted where it is done.
                Some(Login::Forwarded(_) | Login::Drains(_)) | None => {}
            }
            login
        }
        Some(Err((stream, Refused::Told(report)))) => {
            core.stats.error(report.sqlstate.as_str().as_bytes());
            if let Some(stream) = stream {
                tell(stream, &report).await;
            }
            None
        }
        Some(Err((_, Refused::Gone))) => {
            core.stats.login("gone");
            None
        }
        None => {
            core.stats.login("timeout");
            refused_early(&core.shared, peer, Refusal { reason: "timeout", sqlstate: None });
            None
        }
    }
}

type Entering = Result<Option<Login>, (Option<Stream>, Refused)>;

async fn enter(core: &Rc<Core>, accepted: Accepted, crowded: bool, allowance: &Allowance) -> Entering {
    let world = core.shared.world.load_full();
    let peer = accepted.peer;
    let early = |report: &Report| {
        let refusal = Refusal { reason: report.reason.unwrap_or("other"), sqlstate: Some(report.sqlstate) };
        refused_early(&core.shared, peer, refusal);
    };
    let handshake = accepted.handshake(&world).await.inspect_err(|(_, refused)| {
        if let Refused::Told(report) = refused {
            early(report);
        }
    });
    match handshake? {
        Handshake::Cancel { id, secret, stream, visitor } => {
            match cancel(core, &world, id, &secret, &visitor).await {
                Cancelled::Sent => add(&core.stats.cancels, 1),
                Cancelled::Nothing => {}
                Cancelled::WrongKey => {
                    core.shared.audit.record(|| Event::CancelRefused { peer: visitor.peer });
                }
            }
            // Only now may the client go on: by then nothing that it sends next can be hit.
            drop(stream);
            Ok(None)
        }
        Handshake::Drains(node) => Ok(Some(Login::Drains(node))),
        Handshake::Elsewhere { .. } if crowded || core.draining.get() => Err((None, Refused::Gone)),
        Handshake::Elsewhere { tcp, way } => Ok(forward_tls(tcp, peer, core, &world, way).await),
        Handshake::Started(started) if crowded => {
            core.stats.login("too_many_clients");
            let refused = refuse::too_many_clients().into();
            started.audit_refusal(core, &refused, None);
            Err((Some(started.stream), refused))
        }
        Handshake::Started(started) if core.draining.get() => Err((Some(started.stream), refuse::draining().into())),
        Handshake::Started(mut started) => {
            started.keep_pace(core, &world).await.map_err(|refused| (None, refused))?;
            if core.draining.get() {
                return Err((Some(started.stream), refuse::draining().into()));
            }
            // What is in force may have changed meanwhile.
            let world = core.shared.world.load_full();
            started.login(core, &world, allowance).await.map(Some)
        }
    }
}

/// A request whose key is none of this node's sessions may be for one of another's, unless that is who sent it.
async fn cancel(core: &Core, world: &World, id: u32, secret: &Secret, visitor: &Visitor) -> Cancelled {
    let cancelled = core.shared.cancel_keys.cancel(id, secret).await;
    let is_stranger = cancelled == Cancelled::WrongKey && visitor.hop.is_none();
    if is_stranger && forward_cancel(&core.shared, world, id, secret, visitor.peer).await {
        Cancelled::Nothing
    } else {
        cancelled
    }
}
