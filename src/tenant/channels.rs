//! A tenant's own notification channels in a database that it shares.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::base::{Secret, TenantId};
use crate::config::Settings;

/// The id of this key in `pgward.keys`. No key of the configuration can be called so.
pub(super) const KEY_ID: &str = "for channels";

/// Gives channels their names on the server: an HMAC-SHA-256 over tenant and name, which nobody can guess
/// for another tenant. `pgward.channel` in install.sql does the same.
pub struct ChannelKey(Hmac<Sha256>);

impl ChannelKey {
    /// From what the configuration has. `None`: it has no secret of its own.
    pub fn of(settings: &Settings) -> Option<Self> {
        Hmac::new_from_slice(secret(settings)?.expose()).ok().map(Self)
    }

    /// Of this process alone, where the configuration has no secret: sessions of a tenant still hear each other
    /// and no others, but for functions in the database, which do not know it.
    pub fn random() -> Option<Self> {
        Hmac::new_from_slice(&rand::random::<[u8; 32]>()).ok().map(Self)
    }

    pub fn name(&self, tenant: &TenantId, channel: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(tenant.as_str().as_bytes());
        mac.update(b"\0");
        mac.update(channel.as_bytes());
        let half = mac.finalize().into_bytes();
        half.iter().take(16).fold("pgward_".to_owned(), |name, byte| format!("{name}{byte:02x}"))
    }
}

/// Derived from the master key, or else from the first of the context's.
pub(super) fn secret(settings: &Settings) -> Option<Secret> {
    let from = settings.master_key.as_ref().or_else(|| settings.context.keys.values().next())?;
    let mut mac = Hmac::<Sha256>::new_from_slice(from.expose()).ok()?;
    mac.update(b"pgward notification channels\0");
    Some(Secret::new(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_ones_own_is_nobody_elses() {
        let tenant = TenantId::parse("acme").unwrap();
        let name = || ChannelKey::random().unwrap().name(&tenant, "a");
        assert_ne!(name(), name());
    }

    #[test]
    fn each_tenant_has_other_names_for_the_same_channel() {
        let key = ChannelKey(Hmac::new_from_slice(&[1; 32]).unwrap());
        let of = |tenant: &str, channel: &str| key.name(&TenantId::parse(tenant).unwrap(), channel);
        assert_eq!(of("acme", "a"), of("acme", "a"));
        assert_ne!(of("acme", "a"), of("globex", "a"));
        assert_ne!(of("acme", "a"), of("acme", "b"));
        assert_eq!(of("acme", "a").len(), 39);
    }
}
