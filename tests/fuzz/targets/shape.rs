//! The lexer beside PostgreSQL's own, shapes beside texts that are the same but for literals, blanks and
//! comments, and facts and purposes beside PostgreSQL's parser.

use std::ops::Range;

use pg_query::protobuf::Token;
use pgward::sql::{Analyser, Facts, Purpose, begins_with_listen, scan, shape, token_statement, tokens};

use super::{Target, tree};

pub const TARGET: Target = Target {
    name: "shape",
    check,
    words: &[
        "select ",
        "set ",
        "reset ",
        "local ",
        "session ",
        "constraints",
        "authorization ",
        "x.y",
        "do ",
        "listen ",
        "notify ",
        "unlisten ",
        "load ",
        "prepare ",
        "deallocate ",
        "discard all",
        "create temp table t (a int)",
        "pg_temp.",
        "set_config(",
        "set_config('pgward.token', 'x', false)",
        "set pgward.token = 'x'",
        "reset pgward.token",
        "pg_advisory_lock(",
        "'a'",
        "E'\\n'",
        "$$x$$",
        "$q$y$q$",
        "U&'\\0061'",
        "U&\"a\"",
        "\"q\"",
        "b'1'",
        "/* c */",
        "-- c\n",
        ";",
        "(",
        ")",
        ",",
        "::",
        ":=",
        "..",
        "1",
        "1.5",
        "1e5",
        "0x1f",
        "$1",
        "true",
        "null",
        "default",
        " to ",
        " = ",
        " as ",
        " from t",
        " where ",
        "with hold for ",
        "declare c cursor ",
        "explain ",
        "on commit drop",
        "on conflict do nothing",
        "language plpgsql ",
        "query_to_xml(",
        "transaction ",
        "role ",
        "pgward.token",
        "insert into t values (1)",
        "+",
        "-",
        "<=",
        "@>",
        "é",
        "'it''s'",
        "\\",
        "uescape '!'",
        " into temp x",
        "f(",
        "nextval('s')",
        "with x as (",
        "values (",
        "table t",
        " for update",
        " for share",
        " union all ",
        " where exists (select ",
        " over (order by ",
        " filter (where ",
        "array[",
        "]",
        "case when ",
        " then ",
        " end",
        "from pg_locks",
        "pg_temp.f(",
        "begin ",
        "start transaction ",
        "read only",
        "isolation level serializable",
        "explain (analyze) ",
        "copy (",
        "copy t",
        " to stdout",
        " from stdin",
        "substring('a' from ",
        "delete from t returning a",
    ],
    rounds: 10_000,
    longest: 400,
};

fn check(bytes: &[u8]) {
    // What pgward answers itself is not looked for in other texts.
    assert!(scan(bytes) || (token_statement(bytes).is_none() && !begins_with_listen(bytes)));
    let judged = Analyser::new(1).purpose(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text,
        _ => {
            let facts = fresh(bytes);
            assert!(judged.purpose == Purpose::Write && judged.key == 0, "not a text, and known: {judged:?}");
            assert!(!scan(bytes) || facts.pins.has(pgward::sql::Pin::Unknown), "not a text, and known: {facts:?}");
            return;
        }
    };
    let facts = fresh(bytes);
    assert!(scan(bytes) || facts == Facts::default());
    tree::compare(text, &facts);
    tree::compare_purpose(text, &judged.purpose);
    let Some(mine) = tokens(bytes) else {
        assert_eq!(shape(bytes), None);
        return;
    };
    cover(text, &mine);
    blanks(text, &mine);
    for other in ["'x'", "'set x = 1'", "'pg_temp'", "$q$listen a$q$", "'role'", "E'a\\x41'", "'pgward.token'"] {
        for kept in 0..2 {
            literals(text, &mine, other, kept);
        }
    }
}

fn fresh(text: &[u8]) -> Facts {
    Analyser::new(1).facts(text)
}

type Tokens = [(Range<usize>, char)];

/// PostgreSQL finds the same names and keywords, and between the tokens there is nothing that it reads.
fn cover(text: &str, mine: &Tokens) {
    // Not scan_tokens, which makes a slice of a null pointer where there are none.
    let Ok(theirs) = pg_query::scan(text).map(|scanned| scanned.tokens) else { return };
    let range = |token: &pg_query::protobuf::ScanToken| token.start as usize..token.end as usize;
    let literal = |token: i32| {
        [Token::Sconst, Token::Usconst, Token::Bconst, Token::Xconst].iter().any(|kind| *kind as i32 == token)
    };
    let comment = |token: i32| [Token::SqlComment as i32, Token::CComment as i32].contains(&token);
    // N'..' is the word NCHAR and a string to PostgreSQL.
    let prefix = |at: usize| mine.iter().any(|(token, kind)| *kind == 't' && token.start == at);
    let name = |token: &pg_query::protobuf::ScanToken| {
        token.keyword_kind != 0 && !prefix(token.start as usize)
            || [Token::Ident as i32, Token::Uident as i32].contains(&token.token)
    };
    let named: Vec<Range<usize>> = theirs.iter().filter(|token| name(token)).map(range).collect();
    let ours: Vec<Range<usize>> =
        mine.iter().filter(|(_, kind)| "wqu".contains(*kind)).map(|(at, _)| at.clone()).collect();
    assert_eq!(ours, named, "names of {text:?}");
    let within = |all: &[Range<usize>], at: usize| all.iter().any(|range| range.contains(&at));
    let all: Vec<Range<usize>> = mine.iter().map(|(at, _)| at.clone()).collect();
    let comments: Vec<Range<usize>> = theirs.iter().filter(|token| comment(token.token)).map(range).collect();
    for (at, byte) in text.bytes().enumerate().filter(|(at, _)| !within(&all, *at)) {
        let blank = byte.is_ascii_whitespace();
        let continued = theirs.iter().any(|token| literal(token.token) && range(token).contains(&at));
        assert!(blank || continued || within(&comments, at), "byte {at} of {text:?} is in no token");
    }
    assert!(all.iter().all(|token| !token.is_empty()) && all.is_sorted_by(|one, two| one.end <= two.start));
}

/// The text with each gap between tokens replaced.
fn blanks(text: &str, mine: &Tokens) {
    let known = shape(text.as_bytes());
    assert!(known.is_some());
    for gap in [" ", "\n\t", "/* set x = 1; ' */", " -- listen a; '\n", " /* /* */ */ "] {
        let mut other = String::new();
        let mut end = 0;
        for (at, _) in mine {
            other.push_str(if at.start > end { gap } else { "" });
            other.push_str(&text[at.clone()]);
            end = at.end;
        }
        assert_eq!(shape(other.as_bytes()), known, "{text:?} and {other:?}");
        same(text, &other);
    }
}

/// The text with its literals replaced, but for the first few strings.
fn literals(text: &str, mine: &Tokens, string: &str, mut kept: usize) {
    let mut other = String::new();
    let mut end = 0;
    for (at, kind) in mine {
        other.push_str(&text[end..at.start]);
        end = at.end;
        match kind {
            't' if kept > 0 => {
                kept -= 1;
                other.push_str(&text[at.clone()]);
            }
            't' => other.push_str(&format!(" {string} ")),
            'i' => other.push_str(" 77 "),
            'd' => other.push_str(" 7.5 "),
            _ => other.push_str(&text[at.clone()]),
        }
    }
    other.push_str(&text[end..]);
    let looked_into = ["do", "set", "query_to_xml", "ts_stat", "crosstab"];
    let lower = text.to_ascii_lowercase();
    if !looked_into.iter().any(|word| lower.contains(word)) {
        assert_eq!(shape(other.as_bytes()), shape(text.as_bytes()), "{text:?} and {other:?}");
    }
    same(text, &other);
}

/// Two texts of one shape have the same facts and purpose, whether they are read or remembered.
fn same(one: &str, two: &str) {
    if shape(one.as_bytes()) != shape(two.as_bytes()) {
        return;
    }
    let parse = |text: &str| pg_query::parse(text, 0).is_ok();
    if !parse(one) || !parse(two) {
        return;
    }
    let mut analyser = Analyser::new(1);
    let judged = analyser.purpose(one.as_bytes());
    assert_eq!(judged, analyser.purpose(two.as_bytes()), "{one:?} and {two:?}");
    assert_eq!(judged.purpose, Analyser::new(1).purpose(two.as_bytes()).purpose, "{two:?} by itself");
    let read = fresh(two.as_bytes());
    // A comment or a literal may have one of them looked into, and the setting of tokens is noticed where it is read too.
    match (scan(one.as_bytes()), scan(two.as_bytes())) {
        (false, false) => return,
        (true, true) => assert_eq!(fresh(one.as_bytes()), read, "{one:?} and {two:?}"),
        _ => {
            let but_token = |facts: Facts| Facts { token: false, ..facts };
            assert_eq!(but_token(fresh(one.as_bytes())), but_token(read), "{one:?} and {two:?}");
            return;
        }
    }
    let mut analyser = Analyser::new(1);
    analyser.facts(one.as_bytes());
    assert_eq!(analyser.facts(two.as_bytes()), read, "{two:?} behind {one:?}");
}
