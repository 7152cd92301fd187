//! `[catalogue]`: tenants in a table of PostgreSQL, for several pgwards. What stands there is read elsewhere
//! (`crate::catalogue`) and handed in, so that it is judged by the same code as a file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::{Table, Value};

use super::Problem;
use super::logins::login;
use super::reader::{Reader, Section};
use super::settings::{Cluster, Login, LoginPassword, Roles, Settings};
use crate::base::{ClusterName, TenantId};

/// Where the table is, and what was read of it.
#[derive(Debug, Clone)]
pub struct Catalogue {
    pub cluster: ClusterName,
    pub database: String,
    /// What it is read as.
    pub login: Login,
    /// The last good one, to start from while the table cannot be read.
    pub cache: Option<PathBuf>,
    /// How often it is read although nobody told of a change.
    pub poll: Duration,
    pub snapshot: Arc<Snapshot>,
}

impl Catalogue {
    /// For people, and to tell whose a cache is.
    pub fn place(&self) -> String {
        format!("{}@{}", self.database, self.cluster)
    }

    /// Whether it is the same table, looked after in the same way, whatever stands in it. The login's password may turn.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.cluster, &self.database, &self.cache, self.poll)
            == (&other.cluster, &other.database, &other.cache, other.poll)
    }
}

/// What stood in the table at some moment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Each tenant's definition by its name: text that nobody has looked at yet.
    pub entries: BTreeMap<String, String>,
    /// When it was read, in seconds since 1970.
    pub at: u64,
    /// It was not read from the table but from a file, which was written then.
    pub cached: bool,
}

impl Snapshot {
    pub fn has_same(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

/// Without definitions, which may hold passwords.
impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({} tenants)", self.entries.len())
    }
}

pub(super) fn catalogue(
    reader: &mut Reader,
    mut section: Section,
    clusters: &BTreeMap<ClusterName, Arc<Cluster>>,
    master_key: bool,
) -> Option<Catalogue> {
    let at = section.at("cluster");
    let name: Option<ClusterName> = section.required(reader, "cluster", "\"main\"");
    let database: Option<String> = section.required(reader, "database", "\"pgward\"");
    let at_login = section.at("login");
    let said = section.take("login").map(|value| login(reader, &at_login, value));
    let cache = section.optional::<String>(reader, "cache").map(|name| reader.resolve(&name));
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(3_600));
    let poll = section.duration(reader, "poll", Duration::from_secs(30), least..=most);
    section.finish(reader);
    let name = name?;
    let Some(cluster) = clusters.get(&name) else {
        reader.problem(Problem::new(at, "is not among the clusters").value(name));
        return None;
    };
    let login = match said {
        Some(login) => login?,
        None => cluster.service.clone().or_else(|| {
            reader.problem(
                Problem::new(&at_login, "is missing, and the cluster has no service login to read the catalogue as")
                    .example("login = \"pgward_catalogue\""),
            );
            None
        })?,
    };
    if matches!(login.password, LoginPassword::Derived { .. }) && !master_key {
        let what = "has no password, and there is no master_key to derive one from";
        reader.problem(Problem::new(at_login, what).value(&login.role));
    }
    let Some(snapshot) = reader.snapshot() else {
        reader
            .problem(Problem::new("catalogue", "is read by commands and at the start only; restart pgward to have it"));
        return None;
    };
    Some(Catalogue { cluster: name, database: database?, login, cache, poll, snapshot })
}

/// The tenants that stand there, as they would stand in a file. Each definition is read by itself, so that it can
/// define nothing but its own tenant.
pub(super) fn entries(reader: &mut Reader, snapshot: &Snapshot) -> Vec<(String, String, Value)> {
    let mut entries = Vec::with_capacity(snapshot.entries.len());
    for (name, definition) in &snapshot.entries {
        if let Err(error) = TenantId::parse(name) {
            reader.problem(Problem::new("catalogue", format!("a tenant's name {error}")).value(format!("{name:?}")));
            continue;
        }
        let at = format!("tenants.{name}");
        match definition.parse::<Table>() {
            Ok(table) => entries.push((at, name.clone(), Value::Table(table))),
            Err(error) => reader.problem(Problem::syntax(&at, &error)),
        }
    }
    entries
}

/// Who can be what reads the catalogue could read it.
pub(super) fn check(settings: &Settings, problems: &mut Vec<Problem>) {
    let Some(catalogue) = &settings.catalogue else { return };
    let is_read_by = |login: &Login| login.role == catalogue.login.role;
    let shared = settings.clusters.get(&catalogue.cluster);
    let shared = shared.is_some_and(|cluster| cluster.logins.values().any(is_read_by));
    let here = settings.tenants.values().filter(|tenant| tenant.cluster == catalogue.cluster);
    let own = here.filter_map(|tenant| match &tenant.roles {
        Roles::Own(logins) => Some(logins.values()),
        Roles::Shared(_) => None,
    });
    if shared || own.flatten().any(is_read_by) {
        problems.push(Problem::new("catalogue.login", "is also a login of tenants").value(&catalogue.login.role));
    }
}
