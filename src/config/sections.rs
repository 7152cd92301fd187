//! One function per table of the configuration file.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use toml::{Table, Value};

use super::clusters::clusters;
use super::reader::{FromToml, Reader, Section, choose, empty, table};
use super::regions::{Groups, Nodes};
use super::settings::*;
use super::{
    Forward, Problem, audit, backup, break_glass, catalogue, forwarding, grants, maintenance, plain, reads, tenants,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The whole file. `None` when a part without which nothing can be built is missing.
pub(super) fn settings(reader: &mut Reader, file: Table) -> Option<Settings> {
    let mut root = Section::new("", file);
    let part = root.section(reader, "listen");
    let listen = listen(reader, part);
    let http = root.section(reader, "http").and_then(|section| http(reader, section));
    let part = root.section(reader, "console");
    let console = console(reader, part);
    let part = root.section(reader, "log");
    let log = log(reader, part);
    let audit = root.section(reader, "audit").and_then(|section| audit::audit(reader, section));
    let backup = root.section(reader, "backup").and_then(|section| backup::backup(reader, section));
    let master_key = master_key(reader, &mut root);
    let part = root.section(reader, "context");
    let context = context(reader, part);
    let issuers = issuers(reader, &mut root);
    let part = root.section(reader, "session");
    let session = session(reader, part);
    let part = root.section(reader, "pool");
    let pool = pool(reader, part);
    let groups = Groups::read(reader, &mut root);
    let Nodes { all: nodes, own: node, region } = Nodes::read(reader, &mut root, &groups);
    let part = root.section(reader, "forwarding");
    let forwarding = forwarding::forwarding(reader, part, node.as_ref());
    let clusters = clusters(reader, &mut root, master_key.is_some(), &groups);
    let part = root.section(reader, "limits");
    let limits = tenants::default_limits(reader, part);
    let part = root.section(reader, "reads");
    let reads = reads::default_reads(reader, part);
    let forward = forwarding.as_ref().map_or(Forward::Off, |forwarding| forwarding.default);
    let defaults = tenants::Defaults { limits, reads: &reads, forward, groups: &groups };
    let part = root.section(reader, "catalogue");
    let catalogue = part.and_then(|part| catalogue::catalogue(reader, part, &clusters, master_key.is_some()));
    let elsewhere = catalogue.as_ref().map(|catalogue| &*catalogue.snapshot);
    let part = root.section(reader, "maintenance");
    let maintenance = maintenance::maintenance(reader, part);
    let classes = maintenance::classes(reader, &mut root);
    let (tenants, tenants_file) = tenants::tenants(reader, &mut root, elsewhere, &defaults);
    let break_glass = break_glass::break_glass(reader, &mut root);
    let grants = grants::grants(reader, &mut root, &groups);
    let part = root.section(reader, "plain");
    let plain = plain::plain(reader, part, limits, &reads);
    root.finish(reader);
    Some(Settings {
        listen: listen?,
        http,
        console,
        log,
        audit,
        backup,
        master_key,
        context,
        issuers,
        session,
        pool,
        region,
        nodes,
        node,
        forwarding,
        clusters,
        maintenance,
        classes,
        tenants,
        break_glass,
        grants,
        tenants_file,
        catalogue,
        plain,
    })
}

pub(super) fn address(reader: &mut Reader, at: &str, text: &str) -> Option<SocketAddr> {
    match text.to_socket_addrs().ok().and_then(|mut all| all.next()) {
        Some(address) => Some(address),
        None => {
            reader.problem(Problem::new(at, "must be an address and a port").value(text).example("\"127.0.0.1:6432\""));
            None
        }
    }
}

fn listen(reader: &mut Reader, section: Option<Section>) -> Option<Listen> {
    let mut section = empty("listen", section);
    let at = section.at("address");
    let texts: Vec<String> = section.required(reader, "address", "\"127.0.0.1:6432\"").unwrap_or_default();
    let addresses: Vec<SocketAddr> = texts.iter().filter_map(|text| address(reader, &at, text)).collect();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = section.number(reader, "cores", cpus, 1..=256);
    let max_clients = section.number(reader, "max_clients", 20_000, 1..=1_000_000);
    let startup_timeout = section.duration(reader, "startup_timeout", 15 * SECOND, SECOND..=5 * MINUTE);
    let drain_timeout = section.duration(reader, "drain_timeout", 30 * SECOND, Duration::ZERO..=HOUR);
    let said_tls = section.section(reader, "tls");
    let exposed = addresses.iter().any(|address| !address.ip().is_loopback());
    if said_tls.is_none() && exposed {
        reader.problem(
            Problem::new("listen.tls", "is missing while listen.address is reachable from other machines, and tokens would cross the network readable")
                .example("listen.tls = { certificate = \"server.crt\", key = \"server.key\" }, or { mode = \"off\" } where a network layer encrypts"),
        );
    }
    let tls = said_tls.and_then(|tls| listen_tls(reader, tls));
    section.finish(reader);
    if addresses.is_empty() {
        return None;
    }
    Some(Listen { addresses, cores, max_clients, startup_timeout, drain_timeout, tls })
}

fn listen_tls(reader: &mut Reader, mut section: Section) -> Option<ListenTls> {
    let modes = [("off", None), ("allow", Some(false)), ("require", Some(true))];
    let mode = section.choice(reader, "mode", &modes).unwrap_or(Some(true));
    let Some(require) = mode else {
        section.take("certificate");
        section.take("key");
        section.finish(reader);
        return None;
    };
    let certificate: Option<String> = section.required(reader, "certificate", "\"server.crt\"");
    let key: Option<String> = section.required(reader, "key", "\"server.key\"");
    section.finish(reader);
    let (certificate, key) = (reader.resolve(&certificate?), reader.resolve(&key?));
    Some(ListenTls { require, certificate, key })
}

fn http(reader: &mut Reader, mut section: Section) -> Option<SocketAddr> {
    let at = section.at("address");
    let text: Option<String> = section.required(reader, "address", "\"127.0.0.1:9930\"");
    section.finish(reader);
    address(reader, &at, &text?)
}

fn console(reader: &mut Reader, section: Option<Section>) -> Console {
    let mut section = empty("console", section);
    let database = section.optional(reader, "database").unwrap_or_else(|| "pgward".to_owned());
    let entries = section.entries(reader, "users");
    let users = entries
        .into_iter()
        .filter_map(|(at, name, value)| Some((name, FromToml::from_toml(reader, &at, value)?)))
        .collect();
    let token_role = section.optional(reader, "token_role");
    section.finish(reader);
    Console { database, users, token_role }
}

fn log(reader: &mut Reader, section: Option<Section>) -> Log {
    let mut section = empty("log", section);
    let json = section.choice(reader, "format", &[("text", false), ("json", true)]).unwrap_or(false);
    let levels = [("error", "error"), ("warn", "warn"), ("info", "info"), ("debug", "debug"), ("trace", "trace")];
    let level = section.choice(reader, "level", &levels).unwrap_or("info").to_owned();
    section.finish(reader);
    Log { json, level }
}

fn master_key(reader: &mut Reader, root: &mut Section) -> Option<crate::base::Secret> {
    let key: crate::base::Secret = root.optional(reader, "master_key")?;
    long_enough(reader, "master_key", &key);
    Some(key)
}

/// Keys that everything rests on must not be guessable; 32 bytes is what the tools print.
pub(super) fn long_enough(reader: &mut Reader, at: &str, key: &crate::base::Secret) {
    if key.expose().len() < 32 {
        reader.problem(Problem::new(at, "is shorter than 32 bytes").example("the output of: openssl rand -hex 32"));
    }
}

fn context(reader: &mut Reader, section: Option<Section>) -> Context {
    let mut section = empty("context", section);
    let keys: BTreeMap<String, crate::base::Secret> = section
        .entries(reader, "keys")
        .into_iter()
        .filter_map(|(at, kid, value)| {
            if kid.is_empty()
                || kid.len() > 32
                || !kid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            {
                reader.problem(Problem::new(&at, "a key id has 1 to 32 letters, digits, _ or -"));
            }
            let key: crate::base::Secret = FromToml::from_toml(reader, &at, value)?;
            long_enough(reader, &at, &key);
            Some((kid, key))
        })
        .collect();
    let only = if keys.len() == 1 { keys.keys().next().cloned() } else { None };
    let at = section.at("active");
    let active = section.optional::<String>(reader, "active").or(only).unwrap_or_default();
    if !keys.is_empty() && !keys.contains_key(&active) {
        reader.problem(Problem::new(at, "must name one of context.keys").value(format!("{active:?}")));
    }
    let claims = section.optional(reader, "claims").unwrap_or_default();
    let entries = section.entries(reader, "settings");
    let settings = entries
        .into_iter()
        .filter_map(|(at, name, value)| Some((setting_name(reader, &at, name)?, setting_source(reader, &at, value)?)))
        .collect();
    section.finish(reader);
    Context { active, keys, claims, settings }
}

/// Custom settings only: a context must not be a way to change how the server behaves.
fn setting_name(reader: &mut Reader, at: &str, name: String) -> Option<String> {
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let dotted = name.split('.').count() >= 2 && name.split('.').all(word);
    if !dotted || name.to_ascii_lowercase().starts_with("pgward.") {
        reader.problem(
            Problem::new(at, "must be a custom setting's name with a dot in it, and not start with pgward.")
                .example("\"app.tenant_id\" = { tenant = true }"),
        );
        return None;
    }
    Some(name)
}

fn setting_source(reader: &mut Reader, at: &str, value: Value) -> Option<SettingSource> {
    if let Value::String(text) = value {
        return Some(SettingSource::Literal(text));
    }
    let mut section = table(reader, at, value)?;
    let tenant = section.optional::<bool>(reader, "tenant").unwrap_or(false);
    let claim = claim_path(reader, &mut section, "claim", None);
    section.finish(reader);
    match (tenant, claim) {
        (true, None) => Some(SettingSource::Tenant),
        (false, Some(path)) => Some(SettingSource::Claim(path)),
        _ => {
            reader.problem(
                Problem::new(at, "must be a string, { tenant = true } or { claim = \"$.path\" }")
                    .example("{ claim = \"$.sub\" }"),
            );
            None
        }
    }
}

/// A JSON path of RFC 9535, or its default.
fn claim_path(
    reader: &mut Reader,
    section: &mut Section,
    key: &'static str,
    default: Option<&str>,
) -> Option<ClaimPath> {
    let at = section.at(key);
    let text = section.optional::<String>(reader, key).or_else(|| default.map(str::to_owned))?;
    match serde_json_path::JsonPath::parse(&text) {
        Ok(path) => Some(ClaimPath { text, path }),
        Err(error) => {
            reader.problem(
                Problem::new(at, format!("is not a JSON path (RFC 9535): {error}"))
                    .value(text)
                    .example("\"$.app_metadata.tenant\""),
            );
            None
        }
    }
}

fn issuers(reader: &mut Reader, root: &mut Section) -> Vec<Issuer> {
    let items = match root.take("issuers") {
        Some(Value::Array(items)) => items,
        None => Vec::new(),
        Some(_) => {
            reader.problem(
                Problem::new("issuers", "must be tables, each under a heading of its own").example("[[issuers]]"),
            );
            Vec::new()
        }
    };
    items
        .into_iter()
        .enumerate()
        .filter_map(|(i, value)| {
            let section = table(reader, &format!("issuers[{i}]"), value)?;
            issuer(reader, section)
        })
        .collect()
}

fn issuer(reader: &mut Reader, mut section: Section) -> Option<Issuer> {
    let issuer: Option<String> = section.required(reader, "issuer", "\"https://login.example.com/\"");
    let audiences: Option<Vec<String>> = section.required(reader, "audience", "\"pgward\"");
    let at = section.at("algorithms");
    let named: Option<Vec<String>> = section.required(reader, "algorithms", "[\"ES256\"]");
    let algorithms: Vec<Algorithm> = named
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| choose(reader, &at, &Value::String(name), &Algorithm::ALL))
        .collect();
    let keys = key_source(reader, &mut section);
    let leeway = section.duration(reader, "leeway", 30 * SECOND, Duration::ZERO..=5 * MINUTE);
    let mut claims = empty(&section.at("claims"), section.section(reader, "claims"));
    let tenant_claim = claim_path(reader, &mut claims, "tenant", Some("$.tenant"));
    let role_claim = claim_path(reader, &mut claims, "role", Some("$.role"));
    let region_claim = claim_path(reader, &mut claims, "region", Some("$.region"));
    claims.finish(reader);
    let default_role = section.optional(reader, "default_role");
    let signing = section.section(reader, "signing").and_then(|signing| self::signing(reader, signing));
    if let Some(keys) = &keys {
        check_algorithms(reader, &at, &algorithms, keys);
    }
    section.finish(reader);
    Some(Issuer {
        issuer: issuer?,
        audiences: audiences?,
        algorithms,
        keys: keys?,
        leeway,
        tenant_claim: tenant_claim?,
        role_claim: role_claim?,
        region_claim: region_claim?,
        default_role,
        signing,
    })
}

/// HS256 with a public key is the classic forgery, so a secret and the public-key algorithms never meet.
fn check_algorithms(reader: &mut Reader, at: &str, algorithms: &[Algorithm], keys: &KeySource) {
    if algorithms.is_empty() {
        reader.problem(Problem::new(at, "must name at least one algorithm").example("algorithms = [\"ES256\"]"));
    }
    let secret = matches!(keys, KeySource::Secret(_));
    if algorithms.iter().any(|algorithm| (*algorithm == Algorithm::HS256) != secret) {
        reader.problem(
            Problem::new(at, "HS256 goes with a secret, and a secret with HS256 only")
                .example("algorithms = [\"ES256\"] with public_key_file, jwks_file or jwks_url"),
        );
    }
}

fn key_source(reader: &mut Reader, section: &mut Section) -> Option<KeySource> {
    let pem: Option<String> = section.optional(reader, "public_key_file");
    let jwks_file: Option<String> = section.optional(reader, "jwks_file");
    let jwks_url: Option<String> = section.optional(reader, "jwks_url");
    let secret: Option<crate::base::Secret> = section.optional(reader, "secret");
    let refresh = section.duration(reader, "jwks_refresh", 5 * MINUTE, 10 * SECOND..=DAY);
    let min_refresh = section.duration(reader, "jwks_min_refresh", 10 * SECOND, SECOND..=HOUR);
    let ca = section.optional::<String>(reader, "jwks_ca").map(|name| reader.resolve(&name));
    match (pem, jwks_file, jwks_url, secret) {
        (Some(name), None, None, None) => reader.file(&section.at("public_key_file"), &name).map(KeySource::Pem),
        (None, Some(name), None, None) => {
            reader.file(&section.at("jwks_file"), &name)?;
            Some(KeySource::JwksFile(reader.resolve(&name)))
        }
        (None, None, Some(url), None) => {
            if !url.starts_with("https://") {
                reader.problem(
                    Problem::new(
                        section.at("jwks_url"),
                        "must be an https:// URL: keys fetched in the clear can be replaced on the way",
                    )
                    .value(&url),
                );
            }
            Some(KeySource::JwksUrl(JwksUrl { url, refresh, min_refresh, ca }))
        }
        (None, None, None, Some(secret)) => {
            long_enough(reader, &section.at("secret"), &secret);
            Some(KeySource::Secret(secret))
        }
        _ => {
            reader.problem(
                Problem::new(&section.path, "needs exactly one of public_key_file, jwks_file, jwks_url and secret")
                    .example("jwks_url = \"https://login.example.com/.well-known/jwks.json\""),
            );
            None
        }
    }
}

fn signing(reader: &mut Reader, mut section: Section) -> Option<Signing> {
    let algorithm = match section.require(reader, "algorithm", "\"ES256\"") {
        Some(value) => choose(reader, &section.at("algorithm"), &value, &Algorithm::ALL),
        None => None,
    };
    let kid = section.optional(reader, "kid");
    let key = section.required(reader, "key", "{ file = \"dev-signing.pem\" }");
    section.finish(reader);
    Some(Signing { algorithm: algorithm?, kid, key: key? })
}

fn session(reader: &mut Reader, section: Option<Section>) -> SessionRules {
    let mut section = empty("session", section);
    let rules = SessionRules {
        expiry_grace: section.duration(reader, "expiry_grace", Duration::ZERO, Duration::ZERO..=DAY),
        idle_in_transaction_timeout: section.duration(
            reader,
            "idle_in_transaction_timeout",
            5 * MINUTE,
            Duration::ZERO..=DAY,
        ),
        prepared_per_session: section.number(reader, "max_prepared", 10_000, 1..=1_000_000),
    };
    section.finish(reader);
    rules
}

fn pool(reader: &mut Reader, section: Option<Section>) -> PoolRules {
    let mut section = empty("pool", section);
    let rules = PoolRules {
        max_per_login: section.number(reader, "max_per_login", 20, 1..=10_000),
        acquire_timeout: section.duration(reader, "acquire_timeout", 10 * SECOND, Duration::from_millis(1)..=HOUR),
        connect_timeout: section.duration(
            reader,
            "connect_timeout",
            5 * SECOND,
            Duration::from_millis(10)..=5 * MINUTE,
        ),
        idle_timeout: section.duration(reader, "idle_timeout", 10 * MINUTE, SECOND..=DAY),
        lifetime: section.duration(reader, "lifetime", HOUR, Duration::ZERO..=30 * DAY),
        prepared_per_backend: section.number(reader, "max_prepared", 500, 1..=100_000),
    };
    section.finish(reader);
    rules
}
