//! From a text to its facts, the slow and thorough way.

use super::shape::{Kind, Lexer, Mark, Marker, RUN_TEXT, Token};

/// Why a session must keep its backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    Setting,
    TemporaryTable,
    Listen,
    AdvisoryLock,
    HoldCursor,
    Prepare,
    Load,
    Unknown,
}

impl Pin {
    /// For metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::TemporaryTable => "temporary_table",
            Self::Listen => "listen",
            Self::AdvisoryLock => "advisory_lock",
            Self::HoldCursor => "hold_cursor",
            Self::Prepare => "prepare",
            Self::Load => "load",
            Self::Unknown => "unknown",
        }
    }
}

/// What one text, of one or of many statements, does to session state that outlives its transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The session must keep its backend after the transaction. With several reasons, the first.
    pub pin: Option<Pin>,
    /// Settings that the pool made may be gone or changed: the session's context must be set anew
    /// before the next transaction. `RESET x` is this and no pin, since it leaves nothing of the
    /// session's own behind (and drivers send `RESET ALL` whenever they hand a connection back).
    pub resets: bool,
    /// Prepared statements of the backend, those of the protocol included, may be gone.
    pub deallocates: bool,
}

impl Facts {
    fn pin(&mut self, pin: Pin) {
        self.pin.get_or_insert(pin);
    }
}

/// PostgreSQL's parser or our lexer cannot follow the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

const CALLS: &[(&str, Pin)] = &[
    ("pg_advisory_lock", Pin::AdvisoryLock),
    ("pg_advisory_lock_shared", Pin::AdvisoryLock),
    ("pg_try_advisory_lock", Pin::AdvisoryLock),
    ("pg_try_advisory_lock_shared", Pin::AdvisoryLock),
    // pg_trgm's: sets its similarity threshold.
    ("set_limit", Pin::Setting),
    ("dblink_connect", Pin::Unknown),
    ("dblink_connect_u", Pin::Unknown),
    // Temporary slots live as long as the session.
    ("pg_create_physical_replication_slot", Pin::Unknown),
    ("pg_create_logical_replication_slot", Pin::Unknown),
    ("pg_copy_physical_replication_slot", Pin::Unknown),
    ("pg_copy_logical_replication_slot", Pin::Unknown),
    ("pg_replication_origin_session_setup", Pin::Unknown),
];

/// `text` holds no NUL. Reads of its literals only what [`Marker`] gives, which is what the shape has.
pub(super) fn read(text: &str) -> Result<Facts, Unreadable> {
    let summary = pg_query::summary(text, 0, -1).map_err(|_| Unreadable)?;
    let mut marker = Marker::default();
    let marked: Vec<(Token<'_>, Mark)> = Lexer::new(text.as_bytes())
        .map(|token| token.map(|token| (token, marker.mark(&token))))
        .collect::<Result<_, _>>()
        .map_err(|_| Unreadable)?;
    let (tokens, marks): (Vec<_>, Vec<_>) = marked.into_iter().unzip();
    let mut reader = Reader { tokens: &tokens, marks: &marks, facts: Facts::default(), openers: 0 };
    reader.read();
    let missed = summary.statement_types.iter().any(|kind| reader.openers & opener(kind) != opener(kind));
    if missed {
        reader.facts.pin(Pin::Unknown);
    }
    Ok(reader.facts)
}

/// The statements that are told by their first word: the parser must not see one that we do not.
const OPENERS: &[(&str, &[&str])] = &[
    ("VariableSetStmt", &["set", "reset"]),
    ("DiscardStmt", &["discard"]),
    ("DeallocateStmt", &["deallocate"]),
    ("PrepareStmt", &["prepare"]),
    ("ListenStmt", &["listen"]),
    ("LoadStmt", &["load"]),
    ("DoStmt", &["do"]),
];

fn opener(kind: &str) -> u8 {
    OPENERS.iter().position(|(name, _)| *name == kind).map_or(0, |at| 1 << at)
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    marks: &'a [Mark],
    facts: Facts,
    /// A bit for each of [`OPENERS`] met.
    openers: u8,
}

impl<'a> Reader<'a> {
    fn read(&mut self) {
        for at in 0..self.tokens.len() {
            // A semicolon within a rule or a function body counts too: it can only add.
            if at == 0 || self.symbol(at - 1, ";") {
                self.statement(at);
            }
            match self.tokens[at].kind {
                Kind::Word => {
                    self.phrase(at);
                    self.name(at);
                }
                Kind::Quoted => self.name(at),
                Kind::UnicodeName => {
                    // The name may be spelt in escapes, and any character can be the escape.
                    if self.tokens[at].body.contains(&b'\\') || self.word(at + 1, "uescape") {
                        self.facts.pin(Pin::Unknown);
                    }
                    self.name(at);
                }
                Kind::Parameter | Kind::Integer | Kind::Decimal | Kind::Text { .. } | Kind::Bits | Kind::Symbol => {}
            }
        }
    }

    fn statement(&mut self, at: usize) {
        for (i, (_, words)) in OPENERS.iter().enumerate() {
            if words.iter().any(|word| self.word(at, word)) {
                self.openers |= 1 << i;
            }
        }
        if self.word(at, "set") {
            self.set(at + 1);
        } else if self.word(at, "reset") {
            self.facts.resets = true;
        } else if self.word(at, "discard") {
            self.facts.resets = true;
            self.facts.deallocates |= self.word(at + 1, "all");
        } else if self.word(at, "deallocate") {
            self.facts.deallocates = true;
        } else if self.word(at, "prepare") {
            if !self.word(at + 1, "transaction") {
                self.facts.pin(Pin::Prepare);
            }
        } else if self.word(at, "listen") {
            self.facts.pin(Pin::Listen);
        } else if self.word(at, "load") {
            self.facts.pin(Pin::Load);
        } else if self.word(at, "do") {
            self.anonymous_block(at + 1);
        }
    }

    /// `at` is behind `SET`.
    fn set(&mut self, mut at: usize) {
        if self.word(at, "local") {
            if self.says_pg_temp(at) {
                self.facts.pin(Pin::TemporaryTable);
            }
            return;
        }
        if self.word(at, "constraints") {
            return;
        }
        if self.word(at, "session") {
            at += 1;
            if self.word(at, "authorization") {
                self.facts.resets = true;
                if !self.word(at + 1, "default") {
                    self.facts.pin(Pin::Setting);
                }
                return;
            }
        }
        if self.word(at, "transaction") {
            return;
        }
        let mut end = at + 1;
        while self.symbol(end, ".") {
            end += 2;
        }
        if (self.word(end, "to") || self.symbol(end, "=")) && self.word(end + 1, "default") {
            self.facts.resets = true;
            return;
        }
        self.facts.pin(Pin::Setting);
        self.facts.resets |=
            self.named(at, "role") || self.named(at, "session_authorization") || self.named(at, "pgward");
    }

    /// Its body may do anything; what it says tells most of it. Other languages are not followed.
    fn anonymous_block(&mut self, from: usize) {
        let end = self.end_of_statement(from);
        let language = (from..end).find(|&at| self.word(at, "language"));
        let foreign = language.is_some_and(|at| !self.word(at + 1, "plpgsql"));
        if foreign || self.marks[from..].iter().any(|mark| mark.suspicious) {
            self.facts.pin(Pin::Unknown);
        }
    }

    /// What is told by a few words in a row, wherever they stand: behind `EXPLAIN`, for one.
    fn phrase(&mut self, at: usize) {
        let next = at + 1;
        if self.word(at, "create") {
            let next = if self.word(next, "or") { next + 2 } else { next };
            self.temporary(next);
        } else if self.word(at, "into") {
            let statement = at.checked_sub(1);
            if !statement.is_some_and(|before| self.word(before, "insert") || self.word(before, "merge")) {
                self.temporary(next);
            }
        } else if self.word(at, "with") && self.word(next, "hold") && self.word(next + 1, "for") {
            self.facts.pin(Pin::HoldCursor);
        }
    }

    fn temporary(&mut self, at: usize) {
        let at = if self.word(at, "local") || self.word(at, "global") { at + 1 } else { at };
        if !self.word(at, "temp") && !self.word(at, "temporary") {
            return;
        }
        let gone_at_commit = (at..self.end_of_statement(at))
            .any(|i| self.word(i, "on") && self.word(i + 1, "commit") && self.word(i + 2, "drop"));
        if !gone_at_commit {
            self.facts.pin(Pin::TemporaryTable);
        }
    }

    /// A name, and what follows it. Whatever comes before (`pg_catalog.`) is of no matter.
    fn name(&mut self, at: usize) {
        if self.symbol(at + 1, ".") && self.is_pg_temp(at) {
            self.facts.pin(Pin::TemporaryTable);
        }
        if !self.symbol(at + 1, "(") {
            return;
        }
        if self.named(at, "set_config") {
            self.set_config(at);
        } else if let Some((_, pin)) = CALLS.iter().find(|(name, _)| self.named(at, name)) {
            self.facts.pin(*pin);
        } else if RUN_TEXT.iter().any(|name| self.named(at, name)) && self.marks[at..].iter().any(|mark| mark.calls) {
            self.facts.pin(Pin::Unknown);
        }
    }

    fn set_config(&mut self, at: usize) {
        let arguments = self.arguments(at + 1);
        let [setting, value, is_local] = arguments.as_slice() else {
            self.facts.pin(Pin::Setting);
            self.facts.resets = true;
            return;
        };
        // The bare keyword and nothing else: not a cast, not `is_local => true` in another place.
        if matches!(is_local, [one] if one.is_word("true")) {
            if self.says_pg_temp(at) {
                self.facts.pin(Pin::TemporaryTable);
            }
            return;
        }
        self.facts.pin(Pin::Setting);
        self.facts.resets |= matches!(value, [one] if one.is_word("null"))
            || match setting {
                [Token { kind: Kind::Text { escapes: false }, body }] => {
                    let name = body.to_ascii_lowercase();
                    name == b"role" || name == b"session_authorization" || name.starts_with(b"pgward.")
                }
                _ => true,
            };
    }

    /// The arguments of a call; `open` is its parenthesis.
    fn arguments(&self, open: usize) -> Vec<&'a [Token<'a>]> {
        let mut arguments = Vec::new();
        let mut depth = 0usize;
        let mut start = open + 1;
        for at in open..self.tokens.len() {
            if self.symbol(at, "(") || self.symbol(at, "[") {
                depth += 1;
            } else if self.symbol(at, ")") || self.symbol(at, "]") {
                depth -= 1;
                if depth == 0 {
                    arguments.push(&self.tokens[start..at]);
                    break;
                }
            } else if depth == 1 && self.symbol(at, ",") {
                arguments.push(&self.tokens[start..at]);
                start = at + 1;
            }
        }
        arguments
    }

    fn word(&self, at: usize, lower: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_word(lower))
    }

    fn symbol(&self, at: usize, symbol: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_symbol(symbol))
    }

    fn named(&self, at: usize, lower: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_name(lower))
    }

    fn is_pg_temp(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|token| {
            matches!(token.kind, Kind::Word | Kind::Quoted | Kind::UnicodeName)
                && token.body.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"pg_temp"))
        })
    }

    /// With `pg_temp` first in the search path, every CREATE makes a temporary object.
    fn says_pg_temp(&self, from: usize) -> bool {
        (from..self.tokens.len()).any(|at| self.is_pg_temp(at) || self.marks[at].temporary)
    }

    fn end_of_statement(&self, from: usize) -> usize {
        (from..self.tokens.len()).find(|&at| self.symbol(at, ";")).unwrap_or(self.tokens.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Analyser, scan};
    use super::*;

    const NOTHING: Facts = Facts { pin: None, resets: false, deallocates: false };
    const RESETS: Facts = Facts { resets: true, ..NOTHING };
    const DEALLOCATES: Facts = Facts { deallocates: true, ..NOTHING };

    const fn pin(pin: Pin) -> Facts {
        Facts { pin: Some(pin), ..NOTHING }
    }

    const fn pin_and_reset(pin: Pin) -> Facts {
        Facts { pin: Some(pin), resets: true, ..NOTHING }
    }

    const SETTING: Facts = pin(Pin::Setting);
    const TEMPORARY: Facts = pin(Pin::TemporaryTable);
    const LISTEN: Facts = pin(Pin::Listen);
    const LOCK: Facts = pin(Pin::AdvisoryLock);
    const HOLD: Facts = pin(Pin::HoldCursor);
    const PREPARE: Facts = pin(Pin::Prepare);
    const LOAD: Facts = pin(Pin::Load);
    const UNKNOWN: Facts = pin(Pin::Unknown);

    const TABLE: &[(&str, Facts)] = &[
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
        ("set search_path = pg_temp", SETTING),
        ("set search_path to default", RESETS),
        ("set session pgward.tenant = default", RESETS),
        ("set pgward.tenant = 'other'", pin_and_reset(Pin::Setting)),
        ("set PGWARD . tenant = 'other'", pin_and_reset(Pin::Setting)),
        ("set time zone 'UTC'", SETTING),
        ("set names 'utf8'", SETTING),
        ("set schema 'a'", SETTING),
        ("set xml option document", SETTING),
        ("set role a", pin_and_reset(Pin::Setting)),
        ("set role none", pin_and_reset(Pin::Setting)),
        ("set \"ROLE\" = 'a'", pin_and_reset(Pin::Setting)),
        ("set session authorization a", pin_and_reset(Pin::Setting)),
        ("set session authorization 'a'", pin_and_reset(Pin::Setting)),
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
        ("select set_config('a.b', null, false)", pin_and_reset(Pin::Setting)),
        ("select set_config($1, 'c', false)", pin_and_reset(Pin::Setting)),
        ("select set_config('Role', 'c', false)", pin_and_reset(Pin::Setting)),
        ("select set_config(E'r\\x6fle', 'c', false)", pin_and_reset(Pin::Setting)),
        ("select set_config('pgward.tenant', 'c', false)", pin_and_reset(Pin::Setting)),
        ("select set_config('search_path', 'pg_temp', true)", TEMPORARY),
        ("select set_config('search_path', 'tenant', true)", NOTHING),
        ("select set_config(is_local => false, setting_name => 'a.b', new_value => 'x')", pin_and_reset(Pin::Setting)),
        ("select set_config(is_local => false, new_value => 'x', setting_name => true)", pin_and_reset(Pin::Setting)),
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
        ("deallocate p", DEALLOCATES),
        ("deallocate prepare all", DEALLOCATES),
        ("discard all", Facts { resets: true, ..DEALLOCATES }),
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
        ("reset all; discard all; listen a", Facts { pin: Some(Pin::Listen), resets: true, deallocates: true }),
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
                assert_eq!(analyser.facts(text.as_bytes()), *facts, "round {round}: {text}");
            }
        }
        assert!(TABLE.len() >= 150);
    }

    #[test]
    fn what_the_scan_lets_pass_has_no_facts() {
        for (text, _) in TABLE.iter().filter(|(text, _)| !scan(text.as_bytes())) {
            assert_eq!(read(text), Ok(NOTHING), "{text}");
        }
    }

    #[test]
    fn upper_case_changes_nothing_outside_quotes() {
        for (text, facts) in TABLE.iter().filter(|(text, _)| !text.contains(['\'', '"', '$'])) {
            assert_eq!(Analyser::new(1).facts(text.to_uppercase().as_bytes()), *facts, "{text}");
        }
    }

    #[test]
    fn labels_are_distinct() {
        let all = [
            Pin::Setting,
            Pin::TemporaryTable,
            Pin::Listen,
            Pin::AdvisoryLock,
            Pin::HoldCursor,
            Pin::Prepare,
            Pin::Load,
            Pin::Unknown,
        ];
        let labels: std::collections::HashSet<_> = all.map(Pin::label).into_iter().collect();
        assert_eq!(labels.len(), all.len());
    }
}
