use serde_json::{Value, json};

use super::Failure;
use super::arguments::ClusterArguments;
use super::shown::{Shown, size};
use crate::base::RepositoryName;
use crate::cli::output::say;
use crate::cli::record::{Act, Deed};
use crate::cli::runtime;
use crate::config::BackupKind;
use crate::sidecar::backup::{self, Made, Order, Site};

/// Make a backup now
///
/// The one that is due, if one is; else of what has changed since the last full one. The first of a repository is a full one. It
/// can be killed at any time: the next takes over what is there already. What is due is made by `pgward run` itself.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    clusters: ClusterArguments,

    /// The repository; all of the cluster's, or of the tier's, unless named
    #[arg(long, value_parser = RepositoryName::parse, value_name = "REPOSITORY")]
    repository: Option<RepositoryName>,

    /// full, diff (since the last full one) or incr (since the last one)
    #[arg(long = "type", value_parser = kind, value_name = "TYPE")]
    kind: Option<BackupKind>,

    /// Make it as this tier of the configuration is made, and keep it as long
    #[arg(long, value_name = "TIER")]
    tier: Option<String>,

    /// Print one JSON object for each cluster
    #[arg(long)]
    json: bool,
}

fn kind(text: &str) -> Result<BackupKind, &'static str> {
    let found = BackupKind::ALL.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, kind)| kind).ok_or("write full, diff or incr")
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.clusters.load()?;
    for site in arguments.clusters.sites(&settings)? {
        let name = &site.cluster().name;
        let work = async { Ok(arguments.make(&site).await?) };
        let made = runtime()?.block_on(Act::at(&settings, Deed::RunBackup, name.as_str()).recorded(work))?;
        match arguments.json {
            true => say(json!({ "cluster": name.as_str(), "backups": made.iter().map(shown).collect::<Vec<_>>() })),
            false => made.iter().for_each(tell),
        }
    }
    Ok(())
}

impl Arguments {
    async fn make(&self, site: &Site) -> Result<Vec<Made>, backup::BackupError> {
        let _lock = site.lock("pgward backup run")?;
        let (repository, tier) = (self.repository.clone(), self.tier.clone());
        let mut progress = Shown::new(self.json);
        backup::make(site, &Order { repository, kind: self.kind, tier }, &mut progress).await
    }
}

fn shown(made: &Made) -> Value {
    let kept = &made.kept;
    json!({
        "label": kept.label,
        "repository": kept.repository.as_str(),
        "type": kept.kind.as_str(),
        "tier": kept.tier,
        "seconds": made.took.as_secs_f64(),
        "size_bytes": kept.size,
        "stored_bytes": kept.stored,
    })
}

fn tell(made: &Made) {
    let kept = &made.kept;
    say(format_args!(
        "{} backup {} is in repository {}: {}, stored as {}, in {:.1} s",
        kept.kind.as_str(),
        kept.label,
        kept.repository,
        size(kept.size),
        size(kept.stored),
        made.took.as_secs_f64()
    ));
}
