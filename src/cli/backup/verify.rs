use serde_json::json;

use super::Failure;
use super::arguments::ClusterArguments;
use super::shown::{Shown, size, time};
use crate::base::RepositoryName;
use crate::cli::output::{say, warn};
use crate::cli::record::{Act, Deed};
use crate::cli::runtime;
use crate::sidecar::backup::{self, Against, Severity, Site, Trial, Verified};

/// Prove a backup by restoring it
///
/// The backup is restored aside, its log replayed, and the copy compared with what the primary holds: rows and a digest of each
/// table, sequences, the whole schema. It is examined by pg_amcheck and pg_checksums, timed, and removed. The report is kept
/// in the cluster's folder. Exit code 0: nothing dangerous was found. 1: something was, or it could not be tried.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    clusters: ClusterArguments,

    /// The backup's label, as `pgward backup list` shows it; the latest that will do unless named
    #[arg(long, value_name = "LABEL")]
    set: Option<String>,

    /// The repository; any unless named
    #[arg(long, value_parser = RepositoryName::parse, value_name = "REPOSITORY")]
    repository: Option<RepositoryName>,

    /// Compare with a baseline that is taken now; fail where the primary cannot be asked
    #[arg(long, conflicts_with = "recorded")]
    fresh: bool,

    /// Compare with the newest baseline that is recorded, and leave the primary alone
    #[arg(long)]
    recorded: bool,

    /// Read every file of the repositories, too, and not just those that a restore of this backup takes
    #[arg(long)]
    files: bool,

    /// Print one JSON object for each cluster
    #[arg(long)]
    json: bool,

    /// What could not be compared or examined counts as well
    #[arg(long)]
    strict: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.clusters.load()?;
    let sites = arguments.clusters.sites(&settings)?;
    if arguments.set.is_some() && sites.len() > 1 {
        return Err(Failure::said("a backup is of one cluster; say with --cluster of which"));
    }
    let (mut findings, mut untried) = (0, 0);
    for site in sites {
        let name = &site.cluster().name;
        let work = async { Ok(arguments.verify(&site).await?) };
        match runtime()?.block_on(Act::at(&settings, Deed::VerifyBackup, name.as_str()).recorded(work)) {
            Ok(verified) => {
                let warnings = if arguments.strict { verified.count(Severity::Warning) } else { 0 };
                findings += verified.count(Severity::Danger) + warnings;
                match arguments.json {
                    true => say(json!(verified)),
                    false => tell(&verified),
                }
            }
            // The others are tried all the same.
            Err(failure) => {
                warn(format_args!("cluster {name}: {failure}"));
                untried += 1;
            }
        }
    }
    match (findings, untried) {
        (0, 0) => Ok(()),
        (n, 0) => Err(Failure::said(format!("findings that count: {n}"))),
        (n, m) => {
            Err(Failure::said(format!("findings that count: {n}; clusters whose backups could not be tried: {m}")))
        }
    }
}

impl Arguments {
    async fn verify(&self, site: &Site) -> Result<Verified, backup::BackupError> {
        let _lock = site.lock("pgward backup verify")?;
        let against = match (self.fresh, self.recorded) {
            (true, _) => Against::Fresh,
            (_, true) => Against::Recorded,
            _ => Against::FreshIfPossible,
        };
        let (repository, set) = (self.repository.clone(), self.set.clone());
        let mut progress = Shown::new(self.json);
        backup::verify(site, &Trial { repository, set, against, files: self.files }, &mut progress).await
    }
}

fn tell(verified: &Verified) {
    let word = match (verified.sound, verified.complete) {
        (true, true) => "verified",
        (true, false) => "sound as far as it could be tried",
        (false, _) => "NOT SOUND",
    };
    say(format_args!("cluster {}: {word}, in {:.1} s", verified.cluster, verified.took.as_secs_f64()));
    if let Some(backup) = &verified.backup {
        say(format_args!(
            "  backup {} of {} in repository {} (region {}), {}",
            backup.label,
            time(backup.stopped),
            backup.repository,
            backup.region,
            size(backup.size)
        ));
    }
    if let Some(baseline) = &verified.baseline {
        let how = if baseline.fresh { "now" } else { "as recorded" };
        say(format_args!("  compared with the primary of {}, {how}", baseline.taken));
    }
    if let Some(rto) = &verified.rto {
        let [restore, replay, total] = [rto.restore, rto.replay, rto.total].map(|took| took.as_secs_f64());
        say(format_args!("  back in {total:.1} s (RTO): restored in {restore:.1} s, replayed in {replay:.1} s"));
    }
    if let Some(rpo) = &verified.rpo {
        let newest = rpo.newest_commit.as_deref().unwrap_or("none since the backup");
        let age = rpo.archive_age_seconds;
        let age =
            age.map_or_else(String::new, |age| format!("; the archive ended {age:.1} s before the baseline (RPO)"));
        say(format_args!("  newest commit recovered: {newest}{age}"));
    }
    for check in &verified.checks {
        let mark = if check.passed { "ok" } else { "! " };
        say(format_args!("  {mark} {}: {} ({:.1} s)", check.name, check.said, check.took.as_secs_f64()));
    }
    for finding in &verified.findings {
        say(format_args!("  {} {}: {}", finding.severity.as_str(), finding.kind, finding.text));
    }
}
