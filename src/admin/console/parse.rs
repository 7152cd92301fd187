//! Text to commands.

use super::command::{Command, Gate};
use crate::admin::Target;
use crate::base::{ClusterName, Report, ServerName, SqlState, TenantId};

/// The commands of a text, which stand apart by semicolons. One that is not known, and none is run.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Command>, Report> {
    let text = without_comments(&String::from_utf8_lossy(text));
    let statements = text.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    statements.map(|statement| command(statement).ok_or_else(unknown)).collect()
}

fn command(statement: &str) -> Option<Command> {
    if let Some(gate) = gate(statement) {
        return Some(gate);
    }
    // HELP alone is what people try first.
    let written = if statement.eq_ignore_ascii_case("help") { "SHOW HELP" } else { statement };
    let same = |words: &str| {
        let mut given = written.split_ascii_whitespace();
        words.split(' ').all(|word| given.next().is_some_and(|given| given.eq_ignore_ascii_case(word)))
            && given.next().is_none()
    };
    Command::ALL.iter().find(|(words, ..)| same(words)).map(|(_, command, _)| command.clone())
}

/// `PAUSE`, `DRAIN` or `RESUME`, and of what.
fn gate(statement: &str) -> Option<Command> {
    let words: Vec<&str> = statement.split_ascii_whitespace().collect();
    let (first, rest) = words.split_first()?;
    let gate = Gate::ALL.into_iter().find(|gate| first.eq_ignore_ascii_case(gate.word()))?;
    let target = match rest {
        [] => Target::All,
        [kind, name] if kind.eq_ignore_ascii_case("cluster") => Target::Cluster(ClusterName::parse(name).ok()?),
        [kind, name] if kind.eq_ignore_ascii_case("tenant") => Target::Tenant(TenantId::parse(name).ok()?),
        [kind, name] if kind.eq_ignore_ascii_case("server") => {
            let (cluster, server) = name.split_once('.')?;
            Target::Server(ClusterName::parse(cluster).ok()?, ServerName::parse(server).ok()?)
        }
        _ => return None,
    };
    Some(Command::Gate(gate, target))
}

/// The text is not repeated: somebody may have sent a query, values and all, to the wrong database.
fn unknown() -> Report {
    let gates = Gate::ALL.iter().map(|gate| gate.help().0);
    let all: Vec<&str> = Command::ALL.iter().map(|(words, ..)| *words).chain(gates).collect();
    Report::error(SqlState::SYNTAX_ERROR, "this is not a command of the pgward console")
        .hint(format!("The commands are {}. For SQL, connect to a tenant's database.", all.join(", ")))
}

/// Comments become blanks, as in PostgreSQL: `--` to the end of the line, `/* */` nested. Strings need no
/// care, since no command has one.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut depth = 0usize;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("/*") {
            depth += 1;
            2
        } else if depth > 0 && rest.starts_with("*/") {
            depth -= 1;
            out.push(' ');
            2
        } else if depth == 0 && rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else {
            if depth == 0 {
                out.push(first);
            }
            first.len_utf8()
        };
        rest = rest.get(skipped..).unwrap_or_default();
    }
    if depth > 0 {
        // Never ended: what is in front of it must not run.
        out.push_str(" /*");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::console::command::Show;

    const POOLS: Command = Command::Show(Show::Pools);

    #[test]
    fn case_blanks_comments_and_semicolons_do_not_matter() {
        for text in [
            "SHOW POOLS",
            "show pools;",
            " \n Show\t PoOLs ; ; ",
            "/* by /* a */ tool */ SHOW /**/ POOLS -- please",
            "-- first\nshow pools",
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(vec![POOLS]), "{text}");
        }
        assert_eq!(parse(b"help"), Ok(vec![Command::Show(Show::Help)]));
    }

    #[test]
    fn every_command_is_understood_as_it_is_listed() {
        for (words, command, _) in Command::ALL {
            assert_eq!(parse(words.as_bytes()), Ok(vec![command.clone()]));
            let says = match command {
                Command::Show(_) => "SHOW",
                other => other.tag(),
            };
            assert!(words.starts_with(says));
        }
    }

    #[test]
    fn what_is_held_back_is_named() {
        let target = |text: &str| match parse(text.as_bytes()).as_deref() {
            Ok([Command::Gate(gate, target)]) => format!("{} {target}", gate.word()),
            other => format!("{other:?}"),
        };
        assert_eq!(target("pause"), "PAUSE all clusters");
        assert_eq!(target("Drain cluster main;"), "DRAIN cluster main");
        assert_eq!(target("RESUME SERVER main.main-2"), "RESUME server main.main-2");
        assert_eq!(target("pause tenant a.b@c"), "PAUSE tenant a.b@c");
        for text in ["pause main", "pause server main", "drain cluster", "resume tenant a b", "pause cluster 'x'"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn several_commands_run_in_their_order_and_none_is_no_error() {
        assert_eq!(parse(b"show pools; RELOAD;shutdown"), Ok(vec![POOLS, Command::Reload, Command::Shutdown]));
        for nothing in ["", " ; ", ";;", "-- nothing"] {
            assert_eq!(parse(nothing.as_bytes()), Ok(vec![]));
        }
    }

    #[test]
    fn what_is_not_known_runs_nothing_and_is_not_repeated() {
        for text in [
            "SHOW",
            "SHOW POOLS NOW",
            "SHOWPOOLS",
            "select 'secret'",
            "SHUTDOWN; select 'secret'",
            "SHUTDOWN /* secret",
            "SHUT/**/DOWN",
            "\u{fffd}",
        ] {
            let report = parse(text.as_bytes()).unwrap_err();
            assert_eq!(report.sqlstate, SqlState::SYNTAX_ERROR, "{text}");
            assert!(report.hint.as_deref().is_some_and(|hint| hint.contains("SHOW POOLS, SHOW CLIENTS")), "{report:?}");
            assert!(!format!("{report:?}").contains("secret"), "{report:?}");
        }
        assert!(parse(b"SHOW \xff").is_err());
    }
}
