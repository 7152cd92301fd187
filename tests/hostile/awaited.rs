//! Cases that pgward does not withstand yet. The list can only shrink: a case that passes must be taken off it.

use crate::place::Level;

/// Why, at which level, and the cases.
pub const AWAITED: &[(&str, Level, &[&str])] = &[
    (
        "pg_terminate_backend and pg_cancel_backend work on sessions of one's own role until they are revoked",
        Level::Rows,
        &[
            "signal.cancel",
            "signal.terminate",
            "signal.terminate-aggregate",
            "signal.terminate-all",
            "signal.terminate-range",
            "signal.terminate-definer",
            "signal.terminate-do",
            "signal.terminate-locks",
            "signal.terminate-temp-default",
            "signal.terminate-wait",
        ],
    ),
    (
        "ALTER ROLE of itself reaches later logins until its settings are removed and its password is put back",
        Level::Rows,
        &[
            "alter-role.both",
            "alter-role.current-user",
            "alter-role.idle",
            "alter-role.idle-in-transaction",
            "alter-role.in-database",
            "alter-role.libraries",
            "alter-role.lock-timeout",
            "alter-role.password",
            "alter-role.password-current",
            "alter-role.password-md5",
            "alter-role.password-null",
            "alter-role.session-user",
            "alter-role.strings",
            "alter-role.timezone",
            "alter-role.work-mem",
        ],
    ),
    (
        "setseed outlives DISCARD ALL until the hand-over makes a seed of its own",
        Level::Rows,
        &["beyond.setseed", "beyond.setseed-hidden", "beyond.setseed-setting", "beyond.setseed-transaction"],
    ),
    (
        "large objects are the role's until lo_* is revoked",
        Level::Rows,
        &[
            "lo.comment",
            "lo.compat",
            "lo.definer",
            "lo.do",
            "lo.get",
            "lo.get-all",
            "lo.get-part",
            "lo.grant",
            "lo.grant-kept",
            "lo.open",
            "lo.open-write",
            "lo.put",
            "lo.revoke",
            "lo.truncate",
            "lo.unlink",
        ],
    ),
    (
        "DROP OWNED drops temporary tables and large objects of all sessions of the role until an event trigger refuses it",
        Level::Rows,
        &["rights.drop-owned", "rights.drop-owned-cascade"],
    ),
    (
        "pg_stat_activity shows the statements of one's own role until its functions are revoked",
        Level::Rows,
        &[
            "see.activity",
            "see.activity-copy",
            "see.activity-copy-xml",
            "see.activity-function",
            "see.activity-state",
            "see.activity-view",
            "see.activity-xml",
            "see.backend-activity",
            "see.backend-activity-range",
            "see.get-activity",
            "see.get-activity-pid",
            "see.while-it-runs",
        ],
    ),
    (
        "pg_stat_statements shows utility statements of one's own role, NOTIFY with its payload among them, until it is revoked",
        Level::Rows,
        &["see.statements", "see.statements-function"],
    ),
];

pub fn is_awaited(id: &str, level: Level) -> bool {
    AWAITED.iter().any(|(_, at, ids)| *at == level && ids.contains(&id))
}
