//! The map of the house, and the check that the code keeps to it.
//!
//! Every room (a module right below src/) stands on a floor. Code imports from floors below its own:
//! never from above, never from another room of its own floor. Three rooms stand apart from the floors
//! that their neighbours in spirit are on: `residency` is below `config`, which checks tenants against
//! it; `config` is below all that is configured, its types being values; and `cli` is above `proxy`,
//! which it runs. lib.rs and main.rs are the roof and may see all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Bottom first. A room that has no code yet does no harm here.
const FLOORS: [&[&str]; 11] = [
    &["base"],
    &["residency"],
    &["config"],
    &["wire", "sql", "net", "telemetry", "local"],
    &["auth", "tenant", "limits", "audit", "backend"],
    &["topology", "pool", "doctor"],
    &["route", "catalogue"],
    &["session", "proof"],
    &["admin", "sidecar"],
    &["proxy"],
    &["cli"],
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// One room naming another, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: String,
    to: String,
    at: String,
}

// ------------------------------------------------------------------------------------------ reading

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Mark(char),
}

/// Words and marks with their lines; comments, strings, characters and lifetimes are left out.
fn tokens(source: &str) -> Vec<(Token, usize)> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            '"' => i = after_string(&chars, i),
            'r' if raw_string(&chars, i).is_some() => i = raw_string(&chars, i).unwrap(),
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                i += if at(i + 1) == '\\' { 3 } else { 2 };
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            c if c.is_alphanumeric() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                out.push((Token::Word(chars[start..i].iter().collect()), line));
            }
            c => {
                if !c.is_whitespace() {
                    out.push((Token::Mark(c), line));
                }
                i += 1;
            }
        }
        line += chars[start..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    out
}

fn after_string(chars: &[char], quote: usize) -> usize {
    let mut i = quote + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The end of `r"..."` or `r#"..."#`, if one begins here; `r` may also just begin a word.
fn raw_string(chars: &[char], r: usize) -> Option<usize> {
    if r > 0 && (chars[r - 1].is_alphanumeric() && chars[r - 1] != 'b' || chars[r - 1] == '_') {
        return None;
    }
    let hashes = chars[r + 1..].iter().take_while(|c| **c == '#').count();
    let mut i = r + 1 + hashes;
    if chars.get(i) != Some(&'"') {
        return None;
    }
    i += 1;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(i)
}

/// What a file names of the crate's top level: `crate::x`, `crate::{x, y::z}`, and `super::` climbed up
/// to it. `path` is relative to src/.
fn named_rooms(path: &Path, source: &str) -> Vec<(String, usize)> {
    let tokens = tokens(source);
    let word = |i: usize| match tokens.get(i) {
        Some((Token::Word(word), _)) => Some(word.as_str()),
        _ => None,
    };
    let mark = |i: usize, c: char| matches!(tokens.get(i), Some((Token::Mark(m), _)) if *m == c);
    let path_sign = |i: usize| mark(i, ':') && mark(i + 1, ':');
    let mut found = Vec::new();
    let mut inline: Vec<usize> = Vec::new();
    let mut braces = 0;
    for i in 0..tokens.len() {
        if mark(i, '{') {
            braces += 1;
            if i >= 2 && word(i - 2) == Some("mod") {
                inline.push(braces);
            }
        }
        if mark(i, '}') {
            if inline.last() == Some(&braces) {
                inline.pop();
            }
            braces -= 1;
        }
        let begins = !(i >= 2 && path_sign(i - 2));
        let after = match word(i) {
            Some("crate") if path_sign(i + 1) => Some(i + 3),
            Some("super") if begins => {
                let mut next = i;
                let mut climbed = 0;
                while word(next) == Some("super") && path_sign(next + 1) {
                    climbed += 1;
                    next += 3;
                }
                (climbed > 0 && climbed >= depth(path) + inline.len()).then_some(next)
            }
            _ => None,
        };
        if let Some(next) = after {
            first_segments(&tokens, next, &mut found);
        }
    }
    found
}

/// How many modules a file is below the crate's root.
fn depth(path: &Path) -> usize {
    path.components().count() - usize::from(path.ends_with("mod.rs"))
}

/// The segment at `i`, or those of a list in braces.
fn first_segments(tokens: &[(Token, usize)], i: usize, found: &mut Vec<(String, usize)>) {
    match tokens.get(i) {
        Some((Token::Word(word), line)) => found.push((word.clone(), *line)),
        Some((Token::Mark('{'), _)) => {
            let mut depth = 0;
            let mut fresh = true;
            for (token, line) in &tokens[i..] {
                match token {
                    Token::Mark('{') => depth += 1,
                    Token::Mark('}') => depth -= 1,
                    Token::Mark(',') if depth == 1 => fresh = true,
                    Token::Word(word) if depth == 1 && fresh => {
                        found.push((word.clone(), *line));
                        fresh = false;
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
        }
        Some((Token::Mark(mark), line)) => found.push((mark.to_string(), *line)),
        None => {}
    }
}

/// The room that a file of src/ belongs to; none for lib.rs and main.rs.
fn room(path: &Path) -> Option<String> {
    let first = path.iter().next()?.to_str()?;
    let name = first.trim_end_matches(".rs");
    (!(path.iter().count() == 1 && matches!(name, "lib" | "main"))).then(|| name.to_owned())
}

fn imports(files: &[(PathBuf, String)]) -> Vec<Import> {
    let mut found = Vec::new();
    for (path, source) in files {
        let Some(from) = room(path) else { continue };
        for (to, line) in named_rooms(path, source) {
            if to != from {
                found.push(Import { from: from.clone(), to, at: format!("src/{}:{line}", path.display()) });
            }
        }
    }
    found
}

// ----------------------------------------------------------------------------------------- judging

/// Everything wrong with a house, each as a sentence that says what to do.
fn violations(files: &[(PathBuf, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let rooms: BTreeSet<String> = files.iter().filter_map(|(path, _)| room(path)).collect();
    for room in rooms.iter().filter(|room| floor(room).is_none()) {
        wrong.push(format!("src/{room} is not on the map; give it a floor in tests/architecture.rs"));
    }
    let imports = imports(files);
    for Import { from, to, at } in &imports {
        let (Some(own), other) = (floor(from), floor(to)) else { continue };
        match other {
            None => wrong.push(format!(
                "{at}: {from} names crate::{to}, which is no room on the map; what lib.rs holds is rooms only"
            )),
            Some(other) if other > own => wrong.push(format!(
                "{at}: {from} (floor {own}) imports {to} (floor {other}), which is above it; pass what it needs as \
                 an argument, or move it down"
            )),
            Some(other) if other == own => wrong.push(format!(
                "{at}: {from} imports {to}, its neighbour on floor {own}; what both need belongs a floor below"
            )),
            Some(_) => {}
        }
    }
    if let Some(cycle) = cycle(&imports) {
        wrong.push(format!("rooms import each other in a circle: {}", cycle.join(" > ")));
    }
    wrong
}

/// A circle among rooms, whatever the map says of them.
fn cycle(imports: &[Import]) -> Option<Vec<String>> {
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports {
        graph.entry(&import.from).or_default().insert(&import.to);
    }
    fn walk<'a>(
        graph: &BTreeMap<&'a str, BTreeSet<&'a str>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> bool {
        let here = way[way.len() - 1];
        for next in graph.get(here).into_iter().flatten() {
            if let Some(begin) = way.iter().position(|room| room == next) {
                way.drain(..begin);
                way.push(next);
                return true;
            }
            if !done.contains(next) {
                way.push(next);
                if walk(graph, way, done) {
                    return true;
                }
                way.pop();
            }
        }
        done.insert(here);
        false
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| {
        let mut way = vec![*start];
        walk(&graph, &mut way, &mut done).then(|| way.into_iter().map(str::to_owned).collect())
    })
}

// ------------------------------------------------------------------------------------------- tests

fn source_files() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((path.strip_prefix(&root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn the_house_stands_as_the_map_has_it() {
    let wrong = violations(&source_files());
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_forbidden_in_both_crates() {
    for (path, source) in source_files() {
        if room(&path).is_none() {
            assert!(
                source.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]"),
                "src/{} lacks #![forbid(unsafe_code)]",
                path.display()
            );
        }
    }
}

#[test]
fn files_stay_short_enough_to_be_read() {
    let long: Vec<String> = source_files()
        .iter()
        .map(|(path, source)| (path, source.lines().count()))
        .filter(|(_, lines)| *lines >= 600)
        .map(|(path, lines)| format!("src/{} has {lines} lines; split it below 600", path.display()))
        .collect();
    assert!(long.is_empty(), "\n{}\n", long.join("\n"));
}

/// Made-up houses: path below src/, text.
fn judged(files: &[(&str, &str)]) -> String {
    let files: Vec<_> = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
    violations(&files).join("\n")
}

#[test]
fn a_sound_house_is_let_pass() {
    let text = r##"
        //! crate::cli in a comment
        use crate::base::{Secret, ids::TenantId};
        use super::shape;
        /* crate::proxy /* nested */ crate::cli */
        const A: &str = "crate::cli \" crate::cli"; const B: &str = r#"crate::"cli"#; const C: char = '"';
        fn f<'a>(x: &'a str) -> crate::config::Problem { crate::route::g::<'a>('\'', x) }
        mod tests { use super::super::helper; use super::*; }
    "##;
    assert_eq!(judged(&[("session/relay.rs", text), ("lib.rs", "pub mod cli; use crate::proxy;")]), "");
}

#[test]
fn an_import_from_above_is_found_however_it_is_spelled() {
    for text in [
        "use crate::session::Started;",
        "use crate::{base::Secret, session::{Started}};",
        "use crate :: { session };",
        "fn f() { let x = crate::session::start(); }",
        "use super::session::Started;",
        "pub(in crate::session) fn f() {}",
        "mod inner { use super::super::session::X; }",
        "#[cfg(test)]\nmod tests { use crate::session::X; }",
    ] {
        let said = judged(&[("pool/mod.rs", text)]);
        assert!(said.contains("pool (floor 5) imports session (floor 7)"), "{text}: {said:?}");
    }
    let said = judged(&[("pool/wait/queue.rs", "\n\nuse super::super::super::session::X;")]);
    assert!(said.starts_with("src/pool/wait/queue.rs:3: pool"), "{said}");
}

#[test]
fn neighbours_strangers_and_circles_are_found() {
    assert!(judged(&[("auth/jwt.rs", "use crate::tenant::X;")]).contains("its neighbour on floor 4"));
    assert!(judged(&[("attic.rs", "")]).contains("src/attic is not on the map"));
    assert!(judged(&[("pool.rs", "use crate::VERSION;")]).contains("no room on the map"));
    let said = judged(&[("pool/mod.rs", "use crate::route::A;"), ("route.rs", "use crate::pool::B;")]);
    assert!(said.contains("in a circle: pool > route > pool"), "{said}");
}
