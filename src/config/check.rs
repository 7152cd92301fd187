//! What one table alone cannot tell: names that must exist elsewhere, and residency.

use std::collections::{BTreeMap, HashSet};

use super::forwarding::Forward;
use super::settings::*;
use super::{Problem, backup, catalogue, maintenance};
use crate::base::TenantId;
use crate::residency;

pub(super) fn across(settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    keys(settings, &mut problems);
    issuers(settings, &mut problems);
    for cluster in settings.clusters.values() {
        servers(cluster, &mut problems);
        service(cluster, &mut problems);
    }
    own_logins(settings, &mut problems);
    own_places(settings, &mut problems);
    forwarding(settings, &mut problems);
    grants(settings, &mut problems);
    catalogue::check(settings, &mut problems);
    maintenance::check(settings, &mut problems);
    backup::check(settings, &mut problems);
    audit(settings, &mut problems);
    break_glass(settings, &mut problems);
    plain(settings, &mut problems);
    let mut tenants: Vec<&Tenant> = settings.tenants.values().map(AsRef::as_ref).collect();
    tenants.sort_by(|a, b| a.id.cmp(&b.id));
    for tenant in tenants {
        self::tenant(settings, tenant, &mut problems);
    }
    problems
}

fn keys(settings: &Settings, problems: &mut Vec<Problem>) {
    let rows = settings.tenants.values().any(|tenant| tenant.isolation == Isolation::Rows);
    if rows && settings.context.keys.is_empty() {
        problems.push(
            Problem::new(
                "context.keys",
                "is empty, but there are tenants at isolation level rows, whose context is sealed with it",
            )
            .example("context.keys.k1 = { file = \"context.key\" }"),
        );
    }
    let shared = settings.clusters.values().flat_map(|cluster| {
        let backup = cluster.backup.as_ref().map(|backup| &backup.login);
        cluster.logins.values().chain(&cluster.service).chain(&cluster.upkeep.login).chain(backup)
    });
    let own = settings.tenants.values().flat_map(|tenant| match &tenant.roles {
        Roles::Own(logins) => logins.values().collect(),
        Roles::Shared(_) => Vec::new(),
    });
    let plain = settings.plain.databases.values().chain(&settings.plain.any).filter_map(|plain| plain.login.as_ref());
    let plain = plain.chain(settings.plain.lookup.as_ref().map(|lookup| &lookup.login));
    let derived = shared.chain(own).chain(plain).any(|login| matches!(login.password, LoginPassword::Derived { .. }));
    if derived && settings.master_key.is_none() {
        problems.push(
            Problem::new(
                "master_key",
                "is missing, but there are logins without a password, which is then derived from it",
            )
            .example("master_key = { file = \"master.key\" }"),
        );
    }
}

fn issuers(settings: &Settings, problems: &mut Vec<Problem>) {
    let plain = !settings.plain.databases.is_empty() || settings.plain.any.is_some();
    if settings.issuers.is_empty() && !(plain && settings.tenants.is_empty()) {
        problems.push(
            Problem::new("issuers", "is empty, so that nobody could log in")
                .example("[[issuers]] with issuer, audience, algorithms and jwks_url"),
        );
    }
    let mut seen = HashSet::new();
    for (i, issuer) in settings.issuers.iter().enumerate() {
        if !seen.insert(&issuer.issuer) {
            problems.push(Problem::new(format!("issuers[{i}].issuer"), "stands twice").value(&issuer.issuer));
        }
        if let Some(signing) = &issuer.signing
            && !issuer.algorithms.contains(&signing.algorithm)
        {
            problems.push(Problem::new(
                format!("issuers[{i}].signing.algorithm"),
                "is not among the issuer's algorithms, so its tokens would be refused",
            ));
        }
    }
}

fn service(cluster: &Cluster, problems: &mut Vec<Problem>) {
    if let Some(service) = &cluster.service
        && cluster.logins.values().any(|login| login.role == service.role)
    {
        let at = format!("clusters.{}.service", cluster.name);
        problems.push(Problem::new(at, "is also a login of tenants").value(&service.role));
    }
}

fn servers(cluster: &Cluster, problems: &mut Vec<Problem>) {
    let at = format!("clusters.{}.servers", cluster.name);
    let primaries = cluster.servers.iter().filter(|server| server.role == ServerRole::Primary).count();
    // Patroni tells who leads.
    let told = primaries == 0 && cluster.patroni.is_some();
    if primaries != 1 && !told {
        problems.push(Problem::new(
            &at,
            format!("has {primaries} servers with role = \"primary\"; a cluster has exactly one"),
        ));
    }
    let mut names = HashSet::new();
    for (i, server) in cluster.servers.iter().enumerate() {
        if !names.insert(&server.name) {
            problems.push(Problem::new(format!("{at}[{i}].name"), "stands twice").value(&server.name));
        }
    }
}

/// What is for emergencies is recorded, and given to somebody who can come.
fn break_glass(settings: &Settings, problems: &mut Vec<Problem>) {
    for (i, grant) in settings.break_glass.iter().enumerate() {
        let at = |key: &str| format!("break_glass[{i}].{key}");
        if !settings.issuers.iter().any(|issuer| issuer.issuer == grant.issuer) {
            problems.push(Problem::new(at("issuer"), "is not among the issuers").value(&grant.issuer));
        }
        for tenant in grant.tenants.iter().flatten().filter(|tenant| !settings.tenants.contains_key(*tenant)) {
            problems.push(Problem::new(at("tenants"), "is not among the tenants").value(tenant));
        }
    }
    if !settings.break_glass.is_empty() && settings.audit.is_none() {
        problems.push(
            Problem::new("break_glass", "is to be recorded, but there is no audit log")
                .example("[audit] with file = \"audit/pgward.jsonl\""),
        );
    }
}

/// What leaves a tenant's regions is recorded, and is what the tenant has.
fn grants(settings: &Settings, problems: &mut Vec<Problem>) {
    if !settings.grants.is_empty() && settings.audit.is_none() {
        problems.push(
            Problem::new("grants", "are to be recorded at each use, but there is no audit log")
                .example("[audit] with file = \"audit/pgward.jsonl\""),
        );
    }
    for grant in settings.grants.values() {
        let at = |key: &str| format!("grants.{}.{key}", grant.name);
        for name in &grant.tenants {
            let Some(tenant) = settings.tenants.get(name) else {
                problems.push(Problem::new(at("tenants"), "is not among the tenants").value(name));
                continue;
            };
            let cluster = settings.clusters.get(&tenant.cluster);
            if cluster.is_some_and(|cluster| tenant.login(&grant.role, cluster).is_none()) {
                let what = format!("is no role that tenant {name} has");
                problems.push(Problem::new(at("role"), what).value(&grant.role));
            }
            for region in grant.regions.iter().filter(|region| residency::allows(&tenant.regions, region)) {
                let what = format!("is where tenant {name} may be anyway, and the grant would limit nothing there");
                problems.push(Problem::new(at("regions"), what).value(region));
            }
        }
    }
}

/// Nodes know one another by certificates, which are made out to host names.
fn forwarding(settings: &Settings, problems: &mut Vec<Problem>) {
    let Some(forwarding) = &settings.forwarding else {
        let tenants = settings.tenants.values().filter(|tenant| tenant.forward != Forward::Off);
        let mut at: Vec<String> = tenants.map(|tenant| format!("tenants.{}.forward", tenant.id)).collect();
        at.sort();
        let what = "needs to know how nodes reach one another, and there is no [forwarding]";
        problems.extend(at.into_iter().map(|at| Problem::new(at, what)));
        return;
    };
    for name in settings.nodes.keys().filter(|name| rustls::pki_types::DnsName::try_from(name.as_str()).is_err()) {
        let what = "cannot be a host name, and certificates of nodes are made out to their names";
        problems.push(Problem::new(format!("nodes.{name}"), what));
    }
    if forwarding.connect_timeout >= settings.listen.startup_timeout {
        let what = "leaves nothing of listen.startup_timeout for the login";
        problems.push(Problem::new("forwarding.connect_timeout", what).example("\"5s\""));
    }
    let own = settings.node.as_ref().and_then(|own| settings.nodes.get(own));
    if let Some(own) = own.filter(|own| own.peer_address.is_some() && forwarding.listen.is_none()) {
        let what = format!("is missing, and other nodes are told to come to nodes.{}.peer_address", own.name);
        problems.push(Problem::new("forwarding.listen", what).example("\"0.0.0.0:6433\""));
    }
}

/// Who has statements audited counts on them being kept somewhere.
fn audit(settings: &Settings, problems: &mut Vec<Problem>) {
    if settings.audit.is_some() {
        return;
    }
    let tenants = settings.tenants.values().filter(|tenant| tenant.audit_statements);
    let mut at: Vec<String> = tenants.map(|tenant| format!("tenants.{}.audit", tenant.id)).collect();
    let any = settings.plain.any.iter().map(|database| ("*", database));
    let databases = settings.plain.databases.iter().map(|(name, database)| (name.as_str(), database)).chain(any);
    let databases = databases.filter(|(_, database)| database.audit_statements);
    at.extend(databases.map(|(name, _)| format!("plain.databases.{name}.audit")));
    at.sort();
    problems.extend(at.into_iter().map(|at| {
        Problem::new(at, "asks for an audit of statements, but there is no audit log")
            .example("[audit] with file = \"audit/pgward.jsonl\"")
    }));
}

/// A login role of one tenant's own that another tenant shares would be no isolation at all.
fn own_logins(settings: &Settings, problems: &mut Vec<Problem>) {
    let mut owners: BTreeMap<(&str, &str), &TenantId> = BTreeMap::new();
    for tenant in settings.tenants.values() {
        let Roles::Own(logins) = &tenant.roles else { continue };
        for (access, login) in logins {
            let at = format!("tenants.{}.roles.{access}", tenant.id);
            if let Some(other) = owners.insert((tenant.cluster.as_str(), &login.role), &tenant.id)
                && *other != tenant.id
            {
                problems.push(Problem::new(&at, format!("is also a login of tenant {other}")).value(&login.role));
            }
            let shared = settings.clusters.get(&tenant.cluster);
            if shared.is_some_and(|cluster| {
                cluster.logins.values().chain(&cluster.service).any(|shared| shared.role == login.role)
            }) {
                problems.push(Problem::new(&at, "is also a shared login of the cluster").value(&login.role));
            }
        }
    }
}

/// A database or cluster of a tenant's own is nobody else's.
fn own_places(settings: &Settings, problems: &mut Vec<Problem>) {
    let mut others: BTreeMap<(&str, Option<&str>), Vec<&TenantId>> = BTreeMap::new();
    for tenant in settings.tenants.values() {
        others.entry((tenant.cluster.as_str(), None)).or_default().push(&tenant.id);
        others.entry((tenant.cluster.as_str(), Some(&tenant.database))).or_default().push(&tenant.id);
    }
    for tenant in settings.tenants.values() {
        let (key, database) = match tenant.isolation {
            Isolation::Rows | Isolation::Schema => continue,
            Isolation::Database => ("database", Some(tenant.database.as_str())),
            Isolation::Cluster => ("cluster", None),
        };
        let here = others.get(&(tenant.cluster.as_str(), database)).into_iter().flatten();
        if let Some(other) = here.filter(|other| **other != &tenant.id).min() {
            let at = format!("tenants.{}.{key}", tenant.id);
            let reason = format!("is also tenant {other}'s, while this tenant is to have a {key} of its own");
            problems.push(Problem::new(at, reason).value(database.unwrap_or(tenant.cluster.as_str())));
        }
    }
}

/// A name leads to one place, and what only tenants may use is not lent to others.
fn plain(settings: &Settings, problems: &mut Vec<Problem>) {
    let plain = &settings.plain;
    let tenants = settings.tenants_roles();
    let any = plain.any.iter().map(|database| ("*", database));
    for (name, database) in plain.databases.iter().map(|(name, database)| (name.as_str(), database)).chain(any) {
        let at = format!("plain.databases.{name}");
        if name == settings.console.database {
            problems.push(Problem::new(&at, "is the console's database").example("console.database = \"console\""));
        }
        if let Some(tenant) =
            settings.tenants.values().find(|tenant| tenant.id.as_str() == name || tenant.database == name)
        {
            problems.push(
                Problem::new(&at, format!("is where clients of tenant {} log in", tenant.id))
                    .example(format!("another name, with database = \"{}\"", tenant.database)),
            );
        }
        if !settings.clusters.contains_key(&database.cluster) {
            problems.push(Problem::new(format!("{at}.cluster"), "is not among the clusters").value(&database.cluster));
        }
        if let Some(login) = &database.login
            && tenants.contains(&(database.cluster.clone(), login.role.clone()))
        {
            problems.push(Problem::new(format!("{at}.login"), "is also a login of tenants").value(&login.role));
        }
    }
    if let Some(lookup) = &plain.lookup
        && !settings.clusters.contains_key(&lookup.cluster)
    {
        problems.push(Problem::new("plain.lookup.cluster", "is not among the clusters").value(&lookup.cluster));
    }
}

fn tenant(settings: &Settings, tenant: &Tenant, problems: &mut Vec<Problem>) {
    let at = |key: &str| format!("tenants.{}.{key}", tenant.id);
    let Some(cluster) = settings.clusters.get(&tenant.cluster) else {
        problems.push(Problem::new(at("cluster"), "is not among the clusters").value(&tenant.cluster));
        return;
    };
    if let Roles::Shared(names) = &tenant.roles {
        if cluster.logins.is_empty() {
            problems.push(
                Problem::new(
                    format!("clusters.{}.logins", cluster.name),
                    format!("is empty, but tenant {} is at isolation level rows there", tenant.id),
                )
                .example("app = \"pgward_app\""),
            );
        }
        for name in names.iter().filter(|name| !cluster.logins.contains_key(*name)) {
            problems
                .push(Problem::new(at("roles"), format!("is not among clusters.{}.logins", cluster.name)).value(name));
        }
    }
    if tenant.search_path.is_empty() || tenant.search_path.iter().any(String::is_empty) {
        problems.push(Problem::new(at("search_path"), "must name at least one schema, none of them empty"));
    }
    let primaries = cluster.servers.iter().filter(|server| server.role == ServerRole::Primary);
    let primaries = primaries.map(|primary| ("primary", primary.name.as_str(), &primary.region));
    let repositories = cluster.repositories.iter();
    let repositories = repositories.map(|(name, repository)| ("repository", name.as_str(), &repository.region));
    let received = cluster.backup.iter().filter(|of| of.receive_wal.is_some()).zip(&settings.region);
    let received = received.map(|(_, region)| ("log that is received by", "this pgward", region));
    for (kind, name, region) in primaries.chain(repositories).chain(received) {
        if !residency::allows(&tenant.regions, region) {
            let regions: Vec<&str> = tenant.regions.iter().map(|region| region.as_str()).collect();
            let what = format!(
                "the {kind} {name} of cluster {} is in region {region}, where this tenant's data may not be",
                cluster.name
            );
            problems.push(Problem::new(at("regions"), what).value(format!("{regions:?}")));
        }
    }
}
