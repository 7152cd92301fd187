//! Every file of the repositories is read and its checksum taken, by `pgbackrest verify`: which is damaged?

use std::time::Instant;

use super::Verified;
use crate::base::{RepositoryName, causes};
use crate::sidecar::backup::error::BackupError;
use crate::sidecar::backup::finding::Finding;
use crate::sidecar::backup::pgbackrest::{DAMAGE, Progress};
use crate::sidecar::backup::site::Site;

/// Of one repository.
const NAMED: usize = 20;

pub(super) async fn check(
    site: &Site,
    wanted: Option<&RepositoryName>,
    progress: &mut dyn Progress,
    verified: &mut Verified,
) -> Result<(), BackupError> {
    for numbered in site.repositories().iter().filter(|of| wanted.is_none_or(|wanted| of.name == wanted)) {
        let begin = Instant::now();
        progress.step(&format!("reading every file of repository {}", numbered.name));
        let mut heard = Heard { to: progress, damaged: Vec::new() };
        let options = [format!("--repo={}", numbered.number)];
        let ended = site.pgbackrest()?.run("verify", &options, &mut heard).await;
        let name = numbered.name.as_str();
        let mut findings: Vec<Finding> = heard.damaged.iter().take(NAMED).map(|text| finding(name, text)).collect();
        if let Some(more) = heard.damaged.len().checked_sub(NAMED).filter(|more| *more > 0) {
            findings.push(Finding::danger("file_damaged", format!("repository {name}: {more} more files")).of(name));
        }
        if let Err(error) = ended {
            let text = format!("repository {name} cannot be read as a whole: {}", causes(&error));
            findings.push(Finding::danger("repository_unreadable", text).of(name));
        }
        let said = format!("repository {name}: {} damaged files", heard.damaged.len());
        verified.check("files", begin, said, findings);
    }
    Ok(())
}

/// From a line such as `invalid checksum '20261122-084104F/pg_data/base/16385/16410.zst'`.
fn finding(repository: &str, text: &str) -> Finding {
    let result = text.strip_prefix("invalid result ").and_then(|rest| rest.split_once(": "));
    let file = result.map_or_else(|| text.split('\'').nth(1), |(file, _)| Some(file));
    let file = file.map_or_else(|| repository.to_owned(), |file| format!("{repository}: {file}"));
    Finding::danger("file_damaged", format!("repository {repository}: {text}")).of(file)
}

/// Keeps what is said of damaged files.
struct Heard<'a> {
    to: &'a mut dyn Progress,
    damaged: Vec<String>,
}

impl Progress for Heard<'_> {
    fn step(&mut self, what: &str) {
        self.to.step(what);
    }

    fn part(&mut self, percent: f64) {
        self.to.part(percent);
    }

    fn warning(&mut self, text: &str) {
        match DAMAGE.iter().any(|begin| text.starts_with(begin)) {
            true => self.damaged.push(text.to_owned()),
            false => self.to.warning(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_damaged_file_is_named() {
        for (text, file) in [
            ("invalid checksum '20261122-084104F/a.zst'", "near: 20261122-084104F/a.zst"),
            ("invalid result 15-1/00/03.zst: [29] raised from local-1 protocol: zst error", "near: 15-1/00/03.zst"),
            ("file missing", "near"),
        ] {
            assert_eq!(finding("near", text).object.as_deref(), Some(file));
        }
    }
}
