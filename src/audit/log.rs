//! The handle that the rest of the house has: events go in by value, and nobody waits but who asks to.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::event::Event;
use super::writer::{Order, Writer};
use crate::base::{NodeName, Region};
use crate::config::{Audit as Rules, OnFailure, Settings};
use crate::telemetry::Telemetry;

/// Statement texts that may wait to be written, in bytes.
const WAITING_TEXT: usize = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the audit log {} cannot be written", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the thread of the audit log could not be started")]
    Thread(#[source] std::io::Error),
}

/// What would have to be recorded cannot be, and so must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unrecordable;

/// Which pgward writes, and where it is, as far as its configuration says.
#[derive(Debug, Clone, Default)]
pub struct Here {
    pub node: Option<NodeName>,
    pub region: Option<Region>,
}

impl From<&Settings> for Here {
    fn from(settings: &Settings) -> Self {
        Self { node: settings.node.clone(), region: settings.region.clone() }
    }
}

/// An audit log, or none. Clones are the same log.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Running>>);

struct Running {
    queue: SyncSender<Order>,
    state: Arc<State>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What both sides of the queue look at.
pub(super) struct State {
    pub rules: ArcSwap<Rules>,
    pub here: Here,
    pub telemetry: Arc<Telemetry>,
    /// The last attempt to write failed.
    pub failing: AtomicBool,
    /// Events in the queue, and bytes of statement texts among them.
    pub waiting: AtomicUsize,
    pub waiting_text: AtomicUsize,
    /// Events that were not written and that no line tells of yet.
    pub lost: AtomicUsize,
}

impl State {
    fn refuses(&self) -> bool {
        self.rules.load().on_failure == OnFailure::Refuse
    }

    pub fn lose(&self, events: usize) {
        self.lost.fetch_add(events, Ordering::Relaxed);
        self.telemetry.count("pgward_audit_lost_total", &[], events as u64);
    }
}

impl Audit {
    /// Opens the log and starts its thread. Where failing means refusing, a log that cannot be written is an error.
    pub fn start(rules: Option<&Rules>, here: Here, telemetry: &Arc<Telemetry>) -> Result<Self, AuditError> {
        let Some(rules) = rules else { return Ok(Self(None)) };
        telemetry.begin("pgward_audit_lost_total");
        telemetry.gauge("pgward_audit_failing", &[], 0.0);
        let state = Arc::new(State {
            rules: ArcSwap::from_pointee(rules.clone()),
            here,
            telemetry: Arc::clone(telemetry),
            failing: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            waiting_text: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
        });
        let (queue, orders) = sync_channel(rules.buffer);
        let mut writer = Writer::new(Arc::clone(&state));
        if let Err(source) = writer.open() {
            if rules.on_failure == OnFailure::Refuse {
                return Err(AuditError::Write { path: rules.file.clone(), source });
            }
            writer.fail(&source);
        }
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let thread = thread.spawn(move || writer.run(&orders)).map_err(AuditError::Thread)?;
        Ok(Self(Some(Arc::new(Running { queue, state, thread: Mutex::new(Some(thread)) }))))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Rules that a reload brings. The file, its key and the size of the queue stay as they are.
    pub fn renew(&self, rules: &Rules) {
        if let Some(running) = &self.0 {
            running.state.rules.store(Arc::new(rules.clone()));
        }
    }

    /// Records what has happened. It is not called where there is no log, and never blocks: with no room for
    /// it, the event is lost and counted.
    pub fn record(&self, event: impl FnOnce() -> Event) {
        if let Some(running) = &self.0 {
            let event = event();
            // A flood leaves half of the queue to others.
            let crowded = event.culprit().is_some()
                && running.state.waiting.load(Ordering::Relaxed) > running.state.rules.load().buffer / 2;
            if crowded || running.send(event, None).is_err() {
                running.state.lose(1);
            }
        }
    }

    /// Records what is about to happen. Where failing means refusing, it is on the disk when this is `Ok`.
    pub async fn admit(&self, event: impl FnOnce() -> Event) -> Result<(), Unrecordable> {
        let Some(running) = &self.0 else { return Ok(()) };
        if !running.state.refuses() {
            self.record(event);
            return Ok(());
        }
        if running.state.failing.load(Ordering::Relaxed) {
            return Err(Unrecordable);
        }
        let (done, written) = oneshot::channel();
        running.send(event(), Some(done))?;
        if written.await == Ok(true) { Ok(()) } else { Err(Unrecordable) }
    }

    /// Records what happens in a session. Not waited for, so a crash may take the last of them along.
    pub fn keep(&self, event: impl FnOnce() -> Event) -> Result<(), Unrecordable> {
        let Some(running) = &self.0 else { return Ok(()) };
        let refuses = running.state.refuses();
        if refuses && running.state.failing.load(Ordering::Relaxed) {
            return Err(Unrecordable);
        }
        match running.send(event(), None) {
            Err(unrecordable) if refuses => Err(unrecordable),
            Err(_) => {
                running.state.lose(1);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Writes what waits, and ends. What is recorded afterwards is lost.
    pub async fn stop(&self) {
        let Some(running) = self.0.clone() else { return };
        // The queue may be full, and the disk slow.
        let ended = tokio::task::spawn_blocking(move || {
            let thread = running.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread
                && running.queue.send(Order::Stop).is_ok()
            {
                let _ = thread.join();
            }
        });
        let _ = ended.await;
    }
}

impl Running {
    fn send(&self, event: Event, done: Option<oneshot::Sender<bool>>) -> Result<(), Unrecordable> {
        let weight = event.weight();
        let state = &self.state;
        if weight > 0 && state.waiting_text.fetch_add(weight, Ordering::Relaxed) + weight > WAITING_TEXT {
            state.waiting_text.fetch_sub(weight, Ordering::Relaxed);
            return Err(Unrecordable);
        }
        // Before it is sent: the other side takes it off.
        state.waiting.fetch_add(1, Ordering::Relaxed);
        self.queue.try_send(Order::Event { at: SystemTime::now(), event, done }).map_err(|_| {
            state.waiting.fetch_sub(1, Ordering::Relaxed);
            state.waiting_text.fetch_sub(weight, Ordering::Relaxed);
            Unrecordable
        })
    }
}
