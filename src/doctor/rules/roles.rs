//! The roles that tenants' backends log in as: what they are, may become, own and may connect to.

use serde::Deserialize;

use super::super::finding::{Finding, Rule, advice};
use super::{Check, Judged, Scope, row};

const SUPERUSER: Rule = Rule::danger("login-superuser", "a login role of tenants is a superuser");
const BYPASS: Rule = Rule::danger("login-bypasses-row-security", "a login role of tenants has BYPASSRLS");
const CREATEROLE: Rule = Rule::danger("login-creates-roles", "a login role of tenants has CREATEROLE");
const REPLICATION: Rule = Rule::danger("login-replicates", "a login role of tenants has REPLICATION");
const CREATEDB: Rule = Rule::warning("login-creates-databases", "a login role of tenants has CREATEDB");
const MEMBER: Rule = Rule::danger(
    "login-member-of-powerful-role",
    "a login role of tenants is, over any number of steps, a member of a role that sees or may do more than a tenant",
);
const OTHER: Rule = Rule::danger("login-member-of-other-login", "a login role of tenants is a member of another one");
const MISSING: Rule = Rule::warning("login-missing", "a login role that the configuration names does not exist");
pub(in super::super) const LOGIN_SETTING: Rule = Rule::warning(
    "login-setting",
    "a login role of tenants has a setting of its own (ALTER ROLE ... SET) that pgward has not recorded",
);
const OWNS_TABLE: Rule =
    Rule::danger("login-owns-table", "a login role that tenants share, or a role it is a member of, owns a table");
const OWNS: Rule = Rule::danger(
    "login-owns-object",
    "a login role that tenants share, or a role it is a member of, owns a schema, function, view or the like",
);
const OWN_OPEN: Rule =
    Rule::danger("database-open-to-others", "a database that is one tenant's own can be connected to by others");
const REACHABLE: Rule =
    Rule::warning("database-reachable", "login roles of tenants may connect to a database where they have no tenant");

pub(super) const CHECKS: &[Check] = &[
    Check {
        about: "attributes of login roles",
        scope: Scope::Cluster,
        rules: &[&SUPERUSER, &BYPASS, &CREATEROLE, &REPLICATION, &CREATEDB],
        sql: "select quote_ident(r.rolname) as name, r.rolsuper as superuser, r.rolbypassrls as bypassrls,
                r.rolcreaterole as createrole, r.rolreplication as replication, r.rolcreatedb as createdb
            from pg_catalog.pg_roles r where r.oid in (select oid from login)",
        judge: |_, text| row(text, attributes),
    },
    Check {
        about: "memberships of login roles",
        scope: Scope::Cluster,
        rules: &[&MEMBER, &OTHER],
        sql: "select quote_ident(l.name) as login, quote_ident(r.rolname) as role, s.name as step,
                r.oid in (select oid from login) as is_login,
                array_remove(array[case when r.rolsuper then 'superuser' end, case when r.rolbypassrls then 'bypassrls' end,
                    case when r.rolcreaterole then 'createrole' end, case when r.rolcreatedb then 'createdb' end,
                    case when r.rolreplication then 'replication' end,
                    case when r.rolname ~ '^pg_' then 'a role of PostgreSQL''s own' end], null) as powers
            from reach x join login l on l.oid = x.login
            join pg_catalog.pg_roles r on r.oid = x.role
            join role_name s on s.oid = x.step
            where x.role <> x.login",
        judge: |_, text| row(text, membership),
    },
    Check {
        about: "login roles",
        scope: Scope::Database,
        rules: &[&MISSING],
        sql: "select l ->> 'role' as name from input, jsonb_array_elements(given -> 'logins') l
            where (l ->> 'here')::bool and l ->> 'role' not in (select rolname from pg_catalog.pg_roles)",
        judge: |question, text| row(text, |login| missing(login, &question.cluster, &question.database)),
    },
    Check {
        about: "settings of login roles",
        scope: Scope::Cluster,
        rules: &[&LOGIN_SETTING],
        sql: "select quote_ident(l.name) as role, quote_ident(d.datname) as database, split_part(s, '=', 1) as name
            from input, pg_catalog.pg_db_role_setting x
            join login l on l.oid = x.setrole
            left join pg_catalog.pg_database d on d.oid = x.setdatabase
            cross join unnest(x.setconfig) s
            where not exists (
                select from jsonb_array_elements(given -> 'approved_settings') a
                where a ->> 'role' = l.name and a -> 'settings' ? s and x.setdatabase = 0)",
        judge: |_, text| row(text, setting),
    },
    Check {
        about: "what login roles own",
        scope: Scope::Database,
        rules: &[&OWNS_TABLE, &OWNS],
        sql: "select i.type as kind, i.identity as name, quote_ident(r.rolname) as owner,
                case when d.datdba in (select role from sharing) then null else quote_ident(b.rolname) end as heir,
                (select array_agg(distinct quote_ident(l.name)) from reach x join login l on l.oid = x.login
                 where x.role = r.oid and l.here and l.level = 'rows') as logins
            from pg_catalog.pg_shdepend s
            join pg_catalog.pg_database d on d.datname = current_database()
            join pg_catalog.pg_roles b on b.oid = d.datdba
            join pg_catalog.pg_roles r on r.oid = s.refobjid
            cross join pg_identify_object(s.classid, s.objid, s.objsubid) i
            where s.refclassid = 'pg_catalog.pg_authid'::regclass and s.deptype = 'o'
            and s.refobjid in (select role from shared where role <> 0)
            and (s.dbid = d.oid or s.dbid = 0) and s.classid <> 'pg_catalog.pg_largeobject'::regclass
            and not r.rolsuper and i.schema is distinct from 'pg_toast' and i.type not like 'toast%'
            and not exists (
                select from pg_catalog.pg_depend a where a.classid = s.classid and a.objid = s.objid
                and a.deptype in ('a', 'i') and a.refclassid = 'pg_catalog.pg_class'::regclass)",
        judge: |_, text| row(text, owned),
    },
    Check {
        about: "who may connect to which database",
        scope: Scope::Cluster,
        rules: &[&OWN_OPEN, &REACHABLE],
        sql: "select quote_ident(d.datname) as name, given -> 'own_databases' ? d.datname as own,
                array_agg(distinct n.name order by n.name) as grantees
            from input, pg_catalog.pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
            join role_name n on n.oid = a.grantee
            where d.datallowconn and a.privilege_type = 'CONNECT' and a.grantee <> d.datdba and (
                exists (
                    select from reach x join login l on l.oid = x.login
                    where x.role = a.grantee and not l.databases ? d.datname)
                or a.grantee = 0 and (given -> 'own_databases' ? d.datname
                    or exists (select from login l where not l.databases ? d.datname)))
            group by d.datname, given",
        judge: |_, text| row(text, connect),
    },
];

#[derive(Deserialize)]
struct Attributes {
    name: String,
    superuser: bool,
    bypassrls: bool,
    createrole: bool,
    replication: bool,
    createdb: bool,
}

fn attributes(role: Attributes) -> Judged {
    let of = |has: bool, rule: &'static Rule, danger: &str, off: &str| {
        let sql = format!("alter role {} {off};", role.name);
        has.then(|| Finding::new(rule, format!("role {}", role.name), danger, sql))
    };
    let found = [
        of(role.superuser, &SUPERUSER, "no policy and no privilege binds it: a tenant owns the server", "nosuperuser"),
        of(role.bypassrls, &BYPASS, "no policy binds it: a tenant sees every tenant's rows", "nobypassrls"),
        of(
            role.createrole,
            &CREATEROLE,
            "a tenant changes other roles, or gives itself what they have",
            "nocreaterole",
        ),
        of(
            role.replication,
            &REPLICATION,
            "a tenant copies the whole server, or fills its disk by a slot",
            "noreplication",
        ),
        of(
            role.createdb,
            &CREATEDB,
            "a tenant copies databases that it may connect to, and fills the disk",
            "nocreatedb",
        ),
    ];
    found.into_iter().flatten().collect::<Vec<_>>().into()
}

#[derive(Deserialize)]
struct Membership {
    login: String,
    role: String,
    step: String,
    is_login: bool,
    powers: Vec<String>,
}

fn membership(member: Membership) -> Option<Finding> {
    let Membership { login, role, step, is_login, powers } = &member;
    let sql = format!("revoke {step} from {login};");
    let object = format!("role {login}, member of {role}");
    if !powers.is_empty() {
        let way = if step == role { String::new() } else { format!(" by way of {step}") };
        let danger = format!("a tenant becomes {role} by SET ROLE{way}, which is {}", powers.join(", "));
        return Some(Finding::new(&MEMBER, object, danger, sql));
    }
    is_login.then(|| Finding::new(&OTHER, object, format!("a tenant becomes {role} and sees what that one sees"), sql))
}

#[derive(Deserialize)]
struct Login {
    name: String,
}

fn missing(login: Login, cluster: &str, database: &str) -> Finding {
    Finding::new(
        &MISSING,
        format!("role {}", login.name),
        "its tenants cannot log in; nothing of its privileges could be looked at",
        advice(format!("pgward install --cluster {cluster} --database {database}")),
    )
}

#[derive(Deserialize)]
struct Setting {
    role: String,
    database: Option<String>,
    name: String,
}

fn setting(setting: Setting) -> Finding {
    let Setting { role, name, .. } = &setting;
    let place = setting.database.as_ref().map(|database| format!(" in database {database}")).unwrap_or_default();
    // The value is not shown: a role can put anything there.
    let name = super::super::quote::setting(name);
    Finding::new(
        &LOGIN_SETTING,
        format!("setting {name} of role {role}{place}"),
        "any tenant that shares the role may have set it, and every later login starts with it",
        format!("alter role {role}{place} reset {name};"),
    )
}

#[derive(Deserialize)]
struct Owned {
    kind: String,
    name: String,
    owner: String,
    heir: Option<String>,
    logins: Vec<String>,
}

fn owned(thing: Owned) -> Finding {
    let Owned { kind, name, owner, logins, .. } = &thing;
    let object = format!("{kind} {name}");
    let heir = thing.heir.as_deref().unwrap_or("current_user");
    let changed = format!("alter {kind} {name} owner to {heir};");
    if kind == "table" {
        let danger = format!("as {owner}, a tenant switches row-level security off, or drops the table");
        let grant = format!("\ngrant select, insert, update, delete on {name} to {};", logins.join(", "));
        return Finding::new(&OWNS_TABLE, object, danger, changed + &grant);
    }
    const KNOWN: [&str; 15] = [
        "view",
        "materialized view",
        "foreign table",
        "sequence",
        "schema",
        "function",
        "procedure",
        "aggregate",
        "type",
        "domain",
        "collation",
        "text search dictionary",
        "text search configuration",
        "statistics object",
        "database",
    ];
    let danger = format!("as {owner}, a tenant replaces or drops it for all who use it");
    let mend = match kind.as_str() {
        "statistics object" => format!("alter statistics {name} owner to {heir};").into(),
        kind if KNOWN.contains(&kind) => changed.into(),
        _ => advice(format!("give it to {heir}, or drop it")),
    };
    Finding::new(&OWNS, object, danger, mend)
}

#[derive(Deserialize)]
struct Connect {
    name: String,
    own: bool,
    grantees: Vec<String>,
}

fn connect(database: Connect) -> Finding {
    let Connect { name, own, grantees } = &database;
    let object = format!("database {name}");
    let sql = format!("revoke connect on database {name} from {};", grantees.join(", "));
    if *own {
        Finding::new(&OWN_OPEN, object, "whoever has a login on this server gets into the tenant's database", sql)
    } else {
        let danger = "a tenant that gets a connection of its own (dblink, a stolen password) sees what is there";
        Finding::new(&REACHABLE, object, danger, sql)
    }
}
