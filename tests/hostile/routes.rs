//! Names that hide others: functions, operators, types and tables of the hostile tenant's where pgward's own
//! functions, the policies or the next tenant would look; and pgward's objects themselves (lines 2, 9, 15).

use crate::case::{Case, Expected, sql};

pub fn cases() -> Vec<Case> {
    let mut cases = shadows();
    cases.extend(own_objects());
    cases
}

fn shadows() -> Vec<Case> {
    vec![
        sql("shadow.table", 9, "a temporary table called as the tenants' table", &["create temp table orders (item text); insert into orders values ('trap')", "select item from orders"])
            .shows("trap"),
        sql("shadow.view", 9, "a temporary view called so", &["create temp view orders as select 'trap'::text as item", "select item from orders"]).shows("trap"),
        sql("shadow.hidden-table", 9, "a temporary table that no text tells of", &["do $$ begin execute 'create te' || 'mp table orders (item text)'; end $$", "select 1"])
            .shows("1"),
        sql("shadow.select-into", 9, "SELECT INTO TEMP", &["select 'trap'::text as item into temp orders", "select item from orders"]).shows("trap"),
        sql("shadow.search-path", 9, "search_path to pg_temp, and CREATE TABLE", &["set search_path = pg_temp; create table orders (item text)", "select count(*) from orders"])
            .shows("0"),
        sql("shadow.search-path-hidden", 9, "the same hidden in DO",
            &["do $$ begin execute 'set sear' || 'ch_path = pg' || '_temp'; execute 'create table orders (item text)'; end $$", "select 1"]).shows("1"),
        sql("shadow.function", 9, "a function in pg_temp called as one of PostgreSQL's",
            &["create function pg_temp.count(anyelement) returns bigint language sql as 'select 7::bigint'", "select count(*) from {mine}"]).shows("100"),
        sql("shadow.type", 9, "a type in pg_temp called text", &["create domain pg_temp.text as pg_catalog.text check (value = 'trap')", "select 'x'::pg_catalog.text"])
            .shows("x"),
        sql("shadow.tenant", 2, "pgward.tenant() with a search_path of one's own",
            &["create function pg_temp.current_setting(text, boolean) returns text language sql as $$ select '{forged}' $$; \
               create function pg_temp.sha256(bytea) returns bytea language sql as $$ select '\\x00'::bytea $$",
              "set search_path = pg_temp, pg_catalog", "select coalesce(pgward.tenant(), 'none')"]).shows("mallory").at_schema(Expected::Shows("none")).of_pgward(),
        sql("shadow.operators", 2, "operators of one's own ahead of PostgreSQL's",
            &["create function pg_temp.yes(text, text) returns boolean language sql as 'select true'; \
               create operator pg_temp.= (leftarg = text, rightarg = text, function = pg_temp.yes)",
              "set search_path = pg_temp, pg_catalog; {peek}"]).blind(),
        sql("shadow.operators-bytea", 2, "and one for the codes that are compared",
            &["create function pg_temp.yes(bytea, bytea) returns boolean language sql as 'select true'; \
               create operator pg_temp.= (leftarg = bytea, rightarg = bytea, function = pg_temp.yes)",
              "set search_path = pg_temp, pg_catalog; set {context} = '{forged}'; {peek}"]).denied("28000 42501"),
        sql("shadow.own-schema", 2, "the same in a schema of one's own",
            &["create function galle.yes(bytea, bytea) returns boolean language sql as 'select true'; \
               create operator galle.= (leftarg = bytea, rightarg = bytea, function = galle.yes); \
               create function galle.yes(name, name) returns boolean language sql as 'select true'; \
               create operator galle.= (leftarg = name, rightarg = name, function = galle.yes); \
               create function galle.yes(text, text) returns boolean language sql as 'select true'; \
               create operator galle.= (leftarg = text, rightarg = text, function = galle.yes)",
              "begin; set local search_path = galle, pg_catalog; select pgward.channel('news'); rollback",
              "drop function galle.yes(bytea, bytea), galle.yes(name, name), galle.yes(text, text) cascade",
              "select pgward.channel('news') operator(pg_catalog.=) '{channel}'"]).shows("f").schema_only().of_pgward().may_end(),
        sql("shadow.own-text", 2, "a type called text in one's own schema, ahead in the path",
            &["create domain galle.text as pg_catalog.text; create domain galle.bytea as pg_catalog.bytea; create domain galle.name as pg_catalog.name",
              "set search_path = galle, pg_catalog; select pgward.channel('news') operator(pg_catalog.=) '{channel}'",
              "drop domain galle.text, galle.bytea, galle.name", "select pgward.channel('news') operator(pg_catalog.=) '{channel}'"]).shows("f").schema_only().of_pgward(),
        sql("shadow.keys", 2, "a temporary table called as the table of keys", &["create temp table keys (kid text, inner_block bytea, outer_block bytea); \
               insert into keys values ('k1', '', ''); create temp table logins (role name, tenant text); insert into logins values (session_user, 'acme')",
              "set search_path = pg_temp, pgward, pg_catalog; set {context} = '{forged}'; {peek}"]).denied("28000 42501"),
        sql("shadow.session-user", 2, "the channel of whom one calls oneself",
            &["set application_name = 'kandy'; set {context} = 'kandy'; select 1", "select pgward.channel('news') = '{channel}'"])
            .shows("f").of_pgward(),
        sql("shadow.public-tables", 9, "a temporary sequence called as theirs", &["create temp sequence orders_id_seq; select setval('orders_id_seq', 900000)", "select 1"]).shows("1"),
        sql("shadow.collation", 9, "a collation in pg_temp", &["create collation pg_temp.\"default\" from \"C\"", "select count(*) from {mine}"]).shows("100"),
        sql("shadow.dictionary", 9, "a text search configuration in pg_temp, made the default",
            &["create text search configuration pg_temp.english (copy = pg_catalog.simple); set default_text_search_config = 'pg_temp.english'", "select 1"]).shows("1"),
        sql("shadow.conversion", 9, "a default conversion of one's own",
            &["create default conversion pg_temp.c for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8", "select 1"]).may_end(),
    ]
}

fn own_objects() -> Vec<Case> {
    let of = |id, what, texts: &[&'static str]| sql(id, 15, what, texts).of_pgward();
    vec![
        of("own.keys", "the keys", &["select * from pgward.keys"]).denied("42501"),
        of("own.keys-count", "how many keys there are", &["select count(*) from pgward.keys"]).denied("42501"),
        of("own.keys-copy", "COPY of the keys", &["copy pgward.keys to stdout"]).denied("42501"),
        of("own.keys-write", "a key of one's own", &["insert into pgward.keys values ('eve', '', '')"]).denied("42501"),
        of("own.keys-delete", "deleting the keys", &["delete from pgward.keys"]).denied("42501"),
        of("own.keys-xml", "the keys by table_to_xml", &["select table_to_xml('pgward.keys', true, true, '')"]).denied("42501"),
        of("own.keys-statistics", "what statistics tell of the keys", &["select most_common_vals, histogram_bounds from pg_stats where schemaname = 'pgward'"]).no_row(),
        of("own.keys-view", "a view over the keys", &["create temp view v as select * from pgward.keys", "select * from v"]).denied("42501"),
        of("own.keys-type", "the keys' row type, which is no key", &["select (null::pgward.keys).inner_block"]).shows("NULL").may_end(),
        of("own.keys-error", "an error that shows a key's row", &["select outer_block::text::int from pgward.keys"]).denied("42501"),
        of("own.logins", "the logins", &["select * from pgward.logins"]).denied("42501"),
        of("own.logins-write", "a login that is another tenant's", &["insert into pgward.logins values (session_user, 'acme') on conflict (role) do update set tenant = 'acme'"])
            .denied("42501"),
        of("own.mend-aggregate", "pgward.mend() as a trigger's function or an aggregate's",
            &["create aggregate pg_temp.a(*) (sfunc = pgward.mend, stype = name)"]).denied("42501"),
        of("own.alter", "ALTER FUNCTION of pgward's", &["alter function pgward.tenant() set search_path = pg_temp"]).denied("42501"),
        of("own.alter-owner", "pgward's function for oneself", &["alter function pgward.tenant() owner to {role}"]).denied("42501"),
        of("own.drop", "DROP SCHEMA pgward", &["drop schema pgward cascade"]).denied("42501"),
        of("own.drop-function", "DROP FUNCTION of pgward's", &["drop function pgward.tenant() cascade"]).denied("42501"),
        of("own.claims", "pgward.claims() is one's own or nothing", &["select coalesce(pgward.claims()::text, '{}')"]).shows("{}"),
        of("own.channel-long", "a channel with a name too long", &["select pgward.channel(repeat('x', 64))"]).denied("22023"),
        of("own.channel-null", "a channel without a name", &["select pgward.channel(null)"]).denied("22023"),
        of("own.channel-nobody", "a channel in a session without context", &["reset all; select pgward.channel('news') = '{channel}'"])
            .denied("28000").at_schema(Expected::Shows("f")),
        of("own.channel-forged", "a channel with a forged context", &["set pgward.context = '{forged}'; select pgward.channel('news') = '{channel}'"]).denied("28000"),
        of("own.parallel", "pgward.tenant() where PostgreSQL may use workers",
            &["set force_parallel_mode = on; set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0",
              "select count(*) from {mine}"]).shows("100"),
        of("own.parallel-function", "the same in a function that says it is safe", &[
            "create function pg_temp.f() returns text language sql parallel safe as 'select pgward.tenant()'",
            "set force_parallel_mode = on; select coalesce(pg_temp.f(), 'none') from (select 1) x",
        ]).denied("28000 25000 0A000").at_schema(Expected::Harmless).may_end(),
    ]
}
