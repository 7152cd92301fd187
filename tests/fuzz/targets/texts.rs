//! Statements that pgward answers or rewrites itself, beside what PostgreSQL's parser makes of them: those that
//! change the session's token, name notification channels, prepare, or want a database alone.

use pgward::sql::{
    Analyser, ListenOrder, TokenValue, database_wanted_alone, is_prepare, listen_orders, rename_channels,
    token_statement, tokens,
};
use serde_json::Value;

use super::Target;
use super::tree::{compare, opened, statements, text as field};

pub const TARGET: Target = Target {
    name: "texts",
    check,
    words: &[
        "set ",
        "session ",
        "constraints",
        "authorization ",
        "x.y",
        "reset ",
        "pgward.token",
        " to ",
        " = ",
        "default",
        "'a.b.c'",
        "$1",
        "null",
        "false",
        "true",
        "select ",
        "set_config(",
        "pg_catalog.",
        "'pgward.token'",
        "::text",
        "::bool",
        ", ",
        ")",
        ";",
        "listen ",
        "unlisten ",
        "notify ",
        "*",
        "a",
        "\"B\"",
        "\"q\"\"q\"",
        "pg_notify(",
        "'x'",
        "/* c */",
        "-- c\n",
        "prepare ",
        "p as select 1",
        "transaction 'x'",
        "drop database ",
        "if exists ",
        "alter database a rename to b",
        "create database ",
        "template = a",
        "local ",
        "begin; ",
        "é",
        "U&\"a\"",
        "$$b$$",
        "E'\\x41'",
        "'it''s'",
    ],
    rounds: 40_000,
    longest: 300,
};

fn check(bytes: &[u8]) {
    let facts = Analyser::new(1).facts(bytes);
    let token = token_statement(bytes);
    assert!(token.is_none() || facts.token, "{:?}", String::from_utf8_lossy(bytes));
    let orders = listen_orders(bytes);
    let renamed = rename_channels(bytes, channel);
    let alone = database_wanted_alone(bytes);
    let Some((text, parsed)) = std::str::from_utf8(bytes).ok().and_then(|text| Some((text, statements(text)?))) else {
        return;
    };
    compare(text, &facts);
    if let Some(one) = token {
        is_of_the_token(text, &parsed, &one.value);
    }
    if let ([only], Some(name)) = (&parsed[..], alone)
        && let ("DropdbStmt", drop) = opened(only)
    {
        assert_eq!(field(drop, "dbname"), name, "{text:?}");
    }
    // From here on both can follow the text. A name in Unicode escapes is left as it is.
    if tokens(bytes).is_none_or(|tokens| tokens.iter().any(|(_, kind)| *kind == 'u')) {
        return;
    }
    assert_eq!(is_prepare(text), matches!(&parsed[..], [only] if opened(only).0 == "PrepareStmt"), "{text:?}");
    let listens: Vec<ListenOrder> = parsed.iter().filter_map(listens).collect();
    let (read, only) = orders.map_or((Vec::new(), false), |orders| (orders.orders, orders.alone));
    assert_eq!(read, listens, "{text:?}");
    assert_eq!(only, !listens.is_empty() && listens.len() == parsed.len(), "{text:?}");
    channels_are_renamed(text, &parsed, renamed);
}

fn is_of_the_token(text: &str, parsed: &[Value], value: &TokenValue) {
    let [only] = parsed else { panic!("not one statement: {text:?}") };
    let (kind, node) = opened(only);
    let literal =
        |argument: &Value| argument.pointer("/node/AConst/val/Sval/sval").and_then(Value::as_str).map(str::to_owned);
    let theirs = match kind {
        "VariableSetStmt" => {
            assert_eq!(field(node, "name"), "pgward.token", "{text:?}");
            node["args"].get(0).and_then(literal)
        }
        "SelectStmt" => {
            let call = node.pointer("/targetList/0/node/ResTarget/val/node/FuncCall");
            let call = call.or_else(|| node.pointer("/target_list/0/node/ResTarget/val/node/FuncCall"));
            let value = &call.unwrap_or_else(|| panic!("no call: {text:?}"))["args"][1];
            literal(value.pointer("/node/TypeCast/arg").unwrap_or(value))
        }
        other => panic!("{text:?} is {other}"),
    };
    match value {
        TokenValue::Literal(ours) => assert_eq!(Some(ours), theirs.as_ref(), "{text:?}"),
        TokenValue::Parameter(_) => assert_eq!(theirs, None, "{text:?}"),
        TokenValue::Reset => assert!(theirs.is_none_or(|literal| literal.is_empty()), "{text:?}"),
    }
}

fn listens(statement: &Value) -> Option<ListenOrder> {
    let (kind, node) = opened(statement);
    let name = field(node, "conditionname").to_owned();
    match kind {
        "ListenStmt" => Some(ListenOrder::Listen(name)),
        "UnlistenStmt" if name.is_empty() => Some(ListenOrder::UnlistenAll),
        "UnlistenStmt" => Some(ListenOrder::Unlisten(name)),
        _ => None,
    }
}

/// A tenant's name for a channel, in these tests.
fn channel(name: &str) -> String {
    let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("t{}", &hex[..hex.len().min(60)])
}

fn channels_are_renamed(text: &str, parsed: &[Value], renamed: Option<Vec<u8>>) {
    let of = |statement: &Value| {
        let (kind, node) = opened(statement);
        let names = matches!(kind, "ListenStmt" | "UnlistenStmt" | "NotifyStmt");
        names.then(|| field(node, "conditionname").to_owned()).filter(|name| !name.is_empty())
    };
    let expected: Vec<Option<String>> = parsed.iter().map(|one| of(one).map(|name| channel(&name))).collect();
    let Some(renamed) = renamed else {
        assert!(expected.iter().all(Option::is_none), "a channel keeps its name: {text:?}");
        return;
    };
    let renamed = String::from_utf8(renamed).expect("text");
    let after = statements(&renamed).unwrap_or_else(|| panic!("no SQL any more: {text:?} and {renamed:?}"));
    assert_eq!(after.iter().map(of).collect::<Vec<_>>(), expected, "{text:?} and {renamed:?}");
}
