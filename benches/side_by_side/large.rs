//! A large result on its way through proxies: megabytes a second, and what they cost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::{Value, json};

use super::lean::query;
use super::mock::{LARGE, Mock, PIECE, READY, large_length};
use super::peers::{Bouncer, Peer, cpu_micros};
use super::setup::Setup;
use super::stage::{Target, plain, tenant};
use super::table::{median, number, print, show};

/// Results read of each target in a round.
const TURNS: usize = 2;

const MIB: usize = 1 << 20;

/// What one target's results took: MB a second, and per second of the proxy's CPU.
#[derive(Default)]
struct Seen {
    rate: Vec<f64>,
    by_cpu: Vec<f64>,
}

pub fn measure(cores: Option<usize>, rounds: usize, mebibytes: usize) -> Value {
    let mock = Mock::start();
    let port = mock.address.port();
    let pgward = Setup::new(port, cores).start();
    let (pgbouncer, haproxy) = (Peer::pgbouncer(&Bouncer::new(port)), Peer::haproxy(port));
    let targets = [
        plain("direct", mock.address, None),
        plain("haproxy", haproxy.address, Some(haproxy.pid)),
        plain("pgbouncer", pgbouncer.address, Some(pgbouncer.pid)),
        tenant(&pgward, "pgward", "t1"),
    ];
    let turns = TURNS * rounds;
    eprintln!("results of {mebibytes} MiB, {turns} for each of {}", targets.len());
    let mut streams = targets.each_ref().map(|target| target.connect().unwrap().into_socket());
    let mut seen = targets.each_ref().map(|_| Seen::default());
    let pieces = mebibytes * MIB / PIECE;
    for _ in 0..turns {
        for ((target, stream), seen) in targets.iter().zip(&mut streams).zip(&mut seen) {
            read(target, stream, pieces, seen);
        }
    }
    table(mebibytes, &targets, &seen)
}

fn read(target: &Target, stream: &mut TcpStream, pieces: usize, seen: &mut Seen) {
    let cpu = || target.pid.map_or(f64::NAN, cpu_micros);
    let mut buffer = vec![0; MIB];
    let mut missing = large_length(pieces);
    let (began, before) = (Instant::now(), cpu());
    let megabytes = missing as f64 / 1e6;
    stream.write_all(&query(&format!("{LARGE}{pieces}"))).unwrap();
    let mut last = 0;
    while missing > 0 {
        last = stream.read(&mut buffer).unwrap_or_else(|error| panic!("{}: {error}", target.name));
        assert!((1..=missing).contains(&last), "{}: {missing} bytes are missing, {last} came", target.name);
        missing -= last;
    }
    seen.rate.push(megabytes / began.elapsed().as_secs_f64());
    seen.by_cpu.push(megabytes / ((cpu() - before) / 1e6));
    let end = &buffer[last.saturating_sub(READY.len())..last];
    assert!(READY.ends_with(end), "{}: {end:?} at the end", target.name);
}

fn table(mebibytes: usize, targets: &[Target], seen: &[Seen]) -> Value {
    let bouncer = &seen[targets.iter().position(|target| target.name == "pgbouncer").unwrap()];
    // Of turns that follow each other.
    let ratio = |own: &[f64], others: &[f64]| median(own.iter().zip(others).map(|(a, b)| a / b).collect());
    let (mut table, mut values) = (Vec::new(), Vec::new());
    for (target, own) in targets.iter().zip(seen) {
        let (rate, by_cpu) = (median(own.rate.clone()), median(own.by_cpu.clone()));
        let (rate_ratio, cpu_ratio) = (ratio(&own.rate, &bouncer.rate), ratio(&own.by_cpu, &bouncer.by_cpu));
        table.push(vec![
            target.name.to_owned(),
            show(rate, 0),
            show(rate_ratio, 2),
            show(by_cpu, 0),
            show(cpu_ratio, 2),
        ]);
        values.push(json!({
            "target": target.name,
            "mebibytes": mebibytes,
            "mb_per_second": rate,
            "mb_per_cpu_second": number(by_cpu),
            "of_pgbouncer": { "rate": number(rate_ratio), "by_cpu": number(cpu_ratio) },
        }));
    }
    let heads = ["through", "MB/s", "x", "MB a second of the proxy's CPU", "x"];
    print(&format!("A result of {mebibytes} MiB; x: of PgBouncer's"), &heads, &table);
    Value::Array(values)
}
