//! An export read again: checked, and decrypted where it has to be.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::super::Failure;
use super::folder::sweep;
use super::manifest::Manifest;
use super::seal::{KeyArguments, Opener, plain_name};
use crate::cli::output::say;

/// Check an export, and decrypt it
///
/// Every file must be what it was when it was written: the manifest has their SHA-256. What is encrypted is opened as well
/// where the key to it is given; the program `age` does so too.
#[derive(Debug, clap::Args)]
pub(in crate::cli::tenant) struct Arguments {
    /// The export's folder
    folder: PathBuf,

    /// Put what is in it into this folder, which must not be there
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,

    #[command(flatten)]
    key: KeyArguments,
}

pub(in crate::cli::tenant) fn command(arguments: &Arguments) -> Result<(), Failure> {
    sweep(&std::path::absolute(&arguments.folder)?);
    let outside = Manifest::read(&arguments.folder)?;
    outside.check(&arguments.folder)?;
    let files = outside.sha256.len();
    if outside.encrypted.is_none() && arguments.into.is_some() {
        return Err(Failure::said(format!(
            "the export {} is not encrypted; it can be read where it is",
            arguments.folder.display()
        )));
    }
    let manifest = match &arguments.into {
        None => outside,
        Some(into) => {
            let opener = arguments.key.opener(&arguments.folder)?;
            decrypt(&arguments.folder, &outside, &opener, into)?
        }
    };
    let as_of = manifest.as_of.as_ref().map(|moment| format!(", as of {moment}")).unwrap_or_default();
    say(format_args!(
        "export of tenant {} (level {}) made {}{as_of}: {files} files are what they were",
        manifest.tenant, manifest.isolation, manifest.made
    ));
    if let Some(into) = &arguments.into {
        say(format_args!("decrypted into {}", into.display()));
    }
    Ok(())
}

/// Makes an export that is not encrypted out of one that is, and checks that as well.
pub(in crate::cli::tenant) fn decrypt(
    folder: &Path,
    outside: &Manifest,
    opener: &Opener,
    into: &Path,
) -> Result<Manifest, Failure> {
    let Some(encrypted) = &outside.encrypted else {
        return Err(Failure::said(format!("the export {} is not encrypted", folder.display())));
    };
    DirBuilder::new()
        .mode(0o700)
        .create(into)
        .map_err(|error| Failure::said(format!("cannot make the folder {}: {error}", into.display())))?;
    let opened = all(folder, outside, opener, into).and_then(|()| {
        let contents = opener.read(&folder.join(&encrypted.contents))?;
        let manifest: Manifest = serde_json::from_slice(&contents)?;
        manifest.check(into)?;
        manifest.write(into)?;
        Ok(manifest)
    });
    if opened.is_err() {
        // Half of it is of no use; the error at hand is the one to tell.
        let _ = fs::remove_dir_all(into);
    }
    opened
}

fn all(folder: &Path, outside: &Manifest, opener: &Opener, into: &Path) -> Result<(), Failure> {
    let apart = outside.encrypted.iter().flat_map(|encrypted| [&encrypted.key, &encrypted.contents]);
    let apart: Vec<&String> = apart.collect();
    for name in outside.sha256.keys().filter(|name| !apart.contains(name)) {
        let Some(plain) = plain_name(name) else {
            return Err(Failure::said(format!("{name} of the export {} is not encrypted", folder.display())));
        };
        let path = into.join(plain);
        if let Some(parent) = path.parent() {
            DirBuilder::new().mode(0o700).recursive(true).create(parent)?;
        }
        opener.file(&folder.join(name), &path)?;
    }
    Ok(())
}
