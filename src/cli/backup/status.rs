use serde_json::{Value, json};

use super::Failure;
use super::arguments::ClusterArguments;
use super::shown::{size, time};
use crate::base::{causes, clock};
use crate::cli::output::say;
use crate::cli::runtime;
use crate::sidecar::backup::{
    Archiving, BackupError, Holdings, LastTrial, Receiving, Site, Standing, archiving, receiving, standing,
};

/// Show whether each cluster has the backups that it should, and whether its log gets to the archive
///
/// Exit code 0: all is well. 1: a backup is overdue or was not sound, a repository cannot be read, or the log is not archived
/// or received as it should be.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    clusters: ClusterArguments,

    /// Print one JSON object for each cluster
    #[arg(long)]
    json: bool,
}

/// What is found of one cluster.
struct Found {
    holdings: Vec<Holdings>,
    standing: Vec<Standing>,
    archiving: Result<Archiving, String>,
    /// `None`: it is not to be received here.
    receiving: Option<Receiving>,
    trial: Option<LastTrial>,
    findings: Vec<String>,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.clusters.load()?;
    let mut findings = 0;
    for site in arguments.clusters.sites(&settings)? {
        let found = runtime()?.block_on(look(&site))?;
        findings += found.findings.len();
        match arguments.json {
            true => say(shown(&site, &found)),
            false => tell(&site, &found),
        }
    }
    match findings {
        0 => Ok(()),
        1 => Err(Failure::said("there is 1 finding")),
        n => Err(Failure::said(format!("there are {n} findings"))),
    }
}

async fn look(site: &Site) -> Result<Found, BackupError> {
    let holdings = site.holdings().await?;
    let standing = standing(site, &holdings);
    let mut findings: Vec<String> = holdings
        .iter()
        .filter_map(|of| Some(format!("repository {} cannot be read: {}", of.repository, of.trouble.as_ref()?)))
        .collect();
    let readable = standing.iter().zip(&holdings).filter(|(_, of)| of.trouble.is_none());
    findings.extend(readable.filter_map(|(standing, _)| standing.finding()));
    let mut received = None;
    let told = async {
        let writer = site.writer().await?;
        if site.receive_wal().is_some() {
            received = Some(receiving(site, &writer.client).await?);
        }
        archiving(site, &writer).await
    };
    let archiving = told.await.map_err(|error| causes(&error));
    match &archiving {
        Ok(archiving) => findings.extend(archiving.alert(site)),
        Err(error) => findings.push(format!("how the log is archived is not known: {error}")),
    }
    if received.is_some_and(|receiving| !receiving.streaming) {
        findings.push("nobody receives the log as it is written; the log of `pgward run` says why".to_owned());
    }
    let trial = LastTrial::of(site);
    findings.extend(untried(site, trial.as_ref()));
    Ok(Found { holdings, standing, archiving, receiving: received, trial, findings })
}

/// A trial that failed, or that is long overdue where there is to be one each day.
fn untried(site: &Site, trial: Option<&LastTrial>) -> Option<String> {
    let trial = trial?;
    let at = time(trial.at);
    if !trial.sound {
        return Some(format!("the backup that was tried at {at} was not sound; `pgward backup verify` says why"));
    }
    let late = site.rules().verify_at.is_some() && trial.at + 2 * 86_400 < clock::unix_now();
    late.then(|| format!("no backup has been tried since {at}"))
}

fn shown(site: &Site, found: &Found) -> Value {
    json!({
        "cluster": site.cluster().name.as_str(),
        "repositories": found.standing,
        "archiving": found.archiving.as_ref().ok(),
        "receiving": found.receiving,
        "tried": found.trial.as_ref().map(|trial| {
            json!({ "at": trial.at, "sound": trial.sound, "rto_seconds": trial.rto, "rpo_seconds": trial.rpo })
        }),
        "findings": found.findings,
    })
}

fn tell(site: &Site, found: &Found) {
    say(format_args!("cluster {}", site.cluster().name));
    let readable = found.standing.iter().zip(&found.holdings).filter(|(_, of)| of.trouble.is_none());
    for (standing, of) in readable {
        let last =
            standing.last.map_or_else(|| "no backup yet".to_owned(), |last| format!("last backup {}", time(last)));
        let next =
            standing.next.as_ref().map_or_else(String::new, |(tier, at)| format!(", next {} ({tier})", time(*at)));
        let stored: u64 = of.backups.iter().map(|kept| kept.stored).sum();
        let count = of.backups.len();
        say(format_args!("  repository {}: {last}{next}; {count} kept, {}", standing.repository, size(stored)));
    }
    if let Ok(archiving) = &found.archiving {
        let last = archiving.last_archived.as_deref().unwrap_or("nothing");
        let (count, bytes) = (archiving.waiting_segments, size(archiving.waiting_bytes));
        say(format_args!(
            "  log: archived up to {last}; {count} segments ({bytes}) wait, {} s",
            archiving.lag.as_secs()
        ));
    }
    if found.archiving.as_ref().is_ok_and(|archiving| archiving.timeout.is_zero()) && found.receiving.is_none() {
        say("  log: archive_timeout is 0, so a segment is archived when it is full, however long that takes");
    }
    if let Some(Receiving { streaming: true, behind_bytes }) = found.receiving {
        let behind = behind_bytes
            .map_or_else(|| "how far behind is not known".to_owned(), |bytes| format!("{} behind", size(bytes)));
        say(format_args!("  log: received as it is written, {behind}"));
    }
    match &found.trial {
        Some(trial) => {
            say(format_args!("  tried: {}, {}", time(trial.at), if trial.sound { "sound" } else { "NOT SOUND" }))
        }
        None => say("  tried: never; `pgward backup verify` does it now"),
    }
    found.findings.iter().for_each(|finding| say(format_args!("  ! {finding}")));
}
