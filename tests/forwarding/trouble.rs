//! Strangers at the nodes' door, nodes that are gone, and ends.

use std::time::{Duration, Instant};

use pgward::config;
use pgward::local::Authority;
use pgward::net::Peers;
use pgward::wire::forward::{ALPN, Preamble};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::nodes::{ACME, Nodes, Rules};
use crate::support::raw::{Raw, V3_0, errors, gists, password, query, startup};
use crate::support::{code, eventually, one, until};

impl Nodes {
    /// Another node's way in, with these certificates.
    fn peers(&self, name: &str) -> Peers {
        let forwarding = self.home.settings.forwarding.clone().unwrap();
        let (certificate, key) = (self.files.path(&format!("{name}.crt")), self.files.path(&format!("{name}.key")));
        Peers::new(&config::Forwarding { certificate, key, ..forwarding }, ALPN).unwrap()
    }

    /// What the home answers to whoever says this at the nodes' door.
    async fn answer(&self, name: &str, preamble: &Preamble, then: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = self.peers(name).connect("colombo", &self.home_peers.to_string()).await?;
        let mut out = bytes::BytesMut::new();
        preamble.encode(&mut out).unwrap();
        out.extend_from_slice(then);
        stream.write_all(&out).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer).await {
            // pgward ends connections as PostgreSQL does, without a word of TLS.
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(answer),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_not_come_in_where_nodes_do() {
    let nodes = Nodes::start(Rules::default()).await;
    let session = Preamble::Session { peer: None, tls: true };
    let mut login = startup(V3_0, &ACME);
    login.extend(password(&nodes.home.token("acme", "app")));
    login.extend(query("select 'in'"));
    login.extend(crate::support::raw::terminate());
    let as_node = nodes.answer("mumbai", &session, &login).await.unwrap();
    assert!(as_node.windows(2).any(|two| two == b"in"), "a node comes in");
    // By another authority, under a name that nobody knows, under the home's own, and as a server alone.
    let other = Authority::new("another").unwrap();
    nodes.files.write("forged", &other.node("mumbai").unwrap());
    nodes.files.write("unknown", &nodes.files.nodes.node("galle").unwrap());
    nodes.files.write("server", &nodes.files.nodes.server(&["mumbai"]).unwrap());
    for name in ["forged", "unknown", "colombo", "server"] {
        let answer = nodes.answer(name, &session, &login).await;
        assert!(answer.as_ref().map_or(true, Vec::is_empty), "{name}: {answer:?}");
    }
    // In the clear, and with garbage.
    for garbage in [&login[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16; 300]] {
        let mut tcp = TcpStream::connect(nodes.home_peers).await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        assert!(!answer.windows(2).any(|two| two == b"in"));
    }
    // A node that does not speak as one does.
    for (preamble, then) in [(&session, &b"\xff\xff\xff\xff"[..]), (&Preamble::Drain, b"more"), (&session, b"")] {
        tokio::time::timeout(Duration::from_secs(20), nodes.answer("mumbai", preamble, then)).await.unwrap().ok();
    }
    nodes.home.at_rest(0).await;
    assert_eq!(one(&nodes.abroad.connect("acme").await, "select 1").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_is_gone_is_told_and_the_next_node_there_is_tried() {
    // Its names sort before the one that is there.
    let nodes = Nodes::start_with(Rules::default(), &["badulla"]).await;
    let client = nodes.abroad.connect("acme").await;
    assert_eq!(one(&client, "select 1").await, "1");
    // The connection ends with the home, and nobody waits for ever.
    let Nodes { home, abroad, abroad_log, .. } = nodes;
    home.control.shutdown();
    until("the end of the session", async || client.is_closed()).await;
    until("the end of the home", async || {
        let refused = abroad.try_connect(&abroad.url("acme", "app")).await.err();
        refused.is_some_and(|refused| code(&refused) == "57P03")
    })
    .await;
    let begin = Instant::now();
    let refused = abroad.try_connect(&abroad.url("acme", "app")).await.err().unwrap();
    let report = refused.as_db_error().unwrap();
    assert_eq!(report.message(), "no pgward in the tenant's regions could be reached to forward this connection to");
    assert!(report.hint().unwrap().contains("pg.lk.example.com:6432 (region lk)"), "{report:?}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    abroad_log.await_line("login_refused", &[("reason", "home_unreachable"), ("tenant", "acme")]).await;
    abroad.at_rest(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_shuts_down_lets_forwarded_transactions_finish() {
    let nodes = Nodes::start(Rules::default()).await;
    let mut idle = nodes.abroad.raw("acme").await;
    let mut busy = nodes.abroad.raw("acme").await;
    assert_eq!(gists(&busy.query("begin").await), ["C BEGIN\0", "Z T"]);
    let stays = nodes.home.connect("acme").await;
    nodes.abroad.control.shutdown();
    // Told by the home, as whoever has come there by itself is not.
    assert_eq!(errors(&idle.rest().await), ["57P01"]);
    assert_eq!(busy.one("select count(*) from orders").await, "100");
    busy.send(query("commit")).await;
    let rest = busy.rest().await;
    assert_eq!(errors(&rest), ["57P01"], "{:?}", gists(&rest));
    assert_eq!(gists(&rest)[0], "C COMMIT\0");
    let mut nodes = nodes;
    let stopped = nodes.abroad.stopped.take().unwrap();
    tokio::time::timeout(Duration::from_secs(3), stopped).await.expect("the drain is over when they are").unwrap();
    assert_eq!(one(&stays, "select 1").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_to_be_forwarded_any_more_is_not() {
    let nodes = Nodes::start(Rules::default()).await;
    let client = nodes.abroad.connect("acme").await;
    one(&client, "select 1").await;
    let text = std::fs::read_to_string(&nodes.abroad.path).unwrap();
    std::fs::write(&nodes.abroad.path, text.replace("forward = \"any\"", "suspended = true")).unwrap();
    nodes.abroad.control.reload().await.unwrap();
    until("its end", async || client.is_closed()).await;
    nodes.home.at_rest(0).await;
    // Moved, as any other change of a tenant: the home would end it at the next moment, and here there is a limit.
    std::fs::write(&nodes.abroad.path, &text).unwrap();
    nodes.abroad.control.reload().await.unwrap();
    let client = nodes.abroad.connect("acme").await;
    std::fs::write(&nodes.abroad.path, text.replace("forward = \"any\"", "forward = \"off\"")).unwrap();
    nodes.abroad.control.reload().await.unwrap();
    eventually("its end", Duration::from_secs(10), async || client.is_closed()).await;
    let refused = nodes.abroad.try_connect(&nodes.abroad.url("acme", "app")).await.err().unwrap();
    assert_eq!(code(&refused), "28000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_gone_leaves_nothing_at_either_node() {
    let nodes = Nodes::start(Rules::default()).await;
    for _ in 0..20 {
        let mut raw = Raw::connect(nodes.abroad.address).await;
        raw.log_in(V3_0, &ACME, &nodes.abroad.token("acme", "app")).await;
        raw.send(query("select pg_sleep(60)")).await;
    }
    nodes.abroad.at_rest(0).await;
    until("all sessions' end", async || nodes.home.control.client_count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_by_a_node_that_is_taken_out_ends_and_so_does_what_went_by_one() {
    let nodes = Nodes::start(Rules::default()).await;
    for (stage, node) in [(&nodes.home, "mumbai"), (&nodes.abroad, "colombo")] {
        let mut busy = nodes.abroad.raw("acme").await;
        assert_eq!(gists(&busy.query("begin").await), ["C BEGIN\0", "Z T"]);
        let whole = std::fs::read_to_string(&stage.path).unwrap();
        let begin = whole.find(&format!("[nodes.{node}]")).unwrap();
        let end = begin + 1 + whole[begin + 1..].find("\n[").unwrap();
        std::fs::write(&stage.path, format!("{}{}", &whole[..begin], &whole[end..])).unwrap();
        stage.control.reload().await.unwrap();
        busy.rest().await;
        nodes.home.at_rest(0).await;
        nodes.abroad.at_rest(0).await;
        assert!(nodes.abroad.try_connect(&nodes.abroad.url("acme", "app")).await.is_err());
        std::fs::write(&stage.path, whole).unwrap();
        stage.control.reload().await.unwrap();
    }
    assert_eq!(one(&nodes.abroad.connect("acme").await, "select 1").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_suspended_here_is_not_forwarded_though_its_home_has_not_heard_of_it() {
    let nodes = Nodes::start(Rules::default()).await;
    let text = std::fs::read_to_string(&nodes.abroad.path).unwrap();
    std::fs::write(&nodes.abroad.path, text.replace("forward = \"any\"", "forward = \"any\"\nsuspended = true"))
        .unwrap();
    nodes.abroad.control.reload().await.unwrap();
    let refused = nodes.abroad.try_connect(&nodes.abroad.url("acme", "app")).await.err().unwrap();
    assert_eq!(refused.as_db_error().unwrap().message(), "the tenant is suspended");
    assert!(nodes.home_log.of("login").is_empty());
}
