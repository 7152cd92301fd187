//! Instructions that pgward itself executes for a transaction, the kernel's left out: counted by callgrind, so that
//! what else the machine does is of no matter.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::driver::Way;
use super::mock::Mock;
use super::setup::Setup;
use super::spawned::Spawned;
use super::stage::tenant;
use super::table::print;

const TRANSACTIONS: usize = 3_000;

pub fn measure(modes: &[String]) -> Value {
    let mock = Mock::start();
    let mut table = Vec::new();
    let mut values = Vec::new();
    for mode in modes {
        eprintln!("instructions, {mode}: {TRANSACTIONS} transactions");
        let count = count(&mock, mode);
        table.push(vec![mode.clone(), count.to_string()]);
        values.push(json!({ "mode": mode, "instructions_per_transaction": count }));
    }
    print("pgward's own instructions, one client, one tenant", &["mode", "per transaction"], &table);
    Value::Array(values)
}

fn count(mock: &Mock, mode: &str) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("callgrind");
    let out = format!("--callgrind-out-file={}", file.display());
    let wrapper = ["valgrind", "--tool=callgrind", "--instr-atstart=no", &out];
    let text = Setup::new(mock.address.port(), Some(1)).text();
    let pgward = Spawned::start(Path::new(env!("CARGO_BIN_EXE_pgward")), &wrapper, &text);
    let mut client = tenant(&pgward, "pgward", "t1").connect().unwrap();
    let way = Way::of_pgbench(mode);
    client.run(&way.once).unwrap();
    let mut run = |transactions: usize| {
        for _ in 0..transactions {
            client.run(&way.each).unwrap();
        }
    };
    run(200);
    instrument(pgward.pid, "on");
    run(TRANSACTIONS);
    instrument(pgward.pid, "off");
    // It writes its file at the end.
    drop(pgward);
    let text = fs::read_to_string(&file).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
    total.trim().parse::<u64>().unwrap() / TRANSACTIONS as u64
}

fn instrument(pid: u32, what: &str) {
    let done = Command::new("callgrind_control").args(["-i", what, &pid.to_string()]).output().unwrap();
    assert!(done.status.success(), "callgrind_control: {}", String::from_utf8_lossy(&done.stderr));
}
