//! Users and databases where there are no tenants: what the configuration makes of a name, and whose
//! password is known.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;

use crate::auth::scram;
use crate::base::scram::ITERATIONS;
use crate::base::{ClusterName, Secret, StoredPassword, Verifier};
use crate::config::{Lookup, PlainDatabase, Settings};

/// Answers of lookups that are kept. Names come from clients that have not proved anything yet.
const ANSWERS: usize = 10_000;

/// An answer that a wrong password makes doubtful is asked for anew, but not more often than this.
const DOUBT: Duration = Duration::from_secs(1);

/// A user whose password can be checked.
#[derive(Debug)]
pub(super) struct User {
    pub verifier: Verifier,
    /// The password itself, where it is kept so.
    pub password: Option<Secret>,
}

#[derive(Debug)]
pub(super) struct Directory {
    /// For what must be the same for a name and not be guessed.
    key: Secret,
    /// Of users that do not exist, and of passwords kept readably: as many as others show.
    iterations: u32,
    users: HashMap<String, Arc<User>>,
    /// Names that `*` does not stand for, since tenants or administrators log in there.
    taken: HashSet<String>,
    /// Roles that no user is let in as, since tenants' backends are theirs.
    tenants_roles: HashSet<(ClusterName, String)>,
    answers: Option<Arc<Answers>>,
}

/// What lookups found lately.
#[derive(Debug)]
struct Answers {
    lookup: Lookup,
    known: DashMap<String, (Instant, Option<Arc<User>>)>,
}

impl Directory {
    /// `before` lends what has not changed. Its key stays, so that a reload does not change what users that
    /// do not exist are shown.
    pub fn new(settings: &Settings, before: Option<&Directory>) -> Self {
        // From one process to the next it stays only where the configuration has a secret.
        let kept = settings.master_key.as_ref().or(before.map(|before| &before.key));
        let key = kept.cloned().unwrap_or_else(|| Secret::new(rand::random::<[u8; 32]>()));
        let plain = &settings.plain;
        let shown = plain.users.values().find_map(|stored| match stored {
            StoredPassword::Verifier(verifier) => Some(verifier.iterations),
            StoredPassword::Plain(_) => None,
        });
        let iterations = shown.unwrap_or(ITERATIONS);
        let user = |(name, stored): (&String, &StoredPassword)| {
            let known = before.and_then(|before| before.users.get(name));
            let user = match (stored, known) {
                // Making a verifier takes milliseconds, and there may be many.
                (StoredPassword::Plain(secret), Some(known))
                    if known.password.as_ref() == Some(secret) && known.verifier.iterations == iterations =>
                {
                    Arc::clone(known)
                }
                _ => Arc::new(user(&key, name, iterations, stored.clone())),
            };
            (name.clone(), user)
        };
        let users = plain.users.iter().map(user).collect();
        let mut taken = HashSet::new();
        if plain.any.is_some() {
            taken.insert(settings.console.database.clone());
            for tenant in settings.tenants.values() {
                taken.insert(tenant.id.to_string());
                taken.insert(tenant.database.clone());
            }
        }
        let answers = plain.lookup.as_ref().map(|lookup| {
            let known = before.and_then(|before| before.answers.as_ref()).filter(|known| known.lookup == *lookup);
            known.map_or_else(|| Arc::new(Answers { lookup: lookup.clone(), known: DashMap::new() }), Arc::clone)
        });
        let tenants_roles = settings.tenants_roles();
        Self { key, iterations, users, taken, tenants_roles, answers }
    }

    /// The database that a name leads to. `None`: it is the tenants', or nobody's.
    pub fn database<'a>(&self, settings: &'a Settings, name: &str) -> Option<&'a Arc<PlainDatabase>> {
        let plain = &settings.plain;
        plain.databases.get(name).or_else(|| plain.any.as_ref().filter(|_| !self.taken.contains(name)))
    }

    /// Whether tenants' backends on this cluster log in as this role.
    pub fn is_tenants(&self, cluster: &ClusterName, role: &str) -> bool {
        self.tenants_roles.contains(&(cluster.clone(), role.to_owned()))
    }

    /// The user of the users file.
    pub fn listed(&self, name: &str) -> Option<Arc<User>> {
        self.users.get(name).cloned()
    }

    /// The verifier of a user that does not exist.
    pub fn mock(&self, name: &str) -> Verifier {
        scram::mock(&self.key, name, self.iterations)
    }

    /// A lookup's answer that is still good. The inner `None`: there is no such user.
    pub fn answer(&self, name: &str) -> Option<Option<Arc<User>>> {
        let answers = self.answers.as_ref()?;
        let (asked, user) = answers.known.get(name)?.clone();
        (asked.elapsed() < answers.lookup.cache).then_some(user)
    }

    pub fn answered(&self, name: &str, found: Option<StoredPassword>) -> Option<Arc<User>> {
        let user = found.map(|stored| Arc::new(user(&self.key, name, self.iterations, stored)));
        if let Some(answers) = &self.answers {
            if answers.known.len() >= ANSWERS {
                answers.known.retain(|_, (asked, _)| asked.elapsed() < answers.lookup.cache);
            }
            if answers.known.len() >= ANSWERS {
                answers.known.clear();
            }
            answers.known.insert(name.to_owned(), (Instant::now(), user.clone()));
        }
        user
    }

    /// A login by what a lookup said came to nothing: the password may have changed since.
    pub fn doubt(&self, name: &str) {
        if let Some(answers) = &self.answers {
            answers.known.remove_if(name, |_, (asked, _)| asked.elapsed() > DOUBT);
        }
    }
}

fn user(key: &Secret, name: &str, iterations: u32, stored: StoredPassword) -> User {
    match stored {
        StoredPassword::Verifier(verifier) => User { verifier, password: None },
        StoredPassword::Plain(password) => {
            let verifier = Verifier::of_password(&password, &scram::salt(key, name), iterations);
            User { verifier, password: Some(password) }
        }
    }
}
