use serde_json::{Value, json};

use super::Failure;
use crate::base::{ClusterName, clock};
use crate::cli::output::{say, table, warn};
use crate::sidecar::maintenance::{Standing, Turn, Verdict};

const HEAD: [&str; 12] = [
    "CLUSTER",
    "DATABASE",
    "TABLE",
    "TENANT",
    "STATE",
    "PARTITIONS",
    "AHEAD",
    "OLDEST",
    "NEWEST",
    "DEFAULT ROWS",
    "LAST",
    "NEXT",
];

/// All turns, and a failure if one of them failed.
pub(super) fn turns(all: &[(&ClusterName, Vec<Turn>)], as_json: bool) -> Result<(), Failure> {
    let each = || all.iter().flat_map(|(cluster, turns)| turns.iter().map(move |turn| (*cluster, turn)));
    if as_json {
        let rows: Vec<Value> = each().map(|(cluster, turn)| json(cluster, turn)).collect();
        say(format_args!("{:#}", json!(rows)));
    } else {
        let rows: Vec<[String; 12]> = each().map(|(cluster, turn)| row(cluster, turn)).collect();
        let cells = rows.iter().map(|row| row.each_ref().map(String::as_str));
        table(std::iter::once(HEAD).chain(cells).collect());
        each().for_each(|(_, turn)| tell(turn));
    }
    let failed = each().filter(|(_, turn)| matches!(turn.verdict, Verdict::Failed { .. }));
    let texts: Vec<String> = failed.map(|(_, turn)| format!("{}: {}", turn.table, text(turn))).collect();
    match texts.as_slice() {
        [] => Ok(()),
        texts => Err(Failure::said(texts.join("\n"))),
    }
}

fn text(turn: &Turn) -> &str {
    match &turn.verdict {
        Verdict::Failed { text, .. } => text,
        _ => "",
    }
}

fn tell(turn: &Turn) {
    let (deeds, table) = (&turn.deeds, &turn.table);
    if deeds.made + deeds.dropped + deeds.rows > 0 {
        let (made, dropped, rows) = (deeds.made, deeds.dropped, deeds.rows);
        say(format_args!("{table}: {made} partitions made, {dropped} dropped, {rows} rows deleted for their age"));
    }
    if let Some(rows) = turn.standing.as_ref().map(|standing| standing.default_rows).filter(|rows| *rows > 0) {
        warn(format_args!("{table} has {rows} rows that fit into no partition; docs/maintenance.md says what to do"));
    }
}

fn state(turn: &Turn) -> &str {
    match &turn.verdict {
        Verdict::Done => "done",
        Verdict::Looked => "ok",
        Verdict::Elsewhere => "busy",
        Verdict::Absent => "absent",
        Verdict::Failed { .. } => "failed",
    }
}

fn row(cluster: &ClusterName, turn: &Turn) -> [String; 12] {
    let number = |value: fn(&Standing) -> i64| turn.standing.as_ref().map(value).map_or("-".into(), |n| n.to_string());
    let moment = |value: Option<&String>| value.cloned().unwrap_or_else(|| "-".to_owned());
    let standing = turn.standing.as_ref();
    [
        cluster.to_string(),
        turn.database.clone(),
        turn.table.clone(),
        turn.tenant.as_ref().map_or("-".to_owned(), ToString::to_string),
        state(turn).to_owned(),
        number(|standing| standing.partitions),
        number(|standing| standing.ahead),
        moment(standing.and_then(|standing| standing.oldest.as_ref())),
        moment(standing.and_then(|standing| standing.newest.as_ref())),
        number(|standing| standing.default_rows),
        turn.succeeded.map_or("never".to_owned(), clock::timestamp),
        turn.next.map_or("-".to_owned(), |next| format!("in {} s", next.as_secs())),
    ]
}

fn json(cluster: &ClusterName, turn: &Turn) -> Value {
    let failed = match &turn.verdict {
        Verdict::Failed { word, text } => Some(json!({ "reason": word, "text": text })),
        _ => None,
    };
    json!({
        "cluster": cluster.as_str(),
        "database": turn.database,
        "name": turn.label.as_str(),
        "table": turn.table,
        "tenant": turn.tenant.as_ref().map(ToString::to_string),
        "state": state(turn),
        "failed": failed,
        "made": turn.deeds.made,
        "dropped": turn.deeds.dropped,
        "rows_deleted": turn.deeds.rows,
        "standing": turn.standing,
        "succeeded": turn.succeeded.map(clock::timestamp),
        "next_in_seconds": turn.next.map(|next| next.as_secs()),
    })
}
