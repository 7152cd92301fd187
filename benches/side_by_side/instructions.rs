//! Instructions that proxies themselves execute for a transaction, the kernel's left out: counted by callgrind, so that
//! what else the machine does is of no matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgward::cli::demo::cluster::Host;
use serde_json::{Value, json};

use super::driver::Way;
use super::lean::Lean;
use super::mock::Mock;
use super::peers::{Bouncer, Peer};
use super::setup::Setup;
use super::spawned::Spawned;
use super::stage::{Target, plain, tenant};
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
            let (pgward, pgbouncer) = (of(Proxy::Pgward), of(Proxy::PgBouncer));
            table.push(vec![mode.clone(), clients.to_string(), pgward.to_string(), pgbouncer.to_string()]);
            values.push(json!({
                "mode": mode, "clients": clients, "pgward": pgward, "pgbouncer": pgbouncer,
            }));
        }
    }
    let columns = ["mode", "clients", "pgward", "PgBouncer"];
    print("the proxies' own instructions for a transaction, one tenant", &columns, &table);
    Value::Array(values)
}

#[derive(Clone, Copy)]
enum Proxy {
    Pgward,
    PgBouncer,
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
        let port = mock.address.port();
        match proxy {
            Proxy::Pgward => {
                let text = Setup::new(port, Some(1)).text();
                let pgward = Spawned::start(Path::new(env!("CARGO_BIN_EXE_pgward")), &wrapper, &text);
                self.drive(&tenant(&pgward, "pgward", "t1"), Command::new, way, clients)
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
