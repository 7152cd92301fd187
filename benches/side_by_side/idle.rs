//! Memory of clients that are connected and do nothing.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use pgward::local::{Authority, Identity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use super::lean::{Lean, by_password, query, tcp};
use super::peers::{Bouncer, Peer};
use super::setup::Setup;
use super::spawned::resident_kib;
use super::stage::{Stage, TENANTS, Target, plain, tenant};
use super::table::print;

pub fn measure(stage: &Stage, count: usize, encrypted: usize) -> Value {
    let authority = Authority::new("clients' authority").unwrap();
    let identity = authority.server(&["localhost"]).unwrap();
    let config = trusting(&authority);
    let plain = compare(stage, None, count, &Target::connect);
    let tls = compare(stage, Some(&identity), encrypted, &|target| encrypt(target, &config));
    let (table, values): (Vec<_>, Vec<_>) = plain.into_iter().chain(tls).unzip();
    let heads = ["through", "TLS", "clients", "KiB each", "process MiB", "after a query each, MiB"];
    print("Idle clients", &heads, &table);
    Value::Array(values)
}

type Line = (Vec<String>, Value);

fn compare<S: Read + Write>(
    stage: &Stage,
    tls: Option<&Identity>,
    count: usize,
    connect: &dyn Fn(&Target) -> io::Result<Lean<S>>,
) -> [Line; 2] {
    eprintln!("{count} idle clients, twice{}", if tls.is_some() { ", over TLS" } else { "" });
    // Processes that have done nothing yet: freed memory of theirs would hide what clients take. PgBouncer
    // asks for no passwords, which cost it and its clients time, and no memory.
    let mut setup = Setup::new(stage.server_port(), None);
    if let Some(identity) = tls {
        setup = setup.tls(identity);
    }
    let pgward = setup.start();
    let pgbouncer = Peer::pgbouncer(&Bouncer { auth: "trust", tls, ..Bouncer::new(stage.server_port()) });
    let tenants = (0..TENANTS.min(count)).map(|i| tenant(&pgward, "pgward", &format!("t{i}"))).collect();
    let bouncer = vec![plain("pgbouncer", pgbouncer.address, Some(pgbouncer.pid))];
    [tenants, bouncer].map(|targets: Vec<Target>| line(&targets, tls.is_some(), count, connect))
}

fn line<S: Read + Write>(
    targets: &[Target],
    tls: bool,
    count: usize,
    connect: &dyn Fn(&Target) -> io::Result<Lean<S>>,
) -> Line {
    let (name, pid) = (targets[0].name, targets[0].pid.unwrap());
    let connect = |i: usize| {
        let client = connect(&targets[i % targets.len()]);
        client.unwrap_or_else(|error| panic!("{name}, client {i}: {error}"))
    };
    let one = query("select 1");
    for i in 0..50 {
        connect(i).expect(&one, "1").unwrap();
    }
    let before = resident_kib(pid);
    let mut clients: Vec<Lean<S>> = (0..count).map(connect).collect();
    let with = resident_kib(pid);
    clients.iter_mut().for_each(|client| client.expect(&one, "1").unwrap());
    let after = resident_kib(pid);
    let each = with.saturating_sub(before) as f64 / count as f64;
    let row = vec![
        name.to_owned(),
        if tls { "yes" } else { "no" }.to_owned(),
        count.to_string(),
        format!("{each:.2}"),
        format!("{:.1}", with as f64 / 1024.0),
        format!("{:.1}", after as f64 / 1024.0),
    ];
    let value = json!({
        "target": name,
        "tls": tls,
        "clients": count,
        "kib_each": each,
        "process_kib": with,
        "process_kib_after_a_query_each": after,
    });
    (row, value)
}

fn trusting(authority: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// As libpq does it: asks for TLS first, and logs in over it.
fn encrypt(target: &Target, config: &Arc<ClientConfig>) -> io::Result<Lean<StreamOwned<ClientConnection, TcpStream>>> {
    let mut stream = tcp(target.address)?;
    stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f")?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"S", "{} speaks no TLS", target.name);
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let stream = StreamOwned::new(connection, stream);
    Lean::log_in(stream, &target.user, "app", by_password(&target.password))
}
