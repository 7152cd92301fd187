//! A page of headings, lines and tables, for a terminal or for a browser.

use std::fmt::Write;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page(Vec<Block>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Block {
    /// Of level 1 to 3.
    Heading(usize, String),
    Line(String),
    Table(Vec<&'static str>, Vec<Vec<String>>),
}

/// Neither loads anything nor runs anything.
const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
    <meta name=\"viewport\" content=\"width=device-width\">\n";

const STYLE: &str = "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:.5em 0 1em}td,th{text-align:left;padding:.2em 1em .2em 0;\
    border-bottom:1px solid #ddd;vertical-align:top}h2{margin-top:2em}</style>\n";

impl Page {
    pub(super) fn heading(&mut self, level: usize, text: impl Into<String>) {
        self.0.push(Block::Heading(level.clamp(1, 3), text.into()));
    }

    pub(super) fn line(&mut self, text: impl Into<String>) {
        self.0.push(Block::Line(text.into()));
    }

    /// Nothing where there are no rows but for what then stands there.
    pub(super) fn table(&mut self, head: &[&'static str], rows: Vec<Vec<String>>, none: &str) {
        match rows.is_empty() {
            true => self.line(none),
            false => self.0.push(Block::Table(head.to_vec(), rows)),
        }
    }

    /// Without control characters, whatever a log has in it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for block in &self.0 {
            // Writing to a string does not fail.
            let _ = match block {
                Block::Heading(1, text) => writeln!(out, "{}", plain(text)),
                Block::Heading(2, text) => writeln!(out, "\n{}", plain(text)),
                Block::Heading(_, text) => writeln!(out, "\n  {}", plain(text)),
                Block::Line(text) => writeln!(out, "  {}", plain(text)),
                Block::Table(head, rows) => write!(out, "{}", columns(head, rows)),
            };
        }
        out
    }

    pub fn html(&self) -> String {
        let title = self.0.iter().find_map(|block| match block {
            Block::Heading(1, text) => Some(escaped(text)),
            _ => None,
        });
        let mut out = format!("{HEAD}<title>{}</title>\n{STYLE}<body>\n", title.unwrap_or_default());
        for block in &self.0 {
            let _ = match block {
                Block::Heading(level, text) => writeln!(out, "<h{level}>{}</h{level}>", escaped(text)),
                Block::Line(text) => writeln!(out, "<p>{}</p>", escaped(text)),
                Block::Table(head, rows) => {
                    let cells = |tag: &str, row: &mut dyn Iterator<Item = &str>| {
                        let cells: String = row.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
                        format!("<tr>{cells}</tr>\n")
                    };
                    let head = cells("th", &mut head.iter().copied());
                    let rows: String =
                        rows.iter().map(|row| cells("td", &mut row.iter().map(String::as_str))).collect();
                    writeln!(out, "<table>\n{head}{rows}</table>")
                }
            };
        }
        out.push_str("</body>\n</html>\n");
        out
    }
}

/// As wide as what is in them.
fn columns(head: &[&'static str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|text| text.to_uppercase()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let all = || std::iter::once(&head).chain(&rows);
    let width = |column: usize| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut out = String::new();
    for row in all() {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column).unwrap_or(0);
            format!("{cell:width$}")
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "    {}", line.trim_end());
    }
    out
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in plain(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_log_has_in_it_does_nothing_to_a_terminal_or_a_browser() {
        let mut page = Page::default();
        page.heading(1, "<script>");
        page.line("a\u{1b}[2Jb & \"c\"\u{9b}");
        page.table(&["x"], vec![vec!["<img src='y'>\n".to_owned()]], "none");
        let (text, html) = (page.text(), page.html());
        assert!(!text.contains('\u{1b}') && !text.contains('\u{9b}'), "{text:?}");
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains('\u{1b}'), "{html}");
        assert!(html.contains("&lt;img src=&#39;y&#39;&gt;") && html.contains("a [2Jb &amp; &quot;c&quot;"), "{html}");
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut page = Page::default();
        page.table(&["a", "b"], vec![vec!["longer".to_owned(), "é".to_owned()]], "none");
        page.table(&["a"], Vec::new(), "none");
        assert_eq!(page.text(), "    A       B\n    longer  é\n  none\n");
    }
}
