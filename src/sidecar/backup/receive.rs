//! The log, received as it is written (pg_receivewal): what a lost primary had not archived yet. No replication slot is
//! used, so that nothing fills the primary's disk when nobody receives; what is missed then is in the archive.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio_postgres::Client;

use super::conf::Numbered;
use super::error::BackupError;
use super::site::{Lock, Site, Writer, shell_quoted};
use crate::local::read_no_link;

/// How often the primary is asked how far it has come.
const LOOK: Duration = Duration::from_secs(5);

/// What the primary knows it by (pg_stat_replication, synchronous_standby_names).
pub const APPLICATION: &str = "pgward_receive";

/// Within the folder: what cannot be gone on with, since the primary has not got what follows any more, or has gone
/// another way. It is replayed all the same where it fits.
const ASIDE: &str = "aside";

/// Segments of a timeline that has ended stay that long.
const OF_OLD_TIMELINE: Duration = Duration::from_secs(86_400);

/// How far receiving has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Receiving {
    pub streaming: bool,
    /// What the primary has written and is not on the disk here.
    pub behind_bytes: u64,
}

/// pg_receivewal at work. Dropping it ends it, as the end of this process does.
pub(super) struct Receiver {
    child: Child,
    primary: Client,
    _lock: Lock,
}

impl Receiver {
    pub async fn begin(site: &Site) -> Result<Self, BackupError> {
        site.may_be_here()?;
        let folder = folder(site)?;
        site.named_folder(folder)?;
        site.private_folder(&folder.join(ASIDE))?;
        let lock = site.lock_at(&folder.join("receive.lock"), "pgward run, receiving the log")?;
        let Writer { server, client: primary, .. } = site.writer().await?;
        same_system(site, folder, &primary).await?;
        let mut command = tokio::process::Command::from(site.host().command("setpriv"));
        command.args(["--pdeathsig", "TERM", "--"]).arg(site.host().binary("pg_receivewal"));
        command.args(["--synchronous", "--no-loop", "--no-password", "--status-interval=5", "--directory"]).arg(folder);
        command.envs(site.environment(&server, APPLICATION)?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().map_err(BackupError::file("run", "pg_receivewal"))?;
        Ok(Self { child, primary, _lock: lock })
    }

    /// Waits a moment and says how it stands. An error: it has ended.
    pub async fn look(&mut self, site: &Site) -> Result<Receiving, BackupError> {
        if let Ok(ended) = tokio::time::timeout(LOOK, self.child.wait()).await {
            let mut said = String::new();
            if let Some(mut errors) = self.child.stderr.take() {
                let _ = errors.read_to_string(&mut said).await;
            }
            let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let said: Vec<&str> = said.lines().map(str::trim).collect();
            return Err(not_received(site, format!("pg_receivewal ended ({status}): {}", said.join("; "))));
        }
        receiving(site, &self.primary).await
    }
}

/// As the primary tells it.
pub async fn receiving(site: &Site, primary: &Client) -> Result<Receiving, BackupError> {
    let sql = "select pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), flush_lsn)::bigint \
               from pg_catalog.pg_stat_replication \
               where application_name = $1 and usename = current_user and state = 'streaming'";
    let rows = primary.query(sql, &[&APPLICATION]).await.map_err(site.sql("ask how the log is received"))?;
    let behind = rows.iter().filter_map(|row| row.get::<_, Option<i64>>(0)).min();
    Ok(Receiving {
        streaming: behind.is_some(),
        behind_bytes: behind.and_then(|behind| u64::try_from(behind).ok()).unwrap_or(0),
    })
}

fn folder(site: &Site) -> Result<&Path, BackupError> {
    site.receive_wal().ok_or_else(|| not_received(site, "clusters.NAME.backup.receive_wal names no folder".to_owned()))
}

fn not_received(site: &Site, why: String) -> BackupError {
    BackupError::NotReceived { cluster: site.cluster().name.clone(), why }
}

/// The log of another cluster would be of no use to this one, and in its way.
async fn same_system(site: &Site, folder: &Path, primary: &Client) -> Result<(), BackupError> {
    let sql = "select system_identifier::text from pg_catalog.pg_control_system()";
    let row = primary.query_one(sql, &[]).await.map_err(site.sql("ask for the system identifier"))?;
    let (system, path): (String, PathBuf) = (row.get(0), folder.join("system"));
    match read_no_link(&path) {
        Ok(text) if text.trim() == system => Ok(()),
        Ok(text) => Err(not_received(
            site,
            format!(
                "{} has the log of system {}, and the cluster is system {system}; move that away, or name another folder",
                folder.display(),
                text.trim()
            ),
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => site.private_file(&path, &format!("{system}\n")),
        Err(error) => Err(BackupError::file("read", path)(error)),
    }
}

/// Has the next one begin where the primary is now. Returns whether that is another place than it would have been.
pub(super) fn set_aside(site: &Site) -> Result<bool, BackupError> {
    let folder = folder(site)?;
    let segments = segments(folder);
    for segment in &segments {
        let (from, to) = (folder.join(segment), folder.join(ASIDE).join(segment));
        fs::rename(&from, &to).map_err(BackupError::file("move away", from))?;
    }
    Ok(!segments.is_empty())
}

/// Lets go of what every repository has. pg_receivewal is writing what ends in .partial.
pub(super) async fn clean(site: &Site) -> Result<(), BackupError> {
    let folder = folder(site)?;
    let holdings = site.holdings().await?;
    // What one repository has not got may be needed with it.
    let archived: Option<Vec<String>> = holdings.into_iter().map(|of| of.archive.map(|(_, newest)| newest)).collect();
    let Some(archived) = archived.and_then(|all| all.into_iter().min()) else { return Ok(()) };
    for (part, partial_too) in [(folder.to_owned(), false), (folder.join(ASIDE), true)] {
        for name in segments(&part) {
            let (path, segment) = (part.join(&name), name.trim_end_matches(".partial"));
            let whole = segment == name;
            if (whole || partial_too) && is_over(segment, &archived, || age(&path)) {
                fs::remove_file(&path).map_err(BackupError::file("remove", &path))?;
            }
        }
    }
    Ok(())
}

/// Whether nobody needs a segment any more when the archive has come to `archived`.
fn is_over(segment: &str, archived: &str, age: impl Fn() -> Duration) -> bool {
    let (Some((timeline, at)), Some((newest, end))) = (segment.split_at_checked(8), archived.split_at_checked(8))
    else {
        return false;
    };
    // Of a timeline before the newest, the archive may lack the last that the lost primary wrote.
    if timeline == newest { at <= end } else { timeline < newest && age() > OF_OLD_TIMELINE }
}

fn age(path: &Path) -> Duration {
    let modified = File::open(path).and_then(|file| file.metadata()).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
}

/// By name: of 24 hexadecimal digits, and perhaps .partial.
fn segments(folder: &Path) -> Vec<String> {
    let is_segment = |name: &str| {
        let digits = name.trim_end_matches(".partial");
        digits.len() == 24 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_segment(name));
    names.sort();
    names
}

/// Has a restored cluster replay what was received where its archive ends.
pub(super) fn replay_received(site: &Site, from: &Numbered<'_>, data: &Path) -> Result<(), BackupError> {
    let Some(folder) = site.receive_wal().filter(|folder| folder.is_dir()) else { return Ok(()) };
    let mut command =
        format!("{} --repo={} --pg1-path=\"$PWD\" archive-get %f \"%p\"", site.command_line(), from.number);
    for place in [folder.to_owned(), folder.join(ASIDE)] {
        for end in ["", ".partial"] {
            let file = format!("{}/%f{end}", shell_quoted(&place.display().to_string()));
            command.push_str(&format!(" || {{ test -f {file} && cp {file} \"%p\"; }}"));
        }
    }
    let path = data.join("postgresql.auto.conf");
    let text = read_no_link(&path).map_err(BackupError::file("read", &path))?;
    let others = text.lines().filter(|line| !line.starts_with("restore_command"));
    let ours = format!("restore_command = '{}'", command.replace('\'', "''"));
    let lines: Vec<&str> = others.chain([ours.as_str()]).collect();
    site.private_file(&path, &(lines.join("\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_archive_may_lack_stays() {
        let [young, old] = [Duration::from_secs(60), 2 * OF_OLD_TIMELINE];
        let archived = "000000020000000000000007";
        for (segment, age, over) in [
            ("000000020000000000000006", young, true),
            ("000000020000000000000007", young, true),
            ("000000020000000000000008", old, false),
            ("000000010000000000000005", young, false),
            ("000000010000000000000005", old, true),
            ("000000030000000000000001", old, false),
            ("short", old, false),
        ] {
            assert_eq!(is_over(segment, archived, || age), over, "{segment}");
        }
    }

    #[test]
    fn what_is_no_segment_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["000000010000000000000002.partial", "000000010000000000000001", "00000002.history", "system"];
        names.iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
        assert_eq!(segments(folder.path()), ["000000010000000000000001", "000000010000000000000002.partial"]);
    }
}
