//! Who is it, and what may it reach: token, tenant, route, limits, startup settings. Where there are no
//! tenants, `plain` finds out the first half.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::cancel::{CancelKey, CancelKeys};
use super::core::Core;
use super::entry::{Entry, Profile};
use super::handshake::{Refused, Started};
use super::listen::Hearing;
use super::names::Names;
use super::plain::Wish;
use super::refuse::{self, Loss};
use super::relay::Sink;
use super::room::Room;
use super::serve::{Need, Session, Skipping};
use super::startup_settings::Wanted;
use super::stay::{self, Stay, audit_route};
use super::terms::Terms;
use super::world::World;
use super::{break_glass, startup_settings};
use crate::audit::{Token, Via, Who};
use crate::auth::Identity;
use crate::backend::{Endpoint, Greeting};
use crate::base::{Report, SqlState, clock};
use crate::config::{Isolation, SettingSource, Tenant};
use crate::limits::{ClientSlot, Usage};
use crate::net::Stream;
use crate::pool::{AcquireError, Lease, Local, Request};
use crate::route;
use crate::sql::identifier;
use crate::tenant::{Context, Known};
use crate::wire::handover::{Checker, Step};
use crate::wire::startup::Startup;
use crate::wire::{Header, Origin, backend as answer, encode, frame, handover};

/// Who has come in.
pub(super) enum Login {
    // Made before the login's own memory is free again: in a hole of that, each would waste what is left of it.
    Session(Box<Session>),
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
    /// In the audit log, if there is one.
    pub stay: Option<Box<Stay>>,
}

/// A session that is about to begin; the client has its ReadyForQuery.
struct LoggedIn {
    stream: Stream,
    input: BytesMut,
    entry: Rc<Entry>,
    key: CancelKey,
    terms: Terms,
    usage: Arc<Usage>,
    slot: ClientSlot,
    local: Rc<Local>,
    context: Arc<Context>,
    hearing: Hearing,
    wanted: Option<Box<Reported>>,
    stay: Option<Box<Stay>>,
}

/// What the token and the catalogue give together; or a user, its password and the database's name.
pub(super) struct Admitted {
    pub terms: Terms,
    pub usage: Arc<Usage>,
    pub slot: ClientSlot,
    pub local: Rc<Local>,
    pub context: Context,
    pub hearing: Hearing,
    pub expires_at: Option<u64>,
    /// What the token says of its bearer, for the audit log.
    pub token: Option<Token>,
}

/// Parameters that a server reports, as a client is told them.
pub(super) type Reported = Vec<(String, String)>;

impl Started {
    pub(super) async fn login(
        mut self,
        core: &Rc<Core>,
        world: &Arc<World>,
    ) -> Result<Login, (Option<Stream>, Refused)> {
        let mut identity = None;
        match self.admit(core, world, &mut identity).await {
            Ok(login) => login.finish(self, core, world).await,
            Err(refused) => {
                self.audit_refusal(core, &refused, identity.as_ref());
                Err((Some(self.stream), refused))
            }
        }
    }

    /// `proved`: whom the token speaks for, once it is known, whatever comes of it.
    async fn admit(
        &mut self,
        core: &Rc<Core>,
        world: &World,
        proved: &mut Option<Identity>,
    ) -> Result<Entered, Refused> {
        let Wanted { settings, break_glass } = startup_settings::wanted(&self.startup).map_err(|report| {
            core.stats.login("parameters");
            report.because("parameters")
        })?;
        let user = self.startup.get("user").unwrap_or_default().to_owned();
        if user.is_empty() {
            return Err(refuse::no_user().into());
        }
        let name = database(&self.startup).to_owned();
        let console = name == world.settings.console.database;
        if break_glass.is_some() && (console || world.plain(&name).is_some()) {
            core.stats.login("parameters");
            return Err(refuse::no_break_glass().because("parameters").into());
        }
        if !console && let Some(database) = world.plain(&name) {
            let wish = Wish { user: &user, name: &name, database, settings };
            let (admitted, context, reported) = self.admit_plain(core, world, wish).await?;
            return Ok(Entered::Session(Box::new((admitted, context, reported))));
        }
        let password = self.password().await?;
        core.take_turn().await;
        let now = clock::unix_now();
        if console {
            let known = world.settings.console.users.get(&user);
            if known.is_some_and(|known| known.matches(password.expose())) {
                return Ok(Entered::Console(user, None, None));
            }
            if let Some(role) = &world.settings.console.token_role
                && let Ok(identity) = world.verifier.verify(password.expose(), now).await
                && identity.access == *role
            {
                return Ok(Entered::Console(user, Some(identity.expires_at), Some(stay::token(&identity))));
            }
            core.stats.login("console_refused");
            return Err(refuse::bad_password().because("console_refused").into());
        }
        let identity = world.verifier.verify(password.expose(), now).await.map_err(|error| {
            core.stats.login(error.outcome());
            tracing::info!(peer = ?self.peer, outcome = error.outcome(), "a token was refused");
            refuse::bad_token(error.hint()).because(error.outcome())
        })?;
        drop(password);
        let mut identity = &*proved.insert(identity);
        let entering = break_glass
            .map(|reason| break_glass::enter(core, world, identity.clone(), &user, &reason, now))
            .transpose()?;
        if let Some(entering) = entering {
            identity = proved.insert(entering);
        }
        names_tenant(core, world, &self.startup, identity, &user)?;
        let admitted = serve_identity(core, world, identity, &self.who())?;
        let (context, reported) = introduce(core, &admitted, settings).await?;
        Ok(Entered::Session(Box::new((admitted, context, reported))))
    }
}

enum Entered {
    /// A user; when its token ends and what that says, where it has one.
    Console(String, Option<u64>, Option<Token>),
    Session(Box<(Admitted, Arc<Context>, Reported)>),
}

impl Entered {
    /// Records the login, if there is an audit log.
    async fn begin_stay(&self, started: &Started, core: &Core, id: u32) -> Result<Option<Box<Stay>>, Report> {
        let (who, statements) = match self {
            Self::Console(.., token) => {
                let (session, via, token) = (Some(id), Some(Via::Console), token.clone());
                (Who { session, via, token, ..started.who() }, false)
            }
            Self::Session(parts) => (started.who_is_in(id, &parts.0), parts.0.terms.audit_statements),
        };
        Stay::begin(&core.shared.audit, who, statements).await
    }

    /// Tells the client that it is in.
    async fn finish(
        self,
        started: Started,
        core: &Rc<Core>,
        world: &World,
    ) -> Result<Login, (Option<Stream>, Refused)> {
        let mut out = BytesMut::new();
        encode::authenticated(&mut out);
        let key = CancelKeys::issue(&core.shared, started.startup.spoken_minor());
        // Nobody is let in unrecorded.
        let stay = match self.begin_stay(&started, core, key.id).await {
            Ok(stay) => stay,
            Err(report) => {
                core.stats.login("audit");
                let refused = report.into();
                started.audit_refusal(core, &refused, None);
                return Err((Some(started.stream), refused));
            }
        };
        let Started { mut stream, peer, startup, input } = started;
        let (admitted, context, reported) = match self {
            Self::Console(user, expires_at, _) => {
                return match stream.write_all(&out).await {
                    Ok(()) => Ok(Login::Console(Box::new(Admin { stream, input, user, expires_at, stay }))),
                    Err(_) => Err((None, Refused::Gone)),
                };
            }
            Self::Session(parts) => *parts,
        };
        for (name, value) in &reported {
            encode::parameter(&mut out, name, value);
        }
        encode::cancel_key(&mut out, key.id, &key.secret);
        out.extend_from_slice(encode::READY);
        if stream.write_all(&out).await.is_err() || stream.flush().await.is_err() {
            return Err((None, Refused::Gone));
        }
        let text = |name| startup.get(name).unwrap_or_default().into();
        let entry = Rc::new(Entry::new(Profile {
            id: key.id,
            pool: admitted.local.pool.id(),
            party: Some(admitted.terms.id.clone()),
            user: text("user"),
            database: text("database"),
            application: text("application_name"),
            peer,
            tls: stream.is_tls(),
            mode: admitted.terms.mode,
            expires_at: admitted.expires_at,
            break_glass: admitted.token.as_ref().is_some_and(|token| token.break_glass.is_some()),
        }));
        core.enter(&entry);
        if !std::ptr::eq(Arc::as_ptr(&core.shared.world.load()), world) {
            // A reload meanwhile may have moved the tenant, and has not seen this session.
            entry.kick(super::Kick::Moved);
        }
        let Admitted { terms, usage, slot, local, hearing, .. } = admitted;
        // It has been read once already.
        let wanted = startup_settings::wanted(&startup).unwrap_or_default().settings;
        let wanted = (!wanted.is_empty()).then(|| Box::new(wanted));
        let logged_in =
            LoggedIn { stream, input, entry, key, terms, usage, slot, local, context, hearing, wanted, stay };
        tracing::debug!(party = %logged_in.terms.id, mode = logged_in.terms.mode.as_str(), "a session begins");
        Ok(Login::Session(logged_in.into_session(Rc::clone(core))))
    }
}

impl LoggedIn {
    fn into_session(self, core: Rc<Core>) -> Box<Session> {
        let Self { stream, input, entry, key, terms, usage, slot, local, context, hearing, wanted, .. } = self;
        let Self { stay, .. } = self;
        if core.draining.get() {
            entry.kick(super::Kick::Drain);
        }
        let pins = terms.pins();
        entry.pinned.set(pins.label());
        Box::new(Session {
            core,
            client: stream,
            client_is_dry: false,
            entry,
            key,
            terms,
            usage,
            slot: Some(slot),
            nobody: false,
            wanted,
            local,
            admitted_era: 0,
            base: Arc::clone(&context),
            context,
            own: None,
            names: Names::default(),
            hearing,
            channels: None,
            stay,
            mail: None,
            aside: None,
            errand: None,
            reading: None,
            link: Room::default(),
            waiting: None,
            retry: None,
            pins,
            pin_slot: None,
            need: if input.is_empty() { Need::Bytes } else { Need::Answers },
            inbox: input.to_vec(),
            rest: 0,
            rest_dropped: false,
            skipping: Skipping::Nothing,
            to_client: Sink::default(),
            handover_failures: 0,
            replayed: 0,
        })
    }
}

/// The database that a client names, or else its user, as PostgreSQL has it.
fn database(startup: &Startup) -> &str {
    let given = |name| startup.get(name).filter(|text| !text.is_empty());
    given("database").or_else(|| given("user")).unwrap_or_default()
}

/// What is refused after a token was found good. Why, is for the log alone.
fn refused(core: &Core, identity: &Identity, outcome: &'static str, reason: &str) -> Report {
    core.stats.login(outcome);
    tracing::info!(tenant = %identity.tenant, issuer = %identity.issuer, outcome, reason, "a login was refused");
    refuse::no_access().because(outcome)
}

/// Makes sure that user and database of the connection string are the token's.
fn names_tenant(core: &Core, world: &World, startup: &Startup, identity: &Identity, user: &str) -> Result<(), Report> {
    let Some(tenant) = world.settings.tenants.get(&identity.tenant) else {
        return Err(refused(core, identity, "unknown_tenant", ""));
    };
    if user != tenant.id.as_str() && user != identity.access.as_str() {
        return Err(refused(core, identity, "wrong_user", "the user is neither the tenant nor the role"));
    }
    let database = database(startup);
    if database != tenant.id.as_str() && database != tenant.database {
        let reason = "the database is neither the tenant nor its database";
        return Err(refused(core, identity, "wrong_database", reason));
    }
    Ok(())
}

/// From an identity to a tenant's pool. What the token does not give is refused in the same words.
/// `who` asks, for the audit log.
pub(super) fn serve_identity(core: &Core, world: &World, identity: &Identity, who: &Who) -> Result<Admitted, Report> {
    let refused = |outcome, reason: String| refused(core, identity, outcome, &reason);
    let settings = &world.settings;
    let tenant = settings.tenants.get(&identity.tenant);
    let tenant = tenant.ok_or_else(|| refused("unknown_tenant", String::new()))?;
    let cluster = settings.clusters.get(&tenant.cluster);
    let cluster = cluster.ok_or_else(|| refused("unknown_cluster", tenant.cluster.to_string()))?;
    let no_route = |refusal: route::Refusal| {
        let report = refused("no_route", refusal.to_string());
        audit_route(&core.shared.audit, who, identity, &refusal, report)
    };
    let route = route::decide(tenant, &identity.access, identity.region.as_ref(), cluster).map_err(no_route)?;
    if tenant.suspended {
        core.stats.login("suspended");
        tracing::info!(tenant = %identity.tenant, outcome = "suspended", "a login was refused");
        return Err(refuse::suspended().because("suspended"));
    }
    let mut terms = Terms::of_tenant(tenant, route.login, &route.regions);
    // What is done in an emergency is to be seen afterwards.
    terms.audit_statements |= identity.break_glass.is_some();
    let usage = core.shared.usages.of(&terms.id);
    let limit = terms.limits.max_clients;
    let slot = usage.client(limit).ok_or_else(|| {
        core.stats.login("tenant_clients");
        refuse::tenant_clients(limit)
    })?;
    let pools = world.tenant_pools(&core.shared.pools, cluster, tenant, route.login);
    let (pool, listening) = pools.ok_or_else(refuse::misconfigured)?;
    // Another server may take its place, which is looked at when it serves.
    if let Some(primary) = &pool.head().at().endpoint {
        route::admit(&route.regions, &primary.server, &primary.region).map_err(no_route)?;
    }
    let context = base_context(world, tenant, identity);
    let expires_at = Some(identity.expires_at);
    let key = world.channel_key.clone().filter(|_| tenant.isolation.shares_database());
    let hearing = Hearing { key, by: core.shard.local(&listening) };
    let local = core.shard.local(&pool);
    let token = Some(stay::token(identity));
    Ok(Admitted { terms, usage, slot, local, context, hearing, expires_at, token })
}

/// What backends are told about this session before its own settings.
fn base_context(world: &World, tenant: &Tenant, identity: &Identity) -> Context {
    let rules = &world.settings.context;
    let sealer = world.sealer.as_ref().filter(|_| tenant.isolation == Isolation::Rows);
    // Only of pgward's own making: a token may have claims of any name.
    let emergency = |name: &str| name == break_glass::CLAIM && identity.break_glass.is_some();
    let sealed = |name: &String| name != break_glass::CLAIM && rules.claims.contains(name) || emergency(name);
    let claims = identity.claims.iter().filter(|(name, _)| sealed(name));
    let claims = claims.map(|(name, value)| (name.clone(), value.clone())).collect();
    let quoted: Vec<String> = tenant.search_path.iter().map(|schema| identifier(schema)).collect();
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
