//! Checks in other languages: a script tells on its standard output `#plan NAME...`, then for each check
//! `#begin NAME` and `#good NAME` or `#bad NAME WHY`. A script that dies or hangs in one check is started
//! again for those that are left.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::judge::Outcome;
use crate::place::Urls;

/// Scripts end a check that hangs by themselves, well before this.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Script {
    program: PathBuf,
    file: PathBuf,
}

impl Script {
    pub fn python(name: &str) -> Self {
        Self::new(&installed().join("venv/bin/python"), name)
    }

    pub fn node(name: &str) -> Self {
        Self::new(Path::new("node"), name)
    }

    fn new(program: &Path, name: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(name);
        Self { program: program.to_owned(), file }
    }

    pub async fn run(&self, urls: &Urls, names: &[String]) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut left = names.to_vec();
        loop {
            let plan = self.run_once(urls, &left, &mut outcomes).await;
            let done = |name: &String| outcomes.iter().any(|outcome| outcome.name == *name);
            left = plan.into_iter().filter(|name| !done(name)).collect();
            if left.is_empty() {
                return outcomes;
            }
        }
    }

    /// Says what was planned. At least one outcome is added.
    async fn run_once(&self, urls: &Urls, names: &[String], outcomes: &mut Vec<Outcome>) -> Vec<String> {
        let before = outcomes.len();
        let mut child = Command::new(&self.program)
            .arg(&self.file)
            .args(names)
            .env("PGWARD_ROWS", &urls.rows)
            .env("PGWARD_OTHER", &urls.other)
            .env("PGWARD_SCHEMA", &urls.schema)
            .env("PGWARD_BACKENDS", urls.backends.unwrap_or(0).to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PGWARD_NODE_MODULES", installed().join("node/node_modules"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; run scripts/drivers", self.program.display()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = child.stderr.take().unwrap();
        let complaints = tokio::spawn(async move {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text).await;
            text
        });
        let mut plan = Vec::new();
        let mut current: Option<(String, Instant)> = None;
        let mut hung = false;
        loop {
            let line = match tokio::time::timeout(PATIENCE, lines.next_line()).await {
                Ok(line) => line.unwrap(),
                Err(_) => {
                    hung = true;
                    child.kill().await.unwrap();
                    None
                }
            };
            let Some(line) = line else { break };
            let (kind, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let end = |why: Option<&str>, name: &str, began: &Option<(String, Instant)>| Outcome {
                name: name.to_owned(),
                why: why.map(str::to_owned),
                took: began.as_ref().map(|(_, at)| at.elapsed()).unwrap_or_default(),
            };
            match kind {
                "#plan" => plan = rest.split_whitespace().map(str::to_owned).collect(),
                "#begin" => current = Some((rest.to_owned(), Instant::now())),
                "#good" => outcomes.push(end(None, rest, &current.take())),
                "#bad" => {
                    let (name, why) = rest.split_once(' ').unwrap_or((rest, "no reason given"));
                    outcomes.push(end(Some(why), name, &current.take()));
                }
                _ => println!("{line}"),
            }
        }
        let status = child.wait().await.unwrap();
        let complaints = complaints.await.unwrap();
        if let Some((name, at)) = current {
            let why = if hung { "it hangs".to_owned() } else { format!("the script died: {status}\n{complaints}") };
            outcomes.push(Outcome { name, why: Some(why), took: at.elapsed() });
        }
        let file = self.file.display();
        assert!(!plan.is_empty() && outcomes.len() > before, "{file} did nothing: {status}\n{complaints}");
        plan
    }
}

/// Where scripts/drivers installs.
fn installed() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("drivers")
}
