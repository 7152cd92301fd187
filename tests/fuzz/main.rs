//! The fuzz targets, each run over its kept inputs and a bounded number of random ones. `make fuzz` runs the
//! same targets with libFuzzer, led by coverage (coverage.rs); docs/fuzzing.md says what they promise.
//!
//! Variables of the environment: `PGWARD_FUZZ_SEED`, a number, makes the same random inputs again, and
//! `PGWARD_FUZZ_INPUT`, a file, is the only input then. `PGWARD_FUZZ_TIMES` multiplies how many there are.

mod corpus;
mod input;
mod random;
mod targets;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use random::Random;
use targets::Target;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Shrinking an input breaks the promise hundreds of times; only the last time is of interest.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
}

/// What was said when a promise was broken.
fn broken(check: fn(&[u8]), input: &[u8]) -> Option<String> {
    hush();
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| check(input)));
    QUIET.set(false);
    let panic = result.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default())
}

/// A shorter input that breaks a promise as well.
fn shrunk(check: fn(&[u8]), input: &[u8]) -> Vec<u8> {
    let mut best = input.to_vec();
    let mut width = best.len() / 2;
    let mut tries = 0;
    while width > 0 && tries < 2_000 {
        let mut at = 0;
        while at < best.len() && tries < 2_000 {
            let mut less = best.clone();
            less.drain(at..(at + width).min(best.len()));
            tries += 1;
            if broken(check, &less).is_some() {
                best = less;
            } else {
                at += width;
            }
        }
        width /= 2;
    }
    best
}

fn verdict(target: &Target, input: &[u8]) -> Result<(), String> {
    if broken(target.check, input).is_none() {
        return Ok(());
    }
    let short = shrunk(target.check, input);
    let said = broken(target.check, &short).unwrap_or_default();
    Err(corpus::report(target.name, &short, &said))
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a whole number: {text}")))
}

fn run(target: &Target) {
    if let Ok(path) = std::env::var("PGWARD_FUZZ_INPUT") {
        let input = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // As it is, with the panic's own words and place.
        return (target.check)(&input);
    }
    let kept = corpus::kept(target.name);
    assert!(!kept.is_empty(), "no inputs of {} are kept", target.name);
    for (path, input) in &kept {
        verdict(target, input).unwrap_or_else(|report| panic!("{}\n{report}", path.display()));
    }
    let seed = number("PGWARD_FUZZ_SEED").unwrap_or(SEED);
    let rounds = target.rounds * number("PGWARD_FUZZ_TIMES").unwrap_or(1) as usize;
    println!("{}: {} inputs kept, {rounds} random ones of PGWARD_FUZZ_SEED={seed}", target.name, kept.len());
    let kept: Vec<Vec<u8>> = kept.into_iter().map(|(_, input)| input).collect();
    let mut random = Random::new(seed);
    for round in 0..rounds {
        let input = random::input(&mut random, &kept, target.words, target.longest);
        verdict(target, &input).unwrap_or_else(|report| panic!("round {round} of PGWARD_FUZZ_SEED={seed}\n{report}"));
    }
}

/// The same inputs each time, so that a change is judged by what it changes. Others are tried by hand.
const SEED: u64 = 20_261_121;

macro_rules! targets {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            run(targets::named(stringify!($name)).unwrap());
        }
    )*

    #[test]
    fn every_target_is_run() {
        assert_eq!(targets::ALL.map(|target| target.name), [$(stringify!($name)),*]);
    }
    };
}
targets!(frame, startup, sasl, shape, flow, handover, token, texts, config);

#[test]
fn a_broken_promise_is_reported_by_the_shortest_input_and_where_it_is() {
    fn check(input: &[u8]) {
        assert!(!input.windows(2).any(|two| two == b"!?"), "it says !?");
    }
    let target = Target { name: "self", check, words: &[], rounds: 0, longest: 100 };
    assert_eq!(verdict(&target, b"all is well"), Ok(()));
    let report = verdict(&target, b"this is the input, which!?goes on").unwrap_err();
    assert!(report.contains("it says !?") && report.contains("2 bytes") && report.contains("hex: 213f"), "{report}");
    let path = report.lines().find_map(|line| line.split_once("PGWARD_FUZZ_INPUT=")?.1.split(' ').next()).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"!?");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_seed_makes_the_same_inputs_again() {
    let kept = [b"one".to_vec(), b"another".to_vec()];
    let inputs = |seed| {
        let mut random = Random::new(seed);
        (0..200).map(|_| random::input(&mut random, &kept, &["word"], 50)).collect::<Vec<_>>()
    };
    assert_eq!(inputs(7), inputs(7));
    assert_ne!(inputs(7), inputs(8));
    assert!(inputs(7).iter().all(|input| input.len() <= 50));
    assert_eq!(Random::new(0).next(), 0xe220_a839_7b1d_cdaf, "SplitMix64's first number");
}
