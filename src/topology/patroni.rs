//! What Patroni knows: who holds the leader's lock, and which members there are.
//!
//! Any member answers for all of them (`GET /cluster`, Patroni's documentation, "REST API"), by what stands in its store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::board::Board;
use super::roster::Roster;
use crate::base::{Region, ServerName, causes};
use crate::config::{Cluster, FileVersion, Patroni, Server, ServerRole, Url};
use crate::net::{self, FetchError, FileError};
use crate::residency;

/// A larger answer is not read.
const LONGEST: usize = 256 * 1024;

/// Nobody has more of them.
const MEMBERS: usize = 64;

/// Members that are asked besides those whose URLs are configured.
const OTHERS: usize = 16;

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
    leads: bool,
    /// As its tag of this name says. `Err`: it has one that is no region.
    region: Result<Option<Region>, ()>,
    /// Nobody is to read there, as its tag `noloadbalance` says.
    spared: bool,
    api: Option<Url>,
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
    #[error("{at}: the answer is not that of Patroni's GET /cluster, or tells of more than {MEMBERS} members")]
    Answer { at: String },
}

impl Told {
    /// `None`: it is not what Patroni says.
    fn read(body: &[u8]) -> Option<Self> {
        let answer: Value = serde_json::from_slice(body).ok()?;
        let members = answer.get("members")?.as_array().filter(|members| members.len() <= MEMBERS)?;
        let members = members.iter().filter_map(Member::read).collect();
        Some(Self { members, paused: answer.get("pause").and_then(Value::as_bool).unwrap_or(false) })
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
            // No socket's folder.
            host: text("host").filter(|host| !host.is_empty() && !host.starts_with('/'))?.to_owned(),
            port: member.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok())?,
            leads: matches!(text("role"), Some("leader" | "primary" | "master")),
            // `no` is a region, and false in YAML.
            region: tag("region").map(|tag| Region::parse(tag.as_str().unwrap_or_default()).map_err(drop)).transpose(),
            spared: tag("noloadbalance").and_then(Value::as_bool).unwrap_or(false),
            // http://host:8008/patroni
            api: text("api_url").and_then(|url| Url::parse(url.strip_suffix("/patroni")?)),
        })
    }

    /// Which of these servers it is. By its address, and else by its name, which others may have given to another.
    pub(super) fn position<'a>(&self, servers: impl Iterator<Item = &'a Arc<Server>> + Clone) -> Option<usize> {
        let place = |server: &Arc<Server>| server.host == self.host && server.port == self.port;
        let name = |server: &Arc<Server>| server.name.as_str() == self.server_name();
        servers.clone().position(place).or_else(|| servers.clone().position(name))
    }

    /// Patroni lets names have what ours have not.
    fn server_name(&self) -> String {
        let word = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        self.name.chars().map(word).take(63).collect()
    }

    /// Where it is, if that is known and it may be used there.
    fn place(&self, rules: &Patroni) -> Option<Region> {
        if self.position(rules.left_alone.iter()).is_some() {
            return None;
        }
        let region = self.region.clone().ok()?.or_else(|| rules.region.clone())?;
        residency::confined(rules.regions.as_deref(), &region).then_some(region)
    }

    /// As a server that pgward may use, if it is known where it is.
    pub(super) fn server(&self, rules: &Patroni) -> Option<Server> {
        Some(Server {
            name: ServerName::parse(&self.server_name()).ok()?,
            host: self.host.clone(),
            port: self.port,
            region: self.place(rules)?,
            // Who leads changes, and it is the same server.
            role: ServerRole::Replica,
            max_backends: rules.max_backends,
            weight: if self.spared { 0 } else { rules.weight },
            data_directory: None,
        })
    }
}

/// What Patroni tells when it is asked once.
#[derive(Debug, Default)]
pub struct Found {
    /// Besides those that are configured.
    pub servers: Vec<Arc<Server>>,
    /// Who leads, among all of them.
    pub leader: Option<Arc<Server>>,
}

pub async fn ask_once(cluster: &Cluster) -> Result<Found, PatroniError> {
    let Some(rules) = &cluster.patroni else { return Ok(Found::default()) };
    let told = Asker::new(Arc::clone(rules)).ask().await?;
    let leader = told.leader().cloned();
    let mut roster = Roster::default();
    roster.take(Instant::now(), told, rules, |_| false);
    let (servers, _) = roster.servers(cluster);
    let all = || cluster.servers.iter().chain(&servers);
    let leader = leader.and_then(|leader| all().nth(leader.position(all())?)).map(Arc::clone);
    Ok(Found { servers, leader })
}

/// Asks again and again; `changed` is called when there are other members than before. Never ends by itself.
pub async fn watch(board: Arc<Board>, rules: Arc<Patroni>, changed: impl Fn()) {
    let mut due = interval(rules.interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = board.changes();
    let mut asker = Asker::new(Arc::clone(&rules));
    let (mut asked, mut trouble) = (Instant::now(), None);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            Ok(()) = changes.changed() => sleep_until((asked + GAP).into()).await,
        }
        if board.disputes() {
            // What was asked last may not know yet.
            asker.turn();
        }
        asked = Instant::now();
        match asker.ask().await {
            Ok(told) => {
                trouble = None;
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

/// Whom to ask, and how.
pub(super) struct Asker {
    rules: Arc<Patroni>,
    /// Those that are configured and some that they told of. The one that answered last is the first.
    urls: Vec<Url>,
    client: Option<Client>,
}

impl Asker {
    pub fn new(rules: Arc<Patroni>) -> Self {
        Self { urls: rules.urls.clone(), rules, client: None }
    }

    /// Another one is to be asked first.
    fn turn(&mut self) {
        self.urls.rotate_left(1);
    }

    pub async fn ask(&mut self) -> Result<Told, PatroniError> {
        let http = self.client()?;
        let first = self.urls.first().cloned().ok_or(PatroniError::Nobody)?;
        let mut answer = ask_one(&http, &first).await.map(|told| (told, first));
        if answer.is_err() {
            let mut others = JoinSet::new();
            for url in self.urls.iter().skip(1).cloned() {
                let http = http.clone();
                others.spawn(async move { ask_one(&http, &url).await.map(|told| (told, url)) });
            }
            while let Some(other) = others.join_next().await {
                if let Ok(Ok(other)) = other {
                    answer = Ok(other);
                    break;
                }
            }
        }
        let (told, by) = answer?;
        self.learn(&told, &by);
        Ok(told)
    }

    /// Others are asked when those that are configured do not answer.
    fn learn(&mut self, told: &Told, by: &Url) {
        let known = &self.rules.urls;
        // No answer makes pgward speak in the clear where it did not.
        let fit = |url: &Url| known.iter().any(|known| known.scheme() == url.scheme()) && !known.contains(url);
        // Nor has it those asked that are to be left alone.
        let confined = self.rules.regions.is_some();
        let members = told.members.iter().filter(|member| !confined || member.place(&self.rules).is_some());
        let apis = members.filter_map(|member| member.api.clone()).filter(fit);
        let all: Vec<Url> = known.iter().cloned().chain(apis.take(OTHERS)).collect();
        let first = all.iter().filter(|url| *url == by);
        self.urls = first.chain(all.iter().filter(|url| *url != by)).cloned().collect();
    }

    /// Without kept connections: who moves a name elsewhere is followed by that. Anew when the files of TLS have changed.
    fn client(&mut self) -> Result<reqwest::Client, PatroniError> {
        let rules = &self.rules;
        let files = [&rules.ca, &rules.certificate, &rules.key].into_iter().flatten();
        let files: Vec<FileVersion> = files.map(|path| FileVersion::of(path)).collect();
        if let Some(client) = self.client.as_ref().filter(|client| client.files == files) {
            return Ok(client.http.clone());
        }
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
        let http = builder.build().map_err(PatroniError::Client)?;
        self.client = Some(Client { http: http.clone(), files });
        Ok(http)
    }
}

async fn ask_one(client: &reqwest::Client, url: &Url) -> Result<Told, PatroniError> {
    let at = || url.to_string();
    match net::fetch(client, &format!("{url}/cluster"), LONGEST).await {
        Ok(body) => Told::read(&body).ok_or_else(|| PatroniError::Answer { at: at() }),
        Err(source) => Err(PatroniError::Fetch { at: at(), source }),
    }
}

#[cfg(test)]
pub(super) mod tests {
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

    /// `region`: more of the table `patroni`; `servers`: of the cluster's.
    pub fn cluster(region: &str, servers: &str) -> Arc<Cluster> {
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

    /// Members by name; whose name has a `!` behind it leads.
    pub fn told(members: &str, paused: bool) -> Told {
        let member = |(at, word): (usize, &str)| Member {
            name: word.trim_end_matches('!').to_owned(),
            host: format!("10.0.0.{at}"),
            port: 5432,
            leads: word.ends_with('!'),
            region: Ok(None),
            spared: false,
            api: None,
        };
        Told { members: members.split_whitespace().enumerate().map(member).collect(), paused }
    }

    fn servers(cluster: &Cluster, answer: &str) -> Vec<Arc<Server>> {
        let mut roster = Roster::default();
        let told = Told::read(answer.as_bytes()).unwrap();
        roster.take(Instant::now(), told, cluster.patroni.as_ref().unwrap(), |_| false);
        roster.servers(cluster).0
    }

    fn names(cluster: &Cluster) -> Vec<String> {
        let one = |server: &Arc<Server>| {
            format!("{} {}:{} {} {}", server.name, server.host, server.port, server.region, server.weight)
        };
        servers(cluster, ANSWER).iter().map(one).collect()
    }

    #[test]
    fn members_become_servers_where_it_is_known_in_which_region_they_are() {
        assert_eq!(names(&cluster("", "")), ["pg-1 10.0.0.1:5432 lk 100", "pg2 10.0.0.2:5433 in 0"]);
        let with_default = cluster(", region = \"np\"", "");
        assert_eq!(names(&with_default)[2], "pg3 10.0.0.3:5432 np 100");
    }

    #[test]
    fn a_tag_that_is_no_region_was_taken_for_the_default() {
        for tag in ["false", "47", "\"a b\"", "\"\"", "null", "[\"lk\"]"] {
            let answer = ANSWER.replace("\"region\": \"lk\"", &format!("\"region\": {tag}"));
            let found = servers(&cluster(", region = \"np\"", ""), &answer);
            assert!(!found.iter().any(|server| server.host == "10.0.0.1"), "{tag}");
        }
    }

    #[test]
    fn names_that_others_have_do_not_hide_whose_address_it_is() {
        let crossed = "
            servers = [
                { name = \"pg2\", host = \"10.0.0.1\", region = \"lk\" },
                { name = \"pg-1\", host = \"10.0.0.2\", port = 5433, region = \"lk\", role = \"replica\" },
            ]";
        let told = Told::read(ANSWER.as_bytes()).unwrap();
        assert_eq!(told.leader().unwrap().position(cluster("", crossed).servers.iter()), Some(0));
    }

    #[test]
    fn whom_to_ask_is_not_for_an_answer_to_say() {
        let cluster = cluster("", "");
        let mut asker = Asker::new(Arc::clone(cluster.patroni.as_ref().unwrap()));
        let by = asker.urls[0].clone();
        let api = |text: &str| ANSWER.replace("http://10.0.0.2:8008/patroni", text);
        for (url, asked) in [
            ("http://10.0.0.2:8008/patroni", 2),
            ("https://10.0.0.2:8008/patroni", 1),
            ("http://me:word@10.0.0.2:8008/patroni", 1),
            ("http://10.0.0.2:8008/x?y=/patroni", 1),
            ("file:///patroni", 1),
        ] {
            asker.learn(&Told::read(api(url).as_bytes()).unwrap(), &by);
            assert_eq!(asker.urls.len(), asked, "{url}: {:?}", asker.urls);
        }
        let many = ["{\"name\": \"x\"}"; 65].join(",");
        assert_eq!(Told::read(format!("{{\"members\": [{many}]}}").as_bytes()), None);
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
