//! The folder that the log is received into: whole segments, one that is being written, and what was moved aside.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::BackupError;
use super::site::{Site, shell_quoted};

const PARTIAL: &str = ".partial";

/// A segment that was never finished tells nothing that the next timeline does not have, once that goes on.
const OF_NO_USE: Duration = Duration::from_secs(7 * 86_400);

/// Where in the log something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub timeline: u32,
    /// 16 hexadecimal digits.
    pub position: String,
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{}", self.timeline, self.position)
    }
}

impl Segment {
    fn parse(name: &str) -> Option<Self> {
        let (timeline, position) = name.trim_end_matches(PARTIAL).split_at_checked(8)?;
        let digits = position.len() == 16 && position.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then_some(Self { timeline: u32::from_str_radix(timeline, 16).ok()?, position: position.to_owned() })
    }
}

/// What cannot be gone on with, since the primary has not got what follows any more, or has gone another way. It is replayed
/// all the same where it fits.
pub(super) fn aside(folder: &Path) -> PathBuf {
    folder.join("aside")
}

/// Of a segment's file, without what is behind the digits.
pub(super) fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.get(..24)
}

/// Whether an archive has the segment: its files have a checksum behind their names. What a server left unfinished when
/// another was promoted is archived beside it, as `.partial`, and is not the whole one.
pub(super) fn lists(archived: &[String], name: &str) -> bool {
    archived.iter().any(|file| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')))
}

/// Files of segments, the oldest first.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_segment =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).and_then(Segment::parse).is_some();
    let mut paths: Vec<PathBuf> = entries.filter(is_segment).collect();
    paths.sort();
    paths
}

fn is_partial(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "partial")
}

/// The folder and each that something was moved aside to.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(aside(folder)).into_iter().flatten().flatten();
    // Not a link to one.
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    std::iter::once(folder.to_owned()).chain(folders.map(|entry| entry.path())).collect()
}

fn all(folder: &Path) -> impl Iterator<Item = PathBuf> {
    folders(folder).into_iter().flat_map(|folder| segments(&folder))
}

/// Segments that are whole, those aside too.
pub(super) fn whole(folder: &Path) -> Vec<PathBuf> {
    all(folder).filter(|path| !is_partial(path)).collect()
}

pub(super) fn size(folder: &Path) -> u64 {
    all(folder).filter_map(|path| fs::symlink_metadata(path).ok()).map(|metadata| metadata.len()).sum()
}

pub(super) fn newest_timeline(folder: &Path) -> u32 {
    let of = |path: PathBuf| Segment::parse(path.file_name()?.to_str()?).map(|segment| segment.timeline);
    all(folder).filter_map(of).max().unwrap_or_default()
}

/// The newest: pg_receivewal goes on with it or, where it is whole, behind it.
pub(super) fn next(folder: &Path) -> Option<Segment> {
    let last = segments(folder).pop()?;
    Segment::parse(last.file_name()?.to_str()?)
}

/// Fills it to its size first, and takes none that is of another size: one whose filling was cut by a full disk or a kill.
pub(super) fn remove_torn(folder: &Path, segment_size: u64) -> Result<(), BackupError> {
    for path in segments(folder).into_iter().filter(|path| is_partial(path)) {
        let length = fs::symlink_metadata(&path).map_err(BackupError::file("look at", &path))?.len();
        if length != 0 && length != segment_size {
            fs::remove_file(&path).map_err(BackupError::file("remove", &path))?;
        }
    }
    Ok(())
}

/// Has the next receiver begin where the primary is now. `now`: Unix time.
pub(super) fn set_aside(site: &Site, folder: &Path, now: u64) -> Result<(), BackupError> {
    let to = aside(folder).join(now.to_string());
    site.private_folder(&to)?;
    for from in segments(folder) {
        let Some(name) = from.file_name() else { continue };
        fs::rename(&from, to.join(name)).map_err(BackupError::file("move away", &from))?;
    }
    Ok(())
}

/// Unfinished segments that were left behind long ago, and folders that have nothing in them any more.
pub(super) fn remove_useless(folder: &Path) {
    let current = segments(folder).pop();
    let old = |path: &PathBuf| is_partial(path) && Some(path) != current.as_ref() && age(path) > OF_NO_USE;
    for path in all(folder).filter(old) {
        let _ = fs::remove_file(path);
    }
    for emptied in folders(folder).into_iter().skip(1) {
        // Refused of one that has something in it.
        let _ = fs::remove_dir(emptied);
    }
}

fn age(path: &Path) -> Duration {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
}

/// The archive is asked first, all of it. That it has not got a file is one thing (1), any other failure another: a recovery
/// that went on from there would end early and look whole. Then what was received: what is whole, and at last what is not;
/// nothing of a wrong size, on which a server does not start at all.
pub(super) fn restore_command(pgbackrest: &str, folder: &Path, segment_size: u64) -> String {
    let [received, aside] = [folder.to_owned(), aside(folder)].map(|path| shell_quoted(&path.display().to_string()));
    format!(
        "{pgbackrest} --pg1-path=\"$PWD\" archive-get %f \"%p\"; \
         case $? in 0) exit 0;; 1) ;; *) exit 255;; esac; \
         for file in {received}/%f {aside}/*/%f {received}/%f{PARTIAL} {aside}/*/%f{PARTIAL}; do \
         if [ -f \"$file\" ] && case $file in *.history) ;; *) [ $(wc -c <\"$file\") = {segment_size} ];; esac; then \
         cp \"$file\" \"%p\" || exit 255; exit 0; fi; done; exit 1"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(names: &[(&str, usize)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, size) in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; *size]).unwrap();
        }
        folder
    }

    #[test]
    fn what_is_no_segment_is_not_touched() {
        let folder = filled(&[
            ("000000010000000000000002.partial", 4),
            ("000000010000000000000001", 4),
            ("00000002.history", 4),
            ("system", 4),
            ("aside/1/000000010000000000000000", 4),
        ]);
        let names =
            |paths: Vec<PathBuf>| paths.iter().filter_map(|path| Some(name(path)?.to_owned())).collect::<Vec<_>>();
        assert_eq!(names(whole(folder.path())), ["000000010000000000000001", "000000010000000000000000"]);
        assert_eq!(next(folder.path()).unwrap().to_string(), "000000010000000000000002");
        assert_eq!((newest_timeline(folder.path()), size(folder.path())), (1, 12));
    }

    #[test]
    fn a_segment_of_which_the_archive_has_the_beginning_only_is_not_let_go() {
        let name = "000000010000000000000005";
        let archived = |names: &[&str]| names.iter().map(|rest| format!("{name}{rest}")).collect::<Vec<_>>();
        assert!(lists(&archived(&[".partial-0a1b.zst", "-0a1b.zst"]), name));
        assert!(lists(&archived(&["-0a1b"]), name));
        assert!(!lists(&archived(&[".partial-0a1b.zst", ".partial-0a1b", ".00000028.backup"]), name));
    }

    /// What a server would run, with `archive-get` in the place of pgBackRest.
    fn restored(folder: &Path, archive_get: &str, wanted: &str) -> (Option<i32>, Option<usize>) {
        let command = restore_command(archive_get, folder, 4);
        let command = command.replace("%%", "%").replace("%f", wanted).replace("%p", "restored");
        let output = std::process::Command::new("sh").arg("-c").arg(command).current_dir(folder).output().unwrap();
        let restored = fs::read(folder.join("restored")).ok();
        let _ = fs::remove_file(folder.join("restored"));
        (output.status.code(), restored.map(|bytes| usize::from(bytes[0])))
    }

    #[test]
    fn a_partial_segment_is_replayed_only_where_nothing_has_the_whole_one() {
        let folder = filled(&[("aside/1/x", 0), ("aside/2/x", 0)]);
        let segment = "000000010000000000000005";
        let put = |name: &str, byte: u8, size: usize| fs::write(folder.path().join(name), vec![byte; size]).unwrap();
        let ask = |archive: &str| restored(folder.path(), archive, segment);
        assert_eq!(ask("false"), (Some(1), None));
        put(&format!("{segment}.partial"), 1, 3);
        assert_eq!(ask("false"), (Some(1), None), "of a wrong size");
        put(&format!("aside/1/{segment}.partial"), 2, 4);
        assert_eq!(ask("false"), (Some(0), Some(2)));
        put(&format!("{segment}.partial"), 3, 4);
        assert_eq!(ask("false"), (Some(0), Some(3)));
        put(&format!("aside/2/{segment}"), 4, 4);
        assert_eq!(ask("false"), (Some(0), Some(4)));
        put(segment, 5, 4);
        assert_eq!(ask("false"), (Some(0), Some(5)));
        // The archive comes first; and where it fails, nothing is taken in its place.
        assert_eq!(ask("true"), (Some(0), None));
        for failing in ["exit 25;", "kill -9 $$;", "/nowhere/pgbackrest"] {
            let (code, restored) = ask(failing);
            assert!(code != Some(0) && code != Some(1) && restored.is_none(), "{failing}: {code:?}");
        }
        put("00000002.history", 6, 1);
        assert_eq!(restored(folder.path(), "false", "00000002.history"), (Some(0), Some(6)));
    }

    #[test]
    fn a_segment_whose_filling_was_cut_is_removed_and_no_other() {
        let folder = filled(&[
            ("000000010000000000000001", 3),
            ("000000010000000000000002.partial", 3),
            ("000000010000000000000003.partial", 4),
            ("000000010000000000000004.partial", 0),
        ]);
        remove_torn(folder.path(), 4).unwrap();
        let left: Vec<PathBuf> = segments(folder.path());
        assert_eq!(left.len(), 3);
        assert!(!left.iter().any(|path| path.ends_with("000000010000000000000002.partial")));
    }
}
