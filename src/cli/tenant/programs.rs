//! PostgreSQL's own client programs, which know best how a dump is made and read.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::Failure;

/// From the folder in `PGWARD_PG_BIN`, or from the PATH.
fn program(name: &str) -> PathBuf {
    match std::env::var_os("PGWARD_PG_BIN") {
        Some(bin) => Path::new(&bin).join(name),
        None => PathBuf::from(name),
    }
}

/// Runs one to its end and returns what it writes. Dropped, it is killed.
pub(super) async fn run(name: &str, arrange: impl FnOnce(&mut Command)) -> Result<String, Failure> {
    let program = program(name);
    let mut command = Command::new(&program);
    arrange(&mut command);
    let done = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let done = done.map_err(|error| {
        let program = program.display();
        Failure::said(format!(
            "{program} cannot be run: {error}; it comes with PostgreSQL's client programs, and PGWARD_PG_BIN says where"
        ))
    })?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    // DETAIL and CONTEXT would show rows.
    let said = String::from_utf8_lossy(&done.stderr);
    let said: Vec<&str> = said.lines().filter(|line| line.contains("error:") || line.contains("ERROR:")).collect();
    Err(Failure::said(format!("{name} failed: {}", said.join("; "))))
}
