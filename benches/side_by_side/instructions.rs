//! Instructions that proxies themselves execute for a transaction, the kernel's left out: counted by callgrind, so that
//! what else the machine does is of no matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgward::local::Host;
use serde_json::{Value, json};

use super::driver::Way;
use super::lean::Lean;
use super::mock::Mock;
use super::peers::{Bouncer, Peer};
use super::setup::{Setup, WITHOUT};
use super::spawned::Spawned;
use super::stage::{Target, plain, reading, tenant};
use super::table::print;

const TRANSACTIONS: usize = 3_000;

pub fn measure(modes: &[String], clients: &[usize]) -> Value {
    let mock = Mock::start();
    let mut table = Vec::new();
    let mut values = Vec::new();
    for mode in modes {
        for &clients in clients {
            eprintln!("instructions, {mode}, {clients} clients: {TRANSACTIONS} transactions");
            let of = |proxy| Counted::new().count(&mock, proxy, &Way::of_pgbench(mode), clients);
            let (pgward, pgbouncer) = (of(Proxy::Pgward(With::Tenant)), of(Proxy::PgBouncer));
            table.push(vec![mode.clone(), clients.to_string(), pgward.to_string(), pgbouncer.to_string()]);
            values.push(json!({
                "mode": mode, "clients": clients, "pgward": pgward, "pgbouncer": pgbouncer,
            }));
        }
    }
    let columns = ["mode", "clients", "pgward", "PgBouncer"];
    print("the proxies' own instructions for a transaction, one tenant", &columns, &table);
    let features = features(&mock, modes);
    json!({ "proxies": values, "features": features })
}

/// What pgward's features add, with clients enough for none to wait.
fn features(mock: &Mock, modes: &[String]) -> Value {
    let mut table = Vec::new();
    let mut values = Vec::new();
    for mode in modes {
        eprintln!("instructions by feature, {mode}");
        let of = |with| Counted::new().count(mock, Proxy::Pgward(with), &Way::of_pgbench(mode), 8);
        let counts = [With::NoTenant, With::Tenant, With::Replica, With::Audit].map(of);
        table.push([mode.clone()].into_iter().chain(counts.map(|count| count.to_string())).collect());
        values.push(
            json!({ "mode": mode, "no_tenant": counts[0], "tenant": counts[1], "reads_on_a_replica": counts[2],
                "audited": counts[3],
            }),
        );
    }
    let columns = ["mode", "no tenant", "a tenant", "reads on a replica", "statements audited"];
    print("pgward's own instructions for a transaction, 8 clients", &columns, &table);
    Value::Array(values)
}

#[derive(Clone, Copy)]
enum Proxy {
    Pgward(With),
    PgBouncer,
}

#[derive(Clone, Copy)]
enum With {
    NoTenant,
    /// At level `rows`.
    Tenant,
    /// The same, its reads on a replica.
    Replica,
    /// The same as a tenant, its statements recorded.
    Audit,
}

/// A folder that callgrind may write to, whichever user it runs as.
struct Counted {
    host: Host,
    folder: PathBuf,
}

impl Counted {
    fn new() -> Self {
        let host = Host::find().unwrap();
        let folder = host.folder(None, "callgrind").unwrap();
        Self { host, folder }
    }

    fn count(&self, mock: &Mock, proxy: Proxy, way: &Way, clients: usize) -> u64 {
        let out = format!("--callgrind-out-file={}", self.out().display());
        let wrapper = ["valgrind", "--tool=callgrind", "--instr-atstart=no", &out];
        let (port, replica) = (mock.address.port(), Mock::replica());
        match proxy {
            Proxy::Pgward(with) => {
                let setup = Setup::new(port, Some(1));
                let setup = match with {
                    With::NoTenant => setup.plain(),
                    With::Tenant => setup,
                    With::Replica => setup.replica(replica.address.port()),
                    With::Audit => setup.audited(),
                };
                let pgward = Spawned::start(Path::new(env!("CARGO_BIN_EXE_pgward")), &wrapper, &setup.text());
                let target = match with {
                    With::NoTenant => Target { database: WITHOUT, ..plain("pgward", pgward.address, Some(pgward.pid)) },
                    With::Tenant => tenant(&pgward, "pgward", "t1"),
                    With::Replica => reading(&pgward, &replica),
                    With::Audit => tenant(&pgward, "pgward", "audited"),
                };
                self.drive(&target, Command::new, way, clients)
            }
            Proxy::PgBouncer => {
                let pgbouncer = Peer::pgbouncer_within(&wrapper, &Bouncer::new(port));
                let target = plain("pgbouncer", pgbouncer.address, Some(pgbouncer.pid));
                self.drive(&target, |program| self.host.command(program), way, clients)
            }
        }
    }

    /// `command`: as whom the proxy runs, since callgrind listens to nobody else.
    fn drive(&self, target: &Target, command: impl Fn(&'static str) -> Command, way: &Way, clients: usize) -> u64 {
        let mut clients: Vec<Lean> = (0..clients).map(|_| target.connect().unwrap()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.run(&way.once).unwrap().errors, 0));
        let rounds = TRANSACTIONS.div_ceil(clients.len());
        let mut run = |rounds: usize| {
            for _ in 0..rounds {
                clients.iter_mut().for_each(|client| client.send(&way.each).unwrap());
                clients.iter_mut().for_each(|client| assert_eq!(client.take().unwrap().errors, 0));
            }
            rounds * clients.len()
        };
        run(rounds.div_ceil(10));
        let control = |what: &[&str]| {
            let pid = target.pid.unwrap().to_string();
            let done = command("callgrind_control").args(what).arg(pid).output().unwrap();
            assert!(done.status.success(), "callgrind_control: {}", String::from_utf8_lossy(&done.stderr));
        };
        control(&["-i", "on"]);
        let transactions = run(rounds);
        control(&["-i", "off"]);
        control(&["--dump"]);
        let text = fs::read_to_string(self.out().with_extension("1")).unwrap();
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
        total.trim().parse::<u64>().unwrap() / transactions as u64
    }

    fn out(&self) -> PathBuf {
        self.folder.join("out")
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
