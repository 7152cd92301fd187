//! Clients whose TLS goes through to the node at home.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::nodes::{ACME, ACME_HOST, Nodes, Rules};
use crate::support::raw::{Raw, V3_2, cancel_request, errors, gists, query};

async fn direct(nodes: &Nodes, host: &str) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    direct_at(nodes, nodes.abroad.address, host).await
}

async fn direct_at(nodes: &Nodes, address: SocketAddr, host: &str) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(nodes.files.listeners.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    Ok(Raw::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_encrypts_for_the_home_the_node_abroad_cannot_read() {
    let nodes = Nodes::start(Rules { abroad: "direct-tls", home: "direct-tls" }).await;
    // The certificate is the home's: the other node has none for this name.
    let mut raw = direct(&nodes, ACME_HOST).await.unwrap();
    let login = raw.log_in(V3_2, &ACME, &nodes.home.token("acme", "app")).await;
    assert_eq!(raw.one("select count(*) from orders").await, "100");
    let big = raw.one("select repeat('x', 3000000)").await;
    assert_eq!(big.len(), 3_000_000);
    let passed = nodes.abroad_log.await_line("forwarded", &[("tenant", "acme"), ("forwarded_to", "colombo")]).await;
    assert_eq!(passed["direct_tls"], true);
    assert!(passed.get("user").is_none(), "nothing of it is known: {passed}");
    let arrived = nodes.home_log.await_line("login", &[("tenant", "acme"), ("came_by", "mumbai")]).await;
    assert_eq!(passed["peer"], arrived["peer"]);
    // Its cancel request goes the same way, and so does one in the clear, as older clients send it.
    let key = login.iter().find(|message| message.tag == b'K').unwrap().body.clone();
    let request = cancel_request(u32::from_be_bytes(key[..4].try_into().unwrap()), &key[4..]);
    raw.send(query("select pg_sleep(31)")).await;
    crate::begun("select pg_sleep(31)").await;
    let mut cancel = direct(&nodes, ACME_HOST).await.unwrap();
    cancel.send(&request).await;
    assert_eq!(errors(&raw.ready().await), ["57014"]);
    raw.send(query("select pg_sleep(32)")).await;
    crate::begun("select pg_sleep(32)").await;
    Raw::connect(nodes.abroad.address).await.send(&request).await;
    assert_eq!(errors(&raw.ready().await), ["57014"]);
    assert_eq!(gists(&raw.query("select 1").await).last().unwrap(), "Z I");
    drop((raw, cancel));
    nodes.home.at_rest(0).await;
    nodes.abroad.at_rest(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_tenants_own_host_name_leads_to_its_home() {
    let nodes = Nodes::start(Rules::default()).await;
    // This node's own name, and what leads nowhere: TLS ends here, where the certificate is of another name.
    assert!(direct(&nodes, "localhost").await.is_ok());
    for host in ["t1.pg.example.com", "nobody.pg.example.com", "acme.pg.example.org", "pg.lk.example.com"] {
        assert!(direct(&nodes, host).await.is_err(), "{host}");
    }
    assert!(nodes.abroad_log.of("forwarded").is_empty());
    // The name is not the token: by acme's come acme's alone, and those whose rule lets them.
    let mut raw = direct(&nodes, ACME_HOST).await.unwrap();
    let parameters = [("user", "t1"), ("database", "app")];
    let login = raw.log_in(V3_2, &parameters, &nodes.home.token("t1", "app")).await;
    assert_eq!(errors(&login), ["28000"]);
    // Nor does anybody get to the console that way.
    let mut raw = direct(&nodes, ACME_HOST).await.unwrap();
    let login = raw.log_in(V3_2, &[("user", "admin"), ("database", "pgward")], "console-password").await;
    assert_eq!(errors(&login), ["28000"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_in_pieces_is_waited_for_and_garbage_is_not_forwarded() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let nodes = Nodes::start(Rules::default()).await;
    let mut garbage = TcpStream::connect(nodes.abroad.address).await.unwrap();
    garbage.write_all(&[0x16, 3, 1, 0, 5, 9, 9, 9, 9, 9]).await.unwrap();
    // Refused by TLS here.
    let mut answer = Vec::new();
    let _ = garbage.read_to_end(&mut answer).await;
    // A byte at a time, by way of a relay.
    let (listener, address) = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    };
    let target = nodes.abroad.address;
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(target).await.unwrap();
        far.set_nodelay(true).unwrap();
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut far_in, &mut near_out).await });
        let mut byte = [0; 16];
        while let Ok(n @ 1..) = near_in.read(&mut byte).await {
            far_out.write_all(&byte[..n]).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut raw = direct_at(&nodes, address, ACME_HOST).await.unwrap();
    raw.log_in(V3_2, &ACME, &nodes.home.token("acme", "app")).await;
    assert_eq!(raw.one("select count(*) from orders").await, "100");
}
