//! What this machine offers: PostgreSQL's programs, a user they may run as, folders that user reaches.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::ClusterError;

/// The user that PostgreSQL falls back to when we are root; Debian's package creates it.
const USER: &str = "postgres";

/// Opens a file in a folder of PostgreSQL's user, who may have put something else there: a link would lead whoever is root
/// elsewhere, and at a pipe one would wait for ever.
pub fn open_plain(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    #[allow(clippy::cast_possible_wrap, reason = "flags")]
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let file = options.custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is no plain file")) }
}

/// Such a file as text.
pub fn read_plain(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    open_plain(OpenOptions::new().read(true), path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Hands a file that is open to whom its folder is of.
pub fn own_as_folder(file: &File, folder: &Path) -> std::io::Result<()> {
    let (of, is) = (fs::metadata(folder)?, file.metadata()?);
    if of.uid() == is.uid() { Ok(()) } else { give(file, (of.uid(), of.gid())) }
}

/// Not one that is somebody else's by another of its names.
fn give(file: &File, (uid, gid): (u32, u32)) -> std::io::Result<()> {
    match file.metadata()?.nlink() {
        0 | 1 => fchown(file, Some(uid), Some(gid)),
        names => Err(std::io::Error::other(format!("it has {names} names (hard links)"))),
    }
}

/// What is passed on of our environment.
const KEPT: [&str; 8] =
    ["PATH", "HOME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "LLVM_PROFILE_FILE"];

#[derive(Debug, Clone)]
pub struct Host {
    binaries: PathBuf,
    /// User and group to change to; `None` when we are an ordinary user and stay that.
    account: Option<(u32, u32)>,
}

impl Host {
    pub fn find() -> Result<Self, ClusterError> {
        let account = if rustix::process::geteuid().is_root() {
            let id = |flag| id_of(flag).ok_or(ClusterError::NoAccount);
            Some((id("-u")?, id("-g")?))
        } else {
            None
        };
        Ok(Self { binaries: binaries()?, account })
    }

    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// A command under PostgreSQL's user.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = match self.account {
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
                command.arg(program.as_ref());
                command
            }
            None => Command::new(program.as_ref()),
        };
        // Ours may have secrets that are for pgward alone, and `PG*` variables, which would redirect it.
        command.env_clear();
        command.envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        if self.account.is_some() {
            // A program that looks for files of its user's must not fail at those of root.
            command.env("HOME", "/");
        }
        // From a folder that this user can enter; our own may be under /root.
        command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        command
    }

    /// Hands a file or folder to PostgreSQL's user; of a link the link itself.
    pub fn own(&self, path: &Path) -> Result<(), ClusterError> {
        match self.account {
            Some((uid, gid)) => {
                lchown(path, Some(uid), Some(gid)).map_err(ClusterError::file("change the owner of", path))
            }
            None => Ok(()),
        }
    }

    /// The same of a file that is open, whatever stands at its path by now.
    pub fn own_file(&self, file: &File, path: &Path) -> Result<(), ClusterError> {
        match self.account {
            Some(account) => give(file, account).map_err(ClusterError::file("change the owner of", path)),
            None => Ok(()),
        }
    }

    /// A new folder of PostgreSQL's own below `wanted`, or below a temporary folder when its user cannot
    /// get there: a checkout under a closed `/root` is the usual case.
    pub fn folder(&self, wanted: Option<&Path>, name: &str) -> Result<PathBuf, ClusterError> {
        let temporary = std::env::temp_dir();
        let candidates: Vec<&Path> =
            wanted.into_iter().chain([temporary.as_path(), Path::new("/tmp"), Path::new("/var/tmp")]).collect();
        for parent in &candidates {
            if parent.is_dir() && self.enters(parent) {
                let folder = parent.join(format!("pgward-{name}-{:08x}", rand::random::<u32>()));
                fs::create_dir(&folder).map_err(ClusterError::file("create the folder", &folder))?;
                let closed = fs::Permissions::from_mode(0o700);
                fs::set_permissions(&folder, closed).map_err(ClusterError::file("close the folder", &folder))?;
                self.own(&folder)?;
                return Ok(folder);
            }
        }
        let tried = candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Err(ClusterError::NoPlace { user: USER.to_owned(), tried })
    }

    /// Asked of the kernel as that user, since mode bits are not the whole truth.
    fn enters(&self, folder: &Path) -> bool {
        self.account.is_none()
            || self.command("test").arg("-x").arg(folder).status().is_ok_and(|status| status.success())
    }
}

fn id_of(flag: &str) -> Option<u32> {
    let output = Command::new("id").args([flag, USER]).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok().filter(|id| *id != 0)
}

/// `PGWARD_PG_BIN`, else the newest of Debian's versions, else what the `PATH` has.
fn binaries() -> Result<PathBuf, ClusterError> {
    let complete =
        |folder: &Path| ["initdb", "postgres", "pg_basebackup"].iter().all(|name| folder.join(name).exists());
    if let Some(named) = std::env::var_os("PGWARD_PG_BIN") {
        let folder = PathBuf::from(named);
        let looked = folder.display().to_string();
        return if complete(&folder) { Ok(folder) } else { Err(ClusterError::NoBinaries { looked }) };
    }
    let debian = Path::new("/usr/lib/postgresql");
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(debian)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    versions
        .into_iter()
        .rev()
        .map(|(_, folder)| folder)
        .chain(std::env::split_paths(&path))
        .find(|folder| complete(folder))
        .ok_or_else(|| ClusterError::NoBinaries { looked: format!("{} and the PATH", debian.display()) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_no_plain_file_is_neither_followed_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("plain"), "text").unwrap();
        symlink(path("plain"), path("link")).unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), kind, mode, 0).unwrap();
        assert_eq!(read_plain(&path("plain")).unwrap(), "text");
        for other in ["link", "pipe", "."] {
            assert!(read_plain(&path(other)).is_err(), "{other}");
            assert!(open_plain(OpenOptions::new().read(true).write(true), &path(other)).is_err(), "{other}");
        }
    }

    #[test]
    fn a_file_of_two_names_is_not_given_away() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        let file = File::create(&one).unwrap();
        let own = file.metadata().unwrap();
        give(&file, (own.uid(), own.gid())).unwrap();
        fs::hard_link(&one, other).unwrap();
        assert!(give(&file, (own.uid(), own.gid())).is_err());
    }
}
