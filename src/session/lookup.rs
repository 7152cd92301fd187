//! Asking a server for a user's password, on a backend of pgward's own login role.

use std::rc::Rc;

use super::allowance::Allowance;
use super::core::Core;
use super::introduce::hand_over;
use super::refuse::{self, Loss};
use super::world::World;
use crate::backend::{self, AskError};
use crate::base::{Party, Report, StoredPassword};
use crate::config::Lookup;
use crate::pool::{Lease, Request};
use crate::tenant::Context;

/// Lookups at the same time. Whoever can connect can cause them.
const AT_ONCE: usize = 4;

/// The password of a user as the server has it; `None`: it has no such user, or no password that is taken.
pub(super) async fn password(
    core: &Rc<Core>,
    world: &World,
    lookup: &Lookup,
    user: &str,
    allowance: &Allowance,
) -> Result<Option<StoredPassword>, Report> {
    let pool = world.lookup_pool(&core.shared.pools, lookup).ok_or_else(refuse::misconfigured)?;
    let local = core.shard.local(&pool);
    // A database without a name is no client's, so this context is nobody else's.
    let context = Context::plain(Party::Database("".into()), &lookup.login.role);
    let context = core.shared.contexts.shared(context);
    let request = Request { context: &context, usage: &core.shared.lookups, max_leases: AT_ONCE };
    let mut lease = allowance.stopped(core.shard.acquire(&local, request)).await.map_err(|error| {
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
    let rows = backend::ask(&mut lease.conn.backend, query, &[user]).await.map_err(|error| {
        tracing::warn!(error = %error, "the query that looks users up failed");
        match error {
            AskError::Server { .. } => refuse::lookup(),
            AskError::Lost => refuse::server_lost(Loss::Nothing),
            AskError::Garbled => refuse::server_garbled(Loss::Nothing),
        }
    })?;
    match rows.into_iter().next_back() {
        Some(row) => row.into_iter().nth(1).ok_or_else(refuse::lookup),
        None => Ok(None),
    }
}
