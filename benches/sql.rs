//! What the analysis of statement texts costs: the scan, a known shape, a new one.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pgward::sql::{Analyser, scan};

const SELECT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;";
const UPDATE: &str = "UPDATE pgbench_accounts SET abalance = abalance + -4711 WHERE aid = 12345;";
const REPORT: &str = "SELECT o.id, o.total, o.customer, count(*) AS lines, sum(l.amount * l.price) AS amount \
    FROM orders o JOIN lines l ON l.order_id = o.id WHERE o.customer = 'somebody' AND o.created_at >= '2026-01-01' \
    AND o.total > 100.50 GROUP BY o.id ORDER BY o.id LIMIT 20";
const LOCAL: &str = "SELECT set_config('app.user', '4711', true)";

fn scans(c: &mut Criterion) {
    let long = format!("SELECT * FROM t WHERE id IN ({})", "12345, ".repeat(1000));
    let mut group = c.benchmark_group("scan");
    for (name, text) in [("select", SELECT), ("update", UPDATE), ("long", long.as_str())] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| b.iter(|| scan(black_box(text.as_bytes()))));
    }
    group.finish();
}

fn analyses(c: &mut Criterion) {
    let mut group = c.benchmark_group("facts");
    let commented = format!("/* web */ {UPDATE}");
    for (name, text) in [("hit_set_config", LOCAL), ("hit_update_with_comment", commented.as_str())] {
        let mut analyser = Analyser::new(1024);
        group.bench_function(name, |b| b.iter(|| analyser.facts(black_box(text.as_bytes()))));
    }
    for (name, text) in [("purpose_hit_select", SELECT), ("purpose_hit_report", REPORT)] {
        let mut analyser = Analyser::new(1024);
        group.bench_function(name, |b| b.iter(|| analyser.purpose(black_box(text.as_bytes()))));
    }
    group.bench_function("miss_set_config", |b| {
        b.iter_batched_ref(
            || Analyser::new(4),
            |analyser| analyser.facts(black_box(LOCAL.as_bytes())),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, scans, analyses);
criterion_main!(benches);
