//! Where an erased tenant is still to be found: in backups, and until when.

use super::super::Failure;
use super::super::remove::Work;
use super::certificate::{Backup, Gone, Repository};
use crate::base::{causes, clock};
use crate::cli::output::warn;
use crate::config::Settings;
use crate::sidecar::backup::{FOREVER, Holdings, Kept, Site, being_made, holds, kept_until, last_full};

pub(super) struct Remains {
    pub repositories: Vec<Repository>,
    /// When the last of the backups may go, by Unix time. `None`: that is not known.
    last: Option<u64>,
    but: Vec<String>,
}

impl Remains {
    /// After the tenant is gone. `settings`: as they are by now.
    pub async fn find(settings: &Settings, site: Option<&Site>, work: &Work<'_>) -> Result<Self, Failure> {
        let cluster = &work.cluster.name;
        let mut remains = Self { repositories: Vec::new(), last: Some(clock::unix_now()), but: Vec::new() };
        // Asked first: one that ends meanwhile is found in its repository.
        if being_made(&work.seat).await? {
            remains.doubt(
                "a backup was being made when this was written; it may have the tenant as well, and be kept longer",
            );
        }
        if work.cluster.repositories.is_empty() {
            remains.unknown(format!(
                "pgward makes no backups of cluster {cluster}; whether anybody else does, it does not know"
            ));
        }
        // Each machine has a configuration of its own.
        if work.cluster.backup.as_ref().is_some_and(|of| of.receive_wal.is_some()) {
            remains.doubt(
                "by the configuration that this erasure went by, the log is received as it is written, too (receive_wal), and \
                 each part stays there until every repository has it; what is received by other configurations is not known",
            );
        } else if !work.cluster.repositories.is_empty() {
            remains.doubt(
                "by the configuration that this erasure went by, the log is not received as it is written (receive_wal); \
                 whether it is by another one, or was before, is not known",
            );
        }
        // Which ones they are is nothing that is to stand in the certificate of another.
        if holds(settings, cluster).iter().any(|id| *id != work.tenant.id.as_str()) {
            remains
                .doubt("other tenants of the cluster are under legal hold; until that is lifted, no backup of it goes");
        }
        let holdings = match site {
            // It is gone by now, and the certificate is the place to say what is not known.
            Some(site) => site.holdings().await.map_err(|error| causes(&error)),
            None => Ok(Vec::new()),
        };
        for (name, repository) in &work.cluster.repositories {
            let found = match &holdings {
                Ok(all) => all
                    .iter()
                    .find(|of| of.repository == *name)
                    .ok_or_else(|| "pgward makes no backups there; whoever does must let go of them".to_owned()),
                Err(why) => Err(why.clone()),
            };
            let (backups, unknown) = match (found, site) {
                (Ok(of), Some(site)) => {
                    let backups = remains.backups(of, |kept| kept_until(site, kept, &of.backups));
                    (backups, of.trouble.clone())
                }
                (found, _) => (Vec::new(), found.err()),
            };
            if let Some(why) = &unknown {
                remains.unknown(format!("which backups in repository {name} have the tenant is not known: {why}"));
            }
            let region = repository.region.to_string();
            remains.repositories.push(Repository { name: name.to_string(), region, backups, unknown });
        }
        Ok(remains)
    }

    pub fn gone(&self) -> Gone {
        Gone { not_before: self.last.map(clock::timestamp), but: self.but.clone() }
    }

    /// It may be later.
    fn doubt(&mut self, why: impl Into<String>) {
        self.but.push(why.into());
    }

    /// It is not known at all.
    fn unknown(&mut self, why: String) {
        warn(&why);
        self.last = None;
        self.but.push(why);
    }

    fn backups(&mut self, of: &Holdings, until: impl Fn(&Kept) -> u64) -> Vec<Backup> {
        let name = &of.repository;
        match last_full(name, &of.backups) {
            Some(last) => {
                let label = &last.label;
                self.doubt(format!(
                    "{label} is the last full backup in repository {name}, and stays until there is a newer one"
                ));
            }
            // The log goes with the backups that it follows.
            None if of.archive.is_some() => {
                self.unknown(format!(
                    "repository {name} has the log of before and no backup, and keeps it until there is one"
                ));
            }
            None => {}
        }
        let mut all = Vec::new();
        for kept in &of.backups {
            let until = Some(until(kept)).filter(|until| *until < FOREVER);
            if until.is_none() {
                let label = &kept.label;
                self.doubt(format!("{label} in repository {name} stays for ever: its tier is not configured any more"));
            }
            self.last = self.last.zip(until).map(|(last, until)| last.max(until));
            let (label, made) = (kept.label.clone(), clock::timestamp(kept.stopped));
            all.push(Backup { label, made, kept_until: until.map(clock::timestamp) });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RepositoryName;
    use crate::config::BackupKind;

    fn repository() -> RepositoryName {
        RepositoryName::parse("near").unwrap()
    }

    fn kept(label: &str, kind: BackupKind, stopped: u64) -> Kept {
        Kept {
            label: label.to_owned(),
            repository: repository(),
            kind,
            tier: None,
            started: stopped,
            stopped,
            needs: Vec::new(),
            size: 1,
            stored: 1,
            damaged_pages: false,
            lsn: String::new(),
            first_segment: String::new(),
        }
    }

    /// What comes of a repository with these backups, each of which is kept for so long.
    fn found(backups: Vec<Kept>, keep: u64) -> (Remains, Vec<Backup>) {
        let mut remains = Remains { repositories: Vec::new(), last: Some(1_000), but: Vec::new() };
        let archive = Some(("1".to_owned(), "2".to_owned()));
        let of = Holdings { repository: repository(), trouble: None, backups, archive, archive_id: None };
        let backups = remains.backups(&of, |kept| (kept.stopped + keep).min(FOREVER));
        (remains, backups)
    }

    #[test]
    fn the_last_full_backup_may_stay_longer_than_its_date() {
        let backups = vec![kept("old", BackupKind::Full, 2_000), kept("last", BackupKind::Full, 3_000)];
        let (remains, backups) = found(backups, 500);
        assert_eq!(backups[0].kept_until, Some(clock::timestamp(2_500)));
        let gone = remains.gone();
        assert_eq!(gone.not_before, Some(clock::timestamp(3_500)));
        assert!(gone.but.len() == 1 && gone.but[0].starts_with("last is the last full backup"), "{:?}", gone.but);
    }

    #[test]
    fn what_is_kept_for_ever_has_no_date() {
        let (remains, backups) = found(vec![kept("one", BackupKind::Full, 2_000)], FOREVER);
        assert_eq!(backups[0].kept_until, None);
        let gone = remains.gone();
        assert_eq!(gone.not_before, None);
        assert!(gone.but.iter().any(|but| but.starts_with("one in repository near stays for ever")), "{:?}", gone.but);
    }

    #[test]
    fn the_log_of_a_repository_that_has_no_backup_yet_has_the_tenant_too() {
        let (remains, backups) = found(Vec::new(), 500);
        assert!(backups.is_empty());
        let gone = remains.gone();
        assert_eq!(gone.not_before, None);
        assert!(gone.but[0].contains("has the log of before"), "{:?}", gone.but);
    }
}
