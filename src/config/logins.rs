//! Roles that backends log in as.

use std::collections::{BTreeMap, HashSet};

use toml::Value;

use super::Problem;
use super::reader::{FromToml, Reader, Section, table};
use super::settings::{Login, LoginPassword, PoolMode, ReadRoute, Roles, Settings};
use crate::base::ClusterName;

/// What pgward itself logs in as where nothing else is said.
const SERVICE: &str = "pgward_service";

/// What backups are begun and ended as, and counted.
const BACKUP: &str = "pgward_backup";

/// Lists of names, which ALTER ROLE stores in another form than it is given; and the search path is the tenant's.
const NOT_FOR_ROLES: [&str; 6] = [
    "search_path",
    "local_preload_libraries",
    "session_preload_libraries",
    "temp_tablespaces",
    "role",
    "session_authorization",
];

/// `"role"` with a derived password, or `{ role = "...", password = ... }`.
pub(super) fn login(reader: &mut Reader, at: &str, value: Value) -> Option<Login> {
    let login = match value {
        Value::String(role) => of_role(role),
        other => {
            let mut section = table(reader, at, other)?;
            let role = section.required(reader, "role", "\"pgward_app\"");
            let fixed = section.optional(reader, "password").map(LoginPassword::Fixed);
            let epoch = section.number(reader, "epoch", 1, 1..=1_000_000);
            let mode = section.choice(reader, "mode", &PoolMode::ALL);
            let route = section.choice(reader, "route", &ReadRoute::ALL);
            let settings = settings(reader, &mut section);
            let allow_unsafe = section.optional(reader, "allow_unsafe").unwrap_or(false);
            section.finish(reader);
            let epoch = u32::try_from(epoch).unwrap_or(1);
            let password = fixed.unwrap_or(LoginPassword::Derived { epoch });
            Login { password, mode, route, settings, allow_unsafe, ..of_role(role?) }
        }
    };
    // NAMEDATALEN - 1, see PostgreSQL's documentation, 4.1.1.
    if login.role.is_empty() || login.role.len() > 63 {
        reader.problem(Problem::new(at, "a role's name has 1 to 63 bytes").value(format!("{:?}", login.role)));
        return None;
    }
    Some(login)
}

fn of_role(role: String) -> Login {
    Login {
        role,
        password: LoginPassword::Derived { epoch: 1 },
        mode: None,
        route: None,
        settings: BTreeMap::new(),
        allow_unsafe: false,
    }
}

/// What pgward itself logs in as. Without a word of it there is one if its password can be derived.
pub(super) fn service(reader: &mut Reader, section: &mut Section, master_key: bool) -> Option<Login> {
    own(reader, section, "service", SERVICE, master_key)
}

/// What backups are made as, likewise.
pub(super) fn backup(reader: &mut Reader, section: &mut Section, master_key: bool) -> Option<Login> {
    own(reader, section, "login", BACKUP, master_key)
}

fn own(reader: &mut Reader, section: &mut Section, key: &'static str, role: &str, master_key: bool) -> Option<Login> {
    let at = section.at(key);
    match section.take(key) {
        Some(value) => login(reader, &at, value),
        None => master_key.then(|| of_role(role.to_owned())),
    }
}

fn settings(reader: &mut Reader, section: &mut Section) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for (at, name, value) in section.entries(reader, "settings") {
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        let name = name.to_ascii_lowercase();
        if name.is_empty() || !name.chars().all(word) || NOT_FOR_ROLES.contains(&name.as_str()) {
            reader.problem(Problem::new(at, "cannot be a setting of a login role"));
        } else if let Some(value) = String::from_toml(reader, &at, value) {
            settings.insert(name, value);
        }
    }
    settings
}

impl Settings {
    /// Roles that tenants' backends log in as, and pgward for them or to know them. Nobody else may.
    pub fn tenants_roles(&self) -> HashSet<(ClusterName, String)> {
        let mut roles = HashSet::new();
        for cluster in self.clusters.values() {
            let logins = cluster.logins.values().chain(&cluster.service).chain(&cluster.upkeep.login);
            roles.extend(logins.map(|login| (cluster.name.clone(), login.role.clone())));
        }
        for tenant in self.tenants.values() {
            if let Roles::Own(logins) = &tenant.roles {
                roles.extend(logins.values().map(|login| (tenant.cluster.clone(), login.role.clone())));
            }
        }
        roles.extend(self.catalogue.iter().map(|it| (it.cluster.clone(), it.login.role.clone())));
        roles
    }
}
