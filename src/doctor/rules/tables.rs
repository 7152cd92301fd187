//! Whether tables that tenants share have row-level security at all.

use serde::Deserialize;

use super::super::finding::{Finding, Rule, advice};
use super::{Check, Scope, row};

const WITHOUT: Rule = Rule::danger(
    "table-without-row-security",
    "a table with the tenant's column that tenants can reach has no row-level security",
);
const PARTITION: Rule = Rule::danger(
    "partition-without-row-security",
    "a partition or an inheriting table can be reached by its own name and has no row-level security of its own",
);
const CLOSED: Rule = Rule::warning(
    "closed-table-without-row-security",
    "a table with the tenant's column has no row-level security, but nothing is granted on it either",
);
const FORCE: Rule = Rule::danger("table-without-force", "row-level security does not bind the table's owner");
const NO_POLICY: Rule = Rule::warning("table-without-policy", "row-level security is on, but there is no policy");
const SHARED: Rule = Rule::warning(
    "shared-table",
    "all tenants read a table that has neither the tenant's column nor row-level security",
);
const WRITABLE: Rule = Rule::danger(
    "shared-table-writable",
    "all tenants write a table that has neither the tenant's column nor row-level security",
);
const FOREIGN: Rule =
    Rule::danger("foreign-table", "tenants can reach a foreign table, which cannot have row-level security");

pub(super) const CHECKS: &[Check] = &[
    Check {
        about: "row-level security of tenants' tables",
        scope: Scope::Database,
        rules: &[&WITHOUT, &PARTITION, &CLOSED, &FORCE, &NO_POLICY],
        sql: "select t.name, t.tenant_column as column, t.tenant_type as type, t.relrowsecurity as enabled,
                t.relforcerowsecurity as forced, t.oid in (select oid from reachable) as reachable,
                exists (
                    select from pg_catalog.pg_inherits i where i.inhrelid = t.oid
                    and i.inhparent in (select oid from tenant_table)) as partition,
                exists (select from pg_catalog.pg_policy p where p.polrelid = t.oid) as policies
            from tenant_table t",
        judge: |_, text| row(text, tenants_table),
    },
    Check {
        about: "tables that tenants share",
        scope: Scope::Database,
        rules: &[&SHARED, &WRITABLE],
        sql: "select r.name,
                (select array_agg(distinct n.name order by n.name) from shared_grant g
                 join role_name n on n.oid = g.grantee
                 where g.relation = r.oid and g.privilege in ('INSERT', 'UPDATE', 'DELETE')) as writers
            from relation r
            where r.relkind in ('r', 'p') and not r.relrowsecurity
            and r.oid in (select oid from reachable)
            and r.oid not in (select oid from tenant_table)
            and r.relowner not in (select oid from login where tenant is not null)
            and not exists (
                select from extension_member m
                where m.class = 'pg_catalog.pg_class'::regclass and m.object = r.oid)
            and coalesce(obj_description(r.oid, 'pg_class'), '') !~* 'pgward: *shared'",
        judge: |_, text| row(text, shared_table),
    },
    Check {
        about: "foreign tables",
        scope: Scope::Database,
        rules: &[&FOREIGN],
        sql: "select r.name, (
                select array_agg(distinct n.name order by n.name) from shared_grant g
                join role_name n on n.oid = g.grantee where g.relation = r.oid) as grantees
            from relation r where r.relkind = 'f' and r.oid in (select relation from shared_grant)",
        judge: |_, text| row(text, foreign_table),
    },
];

#[derive(Deserialize)]
struct TenantsTable {
    name: String,
    column: Option<String>,
    #[serde(rename = "type")]
    type_name: Option<String>,
    enabled: bool,
    forced: bool,
    reachable: bool,
    partition: bool,
    policies: bool,
}

fn tenants_table(table: TenantsTable) -> Option<Finding> {
    let object = format!("table {}", table.name);
    if !table.enabled {
        let (rule, danger) = match (table.reachable, table.partition) {
            (true, false) => {
                (&WITHOUT, "every tenant reads, and where it has the privilege changes, every tenant's rows")
            }
            (true, true) => {
                (&PARTITION, "a tenant that names the partition gets past the policies of the table above it")
            }
            (false, false) => (&CLOSED, "the first grant on it opens every tenant's rows to every tenant"),
            (false, true) => return None,
        };
        return Some(Finding::new(rule, object, danger, protect(&table)));
    }
    if !table.forced {
        let danger = "code that runs as the table's owner (views, SECURITY DEFINER functions) sees every tenant's rows";
        return Some(Finding::new(
            &FORCE,
            object,
            danger,
            format!("alter table {} force row level security;", table.name),
        ));
    }
    // A partition without one is reached by way of its table only, which is as it should be.
    if !table.policies && !table.partition {
        let danger = "no row is visible to anybody whom row-level security binds; the next policy may be too wide";
        return Some(Finding::new(&NO_POLICY, object, danger, protect(&table)));
    }
    None
}

/// Row-level security for everybody, and the policy where there is none to build on.
fn protect(table: &TenantsTable) -> String {
    let name = &table.name;
    let mut sql =
        format!("alter table {name} enable row level security;\nalter table {name} force row level security;");
    if let (false, Some(column)) = (table.policies, &table.column) {
        let cast = match table.type_name.as_deref() {
            None | Some("text" | "character varying") => String::new(),
            Some(other) => format!("::{other}"),
        };
        let same = format!("({column} = (select pgward.tenant(){cast}))");
        sql.push_str(&format!("\ncreate policy own_rows on {name} for all\n    using {same}\n    with check {same};"));
    }
    sql
}

#[derive(Deserialize)]
struct SharedTable {
    name: String,
    writers: Option<Vec<String>>,
}

fn shared_table(table: SharedTable) -> Finding {
    let (name, object) = (&table.name, format!("table {}", table.name));
    match table.writers {
        Some(writers) => Finding::new(
            &WRITABLE,
            object,
            "a tenant changes or deletes what all tenants see",
            format!("revoke insert, update, delete on {name} from {};", writers.join(", ")),
        ),
        None => Finding::new(
            &SHARED,
            object,
            "every tenant reads all of it",
            advice(format!(
                "if that is meant: comment on table {name} is 'pgward: shared'; otherwise give it the tenant's column \
                 and row-level security, or revoke what is granted on it"
            )),
        ),
    }
}

#[derive(Deserialize)]
struct ForeignTable {
    name: String,
    grantees: Vec<String>,
}

fn foreign_table(table: ForeignTable) -> Finding {
    Finding::new(
        &FOREIGN,
        format!("foreign table {}", table.name),
        "every tenant reads all of it, and another server is asked on its behalf",
        format!("revoke all on {} from {};", table.name, table.grantees.join(", ")),
    )
}
