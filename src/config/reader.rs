//! Walks TOML tables and collects problems instead of stopping at the first one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::{Table, Value};

use super::{Problem, Snapshot};
use crate::base::Secret;

/// Remembers what was wrong, and where relative file names start.
pub(super) struct Reader {
    folder: PathBuf,
    problems: Vec<Problem>,
    /// What is to be taken for the tenants file's content, before it is written.
    tenants: Option<String>,
    /// What was read of the catalogue.
    snapshot: Option<Arc<Snapshot>>,
}

impl Reader {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), problems: Vec::new(), tenants: None, snapshot: None }
    }

    pub fn with_tenants(folder: &Path, tenants: &str) -> Self {
        Self { tenants: Some(tenants.to_owned()), ..Self::new(folder) }
    }

    pub fn with_snapshot(folder: &Path, snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot: Some(snapshot), ..Self::new(folder) }
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    pub fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub fn resolve(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What was read of the catalogue. `None`: it was not read.
    pub fn snapshot(&mut self) -> Option<Arc<Snapshot>> {
        self.snapshot.take()
    }

    /// The content of the tenants file.
    pub fn tenants(&mut self, at: &str, name: &str) -> Option<Vec<u8>> {
        match self.tenants.take() {
            Some(text) => Some(text.into_bytes()),
            None => self.file(at, name),
        }
    }

    /// The content of a file that the configuration names.
    pub fn file(&mut self, at: &str, name: &str) -> Option<Vec<u8>> {
        let path = self.resolve(name);
        match std::fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.problem(Problem::new(at, format!("the file cannot be read: {error}")).value(path.display()));
                None
            }
        }
    }
}

/// One table on its way to becoming a struct. Keys are taken out; what is left is unknown.
pub(super) struct Section {
    pub path: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    pub fn new(path: impl Into<String>, table: Table) -> Self {
        Self { path: path.into(), table, known: Vec::new() }
    }

    pub fn at(&self, key: &str) -> String {
        // TOML has keys of no characters, which would not show.
        let key = if key.is_empty() { "\"\"" } else { key };
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{}", self.path, key) }
    }

    pub fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// A key that must be there.
    pub fn require(&mut self, reader: &mut Reader, key: &'static str, example: &str) -> Option<Value> {
        let value = self.take(key);
        if value.is_none() {
            reader.problem(Problem::new(self.at(key), "is missing").example(format!("{key} = {example}")));
        }
        value
    }

    pub fn optional<T: FromToml>(&mut self, reader: &mut Reader, key: &'static str) -> Option<T> {
        let value = self.take(key)?;
        T::from_toml(reader, &self.at(key), value)
    }

    pub fn required<T: FromToml>(&mut self, reader: &mut Reader, key: &'static str, example: &str) -> Option<T> {
        let value = self.require(reader, key, example)?;
        T::from_toml(reader, &self.at(key), value)
    }

    /// A whole number within bounds, or the default.
    pub fn number(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        default: usize,
        range: std::ops::RangeInclusive<usize>,
    ) -> usize {
        let Some(value) = self.take(key) else { return default };
        let number = value.as_integer().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n));
        number.unwrap_or_else(|| {
            reader.problem(
                Problem::new(self.at(key), format!("must be a whole number from {} to {}", range.start(), range.end()))
                    .value(value)
                    .example(format!("{key} = {default}")),
            );
            default
        })
    }

    pub fn duration(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = self.take(key) else { return default };
        match value.as_str().and_then(parse_duration).filter(|d| range.contains(d)) {
            Some(duration) => duration,
            None => {
                reader.problem(
                    Problem::new(
                        self.at(key),
                        format!(
                            "must be a duration from {} to {}, written as a number and ms, s, m, h or d",
                            spoken(*range.start()),
                            spoken(*range.end())
                        ),
                    )
                    .value(value)
                    .example(format!("{key} = \"{}\"", spoken(default))),
                );
                default
            }
        }
    }

    /// A number of bytes, or the default.
    pub fn size(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        let Some(value) = self.take(key) else { return default };
        let bytes = match &value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            other => other.as_str().and_then(parse_size),
        };
        bytes.filter(|bytes| range.contains(bytes)).unwrap_or_else(|| {
            let (least, most) = (spoken_size(*range.start()), spoken_size(*range.end()));
            reader.problem(
                Problem::new(
                    self.at(key),
                    format!(
                        "must be a size from {least} to {most}, written as bytes, or as a number and KiB, MiB or GiB"
                    ),
                )
                .value(value)
                .example(format!("{key} = \"{}\"", spoken_size(default))),
            );
            default
        })
    }

    /// One of a few words, or the default.
    pub fn choice<T: Copy>(&mut self, reader: &mut Reader, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.take(key)?;
        choose(reader, &self.at(key), &value, choices)
    }

    pub fn section(&mut self, reader: &mut Reader, key: &'static str) -> Option<Section> {
        let path = self.at(key);
        match self.take(key)? {
            Value::Table(table) => Some(Section::new(path, table)),
            other => {
                reader.problem(Problem::new(path, "must be a table").value(other));
                None
            }
        }
    }

    /// A table whose keys are names of the operator's choosing.
    pub fn entries(&mut self, reader: &mut Reader, key: &'static str) -> Vec<(String, String, Value)> {
        self.section(reader, key).map(Section::into_entries).unwrap_or_default()
    }

    pub fn into_entries(self) -> Vec<(String, String, Value)> {
        let Self { path, table, .. } = self;
        table.into_iter().map(|(key, value)| (format!("{path}.{key}"), key, value)).collect()
    }

    /// Says which keys nobody asked for.
    pub fn finish(self, reader: &mut Reader) {
        for key in self.table.keys() {
            let mut problem = Problem::new(self.at(key), "is not a known key");
            if let Some(near) = self.known.iter().find(|known| distance(known, key) <= 2) {
                problem = problem.example(format!("did you mean {near}?"));
            }
            reader.problem(problem);
        }
    }
}

pub(super) fn choose<T: Copy>(reader: &mut Reader, at: &str, value: &Value, choices: &[(&str, T)]) -> Option<T> {
    let found = value.as_str().and_then(|word| choices.iter().find(|(name, _)| *name == word));
    if found.is_none() {
        let words: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        reader.problem(Problem::new(at, format!("must be one of {}", words.join(", "))).value(value));
    }
    found.map(|(_, choice)| *choice)
}

/// A TOML value turned into a type, or a problem.
pub(super) trait FromToml: Sized {
    fn from_toml(reader: &mut Reader, at: &str, value: Value) -> Option<Self>;
}

impl FromToml for String {
    fn from_toml(reader: &mut Reader, at: &str, value: Value) -> Option<Self> {
        match value {
            Value::String(text) if !text.contains('\0') => Some(text),
            other => {
                reader.problem(Problem::new(at, "must be a string without NUL").value(kind(&other)));
                None
            }
        }
    }
}

impl FromToml for bool {
    fn from_toml(reader: &mut Reader, at: &str, value: Value) -> Option<Self> {
        if let Value::Boolean(flag) = value {
            return Some(flag);
        }
        reader.problem(Problem::new(at, "must be true or false").value(kind(&value)));
        None
    }
}

/// One string or a list of them.
impl FromToml for Vec<String> {
    fn from_toml(reader: &mut Reader, at: &str, value: Value) -> Option<Self> {
        match value {
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(i, v)| String::from_toml(reader, &format!("{at}[{i}]"), v))
                .collect(),
            single => String::from_toml(reader, at, single).map(|text| vec![text]),
        }
    }
}

/// `"text"`, `{ file = "name" }` or `{ env = "NAME" }`. The value itself never enters a problem.
impl FromToml for Secret {
    fn from_toml(reader: &mut Reader, at: &str, value: Value) -> Option<Self> {
        let bytes = match value {
            Value::String(text) => text.into_bytes(),
            Value::Table(table) => {
                let mut section = Section::new(at, table);
                let file = section.optional::<String>(reader, "file");
                let env = section.optional::<String>(reader, "env");
                section.finish(reader);
                match (file, env) {
                    (Some(file), None) => trim_line_end(reader.file(at, &file)?),
                    (None, Some(name)) => match std::env::var(&name) {
                        Ok(text) => text.into_bytes(),
                        Err(_) => {
                            reader.problem(Problem::new(at, format!("environment variable {name} is not set")));
                            return None;
                        }
                    },
                    _ => {
                        reader.problem(
                            Problem::new(at, "needs exactly one of file and env").example("{ file = \"secret\" }"),
                        );
                        return None;
                    }
                }
            }
            other => {
                reader
                    .problem(Problem::new(at, "must be a string, { file = ... } or { env = ... }").value(kind(&other)));
                return None;
            }
        };
        if bytes.is_empty() {
            reader.problem(Problem::new(at, "is empty"));
            return None;
        }
        Some(Secret::new(bytes))
    }
}

/// Editors end files with a line feed that is no part of a secret.
fn trim_line_end(mut bytes: Vec<u8>) -> Vec<u8> {
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    bytes
}

/// What stands there, without its content: a misplaced secret must not be echoed.
fn kind(value: &Value) -> String {
    format!("(a TOML {})", value.type_str())
}

macro_rules! from_name {
    ($($name:ty),*) => {$(
        impl FromToml for $name {
            fn from_toml(reader: &mut Reader, at: &str, value: Value) -> Option<Self> {
                let text = String::from_toml(reader, at, value)?;
                match <$name>::parse(&text) {
                    Ok(name) => Some(name),
                    Err(error) => {
                        reader.problem(Problem::new(at, error.to_string()).value(format!("{text:?}")));
                        None
                    }
                }
            }
        }
    )*};
}
from_name!(
    crate::base::TenantId,
    crate::base::ClusterName,
    crate::base::ServerName,
    crate::base::Region,
    crate::base::Access,
    crate::base::GrantName,
    crate::base::RepositoryName,
    crate::base::TierName,
    crate::base::NodeName,
    crate::base::ClassName,
    crate::base::PartitionsName
);

/// `250ms`, `10s`, `5m`, `1h`, `30d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    match unit.trim() {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        _ => None,
    }
}

const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// `64KiB`, `64MiB`, `1GiB`.
fn parse_size(text: &str) -> Option<u64> {
    let (number, factor) = SIZES.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(*factor)
}

fn spoken_size(bytes: u64) -> String {
    let unit = SIZES.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| bytes.to_string(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// A duration as a person would write it.
fn spoken(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= factor && ms.is_multiple_of(factor) {
            return format!("{}{unit}", ms / factor);
        }
    }
    format!("{ms}ms")
}

/// Levenshtein distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = if ca == *cb { diagonal } else { diagonal + 1 };
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Names in a table must be valid and are unique by TOML's own rules.
pub(super) fn name_of<T: FromToml>(reader: &mut Reader, at: &str, key: String) -> Option<T> {
    T::from_toml(reader, at, Value::String(key))
}

/// A value that must be a table.
pub(super) fn table(reader: &mut Reader, at: &str, value: Value) -> Option<Section> {
    match value {
        Value::Table(table) => Some(Section::new(at, table)),
        other => {
            reader.problem(Problem::new(at, "must be a table").value(kind(&other)));
            None
        }
    }
}

/// A table that need not stand there.
pub(super) fn empty(path: &str, section: Option<Section>) -> Section {
    section.unwrap_or_else(|| Section::new(path, Table::new()))
}

/// A map read entry by entry; entries with problems are left out, the problems are kept.
pub(super) fn map<K: Ord + FromToml, V>(
    reader: &mut Reader,
    entries: Vec<(String, String, Value)>,
    mut read: impl FnMut(&mut Reader, &str, &K, Value) -> Option<V>,
) -> BTreeMap<K, V> {
    let mut out = BTreeMap::new();
    for (at, key, value) in entries {
        if let Some(name) = name_of::<K>(reader, &at, key)
            && let Some(item) = read(reader, &at, &name, value)
        {
            out.insert(name, item);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_written() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("2d"), Some(Duration::from_secs(172_800)));
        for bad in ["", "10", "s", "-1s", "1w", "99999999999999999999s"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
        assert_eq!(spoken(Duration::from_secs(5400)), "90m");
    }

    #[test]
    fn sizes_are_read_as_written() {
        assert_eq!(parse_size("64MiB"), Some(64 << 20));
        assert_eq!(parse_size("1 GiB"), Some(1 << 30));
        for bad in ["", "10", "MiB", "-1KiB", "1MB", "99999999999999GiB"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
        assert_eq!((spoken_size(64 << 20), spoken_size(1000)), ("64MiB".to_owned(), "1000".to_owned()));
    }

    #[test]
    fn a_near_miss_is_two_letters_away_at_most() {
        assert_eq!(distance("adress", "address"), 1);
        assert_eq!(distance("tls", "tenants"), 5);
    }
}
