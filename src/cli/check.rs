use std::collections::BTreeMap;
use std::path::PathBuf;

use super::failure::Failure;
use super::output::{say, warn};
use crate::catalogue::{self, LoadError};
use crate::config::{self, Isolation, Settings};
use crate::residency;

/// Check a configuration file and name everything wrong with it
///
/// Each problem is one line on standard output: where it is, what stands there, why it is refused and
/// what would be accepted. Nothing is contacted, but for the catalogue where there is one: its tenants are checked,
/// too. Exit code 0: the file is good. 1: it is not, or the catalogue cannot be read.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration file
    file: PathBuf,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    match super::runtime()?.block_on(catalogue::load(&arguments.file)) {
        Ok(settings) => {
            say(format_args!("{} is good", arguments.file.display()));
            say(summary(&settings));
            warnings(&settings).iter().for_each(warn);
            Ok(())
        }
        Err(LoadError::Problems { problems, .. }) => {
            problems.iter().for_each(say);
            let count = match problems.len() {
                1 => "1 problem".to_owned(),
                n => format!("{n} problems"),
            };
            Err(Failure::said(format!("{} has {count}", arguments.file.display())))
        }
        Err(unread) => Err(Failure::load(unread)),
    }
}

fn summary(settings: &Settings) -> String {
    let mut lines = Vec::new();
    for cluster in settings.clusters.values() {
        let servers: Vec<String> =
            cluster.all_servers().map(|server| format!("{} in {}", server.name, server.region)).collect();
        let urls =
            |patroni: &config::Patroni| patroni.urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let patroni = cluster.patroni.as_ref().map(|patroni| format!("what Patroni tells of at {}", urls(patroni)));
        let servers: Vec<String> = servers.into_iter().chain(patroni).collect();
        lines.push(format!("cluster {}: {}", cluster.name, servers.join(", ")));
    }
    let levels = [Isolation::Rows, Isolation::Schema, Isolation::Database, Isolation::Cluster];
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for tenant in settings.tenants.values() {
        *counts.entry(tenant.isolation.as_str()).or_default() += 1;
    }
    let parts: Vec<String> = levels
        .iter()
        .filter_map(|level| counts.get(level.as_str()).map(|count| format!("{count} at level {}", level.as_str())))
        .collect();
    if let Some(here) = &settings.region {
        let node = settings.node.as_ref().map_or_else(String::new, |node| format!("node {node} "));
        let here_too = settings.tenants.values().filter(|tenant| residency::allows(&tenant.regions, here)).count();
        lines.push(format!("{node}in region {here}: {here_too} of the tenants may be served here"));
    }
    if let Some(catalogue) = &settings.catalogue {
        lines.push(format!("catalogue {}: {} tenants", catalogue.place(), catalogue.snapshot.entries.len()));
    }
    let total = settings.tenants.len();
    lines.push(format!("tenants: {total}{}{}", if parts.is_empty() { "" } else { ", " }, parts.join(", ")));
    let plain = &settings.plain;
    if plain.any.is_some() || !plain.databases.is_empty() {
        let any = if plain.any.is_some() { " and any other" } else { "" };
        let lookup = if plain.lookup.is_some() { " and a lookup" } else { "" };
        lines.push(format!(
            "databases without tenants: {}{any}; users: {} in the file{lookup}",
            plain.databases.len(),
            plain.users.len()
        ));
    }
    for issuer in &settings.issuers {
        lines.push(format!("issuer {}", issuer.issuer));
    }
    lines.join("\n")
}

/// Allowed, but worth a second look before production.
fn warnings(settings: &Settings) -> Vec<String> {
    let signing = settings.issuers.iter().filter(|issuer| issuer.signing.is_some());
    signing
        .map(|issuer| {
            format!(
                "note: issuer {} has a signing key; whoever reads it can be any tenant. Development only",
                issuer.issuer
            )
        })
        .collect()
}
