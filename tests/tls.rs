//! TLS on both sides: what clients are shown and asked for, and how servers are reached.

mod support;

use std::path::Path;
use std::sync::Arc;

use pgward::local::{Authority, Cluster, Identity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use support::raw::{Raw, SSL_REQUEST, V3_0, errors, query, startup};
use support::{HEAD, Stage, cluster, configuration, furnish, one};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const ACME: [(&str, &str); 2] = [("user", "acme"), ("database", "app")];
const ALPN: &[u8] = b"postgresql";

/// A listener's certificate and who signed it, in files.
struct Shown {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Shown {
    fn new() -> Self {
        let shown =
            Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("clients' authority").unwrap() };
        shown.write(&shown.authority.server(&["localhost", "127.0.0.1"]).unwrap());
        shown
    }

    fn write(&self, identity: &Identity) {
        std::fs::write(self.folder.path().join("server.crt"), &identity.certificate).unwrap();
        std::fs::write(self.folder.path().join("server.key"), &identity.key).unwrap();
    }

    fn head(&self, mode: &str) -> String {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let tls = format!(
            "tls = {{ mode = \"{mode}\", certificate = \"{}\", key = \"{}\" }}, cores = 2",
            path("server.crt"),
            path("server.key")
        );
        HEAD.replace("cores = 2", &tls)
    }

    async fn stage(&self, mode: &str) -> Stage {
        let text = configuration(cluster().await.primary().port(), "");
        Stage::with(&format!("{}{text}", self.head(mode))).await
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

async fn direct(stage: &Stage, config: &Arc<ClientConfig>) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    encrypt(Raw::connect(stage.address).await, config).await
}

async fn requested(stage: &Stage, config: &Arc<ClientConfig>) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    let mut raw = Raw::connect(stage.address).await;
    raw.send(SSL_REQUEST).await;
    assert_eq!(raw.byte().await, Some(b'S'));
    encrypt(raw, config).await
}

async fn encrypt(raw: Raw, config: &Arc<ClientConfig>) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    let name = ServerName::try_from("localhost").unwrap();
    Ok(Raw::new(TlsConnector::from(Arc::clone(config)).connect(name, raw.stream).await?))
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];

async fn enters(stage: &Stage, mut raw: Raw<TlsStream<TcpStream>>) {
    let messages = raw.log_in(V3_0, &ACME, &stage.token("acme", "app")).await;
    assert_eq!(messages.last().map(|message| message.tag), Some(b'Z'), "{messages:?}");
    assert_eq!(raw.one("select pgward.tenant()").await, "acme");
    assert!(stage.control.clients().await.iter().all(|client| client.profile.tls));
}

#[tokio::test]
async fn plaintext_is_refused_before_a_password_is_asked_for() {
    let shown = Shown::new();
    let stage = shown.stage("require").await;
    let mut raw = Raw::connect(stage.address).await;
    raw.send(startup(V3_0, &ACME)).await;
    let messages = raw.rest().await;
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(errors(&messages), ["28000"]);
    let stage = shown.stage("allow").await;
    assert_eq!(stage.raw("acme").await.one("select pgward.tenant()").await, "acme", "where it is allowed");
    enters(&stage, direct(&stage, &shown.client(BOTH, &[ALPN])).await.unwrap()).await;
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_on_request_and_directly() {
    let shown = Shown::new();
    let stage = shown.stage("require").await;
    for version in BOTH {
        enters(&stage, requested(&stage, &shown.client(&[*version], &[])).await.unwrap()).await;
        enters(&stage, requested(&stage, &shown.client(&[*version], &[ALPN])).await.unwrap()).await;
        enters(&stage, direct(&stage, &shown.client(&[*version], &[ALPN])).await.unwrap()).await;
        stage.at_rest(0).await;
    }
}

#[tokio::test]
async fn direct_tls_without_its_protocol_name_is_refused() {
    let shown = Shown::new();
    let stage = shown.stage("require").await;
    for alpn in [&[][..], &[b"http/1.1".as_slice()]] {
        let Ok(mut raw) = direct(&stage, &shown.client(BOTH, alpn)).await else { continue };
        // TLS 1.3 clients learn of a refused name only now.
        raw.try_send(startup(V3_0, &ACME)).await;
        let messages = raw.rest().await;
        assert!(messages.iter().all(|message| message.tag == b'E'), "{messages:?}");
        assert!(errors(&messages).iter().all(|code| code == "08P01"), "{messages:?}");
    }
    stage.at_rest(0).await;
}

#[tokio::test]
async fn bytes_sent_before_tls_was_up_are_not_taken_for_sent_within() {
    let shown = Shown::new();
    let stage = shown.stage("allow").await;
    for smuggled in [startup(V3_0, &[("user", "globex"), ("database", "app")]), query("select 1"), vec![0x16, 3, 1]] {
        let mut raw = Raw::connect(stage.address).await;
        raw.send([&SSL_REQUEST[..], &smuggled].concat()).await;
        let messages = raw.rest().await;
        assert_eq!(errors(&messages), ["08P01"], "{messages:?}");
    }
    // A second request within TLS.
    let mut raw = requested(&stage, &shown.client(BOTH, &[])).await.unwrap();
    raw.send(SSL_REQUEST).await;
    assert_eq!(errors(&raw.rest().await), ["08P01"]);
}

#[tokio::test]
async fn a_new_certificate_is_shown_after_a_reload_and_connected_clients_stay() {
    let shown = Shown::new();
    let stage = shown.stage("require").await;
    let config = shown.client(BOTH, &[ALPN]);
    let certificate = |raw: &Raw<TlsStream<TcpStream>>| {
        let (_, session) = raw.stream.get_ref();
        session.peer_certificates().unwrap()[0].to_vec()
    };
    let mut before = direct(&stage, &config).await.unwrap();
    before.log_in(V3_0, &ACME, &stage.token("acme", "app")).await;
    let old = certificate(&before);
    before.query("begin").await;
    shown.write(&shown.authority.server(&["localhost"]).unwrap());
    assert_eq!(certificate(&direct(&stage, &config).await.unwrap()), old, "not without a reload");
    stage.control.reload().await.unwrap();
    let after = direct(&stage, &config).await.unwrap();
    assert_ne!(certificate(&after), old);
    enters(&stage, after).await;
    assert_eq!(before.one("select pgward.tenant()").await, "acme");
    before.query("commit").await;
    // A pair that does not fit is refused whole.
    let path = shown.folder.path().join("server.key");
    std::fs::write(&path, Authority::new("other").unwrap().server(&["localhost"]).unwrap().key).unwrap();
    assert!(stage.control.reload().await.is_err());
    enters(&stage, direct(&stage, &config).await.unwrap()).await;
}

// --------------------------------------------------------------------------------- towards servers

static SECURED: OnceCell<Cluster> = OnceCell::const_new();

/// A cluster that takes pgward's logins over TLS only, and one of them only with a client certificate.
async fn secured() -> &'static Cluster {
    SECURED
        .get_or_init(async || {
            let cluster = Cluster::builder("secured")
                .tls()
                .setting("max_connections", "100")
                .setting("log_connections", "on")
                .hba("hostssl app pgward_readonly 127.0.0.1/32 scram-sha-256 clientcert=verify-ca")
                .hba("hostssl app pgward_app 127.0.0.1/32 scram-sha-256")
                .hba("hostnossl app pgward_app,pgward_readonly 127.0.0.1/32 reject")
                .start()
                .await
                .unwrap();
            furnish(&cluster).await;
            cluster
        })
        .await
}

async fn behind(folder: &Path, tls: &str) -> Stage {
    let cluster = secured().await;
    std::fs::write(folder.join("ca.crt"), cluster.authority().unwrap().pem()).unwrap();
    std::fs::write(folder.join("wrong.crt"), Authority::new("another").unwrap().pem()).unwrap();
    let client = cluster.authority().unwrap().client("anybody").unwrap();
    std::fs::write(folder.join("client.crt"), client.certificate).unwrap();
    std::fs::write(folder.join("client.key"), client.key).unwrap();
    let tls = tls.replace("DIR", &folder.display().to_string());
    let text = configuration(cluster.primary().port(), "").replace("tls.mode = \"off\"", &tls);
    Stage::with(&format!("{HEAD}{text}")).await
}

/// What the server says of the TLS of a session's backend. Tenants are not shown it.
async fn of_its_backend(client: &tokio_postgres::Client, column: &str) -> String {
    client.batch_execute("begin").await.unwrap();
    let pid = one(client, "select pg_backend_pid()").await;
    let server = secured().await.primary().connect("app").await.unwrap();
    let found = one(&server, &format!("select {column} from pg_stat_ssl where pid = {pid}")).await;
    client.batch_execute("commit").await.unwrap();
    found
}

#[tokio::test]
async fn servers_are_verified_in_full_or_merely_encrypted_as_configured() {
    let folder = tempfile::tempdir().unwrap();
    for tls in ["tls = { mode = \"verify-full\", ca = \"DIR/ca.crt\" }", "tls.mode = \"require\""] {
        let stage = behind(folder.path(), tls).await;
        let acme = stage.connect("acme").await;
        assert_eq!(of_its_backend(&acme, "ssl").await, "t", "{tls}");
        assert_eq!(one(&acme, "select pgward.tenant()").await, "acme");
        // A backend that served another core cannot move under TLS; whoever asks gets one all the same.
        let clients: Vec<_> =
            [stage.connect("globex").await, stage.connect("t1").await, stage.connect("t2").await].into();
        for client in clients.iter().cycle().take(12) {
            assert_eq!(of_its_backend(client, "ssl").await, "t");
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_verified_is_not_used_and_not_named() {
    let folder = tempfile::tempdir().unwrap();
    let port = secured().await.primary().port().to_string();
    for tls in [
        "tls = { mode = \"verify-full\", ca = \"DIR/wrong.crt\" }",
        // The system's authorities have not signed it.
        "tls.mode = \"verify-full\"",
        // The server rejects plaintext.
        "tls.mode = \"off\"",
    ] {
        let stage = behind(folder.path(), tls).await;
        let error = stage.try_connect(&stage.url("acme", "app")).await.err().unwrap();
        let error = error.as_db_error().unwrap_or_else(|| panic!("{tls}: {error:?}"));
        assert_eq!(error.code().code(), "08006", "{tls}");
        let told = format!("{} {:?} {:?}", error.message(), error.detail(), error.hint());
        for name in ["127.0.0.1", &port, "localhost", "pgward_app", "main"] {
            assert!(!told.contains(name), "{told} names {name}");
        }
        stage.at_rest(0).await;
    }
}

#[tokio::test]
async fn a_server_whose_name_is_not_in_its_certificate_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = secured().await;
    std::fs::write(folder.path().join("ca.crt"), cluster.authority().unwrap().pem()).unwrap();
    let tls = format!("tls = {{ mode = \"verify-full\", ca = \"{}\" }}", folder.path().join("ca.crt").display());
    let text = configuration(cluster.primary().port(), "").replace("tls.mode = \"off\"", &tls);
    // The same server, under an address that the certificate does not have.
    let stage = Stage::with(&format!("{HEAD}{}", text.replace("host = \"127.0.0.1\"", "host = \"127.0.0.2\""))).await;
    let error = stage.try_connect(&stage.url("acme", "app")).await.err().unwrap();
    assert_eq!(support::code(&error), "08006");
}

/// Stands between pgward and the server, ends TLS with a certificate of its own and begins it anew.
async fn in_the_middle(shown: Identity) -> u16 {
    let cluster = secured().await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_slice_iter(shown.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(cluster.authority().unwrap().pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (port, server) = (listener.local_addr().unwrap().port(), cluster.primary().port());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (acceptor, config) = (acceptor.clone(), Arc::clone(&config));
            tokio::spawn(async move {
                let mut near = Raw::new(near);
                for byte in SSL_REQUEST {
                    assert_eq!(near.byte().await, Some(byte));
                }
                near.send(b"S").await;
                let mut far = Raw::connect(("127.0.0.1", server)).await;
                far.send(SSL_REQUEST).await;
                assert_eq!(far.byte().await, Some(b'S'));
                let (Ok(mut near), mut far) =
                    (acceptor.accept(near.stream).await, encrypt(far, &config).await.unwrap())
                else {
                    return;
                };
                // Ends when either side has had enough.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far.stream).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_login_is_bound_to_the_servers_certificate() {
    let data = secured().await.primary().data();
    let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
    let servers_own = Identity { certificate: read("server.crt"), key: read("server.key") };
    let other = Authority::new("in the middle").unwrap().server(&["127.0.0.1"]).unwrap();
    let through = async |shown: Identity| {
        let text =
            configuration(in_the_middle(shown).await, "").replace("tls.mode = \"off\"", "tls.mode = \"require\"");
        let stage = Stage::with(&format!("{HEAD}{text}")).await;
        match stage.try_connect(&stage.url("acme", "app")).await {
            Ok(client) => one(&client, "select pgward.tenant()").await,
            Err(error) => support::code(&error),
        }
    };
    assert_eq!(through(servers_own).await, "acme", "the relay itself does no harm");
    // Mode `require` verifies no certificate, yet SCRAM-SHA-256-PLUS sees that it is not the server's.
    assert_eq!(through(other).await, "08006");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_server_wants_one() {
    let folder = tempfile::tempdir().unwrap();
    let plain = "mode = \"verify-full\", ca = \"DIR/ca.crt\"";
    let stage = behind(folder.path(), &format!("tls = {{ {plain} }}")).await;
    let error = stage.try_connect(&stage.url("acme", "readonly")).await.err().unwrap();
    assert_eq!(support::code(&error), "08006", "without a certificate");
    let shown = format!("tls = {{ {plain}, certificate = \"DIR/client.crt\", key = \"DIR/client.key\" }}");
    let stage = behind(folder.path(), &shown).await;
    let acme = stage.try_connect(&stage.url("acme", "readonly")).await.unwrap();
    assert_eq!(of_its_backend(&acme, "client_dn").await, "/CN=anybody");
    assert_eq!(one(&acme, "select count(*) from orders").await, "100");
}

#[tokio::test]
async fn a_cancel_request_to_a_server_with_tls_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let stage = behind(folder.path(), "tls = { mode = \"verify-full\", ca = \"DIR/ca.crt\" }").await;
    let acme = stage.connect("acme").await;
    let token = acme.cancel_token();
    let running = tokio::spawn(async move { acme.simple_query("select pg_sleep(60)").await.unwrap_err() });
    let watch = secured().await.primary().connect("postgres").await.unwrap();
    let sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    support::until("the statement's start", async || one(&watch, sleeping).await == "1").await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    assert_eq!(support::code(&running.await.unwrap()), "57014");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_session_goes_on_at_another_core() {
    let shown = Shown::new();
    let stage = shown.stage("require").await;
    // While this one says nothing at the first core, whoever logs in does so at the second.
    let _silent = TcpStream::connect(stage.address).await.unwrap();
    support::raw::pause().await;
    let mut raw = requested(&stage, &shown.client(BOTH, &[])).await.unwrap();
    let messages = raw.log_in(V3_0, &ACME, &stage.token("acme", "app")).await;
    assert_eq!(messages.last().map(|message| message.tag), Some(b'Z'), "{messages:?}");
    while stage.metric("pgward_sessions_moved_total").await < 1.0 {
        assert_eq!(raw.one("select pgward.tenant()").await, "acme");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(raw.one("select pgward.tenant()").await, "acme");
    let long = "x".repeat(300_000);
    assert_eq!(raw.one(&format!("select repeat('{long}', 10)")).await.len(), 3_000_000);
}
