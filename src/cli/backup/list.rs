use serde_json::{Value, json};

use super::Failure;
use super::arguments::ClusterArguments;
use super::shown::{size, time};
use crate::cli::output::{say, table, warn};
use crate::cli::runtime;
use crate::sidecar::backup::{Holdings, Kept, Site, kept_until};

/// List the backups there are, and until when each is kept
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    clusters: ClusterArguments,

    /// Print one JSON object for each cluster
    #[arg(long)]
    json: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.clusters.load()?;
    let mut unreadable = 0;
    for site in arguments.clusters.sites(&settings)? {
        let holdings = runtime()?.block_on(site.holdings())?;
        unreadable += holdings.iter().filter(|of| of.trouble.is_some()).count();
        match arguments.json {
            true => say(json!({
                "cluster": site.cluster().name.as_str(),
                "repositories": holdings.iter().map(|of| shown(&site, of)).collect::<Vec<_>>(),
            })),
            false => tell(&site, &holdings),
        }
    }
    match unreadable {
        0 => Ok(()),
        1 => Err(Failure::said("1 repository cannot be read")),
        n => Err(Failure::said(format!("{n} repositories cannot be read"))),
    }
}

fn region(site: &Site, of: &Holdings) -> String {
    site.stores().get(&of.repository).map(|repository| repository.region.to_string()).unwrap_or_default()
}

fn shown(site: &Site, of: &Holdings) -> Value {
    let backup = |kept: &Kept| {
        json!({
            "label": kept.label,
            "type": kept.kind.as_str(),
            "tier": kept.tier,
            "started": kept.started,
            "stopped": kept.stopped,
            "kept_until": kept_until(site, kept, &of.backups),
            "size_bytes": kept.size,
            "stored_bytes": kept.stored,
            "needs": kept.needs,
            "lsn": kept.lsn,
            "damaged_pages": kept.damaged_pages,
        })
    };
    json!({
        "repository": of.repository.as_str(),
        "region": region(site, of),
        "trouble": of.trouble,
        "archive": of.archive.as_ref().map(|(first, last)| json!({ "first": first, "last": last })),
        "backups": of.backups.iter().map(backup).collect::<Vec<_>>(),
    })
}

fn tell(site: &Site, holdings: &[Holdings]) {
    for of in holdings {
        say(format_args!(
            "cluster {}, repository {} (region {})",
            site.cluster().name,
            of.repository,
            region(site, of)
        ));
        if let Some(trouble) = &of.trouble {
            warn(format_args!("repository {} cannot be read: {trouble}", of.repository));
            continue;
        }
        if of.backups.is_empty() {
            say("  no backup yet");
            continue;
        }
        let head = ["  BACKUP", "TYPE", "TIER", "ENDED (UTC)", "KEPT UNTIL", "SIZE", "STORED"].map(str::to_owned);
        let line = |kept: &Kept| {
            let damaged = if kept.damaged_pages { " (damaged pages)" } else { "" };
            [
                format!("  {}", kept.label),
                kept.kind.as_str().to_owned(),
                kept.tier.clone().unwrap_or_else(|| "-".to_owned()),
                time(kept.stopped),
                time(kept_until(site, kept, &of.backups)),
                size(kept.size),
                format!("{}{damaged}", size(kept.stored)),
            ]
        };
        let lines: Vec<[String; 7]> = std::iter::once(head).chain(of.backups.iter().map(line)).collect();
        table(lines.iter().map(|line| line.each_ref().map(String::as_str)).collect());
        if let Some((first, last)) = &of.archive {
            say(format_args!("  log from {first} to {last}"));
        }
    }
}
