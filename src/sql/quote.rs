//! Names and texts as SQL spells them.

/// A quoted identifier (PostgreSQL documentation, 4.1.1).
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant that means the same under every setting of standard_conforming_strings.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// The name that an identifier at the start of the text means, and what follows it.
pub fn leading_identifier(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut rest = quoted;
        loop {
            let (part, after) = rest.split_once('"')?;
            name.push_str(part);
            match after.strip_prefix('"') {
                Some(more) => {
                    name.push('"');
                    rest = more;
                }
                None => return (!name.is_empty()).then_some((name, after)),
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '$'))).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let begins = name.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_');
    begins.then(|| (name.to_ascii_lowercase(), rest))
}

/// Text that stays on its line: a name may hold a line break, which would end a comment or forge a line of a
/// terminal.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_end_where_they_end() {
        assert_eq!(identifier("a\"; drop"), "\"a\"\"; drop\"");
        assert_eq!(literal("a'b\\c"), "E'a''b\\\\c'");
    }

    #[test]
    fn a_name_does_not_end_its_comment() {
        assert_eq!(one_line("a\n\x1b[2Jdrop"), "a\u{fffd}\u{fffd}[2Jdrop");
    }

    #[test]
    fn an_identifier_is_read_as_sql_reads_it() {
        let read = |text| leading_identifier(text).map(|(name, rest)| format!("{name}|{rest}"));
        assert_eq!(read("App.x").as_deref(), Some("app|.x"));
        assert_eq!(read("\"A.\"\"b\".x").as_deref(), Some("A.\"b|.x"));
        for wrong in ["", ".x", "1a", "\"\"", "\"open", "\"open\"\""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
