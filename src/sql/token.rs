//! The statements that change a session's token: `SET pgward.token = '...'` and its like.

use std::sync::LazyLock;

use memchr::memchr2_iter;
use memchr::memmem::Finder;

use super::shape::{Kind, Lexer, Token, behind_blanks};

/// The setting that stands for the session's token. No server ever gets to see it.
pub(super) const SETTING: &str = "pgward.token";

static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(SETTING));

/// A statement that does nothing but change the session's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenStatement {
    pub value: TokenValue,
    /// Of `set_config`, which gives a row.
    pub call: Option<Call>,
    /// What PostgreSQL calls the command.
    pub tag: &'static str,
}

#[derive(Clone, PartialEq, Eq)]
pub enum TokenValue {
    Literal(String),
    /// The parameter of this number, from 1 on.
    Parameter(u16),
    /// There is to be none any more.
    Reset,
}

impl std::fmt::Debug for TokenValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Literal(_) => "Literal",
            Self::Parameter(_) => "Parameter",
            Self::Reset => "Reset",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The parameter that says whether the token is for the transaction alone, which it must not be.
    pub is_local: Option<u16>,
}

/// In any case, within anything, with quotes, blanks and comments about the dot.
pub fn mentions_token(text: &[u8]) -> bool {
    let begins =
        |text: &[u8], word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    // No farther, since each of a long text's comments could be looked through once for each word in it.
    let near = |at: usize| text.get(at..text.len().min(at + 256));
    memchr2_iter(b'p', b'P', text).filter_map(near).any(|text| {
        begins(text, b"pgward") && {
            let text = unquoted(text.get("pgward".len()..).unwrap_or_default());
            behind_blanks(text).strip_prefix(b".").is_some_and(|text| begins(unquoted(behind_blanks(text)), b"token"))
        }
    })
}

fn unquoted(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\"").unwrap_or(text)
}

/// What the text does to the token, if it is one such statement and nothing else, with the setting spelt as
/// it is in the documentation. Any other spelling is noticed by [`super::Facts::token`].
pub fn token_statement(text: &[u8]) -> Option<TokenStatement> {
    FINDER.find(text)?;
    let mut tokens: Vec<Token<'_>> = Lexer::new(text).collect::<Result<_, _>>().ok()?;
    while tokens.last().is_some_and(|token| token.is_symbol(";")) {
        tokens.pop();
    }
    let first = tokens.iter().position(|token| !token.is_symbol(";"))?;
    let (opener, rest) = tokens.get(first..)?.split_first()?;
    if opener.is_word("reset") {
        let rest = behind_setting(rest)?;
        return rest.is_empty().then_some(TokenStatement { value: TokenValue::Reset, call: None, tag: "RESET" });
    }
    if opener.is_word("set") {
        let rest = if rest.first()?.is_word("session") { rest.get(1..)? } else { rest };
        let [to, value] = behind_setting(rest)? else { return None };
        if !to.is_word("to") && !to.is_symbol("=") {
            return None;
        }
        let value = if value.is_word("default") { TokenValue::Reset } else { literal(value)? };
        return Some(TokenStatement { value, call: None, tag: "SET" });
    }
    opener.is_word("select").then(|| call(rest))?
}

fn behind_setting<'a, 't>(tokens: &'a [Token<'t>]) -> Option<&'a [Token<'t>]> {
    match tokens {
        [schema, dot, name, rest @ ..] if schema.is_word("pgward") && dot.is_symbol(".") && name.is_word("token") => {
            Some(rest)
        }
        _ => None,
    }
}

/// `[pg_catalog.]set_config('pgward.token', value, false)`
fn call(tokens: &[Token<'_>]) -> Option<TokenStatement> {
    let tokens = match tokens {
        [schema, dot, rest @ ..] if schema.is_word("pg_catalog") && dot.is_symbol(".") => rest,
        all => all,
    };
    let [function, open, arguments @ .., close] = tokens else { return None };
    if !function.is_word("set_config") || !open.is_symbol("(") || !close.is_symbol(")") {
        return None;
    }
    let mut arguments = arguments.split(|token| token.is_symbol(","));
    let (setting, value, is_local) =
        (uncast(arguments.next()?)?, uncast(arguments.next()?)?, uncast(arguments.next()?)?);
    if arguments.next().is_some() || literal(setting)? != TokenValue::Literal(SETTING.to_owned()) {
        return None;
    }
    let value = match value.kind {
        Kind::Parameter => TokenValue::Parameter(parameter(value)?),
        _ if value.is_word("null") => TokenValue::Reset,
        _ => literal(value)?,
    };
    let is_local = match is_local.kind {
        Kind::Parameter => Some(parameter(is_local)?),
        _ if is_local.is_word("false") => None,
        _ => return None,
    };
    // Both in one would be of two types.
    let other = !matches!((&value, is_local), (TokenValue::Parameter(value), Some(is_local)) if *value == is_local);
    other.then_some(TokenStatement { value, call: Some(Call { is_local }), tag: "SELECT 1" })
}

/// An argument without its cast to one of the types it can have.
fn uncast<'a, 't>(argument: &'a [Token<'t>]) -> Option<&'a Token<'t>> {
    match argument {
        [value] => Some(value),
        [value, colons @ .., kind] => {
            let cast: Vec<u8> = colons.iter().flat_map(|token| token.body.to_vec()).collect();
            let known = ["text", "varchar", "bool", "boolean"].iter().any(|name| kind.is_word(name));
            (cast == b"::" && known).then_some(value)
        }
        [] => None,
    }
}

/// An empty one is none, as with settings in general. No token has a quote, which would be doubled here.
fn literal(token: &Token<'_>) -> Option<TokenValue> {
    if !matches!(token.kind, Kind::Text { escapes: false }) || token.body.contains(&b'\'') {
        return None;
    }
    let text = std::str::from_utf8(token.body).ok()?;
    Some(if text.is_empty() { TokenValue::Reset } else { TokenValue::Literal(text.to_owned()) })
}

fn parameter(token: &Token<'_>) -> Option<u16> {
    let number = std::str::from_utf8(token.body).ok()?.trim_start_matches('$').parse().ok()?;
    // No more than two can be of use.
    (1..=2).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Analyser;

    fn literal(text: &str, row: bool) -> Option<TokenStatement> {
        let call = row.then_some(Call { is_local: None });
        let tag = if row { "SELECT 1" } else { "SET" };
        Some(TokenStatement { value: TokenValue::Literal(text.to_owned()), call, tag })
    }

    #[test]
    fn a_token_is_set_in_any_of_the_usual_ways() {
        for text in [
            "SET pgward.token = 'a.b.c'",
            "set session pgward.token to 'a.b.c';",
            " /* of today */ SET pgward.token='a.b.c' ; ; -- done",
        ] {
            assert_eq!(token_statement(text.as_bytes()), literal("a.b.c", false), "{text}");
        }
        for text in [
            "select set_config('pgward.token', 'a.b.c', false)",
            "SELECT pg_catalog.set_config('pgward.token'::text, 'a.b.c'::varchar, FALSE);",
        ] {
            assert_eq!(token_statement(text.as_bytes()), literal("a.b.c", true), "{text}");
        }
        let bound = |text: &str| token_statement(text.as_bytes()).unwrap();
        let one = bound("select set_config('pgward.token', $1, false)");
        assert_eq!((one.value, one.call), (TokenValue::Parameter(1), Some(Call { is_local: None })));
        let two = bound("select set_config('pgward.token', $1::text, $2)");
        assert_eq!((two.value, two.call), (TokenValue::Parameter(1), Some(Call { is_local: Some(2) })));
    }

    #[test]
    fn a_token_is_given_up_in_any_of_the_usual_ways() {
        for text in [
            "RESET pgward.token",
            "set pgward.token to default",
            "set pgward.token = ''",
            "select set_config('pgward.token', null, false)",
            "select set_config('pgward.token', '', false)",
        ] {
            assert_eq!(token_statement(text.as_bytes()).map(|one| one.value), Some(TokenValue::Reset), "{text}");
        }
    }

    #[test]
    fn what_does_more_or_is_spelt_otherwise_is_noticed_and_not_taken() {
        let mut analyser = Analyser::new(64);
        for text in [
            "set pgward.token = 'a'; select 1",
            "select 1; set pgward.token = 'a'",
            "set local pgward.token = 'a'",
            "set PGWARD.Token = 'a'",
            "set \"pgward\".token = 'a'",
            "set pgward . token = 'a'",
            "set pgward.token = 'a' and garbage",
            "SET PGWARD.TOKEN = 'a",
            // What goes before cannot be read.
            "select '\\'; set pgward /* x */ . \"Token\" = 'a'",
            "select '\\'; set \"pgward\".token = 'a'",
            "select set_config('pgward.token'::text, 'a', false) as x",
            "select set_config(cast('pgward.token' as text), 'a', false)",
            "select set_config(('Pgward.token'), 'a', false)",
            "prepare q as select set_config('pgward.token'::text, $1, false)",
            "set pgward.token = E'\\x61'",
            "set pgward.token = 'it''s'",
            "set pgward.token = a",
            "reset \"pgward\".\"token\"",
            "select set_config('pgward.token', 'a', true)",
            "select set_config('PGWARD.TOKEN', 'a', false)",
            "select set_config('pgward.token', 'a', false) as x",
            "select set_config('pgward.token', 'a' || 'b', false)",
            "select 1, set_config('pgward.token', 'a', false)",
            "select set_config('pgward.token', $1, $1)",
            "select set_config('pgward.token', 'a')",
            "select set_config(setting_name => 'pgward.token', new_value => 'a')",
        ] {
            let taken = token_statement(text.as_bytes());
            let spelt = text.contains("pgward . token");
            assert!(taken.is_none() || spelt, "{text}: {taken:?}");
            assert!(analyser.facts(text.as_bytes()).token, "{text}");
        }
    }

    #[test]
    fn what_only_mentions_it_is_left_alone() {
        let mut analyser = Analyser::new(64);
        for text in [
            "insert into notes values ('SET pgward.token = ''x''')",
            "select current_setting('pgward.token', true)",
            "select 1 -- set pgward.token = 'a'",
            "set app.token = 'pgward.token'",
        ] {
            assert_eq!(token_statement(text.as_bytes()), None, "{text}");
            assert!(!analyser.facts(text.as_bytes()).token, "{text}");
        }
    }

    #[test]
    fn a_token_shows_in_no_debug_output() {
        assert!(!format!("{:?}", token_statement(b"set pgward.token = 'secret'")).contains("secret"));
    }
}
