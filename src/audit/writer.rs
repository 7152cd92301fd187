//! The thread that writes: it takes what waits, a batch at a time, makes lines of it, and has them on the disk
//! before it tells who waits for them.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::chain::{Head, Seal};
use super::event::{Event, Members};
use super::flood::Flood;
use super::log::{Here, State};
use super::sink::{self, LogFile, Tail, TailState};
use crate::base::{NodeName, Region, clock};
use crate::config::Audit as Rules;

/// Events that are written at once.
const BATCH: usize = 512;

/// How long it takes until writing is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often pgward's log is told how far the chain has come.
const ANCHOR: Duration = Duration::from_secs(3600);

pub(super) enum Order {
    Event {
        at: SystemTime,
        event: Event,
        /// Told whether it is on the disk.
        done: Option<oneshot::Sender<bool>>,
    },
    Stop,
}

/// An event that is to become a line.
struct Due {
    at: SystemTime,
    event: Event,
    repeats: Option<u64>,
}

/// A line of the log about itself.
type Own = Members<'static>;

pub(super) struct Writer {
    state: Arc<State>,
    seal: Seal,
    file: Option<LogFile>,
    /// `None`: no file could be read yet.
    head: Option<Head>,
    flood: Flood,
    /// What could not be written yet, oldest first.
    due: VecDeque<Due>,
    waiters: Vec<(Due, oneshot::Sender<bool>)>,
    retry: Instant,
    /// The first line since the writing began, or began again.
    opening: Option<&'static str>,
    anchored: (Instant, u64),
    /// The file could not be put aside.
    stuck: bool,
}

impl Writer {
    pub fn new(state: Arc<State>) -> Self {
        let seal = Seal::new(state.rules.load().key.clone());
        let now = Instant::now();
        Self {
            state,
            seal,
            file: None,
            head: None,
            flood: Flood::default(),
            due: VecDeque::new(),
            waiters: Vec::new(),
            retry: now,
            opening: Some("start"),
            anchored: (now, 0),
            stuck: false,
        }
    }

    /// Opens the file and writes the first line.
    pub fn open(&mut self) -> io::Result<()> {
        self.write()?;
        self.anchor("the audit log is open");
        Ok(())
    }

    pub fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let stopped = match orders.recv_timeout(self.patience()) {
                Ok(order) => {
                    self.take(order) || (1..BATCH).map_while(|_| orders.try_recv().ok()).any(|order| self.take(order))
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            if stopped {
                for order in orders.try_iter() {
                    self.take(order);
                }
                self.stop();
                return;
            }
            self.count_repeats(false);
            self.write_due();
            if self.anchored.0.elapsed() >= ANCHOR {
                self.anchor("the audit log goes on");
            }
        }
    }

    /// How long nothing may happen before there is something to do.
    fn patience(&self) -> Duration {
        if self.is_failing() {
            self.retry.saturating_duration_since(Instant::now())
        } else if self.flood.is_calm() {
            ANCHOR
        } else {
            Duration::from_millis(250)
        }
    }

    /// `true`: it is the last one.
    fn take(&mut self, order: Order) -> bool {
        let Order::Event { at, event, done } = order else { return true };
        self.state.waiting.fetch_sub(1, Ordering::Relaxed);
        self.state.waiting_text.fetch_sub(event.weight(), Ordering::Relaxed);
        match done {
            Some(done) => self.waiters.push((Due { at, event, repeats: None }, done)),
            None => {
                let event = self.flood.admit(event, Instant::now());
                self.push(event.map(|event| Due { at, event, repeats: None }));
            }
        }
        false
    }

    /// Tells those who wait. One may have left meanwhile.
    fn answer(&mut self, written: bool) {
        for (_, done) in self.waiters.drain(..) {
            let _ = done.send(written);
        }
    }

    fn push(&mut self, due: impl IntoIterator<Item = Due>) {
        for due in due {
            if self.due.len() >= self.state.rules.load().buffer {
                self.state.lose(1);
            } else {
                self.due.push_back(due);
            }
        }
    }

    fn count_repeats(&mut self, all: bool) {
        let counted = if all { self.flood.all() } else { self.flood.over(Instant::now()) };
        let at = SystemTime::now();
        self.push(counted.into_iter().map(|(event, repeats)| Due { at, event, repeats: Some(repeats) }));
    }

    fn is_failing(&self) -> bool {
        self.state.failing.load(Ordering::Relaxed)
    }

    fn write_due(&mut self) {
        if self.is_failing() && Instant::now() < self.retry {
            self.answer(false);
            return;
        }
        let idle = self.due.is_empty() && self.waiters.is_empty() && self.state.lost.load(Ordering::Relaxed) == 0;
        if idle && !self.is_failing() {
            return;
        }
        match self.write() {
            Ok(()) if self.is_failing() => {
                self.state.failing.store(false, Ordering::Relaxed);
                self.state.telemetry.gauge("pgward_audit_failing", &[], 0.0);
                self.anchor("the audit log can be written again");
            }
            Ok(()) => {}
            Err(error) => self.fail(&error),
        }
    }

    /// From here on until something can be written, nobody is told that anything was.
    pub fn fail(&mut self, error: &io::Error) {
        let path = self.state.rules.load().file.clone();
        if !self.is_failing() {
            tracing::error!(path = %path.display(), %error, "the audit log cannot be written");
        }
        self.state.failing.store(true, Ordering::Relaxed);
        self.state.telemetry.gauge("pgward_audit_failing", &[], 1.0);
        self.retry = Instant::now() + RETRY;
        self.file = None;
        self.opening = self.opening.or(Some("resume"));
        self.answer(false);
    }

    /// Writes all that is due. On an error it is all due still.
    fn write(&mut self) -> io::Result<()> {
        let rules = self.state.rules.load_full();
        let moved = self.file.as_ref().is_some_and(|file| file.is_put_aside(&rules.file));
        if moved {
            self.file = None;
        }
        let mut own: Vec<Own> = Vec::new();
        if self.file.is_none() {
            own.extend(self.open_file(&rules.file)?);
        }
        if moved {
            own.push(Own { event: "rotate", ..Own::default() });
        }
        let lost = self.state.lost.load(Ordering::Relaxed);
        if lost > 0 {
            own.push(Own { event: "lost", lost: Some(lost as u64), ..Own::default() });
        }
        let mut head = self.head.unwrap_or(Head::NONE);
        let mut bytes = self.lines(&mut head, &own);
        let mut removed = Vec::new();
        let full = self.file.as_ref().is_some_and(|file| file.is_full(bytes.len(), rules.rotate_size));
        if full && let Some((rotated, too_many)) = self.rotate(&rules)? {
            own.insert(0, rotated);
            head = self.head.unwrap_or(Head::NONE);
            bytes = self.lines(&mut head, &own);
            removed = too_many;
        }
        let before = self.head.unwrap_or(Head::NONE);
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        file.append(&bytes, before.seq + 1)?;
        self.head = Some(head);
        self.opening = None;
        self.state.lost.fetch_sub(lost, Ordering::Relaxed);
        self.written(&own, &removed);
        Ok(())
    }

    /// Puts the file aside and begins another. Gives the line that tells of it, and the files that are to go then.
    /// `None`: it cannot be put aside, and stays in use.
    fn rotate(&mut self, rules: &Rules) -> io::Result<Option<(Own, Vec<PathBuf>)>> {
        let Some(aside) = self.file.as_ref().map(|file| file.put_aside(&rules.file)) else { return Ok(None) };
        let aside = match aside {
            Ok(aside) => aside,
            Err(error) => {
                if !std::mem::replace(&mut self.stuck, true) {
                    tracing::warn!(%error, "the audit log's file could not be put aside and grows beyond its limit");
                }
                return Ok(None);
            }
        };
        self.stuck = false;
        self.file = None;
        self.file = Some(LogFile::open(&rules.file)?);
        let (too_many, last) = sink::too_many(&rules.file, rules.keep)?;
        let file = aside.file_name().map(|name| name.to_string_lossy().into_owned());
        let removed_through = (last > 0).then_some(last);
        Ok(Some((Own { event: "rotate", file, removed_through, ..Own::default() }, too_many)))
    }

    /// What is on the disk is told to those who count and wait.
    fn written(&mut self, own: &[Own], removed: &[PathBuf]) {
        let count = |event| self.state.telemetry.count("pgward_audit_events_total", &[("event", event)], 1);
        own.iter().for_each(|own| count(own.event));
        self.due.iter().for_each(|due| count(due.event.name()));
        self.waiters.iter().for_each(|(due, _)| count(due.event.name()));
        if let Some(head) = self.head {
            self.state.telemetry.gauge("pgward_audit_lines", &[], head.seq as f64);
        }
        self.due.clear();
        self.answer(true);
        // Only now: the line that says so is on the disk.
        for path in removed {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "an old file of the audit log could not be removed");
            }
        }
        if own.iter().any(|own| own.event == "rotate") {
            self.anchor("the audit log goes on in another file");
        }
    }

    fn lines(&self, head: &mut Head, own: &[Own]) -> Vec<u8> {
        let mut out = Vec::new();
        let now = clock::rfc3339(SystemTime::now());
        let Here { node, region } = &self.state.here;
        let (node, here) = (node.as_ref().map(NodeName::as_str), region.as_ref().map(Region::as_str));
        for own in own {
            let line = Members { node, here, ..own.clone() };
            head.append(&self.seal, &now, &line.json(), &mut out);
        }
        for due in self.due.iter().chain(self.waiters.iter().map(|(due, _)| due)) {
            let line = Members { node, here, repeats: due.repeats, ..due.event.line() };
            head.append(&self.seal, &clock::rfc3339(due.at), &line.json(), &mut out);
        }
        out
    }

    /// Opens the file, and says what was found at its end. While pgward runs, the chain goes on from what it
    /// remembers; at its start, from the last line there is.
    fn open_file(&mut self, path: &std::path::Path) -> io::Result<Option<Own>> {
        let mut file = LogFile::open(path)?;
        let mut tail = file.tail(path, &self.seal)?;
        let mut own = Own { event: self.opening.unwrap_or("resume"), ..Own::default() };
        if own.event == "start" {
            own.version = Some(env!("CARGO_PKG_VERSION"));
        }
        if let TailState::Torn(torn) = &tail.state {
            own.torn_bytes = Some(torn.len() as u64);
            own.torn_sha256 = Some(Seal::Plain.hash(torn).to_string());
        }
        if self.head.is_none() {
            if tail.state == TailState::None {
                tail = sink::last_put_aside(path, &self.seal)?;
            }
            own.previous = Some(found(&tail));
            self.head = Some(tail.head.unwrap_or(Head::NONE));
        }
        self.file = Some(file);
        let says = self.opening.is_some() || own.torn_bytes.is_some();
        Ok(says.then_some(own))
    }

    fn stop(&mut self) {
        self.count_repeats(true);
        self.retry = Instant::now();
        self.write_due();
        self.answer(false);
        let head = self.head.unwrap_or(Head::NONE);
        let (mut next, own) = (head, [Own { event: "stop", ..Own::default() }]);
        let bytes = self.lines(&mut next, &own);
        if let Some(file) = &mut self.file {
            match file.append(&bytes, head.seq + 1) {
                Ok(()) => self.head = Some(next),
                Err(error) => tracing::error!(%error, "the end of the audit log could not be written"),
            }
        }
        let lost = self.due.len() + self.state.lost.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::error!(lost, "events were lost: the audit log could not be written up to the end");
        }
        self.anchor("the audit log is closed");
    }

    /// Tells pgward's own log how far the chain has come. A copy of that elsewhere shows when lines are missing
    /// at the end.
    fn anchor(&mut self, what: &'static str) {
        let Some(head) = self.head else { return };
        if self.anchored.1 != head.seq {
            tracing::info!(anchor = %head, "{what}");
        }
        self.anchored = (Instant::now(), head.seq);
    }
}

/// How the line ahead of the first one was found.
fn found(tail: &Tail) -> &'static str {
    match tail.state {
        TailState::None => "none",
        TailState::Verified => "verified",
        TailState::Unverified => "unverified",
        TailState::Torn(_) => "torn",
        TailState::Unreadable => "unreadable",
    }
}
