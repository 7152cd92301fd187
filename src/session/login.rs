//! Who is it, and what may it reach: token, tenant, route, limits, startup settings. Where there are no
//! tenants, `plain` finds out the first half.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::allowance::Allowance;
use super::cancel::{CancelKey, CancelKeys};
use super::core::Core;
use super::entry::{Entry, Profile, Said};
use super::forward::{Forwarded, Way, tagged};
use super::handshake::{Refused, Started};
use super::incoming::{self, Came};
use super::introduce::introduce;
use super::listen::Hearing;
use super::names::Names;
use super::plain::Wish;
use super::refuse;
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
use crate::base::{NodeName, Report, Secret, SqlState, clock};
use crate::config::{Cluster, Grant, Isolation, SettingSource, Settings, Tenant};
use crate::limits::{ClientSlot, Held, Usage};
use crate::net::Stream;
use crate::pool::{Local, Pool};
use crate::route::{self, Route};
use crate::sql::identifier;
use crate::telemetry::add;
use crate::tenant::{ChannelKey, Context};
use crate::wire::encode;
use crate::wire::startup::Startup;

/// Who has come in.
pub(super) enum Login {
    // Made before the login's own memory is free again: in a hole of that, each would waste what is left of it.
    Session(Box<Session>),
    Console(Box<Admin>),
    /// Somebody whom another node serves.
    Forwarded(Box<Forwarded>),
    /// A node that is shutting down.
    Drains(NodeName),
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
    terms: Arc<Terms>,
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
    pub terms: Arc<Terms>,
    pub usage: Arc<Usage>,
    pub slot: ClientSlot,
    pub local: Rc<Local>,
    pub context: Context,
    pub hearing: Hearing,
    pub expires_at: Option<u64>,
    /// What the token says of its bearer, for the audit log.
    pub token: Option<Token>,
    /// By what it is served where the tenant's data may not be.
    pub grant: Option<Arc<Grant>>,
}

/// Parameters that a server reports, as a client is told them.
pub(super) type Reported = Vec<(String, String)>;

impl Started {
    pub(super) async fn login(
        mut self,
        core: &Rc<Core>,
        world: &Arc<World>,
        allowance: &Allowance,
    ) -> Result<Login, (Option<Stream>, Refused)> {
        let mut identity = None;
        match self.admit(core, world, allowance, &mut identity).await {
            Ok((Entered::Elsewhere(way, token), world)) => {
                self.forward(core, &world, way, identity.as_ref(), &token).await
            }
            Ok((Entered::Here(login), world)) => login.finish(self, core, &world).await,
            Err(refused) => {
                self.audit_refusal(core, &refused, identity.as_ref());
                Err((Some(self.stream), refused))
            }
        }
    }

    /// Waits while those who are in have much to do. Who hangs up meanwhile gives up the place, and an administrator
    /// has to wait for nobody.
    pub(super) async fn keep_pace(&mut self, core: &Core, world: &World) -> Result<(), Refused> {
        let turnstile = &core.turnstile;
        if !turnstile.is_paced() || database(&self.startup) == world.settings.console.database {
            return Ok(());
        }
        add(&core.stats.paced, 1);
        let mut pace = pin!(turnstile.keep_pace());
        loop {
            tokio::select! {
                () = &mut pace => return Ok(()),
                // Nothing is to come before a password is asked for.
                heard = self.hear() => heard?,
            }
        }
    }

    /// With the configuration that it was judged by. `proved`: whom the token speaks for, once it is known, whatever comes of
    /// it.
    async fn admit(
        &mut self,
        core: &Rc<Core>,
        world: &Arc<World>,
        allowance: &Allowance,
        proved: &mut Option<Identity>,
    ) -> Result<(Entered, Arc<World>), Refused> {
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
        if self.visitor.hop.is_some() && (console || world.plain(&name).is_some()) {
            core.stats.login("not_forwarded");
            return Err(refuse::not_forwarded().into());
        }
        if !console && let Some(database) = world.plain(&name) {
            let wish = Wish { user: &user, name: &name, database, settings };
            let (admitted, context, reported) = self.admit_plain(core, world, wish, allowance).await?;
            return Ok((Entered::Here(Here::Session(Box::new((admitted, context, reported)))), Arc::clone(world)));
        }
        let password = self.password().await?;
        core.turnstile.take_turn().await;
        let now = clock::unix_now();
        if console {
            let known = world.settings.console.users.get(&user);
            if known.is_some_and(|known| known.matches(password.expose())) {
                return Ok((Entered::Here(Here::Console(user, None, None)), Arc::clone(world)));
            }
            if let Some(role) = &world.settings.console.token_role
                && let Ok(identity) = world.verifier.verify(password.expose(), now).await
                && identity.access == *role
            {
                let token = Some(stay::token(&identity));
                let console = Here::Console(user, Some(identity.expires_at), token);
                return Ok((Entered::Here(console), Arc::clone(world)));
            }
            core.stats.login("console_refused");
            return Err(refuse::bad_password().because("console_refused").into());
        }
        let identity = world.verifier.verify(password.expose(), now).await.map_err(|error| {
            core.stats.login(error.outcome());
            tracing::info!(peer = ?self.visitor.peer, outcome = error.outcome(), "a token was refused");
            refuse::bad_token(error.hint()).because(error.outcome())
        })?;
        let mut identity = &*proved.insert(identity);
        let entering = break_glass
            .map(|reason| break_glass::enter(core, world, identity.clone(), &user, &reason, now))
            .transpose()?;
        if let Some(entering) = entering {
            identity = proved.insert(entering);
        }
        // A reload may have been meanwhile, while the client was asked for its token. From here to where it is served nothing
        // is waited for.
        let world = core.shared.world.load_full();
        names_tenant(core, &world, &self.startup, identity, &user)?;
        let came = self.visitor.by_node();
        // Who has come by another node goes no further.
        if came.is_none()
            && let Some(way) = Way::by_token(&world, identity)
        {
            return Ok((Entered::Elsewhere(way, password), world));
        }
        drop(password);
        let admitted = serve_identity(core, &world, identity, &self.who(), came)?;
        let introduced = self.unless_gone(allowance.stopped(introduce(core, &admitted, settings))).await;
        let (context, reported) = introduced?;
        Ok((Entered::Here(Here::Session(Box::new((admitted, context, reported)))), world))
    }
}

enum Entered {
    /// To be forwarded, with its token.
    Elsewhere(Way, Secret),
    Here(Here),
}

enum Here {
    /// A user; when its token ends and what that says, where it has one.
    Console(String, Option<u64>, Option<Token>),
    Session(Box<(Admitted, Arc<Context>, Reported)>),
}

impl Here {
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
        let key = CancelKeys::issue(&core.shared, started.startup.spoken_minor(), |id| tagged(world, id));
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
        let Started { mut stream, visitor, startup, input } = started;
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
        encode::cancel_key(&mut out, key.id, &key.slot.secret);
        out.extend_from_slice(encode::READY);
        if stream.write_all(&out).await.is_err() || stream.flush().await.is_err() {
            return Err((None, Refused::Gone));
        }
        let entry = Rc::new(Entry::new(Profile {
            id: key.id,
            pool: admitted.local.pool.id(),
            party: Some(admitted.terms.id.clone()),
            said: Said::of(&startup),
            peer: visitor.peer,
            tls: stream.is_tls(),
            mode: admitted.terms.mode,
            expires_at: admitted.expires_at,
            break_glass: admitted.token.as_ref().is_some_and(|token| token.break_glass.is_some()),
            hop: visitor.hop,
        }));
        core.enter(&entry);
        if !core.shared.world.load().has_same(world, &admitted.terms.id) {
            // A reload meanwhile has moved it, and has not seen this session.
            entry.kick(super::Kick::Moved);
        }
        if !core.shared.world.load().grants(admitted.grant.as_ref()) {
            entry.kick(super::Kick::Narrowed);
        }
        if is_drained(&admitted.local.pool, &admitted.usage) {
            // Begun meanwhile, too.
            entry.kick(super::Kick::Drained);
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
        entry.pins.set(pins);
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
            is_new: true,
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

/// What a token's bearer may reach from here, at this moment.
pub(super) fn decide<'a>(
    settings: &Settings,
    tenant: &'a Tenant,
    cluster: &'a Cluster,
    identity: &Identity,
) -> Result<Route<'a>, route::Refusal> {
    let here = route::Here::of(settings, settings.region.as_ref(), tenant, &identity.access);
    route::decide(tenant, &identity.access, identity.region.as_ref(), cluster, &here)
}

/// From an identity to a tenant's pool. What the token does not give is refused in the same words.
/// `who` asks, for the audit log; `came`: by which other node.
pub(super) fn serve_identity(
    core: &Core,
    world: &World,
    identity: &Identity,
    who: &Who,
    came: Option<&Came>,
) -> Result<Admitted, Report> {
    let refused = |outcome, reason: String| refused(core, identity, outcome, &reason);
    let settings = &world.settings;
    let tenant = settings.tenants.get(&identity.tenant);
    let tenant = tenant.ok_or_else(|| refused("unknown_tenant", String::new()))?;
    let cluster = settings.clusters.get(&tenant.cluster);
    let cluster = cluster.ok_or_else(|| refused("unknown_cluster", tenant.cluster.to_string()))?;
    let no_route = |refusal: route::Refusal| {
        let report = match &refusal {
            route::Refusal::Node { here, regions } => {
                refused("node_region", refusal.to_string());
                refuse::elsewhere(here, settings.nodes_in(regions, &tenant.home))
            }
            _ => refused("no_route", refusal.to_string()),
        };
        audit_route(&core.shared.audit, who, identity, &refusal, report)
    };
    let route = decide(settings, tenant, cluster, identity).map_err(no_route)?;
    incoming::admit(tenant, came).inspect_err(|_| core.stats.login("not_forwarded"))?;
    let mut terms = Terms::of_tenant(tenant, route.login, &route.regions);
    // What is done in an emergency, or abroad, is to be seen afterwards.
    terms.audit_statements |= identity.break_glass.is_some() || route.grant.is_some();
    let terms = core.shared.terms.shared(terms.id.clone(), terms);
    let usage = core.shared.usages.of(&terms.id);
    let slot = place_of(core, tenant, &usage)?;
    let pools = world.tenant_pools(&core.shared.pools, cluster, tenant, route.login);
    let (pool, listening) = pools.ok_or_else(refuse::misconfigured)?;
    drained(core, &pool, &usage)?;
    // Another server may take its place, which is looked at when it serves.
    if let Some(primary) = &pool.head().at().endpoint {
        route::admit(&route.regions, &primary.server, &primary.region).map_err(no_route)?;
    }
    let context = base_context(world, tenant, identity);
    // A token's end has some grace; a grant's has none.
    let grace = settings.session.expiry_grace.as_secs();
    let over = route.grant.as_ref().map_or(u64::MAX, |grant| grant.until.saturating_sub(grace));
    let expires_at = Some(identity.expires_at.min(over));
    // What is told at home is not told abroad: no grant says so.
    let apart = route.grant.as_ref().and_then(|_| ChannelKey::random()).map(Arc::new);
    let key = apart.or_else(|| world.channel_key.clone().filter(|_| tenant.isolation.shares_database()));
    let hearing = Hearing { key, by: core.shard.local(&listening) };
    let local = core.shard.local(&pool);
    let token = Some(stay::token(identity));
    let grant = route.grant;
    Ok(Admitted { terms, usage, slot, local, context, hearing, expires_at, token, grant })
}

/// A place among a tenant's clients, if any of it may come in.
pub(super) fn place_of(core: &Core, tenant: &Tenant, usage: &Arc<Usage>) -> Result<ClientSlot, Report> {
    if tenant.suspended {
        core.stats.login("suspended");
        tracing::info!(tenant = %tenant.id, outcome = "suspended", "a login was refused");
        return Err(refuse::suspended().because("suspended"));
    }
    let limit = tenant.limits.max_clients;
    usage.client(limit).ok_or_else(|| {
        core.stats.login("tenant_clients");
        refuse::tenant_clients(limit)
    })
}

/// Nobody is let in while a cluster or a tenant is being drained.
pub(super) fn drained(core: &Core, pool: &Pool, usage: &Usage) -> Result<(), Report> {
    if is_drained(pool, usage) { Err(being_drained(core)) } else { Ok(()) }
}

pub(super) fn being_drained(core: &Core) -> Report {
    core.stats.login("drained");
    refuse::drained(SqlState::CANNOT_CONNECT_NOW)
}

pub(super) fn is_drained(pool: &Pool, usage: &Usage) -> bool {
    [&pool.budget().hold, &usage.hold].iter().any(|hold| hold.state() == Held::Drained)
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
