//! docs/hostile.md, as the run has it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use crate::case::{Case, Expected};
use crate::judge::{self, Outcome};
use crate::place::{Level, Place};

const HEAD: &str = "# A hostile tenant

What a tenant may try that holds a good token of its own, speaks the protocol by hand and writes any SQL, and what came
of it. `make hostile` writes this page: it tries every case, and nothing here is written by hand. The cases are in
`tests/hostile`; `make test` runs them too, all but those through PgBouncer.

After every case the run looks at two other tenants, one at level `rows` and one at level `schema`: their open sessions
(rows, settings, prepared statements, notifications, temporary tables, advisory locks, cursors), new sessions of theirs
on every backend that may have been used, and all their data as a superuser sees it. It also searches every byte that
the hostile tenant received for random marks that stand in the others' rows, statements, notifications and large
objects. Backends are few, so that they go from tenant to tenant all the time.

**Through PgBouncer** means Debian's PgBouncer, pooling by transaction, one login for all tenants, and the customary
pattern: the application begins each transaction with `set_config('app.tenant_id', ..., true)`, and policies compare
with that setting. The hostile tenant's SQL runs behind that, as an injected statement would. PgBouncer is a
connection pool and does that well. **It never promised any of this**: it knows no tenants, and whoever uses this pattern trusts
all SQL. The column says what the pattern leaves open, which is what pgward is for. \"-\": the case is about tokens,
messages or settings of pgward's.
";

/// Lines of the list of threats that are not tried here, and where they are.
pub const ELSEWHERE: &[(u8, &str)] = &[];

const FAMILIES: [(&str, &[u8]); 5] = [
    ("Taking another identity", &[1, 2, 3, 4, 5, 6, 7]),
    ("Leaving something behind on a shared backend", &[8, 9, 10, 11, 12, 13]),
    ("Seeing others from inside PostgreSQL", &[14, 15, 16]),
    ("Hurting others", &[17, 18, 19, 20]),
    ("Routing tricks", &[21]),
];

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/hostile.md"))
}

/// Runs every case everywhere. What went wrong is returned, and the page is written all the same.
pub async fn write(cases: fn() -> Vec<Case>) -> Vec<String> {
    let anywhere = cases().into_iter().filter(|case| case.anywhere).collect();
    let ((rows, wrong), (schema, more), (bouncer, _)) = tokio::join!(
        async { judge::all(Place::of_pgward(Level::Rows).await, cases()).await },
        async { judge::all(Place::of_pgward(Level::Schema).await, cases()).await },
        async { judge::all(Place::of_pgbouncer().await, anywhere).await },
    );
    let by_id = |outcomes: Vec<Outcome>| outcomes.into_iter().map(|outcome| (outcome.id, outcome)).collect();
    let text = page(&cases(), &by_id(rows), &by_id(schema), &by_id(bouncer));
    std::fs::write(path(), text).unwrap();
    wrong.into_iter().chain(more).collect()
}

type Outcomes = BTreeMap<&'static str, Outcome>;

fn page(cases: &[Case], rows: &Outcomes, schema: &Outcomes, bouncer: &Outcomes) -> String {
    let mut out = HEAD.to_owned();
    let bad = bouncer.values().filter(|outcome| !outcome.wrong.is_empty()).count();
    let open = rows.values().chain(schema.values()).filter(|outcome| !outcome.wrong.is_empty()).count();
    let remaining = cases.iter().filter(|case| remains(case)).count();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "\n{} cases: {} runs at level `rows`, {} at `schema`; {open} of them not withstood yet. {remaining} cases say what \
         remains. Through PgBouncer {bad} of {} reached or disturbed the other tenant.",
        cases.len(),
        rows.len(),
        schema.len(),
        bouncer.len()
    );
    for (family, lines) in FAMILIES {
        let _ = writeln!(
            out,
            "\n## {family}\n\n| case | what | line | through PgBouncer | pgward, `rows` | pgward, `schema` |\n|---|---|---|---|---|---|"
        );
        let mut of: Vec<&Case> = cases.iter().filter(|case| lines.contains(&case.line) && !remains(case)).collect();
        of.sort_by_key(|case| case.line);
        for case in of {
            let _ = writeln!(out, "{}", line(case, rows, schema, bouncer));
        }
    }
    out.push_str("\n## What remains\n\nPostgreSQL does not keep a role from these, and no proxy can that lets SQL through. Each was tried, and is possible\nin just this way. Tenants that must not share them belong at level `database` or `cluster`.\n\n");
    out.push_str(
        "| case | what | line | through PgBouncer | pgward, `rows` | pgward, `schema` |\n|---|---|---|---|---|---|\n",
    );
    for case in cases.iter().filter(|case| remains(case)) {
        let _ = writeln!(out, "{}", line(case, rows, schema, bouncer));
    }
    out
}

fn remains(case: &Case) -> bool {
    case.id.starts_with("remains.") || matches!(case.expected[0], Expected::Remains(_))
}

fn line(case: &Case, rows: &Outcomes, schema: &Outcomes, bouncer: &Outcomes) -> String {
    let told = |outcome: Option<&Outcome>, pgward| {
        outcome.map_or_else(|| "-".to_owned(), |outcome| cell(case, outcome, pgward))
    };
    let cells = [
        format!("`{}`", case.id),
        case.what.replace('|', "\\|"),
        case.line.to_string(),
        told(bouncer.get(case.id), false),
        told(rows.get(case.id), true),
        told(schema.get(case.id), true),
    ];
    format!("| {} |", cells.join(" | "))
}

fn cell(case: &Case, outcome: &Outcome, pgward: bool) -> String {
    let has = |what: &str| outcome.wrong.iter().any(|why| why.contains(what));
    let reached = if has("it saw what is another's") {
        "sees what is another's"
    } else if has("changed for others") {
        "changes what is another's"
    } else if !outcome.wrong.is_empty() {
        "disturbs the other tenant"
    } else {
        ""
    };
    match (reached, pgward) {
        ("", _) if matches!(case.expected[0], Expected::Remains(_)) => "possible".to_owned(),
        ("", _) => outcome.happened.replace('|', "\\|"),
        (_, true) if outcome.wrong.len() == 1 && has("expected ") => "**not yet refused**".to_owned(),
        (reached, true) => format!("**not yet: {reached}**"),
        (reached, false) => format!("**{reached}**"),
    }
}

/// The page has a line for each case and no other.
pub fn is_of(cases: &[Case]) -> Vec<String> {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let known: Vec<String> = cases
        .iter()
        .map(|case| format!("| `{}` | {} | {} |", case.id, case.what.replace('|', "\\|"), case.line))
        .collect();
    let missing = known.iter().filter(|known| !lines.iter().any(|line| line.starts_with(*known)));
    let strange = lines.iter().filter(|line| !known.iter().any(|known| line.starts_with(known.as_str())));
    let missing = missing.map(|line| format!("is not in docs/hostile.md: {line}"));
    missing.chain(strange.map(|line| format!("is no case: {line}"))).collect()
}
