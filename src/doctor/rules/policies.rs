//! What the policies of tenants' tables let through.

use serde::Deserialize;

use super::super::finding::{Finding, Rule, advice};
use super::super::policy::{Known, Tie, tie};
use super::{Check, Judged, Scope, row};

const READ: Rule = Rule::danger(
    "policy-open-to-read",
    "a permissive policy shows rows that are not tied to the tenant, such as by USING (true) or past an OR",
);
const WRITE: Rule = Rule::danger(
    "policy-open-to-write",
    "a permissive policy lets rows be written that are not tied to the tenant, as by WITH CHECK (true)",
);
const FORGEABLE: Rule =
    Rule::warning("policy-forgeable", "a policy depends on a setting (current_setting) and not on the sealed context");
const UNCLEAR: Rule =
    Rule::warning("policy-unclear", "a policy asks for the tenant in a way that this check does not understand");

pub(super) const CHECKS: &[Check] = &[Check {
    about: "policies",
    scope: Scope::Database,
    rules: &[&READ, &WRITE, &FORGEABLE, &UNCLEAR],
    // A superuser or owner is bound by no policy; to whom one applies is asked of the roles tenants have.
    sql: "select t.name, t.tenant_column as column, t.tenant_type as type, jsonb_agg(jsonb_build_object(
                'name', quote_ident(p.polname), 'permissive', p.polpermissive, 'command', p.polcmd,
                'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid)
            ) order by p.polname) as policies,
            (select coalesce(jsonb_agg(distinct jsonb_build_object('name', format('%s.%s', n.nspname, f.proname),
                'sealed', f.prosrc ~* 'pgward\"?\\.\"?(tenant|claims)', 'setting', f.prosrc ~* 'current_setting')), '[]')
             from pg_catalog.pg_policy q
             join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_policy'::regclass and d.objid = q.oid
                 and d.refclassid = 'pg_catalog.pg_proc'::regclass
             join pg_catalog.pg_proc f on f.oid = d.refobjid
             join pg_catalog.pg_namespace n on n.oid = f.pronamespace
             where q.polrelid = t.oid and n.nspname <> 'pgward') as functions
        from tenant_table t join pg_catalog.pg_policy p on p.polrelid = t.oid
        where t.relrowsecurity and p.polroles && (select array_agg(role) from shared)
        group by t.oid, t.name, t.tenant_column, t.tenant_type",
    judge: |_, text| row(text, policies),
}];

#[derive(Deserialize)]
struct Table {
    name: String,
    column: Option<String>,
    #[serde(rename = "type")]
    type_name: Option<String>,
    policies: Vec<Policy>,
    functions: Vec<Function>,
}

#[derive(Deserialize)]
struct Policy {
    name: String,
    permissive: bool,
    command: Command,
    using: Option<String>,
    check: Option<String>,
}

/// `pg_policy.polcmd`.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
enum Command {
    #[serde(rename = "*")]
    All,
    #[serde(rename = "r")]
    Select,
    #[serde(rename = "a")]
    Insert,
    #[serde(rename = "w")]
    Update,
    #[serde(rename = "d")]
    Delete,
}

impl Command {
    /// Whether a policy for `self` has a say in each case that one for `other` has.
    fn covers(self, other: Self) -> bool {
        self == Self::All || self == other
    }
}

#[derive(Deserialize)]
struct Function {
    name: String,
    sealed: bool,
    setting: bool,
}

fn policies(table: Table) -> Judged {
    let names = |which: fn(&Function) -> bool| -> Vec<String> {
        table.functions.iter().filter(|f| which(f)).map(|f| f.name.clone()).collect()
    };
    let known = Known { sealed: names(|f| f.sealed), settings: names(|f| f.setting && !f.sealed) };
    let permissive = table.policies.iter().filter(|policy| policy.permissive);
    permissive.flat_map(|policy| judge(&table, policy, &known)).collect::<Vec<_>>().into()
}

fn judge(table: &Table, policy: &Policy, known: &Known) -> Vec<Finding> {
    // Restrictive policies are joined to it by AND.
    let with_restrictive = |own: &str, pick: fn(&Policy) -> Option<&str>| {
        let others = table.policies.iter().filter(|other| !other.permissive && other.command.covers(policy.command));
        let others = others.filter_map(pick).map(|expression| tie(expression, known));
        others.chain([tie(own, known)]).max().unwrap_or(Tie::Unclear)
    };
    fn using(policy: &Policy) -> Option<&str> {
        policy.using.as_deref()
    }
    /// Without a WITH CHECK, PostgreSQL takes the USING.
    fn check(policy: &Policy) -> Option<&str> {
        policy.check.as_deref().or(policy.using.as_deref())
    }
    let reads = using(policy).map(|own| with_restrictive(own, using));
    let writes = match policy.command {
        Command::Select | Command::Delete => None,
        Command::All | Command::Insert | Command::Update => check(policy).map(|own| with_restrictive(own, check)),
    };
    let object = format!("policy {} on table {}", policy.name, table.name);
    let found = |rule, danger: &str, mend| Finding::new(rule, &object, danger, mend);
    let mut findings = Vec::new();
    if reads == Some(Tie::Open) {
        let danger = match policy.command {
            Command::Update => "a tenant changes other tenants' rows",
            Command::Delete => "a tenant deletes other tenants' rows",
            _ => "a tenant sees rows of other tenants",
        };
        findings.push(found(&READ, danger, tied(table, policy, known)));
    }
    if writes == Some(Tie::Open) && (reads != Some(Tie::Open) || policy.check.is_some()) {
        findings.push(found(&WRITE, "a tenant puts rows into another tenant's data", tied(table, policy, known)));
    }
    let either = |which| reads == Some(which) || writes == Some(which);
    if either(Tie::Forgeable) {
        let danger = "any statement can set it, an injected one too, and be another tenant";
        findings.push(found(&FORGEABLE, danger, tied(table, policy, known)));
    }
    if either(Tie::Unclear) {
        let danger = "whether rows of other tenants pass it is not known";
        let mend = "read it; where it is right, allow this finding, or join to it by AND that the row's tenant is \
                    (select pgward.tenant())";
        findings.push(found(&UNCLEAR, danger, advice(mend)));
    }
    findings
}

/// A permissive policy that lets everything through is replaced. Another's sense is a person's to keep.
fn tied(table: &Table, policy: &Policy, known: &Known) -> super::super::finding::Mend {
    let Some(column) = &table.column else {
        return advice("tie it to the tenant: tenant_id = (select pgward.tenant())");
    };
    let cast = match table.type_name.as_deref() {
        None | Some("text" | "character varying") => String::new(),
        Some(other) => format!("::{other}"),
    };
    let same = format!("({column} = (select pgward.tenant(){cast}))");
    let part = |word: &str, own: &Option<String>| {
        let own = own.as_deref().filter(|own| tie(own, known) != Tie::Sealed)?;
        Some(if own == "true" { format!(" {word} {same}") } else { format!(" {word} ({same} and ({own}))") })
    };
    let parts: String =
        [part("using", &policy.using), part("with check", &policy.check)].into_iter().flatten().collect();
    format!("alter policy {} on {}{parts};", policy.name, table.name).into()
}
