//! The facts of shapes seen before.

use siphasher::sip128::SipHasher13;

use super::facts::{self, Facts};
use super::{scan, shape, token};

/// A text longer than this is not worth the time of a parser that shares its thread.
const LONGEST: usize = 64 * 1024;

/// Answers [`Facts`] for statement texts. One for each core thread: it is not shared.
pub struct Analyser {
    hasher: SipHasher13,
    /// The shape being looked up; kept for its memory.
    shape: Vec<u8>,
    sets: Box<[Set]>,
    parses: u64,
}

const WAYS: usize = 4;

/// Four shapes that compete for the same place. An entry is found by 128 bits of a hash whose key is
/// of this process, so that no tenant can make two shapes collide.
#[derive(Clone, Default)]
struct Set {
    entries: [Option<(u128, Facts)>; WAYS],
    /// Looked up since the hand last came by (the clock algorithm).
    used: [bool; WAYS],
    hand: u8,
}

impl Analyser {
    /// Room for `capacity` shapes, rounded up.
    pub fn new(capacity: usize) -> Self {
        let sets = capacity.div_ceil(WAYS).max(1).next_power_of_two();
        Self {
            hasher: SipHasher13::new_with_keys(rand::random(), rand::random()),
            shape: Vec::with_capacity(4096),
            sets: vec![Set::default(); sets].into_boxed_slice(),
            parses: 0,
        }
    }

    pub fn facts(&mut self, text: &[u8]) -> Facts {
        if scan(text) { self.shaped(text) } else { Facts::default() }
    }

    /// How many texts neither the scan nor the cache answered.
    pub fn parses(&self) -> u64 {
        self.parses
    }

    fn shaped(&mut self, text: &[u8]) -> Facts {
        // Before the cache, since what stands in a literal or a comment is not in the shape.
        if text.len() > LONGEST || memchr::memchr(0, text).is_some() {
            return unknown(text);
        }
        let Ok(text) = std::str::from_utf8(text) else { return unknown(text) };
        if shape::write(text.as_bytes(), &mut self.shape).is_err() {
            return unknown(text.as_bytes());
        }
        let key = self.hasher.hash(&self.shape).as_u128();
        // The mask keeps the index below the number of sets, a power of two.
        let set = &mut self.sets[(key as usize) & (self.sets.len() - 1)];
        if let Some(facts) = set.get(key) {
            return facts;
        }
        self.parses += 1;
        match facts::read(text) {
            Ok(facts) => {
                set.insert(key, facts.clone());
                facts
            }
            Err(facts::Unreadable) => unknown(text.as_bytes()),
        }
    }
}

/// A text that cannot be read may hold a token, which must not get to the server, nor to its log.
fn unknown(text: &[u8]) -> Facts {
    Facts { token: token::mentions_token(text), ..Facts::unknown() }
}

impl Set {
    fn get(&mut self, key: u128) -> Option<Facts> {
        for (entry, used) in self.entries.iter().zip(&mut self.used) {
            match entry {
                Some((found, facts)) if *found == key => {
                    *used = true;
                    return Some(facts.clone());
                }
                _ => {}
            }
        }
        None
    }

    fn insert(&mut self, key: u128, facts: Facts) {
        let way = loop {
            let way = usize::from(self.hand) % WAYS;
            self.hand = self.hand.wrapping_add(1);
            if !std::mem::take(&mut self.used[way]) {
                break way;
            }
        };
        self.entries[way] = Some((key, facts));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_shape_is_parsed_once() {
        let mut analyser = Analyser::new(64);
        for i in 0..100 {
            let text = format!("select set_config('app.user', 'u{i}', true), {i} -- {i}");
            assert_eq!(analyser.facts(text.as_bytes()), Facts::default());
        }
        assert_eq!(analyser.parses(), 1);
    }

    #[test]
    fn a_literal_that_is_not_in_the_shape_decided_whether_the_token_was_named() {
        let mut analyser = Analyser::new(64);
        for setting in ["b", "pgward.token"] {
            let text = format!("select set_config('a' || '{setting}', 'x', false)");
            assert!(!analyser.facts(text.as_bytes()).token, "{text}");
            assert_eq!(Analyser::new(1).facts(text.as_bytes()), analyser.facts(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_full_cache_forgets_and_stays_right() {
        let mut analyser = Analyser::new(4);
        for round in 0..3 {
            for i in 0..200 {
                let facts = analyser.facts(format!("set a{i} = {round}").as_bytes());
                assert!(facts.settings);
            }
        }
        assert_eq!(analyser.sets.len(), 1);
    }

    #[test]
    fn a_shape_in_use_outlives_a_flood_of_new_ones() {
        let mut analyser = Analyser::new(4);
        analyser.facts(b"set kept = 1");
        for i in 0..50 {
            analyser.facts(b"set kept = 1");
            analyser.facts(format!("set a{i} = 1").as_bytes());
        }
        assert_eq!(analyser.parses(), 51);
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_not_cached() {
        let mut analyser = Analyser::new(64);
        let long = format!("set x = '{}'", "y".repeat(LONGEST));
        let cases: [&[u8]; 9] = [
            b"set x = 'a",
            b"set x = '\xff'",
            b"set x = 'a\0'",
            b"set x = '\\'",
            b"listen x; select from where",
            b"select '\\'', set_config('a', 'b', true), ''",
            b"select u&\"s!0065t_config\" uescape '!' ('a', 'b', true)",
            b"explain (analyze) set x = 1; set",
            long.as_bytes(),
        ];
        for text in cases {
            for _ in 0..2 {
                let facts = analyser.facts(text);
                assert_eq!(facts, Facts::unknown(), "{}", String::from_utf8_lossy(text));
            }
        }
        // Refused for a literal's value: the next of that shape is read afresh.
        assert_eq!(analyser.facts(b"select 1::float(99); set x = 1"), Facts::unknown());
        assert!(analyser.facts(b"select 1::float(9); set x = 1").settings);
        assert!(analyser.facts(b"select 1::float(99); set x = 1").settings);
    }

    /// Whole statements and pieces that join to statements, with literals of many kinds.
    fn piece() -> impl Strategy<Value = String> {
        let literal = prop::sample::select(vec![
            "'a'",
            "'pg_temp'",
            "'set x'",
            "$$listen x$$",
            "E'\\x41'",
            "'role'",
            "'search_path'",
            "U&'\\0061'",
            "''",
            "$1",
            "null",
            "true",
            "false",
            "7",
            "1.5",
            "'true'",
        ]);
        let template = prop::sample::select(vec![
            "select @",
            "select set_config(@, @, @)",
            "select \"SET_CONFIG\"(@, @, false)",
            "select pg_catalog.set_config(@,@,true)",
            "set local search_path = @",
            "do @",
            "do language plpgsql @",
            "set x = @",
            "reset x",
            "insert into t values (@) on conflict do nothing",
            "update t set a = @",
            "select @, query_to_xml(@, true, true, '')",
            "create temp table t (a int)",
            "/* @ */ select @",
            "create temporary table t on commit drop as select @",
            "select pg_advisory_lock(@)",
            "declare c cursor with hold for select @",
            "select @ as temp -- @",
            "discard all",
            "deallocate @",
            "",
            "insert into temp values (@)",
            "prepare p as select @",
            "explain select set_config(@,@,@)",
            "select 1 set_config",
            "load @",
            "notify x, @",
            "set session authorization @",
        ]);
        (template, prop::collection::vec(literal, 4)).prop_map(|(template, literals)| {
            let mut out = String::new();
            let mut next = literals.iter().cycle();
            for part in template.split_inclusive('@') {
                match part.strip_suffix('@') {
                    Some(head) => {
                        out.push_str(head);
                        out.push_str(next.next().unwrap());
                    }
                    None => out.push_str(part),
                }
            }
            out
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// One analyser for many texts, so that shapes do meet.
        #[test]
        fn the_cache_answers_what_reading_answers(texts in prop::collection::vec(prop::collection::vec(piece(), 1..4), 40)) {
            let mut analyser = Analyser::new(1024);
            for pieces in texts {
                let text = pieces.join(";\n");
                let read = match shape::write(text.as_bytes(), &mut Vec::new()) {
                    Ok(()) => facts::read(&text),
                    Err(shape::Odd) => Err(facts::Unreadable),
                };
                let fired = scan(text.as_bytes());
                let cached = analyser.facts(text.as_bytes());
                match read {
                    Ok(facts) => {
                        prop_assert_eq!(&cached, &facts, "{}", text);
                        prop_assert!(fired || facts == Facts::default(), "unseen: {}", text);
                    }
                    // Either unread, or an error whose shape was read before: the server refuses it.
                    Err(facts::Unreadable) => prop_assert!(!fired || !cached.pins.is_empty() || cached == Facts::default()),
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut analyser = Analyser::new(8);
            let mut text = b"set ".to_vec();
            text.extend(bytes);
            analyser.facts(&text);
        }
    }
}
