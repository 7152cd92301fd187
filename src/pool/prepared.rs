//! Prepared statements: one definition, known to backends under a number.

use std::cell::{Cell, OnceCell};
use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use memchr::memchr;

use crate::sql::{Facts, Judged};
use crate::wire::flow::StatementId;

/// A statement that a session prepared by name. Sessions of one core share equal ones.
#[derive(Debug)]
pub struct Statement {
    pub id: StatementId,
    /// Text, NUL and parameter types, as in Parse.
    pub definition: Box<[u8]>,
    pub facts: Facts,
    /// What it is for, once somebody wants to know, and the key of its shape.
    pub judged: OnceCell<Judged>,
    /// What its rows look like (`wire::backend::shape`), once that is known. It never changes: where a table
    /// was altered, the text is another statement from then on.
    pub shape: Cell<Option<u64>>,
}

impl Statement {
    pub fn text(&self) -> &[u8] {
        text_of(&self.definition)
    }
}

/// The text of a definition.
pub fn text_of(definition: &[u8]) -> &[u8] {
    memchr(0, definition).and_then(|end| definition.get(..end)).unwrap_or(definition)
}

/// What a backend calls a statement. Never given out twice in a process.
pub fn name(id: StatementId) -> [u8; 23] {
    let mut out = *b"pgward_0000000000000000";
    for (i, place) in out.iter_mut().skip(7).enumerate() {
        let digit = (id >> (60 - 4 * i)) & 0xf;
        *place = b"0123456789abcdef"[usize::try_from(digit).unwrap_or(0)];
    }
    out
}

/// The statements that one backend has prepared, each with when it was last used.
#[derive(Debug, Default)]
pub struct Prepared {
    used: HashMap<StatementId, u64, RandomState>,
    /// There too, but not what they are taken for: to be closed before they are prepared anew.
    outlived: HashSet<StatementId, RandomState>,
    clock: u64,
}

impl Prepared {
    /// Whether the backend knows the statement, which counts as a use.
    pub fn touch(&mut self, id: StatementId) -> bool {
        self.clock += 1;
        let clock = self.clock;
        self.used.get_mut(&id).map(|used| *used = clock).is_some()
    }

    /// Takes note of a statement; past `limit`, names the one to close for it.
    pub fn add(&mut self, id: StatementId, limit: usize) -> Option<StatementId> {
        self.clock += 1;
        self.used.insert(id, self.clock);
        if self.used.len() <= limit {
            return None;
        }
        let oldest = self.used.iter().min_by_key(|(_, used)| **used).map(|(id, _)| *id)?;
        self.used.remove(&oldest);
        Some(oldest)
    }

    pub fn forget(&mut self, id: StatementId) {
        self.used.remove(&id);
    }

    /// It is there and must not be used any more.
    pub fn outlive(&mut self, id: StatementId) {
        if self.used.remove(&id).is_some() {
            self.outlived.insert(id);
        }
    }

    /// Whether it must be closed before it can be prepared; asked once.
    pub fn take_outlived(&mut self, id: StatementId) -> bool {
        self.outlived.remove(&id)
    }

    pub fn clear(&mut self) {
        self.outlived.clear();
        self.used.clear();
    }

    pub fn len(&self) -> usize {
        self.used.len()
    }

    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_used_longest_ago_makes_room() {
        let mut prepared = Prepared::default();
        assert_eq!(prepared.add(1, 2), None);
        assert_eq!(prepared.add(2, 2), None);
        assert!(prepared.touch(1));
        assert_eq!(prepared.add(3, 2), Some(2));
        assert!(!prepared.touch(2));
        assert_eq!(prepared.len(), 2);
    }

    #[test]
    fn names_are_numbers_in_hex() {
        assert_eq!(&name(0xab), b"pgward_00000000000000ab");
        assert_eq!(&name(u64::MAX), b"pgward_ffffffffffffffff");
    }
}
