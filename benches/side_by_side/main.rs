//! pgward beside PgBouncer and beside no proxy at all, on one machine in one run.
//!
//! Starts PostgreSQL, or a server in its place that costs next to nothing, and pgward, PgBouncer (transaction
//! pooling), HAProxy and a bare relay on free ports, drives each of them in turns with the same load, several rounds, and shows
//! medians and ratios. `make bench` runs it, and `scripts/bench --help` says how to run parts of it, or longer.

mod driver;
mod flat;
mod idle;
mod instructions;
mod large;
mod mock;
mod peers;
mod plot;
mod relay;
mod rows;
mod scram;
mod select;
mod setup;
mod stage;
mod storm;
mod switch;
mod table;

#[path = "../../tests/support/lean.rs"]
mod lean;
#[path = "../../tests/support/spawned.rs"]
mod spawned;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::json;

use stage::Stage;

/// pgward beside PgBouncer on this machine
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each case is run; medians are shown
    #[arg(long, env = "PGWARD_BENCH_ROUNDS", default_value_t = 3)]
    rounds: usize,

    /// How long each run is measured, in seconds
    #[arg(long, env = "PGWARD_BENCH_SECONDS", default_value_t = 3)]
    seconds: u64,

    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 50, 500])]
    clients: Vec<usize>,

    /// Ways in which clients send statements
    #[arg(long, value_delimiter = ',', default_values = ["simple", "extended", "prepared"])]
    modes: Vec<String>,

    /// Only these proxies, for a profiler: pgward, pgbouncer, haproxy, relay, direct or other
    #[arg(long, value_delimiter = ',')]
    through: Vec<String>,

    /// The proxy's threads that serve clients; as many as there are CPUs unless given
    #[arg(long)]
    cores: Option<usize>,

    /// Another pgward to compare with, in front of the mocked server
    #[arg(long)]
    other: Option<PathBuf>,

    /// Clients of the idle-memory case
    #[arg(long, default_value_t = 10_000)]
    idle: usize,

    /// The same over TLS
    #[arg(long, default_value_t = 2_000)]
    idle_tls: usize,

    /// Connections of a storm of logins
    #[arg(long, default_value_t = 5_000)]
    storm: usize,

    /// MiB of a large result
    #[arg(long, default_value_t = 1_024)]
    large: usize,

    /// What to run
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = PARTS)]
    parts: Vec<Part>,

    /// Where the figures go, as JSON
    #[arg(long, default_value = "target/bench/side_by_side.json")]
    json: PathBuf,

    /// Where the picture goes: the proxies' CPU per transaction, as SVG
    #[arg(long, default_value = "target/bench/side_by_side.svg")]
    plot: PathBuf,

    /// What cargo bench says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The same with the proxies alone, in front of a server that costs next to nothing
    Mocked,
    /// pgbench's select-only transaction, by the ways clients send statements and numbers of clients
    Select,
    /// Another tenant in every transaction
    Switch,
    /// What row security costs
    Rows,
    /// Logins a second, and what a storm of them does to others
    Storm,
    /// A large result
    Large,
    /// CPU by the numbers of tenants and of clients
    Flat,
    /// Memory of idle clients
    Idle,
    /// Instructions per transaction
    Instructions,
}

const PARTS: [Part; 9] = [
    Part::Mocked,
    Part::Select,
    Part::Switch,
    Part::Rows,
    Part::Storm,
    Part::Large,
    Part::Flat,
    Part::Idle,
    Part::Instructions,
];

impl Part {
    /// The most that are connected at the same time.
    fn clients(self, arguments: &Arguments) -> usize {
        match self {
            Self::Mocked | Self::Select => 7 * arguments.clients.iter().max().unwrap_or(&0),
            Self::Switch | Self::Rows | Self::Large | Self::Instructions => stage::TENANTS,
            Self::Storm => arguments.storm,
            Self::Flat => flat::MOST_CLIENTS,
            Self::Idle => arguments.idle.max(arguments.idle_tls),
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((relay::FLAG, ports)) = words.split_first().map(|(flag, ports)| (flag.as_str(), ports)) {
        relay::run(ports);
    }
    let arguments = Arguments::parse();
    let clients = arguments.parts.iter().map(|part| part.clients(&arguments)).max().unwrap_or(0);
    spawned::raise_open_files(2 * clients.min(9_000) as u64 + 1_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stage = std::cell::LazyCell::new(|| runtime.block_on(Stage::start(arguments.cores)));
    println!("{}\n", stage::machine());
    let mut figures = serde_json::Map::new();
    figures.insert("machine".to_owned(), json!(stage::machine()));
    figures.insert("rounds".to_owned(), json!(arguments.rounds));
    figures.insert("seconds".to_owned(), json!(arguments.seconds));
    let plan = select::Plan {
        turns: 2 * arguments.rounds * usize::try_from(arguments.seconds).unwrap(),
        clients: &arguments.clients,
        modes: &arguments.modes,
        through: &arguments.through,
    };
    for part in PARTS {
        if !arguments.parts.contains(&part) {
            continue;
        }
        let (name, found) = match part {
            Part::Mocked => ("mocked", select::mocked(&plan, arguments.cores, arguments.other.as_deref())),
            Part::Select => ("select", select::real(&stage, &plan)),
            Part::Switch => ("switch", switch::measure(&stage, arguments.rounds, arguments.seconds)),
            Part::Rows => ("rows", rows::measure(&stage, arguments.rounds)),
            Part::Storm => {
                ("storm", storm::measure(arguments.cores, arguments.rounds, arguments.seconds, arguments.storm))
            }
            Part::Large => ("large", large::measure(arguments.cores, arguments.rounds, arguments.large)),
            Part::Flat => ("flat", flat::measure(arguments.cores, arguments.rounds, arguments.seconds)),
            Part::Idle => ("idle", idle::measure(&stage, arguments.idle, arguments.idle_tls)),
            Part::Instructions => ("instructions", instructions::measure(&arguments.modes, &arguments.clients)),
        };
        figures.insert(name.to_owned(), found);
    }
    // Dropping servers awaits nothing, but tasks that drive connections need their runtime until then.
    drop(stage);
    write(&arguments.json, &(serde_json::to_string_pretty(&figures).unwrap() + "\n"));
    println!("\nThe figures are in {}.", arguments.json.display());
    if let Some(svg) = plot::svg(&figures) {
        write(&arguments.plot, &svg);
        println!("A picture of the proxies' CPU is in {}.", arguments.plot.display());
    }
}

fn write(path: &Path, text: &str) {
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, text));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
