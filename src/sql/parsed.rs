//! A text as both readers of it have it: our tokens, and the parser's summary.

use pg_query::SummaryResult;

use super::shape::{Lexer, Mark, Marker, Token};

/// PostgreSQL's parser or our lexer cannot follow the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

pub(super) struct Parsed<'a> {
    pub tokens: Vec<Token<'a>>,
    /// Of each token.
    pub marks: Vec<Mark>,
    pub summary: SummaryResult,
}

impl<'a> Parsed<'a> {
    /// `text` holds no NUL.
    pub fn of(text: &'a str) -> Result<Self, Unreadable> {
        let summary = pg_query::summary(text, 0, -1).map_err(|_| Unreadable)?;
        let mut marker = Marker::default();
        let marked: Vec<(Token<'_>, Mark)> = Lexer::new(text.as_bytes())
            .map(|token| token.map(|token| (token, marker.mark(&token))))
            .collect::<Result<_, _>>()
            .map_err(|_| Unreadable)?;
        let (tokens, marks) = marked.into_iter().unzip();
        Ok(Self { tokens, marks, summary })
    }
}
