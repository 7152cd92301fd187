//! Backups that nobody has to think of: made when they are due, let go when they are old, tried again when they fail; and
//! an eye on the archiving of the log. All of it beside the traffic, on the control plane.

mod receiving;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::error::BackupError;
use super::finding::Severity;
use super::gauges::{self, Gauges};
use super::info::Holdings;
use super::make::{Order, make, prune};
use super::pgbackrest::Unseen;
use super::site::Site;
use super::tiers;
use super::trials::{LastTrial, Trials};
use super::verify::{Against, Trial, verify};
use super::watch::archiving;
use crate::base::{ClusterName, causes, clock};
use crate::config::{On, Settings};
use crate::telemetry::Telemetry;

/// How often it is looked whether something is due, and how the log gets to the archive.
const LOOK: Duration = Duration::from_secs(15);

/// The first wait after a failure, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3_600));

/// The configuration in force.
pub type Source = Arc<dyn Fn() -> Arc<Settings> + Send + Sync>;

/// Runs until it is stopped. A backup that is being made then is gone on with by the next.
pub async fn keep(source: Source, telemetry: Arc<Telemetry>, stop: CancellationToken) {
    let gauges = Arc::new(Gauges::new(telemetry));
    let mut kept: BTreeMap<(ClusterName, Duty), JoinHandle<()>> = BTreeMap::new();
    let mut due = tokio::time::interval(Duration::from_secs(1));
    while stop.run_until_cancelled(due.tick()).await.is_some() {
        kept.retain(|(name, duty), task| {
            if task.is_finished() {
                gauges.end(name, &duty.gauges().concat());
            }
            !task.is_finished()
        });
        let settings = source();
        for name in Site::clusters(&settings) {
            for duty in Duty::ALL.into_iter().filter(|duty| duty.is_of(&settings, name)) {
                let task = || {
                    let (source, gauges) = (Arc::clone(&source), Arc::clone(&gauges));
                    let (keeper, stop) = (Keeper { name: name.clone(), duty, source, gauges }, stop.clone());
                    keeper.begin(&settings);
                    tokio::spawn(async move { stop.run_until_cancelled(keeper.keep()).await.unwrap_or_default() })
                };
                kept.entry((name.clone(), duty)).or_insert_with(task);
            }
        }
    }
}

/// What is done for a cluster, each apart from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Duty {
    /// And trying what was made.
    Making,
    Watching,
    Receiving,
}

impl Duty {
    const ALL: [Self; 3] = [Self::Making, Self::Watching, Self::Receiving];

    fn is_of(self, settings: &Settings, cluster: &ClusterName) -> bool {
        let Some(cluster) = settings.clusters.get(cluster) else { return false };
        let receives = || cluster.backup.as_ref().is_some_and(|of| of.receive_wal.is_some());
        match self {
            Self::Making | Self::Watching => settings.backup.as_ref().is_some_and(|backup| backup.scheduled),
            // Wherever that is configured: it is for another machine than the one that makes backups.
            Self::Receiving => settings.backup.is_some() && receives(),
        }
    }

    /// Of the cluster, and of each of its repositories.
    fn gauges(self) -> [&'static [gauges::Family]; 2] {
        match self {
            Self::Making => [&gauges::OF_MAKING, &gauges::OF_REPOSITORY],
            Self::Watching => [&gauges::OF_WATCHING, &[]],
            Self::Receiving => [&gauges::OF_RECEIVING, &[]],
        }
    }
}

/// One cluster's.
struct Keeper {
    name: ClusterName,
    duty: Duty,
    source: Source,
    gauges: Arc<Gauges>,
}

impl Keeper {
    /// By the configuration in force. `None`: there is nothing to do for the cluster any more.
    fn site(&self) -> Option<Result<Site, BackupError>> {
        let settings = (self.source)();
        let wanted = Site::clusters(&settings).any(|name| *name == self.name) && self.duty.is_of(&settings, &self.name);
        wanted.then(|| Site::open(&settings, &self.name))
    }

    /// Shows its gauges.
    fn begin(&self, settings: &Settings) {
        let [own, of_repositories] = self.duty.gauges();
        self.gauges.begin(&self.name, None, own);
        let of = settings.clusters.get(&self.name).map(|cluster| &cluster.repositories);
        for (repository, _) in of.into_iter().flatten().filter(|(_, repository)| repository.store.is_some()) {
            self.gauges.begin(&self.name, Some(repository), of_repositories);
        }
    }

    async fn keep(self) {
        match self.duty {
            Duty::Making => self.keep_making().await,
            Duty::Watching => self.keep_watching().await,
            Duty::Receiving => self.keep_receiving().await,
        }
    }

    async fn keep_making(&self) {
        let mut failures = 0_u32;
        let (mut untried, mut trials): (Option<Instant>, _) = (None, Trials::default());
        while let Some(site) = self.site() {
            let wait = match self.make_due(site).await {
                Ok(()) => {
                    failures = 0;
                    LOOK
                }
                Err(error) if error.is_busy() => LOOK,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.gauges.failed(&self.name);
                    let wait = WAITS.0.saturating_mul(2_u32.saturating_pow(failures.min(16) - 1)).min(WAITS.1);
                    let (cluster, error) = (&self.name, causes(&error));
                    tracing::error!(%cluster, %error, failures, again_in = ?wait, "a backup failed");
                    wait
                }
            };
            self.gauge(gauges::FAILING, if failures > 0 { 1.0 } else { 0.0 });
            if untried.is_none_or(|since| since.elapsed() > WAITS.1) {
                untried = self.keep_trying(&mut trials).await;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Tries what is due to be tried. Returns since when it cannot be.
    async fn keep_trying(&self, trials: &mut Trials) -> Option<Instant> {
        let site = self.site()?;
        let tried = match site {
            Ok(site) => self.try_due(&site, trials).await,
            Err(error) => Err(error),
        };
        match tried {
            Ok(()) => None,
            Err(error) if error.is_busy() => None,
            Err(error) => {
                let (cluster, error) = (&self.name, causes(&error));
                tracing::error!(%cluster, %error, again_in = ?WAITS.1, "a backup could not be tried");
                Some(Instant::now())
            }
        }
    }

    fn gauge(&self, family: gauges::Family, value: f64) {
        self.gauges.set(&self.name, None, family, value);
    }

    /// One repository's trouble is not another's.
    async fn make_due(&self, site: Result<Site, BackupError>) -> Result<(), BackupError> {
        let site = site?;
        let mut failed = None;
        for of in site.holdings().await? {
            let name = of.repository.clone();
            match self.make_due_in(&site, of).await {
                Ok(()) => {}
                // Not in the place of a failure.
                Err(error) if error.is_busy() => failed = failed.or(Some(error)),
                Err(error) => {
                    tracing::warn!(cluster = %self.name, repository = %name, error = causes(&error), "no backup there");
                    failed = Some(error);
                }
            }
        }
        self.tell(&site, &site.holdings().await?);
        failed.map_or(Ok(()), Err)
    }

    async fn make_due_in(&self, site: &Site, of: Holdings) -> Result<(), BackupError> {
        let Holdings { repository: name, backups, .. } = of.known(&self.name)?;
        let due = tiers::due(clock::unix_now(), &site.rules().tiers, &name, &backups);
        let Some((tier, _)) = due else { return Ok(()) };
        let lock = site.lock("pgward run, making a backup")?;
        let order = Order { repository: Some(name), kind: None, tier: Some(tier.to_string()) };
        self.gauge(gauges::RUNNING, 1.0);
        let made = make(site, &order, &mut Unseen).await;
        self.gauge(gauges::RUNNING, 0.0);
        for made in made? {
            let (cluster, label, repository) = (&self.name, &made.kept.label, &made.kept.repository);
            tracing::info!(%cluster, %repository, label, seconds = made.took.as_secs_f64(), "a backup is made");
            self.gauge(gauges::DURATION, made.took.as_secs_f64());
        }
        drop(lock);
        // By the configuration as it is by now: somebody may have put a hold on a tenant meanwhile.
        let Some(site) = self.site().transpose()? else { return Ok(()) };
        let _lock = site.lock("pgward run, letting go of backups")?;
        let pruned = prune(&site, clock::unix_now(), false, &mut Unseen).await?;
        for gone in &pruned.gone {
            tracing::info!(cluster = %self.name, repository = %gone.repository, label = gone.label, "a backup is let go");
        }
        pruned.failed.map_or(Ok(()), Err)
    }

    /// The latest backup, once a day.
    async fn try_due(&self, site: &Site, trials: &mut Trials) -> Result<(), BackupError> {
        trials.look(site);
        let (last, now) = (trials.last(site), clock::unix_now());
        last.iter().for_each(|last| self.tell_trial(last));
        let Some(at) = site.rules().verify_at else { return Ok(()) };
        let due = tiers::last_due(now, On::EveryDay, at);
        let holdings = site.holdings().await?;
        let backups = holdings.iter().flat_map(|of| &of.backups).map(|kept| kept.stopped);
        // A backup that is younger than that waits for the next day.
        let oldest = backups.min();
        let Some(since) = last.map(|last| last.at).or(oldest).filter(|since| *since < due) else { return Ok(()) };
        let (tried, have) = (trials.tried(), |of: &&Holdings| of.trouble.is_some() || !of.backups.is_empty());
        let next = tried.next(holdings.iter().filter(have).map(|of| &of.repository)).cloned();
        let files = site.rules().verify_files_on.is_some_and(|on| {
            let due = tiers::last_due(now, on, at);
            tried.files.or(oldest).is_some_and(|since| since < due)
        });
        let lock = site.lock("pgward run, trying a backup")?;
        tracing::info!(cluster = %self.name, since, "the latest backup is restored and tried");
        let repository = next.filter(|_| !files);
        let trial = Trial { repository, set: None, against: Against::FreshIfPossible, files };
        let verified = verify(site, &trial, &mut Unseen).await?;
        drop(lock);
        for finding in &verified.findings {
            let (cluster, kind, text) = (&self.name, finding.kind, &finding.text);
            match finding.severity {
                Severity::Danger => tracing::error!(%cluster, kind, "a backup is not sound: {text}"),
                _ => tracing::warn!(%cluster, kind, "found when a backup was tried: {text}"),
            }
        }
        trials.look(site);
        trials.last(site).iter().for_each(|last| self.tell_trial(last));
        Ok(())
    }

    fn tell_trial(&self, last: &LastTrial) {
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
        self.gauge(gauges::VERIFIED, last.at as f64);
        self.gauge(gauges::UNSOUND, if last.sound { 0.0 } else { 1.0 });
        self.gauge(gauges::RTO, last.rto.unwrap_or(f64::NAN));
        self.gauge(gauges::RPO, last.rpo.unwrap_or(f64::NAN));
    }

    fn tell(&self, site: &Site, holdings: &[Holdings]) {
        let kept: Vec<_> = holdings.iter().map(|of| &of.repository).collect();
        self.gauges.keep_repositories(&self.name, &kept);
        for (of, standing) in holdings.iter().zip(super::standing::standing(site, holdings)) {
            let stored: u64 = of.backups.iter().map(|kept| kept.stored).sum();
            #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
            let values = [
                (gauges::LAST, standing.last.unwrap_or(0) as f64),
                (gauges::OVERDUE, if standing.finding().is_some() { 1.0 } else { 0.0 }),
                (gauges::BACKUPS, of.backups.len() as f64),
                (gauges::STORED, stored as f64),
            ];
            let set = |(family, value)| self.gauges.set(&self.name, Some(&of.repository), family, value);
            values.into_iter().for_each(set);
        }
    }

    async fn keep_watching(&self) {
        let mut told: Option<String> = None;
        while let Some(site) = self.site() {
            let alert = self.watch(site).await.unwrap_or_else(|error| {
                Some(format!("how the log of cluster {} is archived is not known: {}", self.name, causes(&error)))
            });
            self.gauge(gauges::ALERT, if alert.is_some() { 1.0 } else { 0.0 });
            match (&alert, &told) {
                (Some(alert), None) => tracing::error!(cluster = %self.name, "{alert}"),
                (None, Some(_)) => tracing::info!(cluster = %self.name, "the log is archived as it should be again"),
                _ => {}
            }
            told = alert;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn watch(&self, site: Result<Site, BackupError>) -> Result<Option<String>, BackupError> {
        let site = site?;
        let archiving = archiving(&site, &site.writer().await?).await?;
        self.gauge(gauges::LAG, archiving.lag.as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
        self.gauge(gauges::WAITING, archiving.waiting_bytes as f64);
        self.gauge(gauges::ARCHIVE_FAILING, if archiving.failing { 1.0 } else { 0.0 });
        Ok(archiving.alert(&site))
    }
}
