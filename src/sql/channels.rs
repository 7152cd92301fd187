//! Names of notification channels in a text, given other names.
//!
//! PostgreSQL knows no owners of channels: all sessions of a database share them. Where tenants share a
//! database, each has channels of its own, which are spelled so that no other tenant can guess them.

use super::shape::{Kind, Lexer, Token};

/// What takes a name and sends it to the tenant's own channel. It is called as PostgreSQL's own is, so that
/// the result's column is too.
const NOTIFY: &str = "pgward.pg_notify";

/// The text with the channels of `LISTEN`, `UNLISTEN` and `NOTIFY` renamed, and `pg_notify` sent through the
/// tenant's. `None`: there is nothing to rename, or the text cannot be followed, and then nobody will hear.
pub fn rename(text: &[u8], mut name: impl FnMut(&str) -> String) -> Option<Vec<u8>> {
    let tokens: Vec<Token<'_>> = Lexer::new(text).collect::<Result<_, _>>().ok()?;
    let mut out = Vec::with_capacity(text.len() + 64);
    let mut done = 0;
    for (at, token) in tokens.iter().enumerate() {
        let before = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at));
        let after = |on: usize| tokens.get(at + on);
        let is_symbol = |token: Option<&Token<'_>>, symbol| token.is_some_and(|token| token.is_symbol(symbol));
        let opens = at == 0 || is_symbol(before(1), ";");
        let (from, to, instead) = if opens && ["listen", "unlisten", "notify"].iter().any(|word| token.is_word(word)) {
            let Some(target) = after(1) else { continue };
            let Some(channel) = target.identifier() else { continue };
            let (from, to) = place(text, target)?;
            (from, to, format!("\"{}\"", name(&channel)))
        } else if token.is_name("pg_notify") && is_symbol(after(1), "(") {
            let (mut from, to) = place(text, token)?;
            if is_symbol(before(1), ".") {
                let Some(schema) = before(2).filter(|schema| schema.is_name("pg_catalog")) else { continue };
                from = place(text, schema)?.0;
            }
            (from, to, NOTIFY.to_owned())
        } else {
            continue;
        };
        out.extend_from_slice(text.get(done..from)?);
        out.extend_from_slice(instead.as_bytes());
        done = to;
    }
    if done == 0 {
        return None;
    }
    out.extend_from_slice(text.get(done..)?);
    Some(out)
}

/// Where a token stands in the text it was read from, quotes included.
fn place(text: &[u8], token: &Token<'_>) -> Option<(usize, usize)> {
    let from = (token.body.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let quotes = usize::from(matches!(token.kind, Kind::Quoted));
    Some((from.checked_sub(quotes)?, from + token.body.len() + quotes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(text: &str) -> String {
        rename(text.as_bytes(), |name| format!("<{name}>"))
            .map_or_else(|| "-".to_owned(), |text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn channels_are_renamed_where_they_are_named() {
        for (text, expected) in [
            ("listen a", "listen \"<a>\""),
            ("LISTEN /* x */ Abc ;", "LISTEN /* x */ \"<abc>\" ;"),
            ("listen \"A\"\"b\"", "listen \"<A\"b>\""),
            ("unlisten a; notify b, 'c'", "unlisten \"<a>\"; notify \"<b>\", 'c'"),
            ("unlisten *", "-"),
            ("select pg_notify('a', $1)", "select pgward.pg_notify('a', $1)"),
            ("select pg_catalog . pg_notify ($1, 'x'), 1", "select pgward.pg_notify ($1, 'x'), 1"),
            ("select \"pg_notify\"(a, b) from t", "select pgward.pg_notify(a, b) from t"),
            ("select mine.pg_notify('a', 'b')", "-"),
            ("select pg_notify from t", "-"),
            ("select 'listen a', 1 as listen", "-"),
            ("notify 'a", "-"),
            ("begin; listen a; commit", "begin; listen \"<a>\"; commit"),
        ] {
            assert_eq!(renamed(text), expected, "{text}");
        }
        assert_eq!(renamed(&format!("listen {}", "a".repeat(70))), format!("listen \"<{}>\"", "a".repeat(63)));
    }
}
