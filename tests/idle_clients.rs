//! Clients that are connected and do nothing cost memory, little of it, and are served when they wake.
//!
//! PGWARD_IDLE_CLIENTS says how many, 1,000 by default; `scripts/soak` runs 10,000.

#[path = "support/lean.rs"]
mod lean;
#[path = "support/spawned.rs"]
mod spawned;
mod support;

use std::path::Path;

use lean::{Lean, query};
use spawned::{Spawned, raise_open_files, resident_kib};

/// In an unoptimised build. `make bench` measures the release build.
const KIB_EACH: f64 = 3.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_clients_cost_little_and_are_all_served_afterwards() {
    let count = std::env::var("PGWARD_IDLE_CLIENTS").map_or(1_000, |text| text.parse().unwrap());
    raise_open_files(count as u64 + 1_000);
    let port = support::cluster().await.primary().port();
    let text = format!("{}{}", support::HEAD, support::configuration(port, "[pool]\nmax_per_login = 10\n"));
    tokio::task::spawn_blocking(move || {
        let pgward = Spawned::start(Path::new(env!("CARGO_BIN_EXE_pgward")), &[], &text);
        let tokens: Vec<(String, String)> =
            (0..50).map(|i| format!("t{i}")).map(|tenant| (pgward.token(&tenant), tenant)).collect();
        let connect = |i: usize| {
            let (token, tenant) = &tokens[i % tokens.len()];
            Lean::connect(pgward.address, tenant, "app", token).unwrap_or_else(|error| panic!("client {i}: {error}"))
        };
        let who = query("select pgward.tenant()");
        // What the first clients bring about once (buffers, pools, code that is paged in) is no one's cost.
        for i in 0..100 {
            connect(i).expect(&who, &tokens[i % tokens.len()].1).unwrap();
        }
        let before = resident_kib(pgward.pid);
        let mut clients: Vec<Lean> = (0..count).map(connect).collect();
        let each = resident_kib(pgward.pid).saturating_sub(before) as f64 / count as f64;
        println!("{count} idle clients: {each:.2} KiB each, {before} KiB before");
        for (i, client) in clients.iter_mut().enumerate() {
            let expected = &tokens[i % tokens.len()].1;
            client.expect(&who, expected).unwrap_or_else(|error| panic!("client {i}: {error}"));
        }
        assert!(each < KIB_EACH, "{each:.2} KiB for each of {count} idle clients");
    })
    .await
    .unwrap();
}
