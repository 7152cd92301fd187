//! Commands that want a whole database to themselves.

use super::shape::{Lexer, Token};

/// The database that nobody may be connected to for this text to succeed: `DROP DATABASE`,
/// `ALTER DATABASE ... RENAME` or `SET TABLESPACE`, and the template of a `CREATE DATABASE`.
pub fn database_wanted_alone(text: &[u8]) -> Option<String> {
    // What is looked at in every text.
    if !matches!(text.trim_ascii_start().first(), Some(b'd' | b'D' | b'a' | b'A' | b'c' | b'C')) {
        return None;
    }
    let mut lexer = Lexer::new(text);
    let (verb, object) = (lexer.next()?.ok()?, lexer.next()?.ok()?);
    if !object.is_word("database") {
        return None;
    }
    let rest: Vec<Token<'_>> = lexer.collect::<Result<_, _>>().ok()?;
    let word = |at: usize, word| rest.get(at).is_some_and(|token| token.is_word(word));
    if verb.is_word("drop") {
        let at = if word(0, "if") && word(1, "exists") { 2 } else { 0 };
        return rest.get(at)?.identifier();
    }
    if verb.is_word("alter") {
        return (word(1, "rename") || (word(1, "set") && word(2, "tablespace"))).then(|| rest.first()?.identifier())?;
    }
    let at = rest.iter().position(|token| token.is_word("template")).filter(|_| verb.is_word("create"))?;
    let value = rest.get(at + 1)?;
    if value.is_symbol("=") { rest.get(at + 2)?.identifier() } else { value.identifier() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_to_go_is_told_by_its_name() {
        for (text, name) in [
            ("DROP DATABASE Test;", Some("test")),
            ("drop database if exists \"Test\" with (force)", Some("Test")),
            ("alter database a rename to b", Some("a")),
            ("alter database a set tablespace t", Some("a")),
            ("create database b encoding 'UTF8' template a", Some("a")),
            ("create database b with template = \"A\"", Some("A")),
            ("create database b", None),
            ("alter database a set timezone = 'UTC'", None),
            ("drop table database", None),
            ("delete from database", None),
            ("select 1", None),
        ] {
            assert_eq!(database_wanted_alone(text.as_bytes()).as_deref(), name, "{text}");
        }
    }
}
