use std::time::Duration;

use super::*;

const HOUR: u64 = 3_600;
/// 2026-11-22, a Sunday, 00:00 UTC.
const SUNDAY: u64 = 1_795_305_600;

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn tiers() -> Tiers {
    let at = TimeOfDay { hour: 2, minute: 0 };
    let tier = |kind, on, days: u64, to: &[&str]| Tier {
        kind,
        on,
        at,
        keep: Duration::from_secs(days * DAY),
        repositories: to.iter().map(|to| name(to)).collect(),
    };
    [
        ("daily", tier(BackupKind::Differential, On::EveryDay, 30, &["near"])),
        ("weekly", tier(BackupKind::Full, On::Weekday(6), 365, &["near"])),
        ("monthly", tier(BackupKind::Full, On::DayOfMonth(1), 2_557, &[])),
    ]
    .into_iter()
    .map(|(name, tier)| (TierName::parse(name).unwrap(), tier))
    .collect()
}

fn kept(repository: &str, tier: &str, kind: BackupKind, stopped: u64, needs: &[&str]) -> Kept {
    Kept {
        label: format!("{tier}-{stopped}"),
        repository: name(repository),
        kind,
        tier: Some(tier.to_owned()),
        started: stopped,
        stopped,
        needs: needs.iter().map(ToString::to_string).collect(),
        size: 0,
        stored: 0,
        damaged_pages: false,
        lsn: String::new(),
        first_segment: String::new(),
    }
}

fn due_at(now: u64, repository: &str, backups: &[Kept]) -> Option<String> {
    due(now, &tiers(), &name(repository), backups).map(|(name, _)| name.to_string())
}

#[test]
fn moments_are_of_the_calendar_and_of_utc() {
    let at = TimeOfDay { hour: 2, minute: 30 };
    let half_past = 2 * HOUR + 1_800;
    assert_eq!(last_due(SUNDAY + half_past, On::EveryDay, at), SUNDAY + half_past);
    assert_eq!(last_due(SUNDAY + half_past - 1, On::EveryDay, at), SUNDAY - DAY + half_past);
    assert_eq!(last_due(SUNDAY + DAY, On::Weekday(6), at), SUNDAY + half_past);
    assert_eq!(last_due(SUNDAY, On::Weekday(6), at), SUNDAY - 7 * DAY + half_past);
    assert_eq!(last_due(SUNDAY, On::DayOfMonth(1), at), SUNDAY - 21 * DAY + half_past);
    assert_eq!(next_due(SUNDAY, On::Weekday(6), at), SUNDAY + half_past);
    assert_eq!(next_due(SUNDAY + half_past, On::Weekday(6), at), SUNDAY + 7 * DAY + half_past);
    assert_eq!(next_due(SUNDAY, On::DayOfMonth(1), at), SUNDAY + 9 * DAY + half_past);
    assert_eq!(next_due(SUNDAY + 9 * DAY + half_past, On::DayOfMonth(1), at), SUNDAY + 40 * DAY + half_past);
}

#[test]
fn what_is_kept_longest_is_made_first_and_serves_for_the_rest() {
    let now = SUNDAY + 3 * HOUR;
    assert_eq!(due_at(now, "near", &[]).as_deref(), Some("monthly"));
    assert_eq!(due_at(now, "far", &[]).as_deref(), Some("monthly"));
    let made = [kept("near", "monthly", BackupKind::Full, now, &[])];
    assert_eq!(due_at(now + 60, "near", &made), None);
    assert_eq!(due_at(now + 60, "far", &made).as_deref(), Some("monthly"));
    assert_eq!(due_at(now + DAY, "near", &made).as_deref(), Some("daily"));
    assert_eq!(due_at(now + 7 * DAY, "near", &made).as_deref(), Some("weekly"));
}

#[test]
fn a_backup_by_hand_serves_no_tier() {
    let now = SUNDAY + 3 * HOUR;
    let mut by_hand = kept("near", "", BackupKind::Full, now, &[]);
    by_hand.tier = None;
    assert_eq!(due_at(now + 60, "near", &[by_hand]).as_deref(), Some("monthly"));
}

#[test]
fn nothing_goes_before_what_goes_by_it() {
    let full = kept("near", "weekly", BackupKind::Full, SUNDAY, &[]);
    let needed = kept("near", "daily", BackupKind::Full, SUNDAY + HOUR, &[]);
    let label = needed.label.clone();
    let diff = kept("near", "daily", BackupKind::Differential, SUNDAY + 5 * DAY, &[&label]);
    let last = kept("near", "daily", BackupKind::Full, SUNDAY + 9 * DAY, &[]);
    let backups = [full, needed, diff, last];
    let gone = |now| -> Vec<u64> { expired(now, &tiers(), &backups).iter().map(|kept| kept.stopped).collect() };
    assert_eq!(gone(SUNDAY + 31 * DAY), Vec::<u64>::new());
    assert_eq!(gone(SUNDAY + 36 * DAY), [SUNDAY + 5 * DAY, SUNDAY + HOUR]);
    // Of the last full one nothing is taken, however old it is.
    assert_eq!(gone(SUNDAY + 4_000 * DAY), [SUNDAY + 5 * DAY, SUNDAY + HOUR, SUNDAY]);
}

#[test]
fn the_log_reaches_back_as_far_as_the_shortest_tier() {
    let weeks = |n: u64| -> Vec<Kept> {
        (0..n).map(|week| kept("near", "weekly", BackupKind::Full, SUNDAY + week * 7 * DAY, &[])).collect()
    };
    let with_log = |n: u64| full_with_log(SUNDAY + (n - 1) * 7 * DAY + HOUR, &tiers(), &name("near"), &weeks(n));
    assert_eq!((with_log(1), with_log(3)), (1, 3));
    // Five within 30 days, and the one that the oldest of those days begins from.
    assert_eq!(with_log(20), 6);
    assert_eq!(full_with_log(SUNDAY, &tiers(), &name("far"), &weeks(20)), 1);
}

#[test]
fn a_backup_of_a_tier_that_was_renamed_does_not_go_by_itself() {
    let backups = [
        kept("near", "forever", BackupKind::Full, SUNDAY, &[]),
        kept("near", "daily", BackupKind::Full, SUNDAY + DAY, &[]),
    ];
    assert_eq!(expired(SUNDAY + 10_000 * DAY, &tiers(), &backups), Vec::<&Kept>::new());
}
