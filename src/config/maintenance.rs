//! `[maintenance]`, `[classes]` and `[clusters.NAME.partitions]`: tables that are partitioned by time, and how long whose
//! rows are kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use toml::Value;

use super::Problem;
use super::logins::login;
use super::reader::{Reader, Section, empty, map, table};
use super::settings::{Cluster, Isolation, Login, Roles, Settings, Tenant};
use crate::base::{ClassName, PartitionsName};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// What partitions are made and dropped as, where nothing else is said.
const LOGIN: &str = "pgward_maintenance";

/// In which table's name every tenant's own schema is meant.
const OWN_SCHEMA: &str = "*";

/// What of PostgreSQL's names pg_partman needs for the ends of its own.
const LONGEST_TABLE: usize = 46;

/// How the work on partitions goes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    pub interval: Duration,
    /// How long a statement may wait for a lock, during which clients may wait behind it.
    pub lock_timeout: Duration,
    pub statement_timeout: Duration,
    /// After which a table's turn is cut short.
    pub turn_timeout: Duration,
    /// Rows that are deleted in one transaction.
    pub batch: usize,
    /// Rows of one table that are deleted in one run.
    pub max_rows: usize,
    /// Intervals without success after which it is overdue.
    pub alert_after: usize,
}

impl Maintenance {
    /// How long a table may go without before somebody has to look at it.
    pub fn patience(&self) -> Duration {
        self.interval.saturating_mul(u32::try_from(self.alert_after).unwrap_or(u32::MAX))
    }
}

/// Tenants whose rows are kept equally long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    pub retention: Duration,
}

/// What a cluster has of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Of tables that tenants share. What is a tenant's own is changed by the tenant's login.
    pub login: Option<Login>,
    pub partitions: BTreeMap<PartitionsName, Arc<Partitions>>,
}

/// One table that is partitioned by time, or one of each tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitions {
    /// `None`: all that tenants have there, which only tables of their own can be in.
    pub database: Option<String>,
    /// `None`: the tenant's own one.
    pub schema: Option<String>,
    pub table: String,
    /// That it is partitioned by.
    pub column: String,
    pub every: Every,
    /// Partitions that are there ahead of time.
    pub premake: usize,
    /// Of tenants without a class. `None`: for ever.
    pub retention: Option<Duration>,
    /// That says whose a row is.
    pub tenant_column: String,
}

/// How much time is in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    Hour,
    Day,
    Week,
    Month,
}

impl Every {
    const ALL: [(&'static str, Self); 4] =
        [("1 hour", Self::Hour), ("1 day", Self::Day), ("1 week", Self::Week), ("1 month", Self::Month)];

    /// As pg_partman's `create_parent` calls it.
    pub const fn partman(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
        }
    }

    /// As PostgreSQL writes it.
    pub const fn interval(self) -> &'static str {
        match self {
            Self::Hour => "1 hour",
            Self::Day => "1 day",
            Self::Week => "7 days",
            Self::Month => "1 month",
        }
    }
}

impl Tenant {
    /// Its logins where it has some of its own, the one that owns what it has first.
    pub fn own_logins(&self) -> impl Iterator<Item = &Login> {
        let own = match &self.roles {
            Roles::Own(logins) => Some(logins.values()),
            Roles::Shared(_) => None,
        };
        own.into_iter().flatten()
    }
}

impl Settings {
    /// Whether a role is one that tenants of a cluster come in as, or that pgward is for them.
    pub fn is_of_tenants(&self, cluster: &Cluster, role: &str) -> bool {
        let here = self.tenants.values().filter(|tenant| tenant.cluster == cluster.name);
        let own = here.flat_map(|tenant| tenant.own_logins());
        cluster.logins.values().chain(&cluster.service).chain(own).any(|login| login.role == role)
    }
}

impl Partitions {
    /// Whether some table, be it of a tenant that is yet to come, is one of both.
    fn may_name_the_same(&self, other: &Self) -> bool {
        let anywhere = self.database.is_none() || other.database.is_none();
        (&self.schema, &self.table) == (&other.schema, &other.table) && (anywhere || self.database == other.database)
    }

    /// Whether the tenant has a table of its own of these.
    pub fn is_own_of(&self, tenant: &Tenant) -> bool {
        let own = tenant.isolation != Isolation::Rows;
        self.schema.is_none() && own && self.database.as_ref().is_none_or(|database| *database == tenant.database)
    }
}

pub(super) fn maintenance(reader: &mut Reader, section: Option<Section>) -> Maintenance {
    let mut section = empty("maintenance", section);
    let maintenance = Maintenance {
        interval: section.duration(reader, "interval", HOUR, SECOND..=DAY),
        lock_timeout: section.duration(reader, "lock_timeout", SECOND / 2, SECOND / 100..=MINUTE),
        statement_timeout: section.duration(reader, "statement_timeout", 5 * MINUTE, SECOND..=DAY),
        turn_timeout: section.duration(reader, "turn_timeout", 15 * MINUTE, SECOND..=DAY),
        batch: section.number(reader, "batch", 1_000, 1..=100_000),
        max_rows: section.number(reader, "max_rows", 100_000, 1..=1_000_000_000),
        alert_after: section.number(reader, "alert_after", 3, 1..=1_000),
    };
    section.finish(reader);
    maintenance
}

pub(super) fn classes(reader: &mut Reader, root: &mut Section) -> BTreeMap<ClassName, Class> {
    let entries = root.entries(reader, "classes");
    map(reader, entries, |reader, at, _: &ClassName, value| {
        let mut section = table(reader, at, value)?;
        let said = section.require(reader, "retention", "\"90d\"");
        section.finish(reader);
        Some(Class { retention: kept(reader, at, said?) })
    })
}

pub(super) fn upkeep(reader: &mut Reader, section: &mut Section, master_key: bool) -> Arc<Upkeep> {
    let entries = section.entries(reader, "partitions");
    let at = section.at("maintenance");
    let said = section.take("maintenance");
    let there = !entries.is_empty();
    let login = match said {
        Some(value) => login(reader, &at, value),
        None if there && master_key => login(reader, &at, Value::String(LOGIN.to_owned())),
        None => None,
    };
    if there && login.is_none() {
        let what = "is missing, while there are partitions, and no master key to derive its password from";
        reader.problem(Problem::new(at, what).example(format!("maintenance = \"{LOGIN}\"")));
    }
    let partitions = map(reader, entries, |reader, at, _: &PartitionsName, value| {
        let section = table(reader, at, value)?;
        partitions(reader, section).map(Arc::new)
    });
    Arc::new(Upkeep { login, partitions })
}

fn partitions(reader: &mut Reader, mut section: Section) -> Option<Partitions> {
    let database: Option<String> = section.optional(reader, "database");
    let (at_table, at_database) = (section.at("table"), section.at("database"));
    let named: Option<String> = section.required(reader, "table", "\"public.events\"");
    let column: Option<String> = section.required(reader, "column", "\"at\"");
    let every = section.choice(reader, "every", &Every::ALL).unwrap_or(Every::Day);
    let premake = section.number(reader, "premake", 4, 1..=100);
    let at = section.path.clone();
    let retention = section.take("retention").map(|said| kept(reader, &at, said));
    let tenant_column = section.optional(reader, "tenant_column").unwrap_or_else(|| "tenant_id".to_owned());
    section.finish(reader);
    let named = named?;
    let Some((schema, name)) = qualified(&named) else {
        let what = format!(
            "must be a schema and a table, or {OWN_SCHEMA} and a table; pg_partman takes no names with dots, nor tables of \
             more than {LONGEST_TABLE} bytes"
        );
        reader.problem(Problem::new(at_table, what).value(named).example("\"public.events\""));
        return None;
    };
    let schema = (schema != OWN_SCHEMA).then(|| schema.to_owned());
    if schema.is_some() && database.is_none() {
        reader.problem(
            Problem::new(at_database, "is missing; a table that tenants share is in one database")
                .example("database = \"app\""),
        );
        return None;
    }
    Some(Partitions {
        database,
        schema,
        table: name.to_owned(),
        column: column?,
        every,
        premake,
        retention,
        tenant_column,
    })
}

/// How long rows are kept.
fn kept(reader: &mut Reader, at: &str, said: Value) -> Duration {
    let mut one = Section::new(at, [("retention".to_owned(), said)].into_iter().collect());
    one.duration(reader, "retention", 90 * DAY, HOUR..=36_500 * DAY)
}

/// A schema and a table, neither of which has a dot.
fn qualified(text: &str) -> Option<(&str, &str)> {
    let (schema, name) = text.split_once('.')?;
    let sound = !schema.is_empty() && !name.is_empty() && !name.contains('.') && name.len() <= LONGEST_TABLE;
    sound.then_some((schema, name))
}

/// Classes that are known, tables that stand once, and a login that is nobody else's.
pub(super) fn check(settings: &Settings, problems: &mut Vec<Problem>) {
    for tenant in settings.tenants.values() {
        if let Some(class) = tenant.class.as_ref().filter(|class| !settings.classes.contains_key(*class)) {
            let at = format!("tenants.{}.class", tenant.id);
            problems.push(Problem::new(at, "is not among the classes").value(class));
        }
    }
    for cluster in settings.clusters.values() {
        let at = format!("clusters.{}", cluster.name);
        if let Some(login) = &cluster.upkeep.login
            && settings.is_of_tenants(cluster, &login.role)
        {
            let what = "is also a login of tenants, or what pgward logs in as for them";
            problems.push(Problem::new(format!("{at}.maintenance"), what).value(&login.role));
        }
        let mut seen: Vec<(&PartitionsName, &Partitions)> = Vec::new();
        for (label, partitions) in &cluster.upkeep.partitions {
            let at = format!("{at}.partitions.{label}.table");
            if let Some((other, _)) = seen.iter().find(|(_, other)| other.may_name_the_same(partitions)) {
                let what = format!(
                    "names tables that clusters.{}.partitions.{other} names as well, and each is kept by one",
                    cluster.name
                );
                problems.push(Problem::new(&at, what));
            }
            seen.push((label, partitions.as_ref()));
            of_one_tenant(settings, cluster, partitions, &at, problems);
            own_names(settings, partitions, &at, problems);
        }
    }
}

/// What is one tenant's own is kept as that tenant, by its class and with its hold, and so is not named by its schema.
fn of_one_tenant(
    settings: &Settings,
    cluster: &Cluster,
    partitions: &Partitions,
    at: &str,
    problems: &mut Vec<Problem>,
) {
    let (Some(schema), Some(database)) = (&partitions.schema, &partitions.database) else { return };
    let owns = |tenant: &&Arc<Tenant>| {
        let here = tenant.cluster == cluster.name && tenant.database == *database;
        let own_schema = tenant.isolation == Isolation::Schema && tenant.search_path.first() == Some(schema);
        let own_database = matches!(tenant.isolation, Isolation::Database | Isolation::Cluster);
        here && (own_schema || own_database)
    };
    if let Some(tenant) = settings.tenants.values().filter(owns).min_by(|a, b| a.id.cmp(&b.id)) {
        let what = format!("is tenant {}'s own, which is kept by its own class and hold", tenant.id);
        problems.push(Problem::new(at, what).example(format!("table = \"*.{}\"", partitions.table)));
    }
}

/// pg_partman splits names at dots.
fn own_names(settings: &Settings, partitions: &Partitions, at: &str, problems: &mut Vec<Problem>) {
    let owners = settings.tenants.values().filter(|tenant| partitions.is_own_of(tenant));
    let dotted = |tenant: &&Arc<Tenant>| tenant.search_path.first().is_some_and(|schema| schema.contains('.'));
    if let Some(tenant) = owners.filter(dotted).min_by(|a, b| a.id.cmp(&b.id)) {
        let what =
            format!("is in a schema with a dot in its name for tenant {}, which pg_partman cannot take", tenant.id);
        problems.push(Problem::new(at, what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_schema_and_no_further_dots() {
        assert_eq!(qualified("public.events"), Some(("public", "events")));
        assert_eq!(qualified("*.events"), Some(("*", "events")));
        let long = format!("public.{}", "e".repeat(LONGEST_TABLE + 1));
        for bad in ["", "events", ".events", "public.", "a.b.c", long.as_str()] {
            assert_eq!(qualified(bad), None, "{bad}");
        }
    }
}
