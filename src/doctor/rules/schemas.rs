//! Where tenants may create, and what of another tenant's schema is open to them.

use serde::Deserialize;

use super::super::finding::{Finding, Rule};
use super::{Check, Scope, row};

const CREATE_IN_DATABASE: Rule =
    Rule::danger("grant-create-on-database", "tenants may create schemas in a database they share");
const CREATE_IN_SCHEMA: Rule =
    Rule::danger("grant-create-on-schema", "tenants may create objects in a schema that is not their own");
const OTHERS_SCHEMA: Rule = Rule::danger("schema-open-to-others", "the schema of one tenant is open to others");
const OTHERS_OBJECT: Rule =
    Rule::danger("object-open-to-others", "a privilege in the schema of one tenant is granted to others");
const OTHERS_DEFAULTS: Rule = Rule::danger(
    "default-privileges-for-others",
    "default privileges open what is created in the schema of one tenant to others",
);

pub(super) const CHECKS: &[Check] = &[
    Check {
        about: "CREATE on the database",
        scope: Scope::Database,
        rules: &[&CREATE_IN_DATABASE],
        sql: "select quote_ident(d.datname) as name, array_agg(distinct n.name order by n.name) as grantees
            from pg_catalog.pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
            join role_name n on n.oid = a.grantee
            where d.datname = current_database() and a.privilege_type = 'CREATE' and a.grantee <> d.datdba
            and a.grantee in (select role from sharing) group by d.datname",
        judge: |_, text| row(text, create_in_database),
    },
    Check {
        about: "CREATE on schemas",
        scope: Scope::Database,
        rules: &[&CREATE_IN_SCHEMA],
        sql: "select quote_ident(s.nspname) as name, given -> 'search_path' ? s.nspname as searched,
                array_agg(distinct n.name order by n.name) as grantees
            from input, pg_catalog.pg_namespace s, aclexplode(coalesce(s.nspacl, acldefault('n', s.nspowner))) a
            join role_name n on n.oid = a.grantee
            where s.nspname !~ '^pg_(temp|toast)' and a.privilege_type = 'CREATE' and a.grantee <> s.nspowner
            and a.grantee in (select role from sharing) and s.oid not in (select oid from own_schema)
            group by s.nspname, given",
        judge: |_, text| row(text, create_in_schema),
    },
    Check {
        about: "schemas of tenants' own",
        scope: Scope::Database,
        rules: &[&OTHERS_SCHEMA],
        sql: "select quote_ident(s.nspname) as name, o.tenant, array_agg(distinct n.name order by n.name) as grantees
            from own_schema o join pg_catalog.pg_namespace s on s.oid = o.oid
            cross join aclexplode(coalesce(s.nspacl, acldefault('n', s.nspowner))) a
            join holder x on x.role = a.grantee and x.tenant is distinct from o.tenant
            join role_name n on n.oid = a.grantee
            group by s.nspname, o.tenant",
        judge: |_, text| row(text, others_schema),
    },
    Check {
        about: "what is in schemas of tenants' own",
        scope: Scope::Database,
        rules: &[&OTHERS_OBJECT],
        sql: "select format('%I.%I', s.nspname, c.relname) as name, o.tenant, c.relkind = 'S' as sequence,
                array_agg(distinct n.name order by n.name) as grantees
            from own_schema o join pg_catalog.pg_namespace s on s.oid = o.oid
            join pg_catalog.pg_class c on c.relnamespace = o.oid
            join relation_grant g on g.relation = c.oid
            join holder x on x.role = g.grantee and x.tenant is distinct from o.tenant
            join role_name n on n.oid = g.grantee
            group by s.nspname, c.relname, c.relkind, o.tenant",
        judge: |_, text| row(text, others_object),
    },
    Check {
        about: "default privileges in schemas of tenants' own",
        scope: Scope::Database,
        rules: &[&OTHERS_DEFAULTS],
        sql: "select quote_ident(s.nspname) as name, o.tenant, quote_ident(r.rolname) as owner,
                case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'routines'
                    when 'T' then 'types' else 'schemas' end as kind,
                array_agg(distinct n.name order by n.name) as grantees
            from own_schema o join pg_catalog.pg_namespace s on s.oid = o.oid
            join pg_catalog.pg_default_acl d on d.defaclnamespace = o.oid
            join pg_catalog.pg_roles r on r.oid = d.defaclrole
            cross join aclexplode(d.defaclacl) a
            join holder x on x.role = a.grantee and x.tenant is distinct from o.tenant
            join role_name n on n.oid = a.grantee
            group by s.nspname, o.tenant, r.rolname, d.defaclobjtype",
        judge: |_, text| row(text, others_defaults),
    },
];

#[derive(Deserialize)]
struct Database {
    name: String,
    grantees: Vec<String>,
}

fn create_in_database(grant: Database) -> Finding {
    Finding::new(
        &CREATE_IN_DATABASE,
        format!("database {}", grant.name),
        "a tenant makes schemas, trusted extensions and functions in the database that others use",
        format!("revoke create on database {} from {};", grant.name, grant.grantees.join(", ")),
    )
}

#[derive(Deserialize)]
struct Schema {
    name: String,
    searched: bool,
    grantees: Vec<String>,
}

fn create_in_schema(grant: Schema) -> Finding {
    let danger = if grant.searched {
        "a tenant makes functions and tables that other tenants' statements find by name and run as themselves"
    } else {
        "a tenant makes functions and tables that stay, which whoever searches this schema runs as himself"
    };
    Finding::new(
        &CREATE_IN_SCHEMA,
        format!("schema {}", grant.name),
        danger,
        format!("revoke create on schema {} from {};", grant.name, grant.grantees.join(", ")),
    )
}

#[derive(Deserialize)]
struct Others {
    name: String,
    tenant: String,
    grantees: Vec<String>,
}

fn others_schema(grant: Others) -> Finding {
    Finding::new(
        &OTHERS_SCHEMA,
        format!("schema {}", grant.name),
        format!("other tenants see or make objects in the schema of {}", grant.tenant),
        format!("revoke all on schema {} from {};", grant.name, grant.grantees.join(", ")),
    )
}

#[derive(Deserialize)]
struct OthersObject {
    #[serde(flatten)]
    what: Others,
    sequence: bool,
}

fn others_object(grant: OthersObject) -> Finding {
    let OthersObject { what: Others { name, tenant, grantees }, sequence } = &grant;
    let kind = if *sequence { "sequence" } else { "table" };
    Finding::new(
        &OTHERS_OBJECT,
        format!("{kind} {name}"),
        format!("other tenants read or change what is {tenant}'s, as soon as the schema is open to them"),
        format!("revoke all on {kind} {name} from {};", grantees.join(", ")),
    )
}

#[derive(Deserialize)]
struct OthersDefaults {
    #[serde(flatten)]
    what: Others,
    owner: String,
    kind: String,
}

fn others_defaults(grant: OthersDefaults) -> Finding {
    let OthersDefaults { what: Others { name, tenant, grantees }, owner, kind } = &grant;
    Finding::new(
        &OTHERS_DEFAULTS,
        format!("default privileges of {owner} in schema {name} on {kind}"),
        format!("what {owner} creates there is open to others than {tenant}"),
        format!(
            "alter default privileges for role {owner} in schema {name} revoke all on {kind} from {};",
            grantees.join(", ")
        ),
    )
}
