//! The first look: could this text touch session state at all?
//!
//! All patterns are matched at once, one bit a position (Baeza-Yates and Gonnet's "shift-and"), so a
//! byte costs a load, a shift, an or and an and, without a branch. That chain has a latency of three
//! cycles a byte; four overlapping quarters of the text are run side by side to hide it.

use memchr::{memchr_iter, memchr2_iter};

/// One position of a pattern: the lower-case bytes it takes. A blank stands for any byte that cannot
/// be part of a word.
type Class = &'static [u8];

/// Statements that only ever begin a statement, and whose words are otherwise everyday SQL
/// (`UPDATE .. SET`, `ON CONFLICT DO`). The first also matches `reset`.
const OPENERS: &[&[Class]] = &[&[b" e", b"s", b"e", b"t", b" "], &[b" ", b"d", b"o", b" "]];

const COMMENTS: &[&[Class]] = &[&[b"-", b"-"], &[b"/", b"*"]];

/// Enough of each word to be rare elsewhere; what is taken too much is only a cache hit away.
const WORDS: &[&[Class]] = &[
    &[b"i", b"s", b"c", b"a"],               // discard
    &[b"e", b"a", b"l", b"l", b"o"],         // deallocate
    &[b"r", b"e", b"p", b"a", b"r"],         // prepare
    &[b"lo", b"it", b"si", b"tf", b"ey"],    // listen, notify (and no word of both)
    &[b" ", b"lh", b"o", b"al", b"d", b" "], // load, hold
    &[b"t", b"e", b"m", b"p"],               // temp, temporary, pg_temp
];

/// The same for functions.
const CALLS: &[&[Class]] = &[
    &[b"s", b"e", b"t", b"_", b"cl"],  // set_config, set_limit
    &[b"i", b"s", b"o", b"r", b"y"],   // pg_advisory_lock and its kin
    &[b"d", b"b", b"l", b"i"],         // dblink_connect
    &[b"u", b"&", b"\""],              // a name in escapes could be any of these
    &[b"n", b"_", b"s", b"le", b"os"], // .._replication_slot, .._origin_session_setup
];

const LONGEST: usize = 6;

struct Tables {
    step: [u64; 256],
    starts: u64,
    openers: u64,
    comments: u64,
    words: u64,
    calls: u64,
}

const TABLES: Tables = build();
/// Apart from [`TABLES`] so that the loop indexes one address.
static STEP: [u64; 256] = TABLES.step;

const fn build() -> Tables {
    let mut tables = Tables { step: [0; 256], starts: 0, openers: 0, comments: 0, words: 0, calls: 0 };
    let mut bit = 0;
    tables.openers = place(OPENERS, &mut tables, &mut bit);
    tables.comments = place(COMMENTS, &mut tables, &mut bit);
    tables.words = place(WORDS, &mut tables, &mut bit);
    tables.calls = place(CALLS, &mut tables, &mut bit);
    assert!(bit <= 64, "more positions than bits");
    tables
}

const fn place(patterns: &[&[Class]], tables: &mut Tables, bit: &mut u32) -> u64 {
    let mut finals = 0;
    let mut p = 0;
    while p < patterns.len() {
        let pattern = patterns[p];
        assert!(pattern.len() <= LONGEST);
        tables.starts |= 1 << *bit;
        let mut i = 0;
        while i < pattern.len() {
            let mut byte = 0;
            while byte < 256 {
                if takes(pattern[i], byte as u8) {
                    tables.step[byte] |= 1 << *bit;
                }
                byte += 1;
            }
            *bit += 1;
            i += 1;
        }
        finals |= 1 << (*bit - 1);
        p += 1;
    }
    finals
}

const fn takes(class: Class, byte: u8) -> bool {
    let mut i = 0;
    while i < class.len() {
        if class[i] == b' ' {
            if !in_word(byte) {
                return true;
            }
        } else if class[i] == byte.to_ascii_lowercase() {
            return true;
        }
        i += 1;
    }
    false
}

/// PostgreSQL's `ident_cont`.
pub(super) const fn in_word(byte: u8) -> bool {
    IN_WORD[byte as usize]
}

static IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let ascii = byte as u8;
        table[byte] = ascii.is_ascii_alphanumeric() || ascii == b'_' || ascii == b'$' || byte >= 0x80;
        byte += 1;
    }
    table
};

/// True: something in here might touch session state. False: certainly not textually, and it is no statement that pgward
/// answers itself (`token`, `listen`).
///
/// Literals and comments are looked into like everything else, which is what makes "false" certain.
pub fn scan(text: &[u8]) -> bool {
    let seen = hits(text);
    if seen & (TABLES.words | TABLES.calls) != 0 {
        return true;
    }
    if seen & TABLES.openers == 0 {
        return false;
    }
    // With comments about, what stands before a word is not to be told by looking backwards.
    seen & TABLES.comments != 0 || opens_a_statement(text)
}

/// Whether this text might end what pins a session: drop a temporary table, close a cursor, unlock. Only
/// asked of pinned sessions, so it may be a simple search that finds too much.
pub fn lets_go(text: &[u8]) -> bool {
    ["drop", "close", "unl", "discard", "dealloc", "reset", "set", "role", "abort", "call"].iter().any(|word| {
        let word = word.as_bytes();
        let upper = word[0].to_ascii_uppercase();
        memchr2_iter(word[0], upper, text)
            .any(|at| text.get(at..at + word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word)))
    })
}

/// Whether a text that is sent within a transaction might end it, so that it is committed, or what is sent behind it is:
/// the words come first, or after a semicolon, or after a comment. Nobody is harmed where it finds too much.
pub fn may_commit(text: &[u8]) -> bool {
    // PostgreSQL 16 and later take the vertical tab for white space, too.
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let text = text.get(text.iter().take_while(|byte| blank(byte)).count()..).unwrap_or_default().trim_ascii_end();
    let begins = |word: &str| text.get(..word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes()));
    let last = text.strip_suffix(b";").unwrap_or(text);
    ["commit", "end", "prepare", "rollback", "abort", "--", "/*"].into_iter().any(begins)
        || memchr::memchr(b';', last).is_some()
}

/// Whether a text that is run as SQL later, such as the body of a `DO`, could touch session state.
/// No look at where the words stand, since it is another language's grammar.
pub(super) fn suspicious(body: &[u8]) -> bool {
    hits(body) & (TABLES.words | TABLES.calls | TABLES.openers) != 0
        || memchr2_iter(b'x', b'X', body)
            .any(|at| at > 0 && body.get(at - 1..at + 6).is_some_and(|word| word.eq_ignore_ascii_case(b"execute")))
}

/// Whether a text that is run as a query, and can change session state by calling functions only,
/// names one that does.
pub(super) fn calls(body: &[u8]) -> bool {
    hits(body) & TABLES.calls != 0
}

fn hits(text: &[u8]) -> u64 {
    let begin = STEP[usize::from(b' ')] & TABLES.starts;
    let mut seen = 0;
    let mut last = begin;
    if text.len() < 24 {
        for &byte in text {
            last = step(last, byte);
            seen |= last;
        }
    } else {
        // Quarters that share LONGEST - 1 bytes: a match lies wholly within one of them.
        let stride = (text.len() - (LONGEST - 1)).div_ceil(4);
        let width = stride + LONGEST - 1;
        let a = &text[..width];
        let b = &text[stride..][..width];
        let c = &text[2 * stride..][..width];
        let d = &text[text.len() - width..];
        let (mut in_a, mut in_b, mut in_c, mut in_d) = (begin, 0, 0, 0);
        for i in 0..width {
            in_a = step(in_a, a[i]);
            in_b = step(in_b, b[i]);
            in_c = step(in_c, c[i]);
            in_d = step(in_d, d[i]);
            seen |= in_a | in_b | in_c | in_d;
        }
        last = in_d;
    }
    seen | step(last, b' ')
}

#[inline(always)]
fn step(state: u64, byte: u8) -> u64 {
    ((state << 1) | TABLES.starts) & STEP[usize::from(byte)]
}

/// `SET`, `RESET` and `DO` are statements only at the very start or after a semicolon. `text` has no
/// comments.
fn opens_a_statement(text: &[u8]) -> bool {
    let starts = std::iter::once(0).chain(memchr_iter(b';', text).map(|at| at + 1));
    starts.filter_map(|start| text.get(start..)).any(|statement| {
        let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
        let statement = &statement[statement.iter().take_while(|byte| blank(byte)).count()..];
        ["set", "reset", "do"].into_iter().any(|word| {
            statement.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
                && !statement.get(word.len()).copied().is_some_and(in_word)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_commit_the_transaction_it_is_sent_in_is_found() {
        let may = ["commit", " COMMIT ", "\x0bcommit", "End;", "prepare transaction 'x'", "rollback", "/* */ commit"];
        may.iter()
            .chain(&["select 1; commit", "-- x\ncommit", "abort"])
            .for_each(|text| assert!(may_commit(text.as_bytes()), "{text}"));
        let not = ["", "select 1", "select 1;", "insert into t values (1)", "savepoint a", "select 'commit'"];
        not.iter().for_each(|text| assert!(!may_commit(text.as_bytes()), "{text}"));
    }

    #[test]
    fn everyday_statements_do_not_fire() {
        for text in [
            "",
            "BEGIN;",
            "END;",
            "COMMIT",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
            "UPDATE pgbench_accounts SET abalance = abalance + -4711 WHERE aid = 815;",
            "UPDATE pgbench_tellers SET tbalance = tbalance + 4711 WHERE tid = 1;",
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 2, 3, 4, CURRENT_TIMESTAMP);",
            "DELETE FROM t WHERE id = $1",
            "INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
            "INSERT INTO t (a) VALUES ($1) ON CONFLICT DO NOTHING",
            "select * from assets limit 10 offset 20",
            "select loaded_at, threshold, household from holders",
            "select current_setting('app.user')",
            "select 1 -- a remark",
        ] {
            assert!(!scan(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_seen_at_every_place_of_a_text_of_any_length() {
        for word in ["set x=1", "RESET x", "do 'x'", "select set_config", "x pg_temp.y", "load", "LISTEN a", "u&\"s"] {
            for before in 0..90 {
                for after in 0..40 {
                    let text = format!("{};{word} {}", "z".repeat(before), "z".repeat(after));
                    assert!(scan(text.as_bytes()), "{text}");
                }
                assert!(scan(format!("{} ;{word}", " ".repeat(before)).as_bytes()));
            }
        }
    }

    #[test]
    fn an_opener_behind_a_comment_is_seen() {
        for text in ["/* x */ set a = 1", "-- x\nset a = 1", "select 1;\u{b}set x = 1", "set/**/x=1", "SET\"x\"=1"] {
            assert!(scan(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_body_is_judged_by_its_words_alone() {
        assert!(suspicious(b"begin execute 'x'; end"));
        assert!(suspicious(b"begin EXECUTE"));
        assert!(suspicious(b"begin set x = 1; end"));
        assert!(!suspicious(b"begin perform f(1); end"));
    }
}
