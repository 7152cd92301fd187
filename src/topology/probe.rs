//! Asking one server, again and again, who it is and how far it has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::board::{Answer, Board};
use super::failover::Role;
use super::snapshot::Seen;
use crate::backend::{self, AskError, Backend, BackendError, Credentials, Endpoint, Row};
use crate::base::{Lsn, ServerName};
use crate::config::ProbeRules;

/// A replica tells the timeline that it receives where the login may see it (pg_read_all_stats), else that of the log
/// which it has replayed and written down; a primary's is in the name of the file that it writes (PostgreSQL's
/// documentation, 9.27.3). A primary tells how far its log reaches as well as how far it is on the disk: with
/// synchronous_commit = off a commit is acknowledged before.
const QUESTION: &str = "
    select pg_catalog.pg_is_in_recovery()::text,
        case when pg_catalog.pg_is_in_recovery() then
            greatest((select timeline_id from pg_catalog.pg_control_checkpoint()),
                (select min_recovery_end_timeline from pg_catalog.pg_control_recovery()),
                (select received_tli from pg_catalog.pg_stat_get_wal_receiver()))::text
        else
            ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::int::text
        end,
        case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
            else pg_catalog.pg_current_wal_flush_lsn() end::text,
        case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
            else pg_catalog.pg_current_wal_insert_lsn() end::text,
        pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))::text,
        (select system_identifier from pg_catalog.pg_control_system())::text,
        extract(epoch from pg_catalog.pg_postmaster_start_time())::text";

/// A connection is not kept for longer while nobody takes writes.
const ANEW: Duration = Duration::from_secs(1);

/// One server, and how to ask it.
#[derive(Debug, Clone)]
pub struct Probed {
    pub server: ServerName,
    pub endpoint: Arc<Endpoint>,
    pub credentials: Credentials,
}

/// Never ends by itself.
pub async fn watch(board: Arc<Board>, probed: Probed, rules: ProbeRules) {
    let mut due = interval(rules.interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut backend = None;
    let mut urgent = board.urgency().subscribe();
    let mut asked = Instant::now();
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = board.urgency().raised(&mut urgent, asked) => due.reset(),
        }
        board.urgency().lower();
        asked = Instant::now();
        let answer = ask_within(rules.timeout, &mut backend, &probed).await;
        let said = matches!(answer, Answer::Said { .. });
        board.note(&probed.server, asked, answer);
        // The name may lead to another server by now, which takes writes.
        let stale = |backend: &Backend| backend.born.elapsed() > ANEW && board.glance().primary.is_none();
        if !said || backend.as_ref().is_some_and(stale) {
            backend = None;
        }
    }
}

pub(super) async fn ask_within(limit: Duration, backend: &mut Option<Backend>, probed: &Probed) -> Answer {
    match timeout(limit, ask(backend, probed)).await {
        Ok(answer) => answer,
        Err(_) => Answer::Silent(format!("it did not answer within {limit:?}")),
    }
}

async fn ask(backend: &mut Option<Backend>, probed: &Probed) -> Answer {
    let backend = match backend {
        Some(backend) => backend,
        None => match backend::open(&probed.endpoint, &probed.credentials).await {
            Ok((opened, _)) => backend.insert(opened),
            Err(error) => return refused(&error),
        },
    };
    match backend::ask(backend, QUESTION, &[]).await {
        Ok(rows) => said(&rows).unwrap_or_else(|| Answer::Silent("its answer could not be understood".to_owned())),
        Err(AskError::Server { sqlstate, .. }) if sqlstate == "42501" => {
            Answer::Closed("pgward's login there may not ask it".to_owned())
        }
        Err(error) => Answer::Silent(error.to_string()),
    }
}

/// A server that refuses the login is there. What it is then has to be taken from the configuration, unless it is for a
/// moment only.
fn refused(error: &BackendError) -> Answer {
    let because = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let why = format!("{error}{because}");
    match error {
        BackendError::Refused { sqlstate, .. }
            if ["28", "3D", "42"].iter().any(|class| sqlstate.starts_with(class)) =>
        {
            Answer::Closed(why)
        }
        BackendError::Refused { sqlstate, .. } if sqlstate.starts_with("53") => Answer::Full(why),
        _ => Answer::Silent(why),
    }
}

fn said(rows: &[Row]) -> Option<Answer> {
    let [row] = rows else { return None };
    let [Some(recovery), Some(timeline), Some(lsn), Some(bound), Some(segment), Some(system), Some(started)] = &row[..]
    else {
        return None;
    };
    let role = match recovery.as_str() {
        "true" => Role::Replica,
        "false" => Role::Primary,
        _ => return None,
    };
    let bound = Lsn::parse(bound)?.without_page_header(segment.parse().ok()?);
    let seen = Seen { role, timeline: timeline.parse().ok()?, lsn: Lsn::parse(lsn)?, bound };
    Some(Answer::Said { seen, system: system.clone(), started: started.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(row: [Option<&str>; 7]) -> Option<Answer> {
        said(&[row.map(|text| text.map(ToOwned::to_owned)).to_vec()])
    }

    #[test]
    fn only_a_whole_answer_counts() {
        let whole = ["false", "2", "0/3000060", "0/4000028", "16777216", "7", "1.5"].map(Some);
        let Some(Answer::Said { seen, .. }) = answer(whole) else {
            panic!("a primary's answer was not understood");
        };
        assert_eq!((seen.role, seen.timeline), (Role::Primary, 2));
        assert_eq!((seen.lsn, seen.bound), (Lsn(0x300_0060), Lsn(0x400_0000)));
        for row in [
            [Some("maybe"), Some("2"), Some("0/1"), Some("0/1"), Some("16777216"), Some("7"), Some("1.5")],
            [Some("true"), None, Some("0/1"), Some("0/1"), Some("16777216"), Some("7"), Some("1.5")],
            [Some("true"), Some("-1"), Some("0/1"), Some("0/1"), Some("16777216"), Some("7"), Some("1.5")],
            [Some("true"), Some("1"), None, Some("0/1"), Some("16777216"), Some("7"), Some("1.5")],
            [Some("true"), Some("1"), Some("0/1"), Some("0/1"), Some("16777216"), Some("7"), None],
        ] {
            assert_eq!(answer(row), None, "{row:?}");
        }
        assert_eq!(said(&[]), None);
    }

    #[test]
    fn a_server_that_is_starting_or_full_is_not_taken_for_what_it_was_configured_as() {
        let refused = |sqlstate: &str| {
            refused(&BackendError::Refused { server: "s".into(), sqlstate: sqlstate.into(), message: "no".into() })
        };
        assert!(matches!(refused("57P03"), Answer::Silent(_)));
        assert!(matches!(refused("53300"), Answer::Full(_)));
        assert!(matches!(refused("28P01"), Answer::Closed(_)));
    }
}
