use super::super::Analyser;
use super::*;

fn purpose(text: &str) -> Purpose {
    Analyser::new(1).purpose(text.as_bytes()).purpose
}

/// The functions of a text that reads, separated by blanks.
fn called(text: &str) -> Option<String> {
    match purpose(text) {
        Purpose::Read(names) => Some(names.as_deref().unwrap_or_default().join(" ")),
        Purpose::Write | Purpose::Session | Purpose::Begin { .. } => None,
    }
}

const CASES: &str = include_str!("../../../tests/routes/cases.txt");

fn cases() -> impl Iterator<Item = (&'static str, &'static str)> {
    CASES.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_once(" | ").expect(line))
}

/// Stands for what `pg_proc` says of functions.
const VOLATILE: &[&str] = &[
    "nextval",
    "setval",
    "currval",
    "lastval",
    "set_config",
    "pg_advisory_lock",
    "pg_advisory_xact_lock",
    "pg_notify",
    "random_writer",
    "txid_current",
    "pg_is_in_recovery",
    "pg_export_snapshot",
    "dblink",
    "lo_create",
    "lo_unlink",
    "lowrite",
    "pg_cancel_backend",
    "pg_terminate_backend",
    "pg_reload_conf",
    "pg_switch_wal",
];

fn route(purpose: &Purpose) -> &'static str {
    match purpose {
        Purpose::Read(Some(names)) if names.iter().any(|name| VOLATILE.contains(&&**name)) => "primary",
        Purpose::Read(_) => "replica",
        Purpose::Begin { read_only: Some(true) } => "begin-read-only",
        Purpose::Begin { read_only: None } => "begin",
        Purpose::Begin { read_only: Some(false) } | Purpose::Write | Purpose::Session => "primary",
    }
}

#[test]
fn each_case_takes_its_route_on_a_miss_and_on_a_hit() {
    let mut analyser = Analyser::new(1024);
    for round in 0..2 {
        for (expected, text) in cases() {
            let found = analyser.purpose(text.as_bytes()).purpose;
            assert_eq!(route(&found), expected, "round {round}: {text}: {found:?}");
        }
    }
    assert!(cases().count() >= 150);
}

#[test]
fn upper_case_changes_nothing_outside_quotes() {
    for (_, text) in cases().filter(|(_, text)| !text.contains(['\'', '"', '$'])) {
        assert_eq!(purpose(&text.to_uppercase()), purpose(text), "{text}");
    }
}

#[test]
fn each_case_is_sql_and_stands_once() {
    let mut seen = BTreeSet::new();
    for (_, text) in cases() {
        assert!(pg_query::parse(text, 0).is_ok(), "{text}");
        assert!(seen.insert(text), "{text}");
    }
}

/// Calls of `f`, and of `g` where a form needs two, in every position that the grammar has for an expression.
const POSITIONS: &[(&str, &str)] = &[
    ("select f(1)", "f"),
    ("select 1 + f(1) * -g(2)", "f g"),
    ("select f(g(1))", "f g"),
    ("select f(1), f(2)", "f"),
    ("select a from t where f(a)", "f"),
    ("select a from t where a = 1 and not (b or f(a) is null)", "f"),
    ("select a from t where f(a) is true", "f"),
    ("select a from t where a in (1, f(2))", "f"),
    ("select a from t where f(a) in (select g(1))", "f g"),
    ("select a from t where a = any (f(1))", "f"),
    ("select a from t where a = any (select f(1))", "f"),
    ("select a from t where f(a) > all (array[g(1)])", "f g"),
    ("select a from t where (f(a), 2) = (1, g(2))", "f g"),
    ("select a from t where a between f(1) and g(2)", "f g"),
    ("select a from t where a not between symmetric f(1) and g(2)", "f g"),
    ("select a from t where a is distinct from f(1)", "f"),
    ("select a from t where a operator(pg_catalog.+) f(1) = 2", "f"),
    ("select a from t where exists (select from u where f(a))", "f"),
    ("select a from t where exists (select from u where a in (select a from v where g(f(1))))", "f g"),
    ("select a from t group by f(a)", "f"),
    ("select a from t group by grouping sets ((f(a)), rollup (g(b)), cube (h(a)), ())", "f g h"),
    ("select grouping(f(a)) from t group by f(a)", "f"),
    ("select count(*) from t having f(1)", "count f"),
    ("select a from t order by f(a) using <", "f"),
    ("select a from t limit f(1) offset g(1)", "f g"),
    ("select a from t order by a fetch first (f(1)) rows with ties", "f"),
    ("select distinct on (f(a)) a from t", "f"),
    ("select all f(a) from t", "f"),
    ("select * from f(1)", "f"),
    ("select * from f(g(1)) with ordinality as x(a, b)", "f g"),
    ("select * from f(1) as (a int, b text)", "f"),
    ("select * from rows from (f(1), g(2) as (a int))", "f g"),
    ("select * from t, lateral f(t.a)", "f"),
    ("select * from t cross join lateral (select f(t.a)) x", "f"),
    ("select * from t left join (u join v on f(1)) on g(2)", "f g"),
    ("select * from t tablesample system (f(1)) repeatable (g(2))", "f g"),
    ("select * from (select f(1)) x", "f"),
    ("select * from (values (f(1))) x(a)", "f"),
    ("values (1, f(1)), (2, g(2))", "f g"),
    ("values (1) order by f(1) limit g(1)", "f g"),
    ("select case f(1) when g(2) then h(3) else i(4) end", "f g h i"),
    ("select case when f(1) then 1 end", "f"),
    ("select coalesce(1, f(1)), greatest(g(1)), least(h(1)), nullif(i(1), j(2))", "f g h i j"),
    ("select row(f(1)), (1, g(2)), array[f(1)], array[[h(1)]], array(select i(1))", "f g h i"),
    ("select (f(1)).x, (g(1)).*, (h(1))[1]", "f g h"),
    ("select a[f(1)], a[g(1):h(2)], (array[1])[i(1)].b from t", "f g h i"),
    ("select (select f(1)), (select a from t where g(a))", "f g"),
    (
        "select sum(f(a)) over (partition by g(b) order by h(c) rows between i(1) preceding and j(1) following) from t",
        "f g h i j sum",
    ),
    ("select sum(a) over w from t window w as (partition by f(a) order by g(a) range h(1) preceding)", "f g h sum"),
    ("select f(a) filter (where g(a)) over (order by h(a)) from t", "f g h"),
    ("select f(a) within group (order by g(b)) from t", "f g"),
    ("select f(distinct g(a) order by h(a)) from t", "f g h"),
    ("select f(a => g(1), b := h(2))", "f g h"),
    ("select f(variadic g(1)), f(1, variadic h(2))", "f g h"),
    ("select f(*)", "f"),
    ("select f(all 1)", "f"),
    ("select f(1)::int, cast(g(1) as text), int '1', h(1) collate \"C\"", "f g h"),
    ("select f(1) at time zone g(1), h(1) at local", "f g h timezone"),
    ("select f(1) is null, g(1) isnull, h(1) is not unknown, i(1) notnull", "f g h i"),
    (
        "select f(1) like g(2) escape h(3), f(1) not ilike g(2), f(1) similar to i(2)",
        "f g h i like_escape similar_to_escape",
    ),
    ("select (f(1), g(2)) overlaps (h(3), i(4))", "f g h i overlaps"),
    (
        "select extract(year from f(1)), position(f(1) in g(2)), normalize(h(1), nfc), i(1) is normalized",
        "extract f g h i is_normalized normalize position",
    ),
    (
        "select substring(f(1) from g(2) for h(3)), substring(1, f(1)), substring('a' similar f(1) escape 'x')",
        "f g h substring",
    ),
    (
        "select trim(both f(1) from g(2)), trim(leading from h(1)), trim(trailing i(1)), overlay(1 placing f(1) from 1)",
        "btrim f g h i ltrim overlay rtrim",
    ),
    ("select collation for (f(1)), treat(g(1) as x.y), system_user", "f g pg_collation_for system_user y"),
    ("select xmlelement(name a, xmlattributes(f(1) as b), g(1)), xmlforest(h(1) as x), xmlconcat(i(1))", "f g h i"),
    (
        "select xmlparse(document f(1)), xmlpi(name x, g(1)), xmlroot(h(1), version i(1)), xmlserialize(content j(1) as text)",
        "f g h i j",
    ),
    ("select xmlexists(f(1) passing g(1)), xmlagg(h(1)), f(1) is document", "f g h xmlagg xmlexists"),
    (
        "select * from xmltable(xmlnamespaces(f(1) as x), g(1) passing h(1) columns a int path i(1) default j(1), o for ordinality)",
        "f g h i j",
    ),
    (
        "select json_object(f(1) : g(1)), json_object('a' value h(1) returning text), json_array(i(1), j(1))",
        "f g h i j",
    ),
    ("select json_array(select f(1)), json_object(g(1))", "f g json_object"),
    (
        "select json_objectagg(f(1) : g(1)) filter (where h(1)), json_arrayagg(i(1) order by j(1)) over (order by k(1)) from t",
        "f g h i j k",
    ),
    ("select json(f(1)), json_scalar(g(1)), json_serialize(h(1)), i(1) is json object", "f g h i"),
    ("select json_query(f(1), g(1) passing h(1) as x default i(1) on empty default j(1) on error)", "f g h i j"),
    (
        "select json_value(f(1), '$' returning int default g(1) on error), json_exists(h(1), '$' passing i(1) as x)",
        "f g h i",
    ),
    (
        "select * from json_table(f(1), '$' passing g(1) as x columns (a int path '$' default h(1) on empty, \
      nested path '$' columns (b int path '$' default i(1) on error)))",
        "f g h i",
    ),
    ("with x as (select f(1)) select g(1) from x", "f g"),
    ("with recursive x as (select f(1) union all select g(a) from x) select h(a) from x", "f g h"),
    ("with x as (with y as (select f(1)) select * from y) table x", "f"),
    ("with x as (values (f(1))) (select 1) union (select g(2))", "f g"),
    ("select f(1) union all select g(1) except (select h(1) intersect select 1) order by i(1)", "f g h i"),
    ("(select f(1)) limit g(1)", "f g"),
    ("select 1; select f(1); values (g(1))", "f g"),
    ("explain select f(1)", "f"),
    ("explain (analyze, verbose) (select 1 from t where f(1))", "f"),
    ("explain analyze with x as (select f(1)) table x", "f"),
    ("copy (select f(1)) to stdout", "f"),
    ("copy (with x as (select f(1)) select 1 from x where g(1)) to stdout with (format csv)", "f g"),
    ("select $1::int[], f($1)", "f"),
    // names
    ("select s.f(1), c.s.g(1), pg_catalog . h (1)", "f g h"),
    ("select F(1), \"F\"(1), \"f g\"(1), \"q\"\"q\"(1)", "F f f g q\"q"),
    ("select /* */ f /* ( */ -- \n (1)", "f"),
    ("select u&\"f\"(1)", "f"),
    ("select left(b, 1), right(b, 1), \"left\"(b, 2) from t", "left right"),
    ("select a.b.c.d from a.b.c", ""),
];

/// Whatever the parser's whole tree has for a call.
fn of_the_tree(text: &str) -> BTreeSet<String> {
    fn walk(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        if let Some(name) =
            value.get("funcname").and_then(|names| names.as_array()?.last()?.pointer("/node/String/sval"))
        {
            found.insert(name.as_str().unwrap().to_owned());
        }
        match value {
            serde_json::Value::Object(members) => members.values().for_each(|member| walk(member, found)),
            serde_json::Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(&serde_json::to_value(&pg_query::parse(text, 0).expect(text).protobuf).unwrap(), &mut found);
    found
}

#[test]
fn a_call_is_found_wherever_it_stands() {
    let missed = POSITIONS.iter().map(|(text, names)| (*text, called(text), *names));
    let missed: Vec<_> = missed.filter(|(_, found, names)| found.as_deref() != Some(*names)).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn the_whole_tree_has_no_call_that_is_not_found() {
    for text in POSITIONS.iter().map(|(text, _)| *text).chain(cases().map(|(_, text)| text)) {
        if let Purpose::Read(names) = purpose(text) {
            let names: BTreeSet<String> =
                names.iter().flat_map(|names| names.iter()).map(ToString::to_string).collect();
            assert_eq!(names, of_the_tree(text), "{text}");
        }
    }
}

#[test]
fn what_looks_like_a_call_is_none() {
    for text in [
        "select a from t where a in (1, 2) and exists (select 1) or a = any (array[1]) or a = all (select 1)",
        "select a::varchar(10), a::numeric(10,2), a::bit(3), cast(a as char(1)), a::timestamp(3), float(9) '1' from t",
        "select * from (values (1, 2)) x (a, b) join (select 1) as t(a, b) using (a)",
        "with x(a) as (select 1), y (b) as materialized (select 2) select * from x, y",
        "select interval(3) '1', time(3) '10:00', current_timestamp(2), localtime(1)",
        "select grouping(a), coalesce(a, (1)), row(a), array(select 1), case when (true) then (1) end from t group by cube (a)",
        "select a from t where (a) = (1) and not (true) or (a) between (1) and (2) order by (a) limit (1) offset (0)",
        "select current_user, current_schema, session_user, current_role",
        "select distinct on (a) a from t union (select 1) except all (select 2) fetch first (1) rows only",
        "copy t (a, b) to stdout (format csv, force_quote (a, b))",
    ] {
        assert_eq!(called(text).as_deref(), Some(""), "{text}");
    }
}

#[test]
fn what_is_not_known_to_read_writes() {
    let texts = [
        "",
        " ",
        ";",
        "-- select 1",
        "selec 1",
        "select 1 from from",
        "select 'a",
        "select '\\', 'x'",
        "select 1; begin",
        "begin; begin",
        "merge into t using orders on id = a when not matched then insert values (1)",
        "call p(1)",
        "execute p",
        "explain execute p",
        "explain analyze execute p",
        "explain (table) execute p",
        "explain declare c cursor for select 1",
        "explain (analyze) create table u as select 1",
        "explain refresh materialized view m",
        "create view u as select 1",
        "create function f() returns int begin atomic select 1; select 2; end",
        "copy t from stdin",
        "copy t to '/tmp/x'",
        "copy t to program 'cat'",
        "copy (select 1) to '/tmp/x'",
        "copy (select 1) to program 'cat > stdout'",
        "copy (select to_stdout from t) to '/tmp/stdout'",
        "copy (delete from t returning a) to stdout",
        "copy (select * from pg_locks) to stdout",
        "copy pg_settings to stdout",
        "start transaction isolation level serializable",
        "begin deferrable",
        "begin read only, read write",
        "begin transaction isolation level repeatable read, deferrable",
        "commit",
        "end",
        "abort",
        "rollback",
        "savepoint a",
        "release a",
        "prepare transaction 'a'",
        "commit and chain",
        "load 'x'",
        "reindex table t",
        "cluster t",
        "move c",
        "select pg_stat_get_live_tuples(1)",
        "select pg_temp.f(1)",
        "select * from \"pg_temp_3\".t",
        "select * from U&\"pg_locks\"",
        "select * from u&\"pg\\005flocks\"",
        "select * from u&\"pg!005flocks\" uescape '!'",
        "select u&\"next!0076al\" uescape '!' ('s')",
        "select * from (with pg_locks as (select 1) table pg_locks) x, pg_locks",
        "select * from pg_catalog.\"pg_stat_wal\"",
        "select * from t where a = pg_catalog.pg_backend_pid()",
    ];
    for text in texts {
        assert_eq!(purpose(text), Purpose::Write, "{text}");
    }
    for bytes in [&b"select '\xff'"[..], b"select 1\0"] {
        assert_eq!(Analyser::new(1).purpose(bytes).purpose, Purpose::Write);
    }
}

#[test]
fn what_is_about_the_session_alone_is_told_from_what_may_write() {
    for text in
        ["set a = 1", "reset all", "show all", "discard all; deallocate p", "close c; unlisten *", "set local x = 1"]
    {
        assert_eq!(purpose(text), Purpose::Session, "{text}");
    }
    for text in
        ["set a = 1; select 1", "reset all; insert into t values (1)", "listen a", "set constraints all immediate"]
    {
        assert_eq!(purpose(text), Purpose::Write, "{text}");
    }
}

#[test]
fn a_quoted_name_is_no_keyword_and_no_other_name() {
    for text in
        ["select \"insert\", \"for\" \"update\" from \"delete\"", "select * from \"PG_LOCKS\"", "table \"into\""]
    {
        assert_eq!(called(text).as_deref(), Some(""), "{text}");
    }
    assert_eq!(called("select \"NextVal\"('s')").as_deref(), Some("NextVal"));
}

#[test]
fn a_name_is_as_long_as_postgresql_keeps_it() {
    let name = "x".repeat(70);
    assert_eq!(called(&format!("select {name}(1)")), Some("x".repeat(63)));
}

#[test]
fn the_last_mode_of_a_transaction_that_says_it_twice_agrees() {
    assert_eq!(purpose("begin read only read only"), Purpose::Begin { read_only: Some(true) });
    assert_eq!(purpose("begin isolation level repeatable read read write"), Purpose::Begin { read_only: Some(false) });
    assert_eq!(purpose(" ;; Start /* */ Transaction;"), Purpose::Begin { read_only: None });
}
