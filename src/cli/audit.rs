use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::failure::Failure;
use super::output::{say, warn};
use crate::audit::{Anchor, Examiner, Place, Seal, Verdict, put_aside};
use crate::base::Secret;
use crate::config::Settings;

/// No line is longer; what is, is taken for several.
const LONGEST: u64 = 4 * 1024 * 1024;

/// Look at the audit log
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Verify(Verify),
}

/// Find lines of the audit log that were changed, removed, put in or moved
///
/// With --config: the whole log, from its first file to the one in use. Or the files that are named, and nothing
/// but them, in the order of their lines. Each finding is one line on standard output; so is, at the end, how far the chain goes:
/// an anchor for --expect. Exit code 0: the log is as it was written. 1: it is not.
#[derive(Debug, clap::Args)]
struct Verify {
    /// Files of one log, in their order, instead of all that the configuration leads to
    #[arg(required_unless_present = "config")]
    files: Vec<PathBuf>,

    /// The configuration file that names the log and its key
    #[arg(long, env = "PGWARD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    keys: KeyArguments,

    /// A line that must be there, as an earlier verify or pgward's own log told it. Repeatable
    #[arg(long = "expect", value_name = "SEQ[:HASH]", value_parser = anchor)]
    anchors: Vec<Anchor>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What lines of a log may be made with.
#[derive(Debug, clap::Args)]
pub(super) struct KeyArguments {
    /// A file with a key that lines may be made with, besides the configuration's. Repeatable
    #[arg(long = "key-file", value_name = "FILE")]
    keys: Vec<PathBuf>,

    /// Take lines without a key as well, as from before there was one
    #[arg(long)]
    unkeyed: bool,
}

impl KeyArguments {
    /// Without any key, lines are expected to have none.
    pub fn seals(&self, settings: Option<&Settings>) -> Result<Vec<Seal>, Failure> {
        let configured = settings.and_then(|settings| settings.audit.as_ref()?.key.clone());
        let mut seals: Vec<Seal> = configured.map(Seal::Keyed).into_iter().collect();
        for path in &self.keys {
            let mut bytes =
                std::fs::read(path).map_err(|error| Failure::said(format!("{}: {error}", path.display())))?;
            // As the configuration reads secrets.
            while matches!(bytes.last(), Some(b'\n' | b'\r')) {
                bytes.pop();
            }
            seals.push(Seal::Keyed(Secret::new(bytes)));
        }
        if self.unkeyed || seals.is_empty() {
            seals.push(Seal::Plain);
        }
        Ok(seals)
    }
}

fn anchor(text: &str) -> Result<Anchor, String> {
    Anchor::parse(text).ok_or_else(|| "must be a line's number, or SEQ:HASH as verify prints it".to_owned())
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let Command::Verify(verify) = &arguments.command;
    let settings = verify.config.as_deref().map(super::outline).transpose()?;
    let files = files(verify, settings.as_ref())?;
    let mut examiner = Examiner::new(verify.keys.seals(settings.as_ref())?, verify.anchors.clone());
    for file in &files {
        let failed = |error: std::io::Error| Failure::said(format!("{}: {error}", file.display()));
        read(file, |at, text, ended| drop(examiner.take(at, text, ended))).map_err(failed)?;
    }
    let verdict = examiner.finish(verify.files.is_empty());
    if verify.json {
        say(as_json(&verdict, files.len()));
    } else {
        tell(&verdict, files.len());
    }
    match verdict.findings.len() {
        0 => Ok(()),
        1 => Err(Failure::said("the audit log has 1 finding")),
        n => Err(Failure::said(format!("the audit log has {n} findings"))),
    }
}

fn files(verify: &Verify, settings: Option<&Settings>) -> Result<Vec<PathBuf>, Failure> {
    let Some(settings) = settings.filter(|_| verify.files.is_empty()) else { return Ok(verify.files.clone()) };
    let Some(audit) = &settings.audit else {
        return Err(Failure::said("the configuration has no audit log: there is no table [audit]"));
    };
    let mut files = put_aside(&audit.file)?;
    files.push(audit.file.clone());
    Ok(files)
}

/// Gives each line of a file, without its end, and whether it has one.
pub(super) fn read(path: &Path, mut take: impl FnMut(Place, &[u8], bool)) -> std::io::Result<()> {
    let mut lines = BufReader::new(File::open(path)?);
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if lines.by_ref().take(LONGEST).read_until(b'\n', &mut text)? == 0 {
            break;
        }
        let ended = text.last() == Some(&b'\n');
        let body = text.get(..text.len() - usize::from(ended)).unwrap_or_default();
        take(Place { file: path.display().to_string(), line }, body, ended);
    }
    Ok(())
}

fn tell(verdict: &Verdict, files: usize) {
    verdict.findings.iter().for_each(say);
    verdict.notes.iter().for_each(|note| warn(format_args!("note: {note}")));
    let head = verdict.head.map_or_else(|| "none".to_owned(), |head| head.to_string());
    say(format_args!("{} good lines in {files} files; the last is {head}", verdict.lines));
}

fn as_json(verdict: &Verdict, files: usize) -> serde_json::Value {
    let findings = verdict.findings.iter().map(|finding| {
        let place = finding.place();
        json!({
            "kind": finding.kind(),
            "file": place.map(|place| &place.file),
            "line": place.map(|place| place.line),
            "text": finding.to_string(),
        })
    });
    json!({
        "good": verdict.findings.is_empty(),
        "files": files,
        "lines": verdict.lines,
        "first": verdict.first,
        "last": verdict.head.map(|head| head.seq),
        "anchor": verdict.head.map(|head| head.to_string()),
        "findings": findings.collect::<Vec<_>>(),
        "notes": verdict.notes,
    })
}
