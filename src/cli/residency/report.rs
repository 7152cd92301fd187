use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{ConfigArgument, Failure, classified, live, logs};
use crate::base::{ClusterName, TenantId, clock};
use crate::cli::audit::KeyArguments;
use crate::cli::connect::UrlArgument;
use crate::cli::output::say;
use crate::cli::runtime;
use crate::config::{self, Cluster, Settings};
use crate::proof::{Found, History, Report, Severity};

/// Report where each tenant's data is, what served it from where, what was refused, and what is wrong
///
/// Made of the configuration, of the servers as they are now, and of the audit logs, whose chains are verified. Exit code
/// 0: nothing dangerous. 1: something was served outside of its regions, or the logs have a hole, so that it cannot be
/// shown that nothing was.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    /// This tenant only. Repeatable
    #[arg(long = "tenant", value_parser = TenantId::parse, value_name = "TENANT")]
    tenants: Vec<TenantId>,

    /// From when on: 2026-11-01, 2026-11-01T08:00:00Z, or how long ago, such as 7d
    #[arg(long, value_parser = since, value_name = "WHEN")]
    since: Option<String>,

    /// An audit log, instead of the configuration's: one for each node. What was put aside of it is read, too. Repeatable
    #[arg(long = "audit", value_name = "FILE")]
    logs: Vec<PathBuf>,

    #[command(flatten)]
    keys: KeyArguments,

    /// List what pgward.classification has of the tenants' databases, too; it takes an administrator's connection
    #[arg(long)]
    classified: bool,

    #[command(flatten)]
    url: UrlArgument,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    /// Write it as a page for a browser, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Warnings count as well
    #[arg(long)]
    strict: bool,
}

/// As the audit log has times.
fn since(text: &str) -> Result<String, &'static str> {
    let wrong = "write a date (2026-11-01), a date and time (2026-11-01T08:00:00Z), or how long ago (7d)";
    if let Some(ago) = config::parse_duration(text) {
        return SystemTime::now().checked_sub(ago).map(clock::rfc3339).ok_or(wrong);
    }
    let midnight = format!("{text}T00:00:00Z");
    let moment = OffsetDateTime::parse(text, &Rfc3339).or_else(|_| OffsetDateTime::parse(&midnight, &Rfc3339));
    let unix = moment.map_err(|_| wrong)?.unix_timestamp_nanos();
    let unix = u64::try_from(unix).map_err(|_| wrong)?;
    Ok(clock::rfc3339(SystemTime::UNIX_EPOCH + Duration::from_nanos(unix)))
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.config.load()?;
    let names: Vec<String> = arguments.tenants.iter().map(ToString::to_string).collect();
    let files = match (&settings.audit, arguments.logs.as_slice()) {
        (Some(audit), []) => vec![audit.file.clone()],
        (_, files) => files.to_vec(),
    };
    let mut history = History::new(arguments.since.clone(), names.iter().cloned());
    logs::read_all(&mut history, &files, &arguments.keys.seals(Some(&settings))?)?;
    let unknown = names.iter().find(|name| !settings.tenants.contains_key(name.as_str()) && !history.knows(name));
    if let Some(name) = unknown {
        return Err(Failure::said(format!("there is no tenant {name} in the configuration, nor in the logs")));
    }
    let (looks, classified) = runtime()?.block_on(async {
        let looks = live::look(&settings, clusters(&settings, &names), settings.region.as_ref()).await?;
        let classified = match arguments.classified {
            true => Some(classified::read(&settings, &names, &arguments.url).await?),
            false => None,
        };
        Ok::<_, Failure>((looks, classified))
    })?;
    let made = clock::rfc3339(SystemTime::now());
    let (audited, since) = (!files.is_empty(), arguments.since.clone());
    let found = Found { settings: &settings, looks: &looks, history, audited, classified, made, since };
    let report = Report::new(found, &names);
    if let Some(file) = &arguments.html {
        let written = std::fs::write(file, report.page().html());
        written.map_err(|error| Failure::said(format!("{} cannot be written: {error}", file.display())))?;
    }
    match arguments.json {
        true => say(format_args!("{:#}", json!(report))),
        false => say(report.page().text().trim_end()),
    }
    let warnings = if arguments.strict { report.count(Severity::Warning) } else { 0 };
    match report.count(Severity::Danger) + warnings {
        0 => Ok(()),
        1 => Err(Failure::said("the report has 1 finding that counts")),
        n => Err(Failure::said(format!("the report has {n} findings that count"))),
    }
}

/// Those that the tenants are on.
fn clusters<'a>(settings: &'a Settings, names: &[String]) -> impl Iterator<Item = &'a Arc<Cluster>> {
    let tenants = names.iter().filter_map(|name| settings.tenants.get(name.as_str()));
    let of: BTreeSet<&ClusterName> = tenants.map(|tenant| &tenant.cluster).collect();
    let all = names.is_empty();
    settings.clusters.values().filter(move |cluster| all || of.contains(&cluster.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_a_moment_or_how_long_ago() {
        assert_eq!(since("2026-11-01").unwrap(), "2026-11-01T00:00:00.000Z");
        assert_eq!(since("2026-11-01T08:00:00+05:30").unwrap(), "2026-11-01T02:30:00.000Z");
        let week = since("7d").unwrap();
        assert!(week < clock::rfc3339(SystemTime::now()) && week.len() == 24, "{week}");
        for wrong in ["", "yesterday", "2026-13-01", "1969-01-01", "7"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
