//! Names in SQL.

pub(super) use crate::sql::{identifier, one_line};

/// A setting's name, whose parts are identifiers.
pub(super) fn setting(name: &str) -> String {
    name.split('.').map(identifier).collect::<Vec<_>>().join(".")
}

/// The names of a list such as search_path, without their quotes.
pub(super) fn names(list: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut quoted = false;
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(name) = names.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                name.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(String::new()),
            c if c.is_whitespace() && !quoted => {}
            c => name.push(c),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_split_outside_of_quotes_only() {
        assert_eq!(names("pg_catalog, \"we\"\"ird, x\", pg_temp"), ["pg_catalog", "we\"ird, x", "pg_temp"]);
        assert_eq!(names("\"\""), [""]);
    }
}
