//! A read that a replica cannot do is done by the primary, and the client notices nothing.
//!
//! As long as nothing of an answer has gone to the client, what was asked for can be asked again: it only reads, or so it
//! looked; where it did not, the replica has refused it. What comes before rows and the end of a command is held back for
//! so long, which takes no time, since PostgreSQL sends it together with what comes next.

use std::time::Duration;

use super::link::Link;
use super::relay::Relay;
use super::serve::{Need, Session};
use crate::backend;
use crate::telemetry::add;
use crate::wire::backend::{self as answer, Transaction};
use crate::wire::flow::Own;
use crate::wire::frontend::Parse;
use crate::wire::{Header, Origin, frame};

/// A longer batch is not kept.
const LONGEST: usize = 16 * 1024;

/// Statements of a batch that are remembered if it is refused.
const SHAPES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stage {
    /// What the server answers goes to the client.
    #[default]
    Off,
    /// Nothing has gone to the client yet.
    On,
    /// The server has refused it; once it has come to rest, it is asked for elsewhere.
    Again,
}

/// How a session comes to be without its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// The connection is gone.
    Lost,
    /// The server said that it ends it.
    Told,
    /// The server has been silent for too long.
    Down,
}

/// What has run for longer, and is ended by the server or ends it, is not the primary's to repeat: it may be what was ended on
/// purpose, or what the server did not survive.
const SHORT: Duration = Duration::from_secs(1);

/// More than this is not held back.
const HELD: usize = 16 * 1024;

/// What a replica is being asked, and what it has answered so far.
#[derive(Default)]
pub(super) struct Trial {
    batch: Vec<u8>,
    held: Vec<u8>,
    /// How much of the batch has been sent.
    sent: usize,
    shapes: [u128; SHAPES],
    count: usize,
}

impl Trial {
    pub fn forget(&mut self) {
        self.count = 0;
    }

    /// An answer of pgward's own is held back too.
    pub fn hold_own(&mut self, own: Own) {
        self.held.extend_from_slice(own.message());
    }

    /// A text of the batch has this shape.
    pub fn note_shape(&mut self, key: u128) {
        if let Some(place) = self.shapes.get_mut(self.count) {
            *place = key;
            self.count += 1;
        }
    }
}

impl Session {
    /// A read is to be sent to a replica. `batch`: all of it, where it can be sent again.
    pub(super) fn begin_trial(&mut self, batch: Option<&[u8]>) {
        let Some(reading) = self.reading.as_mut() else { return };
        let batch = batch.filter(|batch| batch.len() <= LONGEST).unwrap_or_default();
        let trial = &mut reading.trial;
        for buffer in [&mut trial.batch, &mut trial.held] {
            if buffer.capacity() == 0 && !batch.is_empty() {
                *buffer = self.core.take_replay_buffer();
            }
            buffer.clear();
        }
        trial.batch.extend_from_slice(batch);
        trial.sent = 0;
    }

    /// A message of the batch has been sent.
    pub(super) fn note_sent(&mut self, length: usize) {
        self.reading.iter_mut().for_each(|reading| reading.trial.sent += length);
    }

    /// Whether what is sent to a replica now is being tried.
    pub(super) fn trial_stage(&self, replica: bool) -> Stage {
        let kept = self.reading.as_ref().is_some_and(|reading| !reading.trial.batch.is_empty());
        if replica && kept { Stage::On } else { Stage::Off }
    }

    /// A message for the client, which is held back while others may yet take its place. `false`: it is to be passed on.
    pub(super) fn hold(&mut self, tag: u8, here: usize, whole: bool, relay: &mut Relay<'_>) -> bool {
        let preliminary = whole && matches!(tag, b'1' | b'2' | b'3' | b'T' | b't' | b'n' | b'N' | b'S');
        if preliminary
            && let Some(reading) = self.reading.as_mut()
            && reading.trial.held.len() + here <= HELD
        {
            reading.trial.held.extend_from_slice(relay.rest().get(..here).unwrap_or_default());
            relay.skip(here);
            return true;
        }
        self.end_trial(relay);
        false
    }

    /// The client gets what was held back, and what comes from now on.
    pub(super) fn end_trial(&mut self, relay: &mut Relay<'_>) {
        let Some(link) = self.link.as_mut().filter(|link| link.trial == Stage::On) else { return };
        link.trial = Stage::Off;
        if let Some(reading) = self.reading.as_mut() {
            relay.own().extend_from_slice(&reading.trial.held);
        }
        self.forget_trial();
    }

    pub(super) fn forget_trial(&mut self) {
        let Some(trial) = self.reading.as_mut().map(|reading| &mut reading.trial) else { return };
        let (batch, held) = (std::mem::take(&mut trial.batch), std::mem::take(&mut trial.held));
        self.core.give_replay_buffer(batch);
        self.core.give_replay_buffer(held);
    }

    /// Whether what a replica refused with this error is to be tried elsewhere once the replica has come to rest.
    pub(super) fn tries_elsewhere(&mut self, body: &[u8]) -> bool {
        let Some(why) = answer::sqlstate(body).as_ref().and_then(Refusal::of) else { return false };
        let Some(reading) = &self.reading else { return false };
        let astray = self.is_astray();
        let Some(link) = self.link.as_mut().filter(|_| astray) else { return false };
        // Of several statements nobody knows which it was.
        if why == Refusal::NotThere && link.transaction == Transaction::Idle && reading.trial.count == 1 {
            let key = reading.trial.shapes.first().copied().unwrap_or_default();
            self.core.refused.borrow_mut().add(key, self.local.pool.id());
        }
        let short = why == Refusal::NotThere || link.since.elapsed() < SHORT;
        let whole = reading.trial.sent == reading.trial.batch.len();
        if link.trial != Stage::On || !whole || !short {
            return false;
        }
        link.trial = Stage::Again;
        true
    }

    /// The replica has come to rest, or is gone: what it was sent is the next thing that the client has sent.
    pub(super) fn ask_elsewhere(&mut self) {
        let Some(reading) = self.reading.as_mut() else { return };
        add(&self.core.stats.replica_retries, 1);
        reading.returned = true;
        if let Some(link) = self.link.as_mut() {
            link.trial = Stage::Off;
        }
        let batch = std::mem::take(&mut reading.trial.batch);
        let sent = batch.get(..reading.trial.sent).unwrap_or_default();
        self.forget_names(sent);
        self.inbox.splice(0..0, sent.iter().copied());
        self.core.give_replay_buffer(batch);
        self.forget_trial();
        self.replayed = self.replayed.saturating_add(1);
        self.need = Need::Answers;
    }

    /// The replica is gone, or as good as gone. `true`: what it was asked is asked elsewhere.
    pub(super) fn leave_replica(&mut self, leaving: Leaving) -> bool {
        let Some(link) = self.link.as_ref() else { return false };
        let Some(server) = link.lease.replica() else { return false };
        match leaving {
            Leaving::Lost => self.doubt(server),
            // What ends one session is of no concern to others.
            Leaving::Told | Leaving::Down => {}
        }
        let short = leaving == Leaving::Down || link.since.elapsed() < SHORT;
        if link.trial != Stage::On || !short {
            return false;
        }
        self.lose(|flow, lost| flow.error(lost));
        let Some(link) = self.link.take(&self.core.links) else { return false };
        self.key.slot.clear();
        self.entry.backend.set(None);
        let Link { mut lease, mut replay, .. } = link;
        self.core.give_replay_buffer(replay.take_buffer());
        tokio::task::spawn_local(async move {
            backend::dispose(&mut lease.conn.backend, &lease.conn.cancel).await;
        });
        self.ask_elsewhere();
        true
    }

    /// Names that the batch gave are free again.
    fn forget_names(&mut self, mut batch: &[u8]) {
        while let Ok(Some(header)) = Header::read(batch, Origin::Client) {
            let body = batch.get(frame::HEADER..header.total).unwrap_or_default();
            if header.tag == b'P'
                && let Some(parse) = Parse::read(body).filter(|parse| !parse.name.is_empty())
            {
                self.names.close(parse.name);
            }
            batch = batch.get(header.total..).unwrap_or_default();
        }
    }
}

/// Why a replica does not run what the primary would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It cannot: writing, locks, unlogged tables, serializable transactions.
    NotThere,
    /// Replaying the log is in the way.
    Conflict,
}

impl Refusal {
    fn of(state: &[u8; 5]) -> Option<Self> {
        match state {
            b"25006" | b"55000" | b"0A000" => Some(Self::NotThere),
            b"40001" | b"40P01" => Some(Self::Conflict),
            _ => None,
        }
    }
}
