//! A plan that a changed table has outdated heals by itself: what met it is sent once more, behind a fresh
//! preparation, and the client notices nothing.
//!
//! That can be done where nothing has happened yet: the Bind that the server refused is the first message of
//! a batch outside of a transaction. And only for a client that does not go by an older description of
//! the rows; any other must hear of it (0A000), as it would misread what comes.

use super::link::Link;
use super::serve::{Need, Session};
use crate::wire::flow::StatementId;

/// A longer batch is not kept.
const LONGEST: usize = 16 * 1024;

/// The statement that takes an outdated one's place may be outdated too, where the backend got to know it
/// earlier. After so many times in a row the client hears of it.
const TIMES: u8 = 3;

/// The client's batch under way, as it came.
#[derive(Debug, Default)]
pub(super) struct Replay {
    bytes: Vec<u8>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Off,
    /// Its Sync has not come yet.
    Open(StatementId),
    Whole(StatementId),
    /// The server refused its plan; once it has come to rest, the batch is sent again.
    Again,
}

impl Replay {
    pub fn is_on(&self) -> bool {
        self.state != State::Off
    }

    pub fn take_buffer(&mut self) -> Vec<u8> {
        self.state = State::Off;
        std::mem::take(&mut self.bytes)
    }

    /// The server is to come to rest before anything else goes out.
    pub fn awaits_rest(&self) -> bool {
        self.state == State::Again
    }

    /// A message has gone out. `bytes`: all of it.
    pub fn sent(&mut self, tag: u8, bytes: Option<&[u8]>) {
        let State::Open(statement) = self.state else {
            // Another batch is on its way: the answers could not be told apart any more.
            self.state = State::Off;
            return;
        };
        match bytes {
            Some(bytes) if self.bytes.len() + bytes.len() <= LONGEST && matches!(tag, b'B' | b'D' | b'E' | b'S') => {
                self.bytes.extend_from_slice(bytes);
                if tag == b'S' {
                    self.state = State::Whole(statement);
                }
            }
            _ => self.state = State::Off,
        }
    }
}

impl Link {
    /// The server has begun to answer: what it did cannot be taken back.
    pub fn no_replay(&mut self) {
        if self.replay.state != State::Again {
            self.replay.state = State::Off;
        }
    }
}

impl Session {
    /// A Bind of a statement that the backend knows begins a batch.
    pub(super) fn begin_replay(&mut self, statement: StatementId) {
        if self.replayed >= TIMES {
            return;
        }
        let Some(link) = self.link.as_mut() else { return };
        if link.replay.bytes.capacity() == 0 {
            link.replay.bytes = self.core.take_replay_buffer();
        }
        link.replay.bytes.clear();
        link.replay.state = State::Open(statement);
    }

    /// Whether the batch whose plan was refused will be sent again.
    pub(super) fn replays(&mut self) -> bool {
        let Some(link) = self.link.as_mut() else { return false };
        let flow = &link.lease.conn.backend.flow;
        let State::Whole(statement) = link.replay.state else { return false };
        if flow.statement_in_turn() != Some(statement) {
            return false;
        }
        link.replay.state = State::Again;
        true
    }

    /// The server is at rest: the batch is the next thing that the client has sent.
    pub(super) fn replay(&mut self) {
        let Some(link) = self.link.as_mut() else { return };
        if std::mem::take(&mut link.replay.state) == State::Again {
            self.inbox.splice(0..0, link.replay.bytes.iter().copied());
            self.replayed = self.replayed.saturating_add(1);
            self.need = Need::Answers;
        }
    }
}
