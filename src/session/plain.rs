//! Logging in where there are no tenants: a user and its password, by SCRAM-SHA-256.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::allowance::Allowance;
use super::core::Core;
use super::directory::User;
use super::handshake::{Refused, Started};
use super::introduce::{greet, introduce};
use super::listen::Hearing;
use super::login::{Admitted, Reported, drained};
use super::serve::Session;
use super::terms::Terms;
use super::world::World;
use super::{lookup, refuse};
use crate::auth::scram::{Proved, Scram, nonce};
use crate::backend::{BackendError, Credentials, Greeting, LoginSecret};
use crate::base::{Party, Report};
use crate::config::PlainDatabase;
use crate::pool::AcquireError;
use crate::sql::database_wanted_alone;
use crate::tenant::Context;
use crate::wire::encode;
use crate::wire::frontend::SaslInitial;

/// Where a client wants to go, and as whom.
pub(super) struct Wish<'a> {
    pub user: &'a str,
    /// The name that the client gave.
    pub name: &'a str,
    pub database: &'a PlainDatabase,
    /// Its startup parameters.
    pub settings: Vec<(String, String)>,
}

impl Started {
    /// From a name to a session's parts. The client has been told all but that it is in.
    pub(super) async fn admit_plain(
        &mut self,
        core: &Rc<Core>,
        world: &World,
        wish: Wish<'_>,
        allowance: &Allowance,
    ) -> Result<(Admitted, Arc<Context>, Reported), Refused> {
        let user = self.unless_gone(user(core, world, wish.user, allowance)).await?;
        let proved = self.scram(core, world, wish.user, user.as_deref()).await?;
        let secret = match user.as_ref().and_then(|user| user.password.clone()) {
            Some(password) => LoginSecret::Password(password),
            None => LoginSecret::Keys(proved.keys),
        };
        let admitted = admit(core, world, &wish, secret)?;
        let reached = async { Ok(reach(core, world, &wish, &admitted).await?) };
        if let Err(refused) = self.unless_gone(allowance.stopped(reached)).await {
            forget(core, admitted);
            return Err(refused);
        }
        let introduced = introduce(core, &admitted, wish.settings);
        let (context, reported) = self.unless_gone(allowance.stopped(introduced)).await?;
        Ok((admitted, context, reported))
    }

    /// Has the client prove that it knows the password. One that does not exist goes through the same.
    async fn scram(&mut self, core: &Core, world: &World, name: &str, user: Option<&User>) -> Result<Proved, Refused> {
        let verifier = user.map_or_else(|| world.directory.mock(name), |user| user.verifier.clone());
        let end_point = world.end_point.clone().filter(|_| self.stream.is_tls());
        let scram = Scram::new(verifier, user.is_none(), end_point);
        let mut out = BytesMut::new();
        self.negotiate(&mut out);
        encode::ask_sasl(&mut out, scram.mechanisms());
        self.say(&out).await?;
        let message = self.authentication().await?;
        let first = SaslInitial::read(&message).ok_or_else(|| refuse::malformed(b'p'))?;
        let peer = self.visitor.peer;
        let refused = |error| {
            core.stats.login("password");
            tracing::info!(?peer, user = name, %error, "a login was refused");
            refuse::scram(&error, name)
        };
        let (challenged, challenge) = scram.challenge(first.mechanism, first.data, &nonce()).map_err(refused)?;
        out.clear();
        encode::sasl_continue(&mut out, challenge.as_bytes());
        self.say(&out).await?;
        let message = self.authentication().await?;
        let proved = challenged.finish(&message).map_err(|error| {
            world.directory.doubt(name);
            refused(error)
        })?;
        out.clear();
        encode::sasl_final(&mut out, proved.server_final.as_bytes());
        self.say(&out).await?;
        Ok(proved)
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }
}

impl Session {
    /// Who drops a database without tenants, as tools that migrate do, is not to be held up by idle backends of
    /// pgward's own. The server waits five seconds for them to go.
    pub(super) fn make_way(&self, text: &[u8]) {
        if matches!(self.terms.id, Party::Database(_))
            && let Some(database) = database_wanted_alone(text)
        {
            let key = &self.local.pool.key;
            self.core.shared.pools.retire(&key.cluster, &database);
        }
    }
}

/// What is known of a user, from the users file or else from the server.
async fn user(core: &Rc<Core>, world: &World, name: &str, allowance: &Allowance) -> Result<Option<Arc<User>>, Refused> {
    let directory = &world.directory;
    if let Some(user) = directory.listed(name) {
        return Ok(Some(user));
    }
    let Some(lookup) = &world.settings.plain.lookup else { return Ok(None) };
    if let Some(answer) = directory.answer(name) {
        return Ok(answer);
    }
    let found = lookup::password(core, world, lookup, name, allowance).await;
    let found = found.inspect_err(|_| core.stats.login("lookup"))?;
    Ok(directory.answered(name, found))
}

/// From a user that has proved itself to a pool.
fn admit(core: &Core, world: &World, wish: &Wish<'_>, secret: LoginSecret) -> Result<Admitted, Report> {
    let database = wish.database;
    let credentials = match &database.login {
        Some(login) => (login.role.clone(), world.login_secret(&database.cluster, login)),
        None => (wish.user.to_owned(), Some(secret)),
    };
    let (role, Some(secret)) = credentials else { return Err(refuse::misconfigured()) };
    if world.directory.is_tenants(&database.cluster, &role) {
        core.stats.login("tenants_role");
        tracing::warn!(user = wish.user, role, "a login was refused: tenants' backends log in as this role");
        return Err(refuse::tenants_role());
    }
    let cluster = world.settings.clusters.get(&database.cluster).ok_or_else(refuse::misconfigured)?;
    let name = database.database.as_deref().unwrap_or(wish.name).to_owned();
    let credentials = Credentials { role, database: name, secret };
    let terms = Terms::of_database(wish.name, database);
    let terms = core.shared.terms.shared(terms.id.clone(), terms);
    let usage = core.shared.usages.of(&terms.id);
    let limit = terms.limits.max_clients;
    let slot = usage.client(limit).ok_or_else(|| {
        core.stats.login("database_clients");
        refuse::database_clients(limit)
    })?;
    let pool = world.pool(&core.shared.pools, cluster, credentials, None);
    drained(core, &pool, &usage)?;
    let context = Context::plain(terms.id.clone(), wish.user);
    let local = core.shard.local(&pool);
    let hearing = Hearing { key: None, by: Rc::clone(&local) };
    Ok(Admitted { terms, usage, slot, local, context, hearing, expires_at: None, token: None, grant: None })
}

/// Makes sure that there is such a database, and that its login is no superuser that may not be used.
async fn reach(core: &Core, world: &World, wish: &Wish<'_>, admitted: &Admitted) -> Result<(), Report> {
    let refused = |error: &AcquireError| {
        world.directory.doubt(wish.user);
        match error {
            AcquireError::Open(BackendError::Refused { sqlstate, .. }) if sqlstate == "3D000" => {
                refuse::no_database(wish.name)
            }
            AcquireError::Open(BackendError::Refused { sqlstate, .. }) if sqlstate == "42501" => {
                refuse::no_connect(wish.name)
            }
            AcquireError::Open(BackendError::Refused { sqlstate, .. }) if sqlstate == "28P01" => {
                refuse::not_passed_on(wish.user)
            }
            other => refuse::acquire(other),
        }
    };
    let context = core.shared.contexts.shared(admitted.context.clone());
    let greeting = greet(core, admitted, &context).await.map_err(|error| refused(&error))?;
    let role = &admitted.local.pool.key.role;
    if may_be_superuser(&greeting) && !world.settings.plain.superusers.contains(role) {
        core.stats.login("superuser");
        tracing::warn!(user = wish.user, role, "a login was refused: its backends would be a superuser's");
        return Err(refuse::superuser());
    }
    Ok(())
}

/// Servers have told this since PostgreSQL 7.4. One that does not is not trusted.
fn may_be_superuser(greeting: &Greeting) -> bool {
    greeting.parameters.get("is_superuser").is_none_or(|value| value != "off")
}

/// What was made for a login that came to nothing must not stay: with `*`, clients make up the names.
fn forget(core: &Core, admitted: Admitted) {
    let Admitted { terms, usage, slot, local, context, hearing, .. } = admitted;
    drop((usage, slot, hearing));
    let shared = &core.shared;
    let pool = Arc::clone(&local.pool);
    core.shard.forget(local);
    shared.pools.forget(pool);
    shared.usages.forget(&terms.id);
    shared.contexts.forget(&context);
    let id = terms.id.clone();
    drop(terms);
    shared.terms.forget(&id);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Secret;

    #[test]
    fn only_a_server_that_says_so_has_no_superuser_here() {
        let greeting = |value: Option<&str>| Greeting {
            pid: 1,
            key: Secret::new("k"),
            parameters: value.map(|value| ("is_superuser".to_owned(), value.to_owned())).into_iter().collect(),
        };
        assert!(!may_be_superuser(&greeting(Some("off"))));
        assert!(may_be_superuser(&greeting(Some("on"))));
        assert!(may_be_superuser(&greeting(None)));
    }
}
