//! Names and texts as SQL spells them.

/// A quoted identifier (PostgreSQL documentation, 4.1.1).
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant that means the same under every setting of standard_conforming_strings.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_end_where_they_end() {
        assert_eq!(identifier("a\"; drop"), "\"a\"\"; drop\"");
        assert_eq!(literal("a'b\\c"), "E'a''b\\\\c'");
    }
}
