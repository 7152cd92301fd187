//! What is wrong for each rule.

use super::fixture::{Case, case, good};

const POLICY: &str = "policy \"a; policy\" on table {T}";
const NO_POLICY: &str = "drop policy \"a; policy\" on {T}";

pub fn all() -> Vec<Case> {
    let first = [tables(), keys(), policies(), views(), functions(), grants(), schemas(), roles(), server()];
    first.into_iter().flatten().chain(classification()).chain(installed()).collect()
}

pub fn tables() -> Vec<Case> {
    let partitioned = good("{S}.p", "k int").replace("primary key (tenant_id, id)", "primary key (tenant_id, id, k)");
    let partitioned = partitioned.replace("(tenant_id, id, k));", "(tenant_id, id, k)) partition by list (k);");
    vec![
        case(
            "table-without-row-security",
            "table {S}.\"a\"\"b\nc\"",
            "create table {S}.\"a\"\"b\nc\" (tenant_id text); create index on {S}.\"a\"\"b\nc\" (tenant_id);
             grant select on {S}.\"a\"\"b\nc\" to {app}",
        )
        .tidy("drop table {S}.\"a\"\"b\nc\""),
        case(
            "table-without-row-security",
            "table {S}.u",
            "create table {S}.u (tenant_id uuid primary key); grant update (tenant_id) on {S}.u to public",
        )
        .tidy("drop table {S}.u"),
        case("table-without-row-security", "table {T}", "alter table {T} disable row level security"),
        case(
            "partition-without-row-security",
            "table {S}.p1",
            &format!(
                "{partitioned} create table {{S}}.p1 partition of {{S}}.p for values in (1);
                 grant select on {{S}}.p1 to {{ro}}"
            ),
        )
        .tidy("drop table {S}.p"),
        case(
            "closed-table-without-row-security",
            "table {S}.c",
            "create table {S}.c (tenant_id text); create index on {S}.c (tenant_id)",
        )
        .tidy("drop table {S}.c"),
        case("table-without-force", "table {T}", "alter table {T} no force row level security"),
        case(
            "table-without-policy",
            "table {S}.n",
            "create table {S}.n (tenant_id varchar); create index on {S}.n (tenant_id);
             alter table {S}.n enable row level security; alter table {S}.n force row level security",
        )
        .tidy("drop table {S}.n"),
        case(
            "shared-table",
            "table {S}.countries",
            "create table {S}.countries (name text); grant select on {S}.countries to {ro}",
        )
        .right("comment on table {S}.countries is 'Names. pgward: shared'")
        .tidy("drop table {S}.countries"),
        case(
            "shared-table-writable",
            "table {S}.countries",
            "create table {S}.countries (name text); grant insert on {S}.countries to {app}, public",
        )
        .tidy("drop table {S}.countries"),
        case(
            "foreign-table",
            "foreign table {S}.f",
            "create extension file_fdw; create server files foreign data wrapper file_fdw;
             create foreign table {S}.f (line text) server files options (filename '/dev/null');
             grant select on {S}.f to {app}",
        )
        .tidy("drop extension file_fdw cascade"),
    ]
}

pub fn keys() -> Vec<Case> {
    let unindexed = good("{S}.t", "k int").replace("primary key (tenant_id, id)", "primary key (id, tenant_id)");
    vec![
        case("tenant-column-unindexed", "table {S}.t", &unindexed).tidy("drop table {S}.t"),
        case(
            "unique-key-without-tenant",
            "unique constraint t_mail_key on table {S}.t",
            &good("{S}.t", "mail text unique"),
        )
        .right("drop table {S}.t"),
        case(
            "unique-key-without-tenant",
            "unique index \"i; x\" on table {S}.t",
            &format!("{} create unique index \"i; x\" on {{S}}.t (lower(mail))", good("{S}.t", "mail text")),
        )
        .right("drop table {S}.t"),
        case(
            "unique-key-without-tenant",
            "exclusion constraint t_k_excl on table {S}.t",
            &good("{S}.t", "k int, exclude using btree (k with =)"),
        )
        .right("drop table {S}.t"),
        case(
            "unique-key-without-tenant",
            "primary key t_pkey on table {S}.t",
            &format!("{} create index on {{S}}.t (tenant_id)", good("{S}.t", "k int"))
                .replace("primary key (tenant_id, id)", "primary key (id) include (tenant_id)"),
        )
        .right("drop table {S}.t"),
        // The tenant's columns are both in it, but not beside each other.
        case(
            "foreign-key-without-tenant",
            "foreign key \"f; k\" on table {S}.t",
            &good(
                "{S}.t",
                "other text, order_id bigint,
                 constraint \"f; k\" foreign key (other, order_id) references {T} (tenant_id, id)",
            ),
        )
        .right("drop table {S}.t"),
    ]
}

pub fn policies() -> Vec<Case> {
    let policy = |text: &str| format!("create policy \"a; policy\" on {{T}} {text}");
    let own = "tenant_id = (select pgward.tenant())";
    vec![
        case("policy-open-to-read", POLICY, &policy("for select using (true)")).tidy(NO_POLICY),
        case("policy-open-to-read", POLICY, &policy(&format!("using ({own} or item = 'public')"))).tidy(NO_POLICY),
        case("policy-open-to-read", POLICY, &policy("for delete to {app} using (item is null)")).tidy(NO_POLICY),
        case("policy-open-to-write", POLICY, &policy("for insert with check (true)")).tidy(NO_POLICY),
        case("policy-open-to-write", POLICY, &policy(&format!("using ({own}) with check (item > 'a')")))
            .tidy(NO_POLICY),
        case("policy-forgeable", POLICY, &policy("using (tenant_id = (select current_setting('app.\"tenant', true)))"))
            .tidy(NO_POLICY),
        case(
            "policy-forgeable",
            POLICY,
            &format!(
                "create function {{S}}.\"who; am\"() returns text language sql stable as
                     $$select current_setting('app.tenant', true)$$;
                 {}",
                policy("using (tenant_id = {S}.\"who; am\"())")
            ),
        )
        .tidy("drop policy \"a; policy\" on {T}; drop function {S}.\"who; am\""),
        case(
            "policy-unclear",
            POLICY,
            &policy("using (exists (select from pg_class where relname = pgward.tenant()))"),
        )
        .right(NO_POLICY),
    ]
}

pub fn views() -> Vec<Case> {
    let view = "create view {S}.v as select item from {T}; grant select on {S}.v to {ro};";
    vec![
        case("view-bypasses-row-security", "view {S}.v", view).tidy("drop view {S}.v"),
        case(
            "view-bypasses-row-security",
            "view {S}.\"w; x\"",
            "create view {S}.v with (security_invoker) as select item from {T};
             create view {S}.\"w; x\" as select item from {S}.v; grant select on {S}.\"w; x\" to public",
        )
        .tidy("drop view {S}.v cascade"),
        case(
            "view-with-owners-rights",
            "view {S}.v",
            &format!(
                "{view} create role {{name}}_owner; grant all on schema {{S}} to {{name}}_owner;
                 grant select on {{T}} to {{name}}_owner; alter view {{S}}.v owner to {{name}}_owner"
            ),
        )
        .tidy("drop owned by {name}_owner; drop role {name}_owner"),
        case(
            "materialized-view",
            "materialized view {S}.m",
            "create materialized view {S}.m as select item from {T}; grant select on {S}.m to {app}",
        )
        .tidy("drop materialized view {S}.m"),
    ]
}

pub fn functions() -> Vec<Case> {
    let owner = "create role {name}_owner; grant all on schema {S} to {name}_owner;";
    let definer = |rest: &str| {
        format!(
            "{owner} create function {{S}}.\"f; x\"(a int, \"b; c\" text) returns int language sql security definer
             {rest} as 'select 1'; alter function {{S}}.\"f; x\" owner to {{name}}_owner"
        )
    };
    let object = "function {S}.\"f; x\"(integer, text)";
    let gone = "drop owned by {name}_owner; drop role {name}_owner";
    let policys = |rest: &str| {
        format!(
            "create function {{S}}.f() returns text language sql {rest} as 'select pgward.tenant()';
             create policy \"a; policy\" on {{T}} as restrictive using (tenant_id = {{S}}.f())"
        )
    };
    let no_policy = "drop policy \"a; policy\" on {T}; drop function {S}.f";
    vec![
        case("definer-function-search-path", object, &definer("")).tidy(gone),
        case("definer-function-search-path", object, &definer("set search_path = \"$user\", public, pg_temp"))
            .tidy(gone),
        case("definer-function-temporary-first", object, &definer("set search_path = pg_catalog, {S}")).tidy(gone),
        case(
            "definer-function-bypasses",
            "function {S}.f()",
            "create function {S}.f() returns int language sql security definer set search_path = pg_catalog, pg_temp
             as 'select 1'",
        )
        .right("alter function {S}.f security invoker")
        .tidy("drop function {S}.f"),
        case("policy-function-immutable", "function {S}.f()", &policys("immutable parallel restricted"))
            .tidy(no_policy),
        case("policy-function-parallel", "function {S}.f()", &policys("stable parallel safe")).tidy(no_policy),
        case(
            "function-leakproof",
            "function {S}.f(text)",
            "create function {S}.f(text) returns bool language sql leakproof as 'select true'",
        )
        .tidy("drop function {S}.f"),
        case(
            "untrusted-language-function",
            "function {S}.f()",
            "create language \"pl; evil\" handler plpgsql_call_handler;
             create function {S}.f() returns int language \"pl; evil\" as 'begin return 1; end'",
        )
        .tidy("drop language \"pl; evil\" cascade"),
        case(
            "language-with-globals",
            "language plperl",
            "create trusted language plperl handler plpgsql_call_handler inline plpgsql_inline_handler",
        )
        .tidy("drop language plperl"),
    ]
}

pub fn grants() -> Vec<Case> {
    vec![
        case("grant-truncate", "table {T}", "grant truncate on {T} to {app}, public"),
        case(
            "grant-trigger",
            "table {T}",
            "create role {name}_group; grant {name}_group to {app}; grant trigger on {T} to {name}_group",
        )
        .tidy("drop role {name}_group"),
        case("grant-references", "table {T}", "grant references on {T} to {ro}"),
        case("grant-on-column", "table {T}", "grant select (item), update (item, tenant_id) on {T} to {ro}"),
        case(
            "grant-sequence-update",
            "sequence {S}.\"s; x\"",
            "create sequence {S}.\"s; x\"; grant update on {S}.\"s; x\" to {app}",
        )
        .tidy("drop sequence {S}.\"s; x\""),
        case("grant-temporary", "database {db}", "grant temporary on database {db} to {app}"),
        case(
            "default-privileges",
            "default privileges of postgres in schema {S}",
            "alter default privileges in schema {S} grant select on tables to {app}",
        ),
        case(
            "default-privileges",
            "default privileges of postgres",
            "alter default privileges grant select on tables to public",
        ),
    ]
}

pub fn schemas() -> Vec<Case> {
    vec![
        case("grant-create-on-database", "database {db}", "grant create on database {db} to {kandy}"),
        case("grant-create-on-schema", "schema {S}", "grant create on schema {S} to {app}"),
        case("grant-create-on-schema", "schema public", "grant create on schema public to public"),
        case("grant-create-on-schema", "schema pgward", "grant create on schema pgward to {galle}"),
        case("schema-open-to-others", "schema {K}", "grant usage on schema {K} to {galle}"),
        case("schema-open-to-others", "schema {K}", "grant usage on schema {K} to public"),
        case(
            "object-open-to-others",
            "table {K}.\"t; x\"",
            "create table {K}.\"t; x\" (x int); alter table {K}.\"t; x\" owner to {kandy};
             grant select on {K}.\"t; x\" to {app}",
        )
        .tidy("drop table {K}.\"t; x\""),
        case(
            "default-privileges-for-others",
            "default privileges of {kandy} in schema {K} on tables",
            "alter default privileges for role {kandy} in schema {K} grant select on tables to {galle}",
        ),
    ]
}

pub fn roles() -> Vec<Case> {
    let group = "create role {name}_group; grant {name}_group to {app};";
    vec![
        case("login-superuser", "role {app}", "alter role {app} superuser"),
        case("login-bypasses-row-security", "role {app}", "alter role {app} bypassrls"),
        case("login-creates-roles", "role {kandy}", "alter role {kandy} createrole"),
        case("login-replicates", "role {ro}", "alter role {ro} replication"),
        case("login-creates-databases", "role {app}", "alter role {app} createdb"),
        case("login-member-of-powerful-role", "role {app}, member of pg_monitor", "grant pg_monitor to {app}")
            .tidy("revoke pg_monitor from {app}"),
        case(
            "login-member-of-powerful-role",
            "role {app}, member of pg_write_server_files",
            &format!("{group} alter role {{app}} noinherit; grant pg_write_server_files to {{name}}_group"),
        )
        .tidy("alter role {app} inherit; drop role {name}_group"),
        case(
            "login-member-of-powerful-role",
            "role {app}, member of {name}_group",
            &format!("{group} alter role {{name}}_group bypassrls"),
        )
        .tidy("drop role {name}_group"),
        case("login-member-of-other-login", "role {galle}, member of {kandy}", "grant {kandy} to {galle}"),
        case("login-missing", "role {ro}", "alter role {ro} rename to {name}_other")
            .right("alter role {name}_other rename to {ro}"),
        case("login-setting", "setting \"app\".\"x\" of role {app}", "alter role {app} set app.x = 'a; b'"),
        case(
            "login-setting",
            "setting \"search_path\" of role {kandy} in database {db}",
            "alter role {kandy} in database {db} set search_path = 'a'",
        ),
        case("login-owns-table", "table {T}", "alter table {T} owner to {app}"),
        case(
            "login-owns-table",
            "table {S}.t",
            &format!("{group} {} alter table {{S}}.t owner to {{name}}_group", good("{S}.t", "k int")),
        )
        .tidy("drop table {S}.t; drop role {name}_group"),
        case("login-owns-object", "schema \"s; x\"", "create schema \"s; x\" authorization {app}")
            .tidy("drop schema \"s; x\""),
        case(
            "login-owns-object",
            "function {S}.f(integer)",
            "create function {S}.f(int) returns int language sql as 'select 1'; alter function {S}.f owner to {ro}",
        )
        .tidy("drop function {S}.f"),
        case("database-open-to-others", "database {own}", "grant connect on database {own} to public"),
        case("database-open-to-others", "database {own}", "grant connect on database {own} to {galle}"),
        case("database-reachable", "database {name}_other", "create database {name}_other")
            .tidy("drop database {name}_other"),
    ]
}

pub fn server() -> Vec<Case> {
    vec![
        case(
            "activity-of-others",
            "functions behind pg_stat_activity",
            "grant execute on function pg_stat_get_activity(int) to public",
        ),
        case(
            "signals-to-others",
            "functions pg_cancel_backend and pg_terminate_backend",
            "grant execute on function pg_cancel_backend(int) to {app}",
        ),
        case(
            "large-objects",
            "functions of large objects (lo_...)",
            "grant execute on function lo_open(oid, int), loread(int, int) to {app}",
        ),
        case(
            "server-function",
            "function pg_catalog.pg_read_file(text)",
            "grant execute on function pg_read_file(text) to {app}",
        ),
        case("extension-reaches-out", "extension dblink", "create extension dblink schema {S}")
            .tidy("drop extension dblink"),
        case("extension-looks-inside", "extension pgrowlocks", "create extension pgrowlocks")
            .tidy("drop extension pgrowlocks"),
        case("statement-statistics", "extension pg_stat_statements", "create extension pg_stat_statements")
            .tidy("drop extension pg_stat_statements"),
        case(
            "foreign-server-usable",
            "foreign server \"s; x\"",
            "create extension postgres_fdw; create server \"s; x\" foreign data wrapper postgres_fdw;
             grant usage on foreign server \"s; x\" to {app}",
        )
        .tidy("drop extension postgres_fdw cascade"),
        case(
            "foreign-data-wrapper-usable",
            "foreign data wrapper postgres_fdw",
            "create extension postgres_fdw; grant usage on foreign data wrapper postgres_fdw to public",
        )
        .tidy("drop extension postgres_fdw"),
        case(
            "user-mapping",
            "user mapping for {app} on server \"s; x\"",
            "create extension postgres_fdw; create server \"s; x\" foreign data wrapper postgres_fdw;
             create user mapping for {app} server \"s; x\"",
        )
        .tidy("drop extension postgres_fdw cascade"),
    ]
}

/// Hides a column of a table in {S} from a role.
fn hide(relation: &str, column: &str, role: &str) -> String {
    format!(
        "insert into pgward.classification
             select n.nspname, '{relation}', '{column}', 'personal', array[r.rolname] from pg_namespace n, pg_roles r
             where quote_ident(n.nspname) = '{{S}}' and quote_ident(r.rolname) = '{role}';"
    )
}

/// Vouches for {S}.v.
fn vouch(kind: &str, by: &str) -> String {
    format!(
        "insert into pgward.export_view (schema, view, kind, k, quasi_identifiers)
             select n.nspname, 'v', '{kind}', 5, '{{{by}}}' from pg_namespace n where quote_ident(n.nspname) = '{{S}}';"
    )
}

pub fn classification() -> Vec<Case> {
    let people = good("{S}.t", "mail text, \"pho; ne\" text, city text");
    let hidden = format!("{people} {} {}", hide("t", "mail", "{ro}"), hide("t", "pho; ne", "{ro}"));
    let group = format!("{people} create role {{name}}_group; {}", hide("t", "mail", "{name}_group"));
    let parts = people.replace("(tenant_id, id)", "(tenant_id, id, city)");
    let parts = parts.replace("(tenant_id, id, city));", "(tenant_id, id, city)) partition by list (city);");
    let parts = format!("{parts} create table {{S}}.p1 partition of {{S}}.t for values in ('galle');");
    let clear = "drop table if exists {S}.t cascade; drop role if exists {name}_group;
        delete from pgward.classification; delete from pgward.export_view";
    let reads = "classified-column-readable";
    let case = |rule, object: &str, wrong: &str| case(rule, object, wrong).tidy(clear);
    let view = |definition: &str| format!("create view {{S}}.v as {definition}; grant select on {{S}}.v to {{ro}};");
    let (viewed, seen) = ("classified-column-in-view", "view {S}.v for {ro}");
    let exposes = "export-view-exposes-column";
    vec![
        case(reads, "column {S}.t.mail for {ro}", &format!("{hidden} grant select on {{S}}.t to {{ro}}")),
        case(reads, "column {S}.t.\"pho; ne\" for {ro}", &format!("{hidden} grant select on {{S}}.t to public")),
        case(reads, "column {S}.t.mail for {ro}", &format!("{hidden} grant select (mail, city) on {{S}}.t to {{ro}}")),
        case(reads, "column {S}.t.mail for {ro}", &format!("{hidden} grant trigger on {{S}}.t to {{ro}}")),
        case(
            reads,
            "column {S}.t.mail for {ro}",
            &format!(
                "{hidden} create role {{name}}_group; grant {{name}}_group to {{ro}};
                 grant select on {{S}}.t to {{name}}_group"
            ),
        )
        .right("revoke {name}_group from {ro}"),
        case(reads, "column {S}.t.mail for {name}_group", &format!("{group} alter table {{S}}.t owner to {{name}}_group"))
            .right("alter table {S}.t owner to postgres"),
        case(reads, "column {S}.t.mail for {name}_group", &format!("{group} alter role {{name}}_group superuser"))
            .right("alter role {name}_group nosuperuser"),
        case(reads, "column {S}.t.mail for {name}_group", &format!("{group} alter role {{name}}_group replication"))
            .right("alter role {name}_group noreplication"),
        case(reads, "column {S}.t.mail for {name}_group", &format!("{group} grant pg_read_all_data to {{name}}_group"))
            .right("revoke pg_read_all_data from {name}_group"),
        case(
            reads,
            "column {S}.p1.mail for {ro}",
            &format!("{parts} {} grant select on {{S}}.p1 to {{ro}}", hide("t", "mail", "{ro}")),
        ),
        case(
            reads,
            "column {S}.t.mail for {ro}",
            &format!("{parts} {} grant select on {{S}}.t to {{ro}}", hide("p1", "mail", "{ro}")),
        ),
        case(viewed, seen, &format!("{hidden} {}", view("select id, '*' || right(mail, 3) as mail from {S}.t")))
            .right(&vouch("masked", "")),
        // The catalogue does not say that it reads the column.
        case(viewed, seen, &format!("{hidden} {}", view("select x from {S}.t x")))
            .right("drop view {S}.v"),
        case(
            viewed,
            seen,
            &format!(
                "{hidden} create view {{S}}.w with (security_invoker) as select id, mail from {{S}}.t; {}",
                view("select w.id from {S}.w")
            ),
        )
        .right("revoke select on {S}.v from {ro}"),
        case(
            viewed,
            "view {S}.m for {ro}",
            &format!("{hidden} create materialized view {{S}}.m as select mail from {{S}}.t; grant select (mail) on {{S}}.m to public"),
        )
        .right("revoke select (mail) on {S}.m from public"),
        case(
            "classified-column-in-function",
            "function {S}.f() for {ro}",
            &format!(
                "{hidden} create function {{S}}.f() returns text language sql stable security definer
                     set search_path = pg_catalog, pg_temp begin atomic select max(mail) from {{S}}.t; end"
            ),
        )
        .tidy(&format!("drop function {{S}}.f; {clear}")),
        case(
            "classified-table-in-function",
            "function {S}.f()",
            &format!(
                "{} {} create function {{S}}.f() returns text language plpgsql stable security definer
                     set search_path = pg_catalog, pg_temp as $$ begin return (select max(mail) from {{S}}.\"T; a\"\"b\"); end $$",
                people.replace("{S}.t", "{S}.\"T; a\"\"b\""),
                hide("T; a\"b", "mail", "{ro}")
            ),
        )
        .right("revoke execute on function {S}.f from public")
        .tidy(&format!("drop function {{S}}.f; drop table {{S}}.\"T; a\"\"b\"; {clear}")),
        case(
            "classification-without-column",
            "classification of {S}.t.mail",
            &format!("{hidden} alter table {{S}}.t rename mail to email"),
        )
        .right("alter table {S}.t rename email to mail"),
        case(
            "classification-without-role",
            "classification of {S}.t.mail",
            &format!("{hidden} update pgward.classification set hidden_from = array['public', 'nob\"ody']"),
        )
        .right("update pgward.classification set hidden_from = '{public}'"),
        case(exposes, "view {S}.v", &format!("{hidden} {} {}", view("select city, mail as m from {S}.t"), vouch("anonymised", "city")))
            .right(&format!("drop view {{S}}.v; {}", view("select city, left(mail, 1) as m from {S}.t"))),
        case(
            exposes,
            "view {S}.v",
            &format!(
                "{hidden} create view {{S}}.w as select id, mail from {{S}}.t; {} {}",
                view("select mail from {S}.w union all select city from {S}.t"),
                vouch("masked", "")
            ),
        )
        .right("revoke select on {S}.v from {ro}"),
        // By way of a view upon it.
        case(
            exposes,
            "view {S}.v",
            &format!(
                "{hidden} create view {{S}}.v as select mail from {{S}}.t; {} create view {{S}}.w as select mail from {{S}}.v;
                 grant select on {{S}}.w to {{ro}}",
                vouch("masked", "")
            ),
        )
        .right("revoke select on {S}.w from {ro}"),
        // Also where it is a quasi-identifier, for those that it is hidden from.
        case(exposes, "view {S}.v", &format!("{hidden} {} {}", view("select mail from {S}.t"), vouch("anonymised", "mail")))
            .right("revoke select on {S}.v from {ro}"),
        case(exposes, "view {S}.v", &format!("{hidden} {} {}", view("select to_json(t) as j from {S}.t"), vouch("masked", "")))
            .right("drop view {S}.v; delete from pgward.export_view"),
        case(
            "export-view-changeable",
            "view {S}.v",
            &format!("{people} {} alter view {{S}}.v owner to {{app}}; {}", view("select city from {S}.t"), vouch("anonymised", "city")),
        )
        .right("alter view {S}.v owner to postgres"),
        case(
            "export-view-changeable",
            "view {S}.v",
            &format!(
                "{people} create function {{S}}.f(text) returns text language sql stable as 'select $1';
                 alter function {{S}}.f owner to {{app}}; create view {{S}}.w as select {{S}}.f(city) as city from {{S}}.t; {} {}",
                view("select city from {S}.w"),
                vouch("anonymised", "city")
            ),
        )
        .right("alter function {S}.f owner to postgres")
        .tidy(&format!("{clear}; drop function {{S}}.f")),
        case("export-view-missing", "view {S}.v", &vouch("masked", "")).right("delete from pgward.export_view"),
        case(
            "export-view-unchecked",
            "view {S}.v",
            &format!("{people} {} {}", view("select city from {S}.t"), vouch("anonymised", "town")),
        )
        .right("update pgward.export_view set quasi_identifiers = '{city}'"),
        case(
            "export-view-unchecked",
            "view {S}.v",
            &format!("{people} {} {}", view("select city, count(*) as n from {S}.t group by city"), vouch("aggregated", "")),
        )
        .right("update pgward.export_view set quasi_identifiers = '{city}', counted = 'n'"),
    ]
}

pub fn installed() -> Vec<Case> {
    vec![
        case("pgward-not-installed", "schema pgward", "alter schema pgward rename to elsewhere; drop policy \"own; rows\" on {T}; alter table {T} rename tenant_id to t")
            .right("alter schema elsewhere rename to pgward; alter table {T} rename t to tenant_id;
                create policy \"own; rows\" on {T} using (tenant_id = (select pgward.tenant()))"),
        case("pgward-outdated", "schema pgward", "comment on schema pgward is 'pgward 0: the first'")
            .right("comment on schema pgward is 'pgward 99: of a later program'"),
        case("key-missing", "key k1", "update pgward.keys set kid = 'k0' where kid = 'k1'")
            .right("update pgward.keys set kid = 'k1' where kid = 'k0'"),
        case("key-left-over", "key k'2", "insert into pgward.keys values ('k''2', '', '')")
            .right("delete from pgward.keys where kid = 'k''2'"),
        case("pgward-tables-open", "table pgward.keys", "grant select on pgward.keys to public"),
        case("pgward-tables-open", "table pgward.export_view", "grant insert on pgward.export_view to {galle}"),
        case("guard-missing", "event trigger pgward_guard", "alter event trigger pgward_guard disable"),
    ]
}
