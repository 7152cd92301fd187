//! The answers owed by a backend, beside a server that reads the same messages at a time of its own.
//!
//! The model follows postgres.c and copyfromparse.c: after an error in an extended message it ignores all up
//! to the next Sync, within COPY FROM STDIN it ignores Sync, and outside of one it ignores copy data.
//!
//! What becomes of a request behind copy data and before their end hangs on whether the server has found fault
//! with the data by then. Where that is so the stream may turn out to be unexpected, but a backend is never settled too early.

use std::collections::{BTreeMap, VecDeque};

use pgward::wire::backend::Transaction;
use pgward::wire::flow::{Described, Fate, Flow, Lost, Owed, Own, StatementId};

use super::Target;
use crate::input::Input;

pub const TARGET: Target =
    Target { name: "flow", check, words: &["\0\0\0", "\u{3}\u{3}", "\u{4}\u{1}\u{5}"], rounds: 300_000, longest: 300 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Owed(Owed),
    CopyData,
    CopyEnd,
}

#[derive(Debug)]
struct Reply {
    tag: u8,
    body: &'static [u8],
    hidden: bool,
}

/// A COPY FROM STDIN under way, and how many more results its Query has.
#[derive(Debug, Clone, Copy)]
enum Copying {
    Simple(usize),
    Extended,
}

#[derive(Default)]
struct Server {
    unread: VecDeque<Ask>,
    replies: VecDeque<Reply>,
    copy: Option<Copying>,
    skipping: bool,
    /// It lost track of the stream and closed the connection (pq_startmsgread in pqcomm.c).
    gone: bool,
}

impl Server {
    fn reply(&mut self, tag: u8, body: &'static [u8], hidden: bool) {
        self.replies.push_back(Reply { tag, body, hidden });
    }

    fn plain(&mut self, tags: &[u8]) {
        tags.iter().for_each(|tag| self.reply(*tag, b"", false));
    }

    fn ready(&mut self, input: &mut Input<'_>) {
        let states: [&[u8]; 3] = [b"I", b"T", b"E"];
        self.reply(b'Z', states[input.below(3)], false);
    }

    fn fail(&mut self) {
        self.plain(b"E");
        self.skipping = true;
    }

    /// A COPY's error, by the function that raised it.
    fn fail_copy(&mut self, copy: Copying, routine: &'static [u8], input: &mut Input<'_>) {
        self.reply(b'E', routine, false);
        match copy {
            Copying::Extended => self.skipping = true,
            Copying::Simple(_) => self.ready(input),
        }
    }

    /// Reads one message.
    fn step(&mut self, input: &mut Input<'_>) {
        let Some(ask) = self.unread.pop_front() else { return };
        if input.below(16) == 1 {
            self.plain(&[b"NSA"[input.below(3)]]);
        }
        if let Some(copy) = self.copy {
            return self.within_copy(ask, copy, input);
        }
        let Ask::Owed(owed) = ask else { return };
        match owed {
            Owed::Sync => {
                self.skipping = false;
                self.ready(input);
            }
            _ if self.skipping => {}
            Owed::Query => {
                let results = input.below(4);
                self.results(results, input);
            }
            _ if input.below(8) == 1 => self.fail(),
            Owed::Parse { hidden, .. } => self.reply(b'1', b"", hidden),
            Owed::Bind { .. } => self.plain(b"2"),
            Owed::Close { hidden } => self.reply(b'3', b"", hidden),
            Owed::Describe(described) => {
                let hidden = described == Described::Hidden;
                if described != Described::Portal {
                    self.reply(b't', b"\0\0", hidden);
                }
                self.reply(b"Tn"[input.below(2)], b"", hidden);
            }
            Owed::Execute => match input.below(8) {
                0 => {
                    self.plain(b"G");
                    self.copy = Some(Copying::Extended);
                }
                1 => self.plain(b"HddcC"),
                2 => self.plain(b"I"),
                3 => self.plain(b"Ds"),
                _ => self.plain(b"DDC"),
            },
            Owed::Own(_) | Owed::CopyEnd => unreachable!("it is not sent"),
        }
    }

    /// The results of a Query that are still to come, and its end.
    fn results(&mut self, mut more: usize, input: &mut Input<'_>) {
        while more > 0 {
            more -= 1;
            match input.below(6) {
                0 => {
                    self.plain(b"G");
                    self.copy = Some(Copying::Simple(more));
                    return;
                }
                1 => {
                    self.plain(b"E");
                    break;
                }
                2 => self.plain(b"HdcC"),
                3 => self.plain(b"I"),
                4 => self.plain(b"V"),
                _ => self.plain(b"TDC"),
            }
        }
        self.ready(input);
    }

    fn within_copy(&mut self, ask: Ask, copy: Copying, input: &mut Input<'_>) {
        let fault = match ask {
            Ask::CopyData if input.below(6) == 1 => Some(&b"NextCopyFrom"[..]),
            Ask::CopyEnd => [None, Some(&b"CopyGetData"[..]), None, Some(b"ExecConstraints")][input.below(4)],
            Ask::CopyData | Ask::Owed(Owed::Sync) => return,
            Ask::Owed(_) => {
                self.plain(b"E");
                self.gone = true;
                return;
            }
        };
        self.copy = None;
        match (fault, copy) {
            (Some(routine), copy) => self.fail_copy(copy, routine, input),
            (None, Copying::Extended) => self.plain(b"C"),
            (None, Copying::Simple(more)) => {
                self.plain(b"C");
                self.results(more, input);
            }
        }
    }

    fn has_more(&self) -> bool {
        !self.replies.is_empty() || !self.unread.is_empty()
    }

    fn will_answer(&self) -> bool {
        // Notices, settings and notifications come at any time.
        let answer = |reply: &Reply| !b"NSA".contains(&reply.tag);
        self.replies.iter().any(answer) || self.unread.iter().any(|ask| matches!(ask, Ask::Owed(_)))
    }
}

/// What became of a statement that backends are to know by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Asked,
    Yes,
    Lost,
}

#[derive(Default)]
struct Proxy {
    flow: Flow,
    server: Server,
    statements: BTreeMap<StatementId, Known>,
    own: usize,
    /// Copy data was sent, ever, and without an end yet.
    data: bool,
    open_data: bool,
    /// The server said that it reads copy data, and was sent no end since.
    copying: bool,
    /// A request was sent behind it, whose fate hangs on when the server finds fault with the data.
    doubtful: bool,
    /// The session was ended for an answer out of step.
    ended: bool,
    settled: Option<Transaction>,
}

impl Proxy {
    fn send(&mut self, ask: Ask) {
        match ask {
            Ask::CopyData | Ask::CopyEnd if self.flow.is_empty() => return,
            Ask::CopyData => {
                (self.data, self.open_data) = (true, true);
                self.flow.copy_data();
            }
            Ask::CopyEnd => {
                (self.open_data, self.copying) = (false, false);
                self.flow.copy_ended();
            }
            Ask::Owed(owed) => {
                let sent = !matches!(owed, Owed::Own(_));
                let late = owed == Owed::Sync && self.data && self.copying;
                self.doubtful |= sent && (self.open_data || late);
                if let Owed::Parse { statement: Some(id), .. } = owed {
                    self.statements.insert(id, Known::Asked);
                }
                self.settled = None;
                self.flow.push(owed);
                if self.flow.skipping() {
                    self.lose(|flow, lost| flow.skip(lost));
                }
            }
        }
        if matches!(ask, Ask::Owed(Owed::Own(_))) {
            self.give_own();
        } else {
            self.server.unread.push_back(ask);
        }
    }

    fn lose(&mut self, forget: impl FnOnce(&mut Flow, &mut dyn FnMut(Lost))) {
        let (statements, doubtful) = (&mut self.statements, self.doubtful);
        let mut lost = |lost| {
            if let Lost::Parse { statement: Some(id), .. } = lost {
                let before = statements.insert(id, Known::Lost);
                assert!(before == Some(Known::Asked) || doubtful, "statement {id}");
            }
        };
        forget(&mut self.flow, &mut lost);
    }

    fn give_own(&mut self) {
        while self.flow.next_own().is_some() {
            self.own += 1;
        }
    }

    /// Reads one message of the server's.
    fn receive(&mut self) {
        let Some(Reply { tag, body, hidden }) = self.server.replies.pop_front() else { return };
        self.copying = tag == b'G' || (self.copying && !b"CIsEZ".contains(&tag));
        if tag == b'E' {
            if body == b"CopyGetData" {
                self.flow.copy_refused();
            }
            self.lose(|flow, lost| flow.error(lost));
            return self.give_own();
        }
        if let Some(id) = self.flow.statement_in_turn().filter(|_| tag == b'1') {
            let before = self.statements.insert(id, Known::Yes);
            assert!(before == Some(Known::Asked) || self.doubtful, "statement {id}");
        }
        let fate = self.flow.take(tag, body);
        if fate == Fate::Unexpected && self.doubtful {
            self.ended = true;
            return;
        }
        assert_ne!(fate, Fate::Unexpected, "'{}' of a server that does as it should", char::from(tag));
        assert!(self.doubtful || (fate == Fate::Hide) == hidden, "'{}'", char::from(tag));
        if let Fate::Settled(transaction) = fate {
            assert_eq!((tag, Some(transaction)), (b'Z', Transaction::read(body)));
            assert!(self.flow.is_empty() && !self.server.will_answer(), "settled, and more is to come");
            self.settled = Some(transaction);
        } else if tag == b'Z' {
            assert!(
                self.doubtful || self.server.will_answer() || self.flow.unsynced(),
                "all is answered, and it is not settled"
            );
        }
        self.give_own();
    }

    fn over(&self) -> bool {
        self.server.gone || self.ended
    }

    fn drain(&mut self, input: &mut Input<'_>) {
        while !self.over() && self.server.has_more() {
            self.server.step(input);
            while !self.over() && !self.server.replies.is_empty() {
                self.receive();
            }
        }
    }
}

fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut proxy = Proxy::default();
    let mut id = 0;
    while !input.is_empty() && !proxy.over() {
        match input.below(4) {
            0 => proxy.server.step(&mut input),
            1 => proxy.receive(),
            _ => {
                id += 1;
                let ask = ask(&mut input, id);
                proxy.send(ask);
            }
        }
    }
    proxy.drain(&mut input);
    if proxy.over() || proxy.doubtful {
        return;
    }
    assert_eq!(proxy.flow.in_copy(), proxy.server.copy.is_some(), "in a COPY");
    assert_eq!(proxy.flow.skipping(), proxy.server.skipping, "skipping");
    // The client ends what it has begun.
    for ask in [Ask::CopyEnd, Ask::Owed(Owed::Sync)] {
        if ask != Ask::CopyEnd || proxy.server.copy.is_some() {
            proxy.send(ask);
            proxy.drain(&mut input);
        }
        while proxy.server.copy.is_some() {
            proxy.send(Ask::CopyEnd);
            proxy.drain(&mut input);
        }
    }
    let flow = &proxy.flow;
    assert!(flow.is_empty() && !flow.unsynced() && !flow.skipping() && !flow.in_copy(), "{flow:?}");
    assert!(proxy.settled.is_some(), "nothing is owed, and it is not settled");
    assert!(proxy.statements.values().all(|known| *known != Known::Asked), "{:?}", proxy.statements);
}

/// A message that a client sends, or that the proxy adds.
fn ask(input: &mut Input<'_>, id: StatementId) -> Ask {
    let statement = input.flag().then_some(id);
    let described = [Described::Portal, Described::Statement(statement), Described::Hidden];
    Ask::Owed(match input.below(14) {
        0 | 1 => Owed::Sync,
        2 => Owed::Query,
        3 | 4 => Owed::Parse { statement, hidden: input.flag() },
        5 => Owed::Bind { statement },
        6 => Owed::Close { hidden: input.flag() },
        7 => Owed::Describe(described[input.below(3)]),
        8 | 9 => Owed::Execute,
        10 => Owed::Own(if input.flag() { Own::ParseComplete } else { Own::CloseComplete }),
        11 | 12 => return Ask::CopyData,
        _ => return Ask::CopyEnd,
    })
}
