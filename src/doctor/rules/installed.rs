//! What `pgward install` puts into a database.

use serde::Deserialize;

use super::super::finding::{Finding, Rule, advice};
use super::super::question::Question;
use super::{Check, Judged, Scope, row};
use crate::tenant::SCHEMA_VERSION;

const MISSING: Rule = Rule::danger("pgward-not-installed", "tenants share the database, and it has no schema pgward");
const OLD: Rule = Rule::warning("pgward-outdated", "the schema pgward is of an older version than this program");
pub(in super::super) const KEY_MISSING: Rule =
    Rule::warning("key-missing", "a key of the configuration is not in pgward.keys");
pub(in super::super) const KEY_LEFT: Rule =
    Rule::warning("key-left-over", "a key in pgward.keys is not in the configuration");
const OPEN: Rule = Rule::danger("pgward-tables-open", "tenants have privileges on the tables of the schema pgward");
const GUARD: Rule = Rule::warning("guard-missing", "the event trigger pgward_guard is missing or disabled");

pub(super) const CHECKS: &[Check] = &[
    Check {
        about: "the schema pgward",
        scope: Scope::Database,
        rules: &[&MISSING, &OLD],
        sql: "select to_regprocedure('pgward.tenant()') is not null as installed,
                substring(obj_description(to_regnamespace('pgward'), 'pg_namespace') from '^pgward ([0-9]+)') as version
            from input where (given ->> 'shares')::bool",
        judge: |question, text| row(text, |schema| installed(&schema, question)),
    },
    Check {
        about: "the keys in pgward.keys",
        scope: Scope::Database,
        rules: &[&KEY_MISSING, &KEY_LEFT],
        // They were read beforehand: a query cannot name a table that may not be there.
        sql: "select given -> 'stored_keys' as stored from input
            where (given ->> 'rows')::bool and jsonb_typeof(given -> 'stored_keys') = 'array'",
        judge: |question, text| row(text, |stored| keys(&stored, question)),
    },
    Check {
        about: "privileges on the tables of the schema pgward",
        scope: Scope::Database,
        rules: &[&OPEN],
        sql: "select format('pgward.%I', c.relname) as name, array_agg(distinct n.name order by n.name) as grantees
            from pg_catalog.pg_class c join relation_grant g on g.relation = c.oid
            join role_name n on n.oid = g.grantee
            where c.relnamespace = to_regnamespace('pgward')
            and c.relname in ('keys', 'logins', 'revoked', 'classification', 'export_view')
            and g.grantee in (select role from anybody) group by c.relname",
        judge: |_, text| row(text, open),
    },
    Check {
        about: "event triggers",
        scope: Scope::Database,
        rules: &[&GUARD],
        sql: "select coalesce(bool_or(e.evtenabled <> 'D'), false) as enabled, count(e.oid) > 0 as there
            from input left join pg_catalog.pg_event_trigger e on e.evtname = 'pgward_guard'
            where (given ->> 'rows')::bool having count(*) > 0",
        judge: |question, text| row(text, |trigger| guard(&trigger, question)),
    },
];

fn install(question: &Question) -> String {
    format!("pgward install --cluster {} --database {}", question.cluster, question.database)
}

#[derive(Deserialize)]
struct Installed {
    installed: bool,
    version: Option<String>,
}

fn installed(schema: &Installed, question: &Question) -> Option<Finding> {
    if !schema.installed {
        let danger = "nothing tells PostgreSQL whose session it is: policies on pgward.tenant() fail or do not exist";
        return Some(Finding::new(&MISSING, "schema pgward", danger, advice(install(question))));
    }
    let version = schema.version.as_deref().and_then(|version| version.parse::<u32>().ok());
    let old = version.is_some_and(|version| version < SCHEMA_VERSION);
    let danger = format!("it lacks what version {SCHEMA_VERSION} has, and what was mended in it");
    old.then(|| Finding::new(&OLD, "schema pgward", danger, advice(install(question))))
}

#[derive(Deserialize)]
struct Keys {
    stored: Vec<String>,
}

fn keys(keys: &Keys, question: &Question) -> Judged {
    let stored = &keys.stored;
    let missing = question.keys.iter().filter(|kid| !stored.contains(kid)).map(|kid| {
        let danger = "sessions whose context is sealed with it are refused";
        Finding::new(&KEY_MISSING, format!("key {kid}"), danger, advice(install(question)))
    });
    // Its own keys have a blank in their ids, which no key of a configuration can have.
    let left = stored.iter().filter(|kid| !kid.contains(' ') && !question.keys.contains(kid)).map(|kid| {
        let danger = "a context sealed with a key that was given up is still accepted";
        let literal = kid.replace('\'', "''");
        let mend = format!("if no pgward uses it any more: delete from pgward.keys where kid = '{literal}'");
        Finding::new(&KEY_LEFT, format!("key {kid}"), danger, advice(mend))
    });
    missing.chain(left).collect::<Vec<_>>().into()
}

#[derive(Deserialize)]
struct Open {
    name: String,
    grantees: Vec<String>,
}

fn open(table: Open) -> Finding {
    Finding::new(
        &OPEN,
        format!("table {}", table.name),
        match table.name.as_str() {
            "pgward.classification" | "pgward.export_view" => "a tenant reads or changes what is hidden from whom",
            _ => "a tenant reads or changes what genuine contexts are told from forged ones by",
        },
        format!("revoke all on {} from {};", table.name, table.grantees.join(", ")),
    )
}

#[derive(Deserialize)]
struct Guard {
    there: bool,
    enabled: bool,
}

fn guard(trigger: &Guard, question: &Question) -> Option<Finding> {
    let mend = if trigger.there {
        "alter event trigger pgward_guard enable;".to_owned().into()
    } else {
        advice(install(question))
    };
    let danger =
        "a tenant drops temporary tables and large objects of all that share its login by DROP OWNED BY CURRENT_USER";
    (!trigger.enabled).then(|| Finding::new(&GUARD, "event trigger pgward_guard", danger, mend))
}
