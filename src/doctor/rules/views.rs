//! Views that read tenants' tables with somebody else's rights.

use serde::Deserialize;

use super::super::finding::{Finding, Rule, advice};
use super::{Check, Scope, row};

const BYPASSES: Rule = Rule::danger(
    "view-bypasses-row-security",
    "a view without security_invoker reads a tenants' table as an owner whom row-level security does not bind",
);
const OWNER: Rule =
    Rule::warning("view-with-owners-rights", "a view without security_invoker reads a tenants' table as its owner");
const MATERIALIZED: Rule =
    Rule::danger("materialized-view", "tenants can read a materialized view over a tenants' table");

pub(super) const CHECKS: &[Check] = &[Check {
    about: "views",
    scope: Scope::Database,
    rules: &[&BYPASSES, &OWNER, &MATERIALIZED],
    sql: "select v.name, v.relkind = 'm' as materialized, quote_ident(o.rolname) as owner,
            min(t.name) as table, current_setting('server_version_num')::int >= 150000 as invoker_known,
            o.rolsuper or o.rolbypassrls
                or bool_or(not t.relforcerowsecurity and pg_has_role(v.relowner, t.relowner, 'USAGE')) as bypasses,
            (select array_agg(distinct n.name order by n.name) from shared_grant g
             join role_name n on n.oid = g.grantee where g.relation = v.oid) as grantees
        from relation v
        join pg_catalog.pg_roles o on o.oid = v.relowner
        join reads r on r.view = v.oid
        join tenant_table t on t.oid = r.relation
        where v.relkind in ('v', 'm') and v.oid in (select oid from reachable)
        and not coalesce((
            select x.option_value::bool from pg_options_to_table(v.reloptions) x
            where x.option_name = 'security_invoker'), false)
        group by v.oid, v.name, v.relkind, v.relowner, o.rolname, o.rolsuper, o.rolbypassrls",
    judge: |_, text| row(text, view),
}];

#[derive(Deserialize)]
struct View {
    name: String,
    materialized: bool,
    owner: String,
    table: String,
    invoker_known: bool,
    bypasses: bool,
    grantees: Option<Vec<String>>,
}

fn view(view: View) -> Finding {
    let View { name, owner, table, .. } = &view;
    if view.materialized {
        let mend = match &view.grantees {
            Some(grantees) => format!("revoke all on {name} from {};", grantees.join(", ")).into(),
            None => advice("revoke what is granted on its columns"),
        };
        let danger = format!("every tenant reads the rows of {table} that were there for whoever refreshed it");
        return Finding::new(&MATERIALIZED, format!("materialized view {name}"), danger, mend);
    }
    let mend = if view.invoker_known {
        format!("alter view {name} set (security_invoker = true);").into()
    } else {
        advice("give it to an owner without privileges of its own, whom the policies bind, or replace it by a function")
    };
    let object = format!("view {name}");
    if view.bypasses {
        let danger = format!("every tenant reads every tenant's rows of {table}, with the rights of {owner}");
        Finding::new(&BYPASSES, object, danger, mend)
    } else {
        let danger =
            format!("{table} is read with the rights of {owner}; the first policy or privilege for that role opens it");
        Finding::new(&OWNER, object, danger, mend)
    }
}
