//! Key sets behind a URL, against a real HTTPS server.

use crate::net::FileError;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::super::testkit::*;
use super::super::{AuthError, Identity, Verifier};
use super::*;
use crate::config::KeySource;

/// What the provider answers; `None` hangs up.
type Answer = Option<(String, String)>;

struct Provider {
    address: SocketAddr,
    authority: tempfile::NamedTempFile,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    answer: Mutex<Answer>,
    requests: AtomicUsize,
    /// Each answer takes a permit, so a test can hold answers back.
    gate: Semaphore,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state =
            Arc::new(State { answer: Mutex::default(), requests: AtomicUsize::new(0), gate: Semaphore::new(1000) });
        let (authority, acceptor) = certificates();
        let mut tasks = JoinSet::new();
        let served = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(answer(acceptor.clone(), stream, served.clone()));
            }
        });
        Self { address, authority, state, _tasks: tasks }
    }

    fn serve(&self, keys: &[Value]) {
        self.say("200 OK", json!({"keys": keys}).to_string());
    }

    fn say(&self, status: &str, body: String) {
        *self.state.answer.lock().unwrap() = Some((status.to_owned(), body));
    }

    fn hang_up(&self) {
        *self.state.answer.lock().unwrap() = None;
    }

    fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    async fn until_requests(&self, count: usize) {
        eventually(|| self.requests() >= count).await;
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/keys?api_key=hidden", self.address.port())
    }

    fn verifier(&self, refresh: Duration, min_refresh: Duration) -> Arc<Verifier> {
        let url = JwksUrl { url: self.url(), refresh, min_refresh, ca: Some(self.authority.path().to_owned()) };
        Arc::new(Verifier::new(&[issuer(KeySource::JwksUrl(url), &[Algorithm::ES256])]).unwrap())
    }
}

async fn answer(acceptor: tokio_rustls::TlsAcceptor, stream: TcpStream, state: Arc<State>) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    state.requests.fetch_add(1, Ordering::SeqCst);
    state.gate.acquire().await.unwrap().forget();
    let answer = state.answer.lock().unwrap().clone();
    if let Some((status, body)) = answer {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        // The client may have seen enough before the end.
        drop(stream.write_all(format!("{head}{body}").as_bytes()).await);
        drop(stream.shutdown().await);
    }
}

/// An authority as a PEM file, and a server for `localhost` that it vouches for.
fn certificates() -> (tempfile::NamedTempFile, tokio_rustls::TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(authority.pem().as_bytes()).unwrap();

    let server_key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], PrivateKeyDer::Pkcs8(server_key.serialize_der().into()))
        .unwrap();
    (file, tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}

/// The tasks of a verifier; aborted when dropped.
fn refresh(verifier: &Verifier) -> JoinSet<()> {
    verifier.refreshers().into_iter().collect()
}

async fn verify(verifier: &Verifier, token: &str) -> Result<Identity, AuthError> {
    verifier.verify(token.as_bytes(), NOW).await
}

fn verifier_knows(verifier: &Verifier, kid: &str) -> bool {
    verifier.remote().shared.snapshot.load().find(Some(kid), Algorithm::ES256).is_ok()
}

async fn eventually(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the condition was never met");
}

const NEVER: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn the_first_fetch_is_made_at_once_and_serves_those_who_came_before_it() {
    let provider = Provider::start().await;
    let signer = Signer::new(Algorithm::ES256);
    provider.serve(&[signer.jwk("a")]);
    let verifier = provider.verifier(NEVER, NEVER);
    let early = {
        let (verifier, token) = (verifier.clone(), signer.sign_as("a", &claims()));
        tokio::spawn(async move { verify(&verifier, &token).await })
    };
    let _tasks = refresh(&verifier);
    assert!(early.await.unwrap().is_ok());
    assert!(verify(&verifier, &signer.sign(&claims())).await.is_ok());
    assert_eq!(provider.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_with_an_unknown_key_id_share_one_fetch() {
    let provider = Provider::start().await;
    let (old, new) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
    provider.serve(&[old.jwk("old")]);
    let verifier = provider.verifier(NEVER, SHORT);
    let _tasks = refresh(&verifier);
    verify(&verifier, &old.sign_as("old", &claims())).await.unwrap();

    provider.serve(&[old.jwk("old"), new.jwk("new")]);
    tokio::time::sleep(SHORT).await;
    // Hold the answer back until all of them wait, so none finds the new key by coming late.
    provider.state.gate.forget_permits(1000);
    let token = new.sign_as("new", &claims());
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        let (verifier, token) = (verifier.clone(), token.clone());
        clients.spawn(async move { verify(&verifier, &token).await.map(drop) });
    }
    eventually(|| verifier.remote().shared.rounds.receiver_count() == 50).await;
    provider.state.gate.add_permits(1000);
    assert_eq!(clients.join_all().await, vec![Ok(()); 50]);
    assert_eq!(provider.requests(), 2);
    // None of the fifty left a request behind that a later round would serve.
    tokio::time::sleep(4 * SHORT).await;
    assert_eq!(provider.requests(), 2);
}

#[tokio::test]
async fn made_up_key_ids_neither_cause_more_than_one_fetch_nor_wait() {
    let provider = Provider::start().await;
    let signer = Signer::new(Algorithm::ES256);
    provider.serve(&[signer.jwk("a")]);
    let verifier = provider.verifier(NEVER, NEVER);
    let _tasks = refresh(&verifier);
    verify(&verifier, &signer.sign_as("a", &claims())).await.unwrap();
    let begun = Instant::now();
    for i in 0..200 {
        let token = signer.sign_as(&format!("made up {i}"), &claims());
        assert_eq!(verify(&verifier, &token).await.unwrap_err(), AuthError::UnknownKey);
    }
    assert!(begun.elapsed() < NEWS_TIMEOUT, "refusals waited for a fetch that was not due");
    assert_eq!(provider.requests(), 1);
}

#[tokio::test]
async fn a_request_inside_the_pause_is_served_when_the_pause_ends() {
    let provider = Provider::start().await;
    let (old, new) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
    provider.serve(&[old.jwk("old")]);
    let pause = Duration::from_millis(300);
    let verifier = provider.verifier(NEVER, pause);
    let _tasks = refresh(&verifier);
    verify(&verifier, &old.sign_as("old", &claims())).await.unwrap();
    let begun = Instant::now();
    provider.serve(&[new.jwk("new")]);
    assert_eq!(verify(&verifier, &new.sign_as("new", &claims())).await.unwrap_err(), AuthError::UnknownKey);
    provider.until_requests(2).await;
    assert!(begun.elapsed() >= pause / 2, "fetched again too soon");
    eventually(|| verifier_knows(&verifier, "new")).await;
    assert!(verify(&verifier, &new.sign_as("new", &claims())).await.is_ok());
    // A key that the issuer has withdrawn is gone.
    assert_eq!(verify(&verifier, &old.sign_as("old", &claims())).await.unwrap_err(), AuthError::UnknownKey);
}

#[tokio::test]
async fn a_rotation_is_picked_up_without_anyone_asking() {
    let provider = Provider::start().await;
    let (old, new) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
    provider.serve(&[old.jwk("old")]);
    let verifier = provider.verifier(SHORT, SHORT);
    let _tasks = refresh(&verifier);
    verify(&verifier, &old.sign_as("old", &claims())).await.unwrap();
    provider.serve(&[new.jwk("new")]);
    eventually(|| verifier_knows(&verifier, "new") && !verifier_knows(&verifier, "old")).await;
    assert!(verify(&verifier, &new.sign_as("new", &claims())).await.is_ok());
}

#[tokio::test]
async fn the_last_good_set_is_kept_while_the_provider_fails() {
    let provider = Provider::start().await;
    let signer = Signer::new(Algorithm::ES256);
    let token = signer.sign_as("a", &claims());
    provider.serve(&[signer.jwk("a")]);
    let verifier = provider.verifier(SHORT, Duration::from_millis(10));
    let _tasks = refresh(&verifier);
    verify(&verifier, &token).await.unwrap();
    let failures: [&dyn Fn(); 5] = [
        &|| provider.hang_up(),
        &|| provider.say("500 Internal Server Error", json!({"keys": []}).to_string()),
        &|| provider.say("200 OK", "<html>".to_owned()),
        &|| provider.say("200 OK", format!("{{\"keys\":[]{}}}", " ".repeat(MAX_JWKS))),
        &|| provider.say("302 Found\r\nLocation: http://localhost/keys", String::new()),
    ];
    for fail in failures {
        fail();
        provider.until_requests(provider.requests() + 3).await;
        assert!(verify(&verifier, &token).await.is_ok());
    }
    // An empty set is an answer, not a failure: every key has been withdrawn.
    provider.serve(&[]);
    eventually(|| !verifier_knows(&verifier, "a")).await;
    assert_eq!(verify(&verifier, &token).await.unwrap_err(), AuthError::UnknownKey);
}

#[tokio::test]
async fn keys_that_were_never_fetched_are_unavailable_and_come_when_the_provider_does() {
    let provider = Provider::start().await;
    let signer = Signer::new(Algorithm::ES256);
    let token = signer.sign_as("a", &claims());
    let verifier = provider.verifier(NEVER, Duration::from_millis(20));
    let _tasks = refresh(&verifier);
    assert_eq!(verify(&verifier, &token).await.unwrap_err(), AuthError::KeysUnavailable);
    provider.serve(&[signer.jwk("a")]);
    eventually(|| verifier_knows(&verifier, "a")).await;
    assert!(verify(&verifier, &token).await.is_ok());
}

#[tokio::test]
async fn waiting_is_bounded_when_nobody_fetches() {
    let signer = Signer::new(Algorithm::ES256);
    let url = JwksUrl { url: "https://localhost:1/".into(), refresh: NEVER, min_refresh: SHORT, ca: None };
    let verifier = Verifier::new(&[issuer(KeySource::JwksUrl(url), &[Algorithm::ES256])]).unwrap();
    let begun = Instant::now();
    assert_eq!(verify(&verifier, &signer.sign(&claims())).await.unwrap_err(), AuthError::KeysUnavailable);
    assert!(begun.elapsed() < NEWS_TIMEOUT + Duration::from_secs(3));
}

#[tokio::test]
async fn a_provider_whose_certificate_nobody_vouches_for_is_not_believed() {
    let provider = Provider::start().await;
    let signer = Signer::new(Algorithm::ES256);
    provider.serve(&[signer.jwk("a")]);
    let stranger = certificates().0;
    let url = JwksUrl { url: provider.url(), refresh: NEVER, min_refresh: NEVER, ca: Some(stranger.path().to_owned()) };
    let verifier = Verifier::new(&[issuer(KeySource::JwksUrl(url), &[Algorithm::ES256])]).unwrap();
    let _tasks = refresh(&verifier);
    assert_eq!(verify(&verifier, &signer.sign(&claims())).await.unwrap_err(), AuthError::KeysUnavailable);
    assert_eq!(provider.requests(), 0);
}

#[tokio::test]
async fn a_failure_is_reported_without_the_url_and_plain_http_is_never_spoken() {
    let provider = Provider::start().await;
    let mut url = JwksUrl {
        url: provider.url(),
        refresh: NEVER,
        min_refresh: NEVER,
        ca: Some(provider.authority.path().to_owned()),
    };
    let Err(error) = Remote::new("test".into(), &url).unwrap().shared.fetch().await else { panic!("fetched") };
    assert!(!causes(&error).contains("hidden"), "{}", causes(&error));
    assert_eq!(provider.requests(), 1);
    url.url = url.url.replace("https", "http");
    let Err(error) = Remote::new("test".into(), &url).unwrap().shared.fetch().await else { panic!("fetched") };
    assert!(matches!(error, Unusable::Answer(FetchError::Http(_))) && !causes(&error).contains("hidden"));
    assert_eq!(provider.requests(), 1);
}

#[tokio::test]
async fn a_verifier_takes_over_its_predecessors_keys_and_its_tasks_end_with_it() {
    let provider = Provider::start().await;
    let signer = Signer::new(Algorithm::ES256);
    let token = signer.sign_as("a", &claims());
    provider.serve(&[signer.jwk("a")]);
    let old = provider.verifier(NEVER, NEVER);
    let mut tasks = refresh(&old);
    verify(&old, &token).await.unwrap();
    // A request that waits for its turn does not keep the task alive.
    assert_eq!(verify(&old, &signer.sign_as("b", &claims())).await.unwrap_err(), AuthError::UnknownKey);
    provider.hang_up();
    let new = provider.verifier(NEVER, NEVER);
    new.inherit(&old);
    drop(old);
    let ended = tokio::time::timeout(Duration::from_secs(5), tasks.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(())))));
    assert!(verify(&new, &token).await.is_ok());
    let _tasks = refresh(&new);
    provider.until_requests(2).await;
    assert!(verify(&new, &token).await.is_ok());
}

#[test]
fn an_authority_file_without_a_certificate_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let url = |ca: &std::path::Path| JwksUrl {
        url: "https://localhost/".into(),
        refresh: NEVER,
        min_refresh: NEVER,
        ca: Some(ca.to_owned()),
    };
    assert!(matches!(
        Remote::new("test".into(), &url(file.path())),
        Err(KeyProblem::Authority(FileError::Authority(_)))
    ));
    let nowhere = std::path::Path::new("/does/not/exist");
    assert!(matches!(Remote::new("test".into(), &url(nowhere)), Err(KeyProblem::Authority(FileError::Read(..)))));
}
