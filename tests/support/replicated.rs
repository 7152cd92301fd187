//! Clusters with replicas, pgward in front of all their servers, and what tests do to them.

use std::process::Command;

use pgward::local::{Cluster, Server};

use super::{Stage, furnish};

/// A primary `NAME-1` and a replica `NAME-2`, with the tests' tenants. What the primary acknowledges the replica has.
pub async fn pair(name: &str) -> Cluster {
    let cluster = Cluster::builder(name).setting("max_connections", "100").replica(&format!("{name}-2"));
    let mut cluster = cluster.start().await.unwrap();
    furnish(&cluster).await;
    let synchronous = "alter system set synchronous_standby_names = '*'";
    cluster.primary().run("postgres", "wait for the replica", synchronous).await.unwrap();
    cluster.primary().run("postgres", "reload", "select pg_reload_conf()").await.unwrap();
    cluster.caught_up().await.unwrap();
    cluster
}

/// pgward in front of all servers of a cluster. `extra`: in front of the configuration; `more`: of the cluster's table. The
/// first server is configured as the primary, and all are in region `lk` unless another is said.
pub async fn stage(cluster: &Cluster, extra: &str, more: &str, regions: &[&str]) -> Stage {
    let servers: Vec<(&str, u16)> = cluster.servers().map(|server| (server.name(), server.port())).collect();
    in_front_of(&servers, extra, more, regions).await
}

/// The same for servers of anybody's: their names and ports.
pub async fn in_front_of(servers: &[(&str, u16)], extra: &str, more: &str, regions: &[&str]) -> Stage {
    let rest = servers.iter().zip(regions.iter().copied().chain(std::iter::repeat("lk"))).skip(1);
    let rest: String = rest
        .map(|((name, port), region)| {
            format!(
                "[[clusters.main.servers]]\nname = \"{name}\"\nhost = \"127.0.0.1\"\nport = {port}\nregion = \"{region}\"\nrole = \"replica\"\n"
            )
        })
        .collect();
    let (first, port) = servers[0];
    let name = format!("name = \"{first}\"");
    let text = super::configuration(port, extra);
    let text = text.replace("name = \"main-1\"", &name).replace("[tenants.kandy]", &format!("{rest}[tenants.kandy]"));
    Stage::with(&format!("{}{}", super::HEAD, asked(&text, more))).await
}

/// pgward in front of what Patroni tells of, by the REST API at these ports. `more`: of the cluster's table.
pub async fn behind_patroni(ports: &[u16], more: &str) -> Stage {
    let urls: Vec<String> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let text = super::configuration(1, "");
    let (begin, end) = (text.find("[[clusters.main.servers]]").unwrap(), text.find("[tenants.kandy]").unwrap());
    let text = format!("{}{}", &text[..begin], &text[end..]);
    let patroni = format!("patroni = {{ urls = {urls:?}, interval = \"200ms\" }}\n{more}");
    Stage::with(&format!("{}{}", super::HEAD, asked(&text, &patroni))).await
}

/// With servers asked more often than in real life.
fn asked(text: &str, more: &str) -> String {
    let probe = "probe = { interval = \"100ms\", timeout = \"500ms\", down_after = \"1s\" }";
    text.replace("[clusters.main]\n", &format!("[clusters.main]\n{probe}\n{more}\n"))
}

pub async fn promote(server: &Server) {
    server.run("postgres", "promote", "select pg_promote()").await.unwrap();
}

/// What `SHOW CLUSTERS` says of one server: who it says it is, how it is, and whether it gets the writes.
pub async fn shown(stage: &Stage, server: &str) -> [String; 3] {
    let rows = stage.console().await.simple_query("show clusters").await.unwrap();
    let found = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) if row.get("server") == Some(server) => {
            Some(["role", "health", "writes"].map(|column| row.get(column).unwrap_or_default().to_owned()))
        }
        _ => None,
    });
    found.unwrap()
}

/// Each process of a server, as if the machine had lost its network: nothing is refused and nothing answered.
pub fn signal_all(server: &Server, signal: &str) {
    let pid = server.pid().unwrap().to_string();
    for arguments in [["-P", &pid], ["-p", &pid]] {
        let pids = match arguments {
            ["-P", _] => Command::new("pgrep").args(arguments).output().unwrap().stdout,
            _ => pid.clone().into_bytes(),
        };
        for pid in String::from_utf8(pids).unwrap().split_whitespace() {
            Command::new("kill").args([signal, pid]).status().unwrap();
        }
    }
}
