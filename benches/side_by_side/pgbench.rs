//! pgbench's select-only script. pgward serves a tenant at level `rows` whose context is set, on the same
//! tables and by the same text as everybody else, so that the server's work is equal.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::stage::{Stage, Target, cpu_micros};
use super::table::{median, print};

const SELECT: &str = "\\set id random(1, 100)\nselect value from sealed where id = :id;\n";

struct Case {
    mode: &'static str,
    clients: usize,
    target: Target,
    /// Another script than pgbench's own.
    script: Option<&'static str>,
    runs: Vec<Run>,
}

#[derive(Clone, Copy)]
struct Run {
    tps: f64,
    latency_ms: f64,
    /// CPU of the proxy per transaction; none without a proxy.
    cpu: Option<f64>,
}

pub fn measure(stage: &Stage, rounds: usize, seconds: u64, clients: &[usize]) -> Value {
    let rows = stage.tenant("pgward", "t1");
    let own = stage.tenant("pgward, level schema", "own");
    let sealed = stage.tenant("pgward, row security", "t1");
    let mut cases = Vec::new();
    for mode in ["simple", "extended", "prepared"] {
        for &clients in clients {
            let case = |target: &Target, script| Case { mode, clients, target: target.clone(), script, runs: vec![] };
            cases.push(case(&stage.direct(), None));
            // Debian 12's PgBouncer, 1.18, knows no prepared statements under transaction pooling.
            if mode != "prepared" {
                cases.push(case(&stage.bouncer(), None));
            }
            cases.push(case(&rows, None));
            if mode == "simple" && clients == 50 {
                cases.push(case(&own, None));
                cases.push(case(&sealed, Some(SELECT)));
            }
        }
    }
    for round in 1..=rounds {
        eprintln!("pgbench, round {round} of {rounds}: {} runs of {} s", cases.len(), seconds + 2);
        for case in &mut cases {
            let run = run(case, seconds);
            case.runs.push(run);
        }
    }
    report(&cases)
}

fn report(cases: &[Case]) -> Value {
    let of = |case: &Case, what: fn(&Run) -> f64| median(case.runs.iter().map(what).collect());
    let cpu = |case: &Case| of(case, |run| run.cpu.unwrap_or(f64::NAN));
    let tps = |case: &Case| of(case, |run| run.tps);
    let mut table = Vec::new();
    let mut values = Vec::new();
    for case in cases {
        let beside = |name: &str| {
            let same = |other: &&Case| (other.mode, other.clients) == (case.mode, case.clients);
            cases.iter().filter(same).find(|other| other.target.name == name && other.script.is_none())
        };
        let bouncer = beside("pgbouncer");
        let ratio = |of: f64, to: Option<f64>| to.map(|to| of / to).filter(|ratio| ratio.is_finite());
        let (cpu_ratio, tps_ratio) = (ratio(cpu(case), bouncer.map(cpu)), ratio(tps(case), bouncer.map(tps)));
        let number = |value: f64| if value.is_finite() { format!("{value:.1}") } else { "-".to_owned() };
        let share = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        table.push(vec![
            case.mode.to_owned(),
            case.clients.to_string(),
            case.target.name.to_owned(),
            format!("{:.0}", tps(case)),
            share(tps_ratio),
            format!("{:.3}", of(case, |run| run.latency_ms)),
            number(cpu(case)),
            share(cpu_ratio),
        ]);
        values.push(json!({
            "mode": case.mode,
            "clients": case.clients,
            "target": case.target.name,
            "tps": tps(case),
            "latency_ms": of(case, |run| run.latency_ms),
            "cpu_us_per_transaction": Some(cpu(case)).filter(|cpu| cpu.is_finite()),
            "tps_of_pgbouncer": tps_ratio,
            "cpu_of_pgbouncer": cpu_ratio,
            "tps_rounds": case.runs.iter().map(|run| run.tps).collect::<Vec<_>>(),
            "cpu_rounds": case.runs.iter().map(|run| run.cpu).collect::<Vec<_>>(),
        }));
    }
    let heads = ["mode", "clients", "through", "tps", "x bouncer", "ms", "proxy CPU us/txn", "x bouncer"];
    print("pgbench, select-only: medians of all rounds", &heads, &table);
    println!(
        "All read the same tables without row security, so that the server does the same work; pgward's tenant\n\
         is at level rows and its context is set. \"row security\" reads a shared table under a policy that\n\
         asks pgward.tenant(), which is more work for the server. Logins are not in the figures.\n"
    );
    Value::Array(values)
}

/// One run: after the first second, when everybody is logged in, the given seconds are measured.
fn run(case: &Case, seconds: u64) -> Run {
    let Target { address, user, password, pid, .. } = &case.target;
    let mut command = Command::new("pgbench");
    command.args(["-n", "-P", "1", "-M", case.mode, "-c", &case.clients.to_string()]);
    command.args(["-j", &case.clients.min(2).to_string(), "-T", &(seconds + 2).to_string()]);
    let script = std::env::temp_dir().join(format!("pgward-bench-{}.sql", std::process::id()));
    match case.script {
        Some(text) => {
            std::fs::write(&script, text).unwrap();
            command.arg("-f").arg(&script);
        }
        None => {
            command.arg("-S");
        }
    }
    command.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-U", user, "app"]);
    command.env("PGPASSWORD", password).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("pgbench: {error}"));
    let cpu = || pid.map(cpu_micros);
    let mut marks: Vec<(Instant, Option<f64>)> = Vec::new();
    let (mut tps, mut latency) = (Vec::new(), Vec::new());
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        said = said + &line + "\n";
        if marks.len() as u64 <= seconds && line.starts_with("progress: ") {
            let number = |before: &str| {
                let rest = line.split(before).nth(1).unwrap_or_default();
                rest.split_whitespace().next().unwrap_or_default().parse::<f64>().unwrap_or(f64::NAN)
            };
            if !marks.is_empty() {
                tps.push(number(" s, "));
                latency.push(number(" lat "));
            }
            marks.push((Instant::now(), cpu()));
        }
    }
    let mut summary = String::new();
    child.stdout.take().unwrap().read_to_string(&mut summary).unwrap();
    let good = child.wait().unwrap().success() && summary.contains("number of failed transactions: 0 ");
    assert!(good && !said.contains("error"), "pgbench through {}:\n{said}\n{summary}", case.target.name);
    let _ = std::fs::remove_file(&script);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let ((began, before), (ended, after)) = (marks[0], marks[marks.len() - 1]);
    let transactions = mean(&tps) * ended.duration_since(began).as_secs_f64();
    let cpu = before.zip(after).map(|(before, after)| (after - before) / transactions);
    Run { tps: mean(&tps), latency_ms: mean(&latency), cpu }
}
