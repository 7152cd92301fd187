use super::super::parsed::Unreadable;
use super::super::{Analyser, scan};
use super::*;

fn read(text: &str) -> Result<Facts, Unreadable> {
    Parsed::of(text).map(|parsed| super::read(&parsed))
}

/// Facts without the names in them.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Told {
    pins: Pins,
    settings: bool,
    resets: bool,
    deallocates: bool,
}

fn told(facts: &Facts) -> Told {
    let Facts { pins, settings, custom: _, resets, deallocates, channels: _, token: _, names_setting: _ } = facts;
    Told { pins: *pins, settings: *settings, resets: *resets, deallocates: deallocates.is_some() }
}

const NOTHING: Told = Told { pins: Pins::NONE, settings: false, resets: false, deallocates: false };
const RESETS: Told = Told { resets: true, ..NOTHING };
const DEALLOCATES: Told = Told { deallocates: true, ..NOTHING };

const fn pin(pin: Pin) -> Told {
    Told { pins: Pins::of(pin), ..NOTHING }
}

const SETTING: Told = Told { settings: true, ..NOTHING };
const SETTING_AND_RESET: Told = Told { settings: true, resets: true, ..NOTHING };
const SOME_SETTING: Told = Told { pins: Pins::of(Pin::Setting), ..SETTING_AND_RESET };
const ROLE: Told = Told { resets: true, ..pin(Pin::Role) };
const TEMPORARY: Told = pin(Pin::TemporaryTable);
const LISTEN: Told = pin(Pin::Listen);
const LOCK: Told = pin(Pin::AdvisoryLock);
const HOLD: Told = pin(Pin::HoldCursor);
const PREPARE: Told = pin(Pin::Prepare);
const LOAD: Told = pin(Pin::Load);
const UNKNOWN: Told = pin(Pin::Unknown);

const TABLE: &[(&str, Told)] = &[
    // settings
    ("set x.y = 1", SETTING),
    ("SET x.y TO 'a', 'b'", SETTING),
    ("  \n\tSeT\tx.y\n=\r1", SETTING),
    ("/* hello */ set work_mem = '1MB'", SETTING),
    ("-- hello\nset work_mem = '1MB'", SETTING),
    ("set/**/work_mem/* /* */ */='1MB'", SETTING),
    ("set session work_mem = '1MB'", SETTING),
    ("SET \"search_path\" = a", SETTING),
    ("set\"search_path\"=a", SETTING),
    ("set u&\"search_path\" = a", SETTING),
    ("set search_path = pg_temp", Told { pins: Pins::of(Pin::Setting), ..SETTING }),
    ("set search_path to default", RESETS),
    ("set session pgward.tenant = default", RESETS),
    ("set pgward.tenant = 'other'", SETTING_AND_RESET),
    ("set PGWARD . tenant = 'other'", SETTING_AND_RESET),
    ("set time zone 'UTC'", SETTING),
    ("set names 'utf8'", SETTING),
    ("set schema 'a'", SETTING),
    ("set xml option document", SETTING),
    ("set role a", ROLE),
    ("set role none", ROLE),
    ("set \"ROLE\" = 'a'", ROLE),
    ("set session authorization a", ROLE),
    ("set session authorization 'a'", ROLE),
    ("set session authorization default", RESETS),
    ("set session characteristics as transaction read only", SETTING),
    ("set local work_mem = '1MB'", NOTHING),
    ("set local role a", NOTHING),
    ("set local session authorization a", NOTHING),
    ("set local search_path = a, b", NOTHING),
    ("set local search_path = pg_temp, b", TEMPORARY),
    ("set local search_path = 'pg_temp'", TEMPORARY),
    ("set local search_path = E'\\x70g_temp'", TEMPORARY),
    ("set transaction isolation level serializable", NOTHING),
    ("set session transaction read only", NOTHING),
    ("set transaction snapshot '1-1'", NOTHING),
    ("set constraints all deferred", NOTHING),
    ("reset x.y", RESETS),
    ("reset all", RESETS),
    ("reset pgward.tenant", RESETS),
    ("reset search_path", RESETS),
    ("reset role", RESETS),
    ("reset session authorization", RESETS),
    ("show work_mem", NOTHING),
    ("select current_setting('set_config')", NOTHING),
    ("alter role a set work_mem = '1MB'", NOTHING),
    ("alter database a set work_mem = '1MB'", NOTHING),
    ("alter system set work_mem = '1MB'", NOTHING),
    ("alter table a set schema b", NOTHING),
    ("alter table a alter b set default 1", NOTHING),
    ("/* c */ update t set a = 1", NOTHING),
    ("/* c */ insert into t values (1) on conflict (a) do update set b = 1", NOTHING),
    // set_config
    ("select set_config('a.b', 'c', false)", SETTING),
    ("select set_config('a.b', 'c', true)", NOTHING),
    ("select set_config('a.b', $1, TRUE)", NOTHING),
    ("select set_config('a.b', 'c', 'true')", SETTING),
    ("select set_config('a.b', 'c', 'true'::bool)", SETTING),
    ("select set_config('a.b', 'c', true::bool)", SETTING),
    ("select set_config('a.b', 'c', not true)", SETTING),
    ("select set_config('a.b', 'c', $1)", SETTING),
    ("select set_config('a.b', null, false)", SETTING_AND_RESET),
    ("select set_config($1, 'c', false)", SOME_SETTING),
    ("select set_config('Role', 'c', false)", ROLE),
    ("select set_config(E'r\\x6fle', 'c', false)", SOME_SETTING),
    ("select set_config('pgward.tenant', 'c', false)", SETTING_AND_RESET),
    ("select set_config('search_path', 'pg_temp', true)", TEMPORARY),
    ("select set_config('search_path', 'tenant', true)", NOTHING),
    ("select set_config(is_local => false, setting_name => 'a.b', new_value => 'x')", SOME_SETTING),
    ("select set_config(is_local => false, new_value => 'x', setting_name => true)", SOME_SETTING),
    ("SELECT pg_catalog . set_config ( 'a.b', f(1, 2), true )", NOTHING),
    ("SELECT pg_catalog /* x */ . -- y\n set_config ('a.b', 'c', false)", SETTING),
    ("select Set_Config('a.b', array[1,2]::text, false)", SETTING),
    ("select \"set_config\"('a.b', 'c', false)", SETTING),
    ("select \"pg_catalog\".\"set_config\"('a.b', 'c', false)", SETTING),
    ("select u&\"set_config\"('a.b', 'c', false)", SETTING),
    ("select U&\"s\\0065t_config\"('a.b', 'c', true)", UNKNOWN),
    ("select u&\"s!0065t_config\" uescape '!' ('a.b', 'c', true)", UNKNOWN),
    ("select 'set_config(1)'", NOTHING),
    ("select 1 -- set_config('a.b', 'c', false)", NOTHING),
    ("select /* set_config('a.b', 'c', false) */ 1", NOTHING),
    ("select $$set_config('a.b', 'c', false)$$", NOTHING),
    ("select $a$ $$ $a$, set_config('a.b', 'c', false)", SETTING),
    ("select E'\\'', set_config('a.b', 'c', false), ''", SETTING),
    ("select set_config from t", NOTHING),
    ("with a as (select set_config('a.b', 'c', false)) select * from a", SETTING),
    ("select * from t where (select length(upper(set_config('a.b', 'c', false)))) > 1", SETTING),
    ("insert into t select set_config('a.b', 'c', false)", SETTING),
    ("update t set a = set_config('a.b', 'c', false)", SETTING),
    ("delete from t returning set_config('a.b', 'c', false)", SETTING),
    ("merge into t using s on true when matched then update set a = set_config('a.b', 'c', false)", SETTING),
    ("copy (select set_config('a.b', 'c', false)) to stdout", SETTING),
    ("values (set_config('a.b', 'c', false))", SETTING),
    ("explain analyze select set_config('a.b', 'c', false)", SETTING),
    ("explain (analyze, verbose) select set_config('a.b', 'c', true)", NOTHING),
    ("create table t as select set_config('a.b', 'c', false)", SETTING),
    ("call p(set_config('a.b', 'c', false))", SETTING),
    ("execute p(set_config('a.b', 'c', false))", SETTING),
    ("select set_limit(0.5)", SETTING),
    ("select query_to_xml('select set_config(1)', true, true, '')", UNKNOWN),
    ("select query_to_xml('select 1', true, true, ''), 1 as temp", NOTHING),
    // temporary objects
    ("create temp table t (a int)", TEMPORARY),
    ("CREATE /* x */ TEMPORARY TABLE t (a int)", TEMPORARY),
    ("create local temp table t (a int)", TEMPORARY),
    ("create global temporary table t (a int)", TEMPORARY),
    ("create temp table if not exists t as select 1", TEMPORARY),
    ("create temp table t (a int) on commit delete rows", TEMPORARY),
    ("create temp table t (a int) on commit drop", NOTHING),
    ("create temp table t on commit drop as select 1", NOTHING),
    ("create temp table t on commit drop as select 1; create temp table u (a int)", TEMPORARY),
    ("create temp table u (a int); create temp table t on commit drop as select 1", TEMPORARY),
    ("create or replace temp view v as select 1", TEMPORARY),
    ("create temp recursive view v (a) as select 1", TEMPORARY),
    ("create temp sequence s", TEMPORARY),
    ("explain analyze create temp table t as select 1", TEMPORARY),
    ("create table pg_temp.t (a int)", TEMPORARY),
    ("create table \"pg_temp\" . t (a int)", TEMPORARY),
    ("create function pg_temp.f() returns int language sql as 'select 1'", TEMPORARY),
    ("create type pg_temp_3.t as (a int)", TEMPORARY),
    ("select 1 into temp t", TEMPORARY),
    ("select 1 into temporary table t", TEMPORARY),
    ("select 1 into local temp t from b", TEMPORARY),
    ("insert into temp values (1)", NOTHING),
    ("insert into t (temp) select temp from temperature", NOTHING),
    ("create table t (temp int)", NOTHING),
    ("create table temp (a int)", NOTHING),
    ("create unlogged table t (a int); select 1 as temp", NOTHING),
    ("select 'create temp table t (a int)'", NOTHING),
    (
        "create function f() returns int security definer set search_path = a, pg_temp language sql as 'select 1'",
        NOTHING,
    ),
    ("create function f() returns void language sql as 'create temp table t (a int)'", NOTHING),
    ("drop table if exists temp", NOTHING),
    // listen, locks, cursors, prepare, load
    ("listen a", LISTEN),
    ("LISTEN \"A\"", LISTEN),
    ("unlisten a", NOTHING),
    ("unlisten *", NOTHING),
    ("notify listen", NOTHING),
    ("select pg_advisory_lock(1)", LOCK),
    ("select pg_advisory_lock_shared(1, 2)", LOCK),
    ("select pg_try_advisory_lock(1)", LOCK),
    ("select a from t where pg_try_advisory_lock_shared(a)", LOCK),
    ("select pg_catalog.pg_advisory_lock(1)", LOCK),
    ("select pg_advisory_xact_lock(1)", NOTHING),
    ("select pg_try_advisory_xact_lock_shared(1)", NOTHING),
    ("select pg_advisory_unlock(1)", NOTHING),
    ("select pg_advisory_unlock_all(); close all; unlisten *; reset all", RESETS),
    ("declare c cursor with hold for select 1", HOLD),
    ("declare c binary no scroll cursor WITH /* x */ HOLD for select 1", HOLD),
    ("declare c cursor without hold for select 1", NOTHING),
    ("declare c cursor for select 1 as hold", NOTHING),
    ("with hold as (select 1) select * from hold", NOTHING),
    ("prepare p as select 1", PREPARE),
    ("prepare p (int) as select $1", PREPARE),
    ("prepare transaction 'x'", NOTHING),
    ("/* prepare */ execute p", NOTHING),
    ("explain execute prepare", NOTHING),
    ("select 1; deallocate p", DEALLOCATES),
    ("deallocate all", DEALLOCATES),
    ("deallocate prepare all", DEALLOCATES),
    ("discard all", Told { resets: true, deallocates: true, ..NOTHING }),
    ("discard plans", RESETS),
    ("load 'auto_explain'", LOAD),
    ("select load from t", NOTHING),
    ("select dblink_connect('a', 'b')", UNKNOWN),
    ("select * from dblink('a', 'b') as t(a int)", NOTHING),
    ("select pg_create_logical_replication_slot('a', 'pgoutput', true)", UNKNOWN),
    // blocks and procedures
    ("do 'begin perform 1; end'", NOTHING),
    ("do $$ begin insert into t values (1); end $$", NOTHING),
    ("do $x$ begin perform set_config('a', 'b', false); end $x$", UNKNOWN),
    ("do language plpgsql 'begin execute ''x''; end'", UNKNOWN),
    ("do 'begin perform 1; end' language plpgsql", NOTHING),
    ("do 'begin perform 1; end' language plperl", UNKNOWN),
    ("do 'begin perform 1; end' language 'plpgsql'", UNKNOWN),
    ("do E'begin perform \\x31; end'", UNKNOWN),
    ("do 'begin create temp table t (a int); end'", UNKNOWN),
    ("/* do */ call p(1)", NOTHING),
    // many statements
    ("select 1; set x.y = 1", SETTING),
    ("select 1;set x.y = 1;", SETTING),
    ("begin; set local x.y = 1; commit", NOTHING),
    ("begin; set local x.y = 1; set x.y = 2; commit", SETTING),
    ("reset all; discard all; listen a", Told { resets: true, deallocates: true, ..LISTEN }),
    ("select ';set x.y = 1'", NOTHING),
    ("create rule r as on insert to t do also (notify a; select set_config('a', 'b', false))", SETTING),
    ("; ; set x.y = 1", SETTING),
    ("/* only */", NOTHING),
    ("do", UNKNOWN),
    ("set x.y = 1; select from from", UNKNOWN),
];

#[test]
fn each_statement_has_its_facts_on_a_miss_and_on_a_hit() {
    let mut analyser = Analyser::new(1024);
    for round in 0..2 {
        for (text, facts) in TABLE {
            let read = analyser.facts(text.as_bytes());
            assert_eq!(told(&read), *facts, "round {round}: {text}");
        }
    }
    assert!(TABLE.len() >= 150);
}

#[test]
fn what_the_scan_lets_pass_has_no_facts() {
    for (text, _) in TABLE.iter().filter(|(text, _)| !scan(text.as_bytes())) {
        assert_eq!(read(text), Ok(Facts::default()), "{text}");
    }
}

#[test]
fn upper_case_changes_nothing_outside_quotes() {
    for (text, facts) in TABLE.iter().filter(|(text, _)| !text.contains(['\'', '"', '$'])) {
        let read = Analyser::new(1).facts(text.to_uppercase().as_bytes());
        assert_eq!(told(&read), *facts, "{text}");
    }
}

#[test]
fn channels_are_noticed() {
    for text in ["listen a", "unlisten *", "select 1; notify a, 'b'", "select pg_catalog.pg_notify('a', 'b')"] {
        assert!(scan(text.as_bytes()) && read(text).unwrap().channels, "{text}");
    }
    assert!(!read("select 1 as notify, 'listen a'").unwrap().channels);
}

#[test]
fn custom_settings_are_named() {
    let custom = |text: &str| {
        read(text).unwrap().custom.map_or_else(Vec::new, |names| names.iter().cloned().collect::<Vec<_>>())
    };
    assert_eq!(custom("set App.\"Tenant\" = 1; select set_config('B.c', $1, false)"), ["app.tenant", "b.c"]);
    assert_eq!(custom("set work_mem = 1; set local a.b = 1; set pgward.context = 1; reset a.c"), [""; 0]);
    assert_eq!(custom("set a.b = 1; set a.b to 2"), ["a.b"]);
}

#[test]
fn a_statement_that_is_deallocated_alone_is_named() {
    let one = |text: &str| match read(text).unwrap().deallocates {
        Some(Deallocate::One(name)) => name.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(one("deallocate P"), "p");
    assert_eq!(one(" ; DEALLOCATE PREPARE \"a\"\"B\" ;"), "a\"B");
    assert_eq!(one("deallocate prepare"), "prepare");
    assert_eq!(one("deallocate prepare all"), "Some(All)");
    assert_eq!(one("deallocate a; deallocate b"), "Some(All)");
}

#[test]
fn labels_and_bits_are_distinct() {
    let labels: std::collections::HashSet<_> = Pin::ALL.map(Pin::label).into_iter().collect();
    assert_eq!(labels.len(), Pin::ALL.len());
    let all = Pin::ALL.iter().fold(Pins::NONE, |all, pin| all.with(Pins::of(*pin)));
    assert_eq!(all.iter().count(), Pin::ALL.len());
    assert_eq!(all.without(Pins::of(Pin::Load)).iter().count(), Pin::ALL.len() - 1);
}

#[test]
fn settings_whose_names_begin_with_a_word_of_set_were_taken_for_it() {
    for name in ["local.x", "session.x", "transaction.x", "constraints.x"] {
        for text in [format!("set {name} = 1"), format!("set session {name} to 1")] {
            let facts = Analyser::new(1).facts(text.as_bytes());
            assert_eq!(told(&facts), SETTING, "{text}");
            assert_eq!(facts.custom.as_deref(), Some(&[name.to_owned()][..]), "{text}");
        }
        assert_eq!(told(&Analyser::new(1).facts(format!("set local {name} = 1").as_bytes())), NOTHING, "{name}");
    }
}

#[test]
fn names_were_longer_than_postgresql_keeps_them() {
    let (long, kept) = ("x".repeat(70), "x".repeat(63));
    let facts = Analyser::new(1).facts(format!("set App.{long} = 1").as_bytes());
    assert_eq!(facts.custom.as_deref(), Some(&[format!("app.{kept}")][..]));
    let facts = Analyser::new(1).facts(format!("deallocate {long}").as_bytes());
    assert_eq!(facts.deallocates, Some(Deallocate::One(kept.into())));
}
