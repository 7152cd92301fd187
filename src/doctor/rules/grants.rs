//! Privileges by which a tenant at level `rows` gets past row-level security or at the others.

use serde::Deserialize;

use super::super::finding::{Finding, Rule};
use super::{Check, Scope, row};

const TRUNCATE: Rule = Rule::danger("grant-truncate", "tenants may TRUNCATE a table, which asks no policy");
const TRIGGER: Rule = Rule::danger("grant-trigger", "tenants may put triggers on a table");
const REFERENCES: Rule = Rule::warning("grant-references", "tenants may make foreign keys that refer to a table");
const MAINTAIN: Rule = Rule::warning("grant-maintain", "tenants may VACUUM, CLUSTER, REINDEX or lock a table");
const COLUMN: Rule = Rule::warning("grant-on-column", "privileges on single columns are granted to tenants");
const SEQUENCE: Rule = Rule::warning("grant-sequence-update", "tenants may set a sequence that they share");
const TEMPORARY: Rule = Rule::warning("grant-temporary", "tenants may make temporary tables");
const DEFAULTS: Rule =
    Rule::warning("default-privileges", "tables that are created from now on are open to tenants at once");

pub(super) const CHECKS: &[Check] = &[
    Check {
        about: "privileges on tables",
        scope: Scope::Database,
        rules: &[&TRUNCATE, &TRIGGER, &REFERENCES, &MAINTAIN],
        sql: "select r.name, g.privilege, array_agg(distinct n.name order by n.name) as grantees
            from shared_grant g
            join relation r on r.oid = g.relation and r.relkind in ('r', 'p', 'f') and r.relowner <> g.grantee
            join role_name n on n.oid = g.grantee
            where g.privilege in ('TRUNCATE', 'TRIGGER', 'REFERENCES', 'MAINTAIN')
            group by r.name, g.privilege",
        judge: |_, text| row(text, on_table),
    },
    Check {
        about: "privileges on columns",
        scope: Scope::Database,
        rules: &[&COLUMN],
        // Where a column is hidden from somebody, privileges on the others are how that is done.
        sql: "select r.name, array_agg(distinct n.name order by n.name) as grantees,
                array_agg(distinct quote_ident(t.attname) order by quote_ident(t.attname)) as columns
            from relation r
            join pg_catalog.pg_attribute t on t.attrelid = r.oid and not t.attisdropped
            cross join aclexplode(t.attacl) a
            join role_name n on n.oid = a.grantee
            where a.grantee in (select role from shared)
            and r.oid not in (
                select p.relation from place p join classified c on c.oid = p.oid and c.attnum = p.attnum
                where jsonb_array_length(c.hidden_from) > 0)
            group by r.name",
        judge: |_, text| row(text, on_columns),
    },
    Check {
        about: "privileges on sequences",
        scope: Scope::Database,
        rules: &[&SEQUENCE],
        sql: "select r.name, g.privilege, array_agg(distinct n.name order by n.name) as grantees
            from shared_grant g
            join relation r on r.oid = g.relation and r.relkind = 'S' and r.relowner <> g.grantee
            join role_name n on n.oid = g.grantee
            where g.privilege = 'UPDATE' group by r.name, g.privilege",
        judge: |_, text| row(text, on_sequence),
    },
    Check {
        about: "privileges on the database",
        scope: Scope::Database,
        rules: &[&TEMPORARY],
        sql: "select quote_ident(d.datname) as name, a.privilege_type as privilege,
                array_agg(distinct n.name order by n.name) as grantees
            from pg_catalog.pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
            join role_name n on n.oid = a.grantee
            where d.datname = current_database() and a.privilege_type = 'TEMPORARY'
            and a.grantee in (select role from shared) group by d.datname, a.privilege_type",
        judge: |_, text| row(text, temporary),
    },
    Check {
        about: "default privileges",
        scope: Scope::Database,
        rules: &[&DEFAULTS],
        sql: "select quote_ident(o.rolname) as owner, quote_ident(s.nspname) as schema, 'tables' as kind,
                array_agg(distinct n.name order by n.name) as grantees
            from pg_catalog.pg_default_acl d
            join pg_catalog.pg_roles o on o.oid = d.defaclrole
            left join pg_catalog.pg_namespace s on s.oid = d.defaclnamespace
            cross join aclexplode(d.defaclacl) a
            join role_name n on n.oid = a.grantee
            where d.defaclobjtype = 'r' and a.grantee in (select role from shared) and a.grantee <> d.defaclrole
            and d.defaclnamespace not in (select oid from own_schema)
            group by o.rolname, s.nspname",
        judge: |_, text| row(text, defaults),
    },
];

#[derive(Deserialize)]
struct Grant {
    name: String,
    privilege: String,
    grantees: Vec<String>,
}

impl Grant {
    fn revoke(&self, kind: &str) -> String {
        let privilege = self.privilege.to_lowercase();
        format!("revoke {privilege} on {kind}{} from {};", self.name, self.grantees.join(", "))
    }
}

fn on_table(grant: Grant) -> Finding {
    let (rule, danger) = match grant.privilege.as_str() {
        "TRUNCATE" => (&TRUNCATE, "a tenant empties the table of all tenants"),
        "TRIGGER" => (&TRIGGER, "a tenant's trigger runs in the sessions of all tenants, with their rights"),
        "REFERENCES" => {
            (&REFERENCES, "a foreign key tells which values exist, whoever's they are, and keeps them there")
        }
        _ => (&MAINTAIN, "a tenant locks the table of all tenants"),
    };
    Finding::new(rule, format!("table {}", grant.name), danger, grant.revoke(""))
}

fn on_sequence(grant: Grant) -> Finding {
    let danger = "a tenant sets it back by setval, so that other tenants' inserts fail";
    Finding::new(&SEQUENCE, format!("sequence {}", grant.name), danger, grant.revoke("sequence "))
}

fn temporary(grant: Grant) -> Finding {
    let danger = "a tenant shadows tables for code that names them without a schema, and fills the disk of all";
    Finding::new(&TEMPORARY, format!("database {}", grant.name), danger, grant.revoke("database "))
}

#[derive(Deserialize)]
struct Columns {
    name: String,
    grantees: Vec<String>,
    columns: Vec<String>,
}

fn on_columns(grant: Columns) -> Finding {
    let columns = grant.columns.join(", ");
    Finding::new(
        &COLUMN,
        format!("table {}", grant.name),
        format!("what is granted on {columns} is overlooked by whoever reviews the table's privileges"),
        format!("revoke all ({columns}) on {} from {};", grant.name, grant.grantees.join(", ")),
    )
}

#[derive(Deserialize)]
struct Defaults {
    owner: String,
    schema: Option<String>,
    kind: String,
    grantees: Vec<String>,
}

fn defaults(grant: Defaults) -> Finding {
    let Defaults { owner, kind, grantees, .. } = &grant;
    let schema = grant.schema.as_ref().map(|schema| format!(" in schema {schema}")).unwrap_or_default();
    Finding::new(
        &DEFAULTS,
        format!("default privileges of {owner}{schema}"),
        "a new table shows every tenant's rows to every tenant until somebody gives it row-level security",
        format!("alter default privileges for role {owner}{schema} revoke all on {kind} from {};", grantees.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PostgreSQL 17's privilege, which the server that the tests start need not have.
    #[test]
    fn maintain_is_named_and_revoked() {
        let found = row(r#"{"name": "public.t", "privilege": "MAINTAIN", "grantees": ["app", "public"]}"#, on_table);
        let found = found.unwrap().findings.remove(0);
        assert_eq!(found.rule, &MAINTAIN);
        assert_eq!(found.mend, "revoke maintain on public.t from app, public;".to_owned().into());
    }
}
