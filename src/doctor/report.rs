//! All findings, in a stable order, as text, JSON or SQL.

use std::collections::BTreeMap;
use std::collections::{BTreeSet, btree_map};
use std::fmt::Write;

use serde_json::{Value, json};

use super::examine::{Found, NotExamined};
use super::finding::{Finding, Mend, Rule, Severity};
use super::mend::SETTINGS;
use super::quote::{identifier, one_line};
use super::rules;

/// Where something was found: in a database, or in what a cluster's databases share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub cluster: String,
    pub database: Option<String>,
}

impl Place {
    fn title(&self) -> String {
        match &self.database {
            Some(database) => format!("cluster {}, database {}", self.cluster, one_line(database)),
            None => format!("cluster {}, all databases", self.cluster),
        }
    }
}

/// What is known and accepted: a rule, or a rule at one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    rule: &'static Rule,
    object: Option<String>,
}

impl Allowed {
    /// `RULE` or `RULE:OBJECT`, the object as findings have it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (id, object) =
            text.split_once(':').map_or((text, None), |(id, object)| (id, Some(object.trim().to_owned())));
        match super::rules().into_iter().find(|rule| rule.id == id) {
            Some(rule) => Ok(Self { rule, object }),
            None => Err(format!("there is no rule {id:?}; docs/doctor.md lists them")),
        }
    }

    fn covers(&self, finding: &Finding) -> bool {
        self.rule == finding.rule && self.object.as_ref().is_none_or(|object| *object == finding.object)
    }
}

#[derive(Debug, Default)]
pub struct Report {
    found: BTreeMap<Place, Found>,
    allowed: usize,
    unreached: BTreeSet<Place>,
}

impl Report {
    pub fn add(&mut self, place: Place, mut found: Found, allow: &[Allowed]) {
        let before = found.findings.len();
        found.findings.retain(|finding| !allow.iter().any(|allowed| allowed.covers(finding)));
        self.allowed += before - found.findings.len();
        let order = |finding: &Finding| {
            (
                finding.rule.severity,
                finding.rule.id,
                finding.object.clone(),
                finding.danger.clone(),
                finding.mend.clone(),
            )
        };
        found.findings.sort_by_key(order);
        found.not_examined.sort_by(|a, b| (&a.what, &a.reason).cmp(&(&b.what, &b.reason)));
        match self.found.entry(place) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(found);
            }
            btree_map::Entry::Occupied(mut entry) => {
                entry.get_mut().findings.extend(found.findings);
                entry.get_mut().not_examined.extend(found.not_examined);
            }
        }
    }

    /// A database that nothing at all is known of.
    pub fn unreached(&mut self, place: Place, reason: String) {
        self.unreached.insert(place.clone());
        let what = NotExamined { rules: Vec::new(), what: "the database".to_owned(), reason };
        self.add(place, Found { findings: Vec::new(), not_examined: vec![what] }, &[]);
    }

    pub fn count(&self, severity: Severity) -> usize {
        self.found.values().flat_map(|found| &found.findings).filter(|f| f.rule.severity == severity).count()
    }

    /// Databases that could not be looked at.
    pub fn unreached_databases(&self) -> usize {
        self.unreached.len()
    }

    /// What could not be looked at in databases that could.
    pub fn not_examined(&self) -> usize {
        self.found.values().map(|found| found.not_examined.len()).sum::<usize>() - self.unreached.len()
    }

    /// Findings with sure SQL and where to run it: those of a cluster through the first of its databases.
    pub fn mends(&self) -> BTreeMap<Place, Vec<&Finding>> {
        let mut mends: BTreeMap<Place, Vec<&Finding>> = BTreeMap::new();
        for (place, found) in &self.found {
            let run_in = match place.database {
                Some(_) => Some(place),
                None => self.found.keys().find(|other| {
                    other.cluster == place.cluster && other.database.is_some() && !self.unreached.contains(other)
                }),
            };
            let sure = found.findings.iter().filter(|finding| matches!(finding.mend, Mend::Sql(_)));
            if let Some(run_in) = run_in
                && !found.findings.is_empty()
            {
                mends.entry(run_in.clone()).or_default().extend(sure);
            }
        }
        mends.retain(|_, findings| !findings.is_empty());
        mends
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for (place, found) in &self.found {
            let Found { findings, not_examined } = found;
            if place.database.is_none() && findings.is_empty() && not_examined.is_empty() {
                continue;
            }
            let _ = writeln!(text, "{}: {}", place.title(), counted(findings));
            for finding in findings {
                write_finding(&mut text, finding);
            }
            for missed in not_examined {
                let rules =
                    if missed.rules.is_empty() { String::new() } else { format!(" ({})", missed.rules.join(", ")) };
                let _ = writeln!(
                    text,
                    "\n  not examined: {}{rules}\n    {}",
                    one_line(&missed.what),
                    one_line(&missed.reason)
                );
            }
            text.push('\n');
        }
        let _ = write!(text, "{}", self.summary());
        text
    }

    fn summary(&self) -> String {
        let mut parts =
            vec![plural(self.count(Severity::Danger), "danger"), plural(self.count(Severity::Warning), "warning")];
        if self.allowed > 0 {
            parts.push(format!("{} allowed", self.allowed));
        }
        if self.not_examined() > 0 {
            parts.push(format!("{} not examined", self.not_examined()));
        }
        if !self.unreached.is_empty() {
            parts.push(format!("{} not reached", plural(self.unreached.len(), "database")));
        }
        parts.join(", ")
    }

    pub fn json(&self) -> Value {
        let mut findings = Vec::new();
        let mut not_examined = Vec::new();
        for (Place { cluster, database }, found) in &self.found {
            findings.extend(found.findings.iter().map(|finding| {
                let mend = match &finding.mend {
                    Mend::Sql(sql) => json!({ "sql": sql }),
                    Mend::Advice(advice) => json!({ "advice": advice }),
                };
                json!({
                    "rule": finding.rule.id, "severity": finding.rule.severity.as_str(),
                    "cluster": cluster, "database": database,
                    "object": finding.object, "danger": finding.danger, "mend": mend,
                })
            }));
            not_examined.extend(found.not_examined.iter().map(|missed| {
                json!({
                    "cluster": cluster, "database": database,
                    "what": missed.what, "reason": missed.reason, "rules": missed.rules,
                })
            }));
        }
        let databases: BTreeSet<_> =
            self.found.keys().filter_map(|place| Some((&place.cluster, place.database.as_ref()?))).collect();
        json!({
            "findings": findings,
            "not_examined": not_examined,
            "summary": {
                "danger": self.count(Severity::Danger),
                "warning": self.count(Severity::Warning),
                "allowed": self.allowed,
                "not_examined": self.not_examined(),
                "databases": databases.len(),
                "databases_not_reached": self.unreached.len(),
                "rules": rules::CHECKS.iter().flat_map(|checks| checks.iter()).map(|check| check.rules.len()).sum::<usize>(),
            },
        })
    }

    /// The SQL of all findings of a cluster, for psql, each database in a transaction of its own.
    pub fn script(&self) -> String {
        let mends = self.mends();
        let mut text = String::from("-- Written by pgward doctor. Read it, then run it by psql as an administrator.\n");
        text.push_str("\\set ON_ERROR_STOP on\n");
        for (place, findings) in &mends {
            let _ = writeln!(text, "\n-- {}", place.title());
            if let Some(database) = &place.database {
                let _ = writeln!(text, "\\connect {}", identifier(database));
            }
            let _ = writeln!(text, "begin;\n{SETTINGS}");
            for (finding, sql) in statements(findings.iter().copied()) {
                let _ = writeln!(text, "\n-- {}\n{}", comment(finding), sql.unwrap_or("-- (as above)"));
            }
            text.push_str("\ncommit;\n");
        }
        let left =
            self.found.iter().flat_map(|(place, found)| found.findings.iter().map(move |finding| (place, finding)));
        let mut first = true;
        for (place, finding) in left {
            let Mend::Advice(advice) = &finding.mend else { continue };
            if std::mem::take(&mut first) {
                text.push_str("\n-- Left to do, as only you can know what is right:\n");
            }
            let _ = writeln!(text, "-- {}: {}\n--     {}", place.title(), comment(finding), one_line(advice));
        }
        text
    }
}

/// Findings with the SQL to run for each; none where an earlier one has the same.
pub(super) fn statements<'a>(
    findings: impl Iterator<Item = &'a Finding>,
) -> impl Iterator<Item = (&'a Finding, Option<&'a str>)> {
    let mut seen = BTreeSet::new();
    findings.filter_map(move |finding| match &finding.mend {
        Mend::Sql(sql) => Some((finding, seen.insert(sql).then_some(sql.as_str()))),
        Mend::Advice(_) => None,
    })
}

fn comment(finding: &Finding) -> String {
    let Finding { rule, object, danger, .. } = finding;
    format!("{}, {}: {}: {}", rule.severity.as_str(), rule.id, one_line(object), one_line(danger))
}

fn write_finding(text: &mut String, finding: &Finding) {
    let Finding { rule, object, danger, mend } = finding;
    let _ =
        writeln!(text, "\n  {}: {} ({})\n    {}", rule.severity.as_str(), one_line(object), rule.id, one_line(danger));
    let (word, lines) = match mend {
        Mend::Sql(sql) => ("mend", sql),
        Mend::Advice(advice) => ("advice", advice),
    };
    for (at, line) in lines.lines().enumerate() {
        let word = if at == 0 { format!("{word}:") } else { String::new() };
        let _ = writeln!(text, "    {word:7} {}", one_line(line));
    }
}

fn counted(findings: &[Finding]) -> String {
    let of = |severity| findings.iter().filter(|finding| finding.rule.severity == severity).count();
    match (of(Severity::Danger), of(Severity::Warning)) {
        (0, 0) => "nothing found".to_owned(),
        (dangers, warnings) => format!("{}, {}", plural(dangers, "danger"), plural(warnings, "warning")),
    }
}

fn plural(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}
