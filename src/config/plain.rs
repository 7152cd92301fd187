//! Databases without tenants: who may log in, and what a name leads to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use toml::Value;

use super::logins::login;
use super::reader::{Reader, Section, table};
use super::settings::*;
use super::tenants::limits;
use super::{Problem, audit, users};

/// The catalogue of users as PostgreSQL shows it to superusers, without those whose time is up.
const LOOKUP: &str = "select usename, case when valuntil < now() then null else passwd end \
    from pg_catalog.pg_shadow where usename = $1";

/// What stands for every name that no other table has.
const ANY: &str = "*";

pub(super) fn plain(
    reader: &mut Reader,
    section: Option<Section>,
    limits: TenantLimits,
    reads: &Arc<ReadRules>,
) -> Plain {
    let Some(mut section) = section else { return Plain::default() };
    let at = section.at("users_file");
    let file = section.optional::<String>(reader, "users_file");
    let users = file.map(|name| users::users(reader, &at, &name));
    let lookup = section.section(reader, "lookup").and_then(|part| lookup(reader, part));
    let superusers = section.optional(reader, "superusers").unwrap_or_default();
    let mut databases = BTreeMap::new();
    for (at, name, value) in section.entries(reader, "databases") {
        let Some(part) = table(reader, &at, value) else { continue };
        if let Some(read) = database(reader, part, limits, reads) {
            databases.insert(name, Arc::new(read));
        }
    }
    let any = databases.remove(ANY);
    let known = users.is_some() || lookup.is_some();
    if !known {
        reader.problem(
            Problem::new(&section.path, "has neither users_file nor lookup, so that nobody could log in")
                .example("users_file = \"users.txt\""),
        );
    }
    if databases.is_empty() && any.is_none() {
        reader.problem(
            Problem::new(section.at("databases"), "is empty, so that there is nothing to log in to")
                .example("[plain.databases.\"*\"] with cluster = \"main\""),
        );
    }
    section.finish(reader);
    Plain { users: users.unwrap_or_default(), lookup, superusers, databases, any }
}

fn database(
    reader: &mut Reader,
    mut section: Section,
    default: TenantLimits,
    reads: &Arc<ReadRules>,
) -> Option<PlainDatabase> {
    let cluster = section.required(reader, "cluster", "\"main\"");
    let database: Option<String> = section.optional(reader, "database");
    if database.as_ref().is_some_and(String::is_empty) {
        reader.problem(
            Problem::new(section.at("database"), "is empty").example("leave it out: it is then the name asked for"),
        );
    }
    let at = section.at("login");
    // Not by `and_then`: a login with a problem must not become no login, which means the client's own.
    let login = match section.take("login") {
        Some(value) => Some(login(reader, &at, value)?),
        None => None,
    };
    let mode = section.choice(reader, "mode", &PoolMode::ALL).unwrap_or_default();
    let reads = super::reads::reads(reader, &mut section, reads);
    let limits = limits(reader, &mut section, default);
    let audit_statements = audit::statements(reader, &mut section);
    section.finish(reader);
    Some(PlainDatabase { cluster: cluster?, database, login, mode, reads, limits, audit_statements })
}

fn lookup(reader: &mut Reader, mut section: Section) -> Option<Lookup> {
    let cluster = section.required(reader, "cluster", "\"main\"");
    let database = section.required(reader, "database", "\"postgres\"");
    let at = section.at("login");
    let login = section
        .require(reader, "login", "{ role = \"pgward_lookup\", password = { file = \"lookup.password\" } }")
        .and_then(|value: Value| login(reader, &at, value));
    let query = section.optional(reader, "query").unwrap_or_else(|| LOOKUP.to_owned());
    let second = Duration::from_secs(1);
    let cache = section.duration(reader, "cache", 10 * second, second..=3600 * second);
    section.finish(reader);
    Some(Lookup { cluster: cluster?, database: database?, login: login?, query, cache })
}
