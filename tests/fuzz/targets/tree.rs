//! What PostgreSQL's parser says of a text, walked in full: its own walkers leave out kinds of nodes.

use pgward::sql::{Deallocate, Facts, Pin, Purpose};
use serde_json::Value;

/// A text's statements, if it is SQL.
pub fn statements(text: &str) -> Option<Vec<Value>> {
    let parsed = pg_query::parse(text, 0).ok()?;
    let tree = serde_json::to_value(&parsed.protobuf).ok()?;
    let statement = |raw: &Value| raw.pointer("/stmt/node").cloned();
    tree["stmts"].as_array()?.iter().map(statement).collect()
}

/// A statement's kind, and what it holds.
pub fn opened(statement: &Value) -> (&str, &Value) {
    let known = statement.as_object().and_then(|one| one.iter().next());
    known.map_or(("", statement), |(kind, node)| (kind.as_str(), node))
}

pub fn text<'a>(node: &'a Value, field: &str) -> &'a str {
    node[field].as_str().unwrap_or_default()
}

/// Every object anywhere, by the name that it stands under.
fn walk<'a>(name: &'a str, value: &'a Value, see: &mut impl FnMut(&'a str, &'a Value)) {
    match value {
        Value::Object(members) => {
            see(name, value);
            members.iter().for_each(|(name, member)| walk(name, member, see));
        }
        Value::Array(items) => items.iter().for_each(|item| walk(name, item, see)),
        _ => {}
    }
}

/// A function's name without its schema.
fn called(call: &Value) -> Option<&str> {
    call["funcname"].as_array()?.last()?.pointer("/node/String/sval")?.as_str()
}

fn constant<'a>(argument: &'a Value, pointer: &str) -> Option<&'a Value> {
    argument.pointer("/node/AConst/val")?.pointer(pointer)
}

const LOCKS: [&str; 4] =
    ["pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"];

/// What a text does to session state is what its facts say, or they say that they do not know.
pub fn compare(sql: &str, facts: &Facts) {
    let Some(statements) = statements(sql) else { return };
    let unknown = facts.pins.has(Pin::Unknown);
    let told = |what: &str, told: bool| assert!(told || unknown, "{what} is not told of {sql:?}: {facts:?}");
    for statement in &statements {
        top(statement, facts, &told);
        walk("", statement, &mut |name, node| {
            within(name, node, facts, &told);
            token(sql, name, node, facts);
        });
    }
}

/// What only a whole statement can do.
fn top(statement: &Value, facts: &Facts, told: &impl Fn(&str, bool)) {
    let (kind, node) = opened(statement);
    let sets = facts.settings || facts.resets || facts.token || !facts.pins.is_empty();
    match kind {
        "VariableSetStmt" => set(node, facts, sets, told),
        "DiscardStmt" => told("DISCARD", facts.resets),
        "PrepareStmt" => told("PREPARE", facts.pins.has(Pin::Prepare)),
        "DeallocateStmt" => {
            told("DEALLOCATE", facts.deallocates.is_some());
            if let Some(Deallocate::One(name)) = &facts.deallocates {
                assert_eq!(&**name, text(node, "name"));
            }
        }
        "ListenStmt" => told("LISTEN", facts.pins.has(Pin::Listen) && facts.channels),
        "UnlistenStmt" | "NotifyStmt" => told("UNLISTEN or NOTIFY", facts.channels),
        "LoadStmt" => told("LOAD", facts.pins.has(Pin::Load)),
        _ => {}
    }
}

fn set(node: &Value, facts: &Facts, sets: bool, told: &impl Fn(&str, bool)) {
    use pg_query::protobuf::VariableSetKind as Kind;
    let name = text(node, "name").to_ascii_lowercase();
    let kind = node["kind"].as_i64().and_then(|kind| Kind::try_from(kind as i32).ok()).expect("a kind");
    if node["is_local"] == true || (kind == Kind::VarSetMulti && name.starts_with("transaction")) {
        return;
    }
    match kind {
        Kind::VarReset | Kind::VarResetAll | Kind::VarSetDefault => told("RESET", facts.resets),
        _ if name == "role" || name == "session_authorization" => told("SET ROLE", facts.pins.has(Pin::Role)),
        _ => {
            told("SET", sets);
            let custom = facts.custom.as_deref().unwrap_or_default();
            let known = !name.contains('.') || name.starts_with("pgward.") || custom.contains(&name);
            told("the name of a custom setting", known || facts.pins.has(Pin::Setting));
        }
    }
}

fn within(name: &str, node: &Value, facts: &Facts, told: &impl Fn(&str, bool)) {
    use pg_query::protobuf::OnCommitAction;
    for made in ["relation", "rel", "view", "sequence"].map(|field| &node[field]) {
        let action = ["oncommit", "on_commit"].iter().find_map(|field| node[field].as_i64());
        let dropped = action == Some(OnCommitAction::OncommitDrop as i64);
        if text(made, "relpersistence") == "t" && !dropped {
            told("a temporary object", facts.pins.has(Pin::TemporaryTable));
        }
    }
    if text(node, "schemaname") == "pg_temp" {
        told("pg_temp", facts.pins.has(Pin::TemporaryTable));
    }
    match name {
        // CURSOR_OPT_HOLD in parsenodes.h.
        "DeclareCursorStmt" if node["options"].as_i64().is_some_and(|options| options & 0x20 != 0) => {
            told("WITH HOLD", facts.pins.has(Pin::HoldCursor));
        }
        "FuncCall" => {
            let function = called(node).unwrap_or_default();
            if LOCKS.contains(&function) {
                told("an advisory lock", facts.pins.has(Pin::AdvisoryLock));
            }
            if function == "set_config" {
                let local = node["args"].as_array().and_then(|arguments| arguments.get(2));
                let local = local.and_then(|value| constant(value, "/Boolval/boolval")) == Some(&Value::Bool(true));
                let noticed = facts.settings || facts.resets || facts.token || !facts.pins.is_empty();
                told("set_config", local || noticed);
            }
            if function == "pg_notify" {
                told("pg_notify", facts.channels);
            }
        }
        _ => {}
    }
}

/// The session's token, by its plain name, is always noticed: no server may see it.
fn token(sql: &str, name: &str, node: &Value, facts: &Facts) {
    let ours = |text: &str| text.eq_ignore_ascii_case("pgward.token");
    let named = match name {
        "VariableSetStmt" => ours(text(node, "name")),
        "FuncCall" if called(node) == Some("set_config") => {
            let setting = node["args"].as_array().and_then(|arguments| arguments.first());
            setting.and_then(|setting| constant(setting, "/Sval/sval")?.as_str()).is_some_and(ours)
        }
        _ => false,
    };
    // A name in Unicode escapes is for nobody but who wants to get around this.
    let escaped = sql.to_ascii_lowercase().contains("u&");
    assert!(!named || escaped || facts.token, "the token goes to a server: {sql:?}: {facts:?}");
}

/// A text for a replica is of statements that read, and what they call is told.
pub fn compare_purpose(sql: &str, purpose: &Purpose) {
    let Some(statements) = statements(sql) else { return };
    let names = match purpose {
        Purpose::Write => return,
        Purpose::Session => {
            const SESSION: [&str; 6] = [
                "VariableSetStmt",
                "VariableShowStmt",
                "DiscardStmt",
                "DeallocateStmt",
                "ClosePortalStmt",
                "UnlistenStmt",
            ];
            let known = statements.iter().all(|one| SESSION.contains(&opened(one).0));
            assert!(known, "not of the session alone: {sql:?}");
            return;
        }
        Purpose::Begin { .. } => {
            let begin = matches!(&statements[..], [only] if opened(only).0 == "TransactionStmt");
            assert!(begin, "no transaction begins with {sql:?}");
            return;
        }
        Purpose::Read(names) => names.as_deref().unwrap_or_default(),
    };
    assert!(!statements.is_empty() && names.is_sorted_by(|one, two| one < two), "{sql:?}: {names:?}");
    for statement in &statements {
        let (kind, node) = opened(statement);
        assert!(["SelectStmt", "ExplainStmt", "CopyStmt"].contains(&kind), "{kind} reads: {sql:?}");
        let to_client = node["is_from"] == false && node["is_program"] == false && text(node, "filename").is_empty();
        assert!(kind != "CopyStmt" || to_client, "not to the client: {sql:?}");
        walk(kind, statement, &mut |name, node| {
            let nested = name.ends_with("Stmt") && !["SelectStmt", "ExplainStmt", "CopyStmt"].contains(&name);
            assert!(!nested, "{name} reads: {sql:?}");
            let locks = node["locking_clause"].as_array().is_some_and(|clauses| !clauses.is_empty());
            assert!(!locks && !node["into_clause"].is_object(), "it locks or makes a table: {sql:?}");
            assert!(!text(node, "schemaname").starts_with("pg_temp"), "of the session: {sql:?}");
            assert!(!["pg_locks", "pg_settings"].contains(&text(node, "relname")), "of the server: {sql:?}");
            if name == "FuncCall" {
                let called = called(node).unwrap_or_default();
                assert!(names.iter().any(|name| **name == *called), "{called} is not told of {sql:?}: {names:?}");
            }
        });
    }
}
