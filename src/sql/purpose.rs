//! Whether a text only reads, so that a replica may answer it.
//!
//! Nothing hangs on it but speed where it says "write", and little where it says "read" of what writes: a
//! replica refuses that, and the primary is asked then. What a replica does not refuse but does otherwise is
//! what the rules are for: locks, and all that speaks of the server or the session rather than of the data.

use std::collections::BTreeSet;
use std::rc::Rc;

use pg_query::SummaryResult;
use pg_query::protobuf::summary_result::Context;

use super::parsed::Parsed;
use super::shape::{Kind, Token};

/// What a text is for, as far as it tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// It may write, or touch the session or the server, or nobody knows.
    Write,
    /// It is about the session itself: settings, cursors, prepared statements. Nothing of the data is shown or changed.
    Session,
    /// One or several statements that only read, if the functions of these names do (names as in `pg_proc`:
    /// folded unless quoted, sorted, no duplicates, schema left out). None: it calls none.
    Read(Option<Rc<[Box<str>]>>),
    /// `BEGIN` or `START TRANSACTION` and nothing else.
    Begin {
        /// What it says of it; `None`: what the session's default is. Serializable or `DEFERRABLE` ones are
        /// [`Purpose::Write`], since a standby has no serializable transactions.
        read_only: Option<bool>,
    },
}

/// In a statement that reads these are no statements of their own, so they may stand anywhere. Those that are
/// no reserved words may be a column's name: that is judged a write, too.
const WRITES: &[&str] = &["insert", "update", "delete", "merge", "into"];

/// Behind `FOR`: row locks. (The others that follow it are of `SUBSTRING` and `FOR ORDINALITY`.)
const LOCKS: &[&str] = &["update", "no", "share", "key"];

/// Relations that speak of the server or the session. Nothing else is likely to have such a name, so that it
/// counts wherever it stands.
const SERVER_RELATIONS: &[&str] = &[
    "pg_aios",
    "pg_backend_memory_contexts",
    "pg_buffercache",
    "pg_config",
    "pg_cursors",
    "pg_dsm_registry_allocations",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_locks",
    "pg_prepared_statements",
    "pg_prepared_xacts",
    "pg_replication_origin_status",
    "pg_replication_slots",
    // How far a sequence has come: a standby is told in steps of 32.
    "pg_sequences",
    "pg_settings",
    "pg_shmem_allocations",
    "pg_shmem_allocations_numa",
];

/// Statistics of the server, as relations and as functions, and the session's own schemas.
const SERVER_PREFIXES: &[&str] = &["pg_stat", "pg_temp"];

/// Functions that do so, as far as `pg_proc` has them as stable: the volatile ones are told by that.
const SERVER_FUNCTIONS: &[&str] = &[
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "pg_backend_pid",
    "pg_conf_load_time",
    "pg_config",
    "pg_current_snapshot",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_cursor",
    "pg_get_replication_slots",
    "pg_is_other_temp_schema",
    "pg_listening_channels",
    "pg_my_temp_schema",
    "pg_postmaster_start_time",
    "pg_prepared_statement",
    "pg_settings_get_flags",
    "pg_show_all_settings",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
    "version",
];

/// Reads names and keywords only, no literal, so that the shape has all that it reads.
pub(super) fn read(parsed: &Parsed<'_>) -> Purpose {
    let Parsed { tokens, summary, .. } = parsed;
    let statements: Vec<_> = tokens.split(|token| token.is_symbol(";")).filter(|one| !one.is_empty()).collect();
    if let [only] = statements[..]
        && let Some(begin) = begin(only)
    {
        return if summary.statement_types == ["TransactionStmt"] { begin } else { Purpose::Write };
    }
    if !statements.is_empty() && is_about_session(&statements, summary) {
        return Purpose::Session;
    }
    if !statements.is_empty() && only_reads(&statements, summary) && !(0..tokens.len()).any(|at| forbids(tokens, at)) {
        functions(summary).map_or(Purpose::Write, Purpose::Read)
    } else {
        Purpose::Write
    }
}

/// Statements about the session, by their first words, and the parser's names for them.
const SESSION: &[(&str, &str)] = &[
    ("set", "VariableSetStmt"),
    ("reset", "VariableSetStmt"),
    ("show", "VariableShowStmt"),
    ("discard", "DiscardStmt"),
    ("deallocate", "DeallocateStmt"),
    ("close", "ClosePortalStmt"),
    ("unlisten", "UnlistenStmt"),
];

fn is_about_session(statements: &[&[Token<'_>]], summary: &SummaryResult) -> bool {
    let known = |statement: &&[Token<'_>]| {
        statement.first().is_some_and(|first| SESSION.iter().any(|(word, _)| first.is_word(word)))
    };
    statements.iter().all(known)
        && summary.statement_types.iter().all(|kind| SESSION.iter().any(|(_, name)| name == kind))
}

/// Whether all statements are of the kinds that read, and the parser sees those kinds and no others.
fn only_reads(statements: &[&[Token<'_>]], summary: &SummaryResult) -> bool {
    let mut kinds = BTreeSet::new();
    let known = statements.iter().all(|statement| {
        let seen = kinds_of(statement);
        kinds.extend(seen.unwrap_or_default());
        seen.is_some()
    });
    let theirs: BTreeSet<_> = summary.statement_types.iter().map(String::as_str).collect();
    // A name that a query gives to one of its own is not among these tables: the tokens have that too.
    let reads = |table: &pg_query::Table| {
        matches!(table.context, Context::Select)
            && !speaks_of_server(&table.table_name)
            && !speaks_of_server(&table.schema_name)
    };
    known && kinds == theirs && summary.tables.iter().all(reads)
}

/// The parser's names for what this statement is made of. `None`: it is not one that reads.
fn kinds_of(statement: &[Token<'_>]) -> Option<&'static [&'static str]> {
    let (first, rest) = statement.split_first()?;
    if first.is_word("explain") {
        opens_query(explained(rest)).then_some(&["ExplainStmt", "SelectStmt"][..])
    } else if first.is_word("copy") {
        // The parser's summary leaves out what is copied.
        copies_to_client(rest).then_some(&["CopyStmt"][..])
    } else {
        opens_query(statement).then_some(&["SelectStmt"][..])
    }
}

fn opens_query(tokens: &[Token<'_>]) -> bool {
    let first = tokens.iter().find(|token| !token.is_symbol("("));
    first.is_some_and(|first| ["select", "values", "table", "with"].iter().any(|word| first.is_word(word)))
}

/// What is behind `EXPLAIN` and its options, which may stand in parentheses, as a query may.
fn explained<'a>(rest: &'a [Token<'a>]) -> &'a [Token<'a>] {
    if opens_query(rest) {
        return rest;
    }
    let options = if rest.first().is_some_and(|token| token.is_symbol("(")) {
        closing(rest).map_or(rest.len(), |at| at + 1)
    } else {
        let option = |token: &Token<'_>| ["analyze", "analyse", "verbose"].iter().any(|word| token.is_word(word));
        rest.iter().take_while(|token| option(token)).count()
    };
    rest.get(options..).unwrap_or_default()
}

/// `rest` is behind `COPY`.
fn copies_to_client(rest: &[Token<'_>]) -> bool {
    let from_query = rest.first().is_some_and(|token| token.is_symbol("("));
    let Some(to) = outermost(rest).find(|at| rest[*at].is_word("to")) else { return false };
    rest.get(to + 1).is_some_and(|token| token.is_word("stdout")) && (!from_query || opens_query(rest))
}

/// Where the parenthesis is closed that is the first token.
fn closing(tokens: &[Token<'_>]) -> Option<usize> {
    outermost(tokens).find(|at| tokens[*at].is_symbol(")"))
}

/// The places that are not in parentheses; those of the parentheses themselves are among them.
fn outermost<'a>(tokens: &'a [Token<'a>]) -> impl Iterator<Item = usize> + 'a {
    let mut depth = 0usize;
    tokens.iter().enumerate().filter_map(move |(at, token)| {
        depth = depth.saturating_sub(usize::from(token.is_symbol(")")));
        let outer = depth == 0;
        depth += usize::from(token.is_symbol("("));
        outer.then_some(at)
    })
}

/// What a statement that reads has nowhere, or what hides whether it does.
fn forbids(tokens: &[Token<'_>], at: usize) -> bool {
    let token = &tokens[at];
    let word = |at: usize, words: &[&str]| {
        tokens.get(at).is_some_and(|token: &Token<'_>| words.iter().any(|word| token.is_word(word)))
    };
    match token.kind {
        Kind::Word if word(at, WRITES) || (word(at, &["for"]) && word(at + 1, LOCKS)) => true,
        Kind::Word | Kind::Quoted => token.identifier().is_none_or(|name| speaks_of_server(&name)),
        // Spelt in escapes, and any character can be the escape. What it is would hang on a literal.
        Kind::UnicodeName => {
            token.body.contains(&b'\\')
                || word(at + 1, &["uescape"])
                || std::str::from_utf8(token.body).is_ok_and(speaks_of_server)
        }
        Kind::Parameter | Kind::Integer | Kind::Decimal | Kind::Text { .. } | Kind::Bits | Kind::Symbol => false,
    }
}

fn speaks_of_server(name: &str) -> bool {
    SERVER_RELATIONS.contains(&name) || SERVER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The names of all functions. `None`: one of them speaks of the server.
fn functions(summary: &SummaryResult) -> Option<Option<Rc<[Box<str>]>>> {
    let names: BTreeSet<&str> = summary.functions.iter().map(|function| function.function_name.as_str()).collect();
    if names.iter().any(|name| SERVER_FUNCTIONS.contains(name)) {
        return None;
    }
    Some((!names.is_empty()).then(|| names.into_iter().map(Box::from).collect()))
}

/// What may be said of a transaction where it begins, and whether that makes it read-only.
const MODES: &[(&[&str], Option<bool>)] = &[
    (&["read", "only"], Some(true)),
    (&["read", "write"], Some(false)),
    (&["isolation", "level", "repeatable", "read"], None),
    (&["isolation", "level", "read", "committed"], None),
    (&["isolation", "level", "read", "uncommitted"], None),
    (&["not", "deferrable"], None),
];

/// Of one statement. `None`: it begins no transaction, or not one for a replica.
fn begin(statement: &[Token<'_>]) -> Option<Purpose> {
    let openings: [&[&str]; 4] = [&["start", "transaction"], &["begin", "transaction"], &["begin", "work"], &["begin"]];
    let mut rest = openings.iter().find_map(|words| behind(statement, words))?;
    let mut read_only = None;
    while let Some(first) = rest.first() {
        if first.is_symbol(",") {
            rest = &rest[1..];
            continue;
        }
        let (after, says) = MODES.iter().find_map(|(words, says)| Some((behind(rest, words)?, *says)))?;
        // The last of several counts: who says both gets the primary.
        if says.is_some() && read_only.is_some() && says != read_only {
            return None;
        }
        read_only = says.or(read_only);
        rest = after;
    }
    Some(Purpose::Begin { read_only })
}

fn behind<'a, 'b>(tokens: &'b [Token<'a>], words: &[&str]) -> Option<&'b [Token<'a>]> {
    let (first, rest) = tokens.split_at_checked(words.len())?;
    first.iter().zip(words).all(|(token, word)| token.is_word(word)).then_some(rest)
}

#[cfg(test)]
mod tests;
