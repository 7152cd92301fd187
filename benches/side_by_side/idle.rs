//! Memory of clients that are connected and do nothing.

use serde_json::{Value, json};

use super::lean::{Lean, query};
use super::peers::{Bouncer, Peer};
use super::setup::Setup;
use super::spawned::resident_kib;
use super::stage::{Stage, TENANTS, Target, tenant};
use super::table::print;

pub fn measure(stage: &Stage, count: usize) -> Value {
    eprintln!("{count} idle clients, twice");
    // Processes that have done nothing yet: freed memory of theirs would hide what clients take. PgBouncer
    // asks for no passwords, which cost it and its clients time, and no memory.
    let fresh = Setup::new(stage.server_port(), None).start();
    let trusting = Peer::pgbouncer(&Bouncer { auth: "trust", ..Bouncer::new(stage.server_port()) });
    let bouncer = Target { address: trusting.address, pid: Some(trusting.pid), ..stage.bouncer() };
    let tenants: Vec<Target> = (0..TENANTS.min(count)).map(|i| tenant(&fresh, "pgward", &format!("t{i}"))).collect();
    let mut table = Vec::new();
    let mut values = Vec::new();
    for targets in [&tenants, &vec![bouncer]] {
        let (name, pid) = (targets[0].name, targets[0].pid.unwrap());
        let connect = |i: usize| {
            targets[i % targets.len()].connect().unwrap_or_else(|error| panic!("{name}, client {i}: {error}"))
        };
        let one = query("select 1");
        for i in 0..50 {
            connect(i).expect(&one, "1").unwrap();
        }
        let before = resident_kib(pid);
        let mut clients: Vec<Lean> = (0..count).map(connect).collect();
        let with = resident_kib(pid);
        clients.iter_mut().for_each(|client| client.expect(&one, "1").unwrap());
        let after = resident_kib(pid);
        let each = with.saturating_sub(before) as f64 / count as f64;
        table.push(vec![
            name.to_owned(),
            count.to_string(),
            format!("{each:.2}"),
            format!("{:.1}", with as f64 / 1024.0),
            format!("{:.1}", after as f64 / 1024.0),
        ]);
        values.push(json!({
            "target": name,
            "clients": count,
            "kib_each": each,
            "process_kib": with,
            "process_kib_after_a_query_each": after,
        }));
    }
    let heads = ["through", "clients", "KiB each", "process MiB", "after a query each, MiB"];
    print("Idle clients, without TLS", &heads, &table);
    Value::Array(values)
}
