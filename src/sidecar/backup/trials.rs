//! What is remembered of trials: the newest of each repository, whoever asked for it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

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

/// What the reports say that are kept, by their files, whose names are in the order of time.
#[derive(Default)]
pub(super) struct Trials {
    past: BTreeMap<PathBuf, Past>,
}

impl LastTrial {
    pub fn of(site: &Site) -> Option<Self> {
        let mut trials = Trials::default();
        trials.look(site);
        trials.last(site)
    }
}

impl Trials {
    /// Reads what is new: a report does not change once it is there.
    pub fn look(&mut self, site: &Site) {
        self.look_at(reports::files(site, "verify"));
    }

    /// What cannot be read is passed over.
    fn look_at(&mut self, files: Vec<PathBuf>) {
        self.past.retain(|path, _| files.binary_search(path).is_ok());
        for path in files {
            if let Entry::Vacant(place) = self.past.entry(path)
                && let Some(past) = Past::read(place.key())
            {
                place.insert(past);
            }
        }
    }

    pub fn last(&self, site: &Site) -> Option<LastTrial> {
        let here = |name: &str| site.stores().keys().any(|repository| repository.as_str() == name);
        let (_, last) = self.past.last_key_value()?;
        let files = self.newest_of_all_files().is_none_or(|trial| trial.sound);
        let each = self.newest().into_iter().all(|(name, trial)| trial.sound || !here(name));
        let sound = last.sound && each && files;
        Some(LastTrial { at: last.at, sound, rto: last.rto, rpo: last.rpo })
    }

    pub fn tried(&self) -> Tried {
        let repositories = self.newest().into_iter().map(|(name, trial)| (name.to_owned(), trial.at)).collect();
        Tried { repositories, files: self.newest_of_all_files().map(|trial| trial.at) }
    }

    /// Of each repository: of those that have the same key the last is what stays.
    fn newest(&self) -> BTreeMap<&str, &Past> {
        self.past.values().filter_map(|trial| Some((trial.repository.as_deref()?, trial))).collect()
    }

    fn newest_of_all_files(&self) -> Option<&Past> {
        self.past.values().rfind(|trial| trial.all_files)
    }
}

impl Tried {
    /// Of these repositories, the one that has waited longest.
    pub fn next<'a>(&self, of: impl Iterator<Item = &'a RepositoryName>) -> Option<&'a RepositoryName> {
        of.min_by_key(|name| self.repositories.get(name.as_str()).copied().unwrap_or(0))
    }
}

impl Past {
    fn read(path: &Path) -> Option<Self> {
        let (at, report) = reports::read(path)?;
        let meant = report["repository"].as_str();
        Some(Self {
            at,
            repository: meant.or(report["backup"]["repository"].as_str()).map(str::to_owned),
            sound: report["sound"] == true,
            all_files: report["files"] == true && meant.is_none(),
            rto: report["rto"]["total_seconds"].as_f64(),
            rpo: report["rpo"]["archive_age_seconds"].as_f64(),
        })
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
    fn the_newest_of_each_repository_counts_and_a_report_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = vec![
            put("verify-1.json", r#"{"repository": "near", "sound": false, "files": true}"#),
            put("verify-2.json", r#"{"backup": {"repository": "far"}, "sound": false, "files": true}"#),
            put("verify-3.json", r#"{"repository": "near", "sound": true}"#),
            put("verify-4.json", "cut of"),
        ];
        let mut trials = Trials::default();
        trials.look_at(files.clone());
        let found = |trials: &Trials| {
            let newest = trials.newest().into_iter().map(|(name, trial)| (name.to_owned(), trial.sound));
            newest.collect::<Vec<_>>()
        };
        assert_eq!(found(&trials), [("far".to_owned(), false), ("near".to_owned(), true)]);
        // The whole of all repositories was read where none was named.
        assert_eq!(trials.newest_of_all_files().unwrap().repository.as_deref(), Some("far"));
        put("verify-3.json", r#"{"repository": "near", "sound": false}"#);
        put("verify-4.json", r#"{"repository": "far", "sound": true}"#);
        trials.look_at(files[2..].to_vec());
        assert_eq!(found(&trials), [("far".to_owned(), true), ("near".to_owned(), true)]);
        assert_eq!(trials.past.len(), 2, "what is not there any more is kept");
    }
}
