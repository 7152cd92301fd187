//! The sealed context: what tells a backend whose session it serves, and proves it.
//!
//! `version.kid.backend_pid.sealed_at.tenant.claims.mac`, tenant and claims in hex so that nothing in them can be
//! taken for a separator. The MAC (HMAC-SHA-256, RFC 2104) covers all before it. The process id ties the
//! value to one backend: on any other it is refused. The time (seconds since 1970) ties it to the transactions that
//! begin soon after: whoever comes to know another's value can use it no longer than that, and only on that backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::base::{Party, Secret, TenantId, clock};
use crate::sql::identifier;
use crate::wire::handover::Orders;

/// Holds the active key, and lives through all that follow it. Sealing costs about a microsecond.
pub struct Sealer {
    key: ArcSwap<SealingKey>,
    /// Counts how often what was sealed before has become old, from 1 on.
    turn: AtomicU32,
}

/// How often contexts are sealed anew. `pgward.tenant()` takes them for five times as long, so that clocks may differ.
pub const SEALED_ANEW: Duration = Duration::from_secs(60);

struct SealingKey {
    kid: String,
    mac: Hmac<Sha256>,
}

impl SealingKey {
    fn new(kid: &str, key: &Secret) -> Option<Arc<Self>> {
        let mac = Hmac::new_from_slice(key.expose()).ok()?;
        Some(Arc::new(Self { kid: kid.to_owned(), mac }))
    }
}

impl Sealer {
    pub fn new(kid: &str, key: &Secret) -> Option<Self> {
        Some(Self { key: ArcSwap::new(SealingKey::new(kid, key)?), turn: AtomicU32::new(1) })
    }

    /// Seals with another key from now on. Backends that were told a context before are told it again, each at
    /// its next transaction.
    pub fn turn_to(&self, kid: &str, key: &Secret) {
        if let Some(key) = SealingKey::new(kid, key) {
            self.key.store(key);
            self.grow_old();
        }
    }

    /// What was sealed before is old now. To be called every [`SEALED_ANEW`].
    pub fn grow_old(&self) {
        self.turn.fetch_add(1, Ordering::Release);
    }

    /// The sealed value for one backend, without claims.
    pub fn context(&self, pid: u32, tenant: &TenantId) -> String {
        let mut tail = String::new();
        hex(&mut tail, tenant.as_str().as_bytes());
        tail.push('.');
        hex(&mut tail, b"{}");
        self.seal(pid, &tail)
    }

    fn seal(&self, pid: u32, tail: &str) -> String {
        let key = self.key.load();
        let mut sealed = format!("2.{}.{pid}.{}.{tail}", key.kid, clock::unix_now());
        let mut mac = key.mac.clone();
        mac.update(sealed.as_bytes());
        sealed.push('.');
        hex(&mut sealed, &mac.finalize().into_bytes());
        sealed
    }
}

fn hex(out: &mut String, bytes: &[u8]) {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

/// The setting by which a session says where its reads go.
pub const ROUTE: &str = "pgward.route";

/// Whose sessions a context serves. Users of one database share what it is counted by, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Whose {
    party: Party,
    /// Where there is no tenant.
    user: Option<Arc<str>>,
}

/// What a backend that is about to serve a session has of one.
#[derive(Debug)]
pub enum Known<'a> {
    /// All of the session's own, and what is sealed of it has become old.
    Sealed,
    /// Nothing that it would have to be told to forget.
    Nothing,
    /// It has to be made so first, by a DISCARD ALL.
    Discarded,
    /// All that belongs to this context, and nothing else. Where what is sealed of it has become old (`turn`),
    /// it is sealed anew.
    Context { context: &'a Context, turn: u32 },
}

/// What a backend must be told before it serves a session. Two sessions with equal contexts may follow
/// each other on a backend with nothing in between.
#[derive(Clone)]
pub struct Context {
    whose: Whose,
    /// Tenant and claims as they stand in the sealed value, where the isolation level has one.
    sealed: Option<(Arc<Sealer>, String)>,
    settings: Vec<(String, String)>,
    /// [`ROUTE`] is among them. Asked for before each transaction.
    says_route: bool,
    /// Statements of SQL's PREPARE: name and text.
    prepared: Vec<(String, String)>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({})", self.whose.party)
    }
}

impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        self.seals_like(other)
            && self.whose == other.whose
            && self.settings == other.settings
            && self.prepared == other.prepared
    }
}

fn says_route(settings: &[(String, String)]) -> bool {
    settings.iter().any(|(name, _)| name.eq_ignore_ascii_case(ROUTE))
}

impl Context {
    /// `settings` are plain ones (`search_path`, startup parameters, mapped claims).
    pub fn new(
        tenant: &TenantId,
        sealer: Option<&Arc<Sealer>>,
        claims: &serde_json::Map<String, serde_json::Value>,
        settings: Vec<(String, String)>,
    ) -> Self {
        let sealed = sealer.map(|sealer| {
            let mut tail = String::new();
            hex(&mut tail, tenant.as_str().as_bytes());
            tail.push('.');
            hex(&mut tail, serde_json::Value::Object(claims.clone()).to_string().as_bytes());
            (Arc::clone(sealer), tail)
        });
        let whose = Whose { party: Party::Tenant(tenant.clone()), user: None };
        Self { whose, sealed, says_route: says_route(&settings), settings, prepared: Vec::new() }
    }

    /// For a user where there are no tenants: nothing is told, but that the session before has ended.
    pub fn plain(party: Party, user: &str) -> Self {
        Self {
            whose: Whose { party, user: Some(Arc::from(user)) },
            sealed: None,
            settings: Vec::new(),
            says_route: false,
            prepared: Vec::new(),
        }
    }

    /// The tenant, or what stands in its place.
    pub fn tenant(&self) -> &Party {
        &self.whose.party
    }

    /// How often the like of it has become old. A context that is not sealed never does.
    pub fn turn(&self) -> u32 {
        self.sealed.as_ref().map_or(0, |(sealer, _)| sealer.turn.load(Ordering::Acquire))
    }

    pub fn whose(&self) -> &Whose {
        &self.whose
    }

    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// What the session says of where its reads go, if it says something.
    pub fn route(&self) -> Option<&str> {
        if !self.says_route {
            return None;
        }
        self.setting(ROUTE)
    }

    pub fn setting(&self, name: &str) -> Option<&str> {
        let settings = self.settings.iter().rev();
        settings.clone().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn prepared(&self) -> &[(String, String)] {
        &self.prepared
    }

    /// The same with these settings besides its own, over which they win.
    #[must_use]
    pub fn with_settings(&self, more: &[(String, String)]) -> Self {
        let mut context = self.without_settings(more);
        context.settings.extend_from_slice(more);
        context.says_route = says_route(&context.settings);
        context
    }

    /// The same without settings of these names.
    #[must_use]
    pub fn without_settings(&self, names: &[(String, String)]) -> Self {
        let mut settings = self.settings.clone();
        settings.retain(|(name, _)| !names.iter().any(|(other, _)| other == name));
        Self { says_route: says_route(&settings), settings, ..self.clone() }
    }

    /// The same with these statements.
    #[must_use]
    pub fn with_prepared(self, prepared: Vec<(String, String)>) -> Self {
        Self { prepared, ..self }
    }

    /// Calls `with` with what makes the backend of this process id serve the session.
    pub fn for_backend<R>(&self, pid: u32, known: &Known<'_>, with: impl FnOnce(&Orders<'_>) -> R) -> R {
        let before = match known {
            Known::Context { context, turn } => Some((*context, *turn)),
            Known::Nothing | Known::Discarded | Known::Sealed => None,
        };
        let new = before.is_none_or(|(before, turn)| turn != self.turn() || !self.seals_like(before));
        let before = before.map(|(before, _)| before);
        let sealed = self.sealed.as_ref().filter(|_| new).map(|(sealer, tail)| sealer.seal(pid, tail));
        let had: &[(String, String)] = before.map_or(&[], |before| &before.settings);
        let prepared: &[(String, String)] = before.map_or(&[], |before| &before.prepared);
        let mut orders = Orders { discard: matches!(known, Known::Discarded), ..Orders::default() };
        if matches!(known, Known::Sealed) {
            orders.settings.extend(sealed.as_deref().map(|value| (SEALED, Some(value))));
            return with(&orders);
        }
        orders.settings.reserve(self.settings.len() + 1);
        let gone = had.iter().filter(|(name, _)| !self.settings.iter().any(|(other, _)| other == name));
        orders.settings.extend(gone.map(|(name, _)| (name.as_str(), None)));
        orders.settings.extend(sealed.as_deref().map(|value| (SEALED, Some(value))));
        let other = self.settings.iter().filter(|setting| !had.contains(setting));
        orders.settings.extend(other.map(|(name, value)| (name.as_str(), Some(value.as_str()))));
        let gone = prepared.iter().filter(|statement| !self.prepared.contains(statement));
        orders.statements.extend(gone.map(|(name, _)| deallocate(name).into()));
        let other = self.prepared.iter().filter(|statement| !prepared.contains(statement));
        orders.statements.extend(other.map(|(_, text)| text.as_str().into()));
        with(&orders)
    }

    fn seals_like(&self, other: &Self) -> bool {
        match (&self.sealed, &other.sealed) {
            (None, None) => true,
            (Some((a, tail_a)), Some((b, tail_b))) => Arc::ptr_eq(a, b) && tail_a == tail_b,
            _ => false,
        }
    }
}

/// The setting that holds the sealed value.
const SEALED: &str = "pgward.context";

fn deallocate(name: &str) -> String {
    format!("DEALLOCATE {}", identifier(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(tenant: &str) -> Context {
        let sealer = Arc::new(Sealer::new("k1", &Secret::new([7; 32])).unwrap());
        Context::new(&TenantId::parse(tenant).unwrap(), Some(&sealer), &serde_json::Map::new(), Vec::new())
    }

    #[test]
    fn a_sealed_value_has_seven_parts_and_is_the_backends_own() {
        let value =
            |pid| context("a.b").for_backend(pid, &Known::Nothing, |orders| orders.settings[0].1.unwrap().to_owned());
        let value_of_42 = value(42);
        let parts: Vec<&str> = value_of_42.split('.').collect();
        assert_eq!((parts.len(), &parts[..3], parts[4]), (7, &["2", "k1", "42"][..], "612e62"));
        assert!(parts[3].parse::<u64>().unwrap().abs_diff(clock::unix_now()) < 60);
        assert_ne!(value(42), value(43));
    }

    #[test]
    fn contexts_of_two_tenants_are_never_equal() {
        let sealer = Arc::new(Sealer::new("k1", &Secret::new([7; 32])).unwrap());
        let of = |tenant: &str| {
            Context::new(&TenantId::parse(tenant).unwrap(), Some(&sealer), &serde_json::Map::new(), Vec::new())
        };
        assert!(of("a") == of("a"));
        assert!(of("a") != of("b"));
        assert!(of("a") != of("a").with_settings(&[("TimeZone".into(), "UTC".into())]));
    }

    #[test]
    fn between_sessions_of_one_tenant_only_the_difference_is_told() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let base = context("a");
        let one = base
            .with_settings(&[pair("TimeZone", "UTC"), pair("app.x", "1")])
            .with_prepared(vec![pair("p", "PREPARE p AS SELECT 1"), pair("Q", "PREPARE \"Q\" AS SELECT 2")]);
        let two = base.with_settings(&[pair("app.x", "2")]).with_prepared(vec![pair("p", "PREPARE p AS SELECT 1")]);
        two.for_backend(1, &Known::Context { context: &one, turn: one.turn() }, |orders| {
            assert_eq!(orders.settings, [("TimeZone", None), ("app.x", Some("2"))]);
            assert_eq!(orders.statements, ["DEALLOCATE \"Q\""]);
        });
        one.for_backend(1, &Known::Context { context: &two, turn: two.turn() }, |orders| {
            assert_eq!(orders.settings, [("TimeZone", Some("UTC")), ("app.x", Some("1"))]);
            assert_eq!(orders.statements, ["PREPARE \"Q\" AS SELECT 2"]);
        });
        one.for_backend(1, &Known::Discarded, |orders| {
            assert_eq!(orders.settings.len(), 3, "the sealed value too");
            assert_eq!((orders.discard, orders.statements.len()), (true, 2));
        });
        one.without_settings(&[pair("app.x", "any")]).for_backend(1, &Known::Nothing, |orders| {
            assert_eq!((orders.discard, orders.settings.len()), (false, 2), "the sealed value and TimeZone");
        });
    }

    #[test]
    fn after_a_change_of_keys_and_after_a_while_a_backend_is_told_the_sealed_value_anew() {
        let one = context("a");
        let turn = one.turn();
        let told = |known: &Known<'_>| {
            one.for_backend(1, known, |orders| {
                orders.settings.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>()
            })
        };
        assert_eq!(told(&Known::Context { context: &one, turn }), [""; 0]);
        one.sealed.as_ref().unwrap().0.turn_to("k2", &Secret::new([8; 32]));
        assert_ne!(one.turn(), turn);
        assert_eq!(told(&Known::Context { context: &one, turn }), [SEALED]);
        assert_eq!(told(&Known::Sealed), [SEALED]);
        let turn = one.turn();
        one.sealed.as_ref().unwrap().0.grow_old();
        assert_eq!(told(&Known::Context { context: &one, turn }), [SEALED]);
    }

    #[test]
    fn contexts_of_two_users_are_never_equal() {
        let of = |database: &str, user| Context::plain(Party::Database(Arc::from(database)), user);
        assert!(of("app", "ann") == of("app", "ann"));
        assert!(of("app", "ann") != of("app", "bob"));
        assert!(of("app", "ann") != of("log", "ann"));
        let tenant = Context::new(&TenantId::parse("app").unwrap(), None, &serde_json::Map::new(), Vec::new());
        assert!(of("app", "app") != tenant);
    }
}
