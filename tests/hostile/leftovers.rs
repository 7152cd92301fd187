//! Leaving something behind on a backend that others get (lines 8 to 13).

use crate::case::{Case, Expected, extended, run, sql};
use crate::support::raw::{bind, close, copy_data, describe, execute, extended as batch, parse, query, sync};
use crate::tap::{ask, first, held, leave};

pub fn cases() -> Vec<Case> {
    let mut cases = settings();
    cases.extend(statements());
    cases.extend(transactions());
    cases.extend(locks());
    cases.extend(beyond_discard());
    cases
}

fn settings() -> Vec<Case> {
    let set = |id, what, text: &'static [&'static str]| sql(id, 8, what, text);
    vec![
        set("left.timezone", "SET TimeZone", &["set timezone = 'Pacific/Apia'"]),
        set("left.search-path", "SET search_path to nowhere", &["set search_path = nowhere"]),
        set("left.strings", "standard_conforming_strings off", &["set standard_conforming_strings = off", "select 'a\\'';set role none;--'"]),
        set("left.backslash", "backslash_quote and escape_string_warning", &["set backslash_quote = off; set escape_string_warning = off; set quote_all_identifiers = on"]),
        set("left.row-security", "row_security off", &["set row_security = off"]),
        set("left.statement-timeout", "statement_timeout of a millisecond", &["set statement_timeout = 1"]),
        set("left.lock-timeout", "lock_timeout", &["set lock_timeout = 1"]),
        set("left.idle-timeout", "idle_session_timeout of a millisecond", &["set idle_session_timeout = 1"]).may_end(),
        set("left.idle-in-transaction", "idle_in_transaction_session_timeout", &["set idle_in_transaction_session_timeout = 1", "begin"]).may_end(),
        set("left.read-only", "transactions read-only by default", &["set default_transaction_read_only = on; set default_transaction_isolation = serializable; set default_transaction_deferrable = on"]),
        set("left.characteristics", "SET SESSION CHARACTERISTICS", &["set session characteristics as transaction read only, isolation level serializable"]),
        set("left.encoding", "client_encoding", &["set client_encoding = 'SJIS'"]),
        set("left.names", "SET NAMES", &["set names 'LATIN1'"]),
        set("left.formats", "DateStyle, IntervalStyle, bytea_output, extra_float_digits", &["set datestyle = 'German'; set intervalstyle = 'iso_8601'; set bytea_output = 'escape'; set extra_float_digits = -15; set xmloption = document; set xmlbinary = hex"]),
        set("left.lc", "lc_monetary, lc_time, lc_numeric", &["set lc_monetary = 'C'; set lc_time = 'C'; set lc_numeric = 'C'; set default_text_search_config = 'pg_catalog.german'"]),
        set("left.planner", "planner settings", &["set enable_seqscan = off; set enable_indexscan = off; set enable_bitmapscan = off; set random_page_cost = 0; set plan_cache_mode = force_generic_plan; set from_collapse_limit = 1; set geqo_threshold = 2; set jit = on; set jit_above_cost = 0"]),
        set("left.memory", "work_mem, temp_buffers, maintenance_work_mem", &["set work_mem = '64kB'; set temp_buffers = '800kB'; set maintenance_work_mem = '1MB'; set hash_mem_multiplier = 1"]),
        set("left.commit", "synchronous_commit off", &["set synchronous_commit = off; set commit_siblings = 0"]),
        set("left.application-name", "application_name", &["set application_name = 'acme'"]),
        set("left.tablespace", "default_tablespace and default_table_access_method", &["set default_tablespace = 'pg_default'; set temp_tablespaces = ''; set default_toast_compression = 'pglz'"]),
        set("left.messages", "client_min_messages and check_function_bodies", &["set client_min_messages = error; set check_function_bodies = off; set array_nulls = off; set transform_null_equals = on; set synchronize_seqscans = off"]),
        set("left.custom", "a setting of one's own", &["set app.note = 'note'"]),
        set("left.tenants-setting", "the setting that the other's session has made itself", &["set app.own = 'note'"]),
        set("left.pin", "pgward.pin", &["set pgward.pin = on"]).of_pgward(),
        set("left.hidden", "settings hidden in DO", &["do $$ begin execute 'se' || 't timezone = ''Pacific/Apia'''; perform set_config('search_' || 'path', 'nowhere', false); perform set_config('app.' || 'left', 'note', false); end $$"]),
        set("left.hidden-query", "settings hidden in query_to_xml", &["select query_to_xml('select s' || 'et_config(''app.note'', ''note'', false)', true, true, '')"]),
        set("left.hidden-function", "settings in a function of pg_temp", &["create function pg_temp.f() returns void language plpgsql as $$ begin perform set_config('timezone', 'Pacific/Apia', false); perform set_config('statement_timeout', '2', false); end $$", "select pg_temp.f()"]).may_end(),
        set("left.hidden-encoding", "a text in another encoding that hides its settings", &["set client_encoding = 'SJIS'", "select '\u{ff95}\\'; set app.note = 'note'; --'"]).may_end(),
        set("left.in-transaction", "settings in a transaction that is left open", &["begin; set timezone = 'Pacific/Apia'; set app.note = 'note'"]),
        set("left.savepoints", "settings between savepoints", &["begin; savepoint a; set app.note = 'one'; savepoint b; set app.note = 'two'; rollback to a; set app.note = 'three'; release a; commit"]),
        set("left.prepared-setting", "settings by EXECUTE of a prepared set_config", &["prepare p(text) as select set_config('app.note', $1, false); execute p('note'); deallocate p"]),
        set("left.function-local", "SET LOCAL in a function that sets", &["create function pg_temp.f() returns text language sql set timezone = 'Pacific/Apia' as $$ select set_config('app.note', 'note', false) $$", "select pg_temp.f()"]),
        extended("left.extended", 8, "settings by the extended protocol", &[("set app.note = 'note'", &[]), ("select set_config($1, $2, false)", &["timezone", "Pacific/Apia"])]),
        set("left.long", "a setting of a megabyte", &["select length(set_config('app.note', repeat('x', 1000000), false))"]).may_end(),
        set("left.many", "a thousand settings", &["do $$ begin for i in 1..1000 loop perform set_config('app.x' || i, 'note', false); end loop; end $$; set app.note = 'note'"]),
        run("left.vanished", 8, "settings, and gone without a word", |h| Box::pin(async move {
            let mut wire = h.session().await;
            wire.send(query("set app.note = 'note'; set timezone = 'Pacific/Apia'; create temp table orders (x int)")).await;
            drop(wire);
            let mut wire = h.session().await;
            ask(&mut wire, "set search_path = nowhere; set row_security = off").await;
            drop(wire);
            Ok("nothing is left".to_owned())
        })).of_pgward(),
    ]
}

fn statements() -> Vec<Case> {
    let of = |id, what, text: &'static [&'static str]| sql(id, 10, what, text);
    vec![
        of("plan.read-texts", "others' prepared statements", &["select statement from pg_prepared_statements where statement like '%kept%' or statement ~ 'zq[0-9a-f]{16}'"]).no_row(),
        of("plan.execute-theirs", "EXECUTE of a name that another has", &["execute mine"]).denied("26000"),
        of("plan.same-name", "PREPARE under the name that another has", &["prepare mine as select 'trap'", "execute mine"]).shows("trap"),
        of("plan.deallocate", "DEALLOCATE of another's name", &["deallocate mine"]).denied("26000"),
        of("plan.deallocate-all", "DEALLOCATE ALL", &["deallocate all"]),
        of("plan.deallocate-hidden", "DEALLOCATE ALL hidden in DO", &["do $$ begin execute 'deallo' || 'cate all'; end $$"]).may_end(),
        of("plan.hijack-own-names", "PREPARE under the names that pgward uses", &["do $$ declare n text; begin for n in select name from pg_prepared_statements loop execute format('deallocate %I', n); execute format('prepare %I as select ''trap''::text', n); end loop; end $$"]).may_end().of_pgward(),
        of("plan.guess-own-names", "PREPARE of names that pgward may use next", &["do $$ begin for i in 0..200 loop begin execute format('prepare %I as select ''trap''::text', 'pgward_' || lpad(to_hex(i), 16, '0')); exception when others then null; end; end loop; end $$"]).may_end().of_pgward(),
        of("plan.hidden-prepare", "PREPARE hidden in DO", &["do $$ begin execute 'pre' || 'pare mine as select ''trap'''; end $$"]),
        of("plan.generic", "a generic plan, forced, for the text that another runs", &["set plan_cache_mode = force_generic_plan; prepare g(numeric) as select count(*) from orders where amount >= $1; execute g(1); execute g(2)"]).shows("99"),
        run("plan.same-text", 10, "the protocol's statement of the very text that another has, under its name", |h| Box::pin(async move {
            let text = "select count(*) from orders where amount >= $1::numeric";
            let mut wire = h.session().await;
            for _ in 0..8 {
                wire.send([parse("kept", text), bind("", "kept", &["51"]), execute("", 0), close('S', "kept"), sync()].concat()).await;
                let said = wire.ready().await;
                let found: Vec<String> = said.iter().filter(|m| m.tag == b'D').map(|m| m.columns().join(",")).collect();
                held(found == ["50"], format!("{found:?}"))?;
            }
            leave(wire).await;
            Ok("its own rows".to_owned())
        })).of_pgward(),
        run("plan.without-parse", 10, "Bind of statements that others prepared", |h| Box::pin(async move {
            let mut wire = h.session().await;
            for name in ["kept", "mine", "", "pgward_0000000000000000", "pgward_0000000000000001"] {
                wire.send([bind("", name, &["1"]), execute("", 0), sync()].concat()).await;
                let said = wire.ready().await;
                held(said.iter().all(|message| message.tag != b'D'), format!("{name:?} is somebody's"))?;
                wire.send([describe('S', name), sync()].concat()).await;
                let said = wire.ready().await;
                held(said.iter().all(|message| message.tag != b'T'), format!("{name:?} is described"))?;
            }
            leave(wire).await;
            Ok("refused, 26000".to_owned())
        })).of_pgward(),
        run("plan.close-all", 10, "Close of statements and portals that others have", |h| Box::pin(async move {
            let mut wire = h.session().await;
            ask(&mut wire, "begin").await;
            for name in ["kept", "mine", "", "held", "pgward_0000000000000000", "pgward_0000000000000001"] {
                wire.send([close('S', name), close('P', name), sync()].concat()).await;
                wire.ready().await;
            }
            leave(wire).await;
            Ok("nothing".to_owned())
        })).of_pgward(),
        run("plan.many", 10, "thousands of prepared statements", |h| Box::pin(async move {
            let mut wire = h.session().await;
            let all: Vec<u8> = (0..3000).flat_map(|n| parse(&format!("s{n}"), &format!("select {n}"))).collect();
            wire.send([all, sync()].concat()).await;
            wire.ready().await;
            held(first(&ask(&mut wire, "select 1").await) == "1", "answered")?;
            leave(wire).await;
            Ok("all its own".to_owned())
        })).of_pgward(),
        run("plan.custom-to-generic", 10, "the same text by turns with another tenant, past the point where plans become generic", |h| Box::pin(async move {
            let text = "select string_agg(distinct split_part(item, ' ', 1), ',') from orders where amount >= $1::numeric and amount < 200";
            for _ in 0..4 {
                let mut mine = h.session().await;
                let mut other = h.log_in(&crate::place::login("t3"), &[]).await.0;
                for _ in 0..3 {
                    for (wire, name) in [(&mut mine, h.place.level.hostile()), (&mut other, "t3")] {
                        wire.send([parse("", text), bind("", "", &["1"]), execute("", 0), sync()].concat()).await;
                        let said = wire.ready().await;
                        let found: Vec<String> = said.iter().filter(|m| m.tag == b'D').map(|m| m.columns().join(",")).collect();
                        held(found == [name], format!("{name} sees {found:?}"))?;
                    }
                }
                leave(mine).await;
                leave(other).await;
            }
            Ok("each its own".to_owned())
        })).of_pgward(),
    ]
}

fn transactions() -> Vec<Case> {
    let of = |id, what, text: &'static [&'static str]| sql(id, 11, what, text);
    vec![
        of("open.cursor", "a cursor WITH HOLD", &["declare c cursor with hold for select item from {mine}", "fetch 1 from c"]),
        of("open.cursor-hidden", "a cursor WITH HOLD hidden in DO", &["do $$ begin execute 'declare c cursor with ho' || 'ld for select 1'; end $$"]).may_end(),
        of("open.cursor-theirs", "FETCH from another's cursor", &["fetch all from held"]).denied("34000"),
        of("open.cursors", "others' cursors", &["select name, statement from pg_cursors where name <> ''"]).no_row(),
        of("open.transaction", "a transaction left open", &["begin", "insert into {mine} (item) values ('{me} open')"]),
        of("open.failed", "a transaction that failed, left open", &["begin", "select 1/0"]),
        of("open.savepoint", "savepoints left open", &["begin; savepoint a; savepoint b; select 1/0"]),
        of("open.serializable", "a serializable transaction that reads it all", &["begin isolation level serializable; select count(*) from {mine}; update {mine} set amount = amount"]),
        of("open.import-snapshot", "a snapshot of another's", &["begin isolation level repeatable read; set transaction snapshot '00000003-00000001-1'"]).denied("42704 22023"),
        run("open.vanish-in-transaction", 11, "gone in the middle of a transaction", |h| Box::pin(async move {
            for _ in 0..3 {
                let mut wire = h.session().await;
                ask(&mut wire, &h.words("begin; create temp table orders (x int); update {mine} set amount = amount; set local timezone = 'Pacific/Apia'")).await;
                drop(wire);
            }
            Ok("nothing is left".to_owned())
        })).of_pgward(),
        run("open.vanish-unsynced", 11, "an extended batch without its Sync, and gone", |h| Box::pin(async move {
            for _ in 0..4 {
                let mut wire = h.session().await;
                wire.send([parse("s", "select generate_series(1, 1000)"), bind("p", "s", &[]), execute("p", 3)].concat()).await;
                wire.send(batch("set app.note = 'note'")).await;
                drop(wire);
            }
            Ok("nothing is left".to_owned())
        })).of_pgward(),
        run("open.portals", 11, "named portals left open", |h| Box::pin(async move {
            let mut wire = h.session().await;
            wire.send([query("begin"), parse("s", "select generate_series(1, 1000)"), bind("p", "s", &[]), bind("q", "s", &[]), execute("p", 3), execute("q", 3), sync()].concat()).await;
            wire.ready_times(2).await;
            drop(wire);
            Ok("nothing is left".to_owned())
        })).of_pgward(),
        run("open.copy-in", 11, "COPY FROM left in the middle", |h| Box::pin(async move {
            for begin in [query(&h.words("create temp table t (a text); copy t from stdin")), [query("create temp table t (a text)"), batch("copy t from stdin")].concat()] {
                let mut wire = h.session().await;
                wire.send(begin).await;
                wire.until(|message| message.tag == b'G').await;
                wire.send(copy_data(b"one\ntw")).await;
                drop(wire);
            }
            Ok("nothing is left".to_owned())
        })).of_pgward(),
        run("open.copy-then-query", 11, "a query in the middle of COPY FROM", |h| Box::pin(async move {
            let mut wire = h.session().await;
            ask(&mut wire, "create temp table t (a text)").await;
            wire.send([query("copy t from stdin"), copy_data(b"one\n"), query(&h.words("{peek}"))].concat()).await;
            let said = wire.ready().await;
            held(said.iter().all(|message| message.tag != b'D'), "no row")?;
            drop(wire);
            Ok("nothing is left".to_owned())
        })).of_pgward(),
        run("open.copy-out", 11, "COPY TO left in the middle", |h| Box::pin(async move {
            let mut wire = h.session().await;
            wire.send(query("copy (select repeat('x', 1000) from generate_series(1, 100000)) to stdout")).await;
            wire.until(|message| message.tag == b'd').await;
            drop(wire);
            Ok("nothing is left".to_owned())
        })).of_pgward(),
        run("open.unread", 11, "a large result, unread, and gone", |h| Box::pin(async move {
            let mut wire = h.session().await;
            wire.send(query("select repeat('x', 1000) from generate_series(1, 100000)")).await;
            wire.until(|message| message.tag == b'D').await;
            drop(wire);
            Ok("nothing is left".to_owned())
        })).of_pgward(),
        run("open.half-message", 11, "half a message, and gone", |h| Box::pin(async move {
            for bytes in [query("select 1")[..7].to_vec(), parse("s", "select 1")[..9].to_vec(), [query("begin"), query("select 1")[..3].to_vec()].concat(), batch("select 1")[..20].to_vec()] {
                let mut wire = h.session().await;
                wire.send(bytes).await;
                drop(wire);
            }
            Ok("nothing is left".to_owned())
        })).of_pgward(),
        run("open.races", 11, "Parse, Bind, Describe and Close against hand-overs, gone at random", |h| Box::pin(async move {
            for n in 0..24usize {
                let mut wire = h.session().await;
                let bytes = [parse("s", "select 1"), describe('S', "s"), bind("p", "s", &[]), describe('P', "p"), execute("p", 1), close('P', "p"), close('S', "s"), sync(), query("set app.note = 'note'")].concat();
                wire.send(&bytes[..(n * 13).min(bytes.len())]).await;
                let mut other = h.log_in(&crate::place::login("t4"), &[]).await.0;
                held(first(&ask(&mut other, "select coalesce(nullif(current_setting('app.note', true), ''), 'none')").await) == "none", "nothing found")?;
                leave(other).await;
            }
            Ok("nothing is left".to_owned())
        })).of_pgward(),
    ]
}

fn locks() -> Vec<Case> {
    let of = |id, what, text: &'static [&'static str]| sql(id, 12, what, text);
    vec![
        of("lock.session", "a session's advisory lock", &["select pg_advisory_lock(990001)"]),
        of("lock.hidden", "an advisory lock hidden in DO", &["do $$ begin execute 'select pg_adv' || 'isory_lock(990002)'; end $$"]),
        of("lock.unlock-theirs", "unlocking another's", &["select pg_advisory_unlock({lock})"]).shows("f"),
        of("lock.unlock-all", "pg_advisory_unlock_all", &["select pg_advisory_unlock_all()"]),
        of("lock.function", "a lock by a function of its own", &["create function pg_temp.f() returns void language sql as 'select pg_advisory_lock_shared(990003)'", "select pg_temp.f()"]),
        of("listen.theirs", "LISTEN to the channel's name that another uses", &["listen news"]),
        of("listen.server-name", "LISTEN to the server's name of another's channel", &["listen \"{channel}\""]).of_pgward(),
        of("listen.server-name-hidden", "the same hidden in DO", &["do $$ begin execute 'li' || 'sten \"{channel}\"'; end $$"]).may_end().of_pgward(),
        of("listen.in-transaction", "LISTEN in a transaction", &["begin; listen news; commit"]),
        of("listen.prepared", "LISTEN in a function", &["create function pg_temp.f() returns void language plpgsql as $$ begin listen news; end $$", "select pg_temp.f()"]).may_end(),
        of("listen.unlisten-all", "UNLISTEN *", &["unlisten *"]),
        of("listen.unlisten-hidden", "UNLISTEN * hidden in DO", &["do $$ begin execute 'unli' || 'sten *'; end $$"]),
        of("notify.theirs", "NOTIFY to the name that another listens to", &["notify news, 'forged'"]),
        of("notify.pg-notify", "pg_notify to it", &["select pg_notify('news', 'forged')"]),
        of("notify.hidden", "NOTIFY hidden in DO", &["do $$ begin execute 'noti' || 'fy news, ''forged'''; end $$"]),
        of("notify.pgward", "pgward.pg_notify to it", &["select pgward.pg_notify('news', 'forged')"]).of_pgward(),
        of("notify.forged-context", "pgward.pg_notify under a forged context", &["set pgward.context = '{forged}'; select pgward.pg_notify('news', 'forged')"])
            .denied("28000").at_schema(Expected::Denied("28000")).of_pgward(),
        of("notify.guess", "NOTIFY to names that look like the server's", &["do $$ begin for i in 1..500 loop perform pg_notify('pgward_' || md5(i::text), 'forged'); end loop; end $$"]).of_pgward(),
        of("notify.long", "NOTIFY with a long payload and a long name", &["select pg_notify(repeat('x', 63), repeat('y', 7999))"]),
        of("notify.too-long", "NOTIFY with a name that is too long", &["select pg_notify(repeat('x', 64), '')"]).denied("22023"),
        of("notify.many", "ten thousand notifications in a transaction", &["listen mine; do $$ begin for i in 1..10000 loop perform pg_notify('mine', i::text); end loop; end $$"]),
        extended("notify.extended", 12, "pg_notify with the channel as a parameter", &[("select pg_notify($1, $2)", &["news", "forged"])]),
        extended("listen.extended", 12, "LISTEN by the extended protocol", &[("listen news", &[]), ("notify news, 'own'", &[])]),
        of("sequence.lastval", "lastval of others", &["select lastval()"]).denied("55000"),
        of("sequence.currval", "currval of others' sequence", &["select currval('{theirs}_id_seq')"]).denied("42501 55000"),
        of("sequence.left", "lastval left behind", &["create temp sequence s; select nextval('s'); select setval('s', 99)"]),
        of("sequence.left-insert", "lastval left behind by an insert", &["insert into {mine} (item) values ('{me} new') returning 'done'"]).shows("done"),
        of("sequence.last-value", "the last value of another's sequence", &["select last_value from kandy.orders_id_seq"]).denied("42501"),
        of("sequence.view", "pg_sequences of others' values", &["select last_value from pg_sequences where schemaname = 'kandy' and last_value is not null"]).no_row(),
    ]
}

/// State that DISCARD ALL does not reach.
fn beyond_discard() -> Vec<Case> {
    let of = |id, what, text: &'static [&'static str]| sql(id, 13, what, text);
    vec![
        of("beyond.setseed", "setseed, so that the next tenant's random() is known", &["select setseed(0.5)"]),
        of("beyond.setseed-hidden", "the same hidden", &["do $$ begin execute 'select sets' || 'eed(0.5)'; end $$"]),
        of("beyond.setseed-setting", "SET seed", &["set seed = 0.5"]),
        of("beyond.setseed-transaction", "setseed in a transaction that is rolled back", &["begin; select setseed(0.5); rollback"]),
        of("beyond.load", "LOAD of a library", &["load 'plpgsql'"]).may_end(),
        of("beyond.load-other", "LOAD of what extensions bring", &["load '$libdir/pgcrypto'"]).denied("42501"),
        of("beyond.load-hidden", "LOAD hidden in DO", &["do $$ begin execute 'lo' || 'ad ''$libdir/auto_explain'''; end $$"]).denied("42501"),
        of("beyond.extension", "CREATE EXTENSION dblink", &["create extension dblink"]).denied("42501"),
        of("beyond.trusted-extension", "CREATE EXTENSION of a trusted one", &["create extension pgcrypto"]).denied("42501"),
        of("beyond.origin", "a replication origin for the session", &["select pg_replication_origin_session_setup('x')"]).denied("42501"),
        of("beyond.slot", "a temporary replication slot", &["select pg_create_logical_replication_slot('s', 'pgoutput', true)"]).denied("42501 55000"),
        of("beyond.perl", "DO in another language", &["do language plperl $$ $$"]).denied("42704 42501"),
        of("beyond.temp-many", "so many temporary tables that cleaning takes its time",
            &["do $$ begin for i in 1..300 loop execute format('create temp table t%s (x int)', i); end loop; end $$; set statement_timeout = '1ms'"]).may_end(),
        of("beyond.guc-placeholder", "a setting that a library would own", &["set plpgsql.variable_conflict = 'use_column'; set pg_stat_statements.track = 'none'"]).may_end(),
        of("beyond.statistics", "resetting statistics", &["select pg_stat_reset()"]).denied("42501"),
        of("beyond.statements-reset", "resetting pg_stat_statements", &["select watching.pg_stat_statements_reset()"]).denied("42501"),
    ]
}
