//! The sealed context: what tells a backend whose session it serves, and proves it.
//!
//! `version.kid.backend_pid.tenant.claims.mac`, tenant and claims in hex so that nothing in them can be
//! taken for a separator. The MAC (HMAC-SHA-256, RFC 2104) covers all before it. The process id ties the
//! value to one backend: on any other it is refused.

use std::fmt::Write;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::base::{Party, Secret, TenantId};

/// Holds the active key. Sealing costs about a microsecond.
#[derive(Clone)]
pub struct Sealer {
    kid: String,
    mac: Hmac<Sha256>,
}

impl Sealer {
    pub fn new(kid: &str, key: &Secret) -> Option<Self> {
        let mac = Hmac::new_from_slice(key.expose()).ok()?;
        Some(Self { kid: kid.to_owned(), mac })
    }

    fn seal(&self, pid: u32, tail: &str) -> String {
        let mut sealed = format!("1.{}.{pid}.{tail}", self.kid);
        let mut mac = self.mac.clone();
        mac.update(sealed.as_bytes());
        sealed.push('.');
        hex(&mut sealed, &mac.finalize().into_bytes());
        sealed
    }
}

fn hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
}

/// Whose sessions a context serves. Users of one database share what it is counted by, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Whose {
    party: Party,
    /// Where there is no tenant.
    user: Option<Arc<str>>,
}

/// What a backend must be told before it serves a session. Two sessions with equal contexts may follow
/// each other on a backend with nothing in between.
#[derive(Clone)]
pub struct Context {
    whose: Whose,
    /// Tenant and claims as they stand in the sealed value, where the isolation level has one.
    sealed: Option<(Arc<Sealer>, String)>,
    settings: Vec<(String, String)>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({})", self.whose.party)
    }
}

impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        let sealed = match (&self.sealed, &other.sealed) {
            (None, None) => true,
            (Some((a, tail_a)), Some((b, tail_b))) => Arc::ptr_eq(a, b) && tail_a == tail_b,
            _ => false,
        };
        sealed && self.whose == other.whose && self.settings == other.settings
    }
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
        Self { whose: Whose { party: Party::Tenant(tenant.clone()), user: None }, sealed, settings }
    }

    /// For a user where there are no tenants: nothing is told, but that the session before has ended.
    pub fn plain(party: Party, user: &str) -> Self {
        Self { whose: Whose { party, user: Some(Arc::from(user)) }, sealed: None, settings: Vec::new() }
    }

    /// The tenant, or what stands in its place.
    pub fn tenant(&self) -> &Party {
        &self.whose.party
    }

    pub(super) fn whose(&self) -> &Whose {
        &self.whose
    }

    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// The same with other settings.
    #[must_use]
    pub fn with_settings(&self, settings: Vec<(String, String)>) -> Self {
        Self { settings, ..self.clone() }
    }

    /// Calls `with` with the settings that make the backend of this process id serve the session.
    pub fn for_backend<R>(&self, pid: u32, with: impl FnOnce(&[(&str, &str)]) -> R) -> R {
        let sealed = self.sealed.as_ref().map(|(sealer, tail)| sealer.seal(pid, tail));
        let mut all: Vec<(&str, &str)> = Vec::with_capacity(self.settings.len() + 1);
        all.extend(sealed.as_deref().map(|value| ("pgward.context", value)));
        all.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        with(&all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(tenant: &str) -> Context {
        let sealer = Arc::new(Sealer::new("k1", &Secret::new([7; 32])).unwrap());
        Context::new(&TenantId::parse(tenant).unwrap(), Some(&sealer), &serde_json::Map::new(), Vec::new())
    }

    #[test]
    fn a_sealed_value_has_six_parts_and_is_the_backends_own() {
        let value = |pid| context("a.b").for_backend(pid, |settings| settings[0].1.to_owned());
        assert_eq!(value(42).split('.').collect::<Vec<_>>()[..4], ["1", "k1", "42", "612e62"]);
        assert_eq!(value(42).split('.').count(), 6);
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
        assert!(of("a") != of("a").with_settings(vec![("TimeZone".into(), "UTC".into())]));
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
