//! Which backup is due, which may go, and how much of the log stays. Pure: times are seconds of Unix time.

use std::collections::{BTreeMap, BTreeSet};

use super::info::Kept;
use crate::base::{RepositoryName, TierName};
use crate::config::{BackupKind, On, Tier, TimeOfDay};

const DAY: u64 = 86_400;
/// 1970-01-01 was a Thursday: days after Monday.
const EPOCH_WEEKDAY: u64 = 3;

pub(super) type Tiers = BTreeMap<TierName, Tier>;

/// The latest moment up to now at which a tier was due.
pub(super) fn last_due(now: u64, on: On, at: TimeOfDay) -> u64 {
    let of_day = u64::from(at.hour) * 3_600 + u64::from(at.minute) * 60;
    let today = now / DAY;
    let fits = |day: u64| match on {
        On::EveryDay => true,
        On::Weekday(weekday) => (day + EPOCH_WEEKDAY) % 7 == u64::from(weekday),
        On::DayOfMonth(wanted) => day_of_month(day) == u64::from(wanted),
    };
    let days = (0..=today.min(32)).map(|ago| today - ago);
    days.filter(|day| fits(*day)).map(|day| day * DAY + of_day).find(|due| *due <= now).unwrap_or(0)
}

/// The first moment after this one at which a tier is due.
pub(super) fn next_due(now: u64, on: On, at: TimeOfDay) -> u64 {
    let today = now / DAY;
    let noon = |days: u64| (today + days) * DAY + DAY - 1;
    (0..=33).map(|days| last_due(noon(days), on, at)).find(|due| *due > now).unwrap_or(now + DAY)
}

fn day_of_month(day: u64) -> u64 {
    let text = crate::base::clock::timestamp(day * DAY);
    text.get(8..10).and_then(|day| day.parse().ok()).unwrap_or(0)
}

/// The tier that a backup into this repository is due for: of several, the one that is kept longest, which serves
/// for the others too.
pub(super) fn due<'a>(
    now: u64,
    tiers: &'a Tiers,
    repository: &RepositoryName,
    backups: &[Kept],
) -> Option<(&'a TierName, &'a Tier)> {
    let here: Vec<&Kept> = backups.iter().filter(|kept| kept.repository == *repository).collect();
    let tier_of = |kept: &Kept| kept.tier.as_deref().and_then(|name| tiers.get(name));
    let served = |tier: &Tier, since: u64| {
        here.iter().any(|kept| {
            let serves = tier_of(kept).is_some_and(|of| of.keep >= tier.keep && rank(of.kind) >= rank(tier.kind));
            serves && kept.started >= since
        })
    };
    let into = tiers.iter().filter(|(_, tier)| tier.goes_to(repository));
    let due = into.filter(|(_, tier)| !served(tier, last_due(now, tier.on, tier.at)));
    due.max_by_key(|(_, tier)| (rank(tier.kind), tier.keep))
}

fn rank(kind: BackupKind) -> u8 {
    match kind {
        BackupKind::Full => 2,
        BackupKind::Differential => 1,
        BackupKind::Incremental => 0,
    }
}

/// The end of the year 9999: until somebody says otherwise.
pub const FOREVER: u64 = 253_402_300_799;

/// Until when a backup is kept: as its tier says, or as the shortest does where it was made by hand. A tier that is not
/// configured any more may have been to be kept for years. Never shorter than what goes by it.
pub(super) fn kept_until(kept: &Kept, tiers: &Tiers, backups: &[Kept]) -> u64 {
    let own = |kept: &Kept| {
        let shortest = || tiers.values().map(|tier| tier.keep).min();
        let keep = match kept.tier.as_deref() {
            Some(name) => tiers.get(name).map(|tier| tier.keep),
            None => shortest(),
        };
        keep.map_or(FOREVER, |keep| kept.stopped + keep.as_secs())
    };
    let needing = |other: &&Kept| other.repository == kept.repository && other.needs.contains(&kept.label);
    backups.iter().filter(needing).map(own).chain([own(kept)]).max().unwrap_or(FOREVER)
}

/// The one that stays until there is a newer one, however old it is.
pub fn last_full<'a>(repository: &RepositoryName, backups: &'a [Kept]) -> Option<&'a Kept> {
    let full = backups.iter().filter(|kept| kept.repository == *repository && kept.kind == BackupKind::Full);
    full.max_by_key(|kept| kept.stopped)
}

/// What may go now, the newest first, so that nothing goes before what goes by it. The last full backup of a
/// repository stays.
pub(super) fn expired<'a>(now: u64, tiers: &Tiers, backups: &'a [Kept]) -> Vec<&'a Kept> {
    let mut old: Vec<&Kept> = backups
        .iter()
        .filter(|kept| kept_until(kept, tiers, backups) <= now)
        .filter(|kept| last_full(&kept.repository, backups).is_none_or(|last| last.label != kept.label))
        .collect();
    old.sort_by(|a, b| (b.stopped, &b.label).cmp(&(a.stopped, &a.label)));
    old
}

/// How many full backups of a repository keep the whole log after them, so that each moment of the shortest tier's time
/// can be gone back to: those younger than that, and the one before. Of older ones only what makes them whole stays.
pub(super) fn full_with_log(now: u64, tiers: &Tiers, repository: &RepositoryName, backups: &[Kept]) -> usize {
    let shortest = tiers.values().filter(|tier| tier.goes_to(repository)).map(|tier| tier.keep.as_secs()).min();
    let since = now.saturating_sub(shortest.unwrap_or(0));
    let full = backups.iter().filter(|kept| kept.repository == *repository && kept.kind == BackupKind::Full);
    let stops: BTreeSet<u64> = full.map(|kept| kept.stopped).collect();
    let within = stops.iter().filter(|stopped| **stopped > since).count();
    (within + 1).min(stops.len().max(1))
}

#[cfg(test)]
mod tests;
