//! The audit logs that a report is made of.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::audit::{Seal, put_aside};
use crate::cli::audit::read;
use crate::cli::record::beside;
use crate::proof::{History, Kind};

/// Reads each log with the files that were put aside, and that of the commands beside it.
pub(super) fn read_all(history: &mut History, files: &[PathBuf], seals: &[Seal]) -> Result<(), Failure> {
    let mut read = BTreeSet::new();
    for file in files {
        let all = put_aside(file)?.into_iter().chain([file.clone()]);
        for part in all.map(|part| std::fs::canonicalize(&part).unwrap_or(part)) {
            if !read.insert(part.clone()) {
                let what = "is given twice, by itself or with the log that it was put aside of";
                return Err(Failure::said(format!("--audit: {} {what}", part.display())));
            }
        }
        read_log(history, file, Kind::Sessions, seals)?;
        let commands = beside(file);
        if commands.exists() || !put_aside(&commands)?.is_empty() {
            read_log(history, &commands, Kind::Commands, seals)?;
        }
    }
    Ok(())
}

fn read_log(history: &mut History, in_use: &Path, kind: Kind, seals: &[Seal]) -> Result<(), Failure> {
    let mut files = put_aside(in_use)?;
    files.push(in_use.to_owned());
    let mut log = history.log(&in_use.display().to_string(), kind, seals.to_vec());
    for file in &files {
        match read(file, |at, text, ended| log.line(at, text, ended)) {
            Ok(()) => log.file(),
            Err(error) => log.missing(&file.display().to_string(), &error.to_string()),
        }
    }
    log.finish();
    Ok(())
}
