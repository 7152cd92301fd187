//! Calls of what roles.sql and the others define.

use sha2::{Digest, Sha256};

use crate::base::Secret;
use crate::config::Login;
pub(in crate::tenant) use crate::sql::{identifier, literal};

pub(in crate::tenant) fn array<'a>(items: impl Iterator<Item = &'a str>, of: &str) -> String {
    let items: Vec<String> = items.map(literal).collect();
    format!("array[{}]::{of}[]", items.join(", "))
}

/// The key's two blocks, as RFC 2104 makes them.
pub(super) fn key(kid: &str, key: &Secret) -> String {
    let mut block = [0u8; 64];
    let hashed = Sha256::digest(key.expose());
    let short: &[u8] = if key.expose().len() > block.len() { &hashed } else { key.expose() };
    block.iter_mut().zip(short).for_each(|(to, from)| *to = *from);
    let hex = |pad: u8| block.iter().map(|byte| format!("{:02x}", byte ^ pad)).collect::<String>();
    format!(
        "insert into pgward.keys (kid, inner_block, outer_block) values ({}, '\\x{}', '\\x{}')\n\
         on conflict (kid) do update set inner_block = excluded.inner_block, outer_block = excluded.outer_block;",
        literal(kid),
        hex(0x36),
        hex(0x5c)
    )
}

/// Deletes the keys that are none of these.
pub(super) fn prune_keys<'a>(kept: impl Iterator<Item = &'a str>) -> String {
    format!("delete from pgward.keys where kid <> all ({});", array(kept, "text"))
}

pub(super) fn login(login: &Login, database: &str) -> String {
    let settings: Vec<String> = login.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!(
        "select pg_temp.pgward_login({}, {}, {}, {});",
        literal(&login.role),
        literal(database),
        array(settings.iter().map(String::as_str), "text"),
        login.allow_unsafe
    )
}

/// What the role's password is checked by. PostgreSQL never gets the password itself.
pub(super) fn password(role: &str, verifier: &str) -> String {
    format!("alter role {} password {};", identifier(role), literal(verifier))
}

pub(super) fn known(role: &str, tenant: Option<&str>, verifier: &str) -> String {
    let tenant = tenant.map_or_else(|| "null".to_owned(), literal);
    format!("select pg_temp.pgward_known({}, {tenant}, {});", literal(role), literal(verifier))
}

/// What pgward itself logs in as: it listens for tenants, and has their logins mended.
pub(super) fn service(role: &str) -> String {
    format!("grant execute on function pgward.mend(name), pgward.hold(name) to {};", identifier(role))
}

/// Where it asks several servers what they are: a replica tells the timeline that it receives to who may see
/// pg_stat_wal_receiver. Who may not give that goes without.
pub(super) fn prober(role: &str) -> String {
    format!(
        "do $do$ begin
            grant pg_read_all_stats to {};
        exception when insufficient_privilege then
            raise notice 'not granted: pg_read_all_stats';
        end $do$;",
        identifier(role)
    )
}

/// What the catalogue is read as. It changes nothing.
pub(super) fn catalogue_reader(role: &str) -> String {
    let role = identifier(role);
    format!("grant usage on schema pgward_catalogue to {role};\ngrant select on pgward_catalogue.tenants to {role};")
}

/// What backups are made as.
pub(super) fn backup(role: &str, home: &str, receives: bool) -> String {
    format!("select pg_temp.pgward_backup({}, {}, {receives});", literal(role), literal(home))
}

pub(super) fn schema<'a>(name: &str, logins: impl Iterator<Item = &'a Login>) -> String {
    let logins = array(logins.map(|login| login.role.as_str()), "name");
    format!("select pg_temp.pgward_schema({}, {logins});", literal(name))
}

pub(super) fn database(name: &str) -> String {
    format!("select pg_temp.pgward_database({});", literal(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("a'b\\c"), "E'a''b\\\\c'");
        assert_eq!(array(["a", "b'"].into_iter(), "name"), "array[E'a', E'b''']::name[]");
    }
}
