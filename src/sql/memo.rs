//! Texts that come again to the letter, as those of prepared statements and of drivers that send parameters apart do: what
//! they are need not be found out each time.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

/// A longer text is not kept.
const LONGEST: usize = 2 * 1024;

/// A power of two.
const PLACES: usize = 512;

/// A text is found by a hash whose key is of this process, and compared as a whole.
pub(super) struct Memo<T> {
    hasher: RandomState,
    places: Box<[Place<T>]>,
}

struct Place<T> {
    /// Of the text that was looked up here last.
    hash: u64,
    /// Once it came for the second time: most texts with literals in them never do.
    known: Option<(Box<[u8]>, T)>,
}

impl<T: Clone> Memo<T> {
    pub fn new() -> Self {
        let nothing = |_| Place { hash: 0, known: None };
        Self { hasher: RandomState::default(), places: (0..PLACES).map(nothing).collect() }
    }

    pub fn hash(&self, text: &[u8]) -> u64 {
        if text.len() > LONGEST { 0 } else { self.hasher.hash_one(text) | 1 }
    }

    pub fn get(&self, hash: u64, text: &[u8]) -> Option<&T> {
        let place = self.places.get(at(hash)).filter(|place| place.hash == hash)?;
        place.known.as_ref().filter(|(known, _)| **known == *text).map(|(_, what)| what)
    }

    pub fn note(&mut self, hash: u64, text: &[u8], what: &T) {
        let Some(place) = self.places.get_mut(at(hash)).filter(|_| hash != 0) else { return };
        if place.hash == hash {
            place.known = Some((text.into(), what.clone()));
        } else {
            *place = Place { hash, known: None };
        }
    }
}

fn at(hash: u64) -> usize {
    // Not the lowest bit, which is always set.
    (hash >> 1) as usize & (PLACES - 1)
}

#[cfg(test)]
mod tests {
    use super::super::cache::Analyser;

    #[test]
    fn a_text_that_comes_again_is_answered_as_it_was_and_not_read_again() {
        let mut analyser = Analyser::new(1);
        let texts =
            ["select 1", "select nextval($1)", "set a = 1", "begin read only", "select 'a", "insert into t values (1)"];
        let first: Vec<_> = texts.iter().map(|text| analyser.purpose(text.as_bytes())).collect();
        for round in 0..4 {
            // Others take their places in the cache of shapes meanwhile, which has four.
            for i in 0..50 {
                analyser.facts(format!("set other{i} = {round}").as_bytes());
            }
            let parses = analyser.parses();
            for (text, first) in texts.iter().zip(&first) {
                assert_eq!(analyser.purpose(text.as_bytes()), *first, "{text}");
            }
            assert!(round == 0 || analyser.parses() == parses, "round {round}");
        }
    }
}
