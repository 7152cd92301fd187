//! Who is it, and what may it reach: token, tenant, route, limits, startup settings.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::cancel::{CancelKey, CancelKeys};
use super::core::Core;
use super::entry::{Entry, Profile};
use super::handshake::{Refused, Started};
use super::names::Names;
use super::relay::Sink;
use super::serve::{Need, Session};
use super::world::World;
use super::{refuse, startup_settings};
use crate::auth::Identity;
use crate::base::{Report, SqlState, clock};
use crate::config::{Isolation, PoolMode, SettingSource, Tenant};
use crate::limits::{ClientSlot, Usage};
use crate::net::Stream;
use crate::pool::{Lease, Local, Request};
use crate::route;
use crate::sql::{Pin, Pins};
use crate::tenant::{ChannelKey, Context};
use crate::wire::handover::{Checker, Step};
use crate::wire::startup::Startup;
use crate::wire::{Header, Origin, backend as answer, encode, frame, handover};

/// Who has come in.
pub enum Login {
    Tenant(Box<LoggedIn>),
    Console(Box<Admin>),
}

/// An administrator at the console. ReadyForQuery has not been sent.
#[derive(Debug)]
pub struct Admin {
    pub stream: Stream,
    pub input: BytesMut,
    pub user: String,
    /// When the token that let it in ends, in seconds since 1970. A password has no end.
    pub expires_at: Option<u64>,
}

/// A tenant's session that is about to begin; the client has its ReadyForQuery.
pub struct LoggedIn {
    stream: Stream,
    input: BytesMut,
    entry: Rc<Entry>,
    key: CancelKey,
    tenant: Arc<Tenant>,
    usage: Arc<Usage>,
    slot: ClientSlot,
    local: Rc<Local>,
    context: Arc<Context>,
    mode: PoolMode,
    channel_key: Option<Arc<ChannelKey>>,
    max_prepared: usize,
}

/// What the token and the catalogue give together.
struct Admitted {
    tenant: Arc<Tenant>,
    usage: Arc<Usage>,
    slot: ClientSlot,
    local: Rc<Local>,
    context: Context,
    mode: PoolMode,
    expires_at: u64,
}

/// Parameters that a server reports, as a client is told them.
pub(super) type Reported = Vec<(String, String)>;

impl Started {
    pub(super) async fn login(
        mut self,
        core: &Rc<Core>,
        world: &Arc<World>,
    ) -> Result<Login, (Option<Stream>, Refused)> {
        match self.admit(core, world).await {
            Ok(login) => login.finish(self, core, world).await,
            Err(refused) => Err((Some(self.stream), refused)),
        }
    }

    async fn admit(&mut self, core: &Rc<Core>, world: &World) -> Result<Entered, Refused> {
        let settings = startup_settings::settings(&self.startup).inspect_err(|_| core.stats.login("parameters"))?;
        let user = self.startup.get("user").unwrap_or_default().to_owned();
        if user.is_empty() {
            return Err(refuse::no_user().into());
        }
        let password = self.password().await?;
        let now = clock::unix_now();
        if is_console(&self.startup, world) {
            let known = world.settings.console.users.get(&user);
            if known.is_some_and(|known| known.matches(password.expose())) {
                return Ok(Entered::Console(user, None));
            }
            if let Some(role) = &world.settings.console.token_role
                && let Ok(identity) = world.verifier.verify(password.expose(), now).await
                && identity.access == *role
            {
                return Ok(Entered::Console(user, Some(identity.expires_at)));
            }
            core.stats.login("console_refused");
            return Err(refuse::bad_password().into());
        }
        let identity = world.verifier.verify(password.expose(), now).await.map_err(|error| {
            core.stats.login(error.outcome());
            tracing::info!(peer = ?self.peer, outcome = error.outcome(), "a token was refused");
            refuse::bad_token(error.hint())
        })?;
        drop(password);
        let admitted = admit(core, world, &self.startup, &identity, &user)?;
        let (context, reported) = introduce(core, &admitted, settings).await?;
        Ok(Entered::Tenant(Box::new((admitted, context, reported))))
    }
}

enum Entered {
    Console(String, Option<u64>),
    Tenant(Box<(Admitted, Arc<Context>, Reported)>),
}

impl Entered {
    /// Tells the client that it is in.
    async fn finish(
        self,
        started: Started,
        core: &Rc<Core>,
        world: &World,
    ) -> Result<Login, (Option<Stream>, Refused)> {
        let Started { mut stream, peer, startup, input } = started;
        let mut out = BytesMut::new();
        encode::authenticated(&mut out);
        let (admitted, context, reported) = match self {
            Self::Console(user, expires_at) => {
                return match stream.write_all(&out).await {
                    Ok(()) => Ok(Login::Console(Box::new(Admin { stream, input, user, expires_at }))),
                    Err(_) => Err((None, Refused::Gone)),
                };
            }
            Self::Tenant(parts) => *parts,
        };
        for (name, value) in &reported {
            encode::parameter(&mut out, name, value);
        }
        let key = CancelKeys::issue(&core.shared, startup.spoken_minor());
        encode::cancel_key(&mut out, key.id, &key.secret);
        out.extend_from_slice(encode::READY);
        if stream.write_all(&out).await.is_err() || stream.flush().await.is_err() {
            return Err((None, Refused::Gone));
        }
        let text = |name| startup.get(name).unwrap_or_default().to_owned();
        let entry = Rc::new(Entry::new(Profile {
            id: key.id,
            pool: admitted.local.pool.id(),
            tenant: admitted.tenant.id.clone(),
            user: text("user"),
            database: text("database"),
            application: text("application_name"),
            peer,
            tls: stream.is_tls(),
            expires_at: admitted.expires_at,
        }));
        core.enter(&entry);
        let Admitted { tenant, usage, slot, local, mode, .. } = admitted;
        let max_prepared = world.settings.session.prepared_per_session;
        let channel_key = world.channel_key.clone().filter(|_| tenant.isolation.shares_database());
        let logged_in = LoggedIn {
            stream,
            input,
            entry,
            key,
            tenant,
            usage,
            slot,
            local,
            context,
            mode,
            channel_key,
            max_prepared,
        };
        Ok(Login::Tenant(Box::new(logged_in)))
    }
}

impl LoggedIn {
    pub(super) fn into_session(self, core: Rc<Core>) -> Session {
        let Self { stream, input, entry, key, tenant, usage, slot, local, context, mode, channel_key, max_prepared } =
            self;
        if core.draining.get() {
            entry.kick(super::Kick::Drain);
        }
        let pins = match mode {
            PoolMode::Transaction => Pins::NONE,
            PoolMode::Session => Pins::of(Pin::Mode),
        };
        entry.pinned.set(pins.iter().next().map(Pin::label));
        Session {
            core,
            client: stream,
            entry,
            key,
            tenant,
            usage,
            slot,
            local,
            base: Arc::clone(&context),
            context,
            own: None,
            names: Names::default(),
            channel_key,
            channels: None,
            max_prepared,
            link: None,
            waiting: None,
            retry: None,
            pins,
            pin_slot: None,
            need: if input.is_empty() { Need::Bytes } else { Need::Answers },
            inbox: input.to_vec(),
            rest: 0,
            rest_dropped: false,
            skipping: false,
            to_client: Sink::default(),
            handover_failures: 0,
        }
    }
}

fn is_console(startup: &Startup, world: &World) -> bool {
    let database = startup.get("database").or_else(|| startup.get("user"));
    database == Some(world.settings.console.database.as_str())
}

/// From an identity to a tenant's pool. What the token does not give is refused in the same words.
fn admit(core: &Core, world: &World, startup: &Startup, identity: &Identity, user: &str) -> Result<Admitted, Report> {
    let refused = |outcome: &'static str, reason: String| {
        core.stats.login(outcome);
        tracing::info!(tenant = %identity.tenant, issuer = %identity.issuer, outcome, reason, "a login was refused");
        refuse::no_access()
    };
    let settings = &world.settings;
    let tenant = settings.tenants.get(&identity.tenant);
    let tenant = tenant.ok_or_else(|| refused("unknown_tenant", String::new()))?;
    if user != tenant.id.as_str() && user != identity.access.as_str() {
        return Err(refused("wrong_user", "the user is neither the tenant nor the role".to_owned()));
    }
    let database = startup.get("database").unwrap_or(user);
    if database != tenant.id.as_str() && database != tenant.database {
        return Err(refused("wrong_database", "the database is neither the tenant nor its database".to_owned()));
    }
    let cluster = settings.clusters.get(&tenant.cluster);
    let cluster = cluster.ok_or_else(|| refused("unknown_cluster", tenant.cluster.to_string()))?;
    let route = route::decide(tenant, &identity.access, identity.region.as_ref(), cluster)
        .map_err(|refusal| refused("no_route", refusal.to_string()))?;
    let usage = core.shared.usages.of(&tenant.id);
    let limit = tenant.limits.max_clients;
    let slot = usage.client(limit).ok_or_else(|| {
        core.stats.login("tenant_clients");
        refuse::tenant_clients(limit)
    })?;
    let pool = world
        .pool(&core.shared.pools, cluster, route.server, route.login, &tenant.database)
        .ok_or_else(refuse::misconfigured)?;
    let context = base_context(world, tenant, identity);
    let expires_at = identity.expires_at;
    let mode = route.login.mode.unwrap_or(tenant.mode);
    let local = core.shard.local(&pool);
    Ok(Admitted { tenant: Arc::clone(tenant), usage, slot, local, context, mode, expires_at })
}

/// What backends are told about this session before its own settings.
fn base_context(world: &World, tenant: &Tenant, identity: &Identity) -> Context {
    let rules = &world.settings.context;
    let sealer = world.sealer.as_ref().filter(|_| tenant.isolation == Isolation::Rows);
    let claims = identity.claims.iter().filter(|(name, _)| rules.claims.contains(name));
    let claims = claims.map(|(name, value)| (name.clone(), value.clone())).collect();
    let quoted: Vec<String> =
        tenant.search_path.iter().map(|schema| format!("\"{}\"", schema.replace('"', "\"\""))).collect();
    let mut settings = vec![("search_path".to_owned(), quoted.join(", "))];
    for (name, source) in &rules.settings {
        settings.push((name.clone(), setting_value(source, tenant, identity)));
    }
    Context::new(&tenant.id, sealer, &claims, settings)
}

/// The value of a mapped setting; a claim that is missing is empty, which policies take for nobody.
fn setting_value(source: &SettingSource, tenant: &Tenant, identity: &Identity) -> String {
    match source {
        SettingSource::Literal(text) => text.clone(),
        SettingSource::Tenant => tenant.id.to_string(),
        SettingSource::Claim(path) => {
            let claims = serde_json::Value::Object((*identity.claims).clone());
            match path.path.query(&claims).first() {
                Some(serde_json::Value::String(text)) => text.replace('\0', ""),
                Some(other) => other.to_string().replace('\0', ""),
                None => String::new(),
            }
        }
    }
}

/// Finds out what the server reports for a session with these settings, with a backend's help where it
/// is not known yet, so that wrong settings are refused now.
async fn introduce(
    core: &Rc<Core>,
    admitted: &Admitted,
    wanted: Vec<(String, String)>,
) -> Result<(Arc<Context>, Reported), Refused> {
    let pool = &admitted.local.pool;
    let acquire = async |context: &Arc<Context>| {
        let request = Request { context, usage: &admitted.usage, max_leases: admitted.tenant.limits.max_leases };
        core.shard.acquire(&admitted.local, request).await.map_err(|error| {
            core.stats.login("no_backend");
            tracing::warn!(tenant = %admitted.tenant.id, error = %error, source = ?std::error::Error::source(&error).map(ToString::to_string), "no backend for a login");
            refuse::acquire(&error)
        })
    };
    let shared = |context| core.shared.contexts.shared(context);
    let base = shared(admitted.context.clone());
    if pool.greeting().is_none() {
        let lease = acquire(&base).await?;
        core.shard.release(lease, std::time::Instant::now());
    }
    let greeting = pool.greeting().ok_or_else(refuse::server_lost)?;
    let parameters: Reported = greeting.parameters.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let known = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let own: Reported = wanted.into_iter().filter(|(name, value)| !same(name, known(name), value)).collect();
    if own.is_empty() {
        return Ok((base, parameters));
    }
    let key = (pool.key.clone(), own.clone());
    let reported = match core.reported(&key) {
        Some(reported) => reported,
        None => {
            let context = shared(admitted.context.with_settings(&own));
            let lease = acquire(&context).await?;
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

/// Whether a setting is what the server has anyway. Encodings have several spellings.
fn same(name: &str, known: Option<&str>, value: &str) -> bool {
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    match known {
        Some(known) if name == "client_encoding" => plain(known) == plain(value),
        Some(known) => known == value,
        None => false,
    }
}

/// Hands a backend over with these settings and reads what the server reports of them.
async fn try_settings(core: &Core, mut lease: Lease, context: &Arc<Context>) -> Result<Reported, Refused> {
    let conn = &mut lease.conn;
    let discard = conn.used;
    let gate = handover::gate();
    let mut out = Vec::new();
    let mut checker = context.for_backend(conn.backend.pid, None, discard, |orders| {
        handover::put(&mut out, orders, gate.as_bytes());
        Checker::new(orders)
    });
    out.extend_from_slice(crate::wire::frontend::SYNC);
    conn.used = true;
    conn.context = None;
    conn.prepared.clear();
    conn.backend.stream.write_all(&out).await.map_err(|_| refuse::server_lost())?;
    conn.backend.stream.flush().await.map_err(|_| refuse::server_lost())?;
    let mut reported = Reported::new();
    let mut input = BytesMut::new();
    let mut done = false;
    loop {
        while let Some(header) = Header::read(&input, Origin::Server).map_err(|_| refuse::server_garbled())? {
            if input.len() < header.total {
                break;
            }
            let message = input.split_to(header.total);
            let body = message.get(frame::HEADER..).unwrap_or_default();
            if done && header.tag == b'Z' {
                conn.context = Some(Arc::clone(context));
                conn.dirty = false;
                core.shard.release(lease, std::time::Instant::now());
                return Ok(reported);
            }
            if header.tag == b'S' {
                reported.extend(answer::parameter(body).map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            if !done {
                match checker.take(header.tag, body) {
                    Step::Continue => {}
                    Step::Done => done = true,
                    Step::Failed => {
                        core.stats.login("parameters");
                        return Err(refused_settings(body).into());
                    }
                }
            }
        }
        match conn.backend.stream.read_buf(&mut input).await {
            Ok(n) if n > 0 => {}
            _ => return Err(refuse::server_lost().into()),
        }
    }
}

/// The server's own words about the client's own setting.
fn refused_settings(body: &[u8]) -> Report {
    let text = |code| answer::field(body, code).map(|text| String::from_utf8_lossy(text).into_owned());
    match text(b'M') {
        Some(message) => {
            Report::fatal(SqlState::INVALID_PARAMETER_VALUE, format!("a startup parameter was refused: {message}"))
                .hint("Correct it in the connection string.")
        }
        None => refuse::server_garbled(),
    }
}
