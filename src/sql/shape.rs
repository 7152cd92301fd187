//! PostgreSQL's lexer (`scan.l`), as far as needed to tell words from literals and comments.

use std::ops::Range;

use memchr::{memchr, memchr2, memchr2_iter, memmem};

use super::scan::{calls, in_word, suspicious};

/// Something that this lexer does not follow, or that servers and settings read differently:
/// unterminated literals, a number run into a word, a backslash before a quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Odd;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a name without quotes; any case.
    Word,
    /// A quoted name. The body is as written, doubled quotes included.
    Quoted,
    /// `U&"..."`. The body is as written, escapes included.
    UnicodeName,
    Parameter,
    Integer,
    Decimal,
    /// A string in any of its spellings. `escapes` if the body may say more than it shows.
    Text {
        escapes: bool,
    },
    Bits,
    /// Operators and punctuation.
    Symbol,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub kind: Kind,
    /// Without quotes, dollar tags and prefixes.
    pub body: &'a [u8],
}

impl Token<'_> {
    pub fn is_word(&self, lower: &str) -> bool {
        self.kind == Kind::Word && self.body.eq_ignore_ascii_case(lower.as_bytes())
    }

    pub fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == Kind::Symbol && self.body == symbol.as_bytes()
    }

    /// As a name that PostgreSQL reads: folded unless quoted, and cut.
    pub fn identifier(&self) -> Option<String> {
        let text = std::str::from_utf8(self.body).ok()?;
        let mut name = match self.kind {
            Kind::Word => text.to_ascii_lowercase(),
            Kind::Quoted => text.replace("\"\"", "\""),
            _ => return None,
        };
        cut(&mut name);
        Some(name)
    }

    /// Whether this is `lower` used as a name, with or without quotes. Case is of no matter even
    /// within quotes: so it is for settings, and for functions it is the wider reading.
    pub fn is_name(&self, lower: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Quoted | Kind::UnicodeName)
            && self.body.eq_ignore_ascii_case(lower.as_bytes())
    }
}

/// To 63 bytes (NAMEDATALEN - 1), as PostgreSQL cuts every name.
pub(super) fn cut(name: &mut String) {
    let end = (0..=name.len().min(63)).rev().find(|at| name.is_char_boundary(*at));
    name.truncate(end.unwrap_or(0));
}

pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// `len` bytes from here on, and past them.
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, _) = self.rest().split_at(len.min(self.rest().len()));
        self.at += taken.len();
        taken
    }

    fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        self.take(rest.iter().position(|&byte| !accept(byte)).unwrap_or(rest.len()))
    }

    fn skip_blanks(&mut self) -> Result<(), Odd> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0c, _) => self.at += 1,
                (b'-', b'-') => {
                    let rest = self.rest();
                    self.at += memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                }
                (b'/', b'*') => self.skip_block_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), Odd> {
        let mut depth = 0usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => {
                    self.at += 1;
                    self.at += memchr2(b'/', b'*', self.rest()).ok_or(Odd)?;
                }
            }
        }
    }

    fn token(&mut self) -> Result<Option<Token<'a>>, Odd> {
        self.skip_blanks()?;
        let Some(&first) = self.rest().first() else { return Ok(None) };
        let (kind, body) = match (first, self.peek(1), self.peek(2)) {
            (b'\'', ..) => self.plain_text(0, false)?,
            (b'n' | b'N', b'\'', _) => self.plain_text(1, false)?,
            (b'u' | b'U', b'&', b'\'') => self.plain_text(2, true)?,
            (b'e' | b'E', b'\'', _) => self.escaped_text()?,
            (b'b' | b'B' | b'x' | b'X', b'\'', _) => {
                let (_, body) = self.plain_text(1, false)?;
                (Kind::Bits, body)
            }
            (b'"', ..) => (Kind::Quoted, self.quoted(0, b'"')?),
            (b'u' | b'U', b'&', b'"') => (Kind::UnicodeName, self.quoted(2, b'"')?),
            (b'$', b'0'..=b'9', _) => {
                self.at += 1;
                let digits = self.take_while(|byte| byte.is_ascii_digit());
                self.ends_here()?;
                (Kind::Parameter, digits)
            }
            (b'$', ..) => self.dollar_text()?,
            (b'0'..=b'9', ..) | (b'.', b'0'..=b'9', _) => self.number()?,
            (byte, ..) if in_word(byte) => (Kind::Word, self.take_while(in_word)),
            (b',' | b';' | b'(' | b')' | b'[' | b']', ..) => (Kind::Symbol, self.take(1)),
            (b':', b':' | b'=', _) | (b'.', b'.', _) => (Kind::Symbol, self.take(2)),
            (b':' | b'.', ..) => (Kind::Symbol, self.take(1)),
            (byte, ..) if in_operator(byte) => (Kind::Symbol, self.operator()),
            _ => return Err(Odd),
        };
        Ok(Some(Token { kind, body }))
    }

    /// A literal in which quotes are doubled and nothing else is special.
    fn quoted(&mut self, prefix: usize, quote: u8) -> Result<&'a [u8], Odd> {
        let start = self.at + prefix + 1;
        self.at = start;
        loop {
            self.at += memchr(quote, self.rest()).ok_or(Odd)?;
            if self.peek(1) != quote {
                break;
            }
            self.at += 2;
        }
        let body = &self.text[start..self.at];
        self.at += 1;
        Ok(body)
    }

    fn plain_text(&mut self, prefix: usize, unicode: bool) -> Result<(Kind, &'a [u8]), Odd> {
        let body = self.quoted(prefix, b'\'')?;
        // See the module's words on standard_conforming_strings.
        let last = body.last() == Some(&b'\\');
        if last || memmem::find(body, b"\\'").is_some() {
            return Err(Odd);
        }
        // The escape character of U&'' may be any, named by the UESCAPE that follows.
        Ok((Kind::Text { escapes: unicode || memchr(b'\\', body).is_some() }, body))
    }

    fn escaped_text(&mut self) -> Result<(Kind, &'a [u8]), Odd> {
        let start = self.at + 2;
        self.at = start;
        loop {
            self.at += memchr2(b'\'', b'\\', self.rest()).ok_or(Odd)?;
            match (self.peek(0), self.peek(1)) {
                (b'\\', _) | (b'\'', b'\'') => self.at += 2,
                _ => break,
            }
        }
        let body = self.text.get(start..self.at).ok_or(Odd)?;
        self.at += 1;
        Ok((Kind::Text { escapes: memchr(b'\\', body).is_some() }, body))
    }

    fn dollar_text(&mut self) -> Result<(Kind, &'a [u8]), Odd> {
        let start = self.at;
        self.at += 1;
        self.take_while(|byte| in_word(byte) && byte != b'$');
        if self.peek(0) != b'$' {
            return Err(Odd);
        }
        self.at += 1;
        let delimiter = &self.text[start..self.at];
        let len = memmem::find(self.rest(), delimiter).ok_or(Odd)?;
        let body = self.take(len);
        self.at += delimiter.len();
        Ok((Kind::Text { escapes: false }, body))
    }

    fn number(&mut self) -> Result<(Kind, &'a [u8]), Odd> {
        let start = self.at;
        let mut kind = Kind::Integer;
        if self.peek(0) == b'0' && matches!(self.peek(1) | 0x20, b'x' | b'o' | b'b') {
            self.at += 2;
            self.take_while(|byte| byte.is_ascii_hexdigit() || byte == b'_');
        } else {
            let digit = |byte: u8| byte.is_ascii_digit() || byte == b'_';
            self.take_while(digit);
            if self.peek(0) == b'.' && self.peek(1) != b'.' {
                kind = Kind::Decimal;
                self.at += 1;
                self.take_while(digit);
            }
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(0) | 0x20 == b'e' && self.peek(1 + sign).is_ascii_digit() {
                kind = Kind::Decimal;
                self.at += 1 + sign;
                self.take_while(digit);
            }
        }
        self.ends_here()?;
        Ok((kind, &self.text[start..self.at]))
    }

    /// Servers before 15 read `1or` as two tokens, later ones refuse it.
    fn ends_here(&self) -> Result<(), Odd> {
        if in_word(self.peek(0)) { Err(Odd) } else { Ok(()) }
    }

    fn operator(&mut self) -> &'a [u8] {
        let rest = self.rest();
        let comment = |at: usize| matches!(rest.get(at..at + 2), Some(b"--" | b"/*"));
        self.take((1..rest.len()).find(|&at| !in_operator(rest[at]) || comment(at)).unwrap_or(rest.len()))
    }
}

fn in_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Result<Token<'a>, Odd>;

    fn next(&mut self) -> Option<Self::Item> {
        let token = self.token().transpose();
        if matches!(token, Some(Err(Odd))) {
            self.at = self.text.len();
        }
        token
    }
}

/// What the facts may know of a literal's content. It is part of the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark {
    /// Run as SQL, it could touch session state.
    pub suspicious: bool,
    /// Run as a query, it could. The scan of the whole text sees this too.
    pub calls: bool,
    pub temporary: bool,
    /// All of it: it names the setting of a `set_config`.
    pub whole: bool,
}

/// Functions whose text arguments are run as queries, read-only ones.
pub(super) const RUN_TEXT: &[&str] =
    &["query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat", "crosstab"];

/// Goes along a text's tokens. The shape and the facts read literals through this alone, so that
/// neither sees what the other does not.
#[derive(Default)]
pub(super) struct Marker {
    careful: bool,
    whole: bool,
}

impl Marker {
    pub fn mark(&mut self, token: &Token<'_>) -> Mark {
        match token.kind {
            Kind::Word | Kind::Quoted | Kind::UnicodeName => {
                if token.is_name("set_config") {
                    self.careful = true;
                    self.whole = true;
                } else if !self.careful {
                    self.careful = token.is_word("do")
                        || token.is_word("set")
                        || RUN_TEXT.iter().any(|function| token.is_name(function));
                }
                Mark::default()
            }
            Kind::Text { escapes } if self.careful => Mark {
                suspicious: escapes || suspicious(token.body),
                calls: calls(token.body),
                temporary: escapes || has_temporary(token.body),
                whole: std::mem::take(&mut self.whole),
            },
            _ => Mark::default(),
        }
    }
}

fn has_temporary(body: &[u8]) -> bool {
    memchr2_iter(b'p', b'P', body)
        .any(|at| body.get(at..at + 7).is_some_and(|word| word.eq_ignore_ascii_case(b"pg_temp")))
}

/// What follows the blanks and comments at the start of a text.
pub(super) fn behind_blanks(text: &[u8]) -> &[u8] {
    let mut lexer = Lexer::new(text);
    // A comment that does not end hides the rest.
    if lexer.skip_blanks().is_ok() { lexer.rest() } else { &[] }
}

/// The tokens' places, and the letters that stand for their kinds in the shape. For comparison with
/// PostgreSQL's own lexer (tests/fuzz); `None` where the text cannot be followed.
pub fn tokens(text: &[u8]) -> Option<Vec<(Range<usize>, char)>> {
    let mut lexer = Lexer::new(text);
    let mut found = Vec::new();
    loop {
        lexer.skip_blanks().ok()?;
        let from = lexer.at;
        let Some(token) = lexer.token().ok()? else { return Some(found) };
        found.push((from..lexer.at, char::from(letter(token.kind))));
    }
}

/// The shape of a text; `None` where it cannot be followed.
pub fn shape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    write(text, &mut out).ok().map(|()| out)
}

const fn letter(kind: Kind) -> u8 {
    match kind {
        Kind::Word => b'w',
        Kind::Quoted => b'q',
        Kind::UnicodeName => b'u',
        Kind::Parameter => b'p',
        Kind::Symbol => b's',
        Kind::Integer => b'i',
        Kind::Decimal => b'd',
        Kind::Bits => b'b',
        Kind::Text { .. } => b't',
    }
}

/// Writes the shape of `text` over `out`. No two shapes are alike: each token is its kind, what
/// counts of its body, and a NUL, which no text holds.
pub(super) fn write(text: &[u8], out: &mut Vec<u8>) -> Result<(), Odd> {
    out.clear();
    let mut marker = Marker::default();
    for token in Lexer::new(text) {
        let token = token?;
        let mark = marker.mark(&token);
        out.push(letter(token.kind));
        match token.kind {
            Kind::Word => out.extend(token.body.iter().map(u8::to_ascii_lowercase)),
            Kind::Quoted | Kind::UnicodeName | Kind::Parameter | Kind::Symbol => out.extend_from_slice(token.body),
            Kind::Integer | Kind::Decimal | Kind::Bits => {}
            Kind::Text { escapes } => {
                out.push(b'0' + u8::from(mark.suspicious) + 2 * u8::from(mark.temporary) + 4 * u8::from(mark.calls));
                if mark.whole {
                    out.push(b'0' + u8::from(escapes));
                    out.extend_from_slice(token.body);
                }
            }
        }
        out.push(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write(text.as_bytes(), &mut out).unwrap();
        out
    }

    #[test]
    fn literals_comments_blanks_and_case_are_not_of_the_shape() {
        let one = shape("select a, 'x', 1, 2.5, B'1' from t where b = $1");
        let two = shape("SELECT a,/* /* nested */ */'it''s; set',\n77 , 1e9,x'FF' -- set\nFROM t WHERE b=$1;");
        assert_eq!(one, two[..two.len() - 3]);
        assert_eq!(shape("select $$a$$"), shape("select $f$ $$ '; $f$"));
        assert_eq!(shape("select E'a'"), shape("select 'b'"));
    }

    #[test]
    fn names_keywords_operators_and_parameters_are_of_the_shape() {
        let base = shape("select a from t where b = $1 and true");
        for other in [
            "select \"a\" from t where b = $1 and true",
            "select A2 from t where b = $1 and true",
            "select a from t where b < $1 and true",
            "select a from t where b = $2 and true",
            "select a from t where b = $1 and false",
            "select a from t where b = '1' and true",
        ] {
            assert_ne!(base, shape(other), "{other}");
        }
        assert_ne!(shape("select \"A\""), shape("select \"a\""));
        assert_ne!(shape("select a :: b"), shape("select a : : b"));
        assert_ne!(shape("select set_config('a', 'b', true)"), shape("select set_config('a', 'b', false)"));
        assert_ne!(shape("select set_config('role', 'b')"), shape("select set_config('a', 'b')"));
        assert_ne!(shape("do 'perform 1'"), shape("do 'listen x'"));
        assert_eq!(shape("do 'perform 1'"), shape("do $$perform 2$$"));
    }

    #[test]
    fn what_cannot_be_followed_is_odd() {
        for text in [
            "'a", "\"a", "$$a", "$a$ $b$", "/* /* */", "E'\\'", "'\\'", "'a\\''b'", "1a", "$1a", "a \\ b", "{", "$a",
            "a\u{b}",
        ] {
            assert_eq!(write(text.as_bytes(), &mut Vec::new()), Err(Odd), "{text}");
        }
        assert!(write(br"E'\'' '\d'", &mut Vec::new()).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_lexer_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = write(&bytes, &mut Vec::new());
        }

        #[test]
        fn no_punctuation_makes_the_lexer_panic(text in "[-/*'\"$\\\\eEuU&nxb;.:0-9_ (a]{0,40}") {
            let _ = write(text.as_bytes(), &mut Vec::new());
        }
    }
}
