//! Setting, resetting and replaying the context (lines 2 to 4).

use crate::case::{Case, Expected, extended, run, sql};
use crate::support::raw::{errors, function_call_with, gists};
use crate::tap::{answers, ask, first, held, leave, rows};

/// What a read meets whose context is not genuine. At level schema the context is nothing, and the table another's.
const NOT_GENUINE: &str = "28000 42501";

pub fn cases() -> Vec<Case> {
    let mut cases = spellings();
    cases.extend(functions());
    cases.extend(resets());
    cases.extend(replays());
    cases
}

/// Every text sets a forged context and reads in the same breath; between transactions pgward sets it anew.
fn spellings() -> Vec<Case> {
    let forged = |id, what, texts: &[&'static str]| sql(id, 2, what, texts).denied(NOT_GENUINE);
    vec![
        forged("context.set", "SET of a forged value", &["set {context} = '{forged}'; {peek}"]),
        forged("context.set-to", "SET ... TO", &["set {context} to '{forged}'; {peek}"]),
        forged("context.set-session", "SET SESSION", &["set session {context} = '{forged}'; {peek}"]),
        forged("context.set-local", "SET LOCAL", &["begin; set local {context} = '{forged}'; {peek}"]),
        forged("context.set-escapes", "a literal in escapes", &["set {context} = E'\\x31.k1.1.61.7b7d.00'; {peek}"]).of_pgward(),
        forged("context.set-unicode", "a literal in unicode escapes", &["set {context} = U&'\\0031.k1.1.61.7b7d.00'; {peek}"]).of_pgward(),
        forged("context.set-dollars", "the name in quotes", &["set \"pgward\".\"context\" = '{forged}'; {peek}"]).of_pgward(),
        forged("context.set-case", "the name in capitals", &["set PGWARD.CONTEXT = '{forged}'; {peek}"]).of_pgward(),
        forged("context.set-unicode-name", "the name in unicode escapes",
            &["set U&\"pgw\\0061rd\".U&\"conte!0078t\" uescape '!' = '{forged}'; {peek}"]).of_pgward().denied("28000 42501 42601"),
        forged("context.set-comments", "comments within", &["set/*;*/pgward/**/./**/context/**/=/**/'{forged}';--\n{peek}"]).of_pgward(),
        forged("context.set-config", "set_config", &["select set_config('{context}', '{forged}', false); {peek}"]),
        forged("context.set-config-local", "set_config, local", &["begin; select set_config('{context}', '{forged}', true); {peek}"]),
        forged("context.set-config-names", "set_config with its arguments by name",
            &["select set_config(is_local => false, new_value => '{forged}', setting_name => '{context}'); {peek}"]).denied("28000 42501 42883"),
        forged("context.set-config-concat", "its name put together",
            &["select set_config(concat(left('{context}', 3), substr('{context}', 4)), '{forged}', false); {peek}"]),
        forged("context.set-config-qualified", "pg_catalog.set_config in capitals",
            &["select PG_CATALOG.\"set_config\"('{context}', '{forged}', false); {peek}"]),
        forged("context.set-config-chr", "its name from characters",
            &["select set_config((select string_agg(c, '' order by n) from regexp_split_to_table('{context}', '') with ordinality x(c, n)), '{forged}', false); {peek}"]),
        forged("context.set-config-where", "set_config in a condition",
            &["select 1 where set_config('{context}', '{forged}', false) <> ''; {peek}"]),
        forged("context.set-config-cte", "set_config in a CTE, in the statement that reads",
            &["with x as materialized (select set_config('{context}', '{forged}', false)) select item from x, lateral ({peek}) y"]),
        forged("context.set-config-lateral", "set_config ahead of the policy's subselect",
            &["select item from (select set_config('{context}', '{forged}', false) offset 0) s(c), lateral ({peek} and c <> '') y"])
            .denied("28000 42501 42601 42703 42883").at_schema(Expected::Denied("42501 42601 42703 42883")),
        forged("context.sealed-of-victim", "another tenant's genuine value, as if it were leaked",
            &["select set_config('{context}', '{sealed}', false); {peek}"]).of_pgward(),
        forged("context.changed-tenant", "its own value with another tenant in it",
            &["select set_config('pgward.context', regexp_replace(current_setting('pgward.context'), '^(.*?\\..*?\\..*?\\.)[0-9a-f]*', '\\161636d65'), false); {peek}"])
            .of_pgward().at_schema(Expected::Denied("28000 42501 42704")),
        forged("context.changed-pid", "its own value with another process id",
            &["select set_config('pgward.context', regexp_replace(current_setting('pgward.context'), '^(.*?\\..*?\\.)[0-9]*', '\\1{pid}'), false); {peek}"])
            .of_pgward().at_schema(Expected::Denied("28000 42501 42704")),
        forged("context.leading-zero", "its own value with a zero before the process id",
            &["select set_config('pgward.context', regexp_replace(current_setting('pgward.context'), '^(.*?\\..*?\\.)', '\\10'), false); {peek}"])
            .of_pgward().at_schema(Expected::Denied("28000 42501 42704")),
        forged("context.upper-mac", "its own value with the code in capitals",
            &["select set_config('pgward.context', upper(current_setting('pgward.context')), false); {peek}"])
            .of_pgward().at_schema(Expected::Denied("28000 42501 42704")),
        forged("context.more-parts", "its own value with a part more",
            &["select set_config('pgward.context', current_setting('pgward.context') || '.00', false); {peek}"])
            .of_pgward().at_schema(Expected::Denied("28000 42501 42704")),
        forged("context.spaces", "its own value with a blank behind it",
            &["select set_config('pgward.context', current_setting('pgward.context') || ' ', false); {peek}"])
            .of_pgward().at_schema(Expected::Denied("28000 42501 42704")),
        forged("context.key-for-channels", "the channels' key as its key",
            &["set pgward.context = '1.for channels.1.61636d65.7b7d.00'; {peek}"]).of_pgward(),
        forged("context.dots", "nothing but separators", &["set pgward.context = '.....'; {peek}"]).of_pgward(),
        forged("context.long", "a megabyte of it", &["select set_config('pgward.context', repeat('1.', 500000), false) is null; {peek}"]).of_pgward(),
        forged("context.like-sql", "a value that is SQL", &["set pgward.context = '1.k1''; drop table pgward.keys; --.1.61.7b7d.00'; {peek}"]).of_pgward(),
        extended("context.bound", 2, "name and value as parameters, a read behind it",
            &[("select set_config($1, $2, false)", &["{context}", "{forged}"]), ("{peek}", &[])]).blind(),
    ]
}

/// Ways to have set_config run that no reading of the text would find.
fn functions() -> Vec<Case> {
    let way = |id, what, texts: &[&'static str]| sql(id, 2, what, texts).denied(NOT_GENUINE);
    vec![
        way("context.do", "DO", &["do $$ begin perform set_config('{context}', '{forged}', false); end $$; {peek}"]),
        way("context.do-set", "SET in DO", &["do $$ begin set {context} = '{forged}'; end $$; {peek}"]),
        way("context.do-execute", "EXECUTE of a text that is reversed",
            &["do $$ begin execute reverse(')eslaf ,''{forged}''_' || ''); exception when others then perform set_config(reverse(reverse('{context}')), '{forged}', false); end $$; {peek}"]),
        way("context.prepare", "PREPARE and EXECUTE", &["prepare p as select set_config('{context}', $1, false); execute p('{forged}'); {peek}"]),
        way("context.query-to-xml", "query_to_xml", &["select query_to_xml('select set_config(''{context}'', ''{forged}'', false)', true, true, ''); {peek}"]),
        way("context.cursor-to-xml", "cursor_to_xml", &[
            "begin; declare c cursor for select set_config('{context}', '{forged}', false); select cursor_to_xml('c', 1, true, true, ''); {peek}"]),
        way("context.cursor", "a cursor", &["begin; declare c cursor for select set_config('{context}', '{forged}', false); fetch c; {peek}"]),
        way("context.ts-stat", "ts_stat, which runs a text", &[
            "select * from ts_stat('select set_config(''{context}'', ''{forged}'', false)::tsvector'); {peek}"]),
        way("context.ts-rewrite", "ts_rewrite, which runs a text", &[
            "select ts_rewrite('a'::tsquery, 'select ''a''::tsquery, ''b''::tsquery where set_config(''{context}'', ''{forged}'', false) is not null'); {peek}"]),
        way("context.aggregate", "an aggregate over set_config", &[
            "create aggregate pg_temp.a(text, boolean) (sfunc = set_config, stype = text, initcond = '{context}')",
            "select pg_temp.a('{forged}', false); {peek}",
        ]).denied("28000 42501 42P13 42883 42725"),
        way("context.aggregate-own", "an aggregate over a function of its own", &[
            "create function pg_temp.f(text, text) returns text language sql as $$ select set_config('{context}', $2, false) $$",
            "create aggregate pg_temp.a(text) (sfunc = pg_temp.f, stype = text)",
            "select pg_temp.a(x) from (values ('{forged}')) v(x); {peek}",
        ]),
        way("context.operator", "an operator of its own", &[
            "create function pg_temp.f(text, text) returns text language sql as $$ select set_config($1, $2, false) $$",
            "create operator pg_temp.<=> (leftarg = text, rightarg = text, function = pg_temp.f)",
            "select '{context}' operator(pg_temp.<=>) '{forged}'; {peek}",
        ]),
        way("context.cast", "a cast of its own", &[
            "create type pg_temp.t as (v text)",
            "create function pg_temp.f(pg_temp.t) returns text language sql as $$ select set_config('{context}', $1.v, false) $$",
            "create cast (pg_temp.t as text) with function pg_temp.f(pg_temp.t) as implicit",
            "select row('{forged}')::pg_temp.t::text; {peek}",
        ]),
        way("context.domain", "a domain's check", &[
            "create domain pg_temp.d as text check (set_config('{context}', value, false) is not null)",
            "select '{forged}'::pg_temp.d; {peek}",
        ]),
        way("context.default", "a column's default", &[
            "create temp table t (x int, y text default set_config('{context}', '{forged}', false))",
            "insert into t (x) values (1); {peek}",
        ]),
        way("context.generated", "a check of a temporary table", &[
            "create temp table t (x text check (set_config('{context}', x, false) is not null))",
            "insert into t values ('{forged}'); {peek}",
        ]),
        way("context.trigger", "a trigger of a temporary table", &[
            "create temp table t (x int)",
            "create function pg_temp.f() returns trigger language plpgsql as $$ begin perform set_config('{context}', '{forged}', false); return new; end $$",
            "create trigger t before insert on t for each row execute function pg_temp.f()",
            "insert into t values (1); {peek}",
        ]),
        way("context.deferred-trigger", "a deferred trigger, and COMMIT AND CHAIN", &[
            "create temp table t (x int)",
            "create function pg_temp.f() returns trigger language plpgsql as $$ begin perform set_config('{context}', '{forged}', false); return new; end $$",
            "create constraint trigger t after insert on t initially deferred for each row execute function pg_temp.f()",
            "begin; insert into t values (1); commit and chain; {peek}",
        ]),
        way("context.view", "a temporary view", &["create temp view v as select set_config('{context}', '{forged}', false)", "select * from v; {peek}"]),
        way("context.index", "an index expression", &[
            "create function pg_temp.f(text) returns text language plpgsql immutable as $$ begin perform set_config('{context}', '{forged}', false); return $1; end $$",
            "create temp table t as select 'x' as x; create index on t (pg_temp.f(x)); {peek}",
        ]).blind(),
        way("context.function-set", "CREATE FUNCTION ... SET in pg_temp", &[
            "create function pg_temp.f() returns setof text language plpgsql set {context} = '{forged}' as $f$ begin return query {peek}; end $f$",
            "select pg_temp.f()",
        ]),
        way("context.procedure", "a procedure that commits", &[
            "create procedure pg_temp.p() language plpgsql as $$ begin commit; perform set_config('{context}', '{forged}', false); commit; end $$",
            "call pg_temp.p()", "{peek}",
        ]).blind().at_schema(Expected::Denied(NOT_GENUINE)),
        way("context.array", "set_config in an array's subscript, a CASE and a FILTER", &[
            "select (array[1])[case when set_config('{context}', '{forged}', false) is null then 0 else 1 end], count(*) filter (where true) from (values (1)) v group by 1; {peek}"]),
        way("context.explain", "EXPLAIN ANALYZE", &["explain analyze select set_config('{context}', '{forged}', false); {peek}"]),
        way("context.copy", "COPY of a query", &["begin; create temp table t (x text) on commit drop; insert into t select set_config('{context}', '{forged}', false); {peek}"]),
        way("context.returning", "RETURNING", &[
            "begin; create temp table t (x text) on commit drop; insert into t values ('x') returning set_config('{context}', '{forged}', false); {peek}"]),
        way("context.pg-settings", "UPDATE pg_settings of a custom setting",
            &["update pg_settings set setting = '{forged}' where name = '{context}'", "{peek}"]).blind(),
        way("context.regclass", "set_config's result cast to regclass", &["select set_config('{context}', '{forged}', false)::regclass; {peek}"])
            .denied("28000 42501 42602 42601 42P01 0A000"),
        way("context.row-security", "row_security = off", &["set row_security = off; select item from {theirs}"]).denied("42501"),
        way("context.row-security-config", "row_security by set_config in the statement",
            &["select item from {theirs} where set_config('row_security', 'off', false) = 'x'"]).blind(),
        way("context.leaky-function", "a cheap function that tells every row it is shown", &[
            "create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0000001 as $$ begin raise notice 'seen: %', $1; return true; end $$",
            "select item from {theirs} where pg_temp.leak(item) and item like '{me} 1%'; {peek}",
        ]).blind(),
        way("context.leaky-operator", "the same by an operator with an estimator", &[
            "create function pg_temp.leak(text, text) returns boolean language plpgsql cost 0.0000001 as $$ begin raise notice 'seen: %', $1; return true; end $$",
            "create operator pg_temp.~~~ (leftarg = text, rightarg = text, function = pg_temp.leak, restrict = eqsel, join = eqjoinsel)",
            "select count(*) from {theirs} where item operator(pg_temp.~~~) 'x'; {peek}",
        ]).blind(),
        way("context.leakproof", "a function that calls itself leakproof", &[
            "create function pg_temp.leak(text) returns boolean language plpgsql leakproof as $$ begin return true; end $$"]).denied("42501"),
        way("context.division", "an error that tells a value", &["select 1 from {theirs} where 1 / (case when item like '{me}%' then 1 else 0 end) = 1; {peek}"]).blind(),
        way("context.cast-error", "a cast whose error tells a value", &["select 1 from {theirs} where item::int = 1"]).denied("22P02 42501"),
        way("context.update-returning", "UPDATE ... RETURNING of others' rows", &["update {theirs} set item = 'x' where item not like '{me} %' returning item"])
            .no_row().at_schema(Expected::Denied("42501")),
        way("context.delete", "DELETE of others' rows", &["delete from {theirs} where item not like '{me} %' returning item"])
            .no_row().at_schema(Expected::Denied("42501")),
        way("context.for-update", "SELECT FOR UPDATE of others' rows", &["begin; {peek} for update"]).no_row().at_schema(Expected::Denied("42501")),
        way("context.merge", "MERGE over others' rows", &["merge into {theirs} o using (select 1 as id) s on o.id >= s.id and o.item not like '{me} %' when matched then delete", "{peek}"])
            .no_row().at_schema(Expected::Denied("42501")),
        way("context.give-away", "a row given to another tenant", &["insert into public.orders (item, tenant_id) values ('x', '{victim}')"]).denied("42501"),
        way("context.give-away-update", "a row of its own moved to another tenant", &["update {mine} set tenant_id = '{victim}'"]).denied("42501 42703"),
        way("context.conflict", "ON CONFLICT DO UPDATE of another's row",
            &["insert into {theirs} (id, item, tenant_id) values (1, 'x', 'acme') on conflict (tenant_id, id) do update set item = 'x' returning item"]).denied("42501 42703"),
        way("context.tablesample", "TABLESAMPLE of the whole table", &["select item from {theirs} tablesample system (100) where item not like '{me} %'"]).no_row().at_schema(Expected::Denied("42501")),
        way("context.copy-out", "COPY of the table", &["copy {theirs} to stdout", "{peek}"]).blind(),
        way("context.table", "TABLE", &["select * from (table {theirs}) o where o.item not like '{me} %'"]).no_row().at_schema(Expected::Denied("42501")),
        way("context.only", "ONLY", &["select item from only {theirs} where item not like '{me} %'"]).no_row().at_schema(Expected::Denied("42501")),
        way("context.xml", "table_to_xml", &["select table_to_xml('{theirs}', true, true, '')", "select 1 where false"]).blind(),
        way("context.schema-xml", "schema_to_xml and database_to_xml", &["select schema_to_xml('kandy', true, true, '')", "select schema_to_xml('public', true, true, '')", "{peek}"]).blind(),
        way("context.statistics", "pg_stats of what others wrote", &["select most_common_vals from pg_stats where tablename = 'orders' and schemaname in ('public', 'kandy')"]).no_row(),
        way("context.statistics-raw", "pg_statistic", &["select * from pg_statistic"]).denied("42501"),
        way("context.ctid", "rows by their place", &["select item from {theirs} where ctid = any (array['(0,1)', '(0,2)', '(1,1)']::tid[]) and item not like '{me} %'"])
            .no_row().at_schema(Expected::Denied("42501")),
        way("context.currtid", "currtid2 on others' table", &["select currtid2('{theirs}', '(0,1)')", "{peek}"]).blind(),
    ]
}

fn resets() -> Vec<Case> {
    let reset = |id, what, texts: &[&'static str]| sql(id, 4, what, texts);
    vec![
        reset(
            "reset.context",
            "RESET of the context, a read in the same text",
            &["reset {context}; select count(*) from {mine}"],
        )
        .shows("0")
        .at_schema(Expected::Shows("100")),
        reset("reset.default", "SET ... TO DEFAULT", &["set {context} to default; select count(*) from {mine}"])
            .shows("0")
            .at_schema(Expected::Shows("100")),
        reset("reset.empty", "an empty value", &["set {context} = ''; select count(*) from {mine}"])
            .shows("0")
            .at_schema(Expected::Shows("100")),
        reset(
            "reset.null",
            "set_config to NULL",
            &["select set_config('{context}', null, false); select count(*) from {mine}"],
        )
        .shows("0")
        .at_schema(Expected::Shows("100")),
        reset("reset.all", "RESET ALL, a read in the same text", &["reset all; select count(*) from {mine}"])
            .shows("0")
            .at_schema(Expected::Shows("100")),
        reset("reset.all-next", "RESET ALL, a read in the next", &["reset all", "select count(*) from {mine}"])
            .shows("100"),
        reset("reset.discard-next", "DISCARD ALL, a read in the next", &["discard all", "select count(*) from {mine}"])
            .shows("100"),
        reset("reset.discard-batch", "DISCARD ALL in a text of several", &["discard all; {peek}"]).denied("25001"),
        reset("reset.discard-do", "DISCARD in DO", &["do $$ begin execute 'discard all'; end $$", "{peek}"]).blind(),
        reset(
            "reset.discard-plans",
            "DISCARD PLANS, SEQUENCES, TEMP",
            &["discard plans; discard sequences; discard temp", "select count(*) from {mine}"],
        )
        .shows("100"),
        reset(
            "reset.rollback",
            "a context set in a transaction that is rolled back",
            &["begin; set {context} = '{forged}'; rollback; select count(*) from {mine}"],
        )
        .shows("100"),
        reset(
            "reset.rollback-reset",
            "RESET ALL that is rolled back",
            &["begin; reset all; rollback; select count(*) from {mine}"],
        )
        .shows("100"),
        reset(
            "reset.savepoint",
            "RESET ALL behind a savepoint, rolled back to it",
            &["begin; savepoint s; reset all; rollback to s; select count(*) from {mine}; commit"],
        )
        .shows("100"),
        reset(
            "reset.in-transaction",
            "RESET ALL in a transaction, reads in the next messages",
            &["begin", "reset all", "select count(*) from {mine}"],
        )
        .shows("0")
        .at_schema(Expected::Shows("100")),
        reset(
            "reset.after-commit",
            "RESET ALL in a transaction, reads behind its COMMIT",
            &["begin", "reset all", "commit", "select count(*) from {mine}"],
        )
        .shows("100"),
        reset(
            "reset.do",
            "RESET ALL hidden in DO, a read behind it",
            &["do $$ begin execute 'res' || 'et all'; end $$; {peek}"],
        )
        .blind(),
        reset(
            "reset.do-next",
            "RESET ALL hidden in DO, a read in the next message",
            &["do $$ begin execute 'res' || 'et all'; end $$", "{peek}"],
        )
        .blind(),
        reset(
            "reset.pg-settings",
            "all settings by UPDATE pg_settings",
            &["update pg_settings set setting = reset_val where source = 'session' and context = 'user'", "{peek}"],
        )
        .blind(),
        reset(
            "reset.no-rows",
            "no context: nothing may be written",
            &["reset all; insert into {mine} (item) values ('x')"],
        )
        .denied("42501 23502")
        .rows_only(),
        reset(
            "reset.tenant-null",
            "no context: pgward.tenant() is nothing",
            &["reset all; select coalesce(pgward.tenant(), 'none')"],
        )
        .shows("none")
        .of_pgward(),
        reset("reset.tenant", "pgward.tenant() is one's own", &["select pgward.tenant()"])
            .shows("mallory")
            .at_schema(Expected::Shows("NULL"))
            .of_pgward(),
        extended(
            "reset.extended",
            4,
            "RESET ALL by the extended protocol",
            &[("reset all", &[]), ("select count(*) from {mine}", &[])],
        )
        .shows("100"),
        extended(
            "reset.discard-extended",
            4,
            "DISCARD ALL by the extended protocol",
            &[("discard all", &[]), ("select count(*) from {mine}", &[])],
        )
        .shows("100"),
    ]
}

fn replays() -> Vec<Case> {
    vec![
        run("replay.other-backend", 3, "its own value on another backend", |h| {
            Box::pin(async move {
                let (mut one, mut two) = (h.session().await, h.session().await);
                ask(&mut one, "begin").await;
                let own =
                    first(&ask(&mut one, "select coalesce(current_setting('pgward.context', true), 'none')").await);
                let pid = first(&ask(&mut one, "select pg_backend_pid()").await);
                ask(&mut two, "begin").await;
                held(first(&ask(&mut two, "select pg_backend_pid()").await) != pid, "two backends")?;
                let said = ask(&mut two, &h.words(&format!("set pgward.context = '{own}'; {{peek}}"))).await;
                let codes = errors(&said);
                leave(one).await;
                leave(two).await;
                let expected = if h.place.level == crate::place::Level::Rows { "28000" } else { "42501" };
                held(codes == [expected], format!("refused, {}", codes.join(" ")))
            })
        })
        .of_pgward(),
        run(
            "replay.victims-backends",
            3,
            "another tenant's leaked value, on every backend that can be had: it was made for another",
            |h| {
                Box::pin(async move {
                    let mut codes = Vec::new();
                    for _ in 0..6 {
                        let (mut one, mut two) = (h.session().await, h.session().await);
                        for wire in [&mut one, &mut two] {
                            ask(wire, "begin").await;
                        }
                        for wire in [&mut one, &mut two] {
                            let said = ask(wire, &h.words("set pgward.context = '{sealed}'; {peek}")).await;
                            held(rows(&said).is_empty(), "others' rows")?;
                            codes.extend(errors(&said));
                        }
                        leave(one).await;
                        leave(two).await;
                    }
                    codes.dedup();
                    Ok(format!("refused, {}", codes.join(" ")))
                })
            },
        )
        .of_pgward(),
        run("replay.same-backend-later", 3, "its own value, kept while another tenant had the backend", |h| {
            Box::pin(async move {
                let mut one = h.session().await;
                let own =
                    first(&ask(&mut one, "select coalesce(current_setting('pgward.context', true), 'none')").await);
                for _ in 0..4 {
                    let mut other = h.log_in(&crate::place::login("globex"), &[]).await.0;
                    // Globex has a marker in its rows, so the row itself is not asked for.
                    ask(&mut other, "select 1").await;
                    leave(other).await;
                }
                let said = ask(&mut one, &h.words(&format!("set pgward.context = '{own}'; {{peek}}"))).await;
                leave(one).await;
                held(rows(&said).is_empty(), "no row but its own")
            })
        })
        .of_pgward(),
        run("replay.function-call", 2, "set_config by the function call message", |h| {
            Box::pin(async move {
                let mut wire = h.session().await;
                let oid: u32 =
                    first(&ask(&mut wire, "select 'pg_catalog.set_config'::regproc::oid").await).parse().unwrap();
                let (context, forged) = (h.words("{context}"), h.words("{forged}"));
                let call = function_call_with(oid, &[context.as_bytes(), forged.as_bytes(), &[0]]);
                let said = answers(&mut wire, call).await;
                held(errors(&said) == ["0A000"], format!("{:?}", gists(&said)))?;
                let said =
                    ask(&mut wire, "select current_setting('pgward.context', true) is not distinct from '{forged}'")
                        .await;
                held(first(&said) == "f", "refused, 0A000")
            })
        })
        .of_pgward(),
    ]
}
