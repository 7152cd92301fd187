//! A backup is tried: restored aside, replayed, compared with what the primary held, and examined for damage. What is
//! not shown is said; nothing counts as verified that was not compared.

mod files;

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tokio_postgres::Config;

use super::baseline::{self, Baseline, Comparison};
use super::error::BackupError;
use super::finding::{Finding, Severity};
use super::pgbackrest::Progress;
use super::programs::{self, Looked};
use super::recorded::{record, recorded};
use super::reports::{self, as_seconds, seconds};
use super::scratch::{Scratch, room};
use super::site::Site;
use super::target::{Target, Wanted};
use super::watch::archived;
use crate::base::{Lsn, RepositoryName, causes, clock};
use crate::topology::Way;

/// What a copy is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// A baseline that is taken now, on the primary; what is recorded where there is no primary.
    FreshIfPossible,
    Fresh,
    /// The newest that is recorded.
    Recorded,
}

#[derive(Debug, Clone)]
pub struct Trial {
    /// `None`: any.
    pub repository: Option<RepositoryName>,
    /// `None`: the latest.
    pub set: Option<String>,
    pub against: Against,
    /// Whether every file of the repositories is read, too, and not just those that a restore takes.
    pub files: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Verified {
    pub cluster: String,
    /// The repository that was meant. `None`: any.
    pub repository: Option<String>,
    /// When it began, in RFC 3339.
    pub at: String,
    /// Whether every file of the repositories was read.
    pub files: bool,
    /// Nothing dangerous was found.
    pub sound: bool,
    /// And everything was compared.
    pub complete: bool,
    pub backup: Option<Tried>,
    pub baseline: Option<Standard>,
    /// How long it takes to be back.
    pub rto: Option<Rto>,
    /// What is lost.
    pub rpo: Option<Rpo>,
    pub comparison: Option<Comparison>,
    pub checks: Vec<Check>,
    pub findings: Vec<Finding>,
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    pub took: Duration,
}

/// The backup that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    pub label: String,
    pub repository: String,
    pub region: String,
    /// Unix time.
    pub stopped: u64,
    /// Bytes of the cluster.
    pub size: u64,
}

/// What the copy was compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standard {
    pub point: String,
    pub lsn: String,
    pub taken: String,
    pub fresh: bool,
    pub tables: usize,
    pub rows: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rto {
    #[serde(rename = "restore_seconds", serialize_with = "as_seconds")]
    pub restore: Duration,
    /// From the server's start to its first answer.
    #[serde(rename = "replay_seconds", serialize_with = "as_seconds")]
    pub replay: Duration,
    #[serde(rename = "total_seconds", serialize_with = "as_seconds")]
    pub total: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rpo {
    /// The end of the log that was replayed.
    pub lsn: String,
    /// The newest commit that was recovered. `None`: none came after the backup.
    pub newest_commit: Option<String>,
    /// From that commit to the moment that was to be recovered, when it is known.
    pub behind_seconds: Option<f64>,
    /// How old the end of the archive was when the baseline was taken: had the primary been lost then, so much, at most,
    /// would be lost. Where the log is also received as it is written, it is less.
    pub archive_age_seconds: Option<f64>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub passed: bool,
    pub said: String,
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    pub took: Duration,
}

impl Verified {
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    fn begin(site: &Site, trial: &Trial) -> Self {
        Self {
            cluster: site.cluster().name.to_string(),
            repository: trial.repository.as_ref().map(ToString::to_string),
            at: clock::rfc3339(SystemTime::now()),
            files: trial.files,
            sound: false,
            complete: false,
            backup: None,
            baseline: None,
            rto: None,
            rpo: None,
            comparison: None,
            checks: Vec::new(),
            findings: Vec::new(),
            took: Duration::ZERO,
        }
    }

    fn end(&mut self, begin: Instant) {
        self.findings.sort();
        self.sound = self.count(Severity::Danger) == 0;
        self.complete = self.findings.is_empty();
        self.took = begin.elapsed();
    }

    /// Notes what a part found.
    fn check(&mut self, name: &'static str, begin: Instant, said: String, findings: Vec<Finding>) {
        let passed = findings.is_empty();
        self.findings.extend(findings);
        self.checks.push(Check { name, passed, said, took: begin.elapsed() });
    }
}

/// Tries a backup and keeps the report. The caller has the cluster's lock. An error: the trial itself could not be made;
/// whatever is wrong with the backup is in the report.
pub async fn verify(site: &Site, trial: &Trial, progress: &mut dyn Progress) -> Result<Verified, BackupError> {
    let begin = Instant::now();
    site.may_be_here()?;
    let mut verified = Verified::begin(site, trial);
    // The primary is not read for nothing.
    let latest = Wanted::archived(trial.repository.clone(), trial.set.clone(), Target::End);
    match latest.choose(site.cluster(), &site.holdings().await?) {
        Ok(kept) => {
            room(site, kept)?;
            attempt(site, trial, progress, &mut verified).await?;
        }
        Err(error) => verified.findings.push(Finding::danger("no_backup", causes(&error))),
    }
    verified.end(begin);
    reports::write(site, "verify", &verified.at, &verified)?;
    Ok(verified)
}

async fn attempt(
    site: &Site,
    trial: &Trial,
    progress: &mut dyn Progress,
    verified: &mut Verified,
) -> Result<(), BackupError> {
    let standard = standard(site, trial.against, progress, verified).await?;
    let wanted = wanted(site, trial, standard.as_ref(), verified).await?;
    let begin = Instant::now();
    let mut damaged = trial.files;
    match Scratch::restore(site, &wanted, progress).await {
        Ok(mut scratch) => {
            let reached = standard.as_ref().filter(|_| matches!(wanted.target, Target::Name(_)));
            examine(site, &mut scratch, reached, progress, verified).await?;
            remove(scratch).await;
        }
        Err(error) if error.is_of_this_machine() => return Err(error),
        Err(error) => {
            let text = format!("the backup cannot be restored: {}", causes(&error));
            verified.check("restore", begin, "failed".to_owned(), vec![Finding::danger("not_restored", text)]);
            damaged = true;
        }
    }
    if damaged {
        files::check(site, trial.repository.as_ref(), progress, verified).await?;
    }
    Ok(())
}

/// The baseline, and the archive with its restore point in it.
async fn standard(
    site: &Site,
    against: Against,
    progress: &mut dyn Progress,
    verified: &mut Verified,
) -> Result<Option<Baseline>, BackupError> {
    let begin = Instant::now();
    let fresh = match against {
        Against::Recorded => None,
        Against::Fresh => Some(record(site, progress).await?),
        Against::FreshIfPossible => match record(site, progress).await {
            Ok(baseline) => Some(baseline),
            Err(error) => {
                let text = format!("the primary could not be asked, so what is recorded counts: {}", causes(&error));
                verified.findings.push(Finding::warning("no_fresh_baseline", text));
                None
            }
        },
    };
    let mut stuck = None;
    if let Some(baseline) = fresh {
        let said = format!("{} tables, {} rows, restore point {}", baseline.tables(), baseline.rows(), baseline.point);
        verified.check("baseline", begin, said, Vec::new());
        let begin = Instant::now();
        progress.step("waiting for the log to be archived");
        let awaited = async {
            let client = site.writer().await.map_err(|error| causes(&error))?.client;
            archived(site, &client, &baseline.segment).await
        };
        match awaited.await {
            Ok(()) => {
                verified.check("archive", begin, format!("segment {} is archived", baseline.segment), Vec::new());
                verified.baseline = Some(Standard::new(&baseline, true));
                return Ok(Some(baseline));
            }
            Err(why) => {
                let finding = Finding::danger("archive_stuck", format!("the log is not being archived: {why}"));
                verified.check("archive", begin, "failed".to_owned(), vec![finding]);
                stuck = Some(baseline.point);
            }
        }
    }
    let old = recorded(site).find(|old| stuck.as_ref() != Some(&old.point));
    verified.baseline = old.as_ref().map(|old| Standard::new(old, false));
    match (&old, against) {
        (None, Against::Recorded) => return Err(BackupError::NoBaseline(site.cluster().name.clone())),
        (None, _) => verified.findings.push(not_compared("there is no baseline to compare it with")),
        _ => {}
    }
    Ok(old)
}

fn not_compared(why: &str) -> Finding {
    Finding::warning("not_compared", format!("what is in the copy was not compared with anything: {why}"))
}

impl Standard {
    fn new(baseline: &Baseline, fresh: bool) -> Self {
        Self {
            point: baseline.point.clone(),
            lsn: baseline.lsn.clone(),
            taken: baseline.taken.clone(),
            fresh,
            tables: baseline.tables(),
            rows: baseline.rows(),
        }
    }
}

/// Which backup is restored and up to where. A restore point can be reached from a backup that ended before it.
async fn wanted(
    site: &Site,
    trial: &Trial,
    standard: Option<&Baseline>,
    verified: &mut Verified,
) -> Result<Wanted, BackupError> {
    let end = Wanted::archived(trial.repository.clone(), trial.set.clone(), Target::End);
    let Some(baseline) = standard else { return Ok(end) };
    let point = Lsn::parse(&baseline.lsn).unwrap_or_default();
    let holdings = site.holdings().await?;
    let meant = holdings.iter().filter(|of| trial.repository.as_ref().is_none_or(|wanted| of.repository == *wanted));
    let backups = meant.flat_map(|of| &of.backups);
    let before = backups.filter(|kept| {
        let named = trial.set.as_ref().is_none_or(|set| kept.label == *set);
        named && Lsn::parse(&kept.lsn).is_some_and(|stop| stop <= point)
    });
    match before.max_by_key(|kept| (kept.stopped, &kept.label)) {
        Some(kept) => {
            let (repository, set) = (Some(kept.repository.clone()), Some(kept.label.clone()));
            Ok(Wanted::archived(repository, set, Target::Name(baseline.point.clone())))
        }
        None => {
            let why = format!("no backup that is meant ended before the baseline of {}", baseline.taken);
            verified.findings.push(not_compared(&why));
            Ok(end)
        }
    }
}

/// All that is to be found in a copy that came up. It is stopped then.
async fn examine(
    site: &Site,
    scratch: &mut Scratch,
    standard: Option<&Baseline>,
    progress: &mut dyn Progress,
    verified: &mut Verified,
) -> Result<(), BackupError> {
    measure(site, scratch, standard, verified);
    if let Some(baseline) = standard {
        let begin = Instant::now();
        progress.step("comparing the copy with the baseline");
        let read = baseline::look_at_copy(&way_to(scratch), baseline, progress).await;
        match read {
            Ok(copy) => {
                let mut comparison = baseline::compare(baseline, &copy);
                let findings = std::mem::take(&mut comparison.findings);
                let said = format!("{} tables with {} rows are the same", comparison.equal, comparison.rows);
                verified.check("comparison", begin, said, findings);
                verified.comparison = Some(comparison);
            }
            Err(error) => {
                let text = format!("the copy cannot be read: {}", causes(&error));
                verified.check("comparison", begin, "failed".to_owned(), vec![Finding::danger("unreadable", text)]);
            }
        }
    } else {
        let begin = Instant::now();
        let (said, finding) = log_end(site, scratch).await?;
        verified.check("log", begin, said, finding.into_iter().collect());
    }
    let begin = Instant::now();
    progress.step("checking tables and indexes (pg_amcheck)");
    note(verified, "pg_amcheck", begin, programs::amcheck(site, scratch).await?);
    let begin = Instant::now();
    if has_checksums(scratch).await? {
        progress.step("checking the pages' checksums (pg_checksums)");
        scratch.stop().await?;
        note(verified, "checksums", begin, programs::checksums(site, scratch).await?);
    } else {
        let said = "the cluster has no data checksums (initdb --data-checksums, pg_checksums --enable)".to_owned();
        verified.check("checksums", begin, said, Vec::new());
    }
    Ok(())
}

fn note(verified: &mut Verified, name: &'static str, begin: Instant, looked: Looked) {
    match looked {
        Looked::Found(findings) if findings.is_empty() => verified.check(name, begin, "no damage".to_owned(), findings),
        Looked::Found(findings) => verified.check(name, begin, "damage".to_owned(), findings),
        Looked::Not(why) => {
            let finding = Finding::warning("not_examined", format!("the copy was not examined: {why}"));
            verified.check(name, begin, "not done".to_owned(), vec![finding]);
        }
    }
}

fn measure(site: &Site, scratch: &Scratch, standard: Option<&Baseline>, verified: &mut Verified) {
    let (took, kept) = (scratch.took(), scratch.backup());
    let region = site.stores().get(&kept.repository).map(|repository| repository.region.to_string());
    verified.backup = Some(Tried {
        label: kept.label.clone(),
        repository: kept.repository.to_string(),
        region: region.unwrap_or_default(),
        stopped: kept.stopped,
        size: kept.size,
    });
    verified.rto = Some(Rto { restore: took.restore, replay: took.replay, total: took.restore + took.replay });
    let recovered = scratch.recovered();
    let moment = standard.and_then(|baseline| super::target::moment(&baseline.taken).ok());
    let behind =
        moment.zip(recovered.last_commit).map(|(moment, last)| moment.duration_since(last).unwrap_or_default());
    let fresh = verified.baseline.as_ref().is_some_and(|standard| standard.fresh);
    verified.rpo = Some(Rpo {
        lsn: recovered.lsn.clone(),
        newest_commit: recovered.last_commit.map(clock::rfc3339),
        behind_seconds: behind.map(seconds),
        archive_age_seconds: standard.filter(|_| fresh).and_then(|baseline| baseline.archive_age),
    });
}

/// Recovery to the end takes a segment that cannot be read for the end. How far it came, and what is wrong with that.
pub(super) async fn log_end(site: &Site, scratch: &Scratch) -> Result<(String, Option<Finding>), BackupError> {
    let newest = scratch.archived().and_then(|newest| newest.get(8..24));
    let lsn = &scratch.recovered().lsn;
    let Some(newest) = newest.filter(|_| !lsn.is_empty()) else {
        return Ok(("there is none after the backup".to_owned(), None));
    };
    let client = scratch.connect("postgres").await?;
    let sql = "select pg_catalog.substr(pg_catalog.pg_walfile_name($1::text::pg_catalog.pg_lsn), 9, 16)";
    let wrong = || site.sql("ask how far a copy came");
    let row = client.query_one(sql, &[lsn]).await.map_err(wrong())?;
    let reached: String = row.try_get(0).map_err(wrong())?;
    let finding = (reached.as_str() < newest).then(|| {
        let text = format!(
            "the log was replayed into segment {reached} only, and the archive goes on to {newest}: a segment between \
             is missing or damaged"
        );
        Finding::danger("log_incomplete", text)
    });
    Ok((format!("replayed up to segment {reached} of {newest}"), finding))
}

async fn has_checksums(scratch: &Scratch) -> Result<bool, BackupError> {
    let client = scratch.connect("postgres").await?;
    let on = client.query_one("select pg_catalog.current_setting('data_checksums')", &[]).await;
    // A copy in which nothing can be asked has said so before; its files are looked at all the same.
    Ok(on.and_then(|row| row.try_get::<_, String>(0)).map_or(true, |on| on == "on"))
}

/// As the copy's superuser.
fn way_to(scratch: &Scratch) -> Way {
    let mut config = Config::new();
    for (name, value) in scratch.environment() {
        match name {
            "PGHOST" => config.host_path(&value),
            "PGUSER" => config.user(value.to_string_lossy().into_owned()),
            "PGPORT" => config.port(value.to_string_lossy().parse().unwrap_or(5432)),
            _ => &mut config,
        };
    }
    Way { config, tls: None }
}

/// Large folders take their time to go.
pub(super) async fn remove(scratch: Scratch) {
    // It panics no more than dropping it here would.
    let _ = tokio::task::spawn_blocking(move || drop(scratch)).await;
}
