//! What the audit logs say of tenants. Lines are taken one by one and counted, so a log of any length takes no more memory
//! than there are tenants, servers and reasons.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::finding::Finding;
use crate::audit::{Examiner, Finding as Fault, Members, Place, Seal};
use crate::base::Region;
use crate::residency;

/// The lines of all logs that were read.
#[derive(Debug, Default)]
pub struct History {
    since: Option<String>,
    /// `None`: all.
    wanted: Option<BTreeSet<String>>,
    pub(super) tenants: BTreeMap<String, Past>,
    pub(super) logs: Vec<Log>,
    /// The nodes whose logs they are.
    pub(super) nodes: BTreeSet<String>,
    pub(super) findings: Vec<Finding>,
}

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A pgward's that serves sessions.
    Sessions,
    /// That of commands, wherever they are run.
    Commands,
}

/// One log: the files of one chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Log {
    pub file: String,
    pub kind: Kind,
    pub files: usize,
    /// Who wrote it, where that is said.
    pub nodes: BTreeSet<String>,
    /// Good ones.
    pub lines: u64,
    pub first: Option<String>,
    pub last: Option<String>,
    /// How far the chain goes, for `pgward audit verify --expect`.
    pub anchor: Option<String>,
    pub notes: Vec<String>,
}

/// What happened so often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counted {
    pub count: u64,
    pub first: String,
    pub last: String,
}

impl Counted {
    fn add(&mut self, count: u64, first: &str, last: &str) {
        self.count += count;
        if *first < *self.first {
            self.first = first.to_owned();
        }
        if *last > *self.last {
            self.last = last.to_owned();
        }
    }
}

/// What the logs say of one tenant.
#[derive(Debug, Default)]
pub struct Past {
    pub served: BTreeMap<Way, Served>,
    /// Clients that were forwarded.
    pub passed: BTreeMap<Passed, Counted>,
    pub refused: BTreeMap<Refused, Counted>,
    /// By grant and purpose.
    pub grants: BTreeMap<[Option<String>; 2], Counted>,
    /// Entries in an emergency, by whose token.
    pub break_glass: BTreeMap<Option<String>, Counted>,
    /// What administrators did by commands, and with what outcome.
    pub acts: BTreeMap<[Option<String>; 2], Counted>,
}

/// From which server, through which pgward.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Way {
    pub cluster: String,
    pub server: String,
    pub region: String,
    pub node: Option<String>,
    pub node_region: Option<String>,
    /// The node that has forwarded its clients.
    pub came_by: Option<String>,
    /// What lets the pgward be where the tenant's data may not be.
    pub grant: Option<String>,
}

/// From which pgward to which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Passed {
    pub node: Option<String>,
    pub node_region: Option<String>,
    pub forwarded_to: Option<String>,
    pub region: Option<String>,
    /// The client's own TLS went through, so that the node in between could read nothing.
    pub direct_tls: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Served {
    pub sessions: u64,
    /// How often a session got a backend there: once a transaction, as a rule.
    pub backends: u64,
    pub first: String,
    pub last: String,
    /// Lines by which the server, or the pgward, was where the session could not be then.
    #[serde(skip)]
    pub outside: [u64; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Refused {
    pub event: String,
    pub reason: Option<String>,
    pub server: Option<String>,
    pub region: Option<String>,
}

/// Faults of one log that are told one by one.
const MOST: usize = 100;

/// Reads one log, file by file.
#[derive(Debug)]
pub struct LogReader<'a> {
    history: &'a mut History,
    examiner: Examiner,
    log: Log,
    /// The number of its first line.
    begin: Option<u64>,
    /// What the line before was about.
    before: Option<String>,
    missing: Vec<String>,
    /// The last line so far, if it has no end.
    unended: Option<(Place, Vec<u8>)>,
}

impl History {
    /// `since`: RFC 3339 in UTC with milliseconds, as the log has it. `tenants`: all where there are none.
    pub fn new(since: Option<String>, tenants: impl IntoIterator<Item = String>) -> Self {
        let wanted: BTreeSet<String> = tenants.into_iter().collect();
        Self { since, wanted: (!wanted.is_empty()).then_some(wanted), ..Self::default() }
    }

    /// Begins a log, whose lines any of these seals made. `file`: the one in use.
    pub fn log(&mut self, file: &str, kind: Kind, seals: Vec<Seal>) -> LogReader<'_> {
        let log = Log {
            file: file.to_owned(),
            kind,
            files: 0,
            nodes: BTreeSet::new(),
            lines: 0,
            first: None,
            last: None,
            anchor: None,
            notes: Vec::new(),
        };
        let examiner = Examiner::new(seals, Vec::new());
        LogReader { history: self, examiner, log, begin: None, before: None, missing: Vec::new(), unended: None }
    }

    /// Whether any line is about this tenant.
    pub fn knows(&self, tenant: &str) -> bool {
        self.tenants.contains_key(tenant)
    }

    fn is_due(&self, time: &str) -> bool {
        self.since.as_deref().is_none_or(|since| time >= since)
    }

    fn take(&mut self, line: &Line<'_>) {
        let Some(tenant) = line.text("tenant") else { return };
        if self.wanted.as_ref().is_some_and(|wanted| !wanted.contains(tenant)) {
            return;
        }
        self.tenants.entry(tenant.to_owned()).or_default().take(line);
    }
}

impl LogReader<'_> {
    /// A file of the log comes next.
    pub fn file(&mut self) {
        self.log.files += 1;
    }

    /// It should be there, and is not.
    pub fn missing(&mut self, file: &str, why: &str) {
        self.missing.push(format!("{file}: {why}"));
    }

    /// Takes a line without its end. `ended`: it had one. One that is not good is not counted.
    pub fn line(&mut self, at: Place, text: &[u8], ended: bool) {
        if let Some((at, text)) = self.unended.take() {
            self.examiner.take(at, &text, false);
        }
        if !ended {
            // The last one of all is perhaps being written.
            self.unended = Some((at, text.to_owned()));
            return;
        }
        let Some(members) = self.examiner.take(at, text, true) else { return };
        let line = Line(&members);
        let (Some(time), Some(event)) = (line.text("time"), line.text("event")) else { return };
        self.begin = self.begin.or(line.number("seq"));
        if self.log.first.is_none() {
            self.log.first = Some(time.to_owned());
        }
        self.log.last = Some(time.to_owned());
        self.log.nodes.extend(line.owned("node"));
        let before = self.before.replace(event.to_owned());
        if !self.history.is_due(time) {
            return;
        }
        let file = &self.log.file;
        match event {
            "lost" => {
                let lost = line.number("lost").unwrap_or(1);
                let text =
                    format!("{file}: {lost} events were lost before {time}; what they told is not in this report");
                self.history.findings.push(Finding::danger("events_lost", text));
            }
            "start" if before.is_some_and(|before| before != "stop") => {
                let text = format!(
                    "{file}: pgward was cut off before {time}; what it did in its last moments may not be in the log"
                );
                self.history.findings.push(Finding::warning("not_closed", text));
            }
            _ => self.history.take(&line),
        }
    }

    /// The log is read.
    pub fn finish(self) {
        let Self { history, examiner, mut log, begin, missing, unended, .. } = self;
        let verdict = examiner.finish(true);
        let file = &log.file;
        let broken = |what: String| Finding::danger("log_broken", format!("{file}: the proof has a hole: {what}"));
        history.findings.extend(missing.into_iter().map(broken));
        if log.kind == Kind::Sessions && begin.is_none() && log.files > 0 {
            let text = format!(
                "{file}: it has no good line, and a pgward that runs has written one: it was emptied, or is not the log"
            );
            history.findings.push(Finding::danger("log_missing", text));
        }
        let late = match (&history.since, &log.first) {
            (Some(since), Some(first)) => first > since,
            _ => true,
        };
        // What is not there is not asked for either.
        let asked = |fault: &&Fault| late || !matches!(fault, Fault::BeginRemoved { .. });
        // With a wrong key, each line is one.
        let mut faults = verdict.findings.iter().filter(asked);
        history.findings.extend(faults.by_ref().take(MOST).map(|fault| broken(fault.to_string())));
        match faults.count() {
            0 => {}
            more => history.findings.push(broken(format!("{more} more"))),
        }
        let removed = begin.is_some_and(|seq| seq > 1);
        let begins = log.first.as_deref().unwrap_or_default();
        let text = |what: &str| format!("{file}: the log begins at {begins}, {what}");
        match &history.since {
            Some(_) if late && removed => {
                let what = "after the time that is asked for; what was before has been removed (audit.keep)";
                history.findings.push(Finding::danger("log_begins_late", text(what)));
            }
            Some(_) if late && begin.is_some() => {
                let what = "after the time that is asked for; of what was before there is no log";
                history.findings.push(Finding::warning("log_begins_late", text(what)));
            }
            None if removed => {
                let what = "with a later line than its first; what was before has been removed (audit.keep)";
                history.findings.push(Finding::warning("log_begins_late", text(what)));
            }
            _ => {}
        }
        let stale = log.last.as_ref().is_some_and(|last| !history.is_due(last));
        if stale && log.kind == Kind::Sessions {
            let last = log.last.as_deref().unwrap_or_default();
            let text = format!(
                "{file}: it ends at {last}, before the time that is asked for: nobody came, or it is an old copy"
            );
            history.findings.push(Finding::warning("log_ends_early", text));
        }
        if log.kind == Kind::Sessions {
            history.nodes.extend(log.nodes.iter().cloned());
        }
        log.lines = verdict.lines;
        log.anchor = verdict.head.map(|head| head.to_string());
        log.notes = verdict.notes;
        let unended = unended
            .map(|(at, _)| format!("{at}: the last line has no end: it is being written, or a crash cut it off"));
        log.notes.extend(unended);
        history.logs.push(log);
    }
}

/// A line's members, by name.
struct Line<'a>(&'a Members);

impl<'a> Line<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(serde_json::Value::as_str)
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(serde_json::Value::as_u64)
    }

    fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let list = self.0.get(name).and_then(serde_json::Value::as_array);
        list.into_iter().flatten().filter_map(serde_json::Value::as_str)
    }
}

impl Past {
    fn take(&mut self, line: &Line<'_>) {
        let Some(event) = line.text("event") else { return };
        match event {
            "served" => self.served(line, 1, 1),
            "served_again" => self.served(line, 0, line.number("times").unwrap_or(1)),
            "login_refused" | "residency_refused" | "switch_refused" | "denied" | "context_forged" => {
                let (reason, server, region) = (line.owned("reason"), line.owned("server"), line.owned("region"));
                let refused = Refused { event: event.to_owned(), reason, server, region };
                count(&mut self.refused, refused, line);
            }
            "forwarded" => {
                let passed = Passed {
                    node: line.owned("node"),
                    node_region: line.owned("here"),
                    forwarded_to: line.owned("forwarded_to"),
                    region: line.owned("region"),
                    direct_tls: line.0.get("direct_tls").and_then(serde_json::Value::as_bool).unwrap_or(false),
                };
                count(&mut self.passed, passed, line);
            }
            "grant_used" => count(&mut self.grants, [line.owned("grant"), line.owned("purpose")], line),
            "login" if line.text("break_glass").is_some() => {
                count(&mut self.break_glass, line.owned("subject"), line);
            }
            "administration" => count(&mut self.acts, [line.owned("act"), line.owned("outcome")], line),
            _ => {}
        }
    }

    fn served(&mut self, line: &Line<'_>, sessions: u64, backends: u64) {
        let text = |name| line.owned(name).unwrap_or_default();
        let way = Way {
            cluster: text("cluster"),
            server: text("server"),
            region: text("region"),
            node: line.owned("node"),
            node_region: line.owned("here"),
            came_by: line.owned("came_by"),
            grant: line.owned("grant"),
        };
        let time = text("time");
        let until = line.owned("until").unwrap_or_else(|| time.clone());
        let allowed: Vec<Region> = line.list("regions").filter_map(|name| Region::parse(name).ok()).collect();
        let may = |name: &str| Region::parse(name).is_ok_and(|region| residency::allows(&allowed, &region));
        let elsewhere = way.grant.is_none() && way.node_region.as_deref().is_some_and(|here| !may(here));
        let outside = [!may(&way.region), elsewhere];
        let served = self.served.entry(way).or_insert_with(|| Served {
            sessions: 0,
            backends: 0,
            first: until.clone(),
            last: until.clone(),
            outside: [0; 2],
        });
        served.sessions += sessions;
        served.backends += backends;
        served.first = std::mem::take(&mut served.first).min(until.clone());
        served.last = std::mem::take(&mut served.last).max(until);
        for (count, outside) in served.outside.iter_mut().zip(outside) {
            *count += u64::from(outside);
        }
    }
}

/// A line stands for as many as it says.
fn count<K: Ord>(counts: &mut BTreeMap<K, Counted>, key: K, line: &Line<'_>) {
    let time = line.text("time").unwrap_or_default();
    let new = || Counted { count: 0, first: time.to_owned(), last: time.to_owned() };
    counts.entry(key).or_insert_with(new).add(line.number("repeats").unwrap_or(1), time, time);
}

#[cfg(test)]
pub(in crate::proof) mod tests;
