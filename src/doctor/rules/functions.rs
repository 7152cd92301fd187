//! Functions that run with somebody else's rights, decide about rows, or keep what a session leaves behind.

use serde::Deserialize;

use super::super::finding::{Finding, Rule, advice};
use super::super::quote;
use super::{Check, Judged, Scope, row};

const SEARCH_PATH: Rule = Rule::danger(
    "definer-function-search-path",
    "a SECURITY DEFINER function that tenants can run does not pin its search_path",
);
const TEMPORARY: Rule = Rule::warning(
    "definer-function-temporary-first",
    "a SECURITY DEFINER function pins a search_path that does not end in pg_temp, which is then searched first",
);
const MIGHTY: Rule = Rule::warning(
    "definer-function-bypasses",
    "tenants can run a SECURITY DEFINER function whose owner row-level security does not bind",
);
const IMMUTABLE: Rule = Rule::danger("policy-function-immutable", "a policy calls a function that is IMMUTABLE");
const PARALLEL: Rule = Rule::warning(
    "policy-function-parallel",
    "a policy calls a function that asks pgward for the tenant and is PARALLEL SAFE",
);
const LEAKPROOF: Rule = Rule::warning(
    "function-leakproof",
    "a function is LEAKPROOF, so that PostgreSQL runs it on rows before it asks the policies",
);
const UNTRUSTED: Rule = Rule::warning(
    "untrusted-language-function",
    "tenants can run a function in a language that can do anything on the server",
);
const GLOBALS: Rule = Rule::danger(
    "language-with-globals",
    "tenants that share backends can use a language whose global variables outlive DISCARD ALL",
);

pub(super) const CHECKS: &[Check] = &[
    Check {
        about: "SECURITY DEFINER functions",
        scope: Scope::Database,
        rules: &[&SEARCH_PATH, &TEMPORARY, &MIGHTY],
        sql:
            "select r.name, quote_ident(r.nspname) as schema, r.owner, r.mighty and (given ->> 'rows')::bool as mighty,
                (select substr(c, 13) from unnest(r.proconfig) c where c like 'search\\_path=%') as path
            from routine r, input
            where r.prosecdef and r.oid in (select routine from routine_grant)",
        judge: |_, text| row(text, definer),
    },
    Check {
        about: "functions that policies call",
        scope: Scope::Database,
        rules: &[&IMMUTABLE, &PARALLEL],
        sql: "select distinct r.name, r.provolatile = 'i' as immutable
            from routine r
            join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_policy'::regclass
                and d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = r.oid
            where (r.provolatile = 'i' or (r.proparallel = 's' and r.prosrc ~* 'pgward'))
            and r.oid not in (select object from extension_member where class = 'pg_catalog.pg_proc'::regclass)",
        judge: |_, text| row(text, policys),
    },
    Check {
        about: "functions that are LEAKPROOF",
        scope: Scope::Database,
        rules: &[&LEAKPROOF],
        sql: "select r.name from routine r, input
            where r.proleakproof and (given ->> 'rows')::bool and r.oid in (select routine from routine_grant)
            and r.oid not in (select object from extension_member where class = 'pg_catalog.pg_proc'::regclass)",
        judge: |_, text| row(text, leakproof),
    },
    Check {
        about: "languages",
        scope: Scope::Database,
        rules: &[&UNTRUSTED],
        sql: "select r.name, quote_ident(l.lanname) as language, array_agg(distinct n.name order by n.name) as grantees
            from routine r
            join pg_catalog.pg_language l on l.oid = r.prolang and l.lanispl and not l.lanpltrusted
            join routine_grant g on g.routine = r.oid join role_name n on n.oid = g.grantee
            where r.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
            group by r.oid, r.name, l.lanname",
        judge: |_, text| row(text, untrusted),
    },
    Check {
        about: "languages with global variables",
        scope: Scope::Database,
        rules: &[&GLOBALS],
        sql: "select quote_ident(l.lanname) as name, array_agg(distinct n.name order by n.name) as grantees
            from pg_catalog.pg_language l, aclexplode(coalesce(l.lanacl, acldefault('l', l.lanowner))) a
            join role_name n on n.oid = a.grantee
            where l.lanpltrusted and a.grantee in (select role from shared)
            and l.lanname ~ '^(plperl|pltcl|plpython|plv8|plcoffee|plls|pllua|plr|pljava|plruby|plphp|pljs)'
            group by l.oid, l.lanname",
        judge: |_, text| row(text, language),
    },
];

#[derive(Deserialize)]
struct Definer {
    name: String,
    schema: String,
    owner: String,
    mighty: bool,
    path: Option<String>,
}

fn definer(function: Definer) -> Judged {
    let Definer { name, schema, owner, .. } = &function;
    let object = format!("function {name}");
    let mut found = Vec::new();
    let names = function.path.as_deref().map(quote::names).unwrap_or_default();
    if function.path.is_none() || names.iter().any(|name| name == "$user") {
        let danger = format!("a tenant chooses what its names mean, and so runs code of its own as {owner}");
        let sql = format!("alter routine {name} set search_path = pg_catalog, {schema}, pg_temp;");
        found.push(Finding::new(&SEARCH_PATH, &object, danger, sql));
    } else if names.last().is_none_or(|last| last != "pg_temp") {
        let danger = format!("a tenant's temporary table takes the place of one that the function names, as {owner}");
        let rest = names.iter().filter(|name| !name.is_empty() && *name != "pg_temp");
        let path: Vec<String> = rest.map(|name| quote::identifier(name)).chain(["pg_temp".to_owned()]).collect();
        let path = path.join(", ");
        found.push(Finding::new(
            &TEMPORARY,
            &object,
            danger,
            format!("alter routine {name} set search_path = {path};"),
        ));
    }
    if function.mighty {
        let danger =
            format!("it runs as {owner}, who sees every tenant's rows; what it returns is not asked by policies");
        let mend = "give it to an owner whom row-level security binds, or see that it asks pgward.tenant() itself";
        found.push(Finding::new(&MIGHTY, object, danger, advice(mend)));
    }
    found.into()
}

#[derive(Deserialize)]
struct Policys {
    name: String,
    immutable: bool,
}

fn policys(function: Policys) -> Finding {
    let Policys { name, immutable } = &function;
    let object = format!("function {name}");
    if *immutable {
        let danger = "a plan keeps the answer that it gave for one tenant and uses it for the next";
        Finding::new(&IMMUTABLE, object, danger, format!("alter function {name} stable;"))
    } else {
        let danger = "in a parallel worker the context is not genuine, so that a tenant's statement fails there";
        Finding::new(&PARALLEL, object, danger, format!("alter function {name} parallel restricted;"))
    }
}

#[derive(Deserialize)]
struct Leakproof {
    name: String,
}

fn leakproof(function: Leakproof) -> Finding {
    Finding::new(
        &LEAKPROOF,
        format!("function {}", function.name),
        "where it tells what it was called with, by an error or a side effect, a tenant sees other tenants' rows",
        format!("alter function {} not leakproof;", function.name),
    )
}

#[derive(Deserialize)]
struct Untrusted {
    name: String,
    language: String,
    grantees: Vec<String>,
}

fn untrusted(function: Untrusted) -> Finding {
    let Untrusted { name, language, grantees } = &function;
    Finding::new(
        &UNTRUSTED,
        format!("function {name}"),
        format!("written in {language}, it can do what the server's own user can; a flaw in it opens the server"),
        format!("revoke execute on routine {name} from {};", grantees.join(", ")),
    )
}

#[derive(Deserialize)]
struct Language {
    name: String,
    grantees: Vec<String>,
}

fn language(language: Language) -> Finding {
    Finding::new(
        &GLOBALS,
        format!("language {}", language.name),
        "what one tenant leaves in a global variable (%_SHARED, GD, a closure) the next on that backend finds",
        format!("revoke usage on language {} from {};", language.name, language.grantees.join(", ")),
    )
}
