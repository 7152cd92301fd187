//! `SET LOCAL pgward.route = '...'`: where one transaction is to be.

use super::shape::{Kind, Lexer, Token, behind_blanks};

/// What the text says, if it is one such statement and nothing else. Asked of each statement in a transaction: most do
/// not begin like it.
pub fn local_route(text: &[u8]) -> Option<String> {
    behind_blanks(text).get(..3).filter(|first| first.eq_ignore_ascii_case(b"set"))?;
    let mut tokens: Vec<Token<'_>> = Lexer::new(text).collect::<Result<_, _>>().ok()?;
    while tokens.last().is_some_and(|token| token.is_symbol(";")) {
        tokens.pop();
    }
    let [set, local, schema, dot, name, to, value] = &tokens[..] else { return None };
    let setting = schema.is_word("pgward") && dot.is_symbol(".") && name.is_word("route");
    let sets = set.is_word("set") && local.is_word("local") && (to.is_symbol("=") || to.is_word("to"));
    let said = matches!(value.kind, Kind::Word | Kind::Quoted | Kind::Text { escapes: false });
    (sets && setting && said).then(|| String::from_utf8_lossy(value.body).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_for_one_transaction_counts() {
        for text in ["/* app */ set local pgward.route = 'replica'", "SET LOCAL PgWard.Route TO Replica ; -- now"] {
            assert_eq!(local_route(text.as_bytes()).as_deref(), Some("replica"), "{text}");
        }
        for text in [
            "set pgward.route = 'replica'",
            "set local pgward.routes = 'replica'",
            "select 'set local pgward.route = x'",
            "set local pgward.route = 'replica'; select 1",
            "set local pgward.route = 'a",
        ] {
            assert_eq!(local_route(text.as_bytes()), None, "{text}");
        }
    }
}
