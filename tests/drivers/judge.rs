//! What a driver's checks came to. All must pass, but those of `awaited.txt`, which must fail: when one
//! of them passes, it is to be taken off the list. Whatever fails through pgward must pass on PostgreSQL
//! itself; a check that does not is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::place::{self, Urls};

const AWAITED: &str = include_str!("awaited.txt");

/// One check's end. `why` is none when it passed.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub name: String,
    pub why: Option<String>,
    pub took: Duration,
}

/// How long a session may wait for a backend, and how long where the check is to fail anyway.
const PATIENCE: [&str; 2] = ["10s", "1s"];

/// Runs a driver's checks. `run` is told where and which: none for all, `-name` for all but these.
pub async fn judge(driver: &str, run: impl AsyncFn(&Urls, &[String]) -> Vec<Outcome>) {
    let asked: Vec<String> =
        std::env::var("PGWARD_CHECKS").map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default();
    if std::env::var("PGWARD_DRIVERS").is_ok_and(|place| place == "direct") {
        let outcomes = run(&place::direct(driver).await, &asked).await;
        outcomes.iter().for_each(|outcome| good(driver, outcome));
        let wrong: Vec<String> = outcomes.iter().filter_map(|outcome| told(driver, outcome)).collect();
        assert!(wrong.is_empty(), "directly on PostgreSQL:\n{}", wrong.join("\n"));
        return;
    }
    let awaited = awaited(driver);
    let (listed, mut others): (Vec<String>, Vec<String>) =
        asked.iter().cloned().partition(|name| awaited.contains_key(name.as_str()));
    let listed = if asked.is_empty() { awaited.keys().map(|name| (*name).to_owned()).collect() } else { listed };
    if asked.is_empty() {
        others = listed.iter().map(|name| format!("-{name}")).collect();
    }
    let mut outcomes = Vec::new();
    for (names, patience) in [others, listed].into_iter().zip(PATIENCE) {
        if !names.is_empty() || (asked.is_empty() && outcomes.is_empty()) {
            let (stage, urls) = place::proxied(driver, patience).await;
            outcomes.extend(run(&urls, &names).await);
            stage.at_rest(0).await;
        }
    }
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.why.is_some()).collect();
    let mut wrong = Vec::new();
    if !failed.is_empty() {
        let names: Vec<String> = failed.iter().map(|outcome| outcome.name.clone()).collect();
        for outcome in run(&place::direct(driver).await, &names).await {
            if let Some(told) = told(driver, &outcome) {
                wrong.push(format!("{told}\n    and so on PostgreSQL itself: the check is wrong"));
            }
        }
    }
    for outcome in &failed {
        let listed = awaited.contains_key(outcome.name.as_str());
        println!("{} {}", if listed { "awaited" } else { "FAILED" }, told(driver, outcome).unwrap_or_default());
        if !listed {
            wrong.extend(told(driver, outcome));
        }
    }
    for outcome in outcomes.iter().filter(|outcome| outcome.why.is_none()) {
        good(driver, outcome);
        if awaited.contains_key(outcome.name.as_str()) {
            wrong.push(format!("{driver}.{} passes now: remove it from tests/drivers/awaited.txt", outcome.name));
        }
    }
    for name in awaited.keys().filter(|name| asked.is_empty() && !outcomes.iter().any(|o| o.name == **name)) {
        wrong.push(format!("{driver}.{name} of tests/drivers/awaited.txt is no check"));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Whether these names mean this check.
pub fn chosen(names: &[String], name: &str) -> bool {
    let but = |other: &String| other.strip_prefix('-').is_some_and(|but| but == name);
    match names.first() {
        None => true,
        Some(first) if first.starts_with('-') => !names.iter().any(but),
        Some(_) => names.iter().any(|other| other == name),
    }
}

fn good(driver: &str, outcome: &Outcome) {
    if outcome.why.is_none() {
        println!("good {driver}.{} {} ms", outcome.name, outcome.took.as_millis());
    }
}

fn told(driver: &str, outcome: &Outcome) -> Option<String> {
    let why = outcome.why.as_ref()?;
    Some(format!("{driver}.{} after {} ms: {why}", outcome.name, outcome.took.as_millis()))
}

/// Names and reasons.
fn awaited(driver: &str) -> BTreeMap<&'static str, &'static str> {
    lines().filter_map(|(name, reason)| Some((name.strip_prefix(driver)?.strip_prefix('.')?, reason))).collect()
}

fn lines() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = AWAITED.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').unwrap_or_else(|| panic!("awaited.txt: {line:?} gives no reason")))
}

#[test]
fn what_is_awaited_belongs_to_a_driver_once() {
    let names: Vec<&str> = lines().map(|(name, _)| name).collect();
    for (i, name) in names.iter().enumerate() {
        assert!(!names[..i].contains(name), "awaited.txt has {name} twice");
        let driver = name.split_once('.').map(|(driver, _)| driver);
        assert!(driver.is_some_and(|driver| place::DRIVERS.contains(&driver)), "awaited.txt: {name} is of no driver");
    }
}
