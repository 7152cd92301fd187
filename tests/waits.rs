//! Who waits for a backend gets one as soon as there is one to be had, whatever kept it before: the login's share of the
//! server, the server's own limit, or the tenant's.

#[path = "support/lean.rs"]
mod lean;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lean::{Answer, Lean, query};
use support::{HEAD, Stage, cluster, configuration};

/// Each core looks after those who wait four times a second, too. That is for what nobody foresaw, and must not be what
/// serves them.
const PROMPT: Duration = Duration::from_millis(60);

const BURSTS: usize = 200;

/// Rounds of a query each, all sent before the first answer is read; how long each round took, in order.
fn bursts(clients: &mut [Lean]) -> Vec<Duration> {
    let short = query("select 1");
    let mut took: Vec<Duration> = (0..BURSTS)
        .map(|_| {
            let begin = Instant::now();
            clients.iter_mut().for_each(|client| client.send(&short).unwrap());
            clients.iter_mut().for_each(|client| assert_eq!(client.take().unwrap(), Answer { rows: 1, errors: 0 }));
            begin.elapsed()
        })
        .collect();
    took.sort();
    took
}

/// Clients by tenant and role, on both cores.
async fn served(stage: &Stage, whom: &[(&str, &str)], each: usize) {
    let (address, mut logins) = (stage.address, Vec::new());
    for (tenant, role) in whom {
        logins.extend((0..each).map(|_| ((*tenant).to_owned(), stage.token(tenant, role))));
    }
    let took = tokio::task::spawn_blocking(move || {
        let log_in = |(tenant, token): &(String, String)| Lean::connect(address, tenant, "app", token).unwrap();
        let mut clients: Vec<Lean> = logins.iter().map(log_in).collect();
        // Backends are opened first.
        bursts(&mut clients[..]);
        bursts(&mut clients[..])
    })
    .await
    .unwrap();
    let (usual, slow) = (took[BURSTS / 2], took[BURSTS * 9 / 10]);
    println!("half within {usual:?}, nine of ten within {slow:?}");
    assert!(slow < PROMPT, "half of the rounds took up to {usual:?}, one in ten more than {slow:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_with_few_backends_serves_all_who_wait_for_them() {
    let stage = Stage::new("[pool]\nmax_per_login = 3\n").await;
    served(&stage, &[("acme", "app"), ("globex", "app"), ("t1", "app")], 8).await;
}

/// Its leases are counted over both logins. While other tenants always want the backend that comes back of one, a session
/// of the other login goes on with its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_at_its_limit_goes_on_with_another_login_when_one_comes_back() {
    let stage = Stage::new("[limits]\nmax_leases = 1\n[pool]\nmax_per_login = 1\n").await;
    let (address, over) = (stage.address, Arc::new(AtomicBool::new(false)));
    let whom = ["readonly", "app", "app", "app", "app", "app"].iter().enumerate();
    let clients: Vec<_> = whom
        .map(|(i, role)| {
            let tenant = if i < 3 { "acme".to_owned() } else { format!("t{i}") };
            let (token, over) = (stage.token(&tenant, role), Arc::clone(&over));
            tokio::task::spawn_blocking(move || {
                let mut client = Lean::connect(address, &tenant, "app", &token).unwrap();
                let (short, mut count) = (query("select 1"), 0);
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(client.run(&short).unwrap(), Answer { rows: 1, errors: 0 });
                    count += 1;
                    // So that the tenant's other sessions have their chance at all.
                    thread::sleep(if i == 0 { Duration::from_millis(1) } else { Duration::ZERO });
                }
                count
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    over.store(true, Ordering::Relaxed);
    let mut served: Vec<usize> = Vec::new();
    for client in clients {
        served.push(client.await.unwrap());
    }
    println!("served within two seconds, readonly first: {served:?}");
    let others: usize = served[1..].iter().sum();
    assert!(served[0] * 20 > others, "{served:?}");
}

/// Backends of others are closed for those who wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_full_makes_room_for_the_login_that_waits() {
    let port = cluster().await.primary().port();
    let text = format!("{HEAD}{}", configuration(port, "")).replace("max_backends = 60", "max_backends = 2");
    let stage = Stage::with(&text).await;
    let (address, kandy, acme) = (stage.address, stage.token("kandy", "app"), stage.token("acme", "app"));
    let took = tokio::task::spawn_blocking(move || {
        let log_in = |tenant, token: &str| Lean::connect(address, tenant, "app", token).unwrap();
        let mut clients = [("kandy", &kandy), ("kandy", &kandy), ("acme", &acme), ("acme", &acme)]
            .map(|(tenant, token)| log_in(tenant, token));
        let short = query("select 1 from pg_sleep(0.002)");
        let mut round = |at_once: usize| {
            let begin = Instant::now();
            for some in clients.chunks_mut(at_once) {
                some.iter_mut().for_each(|client| client.send(&short).unwrap());
                some.iter_mut().for_each(|client| assert_eq!(client.take().unwrap().rows, 1));
            }
            begin.elapsed()
        };
        // Backends are opened for two at a time who find the others' idle, and for all four, two of whom wait.
        let (mut two, mut four): (Vec<_>, Vec<_>) = (0..40).map(|_| (round(2), round(4))).unzip();
        two.sort();
        four.sort();
        (two[20], four[20])
    })
    .await
    .unwrap();
    let (two, four) = took;
    println!("half within {two:?} two by two, within {four:?} all at once");
    assert!(four < two * 5 / 4 + PROMPT / 6, "{four:?}, two by two {two:?}");
}
