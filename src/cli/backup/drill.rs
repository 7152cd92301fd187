use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::Failure;
use super::shown::Shown;
use crate::base::Region;
use crate::cli::ConfigArgument;
use crate::cli::output::say;
use crate::cli::record::{Act, Deed};
use crate::cli::runtime;
use crate::sidecar::backup::{self, Drilled};

/// Rehearse the loss of a region
///
/// What is gone and what is left; and each cluster that would have to come back from a backup does, aside, from a repository
/// in another region. Nothing that serves is touched. The report says for each tenant how long it would take and how much would
/// be lost, and what cannot be had back. Exit code 1: something cannot.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    /// The region that is lost; each that has servers or nodes, one after the other, unless named. Repeatable
    #[arg(long = "region", value_parser = Region::parse, value_name = "REGION")]
    regions: Vec<Region>,

    /// Print one JSON object for each region instead of Markdown
    #[arg(long)]
    json: bool,

    /// Write the Markdown to this file, and the JSON beside it, in a file that ends in .json
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = Arc::new(arguments.config.load()?);
    let known = backup::regions(&settings);
    if let Some(unknown) = arguments.regions.iter().find(|region| !known.contains(region)) {
        let names = known.iter().map(Region::as_str).collect::<Vec<_>>().join(", ");
        return Err(Failure::said(format!("nothing is in region {unknown}; there is {names}")));
    }
    let regions = if arguments.regions.is_empty() { known } else { arguments.regions.clone() };
    let mut drills = Vec::new();
    for region in regions {
        let work = async { Ok(backup::drill(&settings, &region, &mut Shown::new(arguments.json)).await?) };
        let act = Act::at(&settings, Deed::DrillBackup, region.as_str());
        let drilled = runtime()?.block_on(act.recorded(work))?;
        match arguments.json {
            true => say(json!(drilled)),
            false => say(drilled.page()),
        }
        drills.push(drilled);
    }
    if let Some(file) = &arguments.report {
        write(file, &drills.iter().map(Drilled::page).collect::<Vec<_>>().join("\n"))?;
        write(&file.with_extension("json"), &format!("{:#}", json!(drills)))?;
    }
    match drills.iter().filter(|drilled| !drilled.sound).count() {
        0 => Ok(()),
        _ => Err(Failure::said("not everything can be had back; the findings say what")),
    }
}

fn write(file: &std::path::Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|error| Failure::said(format!("{} cannot be written: {error}", file.display())))
}
