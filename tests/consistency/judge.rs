//! Whether a history keeps what was promised. Pure: a history in, what is wrong with it out.
//!
//! Objects are judged one by one. A session's own order is the order in which it asked; between sessions only time counts:
//! what was acknowledged before something else was sent came before it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::history::{Action, Event, History, Kind, Mode, Moment, Object, Outcome, Shown};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Shown, and written by nobody, or not yet, or by one who was told that it was not done.
    Invented,
    /// A session does not see what it has written.
    ReadYourWrites,
    /// A session does not see any more what it has seen.
    MonotonicReads,
    /// What a session of the tenant had been told is done, another one asked later and did not see.
    Tenant,
    /// Older than the bound.
    Bounded,
    /// Lists that are read are no beginnings of one list.
    Prefix,
    /// An element twice in a list, or one value of a counter given to two.
    Twice,
    /// Acknowledged or seen, and not there at the end; or a write that did not build upon it.
    Lost,
}

#[derive(Debug, Clone)]
pub struct Violation {
    pub rule: Rule,
    pub event: Event,
    pub why: String,
}

/// Of whoever looks at the end.
pub const LAST: usize = usize::MAX;

pub fn judge(history: &History) -> Vec<Violation> {
    let mut objects: HashMap<&Object, Vec<&Event>> = HashMap::new();
    for event in &history.events {
        objects.entry(&event.object).or_default().push(event);
    }
    let last: HashMap<&Object, &Shown> = history.last.iter().map(|(object, shown)| (&**object, shown)).collect();
    let end = history.events.iter().map(|event| event.done).max().unwrap_or_default();
    let mut found = Vec::new();
    for (object, events) in objects {
        let object = Arc::new(object.clone());
        let shown = last.get(&*object).map(|shown| (*shown).clone());
        let last = shown.map(|shown| Event {
            session: LAST,
            object: Arc::clone(&object),
            sent: end,
            done: end,
            action: Action::Read(shown),
            by: None,
        });
        let case = Case::new(&object, events, last.as_ref());
        found.extend(case.judge());
    }
    found.sort_by_key(|violation| violation.event.sent);
    found
}

/// One object's history.
struct Case<'a> {
    kind: Kind,
    mode: Mode,
    events: Vec<&'a Event>,
    last: Option<&'a Event>,
    acknowledged: Acknowledged,
    /// When each value was first sent, of those that may have been written.
    sent: HashMap<u64, Moment>,
    /// The same of additions to a counter, in order.
    additions: Vec<Moment>,
    refused: BTreeSet<u64>,
    found: Vec<Violation>,
}

/// Values by the time at which somebody was told that they are written.
struct Acknowledged(Vec<Known>);

struct Known {
    done: Moment,
    value: u64,
    /// Of these and all before.
    highest: u64,
}

impl Acknowledged {
    fn of(events: &[&Event]) -> Self {
        let mut known: Vec<Known> = events
            .iter()
            .filter_map(|event| match event.action {
                Action::Write { value: Some(value), outcome: Outcome::Acknowledged } => {
                    Some(Known { done: event.done, value, highest: value })
                }
                _ => None,
            })
            .collect();
        known.sort_by_key(|known| known.done);
        let mut highest = 0;
        for known in &mut known {
            highest = highest.max(known.value);
            known.highest = highest;
        }
        Self(known)
    }

    /// What shows all that was acknowledged before this time.
    fn before(&self, kind: Kind, then: Moment) -> Vec<u64> {
        let known = &self.0[..self.0.partition_point(|known| known.done < then)];
        match kind {
            Kind::List => known.iter().map(|known| known.value).collect(),
            Kind::Register | Kind::Counter => known.last().map(|known| known.highest).into_iter().collect(),
        }
    }
}

impl<'a> Case<'a> {
    fn new(object: &Object, events: Vec<&'a Event>, last: Option<&'a Event>) -> Self {
        let (mut sent, mut additions, mut refused) = (HashMap::new(), Vec::new(), BTreeSet::new());
        for event in &events {
            match event.action {
                Action::Write { value: Some(value), outcome: Outcome::Refused } => {
                    refused.insert(value);
                }
                Action::Write { value, outcome: Outcome::Acknowledged | Outcome::InDoubt } => {
                    additions.push(event.sent);
                    value.into_iter().for_each(|value| {
                        sent.entry(value).or_insert(event.sent);
                    });
                }
                Action::Write { value: None, outcome: Outcome::Refused } | Action::Read(_) => {}
            }
        }
        additions.sort();
        let acknowledged = Acknowledged::of(&events);
        let (kind, mode) = (object.kind, object.mode);
        Self { kind, mode, events, last, acknowledged, sent, additions, refused, found: Vec::new() }
    }

    fn judge(mut self) -> Vec<Violation> {
        let events = self.events.clone();
        self.sessions(&events);
        for event in events.iter().copied().chain(self.last) {
            match &event.action {
                Action::Read(shown) => {
                    self.invented(event, shown);
                    self.late(event, shown);
                }
                Action::Write { value, outcome } => self.written(event, *value, *outcome),
            }
        }
        match self.kind {
            Kind::List => self.lists(&events),
            Kind::Counter => self.counted_twice(&events),
            Kind::Register => {}
        }
        self.at_the_end(&events);
        self.found
    }

    fn wrong(&mut self, rule: Rule, event: &Event, why: String) {
        self.found.push(Violation { rule, event: event.clone(), why });
    }

    /// What each session has written and seen, in its own order.
    fn sessions(&mut self, events: &[&Event]) {
        if !matches!(self.mode, Mode::Session | Mode::Tenant) {
            return;
        }
        #[derive(Default)]
        struct Session {
            wrote: BTreeSet<u64>,
            saw: BTreeSet<u64>,
        }
        let mut sessions: HashMap<usize, Session> = HashMap::new();
        for event in events {
            let session = sessions.entry(event.session).or_default();
            match &event.action {
                Action::Write { value: Some(value), outcome: Outcome::Acknowledged } => {
                    self.keep(&mut session.wrote, &[*value]);
                }
                Action::Write { .. } => {}
                Action::Read(shown) => {
                    let missing = |values: &BTreeSet<u64>| values.iter().copied().find(|value| !shown.has(*value));
                    if let Some(value) = missing(&session.wrote) {
                        self.wrong(Rule::ReadYourWrites, event, format!("its session had written {value}"));
                    }
                    if let Some(value) = missing(&session.saw) {
                        self.wrong(Rule::MonotonicReads, event, format!("its session had seen {value}"));
                    }
                    self.keep(&mut session.saw, shown.values());
                }
            }
        }
    }

    /// Where values only grow the highest stands for all.
    fn keep(&self, set: &mut BTreeSet<u64>, values: &[u64]) {
        set.extend(values);
        while self.kind != Kind::List && set.len() > 1 {
            set.pop_first();
        }
    }

    fn invented(&mut self, event: &Event, shown: &Shown) {
        for value in shown.values() {
            let why = match self.kind {
                Kind::Counter => {
                    let sent = self.additions.partition_point(|sent| *sent <= event.done);
                    (*value > sent as u64).then(|| format!("only {sent} were added by then"))
                }
                _ if self.sent.get(value).is_some_and(|sent| *sent <= event.done) => None,
                _ if self.refused.contains(value) => Some(format!("{value} was refused")),
                _ => Some(format!("nobody had written {value}")),
            };
            why.into_iter().for_each(|why| self.wrong(Rule::Invented, event, why));
        }
    }

    /// What it does not show though it was acknowledged long enough before.
    fn late(&mut self, event: &Event, shown: &Shown) {
        let (rule, until) = match self.mode {
            // What is there at the end is another question.
            _ if event.session == LAST => return,
            Mode::Tenant => (Rule::Tenant, Some(event.sent)),
            Mode::Bounded(bound) => (Rule::Bounded, event.sent.checked_sub(bound)),
            Mode::Session | Mode::Eventual => return,
        };
        let demanded = until.map(|until| self.acknowledged.before(self.kind, until)).unwrap_or_default();
        if let Some(value) = demanded.into_iter().find(|value| !shown.has(*value)) {
            let acknowledged = self.acknowledged.0.iter().find(|known| known.value == value).map(|known| known.done);
            let ago = event.sent.saturating_sub(acknowledged.unwrap_or_default());
            self.wrong(rule, event, format!("{value} had been acknowledged {ago:?} before"));
        }
    }

    /// Whoever adds to a counter builds upon all that was acknowledged before.
    fn written(&mut self, event: &Event, value: Option<u64>, outcome: Outcome) {
        let (Kind::Counter, Some(value), Outcome::Acknowledged) = (self.kind, value, outcome) else { return };
        let before = self.acknowledged.before(self.kind, event.sent);
        if let Some(before) = before.into_iter().find(|before| *before >= value) {
            self.wrong(Rule::Lost, event, format!("{before} had been acknowledged before it was sent"));
        }
    }

    fn lists(&mut self, events: &[&'a Event]) {
        let elements = |event: &'a Event| match &event.action {
            Action::Read(Shown::List(elements)) => Some((event, elements)),
            _ => None,
        };
        let reads: Vec<_> = events.iter().copied().chain(self.last).filter_map(elements).collect();
        let longest = reads.iter().map(|(_, elements)| *elements).max_by_key(|elements| elements.len());
        for (event, elements) in &reads {
            if let Some(twice) = elements.iter().find(|n| elements.iter().filter(|other| other == n).count() > 1) {
                self.wrong(Rule::Twice, event, format!("{twice} is there more than once"));
            } else if !elements.is_sorted() {
                self.wrong(Rule::Prefix, event, "it is not in the order of appending".to_owned());
            } else if let Some(longest) = longest.filter(|longest| !longest.starts_with(elements)) {
                self.wrong(Rule::Prefix, event, format!("another read showed {longest:?}"));
            }
        }
    }

    fn counted_twice(&mut self, events: &[&Event]) {
        let mut given = BTreeSet::new();
        for event in events {
            if let Action::Write { value: Some(value), outcome: Outcome::Acknowledged } = event.action
                && !given.insert(value)
            {
                self.wrong(Rule::Twice, event, format!("{value} was given to another one too"));
            }
        }
    }

    fn at_the_end(&mut self, events: &[&Event]) {
        let Some(last) = self.last else { return };
        let Action::Read(at_last) = &last.action else { return };
        let mut told = BTreeSet::new();
        for event in events {
            match &event.action {
                Action::Write { value: Some(value), outcome: Outcome::Acknowledged } => {
                    told.insert((*value, "acknowledged"));
                }
                Action::Read(shown) => told.extend(shown.values().iter().map(|value| (*value, "seen"))),
                Action::Write { .. } => {}
            }
        }
        for (value, how) in told {
            if !at_last.has(value) {
                self.wrong(Rule::Lost, last, format!("{value} had been {how}"));
            }
        }
    }
}
