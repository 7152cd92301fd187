//! Taking another identity (line 1), and what the login role may do to itself and to others (19).

use crate::case::{Case, Expected, extended, run, sql};
use crate::support::raw::errors;
use crate::tap::{ask, held};

/// A role that may not be assumed; and what is not a role.
const NO: &str = "42501 22023 42704 0A000 0LP01";

pub fn cases() -> Vec<Case> {
    let mut cases = roles();
    cases.extend(hidden_roles());
    cases.extend(at_login());
    cases.extend(own_role());
    cases.extend(rights());
    cases
}

fn roles() -> Vec<Case> {
    vec![
        sql("role.superuser", 1, "SET ROLE postgres", &["set role postgres"]).denied(NO),
        sql("role.victim", 1, "SET ROLE to another tenant's role", &["set role kandy"]).denied(NO),
        sql("role.quoted", 1, "the same in quotes", &["set role \"kandy\""]).denied(NO),
        sql("role.literal", 1, "the same as a literal", &["set role 'kandy'"]).denied(NO),
        sql("role.unicode", 1, "the same in unicode escapes", &["set role U&'kand\\0079'"]).denied("42501 42601"),
        sql("role.unicode-name", 1, "the name of the setting in unicode escapes", &["set U&\"\\0072ole\" = 'kandy'"])
            .denied(NO),
        sql("role.comments", 1, "SET ROLE between comments", &["set/**/role/* x /* y */ */kandy--"]).denied(NO),
        sql("role.equals", 1, "SET role = ...", &["set role = 'kandy'"]).denied(NO),
        sql("role.session", 1, "SET SESSION ROLE", &["set session role kandy"]).denied(NO),
        sql("role.local", 1, "SET LOCAL ROLE in a transaction", &["begin", "set local role kandy"]).denied(NO),
        sql("role.none", 1, "SET ROLE NONE shows no more than before", &["set role none", "{peek}"]).blind(),
        sql("role.own", 1, "SET ROLE to its own role", &["set role {role}", "{peek}"]).blind(),
        sql("role.reset", 1, "RESET ROLE, then others' rows", &["reset role", "{peek}"]).blind(),
        sql("role.batch", 1, "SET ROLE in a batch with a read", &["set role kandy; {peek}"]).denied(NO),
        sql(
            "role.batch-behind-read",
            1,
            "a read, then SET ROLE, then a read",
            &["select 1; set role pg_read_all_data; {peek}"],
        )
        .denied(NO),
        sql("role.read-all-data", 1, "SET ROLE pg_read_all_data", &["set role pg_read_all_data"]).denied(NO),
        sql("role.monitor", 1, "SET ROLE pg_monitor", &["set role pg_monitor"]).denied(NO),
        sql("role.server-files", 1, "SET ROLE pg_read_server_files", &["set role pg_read_server_files"]).denied(NO),
        sql("role.signal", 1, "SET ROLE pg_signal_backend", &["set role pg_signal_backend"]).denied(NO),
        sql("role.readonly", 1, "SET ROLE to the cluster's other login role", &["set role pgward_readonly"])
            .denied(NO)
            .of_pgward(),
        sql("role.service", 1, "SET ROLE to a role of pgward's that there may be", &["set role pgward_service"])
            .denied(NO)
            .of_pgward(),
        sql(
            "authorization.superuser",
            1,
            "SET SESSION AUTHORIZATION postgres",
            &["set session authorization postgres"],
        )
        .denied(NO),
        sql(
            "authorization.victim",
            1,
            "SET SESSION AUTHORIZATION to another tenant",
            &["set session authorization 'kandy'"],
        )
        .denied(NO),
        sql(
            "authorization.session",
            1,
            "SET SESSION SESSION AUTHORIZATION",
            &["set session session authorization kandy"],
        )
        .denied(NO),
        sql(
            "authorization.local",
            1,
            "SET LOCAL SESSION AUTHORIZATION",
            &["begin; set local session authorization kandy"],
        )
        .denied(NO),
        sql(
            "authorization.default",
            1,
            "SET SESSION AUTHORIZATION DEFAULT",
            &["set session authorization default", "{peek}"],
        )
        .blind(),
        sql("authorization.reset", 1, "RESET SESSION AUTHORIZATION", &["reset session authorization", "{peek}"])
            .blind(),
        sql("authorization.setting", 1, "SET session_authorization = ...", &["set session_authorization = 'postgres'"])
            .denied(NO),
        extended("role.extended", 1, "SET ROLE by the extended protocol", &[("set role kandy", &[])]).denied(NO),
        extended(
            "role.set-config-parameter",
            1,
            "set_config of role, all bound",
            &[("select set_config($1, $2, false)", &["role", "kandy"])],
        )
        .denied(NO),
        extended(
            "authorization.set-config",
            1,
            "set_config of session_authorization, all bound",
            &[("select set_config($1, $2, $3::bool)", &["session_authorization", "postgres", "false"])],
        )
        .denied(NO),
    ]
}

fn hidden_roles() -> Vec<Case> {
    vec![
        sql("role.do", 1, "SET ROLE in DO", &["do $$ begin set role kandy; end $$"]).denied(NO),
        sql("role.do-execute", 1, "SET ROLE in EXECUTE, its text put together",
            &["do $$ begin execute 'se' || 't ro' || 'le kan' || 'dy'; end $$"]).denied(NO),
        sql("role.do-nested", 1, "DO in DO", &["do $a$ begin execute $b$do $c$ begin perform set_config('role', 'kandy', false); end $c$ $b$; end $a$"])
            .denied(NO),
        sql("role.do-caught", 1, "SET ROLE in DO, its error caught, then a read",
            &["do $$ begin set role kandy; exception when others then null; end $$", "{peek}"]).blind(),
        sql("role.function-set", 1, "a function with SET role", &[
            "create function pg_temp.f() returns text language sql set role = 'kandy' as 'select current_user::text'",
            "select pg_temp.f()",
        ]).denied(NO),
        sql("role.function-body", 1, "a function whose body sets the role", &[
            "create function pg_temp.f() returns void language plpgsql as $$ begin set role kandy; end $$",
            "select pg_temp.f()",
        ]).denied(NO),
        sql("role.definer", 1, "a SECURITY DEFINER function of its own", &[
            "create function pg_temp.f() returns text language sql security definer as 'select current_user::text'",
            "select pg_temp.f()",
        ]).shows("{role}"),
        sql("role.definer-given", 1, "giving that function to a superuser", &[
            "create function pg_temp.f() returns text language sql security definer as 'select current_user::text'",
            "alter function pg_temp.f() owner to postgres",
        ]).denied(NO),
        sql("role.query-to-xml", 1, "set_config of role within query_to_xml",
            &["select query_to_xml('select set_config(''role'', ''kandy'', false)', true, true, '')"]).denied(NO),
        sql("role.pg-settings", 1, "UPDATE pg_settings", &["update pg_settings set setting = 'kandy' where name = 'role' returning name"])
            .blind(),
        sql("role.pg-settings-rows", 1, "UPDATE pg_settings, then others' rows",
            &["update pg_settings set setting = 'off' where name = 'row_security'", "{peek}"]).blind(),
        sql("role.temp-owner", 1, "a temporary table given to another role",
            &["create temp table t (x int)", "alter table t owner to kandy"]).denied(NO),
        sql("role.view-as-owner", 1, "a temporary view over others' rows", &["create temp view v as {peek}", "select * from v"]).blind(),
        sql("role.reassign", 1, "REASSIGN OWNED to itself", &["reassign owned by kandy to {role}"]).denied(NO),
        sql("role.grant", 1, "GRANT another's role to itself", &["grant kandy to {role}"]).denied(NO),
        sql("role.grant-superuser", 1, "GRANT postgres to itself", &["grant postgres to {role} with admin option"]).denied(NO),
        sql("role.create", 1, "CREATE ROLE", &["create role eve login superuser"]).denied(NO),
        sql("role.rule", 1, "a rule on pg_settings", &["create rule r as on update to pg_settings do instead nothing"]).denied("42501 42809"),
    ]
}

fn at_login() -> Vec<Case> {
    vec![
        run("role.startup", 1, "startup parameter role", |h| {
            Box::pin(async move {
                let login = h.place.level.hostile_login();
                refusals(
                    &h,
                    &login,
                    &[
                        [("role", "kandy")],
                        [("session_authorization", "postgres")],
                        [("ROLE", "kandy")],
                        [("row_security", "off")],
                        [("session_replication_role", "replica")],
                        [("local_preload_libraries", "x")],
                    ],
                )
                .await
            })
        })
        .of_pgward(),
        run("role.options", 1, "startup options -c role=, in all spellings", |h| {
            Box::pin(async move {
                let login = h.place.level.hostile_login();
                refusals(
                    &h,
                    &login,
                    &[
                        [("options", "-c role=kandy")],
                        [("options", "-crole=kandy")],
                        [("options", "--role=kandy")],
                        [("options", "--session-authorization=postgres")],
                        [("options", "-c session\\_authorization=postgres")],
                        [("options", "-c work_mem=1MB -c role=kandy")],
                        [("options", "-c work_mem=1MB\\ -c\\ role=kandy -c role=kandy")],
                        [("options", "-c\trole=kandy")],
                        [("options", "-c\nrole=kandy")],
                        [("options", "-c \\role=kandy")],
                        [("options", "-B 1")],
                        [("options", "-d 5")],
                        [("options", "-E")],
                        [("options", "-P")],
                        [("options", "-O -c role=kandy")],
                        [("options", "--single")],
                    ],
                )
                .await
            })
        })
        .of_pgward(),
        run("role.startup-value", 1, "a startup parameter whose value goes on with another statement", |h| {
            Box::pin(async move {
                let login = h.place.level.hostile_login();
                let sly = "x'; set role kandy; --";
                let (mut wire, _) = h.log_in(&login, &[("application_name", sly)]).await;
                let said =
                    ask(&mut wire, "select current_setting('application_name') || current_setting('role')").await;
                held(crate::tap::first(&said) == format!("{sly}none"), "the value is a value")
            })
        })
        .of_pgward(),
        run("role.user-names", 1, "another user name with its own token", |h| {
            Box::pin(async move {
                let me = h.place.level.hostile();
                let token = h.place.stage().token(me, "app");
                for user in [
                    "postgres",
                    "kandy",
                    "acme",
                    "pgward_app",
                    "ann",
                    "admin",
                    "MALLORY",
                    "mallory ",
                    "galle\u{a0}",
                    "*",
                    "pg_monitor",
                ] {
                    let code = h.refused(user, "app", &token, &[]).await;
                    held(code.as_deref() == Some("28000"), format!("as {user}: {code:?}"))?;
                }
                Ok("refused, 28000".to_owned())
            })
        })
        .of_pgward(),
        run("role.other-databases", 1, "another database with its own token", |h| {
            Box::pin(async move {
                let me = h.place.level.hostile();
                let token = h.place.stage().token(me, "app");
                for database in ["postgres", "template1", "app_clean", "pgward", "APP", "app ", "*"] {
                    let code = h.refused(me, database, &token, &[]).await;
                    held(
                        code.as_deref().is_some_and(|code| code.starts_with("28") || code == "08P01"),
                        format!("in {database}: {code:?}"),
                    )?;
                }
                Ok("refused, 28000".to_owned())
            })
        })
        .of_pgward(),
    ]
}

async fn refusals(h: &crate::tap::Hostile, login: &crate::tap::Login, all: &[[(&str, &str); 1]]) -> crate::case::Told {
    for more in all {
        let (mut wire, said) = h.try_log_in(login, more).await;
        match errors(&said).first().map(String::as_str) {
            Some("0A000" | "22023" | "42501" | "08P01") => {}
            Some(other) => return Err(format!("{more:?}: {other}")),
            None => {
                let role = crate::tap::first(
                    &ask(&mut wire, "select current_user::text || current_setting('row_security')").await,
                );
                return Err(format!("{more:?} was let in, as {role}"));
            }
        }
    }
    Ok("refused".to_owned())
}

/// What a role may change of itself must not be what later logins get.
fn own_role() -> Vec<Case> {
    let poison = |id, what, texts| sql(id, 19, what, texts).later_logins().may_end();
    vec![
        poison(
            "alter-role.search-path",
            "ALTER ROLE of itself SET search_path",
            &["alter role {role} set search_path = pg_temp, nowhere"],
        ),
        poison(
            "alter-role.current-user",
            "ALTER ROLE CURRENT_USER SET row_security",
            &["alter role current_user set row_security = off"],
        ),
        poison(
            "alter-role.session-user",
            "ALTER USER SESSION_USER SET statement_timeout",
            &["alter user session_user set statement_timeout = 1"],
        ),
        poison(
            "alter-role.in-database",
            "ALTER ROLE IN DATABASE SET",
            &["alter role {role} in database app set default_transaction_read_only = on"],
        ),
        poison(
            "alter-role.libraries",
            "ALTER ROLE SET local_preload_libraries to what is not there: no login works",
            &["alter role {role} set local_preload_libraries = 'nothing'"],
        ),
        poison("alter-role.role", "ALTER ROLE SET role", &["alter role {role} set role = 'pg_monitor'"]),
        poison(
            "alter-role.role-public",
            "ALTER ROLE SET role to a role that is gone later",
            &["alter role {role} set role = 'none'"],
        ),
        poison(
            "alter-role.context",
            "ALTER ROLE SET pgward.context",
            &["alter role {role} set {context} = '{forged}'"],
        ),
        poison("alter-role.token", "ALTER ROLE SET pgward.token", &["alter role {role} set pgward.token = 'x'"]),
        poison(
            "alter-role.idle",
            "ALTER ROLE SET idle_session_timeout",
            &["alter role {role} set idle_session_timeout = 1"],
        ),
        poison(
            "alter-role.idle-in-transaction",
            "ALTER ROLE SET idle_in_transaction_session_timeout",
            &["alter role {role} set idle_in_transaction_session_timeout = 1"],
        ),
        poison(
            "alter-role.encoding",
            "ALTER ROLE SET client_encoding",
            &["alter role {role} set client_encoding = 'SJIS'"],
        ),
        poison(
            "alter-role.strings",
            "ALTER ROLE SET standard_conforming_strings",
            &["alter role {role} set standard_conforming_strings = off"],
        ),
        poison("alter-role.timezone", "ALTER ROLE SET TimeZone", &["alter role {role} set timezone = 'Pacific/Apia'"]),
        poison("alter-role.lock-timeout", "ALTER ROLE SET lock_timeout", &["alter role {role} set lock_timeout = 1"]),
        poison(
            "alter-role.work-mem",
            "ALTER ROLE SET work_mem and temp_buffers",
            &["alter role {role} set work_mem = '64kB'; alter role {role} set temp_buffers = '1GB'"],
        ),
        poison(
            "alter-role.from-current",
            "ALTER ROLE SET ... FROM CURRENT",
            &["set search_path = nowhere; alter role {role} set search_path from current"],
        ),
        poison(
            "alter-role.do",
            "ALTER ROLE hidden in DO",
            &["do $$ begin execute 'al' || 'ter role {role} set search_path = nowhere'; end $$"],
        ),
        poison(
            "alter-role.quoted",
            "ALTER ROLE with the name in unicode escapes, in a batch",
            &["select 1; alter role current_role set \"SEARCH_PATH\" = 'nowhere'; select 2"],
        ),
        poison(
            "alter-role.many",
            "a hundred settings of one's own",
            &[
                "do $$ begin for i in 1..100 loop execute format('alter role {role} set app.x%s = ''y''', i); end loop; end $$",
            ],
        ),
        poison("alter-role.password", "ALTER ROLE PASSWORD of itself", &["alter role {role} password 'known'"]),
        poison("alter-role.password-null", "ALTER ROLE PASSWORD NULL", &["alter role {role} password null"]),
        poison(
            "alter-role.password-current",
            "ALTER USER CURRENT_USER PASSWORD, in DO",
            &["do $$ begin execute 'alter user current_user encrypted password ''known'''; end $$"],
        ),
        poison(
            "alter-role.password-md5",
            "ALTER ROLE PASSWORD by a hash",
            &["alter role {role} password 'md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'"],
        ),
        poison(
            "alter-role.both",
            "password and settings in one transaction",
            &["begin; alter role {role} password 'known'; alter role {role} set search_path = nowhere; commit"],
        ),
        sql("alter-role.rename", 19, "ALTER ROLE RENAME", &["alter role {role} rename to eve"])
            .denied("42501 0A000")
            .later_logins(),
        sql("alter-role.limit", 19, "ALTER ROLE CONNECTION LIMIT", &["alter role {role} connection limit 0"])
            .denied("42501")
            .later_logins(),
        sql("alter-role.until", 19, "ALTER ROLE VALID UNTIL", &["alter role {role} valid until '1970-01-01'"])
            .denied("42501")
            .later_logins(),
        sql("alter-role.nologin", 19, "ALTER ROLE NOLOGIN", &["alter role {role} nologin"])
            .denied("42501")
            .later_logins(),
        sql("alter-role.super", 19, "ALTER ROLE SUPERUSER", &["alter role {role} superuser"]).denied("42501"),
        sql("alter-role.bypass", 19, "ALTER ROLE BYPASSRLS", &["alter role {role} bypassrls"]).denied("42501"),
        sql(
            "alter-role.other",
            19,
            "ALTER ROLE of another's settings",
            &["alter role pgward_readonly set search_path = nowhere"],
        )
        .denied("42501 42704"),
        sql(
            "alter-role.other-password",
            19,
            "ALTER ROLE of another's password",
            &["alter role pgward_readonly password 'known'"],
        )
        .denied("42501 42704"),
        sql(
            "alter-role.victim",
            19,
            "another tenant's role: settings",
            &["alter role kandy set search_path = nowhere"],
        )
        .denied("42501"),
        sql(
            "alter-role.victim-password",
            19,
            "another tenant's role: password",
            &["alter role kandy password 'known'"],
        )
        .denied("42501"),
        sql("alter-role.superuser", 19, "the superuser's settings", &["alter role postgres set search_path = nowhere"])
            .denied("42501"),
        sql("alter-role.all", 19, "ALTER ROLE ALL SET", &["alter role all set search_path = nowhere"]).denied("42501"),
        sql("alter-database.set", 19, "ALTER DATABASE SET", &["alter database app set search_path = nowhere"])
            .denied("42501"),
        sql("alter-database.limit", 19, "ALTER DATABASE CONNECTION LIMIT", &["alter database app connection limit 0"])
            .denied("42501"),
        sql("alter-database.rename", 19, "ALTER DATABASE RENAME", &["alter database app_clean rename to eve"])
            .denied("42501"),
        sql("alter-system", 19, "ALTER SYSTEM", &["alter system set max_connections = 1"]).denied("42501"),
        sql("drop-role", 19, "DROP ROLE of itself", &["drop role {role}"]).denied("42501 55006"),
        sql("drop-role.victim", 19, "DROP ROLE of another", &["drop role kandy"]).denied("42501"),
    ]
}

/// Rights on what all tenants share, and on what is another's.
fn rights() -> Vec<Case> {
    vec![
        sql("rights.drop-owned", 19, "DROP OWNED BY itself, which takes back what the role was granted",
            &["drop owned by current_user"]).denied("42501").at_schema(Expected::Harmless),
        sql("rights.drop-owned-cascade", 19, "DROP OWNED BY ... CASCADE in DO",
            &["do $$ begin execute 'drop owned by {role} cascade'; end $$"]).denied("42501").at_schema(Expected::Harmless),
        sql("rights.drop-owned-victim", 19, "DROP OWNED BY another", &["drop owned by kandy"]).denied("42501"),
        sql("rights.reassign-owned", 19, "REASSIGN OWNED BY itself to PUBLIC's favourite", &["reassign owned by current_user to pgward_readonly"])
            .denied("42501").of_pgward(),
        sql("rights.revoke-own", 19, "REVOKE of its own role's rights", &["revoke all on public.orders from {role}", "select 1"]).may_end(),
        sql("rights.revoke-schema", 19, "REVOKE USAGE on schema public", &["revoke all on schema public from public"]).may_end(),
        sql("rights.revoke-pgward", 19, "REVOKE of pgward's functions", &["revoke execute on function pgward.tenant() from public"]).may_end().of_pgward(),
        sql("rights.grant-table", 19, "GRANT on what all share", &["grant all on public.orders to public"]).may_end(),
        sql("rights.grant-database", 19, "GRANT on the database", &["grant all on database app to {role}"]).may_end(),
        sql("rights.default", 19, "ALTER DEFAULT PRIVILEGES of others", &["alter default privileges for role kandy grant all on tables to public"])
            .denied("42501"),
        sql("rights.default-own", 19, "ALTER DEFAULT PRIVILEGES of its own", &["begin; alter default privileges grant all on tables to public; rollback"]),
        sql("rights.comment", 19, "COMMENT ON what all share", &["comment on table public.orders is 'mine'"]).denied("42501"),
        sql("rights.comment-role", 19, "COMMENT ON ROLE", &["comment on role {role} is 'mine'"]).denied("42501"),
        sql("rights.comment-database", 19, "COMMENT ON DATABASE", &["comment on database app is 'mine'"]).denied("42501"),
        sql("rights.label", 19, "SECURITY LABEL", &["security label on table public.orders is 'x'"]).denied("22023 42501"),
        sql("rights.truncate", 15, "TRUNCATE", &["truncate {theirs}"]).denied("42501"),
        sql("rights.drop-table", 19, "DROP TABLE", &["drop table {theirs}"]).denied("42501"),
        sql("rights.disable-rls", 15, "ALTER TABLE DISABLE ROW LEVEL SECURITY", &["alter table public.orders disable row level security"]).denied("42501"),
        sql("rights.no-force", 15, "ALTER TABLE NO FORCE ROW LEVEL SECURITY", &["alter table public.orders no force row level security"]).denied("42501"),
        sql("rights.owner", 15, "ALTER TABLE OWNER", &["alter table {theirs} owner to {role}"]).denied("42501"),
        sql("rights.policy", 15, "CREATE POLICY", &["create policy all_rows on public.orders using (true)"]).denied("42501"),
        sql("rights.alter-policy", 15, "ALTER POLICY", &["alter policy own_rows on public.orders using (true)"]).denied("42501"),
        sql("rights.drop-policy", 15, "DROP POLICY", &["drop policy own_rows on public.orders"]).denied("42501"),
        sql("rights.trigger", 15, "CREATE TRIGGER on what others write", &[
            "create function pg_temp.f() returns trigger language plpgsql as $$ begin return null; end $$",
            "create trigger t before insert on {theirs} for each row execute function pg_temp.f()",
        ]).denied("42501"),
        sql("rights.disable-trigger", 15, "ALTER TABLE DISABLE TRIGGER", &["alter table {theirs} disable trigger all"]).denied("42501"),
        sql("rights.rule", 15, "CREATE RULE on what others read", &["create rule r as on insert to {theirs} do also nothing"]).denied("42501"),
        sql("rights.index", 15, "CREATE INDEX over a function of its own", &["create index on {theirs} ((item || ''))"]).denied("42501"),
        sql("rights.inherit", 15, "a temporary table that inherits", &["create temp table t () inherits ({theirs})"]).denied("42501"),
        sql("rights.like", 15, "a foreign key to others' rows", &["create temp table t (a text, b bigint, foreign key (a, b) references {theirs})"])
            .denied("42501 42P16 42830"),
        sql("rights.public", 15, "CREATE TABLE in public", &["create table public.trap (x int)"]).denied("42501"),
        sql("rights.public-function", 15, "CREATE FUNCTION in public", &["create function public.lower(text) returns text language sql as 'select $1'"])
            .denied("42501"),
        sql("rights.public-operator", 15, "CREATE OPERATOR in public",
            &["create operator public.= (leftarg = text, rightarg = text, function = texteq)"]).denied("42501"),
        sql("rights.catalog", 15, "CREATE FUNCTION in pg_catalog", &["create function pg_catalog.f() returns int language sql as 'select 1'"])
            .denied("42501"),
        sql("rights.replace", 15, "CREATE OR REPLACE of pgward.tenant()",
            &["create or replace function pgward.tenant() returns text language sql as $$ select 'acme' $$"]).denied("42501 3F000"),
        sql("rights.context-check", 15, "ALTER DOMAIN of what checks contexts",
            &["alter domain pgward.genuine drop constraint genuine"]).denied("42501 3F000"),
        sql("rights.context-column", 15, "a column of pgward's own domain", &["create temporary table held (a pgward.genuine)"])
            .denied("42501 3F000"),
        sql("rights.context-cast", 15, "a cast to pgward's own domain",
            &["select ('\\x', '\\x', current_setting('pgward.context', true))::pgward.genuine"]).denied("42501 3F000"),
        sql("rights.pgward-table", 15, "CREATE TABLE in schema pgward", &["create table pgward.keys2 (x int)"]).denied("42501 3F000"),
        sql("rights.schema", 15, "CREATE SCHEMA", &["create schema eve"]).denied("42501"),
        sql("rights.victim-schema", 15, "CREATE in another's schema", &["create table kandy.trap (x int)"]).denied("42501"),
        sql("rights.victim-function", 15, "CREATE FUNCTION in another's schema",
            &["create function kandy.lower(text) returns text language sql as 'select $1'"]).denied("42501"),
        sql("rights.event-trigger", 15, "CREATE EVENT TRIGGER", &[
            "create function pg_temp.f() returns event_trigger language plpgsql as $$ begin end $$",
            "create event trigger e on ddl_command_start execute function pg_temp.f()",
        ]).denied("42501"),
        sql("rights.guard", 19, "ALTER EVENT TRIGGER of pgward's", &["alter event trigger pgward_guard disable"]).denied("42501 42704"),
        sql("rights.language", 15, "CREATE LANGUAGE", &["create language plperlu"]).denied("42501 0A000 58P01"),
        sql("rights.c-function", 15, "a function in C",
            &["create function pg_temp.f() returns int language c as 'libc.so.6', 'system'"]).denied("42501"),
        sql("rights.internal-function", 15, "a function in internal",
            &["create function pg_temp.f() returns int language internal as 'pg_backend_pid'"]).denied("42501"),
        sql("rights.cast", 15, "CREATE CAST on built-in types", &["create cast (text as int) with inout as implicit"]).denied("42501"),
        sql("rights.operator-class", 15, "CREATE OPERATOR CLASS",
            &["create operator class pg_temp.o default for type text using btree as operator 3 = (text, text), function 1 bttextcmp(text, text)"])
            .denied("42501"),
        sql("rights.publication", 15, "CREATE PUBLICATION", &["create publication p for all tables"]).denied("42501"),
        sql("rights.subscription", 15, "CREATE SUBSCRIPTION", &["create subscription s connection 'host=127.0.0.1' publication p"]).denied("42501"),
        sql("rights.statistics", 15, "CREATE STATISTICS on others' table", &["create statistics pg_temp.s on id, item from {theirs}"]).denied("42501"),
        sql("rights.vacuum", 19, "VACUUM FULL of what others use", &["vacuum full {theirs}", "select 1"]).may_end(),
        sql("rights.cluster", 19, "CLUSTER", &["cluster {theirs} using orders_pkey"]).denied("42501"),
        sql("rights.reindex", 19, "REINDEX DATABASE", &["reindex database app"]).denied("42501"),
        sql("rights.reindex-table", 19, "REINDEX TABLE", &["reindex table {theirs}"]).denied("42501"),
        sql("rights.lock-keys", 19, "LOCK TABLE of pgward's keys", &["begin; lock table pgward.keys"]).denied("42501 3F000"),
        sql("rights.lock-catalog", 19, "LOCK TABLE of the catalogue", &["begin; lock table pg_catalog.pg_class in access exclusive mode"]).denied("42501"),
        sql("rights.lock-victim", 19, "LOCK TABLE of another's", &["begin; lock table kandy.orders in access share mode"]).denied("42501"),
        sql("rights.update-catalog", 15, "UPDATE pg_class", &["update pg_catalog.pg_class set relrowsecurity = false where relname = 'orders'"])
            .denied("42501"),
        sql("rights.insert-setting", 15, "INSERT INTO pg_db_role_setting",
            &["insert into pg_catalog.pg_db_role_setting values (0, 0, '{search_path=nowhere}')"]).denied("42501"),
        sql("rights.sequence", 15, "setval of others' sequence", &["select setval('kandy.orders_id_seq', 1)"]).denied("42501"),
        sql("rights.shared-sequence", 15, "setval of the shared tables' sequence", &["select setval('public.orders_id_seq', 1)"]).denied("42501"),
    ]
}
