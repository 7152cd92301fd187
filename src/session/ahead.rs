//! What a request is for, found out before it gets a backend: whether all of it, up to its end, only reads.

use std::rc::Rc;

use super::serve::Session;
use crate::sql::{Judged, Purpose};
use crate::wire::frontend::{self, BindHead, Named, Parse};
use crate::wire::{Header, Origin, frame};

/// A batch that is longer without its end is the primary's.
const LONGEST: usize = 64 * 1024;

/// Statements of one batch that are told apart by name. One with more is the primary's.
const NAMES: usize = 8;

pub(super) enum Ahead {
    /// Its end has not come yet.
    Incomplete,
    MayWrite,
    Session,
    /// It only reads, and ends after so many bytes. `again`: it could be sent once more.
    Reads {
        length: usize,
        again: bool,
    },
}

/// A batch of the extended protocol, as far as it has been looked at.
#[derive(Default)]
struct Batch<'a> {
    /// The statements that it prepares.
    named: [&'a [u8]; NAMES],
    known: usize,
    unnamed: bool,
    /// There is something in it that a server has to answer.
    asks: bool,
    /// It cannot be sent once more.
    once: bool,
}

impl<'a> Batch<'a> {
    /// Takes note of a statement that it prepares. `false`: there are too many.
    fn prepares(&mut self, name: &'a [u8]) -> bool {
        if name.is_empty() {
            self.unnamed = true;
            return true;
        }
        let place = self.named.get_mut(self.known);
        self.known += 1;
        place.map(|place| *place = name).is_some()
    }

    fn has(&self, name: &[u8]) -> bool {
        if name.is_empty() { self.unnamed } else { self.named.iter().take(self.known).any(|known| *known == name) }
    }
}

impl Session {
    /// What the request that begins here is for.
    pub(super) fn look_ahead(&mut self, input: &[u8]) -> Ahead {
        self.reading.iter_mut().for_each(|reading| reading.trial.forget());
        let (mut batch, mut at) = (Batch::default(), 0);
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let header = match Header::read(rest, Origin::Client) {
                Ok(Some(header)) => header,
                Ok(None) if input.len() < LONGEST => return Ahead::Incomplete,
                Ok(None) | Err(_) => return Ahead::MayWrite,
            };
            let Some(body) = rest.get(frame::HEADER..header.total) else {
                return if at + header.total <= LONGEST { Ahead::Incomplete } else { Ahead::MayWrite };
            };
            at += header.total;
            match header.tag {
                b'Q' if at == header.total => return self.query_ahead(body, at),
                b'S' if batch.asks => return Ahead::Reads { length: at, again: !batch.once },
                tag if self.goes_along(tag, body, &mut batch) => {}
                _ => return Ahead::MayWrite,
            }
        }
    }

    fn query_ahead(&mut self, body: &[u8], length: usize) -> Ahead {
        let Some(text) = frontend::query_text(body) else { return Ahead::MayWrite };
        let Judged { purpose, key } = self.core.analyser.borrow_mut().purpose(text);
        match purpose {
            Purpose::Session => Ahead::Session,
            _ if self.may_read(&purpose, key) => Ahead::Reads { length, again: true },
            _ => Ahead::MayWrite,
        }
    }

    /// Whether a message may be in a batch that only reads.
    fn goes_along<'a>(&mut self, tag: u8, body: &'a [u8], batch: &mut Batch<'a>) -> bool {
        batch.asks |= tag != b'C';
        match tag {
            b'P' => Parse::read(body).is_some_and(|parse| {
                batch.once |= !parse.name.is_empty() && self.names.get(parse.name).is_some();
                batch.prepares(parse.name) && self.only_reads(parse.text)
            }),
            b'B' => BindHead::read(body)
                .is_some_and(|head| batch.has(head.statement) || self.prepared_reads(head.statement)),
            b'D' => match Named::read(body) {
                Some(Named::Statement(name)) => batch.has(name) || self.prepared_reads(name),
                Some(Named::Portal(_)) => true,
                None => false,
            },
            b'E' => true,
            b'C' => {
                batch.once = true;
                true
            }
            _ => false,
        }
    }

    fn only_reads(&mut self, text: &[u8]) -> bool {
        let Judged { purpose, key } = self.core.analyser.borrow_mut().purpose(text);
        self.may_read(&purpose, key)
    }

    /// The same of a statement that was prepared before.
    fn prepared_reads(&mut self, name: &[u8]) -> bool {
        let Some(named) = self.names.get(name) else {
            let text = self.names.text(name).filter(|text| name.is_empty() && !text.is_empty()).map(<[u8]>::to_vec);
            return text.is_some_and(|text| self.only_reads(&text));
        };
        let statement = Rc::clone(&named.statement);
        let judged = statement.judged.get_or_init(|| self.core.analyser.borrow_mut().purpose(statement.text()));
        self.may_read(&judged.purpose, judged.key)
    }

    fn may_read(&mut self, purpose: &Purpose, key: u128) -> bool {
        let Some(reading) = self.reading.as_mut() else { return false };
        let begins_read_only =
            || self.context.setting("default_transaction_read_only").is_some_and(|value| value == "on");
        let reads = match purpose {
            Purpose::Write | Purpose::Session => false,
            Purpose::Read(None) => true,
            Purpose::Read(Some(functions)) => reading.functions.are_calm(functions),
            Purpose::Begin { read_only } => read_only.unwrap_or_else(begins_read_only),
        };
        reading.trial.note_shape(key);
        reads && !self.core.refused.borrow().has(key, self.local.pool.id())
    }
}
