//! What the parts of the hot path cost one by one: finding messages, borrowing a backend, telling it whose session it
//! serves, and believing a token.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pgward::audit::{Audit, Here};
use pgward::auth::{Verifier, mint};
use pgward::base::{Access, ClusterName, Party, Secret, TenantId, clock};
use pgward::config::{self, Settings};
use pgward::limits::Usages;
use pgward::pool::{Follow, Place, Pools, Request, Shard};
use pgward::session::World;
use pgward::telemetry::Telemetry;
use pgward::tenant::{Context, Known, Sealer};
use pgward::wire::{Header, Origin, handover};
use rcgen::{KeyPair, PublicKeyData};

/// A server that lets everybody in and says nothing else.
fn welcoming() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut input = [0; 1024];
                let _ = stream.read(&mut input);
                let _ = stream.write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I");
                while matches!(stream.read(&mut input), Ok(n) if n > 0) {}
            });
        }
    });
    port
}

fn settings(port: u16) -> Settings {
    let key = KeyPair::generate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    file("public.pem", pem(&key.subject_public_key_info()));
    file("private.pem", key.serialize_pem());
    let text = format!(
        "master_key = \"0123456789abcdef0123456789abcdef\"
listen.address = \"127.0.0.1:0\"
context.keys.k1 = \"fedcba9876543210fedcba9876543210\"
[[issuers]]
issuer = \"bench\"
audience = \"pgward\"
algorithms = [\"ES256\"]
public_key_file = \"public.pem\"
signing = {{ algorithm = \"ES256\", key = {{ file = \"private.pem\" }} }}
[clusters.main]
logins.app = \"pgward_app\"
tls.mode = \"off\"
[[clusters.main.servers]]
name = \"main-1\"
host = \"127.0.0.1\"
port = {port}
region = \"lk\"
[tenants.acme]
isolation = \"database\"
cluster = \"main\"
database = \"app\"
roles.app = \"acme\"
home = \"lk\"
"
    );
    config::parse(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
}

fn acme() -> TenantId {
    TenantId::parse("acme").unwrap()
}

/// A result of 100 rows, message by message.
fn frames(c: &mut Criterion) {
    let mut result = Vec::new();
    for _ in 0..100 {
        result.extend_from_slice(b"D\0\0\0\x12\0\x02\0\0\0\x02ab\0\0\0\x02cd");
    }
    let mut group = c.benchmark_group("frames");
    group.throughput(Throughput::Bytes(result.len() as u64));
    group.bench_function("100_rows", |b| {
        b.iter(|| {
            let (mut rest, mut found) = (black_box(result.as_slice()), 0);
            while let Some(header) = Header::read(rest, Origin::Server).unwrap() {
                rest = &rest[header.total..];
                found += 1;
            }
            assert_eq!(found, 100);
        });
    });
    group.finish();
}

/// The seal, and all that a backend of another tenant is sent.
fn contexts(c: &mut Criterion) {
    let sealer = Arc::new(Sealer::new("k1", &Secret::new([7; 32])).unwrap());
    let path = vec![("search_path".to_owned(), "app, public".to_owned())];
    let context = Context::new(&acme(), Some(&sealer), &serde_json::Map::new(), path);
    let mut group = c.benchmark_group("context");
    group.bench_function("seal", |b| b.iter(|| sealer.context(black_box(4711), &acme())));
    let mut out = Vec::new();
    group.bench_function("handover", |b| {
        b.iter(|| {
            out.clear();
            let gate = handover::gate();
            context.for_backend(black_box(4711), &Known::Discarded, |orders| {
                handover::put(&mut out, orders, gate.as_bytes());
            });
        });
    });
    group.finish();
}

fn tokens(c: &mut Criterion) {
    let settings = settings(1);
    let issuer = &settings.issuers[0];
    let (app, hour) = (Access::parse("app").unwrap(), Duration::from_secs(3600));
    let token = mint(issuer, &acme(), &app, hour, &serde_json::Map::new(), clock::unix_now()).unwrap();
    let verifier = Verifier::new(&settings.issuers).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // ES256 signs anew with other random bits each time.
    let fresh = || mint(issuer, &acme(), &app, hour, &serde_json::Map::new(), clock::unix_now()).unwrap();
    c.bench_function("token/es256", |b| {
        let verify = |token: String| runtime.block_on(verifier.verify(token.as_bytes(), clock::unix_now())).unwrap();
        b.iter_batched(fresh, verify, BatchSize::SmallInput);
    });
    c.bench_function("token/es256_again", |b| {
        b.iter(|| runtime.block_on(verifier.verify(black_box(token.as_bytes()), clock::unix_now())).unwrap());
    });
}

/// An idle backend borrowed and given back.
fn leases(c: &mut Criterion) {
    let port = welcoming();
    let world = World::new(settings(port), None).unwrap();
    let audit = Audit::start(None, Here::default(), &Arc::new(Telemetry::new())).unwrap();
    let pools = Pools::new(1, audit);
    let (cluster, tenant) =
        (&world.settings.clusters[&ClusterName::parse("main").unwrap()], &world.settings.tenants[&acme()]);
    let login = &cluster.logins[&Access::parse("app").unwrap()];
    let secret = world.login_secret(&cluster.name, login).unwrap();
    let credentials =
        pgward::backend::Credentials { role: login.role.clone(), database: tenant.database.clone(), secret };
    let pool = world.pool(&pools, cluster, credentials, None);
    pools.point(&cluster.name, &Place::Primary, || {
        let server = &cluster.servers[0];
        let endpoint = world.endpoint(&cluster.name, &server.name).cloned();
        Follow { endpoint, max_backends: Some(server.max_backends), patience: None }
    });
    let runtime = tokio::runtime::LocalRuntime::new().unwrap();
    let shard = Shard::new(0, vec![tokio::sync::mpsc::unbounded_channel().0]);
    let local = shard.local(&pool);
    let usages = Usages::default();
    let usage = usages.of(&Party::Tenant(acme()));
    let context = Arc::new(Context::new(&acme(), None, &serde_json::Map::new(), Vec::new()));
    let request = Request { context: &context, usage: &usage, max_leases: 10 };
    let first = runtime.block_on(shard.acquire(&local, request)).unwrap();
    shard.release(first, Instant::now());
    let _entered = runtime.enter();
    c.bench_function("lease", |b| {
        b.iter(|| {
            let lease = shard.try_acquire(&local, request).unwrap();
            shard.release(black_box(lease), Instant::now());
        });
    });
}

criterion_group!(benches, frames, contexts, tokens, leases);
criterion_main!(benches);
