//! What Patroni knows: who holds the leader's lock, and which members there are.
//!
//! Any member answers for all of them (`GET /cluster`, Patroni's documentation, "REST API"), by what stands in its store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::board::Board;
use crate::base::{Region, ServerName, causes};
use crate::config::{Cluster, FileVersion, Patroni, Server, ServerRole};
use crate::net::{self, FetchError, FileError};

/// A larger answer is not read.
const LONGEST: usize = 256 * 1024;

/// Between two questions, where a change at the servers asks for one.
const GAP: Duration = Duration::from_millis(100);

/// One answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    pub members: Vec<Member>,
    /// Nobody is promoted for now, and a lock that is not held means nothing.
    pub paused: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub host: String,
    pub port: u16,
    /// It holds the lock, and takes writes.
    pub leads: bool,
    /// As its tag of this name says.
    pub region: Option<Region>,
    /// Nobody is to read there, as its tag `noloadbalance` says.
    pub spared: bool,
    api: Option<String>,
}

struct Client {
    http: reqwest::Client,
    /// Of the files that it was made of.
    files: Vec<FileVersion>,
}

#[derive(Debug, thiserror::Error)]
pub enum PatroniError {
    #[error("there is no URL")]
    Nobody,
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
    #[error("{at}")]
    Fetch {
        at: String,
        #[source]
        source: FetchError,
    },
    #[error("{at}: the answer is not that of Patroni's GET /cluster")]
    Answer { at: String },
}

impl Told {
    /// `None`: it is not what Patroni says.
    fn read(body: &[u8]) -> Option<Self> {
        let answer: Value = serde_json::from_slice(body).ok()?;
        let members = answer.get("members")?.as_array()?.iter().filter_map(Member::read).collect();
        Some(Self { members, paused: answer.get("pause").and_then(Value::as_bool).unwrap_or(false) })
    }

    /// Which members there are, whatever they do.
    pub(super) fn places(&self) -> BTreeSet<(&str, &str, u16, Option<&Region>, bool)> {
        let members = self.members.iter();
        members.map(|m| (m.name.as_str(), m.host.as_str(), m.port, m.region.as_ref(), m.spared)).collect()
    }

    pub(super) fn leader(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.leads)
    }
}

impl Member {
    /// `None`: it cannot be reached yet.
    fn read(member: &Value) -> Option<Self> {
        let text = |key: &str| member.get(key).and_then(Value::as_str);
        let tag = |key: &str| member.get("tags").and_then(|tags| tags.get(key));
        Some(Self {
            name: text("name")?.to_owned(),
            host: text("host")?.to_owned(),
            port: member.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok())?,
            leads: matches!(text("role"), Some("leader" | "primary" | "master")),
            region: tag("region").and_then(Value::as_str).and_then(|region| Region::parse(region).ok()),
            spared: tag("noloadbalance").and_then(Value::as_bool).unwrap_or(false),
            // http://host:8008/patroni
            api: text("api_url").and_then(|url| url.strip_suffix("/patroni")).map(ToOwned::to_owned),
        })
    }

    /// Whether a server is this member.
    pub(super) fn is(&self, server: &Server) -> bool {
        (server.host == self.host && server.port == self.port) || server.name.as_str() == self.name
    }

    /// As a server that pgward may use, if it is known where it is.
    fn server(&self, rules: &Patroni) -> Option<Server> {
        // Patroni lets names have what ours have not.
        let word = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        let name: String = self.name.chars().map(word).take(63).collect();
        Some(Server {
            name: ServerName::parse(&name).ok()?,
            host: self.host.clone(),
            port: self.port,
            region: self.region.clone().or_else(|| rules.region.clone())?,
            // Who leads changes, and it is the same server.
            role: ServerRole::Replica,
            max_backends: rules.max_backends,
            weight: if self.spared { 0 } else { rules.weight },
        })
    }
}

/// The servers of a cluster that Patroni tells of, besides those that are configured.
pub(super) fn found(cluster: &Cluster, told: &Told) -> Vec<Arc<Server>> {
    let Some(rules) = &cluster.patroni else { return Vec::new() };
    let mut found: Vec<Arc<Server>> = Vec::new();
    for member in &told.members {
        if cluster.servers.iter().any(|server| member.is(server)) {
            continue;
        }
        let Some(server) = member.server(rules) else { continue };
        if !cluster.servers.iter().chain(&found).any(|known| known.name == server.name) {
            found.push(Arc::new(server));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The same, asked for once.
pub async fn ask_once(cluster: &Cluster) -> Result<Vec<Arc<Server>>, PatroniError> {
    let Some(rules) = &cluster.patroni else { return Ok(Vec::new()) };
    let told = ask(rules, &mut rules.urls.clone(), &mut None).await?;
    Ok(found(cluster, &told))
}

/// Asks again and again; `changed` is called when there are other members than before. Never ends by itself.
pub async fn watch(board: Arc<Board>, rules: Arc<Patroni>, changed: impl Fn()) {
    let mut due = interval(rules.interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = board.changes();
    let mut urls = rules.urls.clone();
    let (mut asked, mut trouble, mut client) = (Instant::now(), None, None);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            Ok(()) = changes.changed() => sleep_until((asked + GAP).into()).await,
        }
        asked = Instant::now();
        match ask(&rules, &mut urls, &mut client).await {
            Ok(told) => {
                trouble = None;
                let apis = told.members.iter().filter_map(|member| member.api.clone());
                let others: Vec<String> = apis.filter(|url| !rules.urls.contains(url)).collect();
                urls.retain(|url| rules.urls.contains(url) || others.contains(url));
                urls.extend(others.into_iter().filter(|url| !urls.contains(url)).collect::<Vec<_>>());
                if board.told(asked, told, &rules) {
                    changed();
                }
            }
            Err(error) => {
                let why = causes(&error);
                if trouble.as_ref() != Some(&why) {
                    tracing::warn!(cluster = %board.name, why, "Patroni could not be asked: the servers are, as before");
                }
                trouble = Some(why);
            }
        }
    }
}

/// The first that answers, beginning with the one that did last.
async fn ask(rules: &Patroni, urls: &mut [String], client: &mut Option<Client>) -> Result<Told, PatroniError> {
    let files = [&rules.ca, &rules.certificate, &rules.key].into_iter().flatten();
    let files: Vec<FileVersion> = files.map(|path| FileVersion::of(path)).collect();
    let http = match client.take().filter(|client| client.files == files) {
        Some(client) => client.http,
        None => self::client(rules)?,
    };
    let http = &client.insert(Client { http, files }).http;
    let mut failed = Err(PatroniError::Nobody);
    for at in 0..urls.len() {
        failed = ask_one(http, &urls[at]).await;
        if failed.is_ok() {
            urls.rotate_left(at);
            break;
        }
    }
    failed
}

async fn ask_one(client: &reqwest::Client, url: &str) -> Result<Told, PatroniError> {
    // It may have a password in it.
    let at = reqwest::Url::parse(url)
        .ok()
        .and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    let at = at.unwrap_or_default();
    match net::fetch(client, &format!("{url}/cluster"), LONGEST).await {
        Ok(body) => Told::read(&body).ok_or(PatroniError::Answer { at }),
        Err(source) => Err(PatroniError::Fetch { at, source }),
    }
}

/// Without kept connections: who moves a name elsewhere is followed by that, too.
fn client(rules: &Patroni) -> Result<reqwest::Client, PatroniError> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(rules.timeout)
        .no_proxy()
        .pool_max_idle_per_host(0)
        .user_agent(concat!("pgward/", env!("CARGO_PKG_VERSION")));
    if let Some(ca) = &rules.ca {
        builder = builder.tls_certs_merge(net::authorities(ca)?);
    }
    if let (Some(certificate), Some(key)) = (&rules.certificate, &rules.key) {
        builder = builder.identity(net::identity(certificate, key)?);
    }
    builder.build().map_err(PatroniError::Client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const ANSWER: &str = r#"{"members": [
        {"name": "pg.1", "role": "leader", "state": "running", "api_url": "http://10.0.0.1:8008/patroni",
         "host": "10.0.0.1", "port": 5432, "timeline": 3, "tags": {"region": "lk"}},
        {"name": "pg2", "role": "sync_standby", "state": "streaming", "api_url": "http://10.0.0.2:8008/patroni",
         "host": "10.0.0.2", "port": 5433, "timeline": 3, "lag": 0, "tags": {"region": "in", "noloadbalance": true}},
        {"name": "pg3", "role": "replica", "state": "starting", "host": "10.0.0.3", "port": 5432, "lag": "unknown"},
        {"name": "pg4", "role": "replica", "state": "creating replica"}
    ], "scope": "main"}"#;

    fn cluster(region: &str, servers: &str) -> Arc<Cluster> {
        let text = format!(
            r#"
            listen = {{ address = "127.0.0.1:0" }}
            master_key = "0123456789abcdef0123456789abcdef"
            context.keys.k = "fedcba9876543210fedcba9876543210"
            [[issuers]]
            issuer = "i"
            audience = "a"
            algorithms = ["HS256"]
            secret = "0123456789abcdef0123456789abcdef"
            [clusters.c]
            logins = {{ app = "pgward_app" }}
            patroni = {{ urls = "http://10.0.0.1:8008/"{region} }}
            {servers}
            "#
        );
        let settings = config::parse(&text, std::path::Path::new(".")).unwrap();
        Arc::clone(settings.clusters.values().next().unwrap())
    }

    fn names(cluster: &Cluster) -> Vec<String> {
        let told = Told::read(ANSWER.as_bytes()).unwrap();
        let one = |server: &Arc<Server>| {
            format!("{} {}:{} {} {}", server.name, server.host, server.port, server.region, server.weight)
        };
        found(cluster, &told).iter().map(one).collect()
    }

    #[test]
    fn members_become_servers_where_it_is_known_in_which_region_they_are() {
        assert_eq!(names(&cluster("", "")), ["pg-1 10.0.0.1:5432 lk 100", "pg2 10.0.0.2:5433 in 0"]);
        let with_default = cluster(", region = \"np\"", "");
        assert_eq!(names(&with_default)[2], "pg3 10.0.0.3:5432 np 100");
    }

    #[test]
    fn what_is_configured_stands_by_its_name_or_its_address() {
        let servers = "
            servers = [
                { name = \"first\", host = \"10.0.0.1\", region = \"lk\" },
                { name = \"pg2\", host = \"db2.internal\", region = \"lk\", role = \"replica\" },
            ]";
        assert!(names(&cluster("", servers)).is_empty());
    }

    #[test]
    fn who_leads_is_who_takes_writes() {
        let told = Told::read(ANSWER.as_bytes()).unwrap();
        assert_eq!(told.leader().map(|leader| leader.name.as_str()), Some("pg.1"));
        let standby = ANSWER.replace("\"leader\"", "\"standby_leader\"");
        assert_eq!(Told::read(standby.as_bytes()).unwrap().leader(), None);
        assert!(Told::read(br#"{"members": [], "pause": true}"#).unwrap().paused);
        for other in ["", "[]", "{}", r#"{"members": 1}"#, "<html>"] {
            assert_eq!(Told::read(other.as_bytes()), None, "{other}");
        }
    }
}
