//! What several of the commands are told alike.

use std::sync::Arc;

use super::{ConfigArgument, Failure};
use crate::base::{ClusterName, RepositoryName};
use crate::config::Settings;
use crate::sidecar::backup::{Site, Target, Wanted, moment};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ClusterArguments {
    #[command(flatten)]
    config: ConfigArgument,

    /// The cluster, as the configuration names it; all that have repositories unless named. Repeatable
    #[arg(long = "cluster", value_parser = ClusterName::parse, value_name = "CLUSTER")]
    clusters: Vec<ClusterName>,
}

impl ClusterArguments {
    pub fn load(&self) -> Result<Arc<Settings>, Failure> {
        self.config.load().map(Arc::new)
    }

    /// At least one.
    pub fn sites(&self, settings: &Arc<Settings>) -> Result<Vec<Site>, Failure> {
        let named = || self.clusters.iter().cloned();
        let all = || Site::clusters(settings).cloned();
        let names: Vec<ClusterName> = if self.clusters.is_empty() { all().collect() } else { named().collect() };
        if names.is_empty() {
            return Err(Failure::said(
                "no cluster of the configuration has a repository with a path or s3 (clusters.NAME.repositories), so there \
                 are no backups; conf/pgward.toml shows what one looks like",
            ));
        }
        Ok(names.iter().map(|name| Site::open(settings, name)).collect::<Result<_, _>>()?)
    }

    /// Exactly one.
    pub fn site(&self, settings: &Arc<Settings>) -> Result<Site, Failure> {
        let mut sites = self.sites(settings)?;
        match (sites.pop(), sites.is_empty()) {
            (Some(site), true) => Ok(site),
            _ => Err(Failure::said("say with --cluster which one is meant")),
        }
    }
}

/// Which backup, and up to where the log is replayed after it.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct TargetArguments {
    /// As it was at this moment: 2026-11-01T08:00:00Z, or with an offset such as +05:30
    #[arg(long, value_parser = time, value_name = "TIME", group = "target")]
    at: Option<Target>,

    /// As it was at this position in the log, such as 0/3000060
    #[arg(long, value_parser = Target::lsn, value_name = "LSN", group = "target")]
    lsn: Option<Target>,

    /// As it was at this restore point (pg_create_restore_point)
    #[arg(long = "name", value_name = "NAME", group = "target")]
    point: Option<String>,

    /// As it was when this transaction had committed
    #[arg(long, value_name = "ID", group = "target")]
    transaction: Option<u32>,

    /// As it was when the backup ended, and no later
    #[arg(long, group = "target")]
    backup_only: bool,

    /// The backup's label, as `pgward backup list` shows it; the latest that will do unless named
    #[arg(long, value_name = "LABEL")]
    set: Option<String>,

    /// The repository; all are looked through unless named
    #[arg(long, value_parser = RepositoryName::parse, value_name = "REPOSITORY")]
    repository: Option<RepositoryName>,
}

fn time(text: &str) -> Result<Target, String> {
    moment(text).map(Target::Time)
}

impl TargetArguments {
    /// `None`: nothing of a backup is said at all.
    pub fn named(&self) -> Option<Wanted> {
        let wanted = self.wanted();
        (wanted != Wanted::latest()).then_some(wanted)
    }

    /// The end of the log, where nothing else is said.
    pub fn wanted(&self) -> Wanted {
        let target = self.at.clone().or_else(|| self.lsn.clone());
        let target = target.or_else(|| self.point.clone().map(Target::Name));
        let target = target.or_else(|| self.transaction.map(Target::Transaction));
        let target = target.or_else(|| self.backup_only.then_some(Target::Consistent));
        let (repository, set) = (self.repository.clone(), self.set.clone());
        Wanted { repository, set, target: target.unwrap_or(Target::End), received: true }
    }
}
