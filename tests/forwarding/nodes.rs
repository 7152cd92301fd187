//! Two nodes in front of one cluster in Sri Lanka: one there, one in India. Tenant acme may be in Sri Lanka alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pgward::local::{Authority, Identity, free_port};
use tokio_postgres::SimpleQueryMessage;

use crate::log::Log;
use crate::support::{self, Stage};

pub const ACME: [(&str, &str); 2] = [("user", "acme"), ("database", "app")];

/// The host name of acme's own, by which it is known before it says anything.
pub const ACME_HOST: &str = "acme.pg.example.com";

/// What each of the two says of acme: `forward`.
#[derive(Clone, Copy)]
pub struct Rules {
    pub abroad: &'static str,
    pub home: &'static str,
}

impl Default for Rules {
    fn default() -> Self {
        Self { abroad: "any", home: "any" }
    }
}

pub struct Nodes {
    pub abroad: Stage,
    pub home: Stage,
    pub abroad_log: Log,
    pub home_log: Log,
    /// Where the one at home is reached by other nodes.
    pub home_peers: SocketAddr,
    pub files: Files,
}

/// Certificates, by an authority of the nodes' own and by the listeners'.
pub struct Files {
    pub folder: tempfile::TempDir,
    pub nodes: Authority,
    pub listeners: Authority,
}

impl Files {
    fn new() -> Self {
        let authority = |name| Authority::new(name).unwrap();
        let files =
            Self { folder: tempfile::tempdir().unwrap(), nodes: authority("nodes"), listeners: authority("listeners") };
        std::fs::write(files.path("nodes.crt"), files.nodes.pem()).unwrap();
        for node in ["colombo", "mumbai", "kandy"] {
            files.write(node, &files.nodes.node(node).unwrap());
        }
        files.write("listener-lk", &files.listeners.server(&[ACME_HOST, "pg.lk.example.com"]).unwrap());
        files.write("listener-in", &files.listeners.server(&["localhost", "pg.in.example.com"]).unwrap());
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, identity: &Identity) {
        std::fs::write(self.path(&format!("{name}.crt")), &identity.certificate).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), &identity.key).unwrap();
    }
}

fn free_address() -> SocketAddr {
    ([127, 0, 0, 1], free_port().unwrap()).into()
}

/// A node's part of its configuration.
fn extra(files: &Path, node: &str, listen: SocketAddr, peers: &[(&str, &str, SocketAddr)], audit: &str) -> String {
    let path = |name: &str| files.join(name).display().to_string();
    let nodes: String = peers
        .iter()
        .map(|(name, region, peer)| {
            format!(
                "[nodes.{name}]\nregion = \"{region}\"\naddress = \"pg.{region}.example.com:6432\"\npeer_address = \"{peer}\"\n"
            )
        })
        .collect();
    format!(
        "node = \"{node}\"\n{audit}\n{nodes}
[forwarding]
listen = \"{listen}\"
certificate = \"{}\"
key = \"{}\"
ca = \"{}\"
connect_timeout = \"2s\"
server_name = \"*.pg.example.com\"\n",
        path(&format!("{node}.crt")),
        path(&format!("{node}.key")),
        path("nodes.crt"),
    )
}

impl Nodes {
    pub async fn start(rules: Rules) -> Self {
        Self::start_with(rules, &[]).await
    }

    /// With more nodes at home that are not there: their names.
    pub async fn start_with(rules: Rules, missing: &[&'static str]) -> Self {
        let files = Files::new();
        let (abroad_peers, home_peers) = (free_address(), free_address());
        let mut peers = vec![("mumbai", "in", abroad_peers), ("colombo", "lk", home_peers)];
        peers.extend(missing.iter().map(|name| (*name, "lk", free_address())));
        let (abroad_log, home_log) = (Log::new(), Log::new());
        let port = support::cluster().await.primary().port();
        let text = |node: &str, listen, rule: &str, log: &Log, listener: &str| {
            let extra = extra(files.folder.path(), node, listen, &peers, &log.table(""));
            let path = |end: &str| files.path(&format!("{listener}.{end}")).display().to_string();
            let tls = format!(
                "tls = {{ mode = \"allow\", certificate = \"{}\", key = \"{}\" }}, cores = 2",
                path("crt"),
                path("key")
            );
            let text = format!("{}{}", support::HEAD, support::configuration(port, &extra));
            let acme = format!("[tenants.acme]\nforward = \"{rule}\"\n");
            text.replace("[tenants.acme]\n", &acme).replace("cores = 2", &tls)
        };
        let home = Stage::with(&text("colombo", home_peers, rules.home, &home_log, "listener-lk")).await;
        let abroad = Stage::with(&text("mumbai", abroad_peers, rules.abroad, &abroad_log, "listener-in")).await;
        Self { abroad, home, abroad_log, home_log, home_peers, files }
    }

    /// Of each client that a node has: its tenant, its state and the node that it has come by.
    pub async fn shown(&self, stage: &Stage) -> Vec<[String; 3]> {
        let rows = stage.console().await.simple_query("show clients").await.unwrap();
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                let row: tokio_postgres::SimpleQueryRow = row;
                Some(["tenant", "state", "came_by"].map(|column| row.get(column).unwrap_or_default().to_owned()))
            }
            _ => None,
        };
        rows.into_iter().filter_map(row).collect()
    }
}
