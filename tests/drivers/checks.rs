//! Checks in Rust: functions that panic when something is not as it should be.

use std::pin::Pin;
use std::time::{Duration, Instant};

use crate::judge::{Outcome, chosen};
use crate::place::Urls;

/// A check that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(25);

pub const CLIENTS: usize = 12;

pub struct Check {
    pub name: &'static str,
    pub run: fn(Urls) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A list of checks from functions that take the [`Urls`].
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        &[$($crate::checks::Check { name: stringify!($name), run: |urls| Box::pin($name(urls)) }),*]
    };
}
pub(crate) use checks;

pub async fn run(checks: &[Check], urls: &Urls, names: &[String]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for check in checks.iter().filter(|check| chosen(names, check.name)) {
        let begin = Instant::now();
        let mut task = tokio::spawn((check.run)(urls.clone()));
        let why = match tokio::time::timeout(PATIENCE, &mut task).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(said(error)),
            Err(_) => {
                task.abort();
                Some(format!("hangs for {} s", PATIENCE.as_secs()))
            }
        };
        outcomes.push(Outcome { name: check.name.to_owned(), why, took: begin.elapsed() });
    }
    outcomes
}

fn said(error: tokio::task::JoinError) -> String {
    let panic = error.into_panic();
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Runs `work` for all at once, in a task each; a panic of one is a panic here, and stops the others.
pub async fn each<C, T, F>(items: Vec<C>, work: impl Fn(usize, C) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks = tokio::task::JoinSet::new();
    for (i, item) in items.into_iter().enumerate() {
        tasks.spawn(work(i, item));
    }
    let mut done = Vec::new();
    while let Some(outcome) = tasks.join_next().await {
        match outcome {
            Ok(value) => done.push(value),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    done
}

/// The user of a URL, which is what `tenant_id` says.
pub fn tenant(url: &str) -> String {
    url.split("//").nth(1).and_then(|rest| rest.split(':').next()).unwrap().to_owned()
}
