//! What is remembered of trials: the newest of each repository, whoever asked for it.

use std::collections::BTreeMap;

use super::reports;
use super::site::Site;
use crate::base::RepositoryName;

/// The newest of all.
#[derive(Debug, Clone, PartialEq)]
pub struct LastTrial {
    /// Unix time.
    pub at: u64,
    /// And of each repository the newest was, and the newest that read every file.
    pub sound: bool,
    /// Seconds.
    pub rto: Option<f64>,
    pub rpo: Option<f64>,
}

/// When something was tried last, by Unix time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tried {
    pub repositories: BTreeMap<String, u64>,
    /// Every file of all repositories.
    pub files: Option<u64>,
}

impl LastTrial {
    pub fn of(site: &Site) -> Option<Self> {
        let trials: Vec<Past> = Past::all(site).collect();
        let here = |name: &str| site.stores().keys().any(|repository| repository.as_str() == name);
        let last = trials.first()?;
        let files = trials.iter().find(|trial| trial.all_files).is_none_or(|trial| trial.sound);
        let each = newest(&trials).into_iter().all(|(name, trial)| trial.sound || !here(name));
        let sound = last.sound && each && files;
        Some(Self { at: last.at, sound, rto: last.rto, rpo: last.rpo })
    }
}

impl Tried {
    pub fn of(site: &Site) -> Self {
        let trials: Vec<Past> = Past::all(site).collect();
        let repositories = newest(&trials).into_iter().map(|(name, trial)| (name.to_owned(), trial.at)).collect();
        let files = trials.iter().find(|trial| trial.all_files).map(|trial| trial.at);
        Self { repositories, files }
    }

    /// Of these repositories, the one that has waited longest.
    pub fn next<'a>(&self, of: impl Iterator<Item = &'a RepositoryName>) -> Option<&'a RepositoryName> {
        of.min_by_key(|name| self.repositories.get(name.as_str()).copied().unwrap_or(0))
    }
}

/// What one report says.
struct Past {
    at: u64,
    /// `None`: any was meant, and none was restored.
    repository: Option<String>,
    sound: bool,
    all_files: bool,
    rto: Option<f64>,
    rpo: Option<f64>,
}

impl Past {
    /// The newest first.
    fn all(site: &Site) -> impl Iterator<Item = Self> {
        reports::all(site, "verify").map(|(at, report)| {
            let meant = report["repository"].as_str();
            Self {
                at,
                repository: meant.or(report["backup"]["repository"].as_str()).map(str::to_owned),
                sound: report["sound"] == true,
                all_files: report["files"] == true && meant.is_none(),
                rto: report["rto"]["total_seconds"].as_f64(),
                rpo: report["rpo"]["archive_age_seconds"].as_f64(),
            }
        })
    }
}

/// The newest of each repository.
fn newest(trials: &[Past]) -> BTreeMap<&str, &Past> {
    let of = |trial| Some((Past::repository(trial)?, trial));
    trials.iter().rev().filter_map(of).collect()
}

impl Past {
    fn repository(&self) -> Option<&str> {
        self.repository.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_longest_is_next_and_who_was_never_tried_comes_first() {
        let name = |text: &str| RepositoryName::parse(text).unwrap();
        let all = [name("far"), name("near"), name("new")];
        let tried = Tried { repositories: [("far".to_owned(), 20), ("near".to_owned(), 10)].into(), files: None };
        assert_eq!(tried.next(all.iter()), Some(&all[2]));
        assert_eq!(tried.next(all[..2].iter()), Some(&all[1]));
        assert_eq!(tried.next(std::iter::empty()), None);
    }

    #[test]
    fn the_newest_of_each_repository_counts() {
        let past = |at, repository: Option<&str>, sound| Past {
            at,
            repository: repository.map(str::to_owned),
            sound,
            all_files: false,
            rto: None,
            rpo: None,
        };
        let trials = [past(3, Some("near"), true), past(2, Some("far"), false), past(1, Some("near"), false)];
        let found: Vec<_> = newest(&trials).into_iter().map(|(name, trial)| (name, trial.at, trial.sound)).collect();
        assert_eq!(found, [("far", 2, false), ("near", 3, true)]);
    }
}
