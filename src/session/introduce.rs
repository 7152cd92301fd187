//! What a server says of itself to a session that begins, and whether it takes the session's own settings.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::core::Core;
use super::handshake::Refused;
use super::login::{Admitted, Reported};
use super::refuse::{self, Loss};
use super::startup_settings;
use crate::backend::{Endpoint, Greeting};
use crate::base::{Report, SqlState};
use crate::pool::{AcquireError, Lease, Request};
use crate::route;
use crate::tenant::{Context, Known};
use crate::wire::handover::{Checker, Step};
use crate::wire::{Header, Origin, backend as answer, frame, handover};

/// Finds out what the server reports for a session with these settings, with a backend's help where it
/// is not known yet, so that wrong settings are refused now.
pub(super) async fn introduce(
    core: &Rc<Core>,
    admitted: &Admitted,
    wanted: Vec<(String, String)>,
) -> Result<(Arc<Context>, Reported), Refused> {
    let pool = &admitted.local.pool;
    let shared = |context| core.shared.contexts.shared(context);
    let base = shared(admitted.context.clone());
    let greeting = greet(core, admitted, &base).await.map_err(|error| refuse::acquire(&error))?;
    let parameters: Reported = greeting.parameters.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let known = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let here = |endpoint: Option<&Endpoint>| admits(core, admitted, endpoint);
    // The first backend may have waited for another server to take the writes.
    here(admitted.local.pool.head().at().endpoint.as_deref())?;
    let own: Reported = wanted.into_iter().filter(|(name, value)| !same(name, known(name), value)).collect();
    if own.is_empty() {
        return Ok((base, parameters));
    }
    let key = (pool.key.clone(), own.clone());
    let reported = match core.reported(&key) {
        Some(reported) => reported,
        None => {
            let context = shared(admitted.context.with_settings(&own));
            let lease = acquire(core, admitted, &context).await.map_err(|error| refuse::acquire(&error))?;
            here(Some(&lease.conn.cancel.endpoint))?;
            let reported = Rc::new(try_settings(core, lease, &context).await?);
            core.remember_reported(key, &reported);
            reported
        }
    };
    let mut parameters = parameters;
    for (name, value) in reported.iter() {
        match parameters.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1.clone_from(value),
            None => parameters.push((name.clone(), value.clone())),
        }
    }
    Ok((shared(admitted.context.with_settings(&own)), parameters))
}

/// Whether a server may be told about this login.
fn admits(core: &Core, admitted: &Admitted, endpoint: Option<&Endpoint>) -> Result<(), Report> {
    let (Some(regions), Some(endpoint)) = (&admitted.terms.regions, endpoint) else { return Ok(()) };
    route::admit(regions, &endpoint.server, &endpoint.region).map_err(|refusal| {
        core.stats.login("no_route");
        tracing::info!(party = %admitted.terms.id, %refusal, "a login was refused");
        refuse::no_access().because("no_route")
    })
}

/// What the server says of itself, with a backend's help where it is not known yet.
pub(super) async fn greet(
    core: &Core,
    admitted: &Admitted,
    context: &Arc<Context>,
) -> Result<Arc<Greeting>, AcquireError> {
    let pool = &admitted.local.pool;
    loop {
        if let Some(greeting) = pool.greeting() {
            return Ok(greeting);
        }
        // Opening the first one makes it known.
        let lease = acquire(core, admitted, context).await?;
        core.shard.release(lease, std::time::Instant::now());
    }
}

async fn acquire(core: &Core, admitted: &Admitted, context: &Arc<Context>) -> Result<Lease, AcquireError> {
    let request = Request { context, usage: &admitted.usage, max_leases: admitted.terms.limits.max_leases };
    core.shard.acquire(&admitted.local, request).await.inspect_err(|error| {
        core.stats.login("no_backend");
        tracing::warn!(tenant = %admitted.terms.id, error = %error, source = ?std::error::Error::source(error).map(ToString::to_string), "no backend for a login");
    })
}

/// Whether a setting is what the server has anyway.
fn same(name: &str, known: Option<&str>, value: &str) -> bool {
    match known {
        Some(known) if name == "client_encoding" => startup_settings::same_encoding(known, value),
        Some(known) => known == value,
        None => false,
    }
}

/// Hands a backend over with these settings and reads what the server reports of them.
async fn try_settings(core: &Core, mut lease: Lease, context: &Arc<Context>) -> Result<Reported, Refused> {
    let reported = hand_over(&mut lease, context).await.inspect_err(|report| {
        if report.sqlstate == SqlState::INVALID_PARAMETER_VALUE {
            core.stats.login("parameters");
        }
    })?;
    core.shard.release(lease, std::time::Instant::now());
    Ok(reported)
}

/// Has a backend serve this context, and waits until it does.
pub(super) async fn hand_over(lease: &mut Lease, context: &Arc<Context>) -> Result<Reported, Report> {
    let limit = lease.conn.cancel.endpoint.timeout;
    let handed_over = tokio::time::timeout(limit, put_and_check(lease, context)).await;
    handed_over.unwrap_or_else(|_| Err(refuse::server_lost(Loss::Nothing)))
}

async fn put_and_check(lease: &mut Lease, context: &Arc<Context>) -> Result<Reported, Report> {
    let conn = &mut lease.conn;
    let known = if conn.used { Known::Discarded } else { Known::Nothing };
    let gate = handover::gate();
    let mut out = Vec::new();
    conn.turn = context.turn();
    let mut checker = context.for_backend(conn.backend.pid, &known, |orders| {
        handover::put(&mut out, orders, gate.as_bytes());
        Checker::new(orders)
    });
    out.extend_from_slice(crate::wire::frontend::SYNC);
    conn.used = true;
    conn.context = None;
    conn.prepared.clear();
    conn.backend.stream.write_all(&out).await.map_err(|_| refuse::server_lost(Loss::Nothing))?;
    conn.backend.stream.flush().await.map_err(|_| refuse::server_lost(Loss::Nothing))?;
    let mut reported = Reported::new();
    let mut input = BytesMut::new();
    let mut done = false;
    loop {
        while let Some(header) =
            Header::read(&input, Origin::Server).map_err(|_| refuse::server_garbled(Loss::Nothing))?
        {
            if input.len() < header.total {
                break;
            }
            let message = input.split_to(header.total);
            let body = message.get(frame::HEADER..).unwrap_or_default();
            if done && header.tag == b'Z' {
                conn.context = Some(Arc::clone(context));
                conn.dirty = false;
                return Ok(reported);
            }
            if header.tag == b'S' {
                reported.extend(answer::parameter(body).map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            if !done {
                match checker.take(header.tag, body) {
                    Step::Continue => {}
                    Step::Done => done = true,
                    Step::Failed => return Err(refused_settings(body)),
                }
            }
        }
        match conn.backend.stream.read_buf(&mut input).await {
            Ok(n) if n > 0 => {}
            _ => return Err(refuse::server_lost(Loss::Nothing)),
        }
    }
}

/// The server's own words about the client's own setting.
fn refused_settings(body: &[u8]) -> Report {
    let text = |code| answer::field(body, code).map(|text| String::from_utf8_lossy(text).into_owned());
    match text(b'M') {
        Some(message) => {
            Report::fatal(SqlState::INVALID_PARAMETER_VALUE, format!("a startup parameter was refused: {message}"))
                .because("parameters")
                .hint("Correct it in the connection string.")
        }
        None => refuse::server_garbled(Loss::Nothing),
    }
}
