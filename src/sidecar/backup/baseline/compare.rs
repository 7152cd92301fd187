//! A restored copy beside what the primary held: every difference is said.
//!
//! Where transactions committed between a snapshot and the restore point, what differs may be theirs: that is a warning,
//! since nothing was shown. Where there are none, it is damage.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::copy::Copy;
use super::{Baseline, Database, Digest, Reading, Sequence};
use crate::sidecar::backup::finding::{Finding, Severity};

/// How many differences of a kind are named one by one in one database.
const NAMED: usize = 50;

#[derive(Debug, Default, Serialize)]
pub struct Comparison {
    /// Tables, catalogues among them, that hold the same.
    pub equal: usize,
    /// Their rows.
    pub rows: i64,
    /// Tables of which that could not be shown.
    pub open: usize,
    /// Transactions that committed between a snapshot and the restore point, at most, in a database.
    pub moving: u64,
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

pub fn compare(baseline: &Baseline, copy: &Copy) -> Comparison {
    let mut comparison = Comparison::default();
    let findings = &mut comparison.findings;
    if baseline.system != copy.system {
        let text = format!(
            "the copy is of another cluster: its system identifier is {}, and the baseline was taken of {}",
            copy.system, baseline.system
        );
        findings.push(Finding::danger("other_cluster", text));
    }
    for (name, why) in &baseline.unread {
        let text = format!("database {name} could not be read on the primary, so nothing of it is compared: {why}");
        findings.push(Finding::warning("database_not_compared", text).of(name));
    }
    for (name, recorded) in &baseline.databases {
        let moving = copy.moving.get(name).copied();
        comparison.moving = comparison.moving.max(moving.unwrap_or_default());
        match (copy.databases.get(name), copy.unread.get(name)) {
            (Some(found), _) => {
                let mut pair = Pair { name, recorded, found, moving, comparison: &mut comparison };
                pair.tables();
                pair.sequences();
                pair.objects();
            }
            (None, Some(why)) => {
                let text = format!("database {name} cannot be read in the copy: {why}");
                comparison.findings.push(Finding::danger("database_unreadable", text).of(name));
            }
            (None, None) => {
                let finding = unproven(moving, "database_missing", format!("database {name} is not in the copy"));
                comparison.findings.push(finding.of(name));
            }
        }
    }
    for name in &copy.unexpected {
        let moving = copy.moving.values().max().copied();
        let text = format!("database {name} is in the copy and was not on the primary");
        comparison.findings.push(unproven(moving, "database_unexpected", text).of(name));
    }
    comparison.findings.sort();
    comparison
}

/// Damage, unless something was on its way, or nobody knows whether it was.
fn unproven(moving: Option<u64>, kind: &'static str, text: String) -> Finding {
    match moving {
        Some(0) => Finding::danger(kind, text),
        Some(1) => Finding::warning(kind, format!("{text}; 1 transaction ended just then, and it may be its doing")),
        Some(n) => Finding::warning(kind, format!("{text}; {n} transactions ended just then, and it may be theirs")),
        None => Finding::warning(kind, format!("{text}; whether a transaction ended just then is not known")),
    }
}

struct Pair<'a> {
    name: &'a str,
    recorded: &'a Database,
    found: &'a Database,
    moving: Option<u64>,
    comparison: &'a mut Comparison,
}

impl Pair<'_> {
    fn tables(&mut self) {
        let (recorded, found) = (self.recorded, self.found);
        let mut differences = Vec::new();
        for (table, recorded) in &recorded.tables {
            match judge(table, recorded, found.tables.get(table), self.moving) {
                Ok(rows) => {
                    self.comparison.equal += 1;
                    self.comparison.rows = self.comparison.rows.saturating_add(rows);
                }
                Err(finding) => {
                    self.comparison.open += usize::from(finding.severity == Severity::Warning);
                    differences.push((table, finding));
                }
            }
        }
        for table in found.tables.keys().filter(|table| !recorded.tables.contains_key(*table)) {
            let text = format!("table {table} is in the copy and was not on the primary");
            differences.push((table, unproven(self.moving, "table_unexpected", text)));
        }
        self.say(differences);
    }

    fn sequences(&mut self) {
        let (recorded, found) = (&self.recorded.sequences, &self.found.sequences);
        // One that is missing is missing among the objects.
        let both = recorded.iter().filter_map(|(name, sequence)| Some((name, sequence, found.get(name)?)));
        let differences =
            both.filter_map(|(name, recorded, found)| Some((name, judge_sequence(name, recorded, found)?)));
        let differences = differences.collect();
        self.say(differences);
    }

    fn objects(&mut self) {
        let (recorded, found) = (&self.recorded.objects, &self.found.objects);
        let names: BTreeSet<&String> = recorded.keys().chain(found.keys()).collect();
        let differences = names.into_iter().filter_map(|name| {
            let (kind, text) = match (recorded.get(name), found.get(name)) {
                (Some(a), Some(b)) if a == b => return None,
                (Some(_), Some(_)) => ("object_differs", format!("{name} is not made as it was on the primary")),
                (Some(_), None) => ("object_missing", format!("{name} is not in the copy")),
                (None, _) => ("object_unexpected", format!("{name} is in the copy and was not on the primary")),
            };
            Some((name, unproven(self.moving, kind, text)))
        });
        let differences = differences.collect();
        self.say(differences);
    }

    /// The first of each kind by name, the rest by number: a lost schema would fill books.
    fn say(&mut self, differences: Vec<(&String, Finding)>) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut more: BTreeMap<&'static str, (Severity, usize)> = BTreeMap::new();
        for (object, finding) in differences {
            let count = counts.entry(finding.kind).or_default();
            *count += 1;
            if *count > NAMED {
                let rest = more.entry(finding.kind).or_insert((finding.severity, 0));
                *rest = (rest.0.min(finding.severity), rest.1 + 1);
                continue;
            }
            let text = format!("database {}: {}", self.name, finding.text);
            self.comparison.findings.push(Finding { text, ..finding }.of(format!("{}: {object}", self.name)));
        }
        for (kind, (severity, count)) in more {
            let text = format!("database {}: {count} more of the kind {kind}", self.name);
            self.comparison.findings.push(Finding { severity, kind, object: Some(self.name.to_owned()), text });
        }
    }
}

/// The rows of a table that is the same.
fn judge(table: &str, recorded: &Reading, found: Option<&Reading>, moving: Option<u64>) -> Result<i64, Finding> {
    let not_compared =
        |why: String| Finding::warning("table_not_compared", format!("table {table} was not compared: {why}"));
    let lost = match found {
        None => Some(unproven(moving, "table_missing", format!("table {table} is not in the copy"))),
        Some(Reading::Failed(why)) => {
            Some(Finding::danger("table_unreadable", format!("table {table} cannot be read in the copy: {why}")))
        }
        Some(_) => None,
    };
    match (recorded, found) {
        (Reading::Failed(why), _) => Err(not_compared(format!("it could not be read on the primary, either: {why}"))),
        (_, None | Some(Reading::Failed(_))) => Err(lost.unwrap_or_else(|| not_compared("it is not there".to_owned()))),
        (Reading::Read(a), Some(Reading::Read(b))) if a == b => Ok(a.rows),
        (Reading::Read(a), Some(Reading::Read(b))) => {
            Err(unproven(moving, "table_differs", format!("table {table} is not what it was: {}", change(a, b))))
        }
        (Reading::Moved, Some(_)) => Err(not_compared(
            "it was dropped, renamed, emptied or written anew while it was read on the primary".to_owned(),
        )),
        (Reading::Locked, Some(_)) => Err(not_compared("somebody held a lock on it on the primary".to_owned())),
        (Reading::Planned, _) | (_, Some(Reading::Planned)) => Err(not_compared(
            "to ask for a materialized view is to run what its indexes and statistics are made of, and others than \
             superusers make these"
                .to_owned(),
        )),
        (Reading::Read(_), Some(Reading::Moved | Reading::Locked)) => {
            Err(not_compared("somebody else is at work in the copy".to_owned()))
        }
    }
}

fn change(recorded: &Digest, found: &Digest) -> String {
    match recorded.rows == found.rows {
        true => format!("{} rows as before, with other contents", recorded.rows),
        false => format!("{} rows, and {} in the copy", recorded.rows, found.rows),
    }
}

/// The copy has a value that was given out around the restore point, or one that the log was ahead by.
fn judge_sequence(name: &str, recorded: &Sequence, found: &Sequence) -> Option<Finding> {
    if recorded.cycles {
        return None;
    }
    let Some(now) = found.after else {
        let lost = recorded.before.is_some() && recorded.after.is_some();
        let text = format!("sequence {name} has not been used in the copy, and it was on the primary");
        return lost.then(|| Finding::danger("sequence_behind", text));
    };
    let seen: Vec<i64> = recorded.before.into_iter().chain(recorded.after).collect();
    let (low, high) = (seen.iter().min().copied(), seen.iter().max().copied());
    let possible = match (low, high) {
        // From its first use on.
        (Some(_), Some(high)) if recorded.before.is_none() => between(now, i64::MIN, high, recorded.ahead),
        (Some(low), Some(high)) => between(now, low, high, recorded.ahead),
        _ => false,
    };
    let text = format!("sequence {name} is at {now} in the copy, which it cannot have been at on the primary");
    (!possible).then(|| Finding::danger("sequence_differs", text))
}

/// `ahead`: below zero where the sequence counts down.
fn between(now: i64, low: i64, high: i64, ahead: i64) -> bool {
    let (low, high) = if ahead < 0 { (low.saturating_add(ahead), high) } else { (low, high.saturating_add(ahead)) };
    (low..=high).contains(&now)
}

#[cfg(test)]
mod tests;
