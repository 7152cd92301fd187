//! An audit log, read by tests.

#![allow(dead_code, reason = "each user of this file needs its own part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::until;

/// A place for a log, gone when dropped.
pub struct Log {
    pub folder: tempfile::TempDir,
    pub path: PathBuf,
}

impl Log {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        Self { folder, path }
    }

    /// The table for a configuration, with what else is to stand in it.
    pub fn table(&self, more: &str) -> String {
        format!("[audit]\nfile = \"{}\"\n{more}\n", self.path.display())
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// The whole lines of the file in use.
    pub fn lines(&self) -> Vec<Value> {
        parse(&self.text())
    }

    pub fn of(&self, event: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// Waits for a line of this event with these members.
    pub async fn await_line(&self, event: &str, members: &[(&str, &str)]) -> Value {
        let fits =
            |line: &Value| line["event"] == event && members.iter().all(|(name, value)| shown(&line[*name]) == *value);
        until(&format!("a line {event} with {members:?} in\n{}", self.text()), async || self.lines().iter().any(fits))
            .await;
        self.lines().into_iter().rfind(fits).unwrap()
    }
}

pub fn parse(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `pgward audit verify` with these arguments: exit code, standard output, standard error.
pub fn verify(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
    let output = command.args(["audit", "verify"]).args(arguments).env_remove("PGWARD_CONFIG").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Panics unless the files are one good chain.
pub fn assert_good(files: &[&Path]) -> String {
    let names: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let (code, said, error) = verify(&names);
    assert_eq!(code, Some(0), "{said}{error}");
    said
}
