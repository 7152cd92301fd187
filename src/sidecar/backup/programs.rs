//! PostgreSQL's own programs that look for damage in a restored copy.

use std::process::Output;

use super::error::BackupError;
use super::finding::Finding;
use super::scratch::Scratch;
use super::site::Site;

/// How much of what a program finds is said one by one.
const NAMED: usize = 20;

/// pg_amcheck's exit code for what it is there to find.
const FOUND: i32 = 2;

/// What a program found; or why it could not look, which shows nothing.
pub(super) enum Looked {
    Found(Vec<Finding>),
    Not(String),
}

/// Every table and every index by pg_amcheck, and that each row is in each index.
pub(super) async fn amcheck(site: &Site, scratch: &Scratch) -> Result<Looked, BackupError> {
    let options = ["--all", "--install-missing", "--heapallindexed", "--jobs=2"];
    let mut variables = scratch.environment();
    // What a database or a role of the cluster sets is not for this.
    let settings = "-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 \
                    -c idle_in_transaction_session_timeout=0";
    variables.push(("PGOPTIONS", settings.into()));
    let output = run(site, "pg_amcheck", &options, &variables).await?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(match output.status.code() {
        Some(0) => Looked::Found(Vec::new()),
        Some(FOUND) => Looked::Found(damaged(&said)),
        _ => Looked::Not(format!("pg_amcheck failed ({}): {}", output.status, errors(&output))),
    })
}

/// Every page by its checksum, in a copy that has been stopped.
pub(super) async fn checksums(site: &Site, scratch: &Scratch) -> Result<Looked, BackupError> {
    let data = scratch.server().data().display().to_string();
    let output = run(site, "pg_checksums", &["--check", "--pgdata", &data], &[]).await?;
    if output.status.success() {
        return Ok(Looked::Found(Vec::new()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let failed = said.lines().filter_map(|line| line.split_once("checksum verification failed in file "));
    let place = format!("{data}/");
    let mut findings: Vec<Finding> = failed
        .map(|(_, of)| {
            let of = of.replace(&place, "");
            Finding::danger("checksum_wrong", format!("a page of the copy does not have its checksum: {of}"))
        })
        .collect();
    if findings.is_empty() {
        return Ok(Looked::Not(format!("pg_checksums failed ({}): {}", output.status, errors(&output))));
    }
    shorten(&mut findings, "checksum_wrong");
    Ok(Looked::Found(findings))
}

async fn run(
    site: &Site,
    program: &'static str,
    options: &[&str],
    variables: &[(&'static str, std::ffi::OsString)],
) -> Result<Output, BackupError> {
    let path = site.host().binary(program);
    let mut command = tokio::process::Command::from(site.host().command(&path));
    command.args(options).envs(variables.iter().map(|(name, value)| (name, value))).kill_on_drop(true);
    command.output().await.map_err(BackupError::file("run", path))
}

/// Lines such as `heap table "app.public.t", block 0, offset 7:`, each with what is wrong on the lines below it.
fn damaged(said: &str) -> Vec<Finding> {
    let mut found: Vec<String> = Vec::new();
    for line in said.lines() {
        match found.last_mut() {
            Some(last) if line.starts_with(char::is_whitespace) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => found.push(line.trim().to_owned()),
        }
    }
    let finding = |text: String| {
        let object = text.split('"').nth(1).map(str::to_owned);
        Finding { object, ..Finding::danger("damaged", format!("pg_amcheck: {text}")) }
    };
    let mut findings: Vec<Finding> = found.into_iter().map(finding).collect();
    shorten(&mut findings, "damaged");
    findings
}

fn shorten(findings: &mut Vec<Finding>, kind: &'static str) {
    if let Some(more) = findings.len().checked_sub(NAMED).filter(|more| *more > 0) {
        findings.truncate(NAMED);
        findings.push(Finding::danger(kind, format!("{more} more of the kind {kind}")));
    }
}

/// The first lines of what it complained of.
fn errors(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().take(5).map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_amcheck_says_of_one_place_is_one_finding() {
        let said = "heap table \"app.public.t\", block 0, offset 7:\n    xmin 5 precedes relation freeze threshold\n\
                    btree index \"app.public.t_pkey\":\n    ERROR:  index is damaged\n    DETAIL:  here\n";
        let found = damaged(said);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].object.as_deref(), Some("app.public.t"));
        assert!(found[1].text.ends_with("t_pkey\": ERROR:  index is damaged DETAIL:  here"), "{}", found[1].text);
        let many = "btree index \"a\":\n    ERROR\n".repeat(25);
        let found = damaged(&many);
        assert_eq!((found.len(), found[20].text.as_str()), (21, "5 more of the kind damaged"));
    }
}
