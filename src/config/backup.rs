//! `[backup]`: how backups are made and tried; and what clusters say of theirs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::logins;
use super::reader::{FromToml, Reader, Section, empty, map, table};
use super::regions::Groups;
use super::settings::{Cluster, Roles, Settings};
use super::{Login, Problem};
use crate::base::{Region, RepositoryName, Secret, TierName};

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// What is remembered of backups between one and the next, a folder for each cluster.
    pub directory: PathBuf,
    pub program: PathBuf,
    /// Who is asked in restored copies: a superuser of the clusters.
    pub superuser: String,
    /// Whether `pgward run` makes and tries backups when they are due.
    pub scheduled: bool,
    pub tiers: BTreeMap<TierName, Tier>,
    /// When the latest backup of each cluster is tried. `None`: only when somebody asks.
    pub verify_at: Option<TimeOfDay>,
    /// When every file of all repositories is read, too. `None`: only when a copy cannot be restored.
    pub verify_files_on: Option<On>,
    /// From the writing of a segment of the log to its being archived, before it is an alert.
    pub max_archive_lag: Duration,
    /// The log that waits to be archived, in bytes, before it is an alert.
    pub max_archive_backlog: u64,
}

/// Backups that are made alike and kept alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    pub kind: BackupKind,
    pub on: On,
    pub at: TimeOfDay,
    pub keep: Duration,
    /// Where they go. Empty: to all repositories of the cluster.
    pub repositories: Vec<RepositoryName>,
}

impl Tier {
    pub fn goes_to(&self, repository: &RepositoryName) -> bool {
        self.repositories.is_empty() || self.repositories.contains(repository)
    }
}

/// pgBackRest's types of backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupKind {
    Full,
    /// What has changed since the last full one.
    Differential,
    /// What has changed since the last one of any type.
    Incremental,
}

impl BackupKind {
    pub const ALL: [(&'static str, Self); 3] =
        [("full", Self::Full), ("diff", Self::Differential), ("incr", Self::Incremental)];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Differential => "diff",
            Self::Incremental => "incr",
        }
    }
}

/// The days on which something is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    EveryDay,
    /// Days after Monday.
    Weekday(u8),
    /// 1 to 28, so that each month has it.
    DayOfMonth(u8),
}

const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOfDay {
    pub hour: u8,
    pub minute: u8,
}

/// Where a cluster's backups are kept, whatever makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    pub region: Region,
    /// `None`: something else than pgward sees to it.
    pub store: Option<Store>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    pub place: StorePlace,
    /// What pgBackRest encrypts by. `None`: it does not.
    pub cipher: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    Posix(PathBuf),
    S3(Box<S3>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    pub bucket: String,
    pub host: String,
    pub port: u16,
    pub region: String,
    /// Within the bucket.
    pub path: String,
    pub key: Secret,
    pub secret: Secret,
    /// The bucket stands in the path of a URL, rather than in its host name.
    pub path_style: bool,
    pub ca: Option<PathBuf>,
}

/// What a cluster says of its backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterBackup {
    /// Who begins and ends backups, and counts what is to be found in a restored copy.
    pub login: Login,
    /// Where it logs in.
    pub database: String,
    /// Into which folder of this machine the log is received as it is written. `None`: it is not.
    pub receive_wal: Option<PathBuf>,
    /// More of pgBackRest's options, by its names for them.
    pub options: BTreeMap<String, String>,
}

/// What pgBackRest is told by pgward, and nobody else may.
const OWN_OPTIONS: [&str; 11] = [
    "stanza",
    "config",
    "lock-path",
    "log-path",
    "log-level-console",
    "log-level-stderr",
    "log-timestamp",
    "annotation",
    "target",
    "type",
    "set",
];

pub(super) fn backup(reader: &mut Reader, mut section: Section) -> Option<Backup> {
    let directory: Option<String> = section.required(reader, "directory", "\"/var/lib/pgward/backup\"");
    let program: Option<String> = section.optional(reader, "program");
    let superuser: Option<String> = section.optional(reader, "superuser");
    let scheduled = section.optional(reader, "scheduled").unwrap_or(true);
    let entries = section.entries(reader, "tiers");
    let said = !entries.is_empty();
    let mut tiers: BTreeMap<TierName, Tier> = map(reader, entries, |reader, at, _: &TierName, value| {
        let section = table(reader, at, value)?;
        tier(reader, section)
    });
    if !said {
        tiers = shipped();
    }
    if !tiers.is_empty() && tiers.values().all(|tier| tier.kind != BackupKind::Full) {
        let what = "has no tier of full backups, which all others go by";
        reader
            .problem(Problem::new(section.at("tiers"), what).example("weekly = { type = \"full\", on = \"sunday\" }"));
    }
    let verify_at = match section.take("verify_at") {
        Some(Value::String(word)) if word == "off" => None,
        Some(value) => time_of_day(reader, &section.at("verify_at"), value),
        None => Some(TimeOfDay { hour: 4, minute: 0 }),
    };
    let verify_files_on = match section.take("verify_files_on") {
        Some(Value::String(word)) if word == "off" => None,
        Some(value) => on(reader, &section.at("verify_files_on"), &value),
        None => Some(On::DayOfMonth(1)),
    };
    let second = Duration::from_secs(1);
    let max_archive_lag = section.duration(reader, "max_archive_lag", 300 * second, second..=DAY);
    let max_archive_backlog = section.size(reader, "max_archive_backlog", 1 << 30, 1 << 20..=1 << 50);
    section.finish(reader);
    Some(Backup {
        directory: reader.resolve(&directory?),
        program: program.map_or_else(|| PathBuf::from("pgbackrest"), PathBuf::from),
        superuser: superuser.unwrap_or_else(|| "postgres".to_owned()),
        scheduled,
        tiers,
        verify_at,
        verify_files_on,
        max_archive_lag,
        max_archive_backlog,
    })
}

/// What is done unless something else is said: daily, weekly and monthly at 02:00 UTC.
fn shipped() -> BTreeMap<TierName, Tier> {
    let at = TimeOfDay { hour: 2, minute: 0 };
    let tier = |kind, on, days: u32| Tier { kind, on, at, keep: days * DAY, repositories: Vec::new() };
    let all = [
        ("daily", tier(BackupKind::Differential, On::EveryDay, 30)),
        ("weekly", tier(BackupKind::Full, On::Weekday(6), 365)),
        ("monthly", tier(BackupKind::Full, On::DayOfMonth(1), 2_557)),
    ];
    all.into_iter().filter_map(|(name, tier)| Some((TierName::parse(name).ok()?, tier))).collect()
}

fn tier(reader: &mut Reader, mut section: Section) -> Option<Tier> {
    let kind = section.choice(reader, "type", &BackupKind::ALL).unwrap_or(BackupKind::Differential);
    let on = match section.take("on") {
        Some(value) => on(reader, &section.at("on"), &value),
        None => Some(On::EveryDay),
    };
    let at = match section.take("at") {
        Some(value) => time_of_day(reader, &section.at("at"), value),
        None => Some(TimeOfDay { hour: 2, minute: 0 }),
    };
    let keep = section.duration(reader, "keep", 30 * DAY, DAY..=36_525 * DAY);
    let names: Vec<String> = section.optional(reader, "repositories").unwrap_or_default();
    let path = section.at("repositories");
    let repositories = names.into_iter().filter_map(|name| RepositoryName::from_toml(reader, &path, name.into()));
    let repositories = repositories.collect();
    section.finish(reader);
    Some(Tier { kind, on: on?, at: at?, keep, repositories })
}

fn on(reader: &mut Reader, at: &str, value: &Value) -> Option<On> {
    let day = value.as_integer().and_then(|day| u8::try_from(day).ok()).filter(|day| (1..=28).contains(day));
    let weekday = value.as_str().and_then(|word| WEEKDAYS.iter().position(|name| *name == word));
    match (value.as_str(), weekday, day) {
        (Some("every day"), _, _) => Some(On::EveryDay),
        (_, Some(weekday), _) => u8::try_from(weekday).ok().map(On::Weekday),
        (_, _, Some(day)) => Some(On::DayOfMonth(day)),
        _ => {
            let what = "must be \"every day\", a weekday such as \"sunday\", or a day of the month from 1 to 28";
            reader.problem(Problem::new(at, what).value(value));
            None
        }
    }
}

fn time_of_day(reader: &mut Reader, at: &str, value: Value) -> Option<TimeOfDay> {
    let text = String::from_toml(reader, at, value)?;
    let parts = text.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2);
    let time = parts.and_then(|(hour, minute)| Some((hour.parse().ok()?, minute.parse().ok()?)));
    match time {
        Some((hour @ 0..24, minute @ 0..60)) => Some(TimeOfDay { hour, minute }),
        _ => {
            reader.problem(Problem::new(at, "must be a time of day in UTC").value(text).example("\"02:00\""));
            None
        }
    }
}

pub(super) fn repositories(
    reader: &mut Reader,
    section: &mut Section,
    groups: &Groups,
) -> BTreeMap<RepositoryName, Repository> {
    let entries = section.entries(reader, "repositories");
    map(reader, entries, |reader, at, _: &RepositoryName, value| {
        let mut section = table(reader, at, value)?;
        let region: Option<Region> = section.required(reader, "region", "\"lk\"");
        region.iter().for_each(|region| groups.is_one(reader, &section.at("region"), region));
        let store = store(reader, &mut section);
        section.finish(reader);
        Some(Repository { region: region?, store: store? })
    })
}

/// `Some(None)`: there is none.
fn store(reader: &mut Reader, section: &mut Section) -> Option<Option<Store>> {
    let path: Option<String> = section.optional(reader, "path");
    let s3 = section.section(reader, "s3");
    let cipher: Option<Secret> = section.optional(reader, "cipher");
    let encrypted: bool = section.optional(reader, "encrypted").unwrap_or(true);
    let place = match (path, s3) {
        (Some(_), Some(_)) => {
            reader.problem(Problem::new(&section.path, "has both path and s3; a repository is in one place"));
            return None;
        }
        (Some(path), None) => StorePlace::Posix(std::path::absolute(reader.resolve(&path)).ok()?),
        (None, Some(s3)) => StorePlace::S3(Box::new(self::s3(reader, s3)?)),
        (None, None) => return Some(None),
    };
    if cipher.is_none() && encrypted {
        let what = "is missing, and a backup holds everything; name a passphrase, or say encrypted = false";
        reader.problem(Problem::new(section.at("cipher"), what).example("cipher = { file = \"secrets/backup.key\" }"));
    }
    if let Some(cipher) = &cipher {
        let at = section.at("cipher");
        super::sections::long_enough(reader, &at, cipher);
        one_line(reader, &at, cipher);
    }
    Some(Some(Store { place, cipher: cipher.filter(|_| encrypted) }))
}

/// pgBackRest reads lines.
fn one_line(reader: &mut Reader, at: &str, secret: &Secret) {
    let fits =
        std::str::from_utf8(secret.expose()).is_ok_and(|text| text.trim() == text && !text.contains(char::is_control));
    if !fits {
        reader.problem(Problem::new(at, "must be one line of text that begins and ends without a space"));
    }
}

fn s3(reader: &mut Reader, mut section: Section) -> Option<S3> {
    let bucket: Option<String> = section.required(reader, "bucket", "\"backups\"");
    let endpoint: Option<String> = section.required(reader, "endpoint", "\"s3.lk.example\"");
    let region: Option<String> = section.required(reader, "region", "\"lk-1\"");
    let path: Option<String> = section.optional(reader, "path");
    let key: Option<Secret> = section.required(reader, "key", "{ file = \"secrets/s3.key\" }");
    let secret: Option<Secret> = section.required(reader, "secret", "{ file = \"secrets/s3.secret\" }");
    for (name, secret) in [("key", &key), ("secret", &secret)] {
        secret.iter().for_each(|secret| one_line(reader, &section.at(name), secret));
    }
    let path_style = section.optional(reader, "path_style").unwrap_or(false);
    let ca = section.optional::<String>(reader, "ca").map(|name| reader.resolve(&name));
    let endpoint = endpoint?;
    let (host, port) = match endpoint.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), port.parse().ok()),
        None => (endpoint.clone(), Some(443)),
    };
    let at = section.at("endpoint");
    section.finish(reader);
    let Some(port) = port.filter(|_| !host.is_empty() && !host.contains('/')) else {
        reader.problem(Problem::new(at, "must be a host name, or a host name and a port").value(endpoint));
        return None;
    };
    let path = path.unwrap_or_else(|| "/".to_owned());
    let fields = [("bucket", bucket.as_deref()), ("region", region.as_deref()), ("path", Some(path.as_str()))];
    if fields.iter().any(|(_, text)| text.is_some_and(|text| text.is_empty() || text.contains(char::is_control))) {
        reader.problem(Problem::new(
            at,
            "stands beside a bucket, region or path that is empty or has control characters",
        ));
    }
    Some(S3 { bucket: bucket?, host, port, region: region?, path, key: key?, secret: secret?, path_style, ca })
}

/// `None` only where there is nothing to log in by.
pub(super) fn of_cluster(reader: &mut Reader, section: &mut Section, master_key: bool) -> Option<ClusterBackup> {
    let at = section.at("backup");
    let said = section.section(reader, "backup");
    let mut section = empty(&at, said);
    let login = logins::backup(reader, &mut section, master_key);
    let database = section.optional(reader, "database").unwrap_or_else(|| "postgres".to_owned());
    let receive_wal = section.optional::<String>(reader, "receive_wal").map(|folder| reader.resolve(&folder));
    let mut options = BTreeMap::new();
    for (at, name, value) in section.entries(reader, "options") {
        let word = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let own = OWN_OPTIONS.contains(&name.as_str()) || name.starts_with("repo") || name.starts_with("pg");
        if !word || own {
            let what = "is not an option of pgBackRest's that can be given here; pgward sets stanza, pg1-path and the \
                        like itself, and repositories stand in clusters.NAME.repositories";
            reader.problem(Problem::new(at, what));
        } else if let Some(text) = String::from_toml(reader, &at, value)
            && !text.contains(char::is_control)
        {
            options.insert(name, text);
        }
    }
    section.finish(reader);
    login.map(|login| ClusterBackup { login, database, receive_wal, options })
}

/// Across tables: what is to be kept somewhere must be able to get there.
pub(super) fn check(settings: &Settings, problems: &mut Vec<Problem>) {
    for cluster in settings.clusters.values() {
        let at = |key: &str| format!("clusters.{}.{key}", cluster.name);
        if cluster.repositories.values().all(|repository| repository.store.is_none()) {
            continue;
        }
        let Some(backup) = &settings.backup else {
            let what = "has a path or s3, but there is no [backup], which says how backups are made";
            let problem = Problem::new(at("repositories"), what);
            problems.push(problem.example("[backup]\ndirectory = \"/var/lib/pgward/backup\""));
            continue;
        };
        if cluster.servers.iter().all(|server| server.data_directory.is_none()) {
            let what = "none says where its data_directory is, which pgBackRest has to read";
            let problem = Problem::new(at("servers"), what);
            problems.push(problem.example("data_directory = \"/var/lib/postgresql/15/main\""));
        }
        if cluster.backup.as_ref().is_some_and(|of| of.receive_wal.is_some()) && settings.region.is_none() {
            let what = "has the data of all tenants come to where this pgward is, which is not said";
            problems.push(Problem::new(at("backup.receive_wal"), what).example("region = \"lk\""));
        }
        match &cluster.backup {
            None => problems.push(
                Problem::new(at("backup.login"), "is missing, and there is no master key to derive its password from")
                    .example("login = { role = \"pgward_backup\", password = { file = \"secrets/backup.password\" } }"),
            ),
            Some(of) if is_somebody_elses(settings, cluster, &of.login.role) => {
                let what = "is also what tenants, users or pgward itself log in as; it reads everything, and is for backups alone";
                problems.push(Problem::new(at("backup.login"), what).value(&of.login.role));
            }
            Some(_) => {}
        }
        let driven = || cluster.repositories.iter().filter(|(_, repository)| repository.store.is_some());
        for (name, tier) in &backup.tiers {
            if !driven().any(|(repository, _)| tier.goes_to(repository)) {
                let what =
                    format!("names no repository that cluster {} has, so nothing of it would be kept", cluster.name);
                problems.push(Problem::new(format!("backup.tiers.{name}.repositories"), what));
            }
        }
        for (repository, _) in driven() {
            let into = || backup.tiers.values().filter(|tier| tier.goes_to(repository));
            if into().next().is_some() && into().all(|tier| tier.kind != BackupKind::Full) {
                let what = "gets differences only, and no full backup that they would be differences to";
                problems.push(Problem::new(at(&format!("repositories.{repository}")), what));
            }
        }
    }
}

fn is_somebody_elses(settings: &Settings, cluster: &Cluster, role: &str) -> bool {
    let of_cluster = cluster.logins.values().chain(&cluster.service).any(|login| login.role == role);
    let of_tenant =
        settings.tenants.values().filter(|tenant| tenant.cluster == cluster.name).any(
            |tenant| matches!(&tenant.roles, Roles::Own(logins) if logins.values().any(|login| login.role == role)),
        );
    let plain = settings.plain.databases.values().chain(&settings.plain.any).filter_map(|plain| plain.login.as_ref());
    let lookup = settings.plain.lookup.as_ref().map(|lookup| &lookup.login);
    let catalogue = settings.catalogue.as_ref().map(|catalogue| &catalogue.login);
    of_cluster || of_tenant || plain.chain(lookup).chain(catalogue).any(|login| login.role == role)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<Backup>, Vec<String>) {
        let mut reader = Reader::new(std::path::Path::new("/etc/pgward"));
        let section = Section::new("backup", text.parse().unwrap());
        let backup = backup(&mut reader, section);
        (backup, reader.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_ships_is_daily_weekly_and_monthly() {
        let (backup, problems) = read("directory = \"state\"");
        assert_eq!(problems, Vec::<String>::new());
        let backup = backup.unwrap();
        assert_eq!(backup.directory, PathBuf::from("/etc/pgward/state"));
        let kept: Vec<(&str, u64)> =
            backup.tiers.iter().map(|(name, tier)| (name.as_str(), tier.keep.as_secs() / 86_400)).collect();
        assert_eq!(kept, [("daily", 30), ("monthly", 2_557), ("weekly", 365)]);
    }

    #[test]
    fn a_tier_that_cannot_be_is_refused() {
        for (text, why) in [
            ("tiers.daily = { on = \"sometimes\" }", "tiers.daily.on"),
            ("tiers.daily = { at = \"25:00\" }", "tiers.daily.at"),
            ("tiers.daily = { at = \"2:00\" }", "tiers.daily.at"),
            ("tiers.monthly = { on = 31, type = \"full\" }", "tiers.monthly.on"),
            ("tiers.daily = { keep = \"1h\" }", "tiers.daily.keep"),
            ("tiers.daily = { type = \"diff\" }", "no tier of full backups"),
            ("verify_at = \"noon\"", "verify_at"),
            ("verify_files_on = \"sometimes\"", "verify_files_on"),
        ] {
            let (_, problems) = read(&format!("directory = \"x\"\n{text}"));
            assert!(problems.iter().any(|problem| problem.contains(why)), "{text}: {problems:?}");
        }
    }

    #[test]
    fn a_store_without_a_word_of_encryption_is_refused() {
        let problems = |text: &str| {
            let mut reader = Reader::new(std::path::Path::new("/etc/pgward"));
            let mut section = Section::new("r", text.parse().unwrap());
            store(&mut reader, &mut section);
            reader.into_problems().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(problems("path = \"/b\"")[0].starts_with("r.cipher"));
        assert!(problems("path = \"/b\"\ncipher = \"short\"")[0].starts_with("r.cipher"));
        assert!(
            problems("path = \"/b\"\ncipher = \"0123456789abcdef0123456789\\nabcdef012345\"")[0]
                .starts_with("r.cipher")
        );
        assert_eq!(problems("path = \"/b\"\nencrypted = false"), Vec::<String>::new());
        assert!(problems("path = \"/b\"\ns3 = {}")[0].contains("both path and s3"));
    }

    #[test]
    fn options_that_are_pgwards_own_are_refused() {
        let mut reader = Reader::new(std::path::Path::new("/"));
        let mut section = empty("c", None);
        assert!(of_cluster(&mut reader, &mut section, true).is_some());
        let text = "backup.options = { process-max = \"2\", pg1-path = \"/x\", repo1-path = \"/y\", Bad = \"z\" }";
        let mut section = Section::new("c", text.parse().unwrap());
        let of = of_cluster(&mut reader, &mut section, true).unwrap();
        assert_eq!(of.options.keys().collect::<Vec<_>>(), ["process-max"]);
        assert_eq!(reader.into_problems().len(), 3);
    }
}
