//! Which tables of a cluster are kept, and whose rows how long. A pure function of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{ClusterName, PartitionsName, TenantId};
use crate::config::{Cluster, Isolation, Login, Partitions, Settings, Tenant};

/// The tables of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub database: String,
    /// Those of a tenant's own stand together.
    pub tables: Vec<Table>,
}

impl Job {
    /// Nothing of them goes.
    pub fn keep_all(&mut self) {
        self.tables.iter_mut().for_each(|table| table.expiry = Expiry::default());
    }
}

/// A table that is partitioned by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub label: PartitionsName,
    pub rules: Arc<Partitions>,
    pub schema: String,
    /// Whose it is, and as what it is changed. `None`: tenants share it.
    pub owner: Option<(TenantId, Login)>,
    pub expiry: Expiry,
}

/// What goes when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expiry {
    /// The age at which nobody needs a partition any more. `None`: somebody always may.
    pub drop_after: Option<Duration>,
    /// Rows that go before their partition does.
    pub rows: Vec<Group>,
}

/// Rows that are kept equally long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub retention: Duration,
    pub whose: Whose,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    Everybodys,
    Of(Vec<TenantId>),
    /// Those of tenants that the configuration does not know as well.
    OfOthersThan(Vec<TenantId>),
}

impl Table {
    /// As pg_partman names it: without quotes, split at the dot.
    pub fn parent(&self) -> String {
        format!("{}.{}", self.schema, self.rules.table)
    }
}

/// Whether anything of a tenant may be deleted for its age. Whatever expires asks here.
fn may_expire(tenant: &Tenant) -> bool {
    tenant.legal_hold.is_none()
}

pub(super) fn jobs(settings: &Settings, cluster: &Cluster) -> Vec<Job> {
    let mut tables: BTreeMap<&str, Vec<Table>> = BTreeMap::new();
    let mut add = |database, label: &PartitionsName, rules: &Arc<Partitions>, schema: &str, owner| {
        let (rules, schema, expiry) = (Arc::clone(rules), schema.to_owned(), Expiry::default());
        let mut table = Table { label: label.clone(), rules, schema, owner, expiry };
        table.expiry = expiry_of(settings, &cluster.name, database, &table);
        tables.entry(database).or_default().push(table);
    };
    for (label, rules) in &cluster.upkeep.partitions {
        let (Some(database), Some(schema)) = (&rules.database, &rules.schema) else { continue };
        add(database, label, rules, schema, None);
    }
    for tenant in of_cluster(settings, &cluster.name) {
        let (Some(schema), Some(login)) = (tenant.search_path.first(), tenant.own_logins().next()) else { continue };
        for (label, rules) in cluster.upkeep.partitions.iter().filter(|(_, rules)| rules.is_own_of(tenant)) {
            add(&tenant.database, label, rules, schema, Some((tenant.id.clone(), login.clone())));
        }
    }
    let mut jobs: Vec<Job> =
        tables.into_iter().map(|(database, tables)| Job { database: database.to_owned(), tables }).collect();
    // What many share comes before what one tenant may hold up.
    jobs.sort_by_key(|job| job.tables.iter().all(|table| table.owner.is_some()));
    jobs
}

/// Single tenants' tables in another order each time, so that those which take long do not always come before the same
/// others. Those of one tenant still stand together.
pub(super) fn begin_anywhere(jobs: &mut [Job]) {
    let shared = jobs.partition_point(|job| job.tables.iter().any(|table| table.owner.is_none()));
    turn_about(jobs.get_mut(shared..).unwrap_or_default());
    for job in jobs {
        let shared = job.tables.partition_point(|table| table.owner.is_none());
        turn_about(job.tables.get_mut(shared..).unwrap_or_default());
    }
}

fn turn_about<T>(all: &mut [T]) {
    if !all.is_empty() {
        all.rotate_left(rand::random_range(0..all.len()));
    }
}

/// What may go by a configuration that came after the one by which the table's turn was planned. Nothing, if that does not
/// have it as it was.
pub(super) fn expiry(settings: &Settings, cluster: &ClusterName, database: &str, table: &Table) -> Expiry {
    let known = settings.clusters.get(cluster).and_then(|cluster| cluster.upkeep.partitions.get(&table.label));
    match known.is_some_and(|rules| *rules == table.rules) {
        true => expiry_of(settings, cluster, database, table),
        false => Expiry::default(),
    }
}

fn expiry_of(settings: &Settings, cluster: &ClusterName, database: &str, table: &Table) -> Expiry {
    let rules = &table.rules;
    let Some((owner, _)) = &table.owner else {
        let here = of_cluster(settings, cluster).into_iter();
        let sharing = here.filter(|tenant| tenant.isolation == Isolation::Rows && tenant.database == database);
        return shared(settings, rules, sharing);
    };
    let stays = |tenant: &&Arc<Tenant>| {
        let there = tenant.cluster == *cluster && tenant.database == database;
        there && rules.is_own_of(tenant) && tenant.search_path.first() == Some(&table.schema)
    };
    let owner = settings.tenants.get(owner).filter(stays);
    owner.map_or_else(Expiry::default, |tenant| own(settings, rules, tenant))
}

fn of_cluster<'a>(settings: &'a Settings, cluster: &ClusterName) -> Vec<&'a Tenant> {
    let all = settings.tenants.values().map(AsRef::as_ref);
    let mut tenants: Vec<&Tenant> = all.filter(|tenant| tenant.cluster == *cluster).collect();
    tenants.sort_by(|a, b| a.id.cmp(&b.id));
    tenants
}

/// How long a tenant's rows are kept. `None`: for ever.
fn retention(settings: &Settings, rules: &Partitions, tenant: &Tenant) -> Option<Duration> {
    let class = tenant.class.as_ref().and_then(|class| settings.classes.get(class));
    class.map(|class| class.retention).or(rules.retention)
}

fn own(settings: &Settings, rules: &Partitions, tenant: &Tenant) -> Expiry {
    let Some(retention) = retention(settings, rules, tenant).filter(|_| may_expire(tenant)) else {
        return Expiry::default();
    };
    Expiry { drop_after: Some(retention), rows: vec![Group { retention, whose: Whose::Everybodys }] }
}

/// A partition has rows of all. It goes when the last of them may, and rows whose time is up earlier go one by one.
fn shared<'a>(settings: &Settings, rules: &Partitions, tenants: impl Iterator<Item = &'a Tenant>) -> Expiry {
    let mut groups: BTreeMap<Duration, Vec<TenantId>> = BTreeMap::new();
    let mut exempt = Vec::new();
    let mut held = false;
    for tenant in tenants {
        let class = tenant.class.as_ref().and_then(|class| settings.classes.get(class));
        match class {
            _ if !may_expire(tenant) => held = true,
            Some(class) => groups.entry(class.retention).or_default().push(tenant.id.clone()),
            None => continue,
        }
        exempt.push(tenant.id.clone());
    }
    // Rows of tenants without a class, or unknown ones, may be in every partition.
    let longest = rules.retention.map(|default| groups.keys().copied().fold(default, Duration::max));
    let of = |(retention, tenants)| Group { retention, whose: Whose::Of(tenants) };
    let mut rows: Vec<Group> = groups.into_iter().map(of).collect();
    let others = |retention| Group { retention, whose: Whose::OfOthersThan(exempt) };
    rows.extend(rules.retention.map(others));
    Expiry { drop_after: longest.filter(|_| !held), rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const DAY: Duration = Duration::from_secs(86_400);

    /// `gold` is kept for 30 days, `bronze` for 7.
    fn planned(table: &str, tenants: &str) -> Vec<Job> {
        let text = format!(
            "listen.address = \"127.0.0.1:0\"
            master_key = \"0123456789abcdef0123456789abcdef\"
            context.keys.k1 = \"fedcba9876543210fedcba9876543210\"
            classes = {{ gold.retention = \"30d\", bronze.retention = \"7d\" }}
            [[issuers]]
            issuer = \"tests\"
            audience = \"pgward\"
            algorithms = [\"HS256\"]
            secret = \"0123456789abcdef0123456789abcdef\"
            [clusters.main]
            logins.app = \"app\"
            servers = [{{ name = \"main-1\", host = \"127.0.0.1\", region = \"lk\" }}]
            partitions.events = {{ column = \"at\", {table} }}
            {}",
            tenants.replace("HERE", "cluster = \"main\", home = \"lk\", database")
        );
        let settings = config::parse(&text, std::path::Path::new(".")).unwrap_or_else(|found| panic!("{found:#?}"));
        jobs(&settings, &settings.clusters[&ClusterName::parse("main").unwrap()])
    }

    const SHARED: &str = "database = \"app\", table = \"public.events\"";

    fn expiry(retention: &str, tenants: &str) -> Expiry {
        let jobs = planned(&format!("{SHARED}{retention}"), tenants);
        assert_eq!((jobs.len(), jobs[0].tables.len()), (1, 1), "{jobs:#?}");
        jobs[0].tables[0].expiry.clone()
    }

    fn ids(names: &[&str]) -> Vec<TenantId> {
        names.iter().map(|name| TenantId::parse(name).unwrap()).collect()
    }

    #[test]
    fn a_shared_partition_goes_with_those_who_keep_it_longest() {
        let tenants = "[tenants]\na = { class = \"bronze\", HERE = \"app\" }\nb = { class = \"gold\", HERE = \"app\" }\nc = { HERE = \"app\" }\n\
            elsewhere = { class = \"bronze\", HERE = \"other\" }";
        let days = |days: u32, whose| Group { retention: DAY * days, whose };
        let classes = [days(7, Whose::Of(ids(&["a"]))), days(30, Whose::Of(ids(&["b"])))];
        let rest = |n| days(n, Whose::OfOthersThan(ids(&["a", "b"])));
        let with = |rest| classes.iter().cloned().chain([rest]).collect::<Vec<_>>();
        assert_eq!(
            expiry(", retention = \"14d\"", tenants),
            Expiry { drop_after: Some(30 * DAY), rows: with(rest(14)) }
        );
        assert_eq!(
            expiry(", retention = \"60d\"", tenants),
            Expiry { drop_after: Some(60 * DAY), rows: with(rest(60)) }
        );
        // Rows that nobody has a retention for may be in every partition.
        assert_eq!(expiry("", tenants), Expiry { drop_after: None, rows: classes.to_vec() });
    }

    #[test]
    fn what_is_held_is_in_no_group_and_keeps_its_partitions() {
        let tenants = "[tenants]\na = { class = \"bronze\", legal_hold = \"x\", HERE = \"app\" }\n\
            c = { legal_hold = \"x\", HERE = \"app\" }";
        let rest = Group { retention: 14 * DAY, whose: Whose::OfOthersThan(ids(&["a", "c"])) };
        let expected = Expiry { drop_after: None, rows: vec![rest] };
        assert_eq!(expiry(", retention = \"14d\"", tenants), expected);
    }

    #[test]
    fn a_pattern_is_a_table_of_each_tenant_with_a_schema_of_its_own() {
        let tenants = "[tenants]\nrows = { HERE = \"app\" }\n\
            kandy = { isolation = \"schema\", class = \"gold\", HERE = \"app\" }\n\
            galle = { isolation = \"database\", legal_hold = \"x\", class = \"gold\", HERE = \"galle\" }";
        let jobs = planned("table = \"*.events\"", tenants);
        let found: Vec<(&str, String, Option<Duration>)> = jobs
            .iter()
            .flat_map(|job| job.tables.iter().map(|it| (job.database.as_str(), it.parent(), it.expiry.drop_after)))
            .collect();
        let expected =
            [("app", "kandy.events".to_owned(), Some(30 * DAY)), ("galle", "public.events".to_owned(), None)];
        assert_eq!(found, expected);
        assert_eq!(planned("database = \"app\", table = \"*.events\"", tenants).len(), 1);
    }
}
