//! The answers for shapes seen before.

use siphasher::sip128::SipHasher13;

use super::facts::{self, Facts};
use super::memo::Memo;
use super::parsed::Parsed;
use super::purpose::{self, Purpose};
use super::{scan, shape, token};

/// A text longer than this is not worth the time of a parser that shares its thread.
const LONGEST: usize = 64 * 1024;

/// Answers [`Facts`] and [`Purpose`] for statement texts. One for each core thread: it is not shared.
pub struct Analyser {
    hasher: SipHasher13,
    /// The shape being looked up; kept for its memory.
    shape: Vec<u8>,
    sets: Box<[Set]>,
    judged: Memo<Judged>,
    harmless: Memo<()>,
    parses: u64,
}

/// What a text is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    pub purpose: Purpose,
    /// Of its shape, with a key of this analyser's; 0: it has none.
    pub key: u128,
}

/// What an entry keeps, found by its key.
type Known = (Facts, Purpose);

const WAYS: usize = 4;

/// Four shapes that compete for the same place. An entry is found by 128 bits of a hash whose key is
/// of this process, so that no tenant can make two shapes collide.
#[derive(Clone, Default)]
struct Set {
    entries: [Option<(u128, Known)>; WAYS],
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
            judged: Memo::new(),
            harmless: Memo::new(),
            parses: 0,
        }
    }

    /// Whether a text certainly does nothing to the session, so that its facts are the default ones. `again`: it may well come
    /// to the letter another time. Others are not remembered: they may hold a token.
    pub fn is_harmless(&mut self, text: &[u8], again: bool) -> bool {
        if !again {
            return !scan(text);
        }
        let hash = self.harmless.hash(text);
        if self.harmless.get(hash, text).is_some() {
            return true;
        }
        let harmless = !scan(text);
        if harmless {
            self.harmless.note(hash, text, &());
        }
        harmless
    }

    pub fn facts(&mut self, text: &[u8]) -> Facts {
        if scan(text) { self.facts_unless_harmless(text) } else { Facts::default() }
    }

    /// The same of a text that is not harmless, as far as [`Analyser::is_harmless`] can tell.
    pub fn facts_unless_harmless(&mut self, text: &[u8]) -> Facts {
        self.shaped(text, |_, (facts, _)| facts.clone()).unwrap_or_else(|| unknown(text))
    }

    /// Asked of every text where there are replicas, so there is no way around the caches.
    pub fn purpose(&mut self, text: &[u8]) -> Judged {
        let hash = self.judged.hash(text);
        if let Some(known) = self.judged.get(hash, text) {
            return known.clone();
        }
        let known = |key, (_, purpose): &Known| Judged { purpose: purpose.clone(), key };
        let judged = self.shaped(text, known).unwrap_or(Judged { purpose: Purpose::Write, key: 0 });
        self.judged.note(hash, text, &judged);
        judged
    }

    /// How many texts neither the scan nor the cache answered.
    pub fn parses(&self) -> u64 {
        self.parses
    }

    /// What `take` makes of the shape's key and of what is known of the text. `None`: it cannot be read.
    fn shaped<T>(&mut self, text: &[u8], take: impl Fn(u128, &Known) -> T) -> Option<T> {
        // Before the cache, since what stands in a literal or a comment is not in the shape.
        if text.len() > LONGEST || memchr::memchr(0, text).is_some() {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        shape::write(text.as_bytes(), &mut self.shape).ok()?;
        let key = self.hasher.hash(&self.shape).as_u128();
        // The mask keeps the index below the number of sets, a power of two.
        let set = &mut self.sets[(key as usize) & (self.sets.len() - 1)];
        if let Some(known) = set.get(key) {
            return Some(take(key, known));
        }
        self.parses += 1;
        let parsed = Parsed::of(text).ok()?;
        let known = (facts::read(&parsed), purpose::read(&parsed));
        let taken = take(key, &known);
        set.insert(key, known);
        Some(taken)
    }
}

/// A text that cannot be read may hold a token, which must not get to the server, nor to its log.
fn unknown(text: &[u8]) -> Facts {
    Facts { token: token::mentions_token(text), ..Facts::unknown() }
}

impl Set {
    fn get(&mut self, key: u128) -> Option<&Known> {
        for (entry, used) in self.entries.iter().zip(&mut self.used) {
            match entry {
                Some((found, known)) if *found == key => {
                    *used = true;
                    return Some(known);
                }
                _ => {}
            }
        }
        None
    }

    fn insert(&mut self, key: u128, known: Known) {
        let way = loop {
            let way = usize::from(self.hand) % WAYS;
            self.hand = self.hand.wrapping_add(1);
            if !std::mem::take(&mut self.used[way]) {
                break way;
            }
        };
        self.entries[way] = Some((key, known));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use proptest::prelude::*;

    use super::super::listen;
    use super::super::parsed::Unreadable;
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

    /// Harmless texts go to the server without a further look.
    #[test]
    fn a_token_or_a_listen_was_taken_for_harmless() {
        let forms = [
            "set pgward.token = 'x'",
            "set session pgward.token to 'x'",
            "reset pgward.token",
            "select set_config('pgward.token', 'x', false)",
            "select pg_catalog.set_config('pgward.token', $1, $2)",
            "listen a",
            "unlisten *",
        ];
        let own = |text: &[u8]| token::token_statement(text).is_some() || listen::begins_with_listen(text);
        let (analyser, taken) = (RefCell::new(Analyser::new(1)), Cell::new(0));
        for form in forms {
            assert!(own(form.as_bytes()) && !analyser.borrow_mut().is_harmless(form.as_bytes(), true), "{form}");
        }
        proptest!(|(form in 0..forms.len(), before in "[ \t\n\r\x0b\x0c;]{0,3}", blank in "[ \t\n\x0c]{1,2}|/\\*\\*/",
                    upper: u64, again: bool)| {
            let flipped = |(i, c): (usize, char)| if upper >> (i % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c };
            let text: String = forms[form].replace(' ', &blank).chars().enumerate().map(flipped).collect();
            // Spelt otherwise it is no statement of pgward's own.
            let at = forms[form].replace(' ', &blank).find(token::SETTING);
            let text = at.map_or(text.clone(), |at| {
                [&text[..at], token::SETTING, &text[at + token::SETTING.len()..]].concat()
            });
            let text = before + &text;
            let own = own(text.as_bytes());
            taken.set(taken.get() + usize::from(own));
            prop_assert!(!own || !analyser.borrow_mut().is_harmless(text.as_bytes(), again), "{text}");
        });
        assert!(taken.get() > 100, "{} texts were of the kind", taken.get());
    }

    #[test]
    fn what_comes_again_is_as_harmless_as_before() {
        let mut analyser = Analyser::new(1);
        let long = |end: &str| format!("select '{}'{end}", "x".repeat(4_096));
        let some = ["select 1", "set a = 1", "select $1", "", "do $$ $$", "select 'discard'"].map(str::to_owned);
        // More than are remembered.
        let many = (0..1_000).map(|i| format!("select {i}, $1"));
        let texts: Vec<String> = some.into_iter().chain([long(""), long("; set a = 1")]).chain(many).collect();
        for text in (0..4).flat_map(|_| &texts) {
            assert_eq!(analyser.is_harmless(text.as_bytes(), true), !scan(text.as_bytes()), "{text}");
            assert_eq!(analyser.is_harmless(text.as_bytes(), false), !scan(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_text_with_a_token_was_kept() {
        let mut analyser = Analyser::new(1);
        let text = b"set pgward.token = 'eyJhbGciOiJFUzI1NiJ9.e30.c2ln'";
        let held = |analyser: &Analyser| analyser.harmless.get(analyser.harmless.hash(text), text).is_some();
        for _ in 0..4 {
            assert!(!analyser.is_harmless(text, true) && !held(&analyser));
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

    #[test]
    fn a_shape_has_one_key_and_what_cannot_be_read_has_none() {
        let mut analyser = Analyser::new(1);
        let mut key = |text: &str| analyser.purpose(text.as_bytes()).key;
        assert_eq!(key("select 1"), key("SELECT 2 -- two"));
        assert_ne!(key("select 1"), key("select 1, 1"));
        assert_ne!(key("select 1"), 0);
        for text in ["selec 1", "select 'a", "select 1\0", &format!("select '{}'", "y".repeat(LONGEST))] {
            assert_eq!(key(text), 0, "{text:.20}");
        }
    }

    #[test]
    fn both_questions_are_answered_by_one_parse() {
        let mut analyser = Analyser::new(64);
        analyser.facts(b"select set_config('a', 'b', true)");
        let judged = analyser.purpose(b"select set_config('a', 'c', true)");
        assert_eq!(judged.purpose, Purpose::Read(Some([Box::from("set_config")].into())));
        analyser.purpose(b"select 1");
        analyser.facts(b"select 2");
        assert_eq!(analyser.parses(), 2);
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
            "select nextval(@), lower(b) from t where a in (@, @)",
            "values (@, @)",
            "begin",
            "start transaction read only",
            "explain (analyze @) select @",
            "copy (select @) to stdout",
            "copy t to @",
            "select * from t where b = @ for update",
            "select * from pg_locks where @",
            "select u&\"f\" uescape @ (1)",
            "select float(@) @, interval @, x.y @, extract(@ from a) from t",
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
                    Ok(()) => Parsed::of(&text).map(|parsed| (facts::read(&parsed), purpose::read(&parsed))),
                    Err(shape::Odd) => Err(Unreadable),
                };
                let fired = scan(text.as_bytes());
                let cached = analyser.facts(text.as_bytes());
                let judged = analyser.purpose(text.as_bytes());
                match read {
                    Ok((facts, purpose)) => {
                        prop_assert_eq!(&cached, &facts, "{}", text);
                        prop_assert!(fired || facts == Facts::default(), "unseen: {}", text);
                        prop_assert_eq!(&judged.purpose, &purpose, "{}", text);
                        prop_assert!(judged.key != 0);
                    }
                    // Either unread, or an error whose shape was read before: the server refuses it.
                    Err(Unreadable) => {
                        prop_assert!(!fired || !cached.pins.is_empty() || cached == Facts::default());
                        prop_assert!(judged.key != 0 || judged.purpose == Purpose::Write, "{}", text);
                    }
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut analyser = Analyser::new(8);
            for opening in [&b"set "[..], b"select ", b"begin ", b""] {
                let mut text = opening.to_vec();
                text.extend(&bytes);
                analyser.facts(&text);
                let judged = analyser.purpose(&text);
                prop_assert_eq!(analyser.purpose(&text), judged);
            }
        }
    }
}
