//! Passwords of login roles: derived, so that no list of them is kept anywhere.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::base::{ClusterName, Secret};
use crate::config::{Login, LoginPassword};

/// The password a backend logs in with, `None` when it would be derived and there is no master key
/// (which `pgward check` refuses).
pub fn login_password(master: Option<&Secret>, cluster: &ClusterName, login: &Login) -> Option<Secret> {
    match &login.password {
        LoginPassword::Fixed(secret) => Some(secret.clone()),
        LoginPassword::Derived { epoch } => derive(master?, cluster, &login.role, *epoch),
    }
}

/// HMAC-SHA-256 over a purpose and the three names, each ended by a NUL, which none of them can hold.
fn derive(master: &Secret, cluster: &ClusterName, role: &str, epoch: u32) -> Option<Secret> {
    let mut mac = Hmac::<Sha256>::new_from_slice(master.expose()).ok()?;
    for part in ["pgward login password", cluster.as_str(), role, &epoch.to_string()] {
        mac.update(part.as_bytes());
        mac.update(b"\0");
    }
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Secret::new(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cluster_role_and_epoch_has_a_password_of_its_own() {
        let master = Secret::new([1; 32]);
        let cluster = ClusterName::parse("colombo").unwrap();
        let other = ClusterName::parse("mumbai").unwrap();
        let all = [
            derive(&master, &cluster, "kandy", 1),
            derive(&master, &cluster, "kandy", 2),
            derive(&master, &cluster, "kandy1", 1),
            derive(&master, &other, "kandy", 1),
            derive(&Secret::new([2; 32]), &cluster, "kandy", 1),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
        assert_eq!(derive(&master, &cluster, "kandy", 1), all[0]);
    }
}
