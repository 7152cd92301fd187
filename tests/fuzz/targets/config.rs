//! The configuration's reader: every text is answered, with problems in proportion to it, and no secret in them.

use std::path::Path;

use pgward::config;
use toml::{Table, Value};

use super::Target;

pub const TARGET: Target = Target {
    name: "config",
    check,
    words: &[
        "[listen]\n",
        "[[issuers]]\n",
        "[tenants.",
        "[clusters.main]\n",
        "[plain]\n",
        "[limits]\n",
        "[pool]\n",
        "[http]\n",
        "[session]\n",
        "[context]\n",
        "[console.users]\n",
        "servers = [{}]\n",
        "logins.app = ",
        "isolation = \"rows\"\n",
        "address = \"127.0.0.1:0\"\n",
        "mode = \"session\"\n",
        "password = \"hunter2\"\n",
        "master_key = \"hunter2\"\n",
        "secret = \"hunter2\"\n",
        "key = \"hunter2\"\n",
        "= { file = \"x\" }\n",
        "= { env = \"X\" }\n",
        "= \"10s\"\n",
        "= 0\n",
        "= -1\n",
        "= 99999999999999999999\n",
        "= []\n",
        "= {}\n",
        "= true\n",
        "= 1979-05-27\n",
        "= nan\n",
        "\"\"",
        "'''",
        "#",
        "home = \"lk\"\n",
        "regions = [\"lk\"]\n",
        "algorithms = [\"HS256\"]\n",
        "\"*\"",
        ".",
        "é",
    ],
    rounds: 10_000,
    longest: 4_000,
};

/// What the secrets of the kept configurations begin with.
const SECRET: &str = "hunter2";

fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Files that are named are read, and some of a machine's have no end.
    if ["dev", "proc", "\\u", "\\U", "\\x"].iter().any(|part| text.contains(part)) {
        return;
    }
    let parsed = config::parse(text, Path::new("/nowhere/at/all"));
    let table = text.parse::<Table>();
    let misplaced = match &table {
        Ok(table) => table.iter().any(|(key, value)| misplaced(key, value)),
        // Nothing of a text that is no TOML may be quoted.
        Err(_) => false,
    };
    match &parsed {
        Ok(settings) => assert!(misplaced || !format!("{settings:?}").contains(SECRET)),
        Err(problems) => {
            assert!(!problems.is_empty() && problems.len() <= 20 + 2 * text.len(), "{} problems", problems.len());
            for problem in problems {
                let said = problem.to_string();
                assert!(said.len() <= 1000 + 2 * text.len(), "{} bytes", said.len());
                assert!(!problem.path.is_empty() && !problem.reason.is_empty(), "{said}");
                assert!(misplaced || !said.contains(SECRET), "{said}");
            }
        }
    }
    assert!(table.is_ok() || parsed.is_err(), "no TOML, and taken");
    assert_eq!(parsed.err(), config::parse(text, Path::new("/nowhere/at/all")).err(), "read twice");
}

/// Whether a secret stands where none belongs, or in a name.
fn misplaced(key: &str, value: &Value) -> bool {
    if key.contains(SECRET) {
        return true;
    }
    match value {
        Value::Table(table) => table.iter().any(|(inner, value)| {
            // [context.keys] and [console.users] have names of the operator's choosing.
            let secret = ["keys", "users"].contains(&key) && value.is_str() && !inner.contains(SECRET);
            !secret && misplaced(inner, value)
        }),
        Value::Array(items) => items.iter().any(|item| misplaced("", item)),
        Value::String(text) => text.contains(SECRET) && !["secret", "master_key", "key", "password"].contains(&key),
        _ => false,
    }
}
