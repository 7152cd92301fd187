//! Indexes and constraints of tenants' tables that leave the tenant out.

use serde::Deserialize;

use super::super::examine::{NotExamined, ids};
use super::super::finding::{Finding, Rule, advice};
use super::{Check, Judged, Scope, row};

const UNINDEXED: Rule = Rule::warning("tenant-column-unindexed", "no index begins with the tenant's column");
const UNIQUE: Rule = Rule::warning(
    "unique-key-without-tenant",
    "a primary key, unique index or exclusion constraint does not contain the tenant's column",
);
const FOREIGN_KEY: Rule = Rule::warning(
    "foreign-key-without-tenant",
    "a foreign key between tenants' tables does not compare the tenant's columns",
);

pub(super) const CHECKS: &[Check] = &[
    Check {
        about: "indexes of the tenant's column",
        scope: Scope::Database,
        rules: &[&UNINDEXED],
        sql: "select t.name, t.tenant_column as column, exists (
                select from pg_catalog.pg_index i
                where i.indrelid = t.oid and i.indisvalid and i.indpred is null and i.indkey[0] = t.tenant_attnum
            ) as indexed
            from tenant_table t where not t.relispartition",
        judge: |_, text| row(text, index),
    },
    Check {
        about: "unique keys",
        scope: Scope::Database,
        rules: &[&UNIQUE],
        sql: "select t.name as table, t.tenant_column as column, quote_ident(i.relname) as index,
                coalesce(c.contype::text, 'i') as kind
            from tenant_table t
            join pg_catalog.pg_index x on x.indrelid = t.oid and (x.indisunique or x.indisexclusion)
            join pg_catalog.pg_class i on i.oid = x.indexrelid
            left join pg_catalog.pg_constraint c on c.conindid = i.oid and c.conrelid = t.oid and c.contype in ('p', 'u', 'x')
            where not t.relispartition and t.tenant_attnum is not null
            and t.tenant_attnum <> all ((x.indkey::int2[])[0:x.indnkeyatts - 1])",
        judge: |_, text| row(text, unique),
    },
    Check {
        about: "foreign keys",
        scope: Scope::Database,
        rules: &[&FOREIGN_KEY],
        sql: "select t.name as table, o.name as target, quote_ident(k.conname) as name,
                t.tenant_column as column, o.tenant_column as target_column
            from pg_catalog.pg_constraint k
            join tenant_table t on t.oid = k.conrelid and t.tenant_attnum is not null
            join tenant_table o on o.oid = k.confrelid and o.tenant_attnum is not null
            where k.contype = 'f' and k.conparentid = 0 and not exists (
                select from unnest(k.conkey, k.confkey) pair (here, there)
                where pair.here = t.tenant_attnum and pair.there = o.tenant_attnum)",
        judge: |_, text| row(text, foreign_key),
    },
];

#[derive(Deserialize)]
struct Index {
    name: String,
    column: Option<String>,
    indexed: bool,
}

fn index(table: Index) -> Judged {
    let Some(column) = table.column else {
        let what = NotExamined {
            rules: ids(&[&UNINDEXED, &UNIQUE, &FOREIGN_KEY]),
            what: format!("table {}", table.name),
            reason: "which column is the tenant's is not clear; name it with --tenant-column".to_owned(),
        };
        return Judged { findings: Vec::new(), not_examined: vec![what] };
    };
    let finding = (!table.indexed).then(|| {
        Finding::new(
            &UNINDEXED,
            format!("table {}", table.name),
            "a tenant's statement reads every tenant's rows to find its own, and its time tells how many there are",
            format!("create index on {} ({column});", table.name),
        )
    });
    finding.into()
}

#[derive(Deserialize)]
struct Unique {
    table: String,
    column: String,
    index: String,
    kind: String,
}

fn unique(key: Unique) -> Finding {
    let kind = match key.kind.as_str() {
        "p" => "primary key",
        "u" => "unique constraint",
        "x" => "exclusion constraint",
        _ => "unique index",
    };
    Finding::new(
        &UNIQUE,
        format!("{kind} {} on table {}", key.index, key.table),
        "a tenant learns from an error that another has this value, or takes it first",
        advice(format!("make it anew with {} as its first column, and with it what refers to it", key.column)),
    )
}

#[derive(Deserialize)]
struct ForeignKey {
    table: String,
    target: String,
    name: String,
    column: String,
    target_column: String,
}

fn foreign_key(key: ForeignKey) -> Finding {
    Finding::new(
        &FOREIGN_KEY,
        format!("foreign key {} on table {}", key.name, key.table),
        "a tenant refers to another's row, by which it learns that the row exists and keeps it from being deleted",
        advice(format!(
            "make it anew with {} referring to {} of {}, which needs a unique key of both",
            key.column, key.target_column, key.target
        )),
    )
}
