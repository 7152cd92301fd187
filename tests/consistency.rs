//! Each mode of reading keeps its promise while replicas fall behind, halt, freeze and crash and primaries are killed:
//! sessions write registers, counters and lists and read them, and a judge who knows all that they asked for and were told
//! looks for what must not be, as Jepsen does.
//!
//! PGWARD_LOAD_OPERATIONS says how many operations there are at least, 24000 by default, with a failover for each 25000
//! and one more; PGWARD_LOAD_SEED repeats one run's choices, as far as time lets it.

mod support;

#[path = "consistency/field.rs"]
mod field;
#[path = "consistency/history.rs"]
mod history;
#[path = "consistency/invented.rs"]
mod invented;
#[path = "consistency/judge.rs"]
mod judge;
#[path = "consistency/nemesis.rs"]
mod nemesis;
#[path = "consistency/player.rs"]
mod player;
#[path = "consistency/report.rs"]
mod report;
#[path = "consistency/restarted.rs"]
mod restarted;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use field::{Field, TENANTS};
use history::History;
use nemesis::Nemesis;
use player::{Played, Player};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

const PLAYERS: usize = 3 * TENANTS;

/// Of the reads, at least: else what replicas show is not what is checked.
const SHARES: [(&str, f64); 4] = [("session", 0.2), ("tenant", 0.1), ("bounded", 0.3), ("eventual", 0.5)];

/// A run that does not get on.
const STALLED: Duration = Duration::from_secs(90);

struct Plan {
    operations: u64,
    failovers: u64,
    seed: u64,
}

impl Plan {
    fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let operations = number("PGWARD_LOAD_OPERATIONS").unwrap_or(24_000);
        let seed = number("PGWARD_LOAD_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
        Self { operations, failovers: 1 + operations / 25_000, seed }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_keeps_its_promise_while_replicas_lag_and_primaries_die() {
    let plan = Plan::from_environment();
    println!("PGWARD_LOAD_OPERATIONS={} PGWARD_LOAD_SEED={}", plan.operations, plan.seed);
    let begin = Instant::now();
    let cluster = field::cluster().await;
    let field = Arc::new(Field::new(&cluster).await);
    println!("all servers are there after {:?}", begin.elapsed());
    let mut chance = StdRng::seed_from_u64(plan.seed);
    let mut players = JoinSet::new();
    for number in 0..PLAYERS {
        players.spawn(Player::new(&field, number, number % TENANTS, chance.random()).play());
    }
    let mut nemesis = Nemesis::new(&field, cluster, chance.random());
    let mut played = torment(&plan, &field, &mut nemesis, &mut players, &mut chance).await;
    while let Some(ended) = players.join_next().await {
        played.push(ended.unwrap());
    }
    let primary = nemesis.heal().await;
    let (mut history, mut errors, mut wrong) = (History::default(), BTreeMap::new(), Vec::new());
    for Played { events, errors: met, wrong: why } in played {
        history.events.extend(events);
        met.into_iter().for_each(|(code, count)| *errors.entry(code).or_insert(0) += count);
        wrong.extend(why);
    }
    history.last = field.look(&primary).await;
    wrong.iter().for_each(|why| println!("a player gave up: {why}"));
    check(&plan, &field, &nemesis, &history, &errors).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("it took {:?}", begin.elapsed());
}

/// Faults, one after another, until all has been done that was planned. What came of players that have ended by then.
async fn torment(
    plan: &Plan,
    field: &Field,
    nemesis: &mut Nemesis<'_>,
    players: &mut JoinSet<Played>,
    chance: &mut StdRng,
) -> Vec<Played> {
    let done = || field.done.load(Ordering::Relaxed);
    let (mut failovers, mut ended, mut progress) = (0, Vec::new(), (0, Instant::now()));
    while !ended.iter().any(|played: &Played| played.wrong.is_some())
        && (done() < plan.operations || failovers < plan.failovers)
    {
        if done() >= (2 * failovers + 1) * plan.operations / (2 * plan.failovers) && failovers < plan.failovers {
            nemesis.fail_over().await;
            failovers += 1;
        } else {
            nemesis.trouble().await;
        }
        tokio::time::sleep(Duration::from_millis(chance.random_range(20..250))).await;
        ended.extend(players.try_join_next().map(Result::unwrap));
        if done() > progress.0 {
            progress = (done(), Instant::now());
        }
        assert!(progress.1.elapsed() < STALLED, "nothing was done for {STALLED:?}");
    }
    field.over.store(true, Ordering::Relaxed);
    ended
}

async fn check(plan: &Plan, field: &Field, nemesis: &Nemesis<'_>, history: &History, errors: &BTreeMap<String, usize>) {
    let tallies = report::tally(history, |port, at| nemesis.was_primary(port, at));
    for (mode, tally) in &tallies {
        println!(
            "{mode:>8}: {} reads, {:.0} % by replicas; {} writes, {} in doubt, {} refused; {} of lists",
            tally.reads,
            tally.share() * 100.0,
            tally.writes,
            tally.in_doubt,
            tally.refused,
            tally.lists
        );
    }
    let violations = judge::judge(history);
    let served = field.stage.metric("pgward_replica_transactions_total").await;
    let failovers = nemesis.counts.get("promotion").copied().unwrap_or_default();
    println!(
        "{} operations on {} objects checked; replicas served {served} transactions; {failovers} failovers; {:?}; errors: {errors:?}",
        history.events.len(),
        history.last.len(),
        nemesis.counts
    );
    if !violations.is_empty() {
        for violation in violations.iter().take(10) {
            println!("{}", report::explain(violation, history, &nemesis.did));
        }
        let path = report::keep(history, &nemesis.did, plan.seed);
        panic!("{} violations, PGWARD_LOAD_SEED={}; all of it is in {}", violations.len(), plan.seed, path.display());
    }
    assert!(history.events.len() as u64 >= plan.operations, "{} operations", history.events.len());
    assert!(failovers as u64 >= plan.failovers, "{failovers} failovers");
    let mut least = 0.0;
    for (mode, share) in SHARES {
        let tally = tallies.get(mode).copied().unwrap_or_default();
        assert!(tally.share() >= share, "mode {mode}: replicas served {:.2} of the reads", tally.share());
        // A transaction has up to three reads.
        least += tally.by_replicas as f64 / 3.0;
    }
    assert!(served >= least, "by its own account replicas served {served} transactions, clients say at least {least}");
}
