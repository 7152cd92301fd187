//! `[clusters.NAME]`: servers, and how they are reached, asked and found.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::Value;

use super::Problem;
use super::backup;
use super::logins::{self, login};
use super::maintenance;
use super::places::{Patroni, Url};
use super::reader::{Reader, Section, empty, map, table};
use super::regions::Groups;
use super::settings::*;
use crate::base::{Access, ClusterName, Region};
use crate::residency;

pub(super) fn clusters(
    reader: &mut Reader,
    root: &mut Section,
    master_key: bool,
    groups: &Groups,
) -> BTreeMap<ClusterName, Arc<Cluster>> {
    let entries = root.entries(reader, "clusters");
    map(reader, entries, |reader, at, name: &ClusterName, value| {
        let section = table(reader, at, value)?;
        cluster(reader, name, section, master_key, groups).map(Arc::new)
    })
}

fn cluster(
    reader: &mut Reader,
    name: &ClusterName,
    mut section: Section,
    master_key: bool,
    groups: &Groups,
) -> Option<Cluster> {
    let confined = Confined { to: groups.optional(reader, &mut section, "regions").map(Arc::from), groups };
    let tls = server_tls(reader, &section.at("tls"), None);
    let said = section.section(reader, "tls");
    let tls = said.map_or(tls, |said| server_tls(reader, "", Some(said)));
    let entries = section.entries(reader, "logins");
    let logins: BTreeMap<Access, Login> =
        map(reader, entries, |reader, at, _: &Access, value| login(reader, at, value));
    let service = logins::service(reader, &mut section, master_key);
    let mut patroni = section.section(reader, "patroni").and_then(|section| patroni(reader, section, &confined));
    let (servers, left_alone) = servers(reader, &mut section, patroni.is_none(), &confined);
    patroni.iter_mut().for_each(|patroni| patroni.left_alone.clone_from(&left_alone));
    let patroni = patroni.map(Arc::new);
    let failover_timeout = section.duration(
        reader,
        "failover_timeout",
        Duration::from_secs(30),
        Duration::ZERO..=Duration::from_secs(3_600),
    );
    let slow_start =
        section.duration(reader, "slow_start", Duration::from_secs(10), Duration::ZERO..=Duration::from_secs(3_600));
    let several = servers.len() > 1 || patroni.is_some();
    let probe = probe(reader, &mut section, several && service.is_some());
    if (probe.is_some() || patroni.is_some()) && service.is_none() {
        let key = if probe.is_some() { "probe" } else { "patroni" };
        reader.problem(
            Problem::new(section.at(key), "needs a service login to ask the servers as")
                .example("service = \"pgward_service\""),
        );
    }
    let repositories = backup::repositories(reader, &mut section, groups);
    let backup = backup::of_cluster(reader, &mut section, master_key);
    let upkeep = maintenance::upkeep(reader, &mut section, master_key);
    section.finish(reader);
    let (name, members) = (name.clone(), Vec::new());
    Some(Cluster {
        name,
        servers,
        members,
        repositories,
        upkeep,
        backup,
        tls,
        logins,
        service,
        probe,
        patroni,
        failover_timeout,
        slow_start,
    })
}

/// Those that are used, and those that are left alone, which count as not there.
fn servers(
    reader: &mut Reader,
    section: &mut Section,
    required: bool,
    confined: &Confined,
) -> (Vec<Arc<Server>>, Vec<Arc<Server>>) {
    let at = section.at("servers");
    let items = if required {
        section.require(reader, "servers", "[[clusters.main.servers]]")
    } else {
        section.take("servers")
    };
    let items = match items {
        Some(Value::Array(items)) => items,
        Some(other) => {
            reader.problem(Problem::new(&at, "must be a list of tables").value(other.type_str()));
            Vec::new()
        }
        None => Vec::new(),
    };
    let each = items.into_iter().enumerate().filter_map(|(i, value)| {
        let section = table(reader, &format!("{at}[{i}]"), value)?;
        let (at, server) = (section.at("region"), server(reader, section)?);
        confined.groups.is_one(reader, &at, &server.region);
        Some(Arc::new(server))
    });
    let all: Vec<Arc<Server>> = each.collect();
    let (used, left): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|server| residency::confined(confined.to.as_deref(), &server.region));
    for server in left.iter().filter(|server| server.role == ServerRole::Primary) {
        let what = format!("does not have region {}, where the configured primary {} is", server.region, server.name);
        reader.problem(Problem::new(section.at("regions"), what));
    }
    (used, left)
}

/// Where servers may be that are used at all, and what regions may be called.
struct Confined<'a> {
    /// `None`: anywhere.
    to: Option<Arc<[Region]>>,
    groups: &'a Groups,
}

/// Where Patroni's REST API is, and what is not said there of the members that are found by it.
fn patroni(reader: &mut Reader, mut section: Section, confined: &Confined) -> Option<Patroni> {
    let urls: Vec<String> = section.required(reader, "urls", "[\"http://db1.internal:8008\"]")?;
    let known: Vec<Url> = urls.iter().filter_map(|url| Url::parse(url)).collect();
    if known.is_empty() || known.len() < urls.len() {
        // Not what stands there: it may have a password in it.
        let what =
            "must be http:// or https:// URLs of members' REST APIs, at least one, without user, password or query";
        reader.problem(Problem::new(section.at("urls"), what));
    }
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    let interval = section.duration(reader, "interval", s(1), ms(100)..=s(60));
    let timeout = section.duration(reader, "timeout", s(2), ms(50)..=s(60));
    let [ca, certificate, key] = tls_files(reader, &mut section);
    let region: Option<Region> = section.optional(reader, "region");
    region.iter().for_each(|region| confined.groups.is_one(reader, &section.at("region"), region));
    let (max_backends, weight) = share(reader, &mut section);
    section.finish(reader);
    let regions = confined.to.clone();
    let left_alone = Vec::new();
    Some(Patroni {
        urls: known,
        interval,
        timeout,
        ca,
        certificate,
        key,
        region,
        regions,
        left_alone,
        max_backends,
        weight,
    })
}

/// Servers are asked where there is a choice between them, or where it is said.
fn probe(reader: &mut Reader, section: &mut Section, useful: bool) -> Option<Probe> {
    let at = section.at("probe");
    let said = section.section(reader, "probe");
    if said.is_none() && !useful {
        return None;
    }
    let mut section = empty(&at, said);
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    let rules = ProbeRules {
        interval: section.duration(reader, "interval", ms(500), ms(20)..=s(60)),
        timeout: section.duration(reader, "timeout", s(2), ms(50)..=s(60)),
        down_after: section.duration(reader, "down_after", s(3), ms(100)..=s(600)),
        up_after: u32::try_from(section.number(reader, "up_after", 2, 1..=100)).unwrap_or(2),
    };
    let database = section.optional(reader, "database").unwrap_or_else(|| "postgres".to_owned());
    section.finish(reader);
    Some(Probe { database, rules })
}

fn server_tls(reader: &mut Reader, path: &str, section: Option<Section>) -> ServerTls {
    let mut section = empty(path, section);
    let modes =
        [("off", ServerTlsMode::Off), ("require", ServerTlsMode::Require), ("verify-full", ServerTlsMode::VerifyFull)];
    let mode = section.choice(reader, "mode", &modes).unwrap_or(ServerTlsMode::VerifyFull);
    let [ca, certificate, key] = tls_files(reader, &mut section);
    section.finish(reader);
    ServerTls { mode, ca, certificate, key }
}

/// An authority's file, and those of a client certificate and its key.
fn tls_files(reader: &mut Reader, section: &mut Section) -> [Option<PathBuf>; 3] {
    let mut file = |key| section.optional::<String>(reader, key).map(|name| reader.resolve(&name));
    let files = [file("ca"), file("certificate"), file("key")];
    if files[1].is_some() != files[2].is_some() {
        reader.problem(Problem::new(&section.path, "a client certificate needs both certificate and key"));
    }
    files
}

fn server(reader: &mut Reader, mut section: Section) -> Option<Server> {
    let name = section.required(reader, "name", "\"main-1\"");
    let host: Option<String> = section.required(reader, "host", "\"db1.internal\"");
    let port = section.number(reader, "port", 5432, 1..=65_535);
    let region = section.required(reader, "region", "\"lk\"");
    let roles = [("primary", ServerRole::Primary), ("replica", ServerRole::Replica)];
    let role = section.choice(reader, "role", &roles).unwrap_or(ServerRole::Primary);
    let (max_backends, weight) = share(reader, &mut section);
    let data_directory = section.optional::<String>(reader, "data_directory").map(PathBuf::from);
    section.finish(reader);
    let port = u16::try_from(port).ok()?;
    Some(Server { name: name?, host: host?, port, region: region?, role, max_backends, weight, data_directory })
}

/// How much of what there is to do goes to a server.
fn share(reader: &mut Reader, section: &mut Section) -> (usize, usize) {
    let max_backends = section.number(reader, "max_backends", 80, 1..=100_000);
    (max_backends, section.number(reader, "weight", 100, 0..=1_000))
}
