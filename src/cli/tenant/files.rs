//! Files that commands put down, and what stands beside them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Failure;

/// In the same folder, by the same name and one more ending.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

/// Writes a file as a whole or not at all. It is on the disk when this returns.
pub(super) fn put(file: &Path, text: &str) -> Result<(), Failure> {
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    let written = || {
        let mut next = tempfile::NamedTempFile::new_in(folder)?;
        next.write_all(text.as_bytes())?;
        next.as_file().sync_all()?;
        next.persist(file).map_err(|error| error.error)?;
        sync(folder)
    };
    written().map_err(failed("write", file))
}

/// What a folder has is on the disk when this returns.
pub(super) fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure + use<> {
    let path = path.display().to_string();
    move |error| Failure::said(format!("cannot {doing} {path}: {error}"))
}
