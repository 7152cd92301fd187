//! The inputs that are kept in git, and where one that breaks a promise is put.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// By name, so that a seed makes the same inputs everywhere.
pub fn kept(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Writes an input to a file of its own; says where it is, what it is and how to go on.
pub fn report(target: &str, input: &[u8], said: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}-{:016x}", hash(input)));
    fs::write(&path, input).unwrap();
    let mut hex = String::new();
    input.iter().take(2048).for_each(|byte| write!(hex, "{byte:02x}").unwrap());
    let (path, kept) = (path.display(), folder(target));
    format!(
        "{target}: {said}\n\
         input, {} bytes: {path}\n\
         hex: {hex}\n\
         as text: {:?}\n\
         again:   PGWARD_FUZZ_INPUT={path} cargo test --test fuzz {target}\n\
         to keep: cp {path} {}/",
        input.len(),
        String::from_utf8_lossy(input),
        kept.display()
    )
}

/// FNV-1a, for a file's name.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
