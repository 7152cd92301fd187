//! Functions, extensions and servers by which tenants see or hurt others, or leave the database.

use serde::Deserialize;

use super::super::finding::{Finding, Rule, advice};
use super::{Check, Scope, row};

const ACTIVITY: Rule =
    Rule::warning("activity-of-others", "tenants that share a login role can read its statements in pg_stat_activity");
const SIGNALS: Rule =
    Rule::warning("signals-to-others", "tenants that share a login role can end its sessions and statements");
const LARGE_OBJECTS: Rule = Rule::warning("large-objects", "tenants that share a login role share its large objects");
const SERVER: Rule =
    Rule::danger("server-function", "tenants can run a function that reads the server's files or steers the server");
const REACHES_OUT: Rule = Rule::danger(
    "extension-reaches-out",
    "tenants can run functions of an extension that opens connections or runs jobs",
);
const LOOKS_INSIDE: Rule = Rule::warning(
    "extension-looks-inside",
    "tenants can run functions of an extension that looks below row-level security",
);
const STATISTICS: Rule = Rule::danger(
    "statement-statistics",
    "tenants that share a login role can read its statements in pg_stat_statements",
);
const FOREIGN_SERVER: Rule = Rule::danger("foreign-server-usable", "tenants may use a foreign server");
const WRAPPER: Rule = Rule::danger("foreign-data-wrapper-usable", "tenants may make foreign servers");
const MAPPING: Rule = Rule::warning("user-mapping", "a foreign server has a user mapping for tenants");
const PREPARED: Rule = Rule::warning("prepared-transactions", "max_prepared_transactions is not 0");

pub(super) const CHECKS: &[Check] = &[
    Check {
        about: "functions of PostgreSQL's own",
        scope: Scope::Database,
        rules: &[&ACTIVITY, &SIGNALS, &LARGE_OBJECTS],
        sql: "select f.rule, array_agg(distinct f.name order by f.name) as functions,
                array_agg(distinct n.name order by n.name) as grantees
            from (
                select p.oid, p.proacl, p.proowner,
                    format('pg_catalog.%I(%s)', p.proname, oidvectortypes(p.proargtypes)) as name,
                    case when p.proname in ('pg_stat_get_activity', 'pg_stat_get_backend_activity') then 'activity'
                        when p.proname in ('pg_cancel_backend', 'pg_terminate_backend') then 'signals'
                        when p.proname ~ '^(lo_|loread$|lowrite$)' and p.proname not in ('lo_import', 'lo_export')
                            then 'large objects' end as rule
                from pg_catalog.pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace
            ) f
            cross join aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a
            join role_name n on n.oid = a.grantee
            where f.rule is not null and a.grantee in (select role from shared)
            group by f.rule",
        judge: |_, text| row(text, of_postgres),
    },
    Check {
        about: "functions that steer the server",
        scope: Scope::Database,
        rules: &[&SERVER],
        sql: "select format('pg_catalog.%I(%s)', p.proname, oidvectortypes(p.proargtypes)) as name,
                array_agg(distinct n.name order by n.name) as grantees
            from pg_catalog.pg_proc p
            cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            join role_name n on n.oid = a.grantee
            where p.pronamespace = 'pg_catalog'::regnamespace and a.grantee in (select role from anybody)
            and p.proname in ('pg_read_file', 'pg_read_binary_file', 'pg_ls_dir', 'pg_ls_logdir',
                'pg_ls_waldir', 'pg_ls_tmpdir', 'pg_ls_archive_statusdir', 'pg_ls_logicalmapdir', 'pg_ls_logicalsnapdir',
                'pg_ls_replslotdir', 'pg_stat_file', 'pg_current_logfile', 'lo_import', 'lo_export',
                'pg_reload_conf', 'pg_rotate_logfile', 'pg_promote', 'pg_switch_wal', 'pg_create_restore_point',
                'pg_wal_replay_pause', 'pg_wal_replay_resume', 'pg_start_backup', 'pg_stop_backup', 'pg_backup_start',
                'pg_backup_stop', 'pg_log_backend_memory_contexts', 'pg_get_backend_memory_contexts',
                'pg_get_shmem_allocations', 'pg_show_all_file_settings', 'pg_hba_file_rules', 'pg_ident_file_mappings',
                'pg_config', 'pg_stat_reset', 'pg_stat_reset_shared', 'pg_stat_reset_slru',
                'pg_stat_reset_replication_slot', 'pg_replication_origin_create', 'pg_replication_origin_drop')
            group by p.oid, p.proname",
        judge: |_, text| row(text, steering),
    },
    Check {
        about: "extensions",
        scope: Scope::Database,
        rules: &[&REACHES_OUT, &LOOKS_INSIDE, &STATISTICS],
        sql: "select quote_ident(e.extname) as extension, e.extname in ('pg_stat_statements', 'pg_stat_monitor') as statistics,
                e.extname in ('dblink', 'adminpack', 'http', 'pg_net', 'pg_cron', 'pg_background', 'plproxy', 'pg_curl',
                    'aws_s3', 'aws_lambda', 'aws_commons', 'multicorn') as outward,
                array(select distinct format('%I.%I(%s)', s.nspname, p.proname, oidvectortypes(p.proargtypes))
                    from extension_member m join pg_catalog.pg_proc p on p.oid = m.object
                    join pg_catalog.pg_namespace s on s.oid = p.pronamespace
                    join routine_grant g on g.routine = p.oid
                    where m.class = 'pg_catalog.pg_proc'::regclass and m.extension = e.extname order by 1) as functions,
                array(select distinct r.name from extension_member m join relation r on r.oid = m.object
                    where m.class = 'pg_catalog.pg_class'::regclass and m.extension = e.extname
                    and r.oid in (select oid from reachable) order by 1) as relations,
                array(select distinct n.name from extension_member m
                    join routine_grant g on g.routine = m.object and m.class = 'pg_catalog.pg_proc'::regclass
                    join role_name n on n.oid = g.grantee where m.extension = e.extname
                    union select distinct n.name from extension_member m
                    join shared_grant g on g.relation = m.object and m.class = 'pg_catalog.pg_class'::regclass
                    join role_name n on n.oid = g.grantee where m.extension = e.extname order by 1) as grantees
            from pg_catalog.pg_extension e, input
            where case when e.extname in ('pg_stat_statements', 'pg_stat_monitor') then (given ->> 'rows')::bool
                when e.extname in ('dblink', 'adminpack', 'http', 'pg_net', 'pg_cron', 'pg_background', 'plproxy',
                    'pg_curl', 'aws_s3', 'aws_lambda', 'aws_commons', 'multicorn') then true
                else (given ->> 'shares')::bool end
            and e.extname in ('dblink', 'adminpack', 'http', 'pg_net', 'pg_cron', 'pg_background', 'plproxy', 'pg_curl',
                'aws_s3', 'aws_lambda', 'aws_commons', 'multicorn', 'pg_stat_statements', 'pg_stat_monitor',
                'pageinspect', 'pg_walinspect', 'pg_surgery', 'pg_visibility', 'pgrowlocks', 'pgstattuple',
                'pg_freespacemap', 'pg_buffercache', 'old_snapshot', 'amcheck', 'pg_prewarm')",
        judge: |_, text| row(text, extension),
    },
    Check {
        about: "foreign servers and data wrappers",
        scope: Scope::Database,
        rules: &[&FOREIGN_SERVER, &WRAPPER],
        sql: "select x.kind, quote_ident(x.name) as name, array_agg(distinct n.name order by n.name) as grantees
            from (
                select 'server' as kind, srvname as name, srvowner as owner,
                    coalesce(srvacl, acldefault('S', srvowner)) as acl from pg_catalog.pg_foreign_server
                union all
                select 'data wrapper', fdwname, fdwowner, coalesce(fdwacl, acldefault('F', fdwowner))
                from pg_catalog.pg_foreign_data_wrapper
            ) x
            cross join aclexplode(x.acl) a join role_name n on n.oid = a.grantee
            where a.grantee in (select role from anybody) group by x.kind, x.name",
        judge: |_, text| row(text, foreign),
    },
    Check {
        about: "user mappings",
        scope: Scope::Database,
        rules: &[&MAPPING],
        sql: "select n.name, quote_ident(u.srvname) as server
            from pg_catalog.pg_user_mappings u join role_name n on n.oid = u.umuser
            where u.umuser in (select role from anybody)",
        judge: |_, text| row(text, mapping),
    },
    Check {
        about: "prepared transactions",
        scope: Scope::Database,
        rules: &[&PREPARED],
        sql: "select current_setting('max_prepared_transactions') as value from input
            where (given ->> 'rows')::bool and current_setting('max_prepared_transactions') <> '0'",
        judge: |_, text| row(text, prepared),
    },
];

#[derive(Deserialize)]
struct OfPostgres {
    rule: Watched,
    functions: Vec<String>,
    grantees: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Watched {
    Activity,
    Signals,
    #[serde(rename = "large objects")]
    LargeObjects,
}

fn of_postgres(watched: OfPostgres) -> Finding {
    let (rule, object, danger) = match watched.rule {
        Watched::Activity => (
            &ACTIVITY,
            "functions behind pg_stat_activity",
            "a tenant reads the statements of others as they run, with the literals in them",
        ),
        Watched::Signals => (
            &SIGNALS,
            "functions pg_cancel_backend and pg_terminate_backend",
            "a tenant ends other tenants' statements and connections",
        ),
        Watched::LargeObjects => (
            &LARGE_OBJECTS,
            "functions of large objects (lo_...)",
            "a tenant reads, changes and deletes large objects of others, which no policy protects",
        ),
    };
    Finding::new(rule, object, danger, revoke(&watched.functions, &watched.grantees))
}

fn revoke(functions: &[String], grantees: &[String]) -> String {
    format!("revoke execute on routine\n    {}\n    from {};", functions.join(",\n    "), grantees.join(", "))
}

#[derive(Deserialize)]
struct Steering {
    name: String,
    grantees: Vec<String>,
}

fn steering(function: Steering) -> Finding {
    let danger = "a tenant reads files, settings or memory of the server, or changes how it runs for all";
    let sql = format!("revoke execute on routine {} from {};", function.name, function.grantees.join(", "));
    Finding::new(&SERVER, format!("function {}", function.name), danger, sql)
}

#[derive(Deserialize)]
struct Extension {
    extension: String,
    statistics: bool,
    outward: bool,
    functions: Vec<String>,
    relations: Vec<String>,
    grantees: Vec<String>,
}

fn extension(extension: Extension) -> Option<Finding> {
    let Extension { functions, relations, grantees, .. } = &extension;
    if grantees.is_empty() || functions.is_empty() && relations.is_empty() {
        return None;
    }
    let (rule, danger) = match (extension.statistics, extension.outward) {
        (true, _) => (&STATISTICS, "a tenant reads the texts of other tenants' statements"),
        (false, true) => {
            (&REACHES_OUT, "a tenant opens connections from the server, to itself too, or leaves jobs there")
        }
        (false, false) => (&LOOKS_INSIDE, "a tenant learns of other tenants' rows, locks or pages past the policies"),
    };
    let mut sql = Vec::new();
    if !functions.is_empty() {
        sql.push(revoke(functions, grantees));
    }
    if !relations.is_empty() {
        sql.push(format!("revoke all on {} from {};", relations.join(", "), grantees.join(", ")));
    }
    Some(Finding::new(rule, format!("extension {}", extension.extension), danger, sql.join("\n")))
}

#[derive(Deserialize)]
struct Foreign {
    kind: String,
    name: String,
    grantees: Vec<String>,
}

fn foreign(foreign: Foreign) -> Finding {
    let Foreign { kind, name, grantees } = &foreign;
    let (rule, danger) = if kind == "server" {
        (
            &FOREIGN_SERVER,
            "a tenant makes user mappings and foreign tables, and reads there with the server's connection",
        )
    } else {
        (&WRAPPER, "a tenant points a foreign server of its own at any address that this machine reaches")
    };
    let mend = if kind == "server" { "foreign server" } else { "foreign data wrapper" };
    let sql = format!("revoke usage on {mend} {name} from {};", grantees.join(", "));
    Finding::new(rule, format!("foreign {kind} {name}"), danger, sql)
}

#[derive(Deserialize)]
struct Mapping {
    name: String,
    server: String,
}

fn mapping(mapping: Mapping) -> Finding {
    let Mapping { name, server } = &mapping;
    Finding::new(
        &MAPPING,
        format!("user mapping for {name} on server {server}"),
        "whatever foreign table tenants can name is read with these credentials, whose tenant the other side cannot know",
        format!("drop user mapping for {name} server {server};"),
    )
}

#[derive(Deserialize)]
struct Prepared {
    value: String,
}

fn prepared(prepared: Prepared) -> Finding {
    Finding::new(
        &PREPARED,
        "setting max_prepared_transactions",
        format!("it is {}: a tenant commits or rolls back what another of its role has prepared", prepared.value),
        advice("alter system set max_prepared_transactions = 0; then restart the server, if nobody needs them"),
    )
}
