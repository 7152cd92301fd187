//! The files: opening, appending, putting aside.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::chain::{Head, Line, Seal};

/// So much of a file's end is looked at for its last line.
const TAIL: u64 = 1024 * 1024;

/// The file that is written to.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    /// Up to where it is good.
    length: u64,
    /// The number of its first line; `None`: it has none yet.
    first: Option<u64>,
    /// A crash cut its last line, which is to be ended before the next one.
    torn: bool,
    /// A pipe or a device is written to and nothing else.
    regular: bool,
    /// Device and inode, by which it is known when somebody has put it aside.
    id: (u64, u64),
}

/// How a file ended when it was opened.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The last line that can be read.
    pub head: Option<Head>,
    pub state: TailState,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum TailState {
    /// There is nothing in it.
    #[default]
    None,
    Verified,
    /// The last line was made with another key, or changed.
    Unverified,
    /// The last line is incomplete: what there is of it.
    Torn(Vec<u8>),
    /// Whole lines that are none.
    Unreadable,
}

impl LogFile {
    /// Opens a file for appending, and makes it and its folder where they are not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let found = file.metadata()?;
        let regular = found.is_file();
        if regular {
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => io::Error::other("another process writes to it"),
                TryLockError::Error(error) => error,
            })?;
        }
        let length = if regular { found.len() } else { 0 };
        let first = if length > 0 { first_line(path) } else { None };
        let opened = Self { file, length, first, torn: false, regular, id: (found.dev(), found.ino()) };
        if length == 0 {
            opened.sync_folder(path);
        }
        Ok(opened)
    }

    /// Whether the path leads to another file by now, or to none.
    pub fn is_put_aside(&self, path: &Path) -> bool {
        fs::metadata(path).map_or(true, |found| (found.dev(), found.ino()) != self.id)
    }

    pub fn is_full(&self, more: usize, limit: u64) -> bool {
        // A line that a crash cut stays beside the one that tells of it.
        self.regular && self.first.is_some() && !self.torn && self.length.saturating_add(more as u64) > limit
    }

    /// Writes lines so that they stay, or leaves the file as it was. `first`: the number of the first of them.
    pub fn append(&mut self, bytes: &[u8], first: u64) -> io::Result<()> {
        match self.write(bytes) {
            Ok(length) => {
                self.length += length;
                self.torn = false;
                self.first = self.first.or(Some(first));
                Ok(())
            }
            Err(error) => {
                if self.regular {
                    // What nobody was told of. If it stays all the same, it is found on the next opening.
                    let _ = self.file.set_len(self.length);
                }
                Err(error)
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let ended = [b"\n", bytes].concat();
        let bytes = if self.torn { &ended } else { bytes };
        self.file.write_all(bytes)?;
        if self.regular {
            self.file.sync_data()?;
        }
        Ok(bytes.len() as u64)
    }

    /// Gives the file a name by its first line, and says which.
    pub fn put_aside(&self, path: &Path) -> io::Result<PathBuf> {
        let name = |suffix: String| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let first = self.first.unwrap_or_default();
        let mut aside = name(format!(".{first:012}"));
        let mut n = 0;
        // Never over another file: it may be the same number of another chain.
        while aside.try_exists()? {
            n += 1;
            aside = name(format!(".{first:012}-{n}"));
        }
        fs::rename(path, &aside)?;
        self.sync_folder(path);
        Ok(aside)
    }

    /// A new name is on the disk only once its folder is. Not every file system can do this.
    fn sync_folder(&self, path: &Path) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }

    pub fn tail(&mut self, path: &Path, seal: &Seal) -> io::Result<Tail> {
        let found = if self.regular && self.length > 0 { tail(path, seal)? } else { Tail::default() };
        self.torn = matches!(found.state, TailState::Torn(_));
        Ok(found)
    }
}

fn tail(path: &Path, seal: &Seal) -> io::Result<Tail> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let mut pieces = bytes.rsplit(|byte| *byte == b'\n');
    let torn = pieces.next().unwrap_or_default();
    let mut unreadable = false;
    for piece in pieces {
        if let Some(line) = Line::read(piece) {
            let state = match (torn.is_empty(), unreadable, line.is_sealed_by(seal)) {
                (_, true, _) => TailState::Unreadable,
                (false, ..) => TailState::Torn(torn.to_vec()),
                (true, false, true) => TailState::Verified,
                (true, false, false) => TailState::Unverified,
            };
            return Ok(Tail { head: Some(line.head()), state });
        }
        unreadable = true;
    }
    let state = if unreadable || start > 0 { TailState::Unreadable } else { TailState::Torn(torn.to_vec()) };
    Ok(Tail { head: None, state })
}

/// The number of a file's first line.
fn first_line(path: &Path) -> Option<u64> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(TAIL).read_to_end(&mut bytes).ok()?;
    bytes.split(|byte| *byte == b'\n').find_map(|line| Some(Line::read(line)?.seq))
}

/// The files of a log that were put aside, by pgward or by somebody else: the name, a dot and digits. In the
/// order of their lines.
pub fn put_aside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name();
        let suffix = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.'));
        let ours = suffix.is_some_and(|suffix| {
            suffix.starts_with(|c: char| c.is_ascii_digit()) && suffix.chars().all(|c| c.is_ascii_digit() || c == '-')
        });
        if ours && entry.file_type()?.is_file() {
            found.push((first_line(&entry.path()).unwrap_or(u64::MAX), entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Of the files that were put aside, those that are too many, and the number of the last line in them.
pub(super) fn too_many(path: &Path, keep: usize) -> io::Result<(Vec<PathBuf>, u64)> {
    let mut files = put_aside(path)?;
    if keep == 0 || files.len() <= keep {
        return Ok((Vec::new(), 0));
    }
    let kept = files.split_off(files.len() - keep);
    let last = kept.first().and_then(|first| first_line(first)).map_or(0, |first| first.saturating_sub(1));
    Ok((files, last))
}

/// Where the chain goes on when the file itself has nothing of it: the last line of those that were put aside.
pub(super) fn last_put_aside(path: &Path, seal: &Seal) -> io::Result<Tail> {
    let mut last = Tail::default();
    for file in put_aside(path)? {
        let tail = tail(&file, seal)?;
        let later = |head: Head| last.head.is_none_or(|known| head.seq > known.seq);
        if tail.head.is_some_and(later) {
            last = tail;
        }
    }
    Ok(last)
}
