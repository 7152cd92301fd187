//! The tenants: in the configuration file itself, and in a file of their own or a catalogue that it names.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use toml::{Table, Value};

use super::logins::login;
use super::reader::{FromToml, Reader, Section, map, name_of, table};
use super::regions::Groups;
use super::settings::*;
use super::{Forward, Problem, Snapshot, audit, catalogue};
use crate::base::{Access, Region, TenantId};

/// What tenants have that say nothing, and what their regions may be called.
pub(super) struct Defaults<'a> {
    pub limits: TenantLimits,
    pub reads: &'a Arc<ReadRules>,
    pub forward: Forward,
    pub groups: &'a Groups,
}

pub(super) fn default_limits(reader: &mut Reader, section: Option<Section>) -> TenantLimits {
    let default = TenantLimits { max_clients: 1_000, max_leases: 20, max_pinned: 10_000 };
    let Some(mut section) = section else { return default };
    let limits = limits(reader, &mut section, default);
    section.finish(reader);
    limits
}

pub(super) fn limits(reader: &mut Reader, section: &mut Section, default: TenantLimits) -> TenantLimits {
    TenantLimits {
        max_clients: section.number(reader, "max_clients", default.max_clients, 1..=1_000_000),
        max_leases: section.number(reader, "max_leases", default.max_leases, 1..=10_000),
        max_pinned: section.number(reader, "max_pinned", default.max_pinned, 0..=10_000),
    }
}

impl FileVersion {
    /// Behind a symbolic link: the file that it leads to.
    pub fn of(path: &Path) -> Self {
        let found = std::fs::metadata(path);
        Self(found.ok().map(|file| (file.mtime(), file.mtime_nsec(), file.size(), file.ino())))
    }
}

pub(super) fn tenants(
    reader: &mut Reader,
    root: &mut Section,
    elsewhere: Option<&Snapshot>,
    defaults: &Defaults,
) -> (Tenants, Option<TenantsFile>) {
    let mut entries = root.entries(reader, "tenants");
    let name = root.optional::<String>(reader, "tenants_file");
    if name.is_some() && elsewhere.is_some() {
        let what =
            "stands beside [catalogue]; tenants are in one of the two, besides those of the configuration itself";
        reader.problem(Problem::new("tenants_file", what));
    }
    // Its version first: a change while it is read is one that comes after it.
    let file = name.as_deref().map(|name| {
        let path = reader.resolve(name);
        TenantsFile { version: FileVersion::of(&path), path }
    });
    if let Some(name) = name
        && let Some(bytes) = reader.tenants("tenants_file", &name)
    {
        match String::from_utf8_lossy(&bytes).parse::<Table>() {
            Ok(file) => {
                let mut section = Section::new("", file);
                entries.extend(section.entries(reader, "tenants"));
                section.finish(reader);
            }
            Err(error) => reader.problem(Problem::syntax(&name, &error)),
        }
    }
    entries.extend(elsewhere.map(|snapshot| catalogue::entries(reader, snapshot)).unwrap_or_default());
    let mut out = Tenants::with_capacity(entries.len());
    for (at, key, value) in entries {
        let Some(id) = name_of::<TenantId>(reader, &at, key) else { continue };
        let Some(section) = table(reader, &at, value) else { continue };
        let Some(tenant) = tenant(reader, &id, section, defaults) else { continue };
        if out.insert(id, Arc::new(tenant)).is_some() {
            let other = if elsewhere.is_some() { "the catalogue" } else { "the tenants file" };
            reader.problem(Problem::new(at, format!("is in the configuration file and in {other}")));
        }
    }
    (out, file)
}

fn tenant(reader: &mut Reader, id: &TenantId, mut section: Section, defaults: &Defaults) -> Option<Tenant> {
    let groups = defaults.groups;
    let levels = [
        ("rows", Isolation::Rows),
        ("schema", Isolation::Schema),
        ("database", Isolation::Database),
        ("cluster", Isolation::Cluster),
    ];
    let isolation = section.choice(reader, "isolation", &levels).unwrap_or(Isolation::Rows);
    let cluster = section.required(reader, "cluster", "\"main\"");
    let database: Option<String> = section.required(reader, "database", "\"app\"");
    let schema: String = section.optional(reader, "schema").unwrap_or_else(|| match isolation {
        Isolation::Schema => id.to_string(),
        _ => "public".to_owned(),
    });
    let search_path = section.optional(reader, "search_path").unwrap_or_else(|| vec![schema]);
    let home: Option<Region> = section.required(reader, "home", "\"lk\"");
    let (at, at_home) = (section.at("regions"), section.at("home"));
    let regions = groups.optional(reader, &mut section, "regions");
    let roles = roles(reader, &mut section, id, isolation);
    let mode = section.choice(reader, "mode", &PoolMode::ALL).unwrap_or(PoolMode::Transaction);
    let limits = limits(reader, &mut section, defaults.limits);
    let reads = super::reads::reads(reader, &mut section, defaults.reads);
    let forward = super::forwarding::forward(reader, &mut section, defaults.forward);
    let class = section.optional(reader, "class");
    let audit_statements = audit::statements(reader, &mut section);
    let suspended = section.optional(reader, "suspended").is_some_and(|Suspended(is)| is);
    let legal_hold = section.optional(reader, "legal_hold").and_then(|text| {
        super::grants::checked_reason(reader, &section.at("legal_hold"), text, "\"court order 2026/117\"")
    });
    section.finish(reader);
    let home = home?;
    groups.is_one(reader, &at_home, &home);
    let regions = regions.unwrap_or_else(|| vec![home.clone()]);
    if !regions.contains(&home) {
        reader.problem(Problem::new(at, "must contain the home region").example(format!("regions = [\"{home}\"]")));
    }
    Some(Tenant {
        id: id.clone(),
        isolation,
        cluster: cluster?,
        database: database?,
        search_path,
        home,
        regions: regions.into(),
        forward,
        roles: roles?,
        mode,
        reads,
        limits,
        class,
        audit_statements,
        suspended,
        legal_hold,
    })
}

/// What `suspended` says where a restore has suspended the tenant: it lifts nothing but that.
pub const RESTORING: &str = "restoring";

/// By somebody, or by a restore.
struct Suspended(bool);

impl FromToml for Suspended {
    fn from_toml(reader: &mut Reader, at: &str, value: Value) -> Option<Self> {
        match value {
            Value::Boolean(is) => Some(Self(is)),
            Value::String(word) if word == RESTORING => Some(Self(true)),
            other => {
                let what = format!("must be true, false or \"{RESTORING}\"");
                reader.problem(Problem::new(at, what).value(other));
                None
            }
        }
    }
}

fn roles(reader: &mut Reader, section: &mut Section, id: &TenantId, isolation: Isolation) -> Option<Roles> {
    let at = section.at("roles");
    match (section.take("roles"), isolation) {
        (None, Isolation::Rows) => Some(Roles::Shared(Vec::new())),
        (None, _) => {
            let app = Access::parse("app").ok()?;
            let login = login(reader, &at, Value::String(id.to_string()))?;
            Some(Roles::Own([(app, login)].into()))
        }
        (Some(value), Isolation::Rows) => {
            let names = Vec::<String>::from_toml(reader, &at, value)?;
            names.into_iter().map(|name| name_of(reader, &at, name)).collect::<Option<_>>().map(Roles::Shared)
        }
        (Some(value), _) => {
            let entries = table(reader, &at, value)?.into_entries();
            Some(Roles::Own(map(reader, entries, |reader, at, _: &Access, value| login(reader, at, value))))
        }
    }
}
