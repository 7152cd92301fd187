//! Which answers a backend still owes, message by message.
//!
//! Needed for three things: to know when a transaction is over, to keep messages that pgward added from
//! the client, and to place answers that pgward gives itself between those of the server.

use std::collections::VecDeque;

use super::backend::Transaction;

/// A statement as backends know it: the number in its name.
pub type StatementId = u64;

/// One answer owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// ReadyForQuery after a Query.
    Query,
    /// ReadyForQuery after a Sync.
    Sync,
    /// ParseComplete. `statement` where it makes a statement known to the backend.
    Parse {
        statement: Option<StatementId>,
        hidden: bool,
    },
    /// BindComplete. `statement` where it is one that backends know by number.
    Bind {
        statement: Option<StatementId>,
    },
    Close {
        hidden: bool,
    },
    /// `t` and then `T` or `n`, or only the latter for a portal.
    Describe(Described),
    /// CommandComplete, EmptyQueryResponse or PortalSuspended, after any number of rows.
    Execute,
    /// An answer that pgward gives in the backend's stead, once it is its turn.
    Own(Own),
    /// No answer: CopyDone or CopyFail went out before it was known whether there is a COPY. Never first.
    CopyEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    ParseComplete,
    CloseComplete,
}

impl Own {
    pub const fn message(self) -> &'static [u8] {
        match self {
            Self::ParseComplete => b"1\0\0\0\x04",
            Self::CloseComplete => b"3\0\0\0\x04",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Described {
    Portal,
    /// One that backends know by number, or the unnamed one, or none.
    Statement(Option<StatementId>),
    /// The same, for pgward's own eyes.
    Hidden,
}

/// What to do with a server message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Forward,
    Hide,
    /// Forward; the transaction state is as given, and nothing is owed any more.
    Settled(Transaction),
    /// Not an answer to anything that was asked: the stream is out of step.
    Unexpected,
}

/// What an error kept from being done, where it is of lasting consequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// `asked`: by the client itself.
    Parse { statement: Option<StatementId>, asked: bool },
    /// A statement that pgward wanted to close is still there.
    Close,
    /// A statement's description.
    Describe,
}

#[derive(Debug, Default)]
pub struct Flow {
    owed: VecDeque<Owed>,
    /// Extended messages went out behind the last Sync: the server waits for another one.
    unsynced: bool,
    /// An extended message failed: the server answers nothing before the next Sync, which has not been
    /// sent yet.
    skipping: bool,
    copy: Copy,
    /// Copy data went out since nothing was owed.
    data: bool,
    /// And no end of it yet.
    data_open: bool,
    /// A request went out behind such data: a Sync, which the server ignores, or another, for which it closes
    /// the connection, unless it has found fault with the data by then.
    request_behind_data: bool,
    /// The error to come is the answer to CopyFail.
    refused: bool,
    /// Such a request may have been answered, so nobody knows which answer is to what.
    unsure: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Copy {
    #[default]
    No,
    /// The server reads CopyData and ignores Sync (CopyGetData in copyfromparse.c).
    In,
    /// CopyDone or CopyFail went out.
    Ended,
}

impl Flow {
    pub fn push(&mut self, owed: Owed) {
        // An end that was sent before the COPY began may be another's.
        let behind_data = self.data_open || (self.data && self.copy == Copy::In);
        self.request_behind_data |= behind_data && !matches!(owed, Owed::Own(_) | Owed::CopyEnd);
        if owed == Owed::Sync && self.copy == Copy::In {
            return;
        }
        self.skipping &= owed != Owed::Sync;
        self.unsynced = self.skipping || !matches!(owed, Owed::Sync | Owed::Query);
        self.owed.push_back(owed);
    }

    /// What was pushed last will be skipped by the server: it goes to [`Flow::skip`].
    pub fn skipping(&self) -> bool {
        self.skipping
    }

    /// The client sent copy data.
    pub fn copy_data(&mut self) {
        (self.data, self.data_open) = (true, true);
    }

    /// The client ended its COPY; a Sync counts again.
    pub fn copy_ended(&mut self) {
        self.data_open = false;
        if self.copy == Copy::In {
            self.copy = Copy::Ended;
        } else if !self.owed.is_empty() {
            self.owed.push_back(Owed::CopyEnd);
        }
    }

    /// The server is reading copy data.
    pub fn in_copy(&self) -> bool {
        self.copy != Copy::No
    }

    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    pub fn unsynced(&self) -> bool {
        self.unsynced
    }

    /// The statements that will be known to the backend once all is answered.
    pub fn statements(&self) -> impl Iterator<Item = StatementId> {
        self.owed.iter().filter_map(|owed| match owed {
            Owed::Parse { statement, .. } => *statement,
            _ => None,
        })
    }

    /// The statement that the next answer is about.
    pub fn statement_in_turn(&self) -> Option<StatementId> {
        match self.owed.front() {
            Some(
                Owed::Parse { statement, .. }
                | Owed::Bind { statement }
                | Owed::Describe(Described::Statement(statement)),
            ) => *statement,
            _ => None,
        }
    }

    /// What the next description is of.
    pub fn describes(&self) -> Option<Described> {
        match self.owed.front() {
            Some(Owed::Describe(described)) => Some(*described),
            _ => None,
        }
    }

    /// An answer of pgward's own whose turn it is.
    pub fn next_own(&mut self) -> Option<Own> {
        match self.owed.front() {
            Some(Owed::Own(own)) => {
                let own = *own;
                self.pop();
                Some(own)
            }
            _ => None,
        }
    }

    /// Takes a server message (`body` whole for `Z`; it may be cut short for others).
    #[inline]
    pub fn take(&mut self, tag: u8, body: &[u8]) -> Fate {
        match tag {
            b'D' | b'd' | b'c' | b'N' | b'S' | b'A' | b'V' => Fate::Forward,
            b't' => hide(self.describes() == Some(Described::Hidden)),
            b'Z' => self.ready(body),
            b'C' | b'I' | b's' => {
                self.copy = Copy::No;
                self.pop_if(|owed| matches!(owed, Owed::Execute));
                Fate::Forward
            }
            b'T' | b'n' => {
                let described = self.describes();
                if described.is_some() {
                    self.pop();
                }
                hide(described == Some(Described::Hidden))
            }
            b'1' => match self.pop() {
                Some(Owed::Parse { hidden, .. }) => hide(hidden),
                _ => Fate::Unexpected,
            },
            b'2' => match self.pop() {
                Some(Owed::Bind { .. }) => Fate::Forward,
                _ => Fate::Unexpected,
            },
            b'3' => match self.pop() {
                Some(Owed::Close { hidden }) => hide(hidden),
                _ => Fate::Unexpected,
            },
            b'G' => {
                self.copy_in();
                Fate::Forward
            }
            b'H' => Fate::Forward,
            _ => Fate::Unexpected,
        }
    }

    /// An ErrorResponse: the server ends the Query or, within an extended batch, skips to the next Sync.
    /// Calls `lost` for what was skipped, in order.
    pub fn error(&mut self, lost: impl FnMut(Lost)) {
        // Found in the data, it came before the request perhaps, which is answered then.
        let by_data = !std::mem::take(&mut self.refused);
        self.unsure |= by_data && self.copy != Copy::No && self.request_behind_data;
        self.copy = Copy::No;
        match self.owed.front() {
            Some(Owed::Query | Owed::Sync) => {}
            None if !self.unsynced => {}
            _ => self.skip(lost),
        }
    }

    /// The error to come is the answer to CopyFail: all before that was read as part of the COPY.
    pub fn copy_refused(&mut self) {
        self.refused = self.copy == Copy::Ended;
    }

    /// Forgets what the server skips: everything before the next Sync, a Query too (ignore_till_sync in
    /// postgres.c).
    pub fn skip(&mut self, mut lost: impl FnMut(Lost)) {
        while let Some(owed) = self.owed.front() {
            match owed {
                Owed::Sync => return,
                Owed::Parse { statement, hidden } => lost(Lost::Parse { statement: *statement, asked: !hidden }),
                Owed::Own(Own::ParseComplete) => lost(Lost::Parse { statement: None, asked: true }),
                Owed::Close { hidden: true } => lost(Lost::Close),
                Owed::Describe(Described::Statement(_) | Described::Hidden) => lost(Lost::Describe),
                Owed::Query
                | Owed::Bind { .. }
                | Owed::Close { hidden: false }
                | Owed::Describe(Described::Portal)
                | Owed::Execute
                | Owed::CopyEnd
                | Owed::Own(Own::CloseComplete) => {}
            }
            self.owed.pop_front();
        }
        self.skipping = true;
        self.unsynced = true;
    }

    #[inline]
    fn pop(&mut self) -> Option<Owed> {
        let first = self.owed.pop_front();
        while self.owed.front() == Some(&Owed::CopyEnd) {
            self.owed.pop_front();
        }
        first
    }

    fn pop_if(&mut self, wanted: impl Fn(Owed) -> bool) {
        if self.owed.front().is_some_and(|owed| wanted(*owed)) {
            self.pop();
        }
    }

    fn ready(&mut self, body: &[u8]) -> Fate {
        let Some(transaction) = Transaction::read(body) else { return Fate::Unexpected };
        match self.pop() {
            Some(Owed::Sync | Owed::Query) => {
                self.copy = Copy::No;
                if !self.owed.is_empty() {
                    return Fate::Forward;
                }
                (self.data, self.data_open, self.request_behind_data) = (false, false, false);
                // More may be to come, and it would be taken for an answer to whoever has the backend then.
                if self.unsure { Fate::Unexpected } else { Fate::Settled(transaction) }
            }
            _ => Fate::Unexpected,
        }
    }

    /// A COPY FROM STDIN begins. Syncs that were sent right behind its Execute or Query are ignored by
    /// the server; anything else there that is no copy data fails the COPY. What pgward answers itself the
    /// server has not seen.
    fn copy_in(&mut self) {
        self.copy = Copy::In;
        let mut at = 1;
        while self.copy == Copy::In {
            match self.owed.get(at) {
                Some(Owed::Own(_)) => {
                    at += 1;
                    continue;
                }
                Some(Owed::Sync) => {}
                Some(Owed::CopyEnd) => self.copy = Copy::Ended,
                _ => break,
            }
            self.owed.remove(at);
        }
        self.unsynced = !matches!(self.owed.back(), Some(Owed::Query | Owed::Sync));
    }
}

fn hide(hidden: bool) -> Fate {
    if hidden { Fate::Hide } else { Fate::Forward }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(owed: &[Owed]) -> Flow {
        let mut flow = Flow::default();
        owed.iter().for_each(|owed| flow.push(*owed));
        flow
    }

    const PARSE: Owed = Owed::Parse { statement: None, hidden: false };

    #[test]
    fn an_extended_batch_settles_at_its_ready() {
        let mut flow = flow(&[
            PARSE,
            Owed::Bind { statement: None },
            Owed::Describe(Described::Portal),
            Owed::Execute,
            Owed::Sync,
        ]);
        for (tag, body) in [(b'1', &b""[..]), (b'2', b""), (b'T', b""), (b'D', b""), (b'C', b"SELECT 1\0")] {
            assert_eq!(flow.take(tag, body), Fate::Forward);
        }
        assert_eq!(flow.take(b'Z', b"I"), Fate::Settled(Transaction::Idle));
        assert!(flow.is_empty());
    }

    #[test]
    fn a_query_of_several_statements_settles_once() {
        let mut flow = flow(&[Owed::Query]);
        for tag in [b'T', b'D', b'C', b'T', b'C'] {
            assert_eq!(flow.take(tag, b""), Fate::Forward);
        }
        assert_eq!(flow.take(b'Z', b"T"), Fate::Settled(Transaction::Open));
    }

    #[test]
    fn an_error_skips_to_the_sync_and_names_the_statements_lost() {
        let injected = Owed::Parse { statement: Some(7), hidden: true };
        let mut flow = flow(&[
            injected,
            Owed::Bind { statement: None },
            Owed::Own(Own::ParseComplete),
            Owed::Execute,
            Owed::Sync,
            Owed::Query,
        ]);
        let mut lost = Vec::new();
        flow.error(|statement| lost.push(statement));
        let expected = [Lost::Parse { statement: Some(7), asked: false }, Lost::Parse { statement: None, asked: true }];
        assert_eq!(lost, expected);
        assert_eq!(flow.take(b'Z', b"I"), Fate::Forward, "the query is still owed");
        assert_eq!(flow.take(b'Z', b"I"), Fate::Settled(Transaction::Idle));
    }

    #[test]
    fn an_error_skips_what_is_sent_later_and_a_query_too() {
        let mut flow = flow(&[PARSE]);
        flow.error(|_| {});
        assert!(flow.skipping() && flow.unsynced() && flow.is_empty());
        let mut lost = Vec::new();
        for owed in [Owed::Bind { statement: None }, PARSE, Owed::Query, Owed::Close { hidden: true }] {
            flow.push(owed);
            assert!(flow.skipping() && flow.unsynced(), "{owed:?}");
            flow.skip(|what| lost.push(what));
        }
        assert_eq!(lost, [Lost::Parse { statement: None, asked: true }, Lost::Close]);
        flow.push(Owed::Sync);
        assert!(!flow.skipping() && !flow.unsynced());
        assert_eq!(flow.take(b'Z', b"I"), Fate::Settled(Transaction::Idle));
        flow.push(Owed::Query);
        flow.error(|_| {});
        assert!(!flow.skipping(), "a Query's own error skips nothing");
    }

    #[test]
    fn hidden_answers_and_own_answers_keep_their_places() {
        let mut flow = flow(&[
            Owed::Parse { statement: Some(1), hidden: true },
            Owed::Own(Own::ParseComplete),
            Owed::Bind { statement: None },
        ]);
        assert_eq!(flow.next_own(), None, "not its turn");
        assert_eq!(flow.take(b'1', b""), Fate::Hide);
        assert_eq!(flow.next_own(), Some(Own::ParseComplete));
        assert_eq!(flow.take(b'2', b""), Fate::Forward);
        assert!(flow.is_empty());
    }

    #[test]
    fn a_sync_sent_before_copy_data_is_not_answered() {
        let mut flow = flow(&[Owed::Bind { statement: None }, Owed::Execute, Owed::Sync]);
        flow.take(b'2', b"");
        flow.take(b'G', b"");
        flow.push(Owed::Sync);
        flow.copy_ended();
        flow.push(Owed::Sync);
        assert_eq!(flow.take(b'C', b"COPY 1\0"), Fate::Forward);
        assert_eq!(flow.take(b'Z', b"I"), Fate::Settled(Transaction::Idle));
    }

    #[test]
    fn a_sync_behind_an_answer_of_pgwards_own_was_waited_for_in_vain_during_a_copy() {
        let mut flow = flow(&[Owed::Execute, Owed::Own(Own::ParseComplete), Owed::Sync]);
        flow.take(b'G', b"");
        flow.copy_ended();
        flow.push(Owed::Sync);
        assert_eq!(flow.take(b'C', b"COPY 1\0"), Fate::Forward);
        assert_eq!(flow.next_own(), Some(Own::ParseComplete));
        assert_eq!(flow.take(b'Z', b"I"), Fate::Settled(Transaction::Idle));
    }

    #[test]
    fn a_copy_sent_all_at_once_is_followed() {
        for first in [Owed::Execute, Owed::Query] {
            let mut flow = flow(&[first, Owed::Sync]);
            flow.copy_ended();
            flow.push(Owed::Sync);
            assert_eq!(flow.take(b'G', b""), Fate::Forward);
            flow.take(b'C', b"COPY 1\0");
            if first == Owed::Query {
                assert_eq!(flow.take(b'Z', b"I"), Fate::Forward);
            }
            assert_eq!(flow.take(b'Z', b"I"), Fate::Settled(Transaction::Idle), "{first:?}");
        }
        let mut no_copy = flow(&[Owed::Query]);
        no_copy.copy_ended();
        assert_eq!(no_copy.take(b'Z', b"I"), Fate::Settled(Transaction::Idle));
    }

    #[test]
    fn a_backend_was_given_back_too_early_when_a_sync_came_before_the_error_of_a_copy() {
        let failed = || {
            let mut flow = flow(&[Owed::Execute]);
            flow.take(b'G', b"");
            // Behind bad data, so that the server answers it, and behind it the COPY's end and a query.
            flow.copy_data();
            flow.push(Owed::Sync);
            flow.copy_ended();
            flow.push(Owed::Sync);
            flow
        };
        let mut by_data = failed();
        by_data.push(Owed::Query);
        by_data.error(|_| {});
        assert_eq!(by_data.take(b'Z', b"I"), Fate::Forward);
        assert_eq!(by_data.take(b'Z', b"I"), Fate::Unexpected, "the query's answers are to come");
        let mut by_the_client = failed();
        by_the_client.copy_refused();
        by_the_client.error(|_| {});
        assert_eq!(by_the_client.take(b'Z', b"I"), Fate::Settled(Transaction::Idle));
        // As drivers do it: a Sync with the Execute, and another behind the COPY's end.
        let mut usual = flow(&[Owed::Execute, Owed::Sync]);
        usual.take(b'G', b"");
        usual.copy_data();
        usual.copy_ended();
        usual.push(Owed::Sync);
        usual.error(|_| {});
        assert_eq!(usual.take(b'Z', b"I"), Fate::Settled(Transaction::Idle));
    }

    #[test]
    fn an_answer_nobody_asked_for_is_noticed() {
        assert_eq!(Flow::default().take(b'Z', b"I"), Fate::Unexpected);
        assert_eq!(flow(&[Owed::Query]).take(b'1', b""), Fate::Unexpected);
        assert_eq!(flow(&[Owed::Sync]).take(b'Z', b"?"), Fate::Unexpected);
    }
}
