//! A statement's text without what it says about anybody's data.

use pg_query::protobuf::Token;

/// The text with `?` for every constant, and without comments. `None`: it cannot be read for certain, so nothing
/// of it is safe to show.
///
/// It goes by tokens, since `pg_query::normalize` keeps the constants of most utility statements, such as
/// passwords in options and the bodies of functions.
pub fn without_constants(text: &str) -> Option<String> {
    // With standard_conforming_strings off the literal would go on where this reading ends it.
    if text.contains("\\'") {
        return None;
    }
    pg_query::summary(text, 0, -1).ok()?;
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    // Not scan_tokens, which makes a slice of a null pointer where a text has no tokens (pg_query 18.1).
    for token in pg_query::scan(text).ok()?.tokens {
        let (from, to) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        if from > end && !out.is_empty() && !out.ends_with(' ') {
            out.push(' ');
        }
        end = to;
        match Token::try_from(token.token).ok()? {
            Token::SqlComment | Token::CComment => {}
            Token::Fconst | Token::Iconst | Token::Sconst | Token::Usconst | Token::Bconst | Token::Xconst => {
                out.push('?')
            }
            _ => out.push_str(text.get(from..to)?),
        }
    }
    out.truncate(out.trim_end().len());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_the_statement_and_no_value() {
        for (text, expected) in [
            ("select * from t where a = 'secret' and b = 4711", "select * from t where a = ? and b = ?"),
            (
                "insert into t values ($1, E'sec\\nret', 0x2f, b'101', x'1F', 1.5e3)",
                "insert into t values ($1, ?, ?, ?, ?, ?)",
            ),
            ("select $q$ secret $q$ -- secret\n, 'a' /* secret */ ;", "select ? , ? ;"),
            ("alter role app password 'secret'", "alter role app password ?"),
            (
                "create user mapping for app server s options (password 'secret')",
                "create user mapping for app server s options (password ?)",
            ),
            (
                "create subscription s connection 'password=secret' publication p",
                "create subscription s connection ? publication p",
            ),
            ("do $$ begin perform 'secret'; end $$", "do ?"),
            ("set app.key to 'secret'", "set app.key to ?"),
            ("notify c, 'secret'", "notify c, ?"),
            ("comment on table t is 'secret'", "comment on table t is ?"),
            ("select U&'secret' || U&\"t\"", "select ? || U&\"t\""),
            ("", ""),
            (" -- secret", ""),
        ] {
            assert_eq!(without_constants(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_for_certain_is_not_shown() {
        for text in ["selec 'secret", "select 'a\\' or secret' '", "password secret", "select 'secret' from"] {
            assert_eq!(without_constants(text), None, "{text}");
        }
    }
}
