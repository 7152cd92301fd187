//! Text that comes from outside, made fit for the log.

use serde::Serialize;

/// A name that is longer than this is cut. PostgreSQL's end at 63 bytes.
const LONGEST: usize = 128;

/// What stands where a token was.
const TOKEN: &str = "[token]";

/// From this length on a text that begins as a token does is taken for one.
const TOKEN_LENGTH: usize = 20;

/// A name as the log has it: bounded, and never a token that somebody gave in the place of a name. JSON escapes
/// the rest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Text(Box<str>);

impl Text {
    pub fn new(text: &str) -> Self {
        if holds_token(text) {
            return Self(TOKEN.into());
        }
        if text.len() <= LONGEST {
            return Self(text.into());
        }
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        Self(format!("{}...", text.get(..end).unwrap_or_default()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a JSON Web Token, or what is left of one that was cut, stands in the text: `eyJ` is how base64 of
/// `{"` begins.
pub(super) fn holds_token(text: &str) -> bool {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.match_indices("eyJ").any(|(at, _)| {
        let rest = text.as_bytes().get(at..).unwrap_or_default();
        rest.iter().take_while(|byte| part(byte)).count() >= TOKEN_LENGTH
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_place_of_a_name_is_not_shown_however_it_was_cut() {
        let token = "eyJhbGciOiJIUzI1NiJ9.eyJ0ZW5hbnQiOiJhY21lIn0.c2lnbmF0dXJl";
        for text in
            [token, &token[..30], &token[..20], &format!("bearer {token}"), &format!("{token}{}", "x".repeat(500))]
        {
            assert_eq!(Text::new(text).as_str(), "[token]", "{text}");
        }
        for text in ["acme", "eyJo", "a.b.c", ""] {
            assert_eq!(Text::new(text).as_str(), text);
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let long = "é".repeat(500);
        let cut = Text::new(&long);
        assert!(cut.as_str().len() <= LONGEST + 3 && cut.as_str().ends_with("é..."), "{cut:?}");
    }
}
