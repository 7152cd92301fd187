//! Asking a server for a user's password, on a backend of pgward's own login role.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::core::Core;
use super::login::hand_over;
use super::refuse;
use super::world::World;
use crate::base::{Party, Report, StoredPassword};
use crate::config::Lookup;
use crate::pool::{Lease, Request};
use crate::tenant::Context;
use crate::wire::{Header, Origin, backend as answer, frame, frontend};

/// Lookups at the same time. Whoever can connect can cause them.
const AT_ONCE: usize = 4;

/// The password of a user as the server has it; `None`: it has no such user, or no password that is taken.
pub(super) async fn password(
    core: &Rc<Core>,
    world: &World,
    lookup: &Lookup,
    user: &str,
) -> Result<Option<StoredPassword>, Report> {
    let pool = world.lookup_pool(&core.shared.pools, lookup).ok_or_else(refuse::misconfigured)?;
    let local = core.shard.local(&pool);
    // A database without a name is no client's, so this context is nobody else's.
    let context = Context::plain(Party::Database("".into()), &lookup.login.role);
    let context = core.shared.contexts.shared(context);
    let request = Request { context: &context, usage: &core.shared.lookups, max_leases: AT_ONCE };
    let mut lease = core.shard.acquire(&local, request).await.map_err(|error| {
        tracing::warn!(error = %error, source = ?std::error::Error::source(&error).map(ToString::to_string), "no backend to look a user up");
        refuse::acquire(&error)
    })?;
    if !lease.conn.serves(&context) {
        hand_over(&mut lease, &context).await?;
    }
    let found = ask(&mut lease, &lookup.query, user).await?;
    core.shard.release(lease, std::time::Instant::now());
    let Some(found) = found.filter(|found| !found.is_empty()) else { return Ok(None) };
    match StoredPassword::parse(&found) {
        Ok(stored) => Ok(Some(stored)),
        Err(error) => {
            tracing::warn!(user, "the password of a user that was looked up {error}");
            Ok(None)
        }
    }
}

/// Runs the query; gives the second column of its row. The backend is at rest when this succeeds.
async fn ask(lease: &mut Lease, query: &str, user: &str) -> Result<Option<String>, Report> {
    let stream = &mut lease.conn.backend.stream;
    let mut out = Vec::new();
    frontend::put_parse(&mut out, b"", &[query.as_bytes(), b"\0\0\0"].concat());
    frontend::put_bind(&mut out, b"", &[Some(user.as_bytes())]);
    frontend::put_execute(&mut out);
    out.extend_from_slice(frontend::SYNC);
    stream.write_all(&out).await.map_err(|_| refuse::server_lost())?;
    stream.flush().await.map_err(|_| refuse::server_lost())?;
    let (mut input, mut found, mut failed) = (BytesMut::new(), None, false);
    loop {
        while let Some(header) = Header::read(&input, Origin::Server).map_err(|_| refuse::server_garbled())? {
            if input.len() < header.total {
                break;
            }
            let message = input.split_to(header.total);
            let body = message.get(frame::HEADER..).unwrap_or_default();
            match header.tag {
                b'D' => found = Some(answer::column(body, 1).ok_or_else(refuse::lookup)?.map(str::to_owned)),
                b'E' => {
                    failed = true;
                    let text =
                        |code| String::from_utf8_lossy(answer::field(body, code).unwrap_or_default()).into_owned();
                    tracing::warn!(sqlstate = text(b'C'), message = text(b'M'), "the query that looks users up failed");
                }
                b'Z' if failed || !input.is_empty() => return Err(refuse::lookup()),
                b'Z' => return Ok(found.flatten()),
                // Parse and Bind are done, the command is complete, and what the server may say at any time.
                b'1' | b'2' | b'C' | b'N' | b'S' => {}
                _ => return Err(refuse::server_garbled()),
            }
        }
        match stream.read_buf(&mut input).await {
            Ok(n) if n > 0 => {}
            _ => return Err(refuse::server_lost()),
        }
    }
}
