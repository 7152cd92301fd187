//! Columns that are hidden from some: what a tenant's client sees of them through pgward, and the commands that list
//! them, take them up from comments, and count who shares what a view shows.

mod support;

use std::process::{Command, Output};

use pgward::base::ClusterName;
use pgward::doctor::{self, Breadth, Question};
use pgward::tenant::{Installation, uninstall};
use serde_json::Value;
use support::{HEAD, ORDERS, Stage, cluster, code, configuration, one, parse};
use tokio_postgres::Client;

/// A database, roles and tenants of one test's own, with a table of people that row-level security keeps apart.
struct Place {
    name: &'static str,
    folder: tempfile::TempDir,
    admin: Client,
}

const PEOPLE: &str = "
    create table people (id int, name text, city text, age int, mail text, phone text,
        tenant_id text not null default pgward.tenant(), primary key (tenant_id, id));
    alter table people enable row level security;
    alter table people force row level security;
    create policy own_rows on people for all
        using (tenant_id = (select pgward.tenant())) with check (tenant_id = (select pgward.tenant()));
    grant select, insert, update, delete on people to pgward_app;
    grant select on people to pgward_readonly;
    insert into people
        select n, 'name ' || n, case when n < 8 then 'galle' else 'kandy' end, 30 + n % 2, 'm' || n || '@example.com', '077' || n, 'acme'
        from generate_series(1, 10) n;
    insert into pgward.classification values
        ('public', 'people', 'mail', 'personal', '{pgward_readonly}', 'since 2026'),
        ('public', 'people', 'phone', 'sensitive', '{pgward_readonly}', null),
        ('public', 'people', 'name', 'personal', '{}', null);
";

impl Place {
    /// `extra` goes in front of the configuration.
    async fn with(name: &'static str, extra: &str) -> Self {
        let server = cluster().await.primary();
        server.run("postgres", "create the database", &format!("create database {name}")).await.unwrap();
        let text = configuration(server.port(), extra)
            .replace("pgward_", &format!("{name}_"))
            .replace("database = \"app\"", &format!("database = \"{name}\""))
            .replace("[tenants.kandy]", &format!("[tenants.{name}_own]"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pgward.toml"), format!("{HEAD}{text}")).unwrap();
        let place = Self { name, folder, admin: server.connect(name).await.unwrap() };
        place.install().await;
        place
    }

    async fn new(name: &'static str) -> Self {
        let place = Self::with(name, "").await;
        place.run(PEOPLE).await;
        place
    }

    fn settings(&self) -> pgward::config::Settings {
        parse(&std::fs::read_to_string(self.folder.path().join("pgward.toml")).unwrap())
    }

    async fn install(&self) {
        let (settings, main) = (self.settings(), ClusterName::parse("main").unwrap());
        Installation::new(&settings, &main, self.name).run(&self.admin).await.unwrap();
    }

    async fn run(&self, sql: &str) {
        let sql = sql.replace("pgward_", &format!("{}_", self.name));
        self.admin.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn stage(&self) -> Stage {
        Stage::at(self.folder.path().join("pgward.toml")).await
    }

    /// What the doctor mends of these rules, mended.
    async fn mend(&self, rule: &str) {
        let main = ClusterName::parse("main").unwrap();
        let question = Question::new(&self.settings(), &main, self.name, &["tenant_id".to_owned()]);
        let found = doctor::examine(&self.admin, &question, Breadth::Database).await.unwrap().database.findings;
        let those = found.iter().filter(|finding| finding.rule.id == rule);
        assert!(doctor::mend(&self.admin, those).await.unwrap() > 0, "{found:#?}");
    }

    async fn pgward(&self, arguments: &[&str]) -> Output {
        self.pgward_as("", arguments).await
    }

    /// As another role, with the password `x`.
    async fn pgward_as(&self, role: &str, arguments: &[&str]) -> Output {
        let mut url = cluster().await.primary().url();
        if !role.is_empty() {
            url = format!("postgresql://{role}:x@127.0.0.1:{}/", cluster().await.primary().port());
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
        command.arg("classification").args(arguments).args(["--url", &url]).env_remove("PGWARD_INSTALL_URL");
        command.arg("--config").arg(self.folder.path().join("pgward.toml"));
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn listed(&self) -> Vec<(String, bool)> {
        let done = self.pgward(&["list", "--json"]).await;
        assert!(done.status.success(), "{}", said(&done));
        let json: Value = serde_json::from_slice(&done.stdout).unwrap();
        let columns = json["columns"].as_array().unwrap().iter();
        columns.map(|c| (c["column"].as_str().unwrap().to_owned(), c["holds"].as_bool().unwrap())).collect()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn refused(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(answer) => panic!("{sql}: {answer:?}"),
        Err(error) => code(&error),
    }
}

#[tokio::test]
async fn a_hidden_column_is_refused_and_the_others_are_shown() {
    let place = Place::new("masking").await;
    let holds = [("mail", false), ("name", true), ("phone", false)].map(|(name, holds)| (name.to_owned(), holds));
    assert_eq!(place.listed().await, holds);
    place.mend("classified-column-readable").await;
    assert!(place.listed().await.iter().all(|(_, holds)| *holds));
    place
        .run(
            "create view people_masked with (security_barrier) as
                select id, name, '*' || right(mail, 12) as mail from people where tenant_id = (select pgward.tenant());
            grant select on people_masked to pgward_readonly;
            insert into pgward.export_view (schema, view, kind) values ('public', 'people_masked', 'masked')",
        )
        .await;
    assert!(place.listed().await.iter().all(|(_, holds)| *holds), "a view that is vouched for may read it");

    let stage = place.stage().await;
    let readonly = stage.try_connect(&stage.url("acme", "readonly")).await.unwrap();
    assert_eq!(
        one(&readonly, "select string_agg(name, ',' order by id) from people where id < 3").await,
        "name 1,name 2"
    );
    assert_eq!(one(&readonly, "select mail from people_masked where id = 1").await, "*@example.com");
    for hidden in [
        "select mail from people",
        "select * from people",
        "select p from people p",
        "select row_to_json(p) from people p",
        "select count(mail) from people",
        "select id from people where mail = 'm1@example.com'",
        "select id from people order by phone",
        "with p (a, b, c, d, e) as (table people) select e from p",
        "copy people to stdout",
        "copy people (phone) to stdout",
        "select query_to_xml('select mail from people', true, true, '')",
        "do $$ begin perform phone from people; end $$",
        "explain analyze select mail from people",
    ] {
        assert_eq!(refused(&readonly, hidden).await, "42501", "{hidden}");
    }
    assert_eq!(code(&readonly.query("select mail from people where id = $1", &[&1]).await.unwrap_err()), "42501");
    place.run("analyze people").await;
    let statistics = "select count(*) from pg_stats where tablename = 'people' and attname in ('mail', 'phone')";
    assert_eq!(one(&readonly, statistics).await, "0");
    // Without row security, which would leave out all of it.
    let stock =
        "create table stock (id int, age int check (age > 0), secret text); insert into stock values (1, 1, 'm1@');
        grant select (id, age), update (age) on stock to pgward_readonly";
    place.run(stock).await;
    let error = readonly.simple_query("update stock set age = -1 where id = 1").await.unwrap_err();
    let detail = error.as_db_error().unwrap().detail().unwrap_or_default();
    assert!(detail.contains("age") && !detail.contains("m1@"), "{detail}");
    let app = stage.connect("acme").await;
    assert_eq!(one(&app, "select mail from people where id = 1").await, "m1@example.com");
    assert_eq!(one(&app, "update people set phone = '1' where id = 1 returning phone").await, "1");
    assert_eq!(refused(&app, "insert into pgward.classification values ('a', 'b', 'c', 'd')").await, "42501");
    assert_eq!(refused(&app, "table pgward.export_view").await, "42501");
}

#[tokio::test]
async fn what_reads_nothing_of_a_hidden_column_is_not_found_fault_with() {
    let place = Place::new("rightly").await;
    place.mend("classified-column-readable").await;
    place
        .run(
            "create view names as select id, name from people; grant select on names to pgward_readonly;
            create view all_of_it with (security_invoker) as select * from people; grant select on all_of_it to pgward_readonly;
            create view for_app as select mail from people; grant select on for_app to pgward_app;
            create view first_of as select left(s.mail, 1) as mail, s.city from (select mail, city from people) s;
            grant select on first_of to pgward_readonly;
            create view cities as with c as (select city, mail from people) select city, count(distinct mail) from c group by city;
            grant select on cities to pgward_readonly;
            create view upon_first as select mail from first_of; grant select on upon_first to pgward_readonly;
            insert into pgward.export_view (schema, view, kind, k, quasi_identifiers) values
                ('public', 'first_of', 'masked', null, '{}'), ('public', 'cities', 'aggregated', 5, '{city}');
            create function how_many() returns bigint language sql stable security definer
                set search_path = pg_catalog, pg_temp begin atomic select count(*) from public.names; end",
        )
        .await;
    let main = ClusterName::parse("main").unwrap();
    let question = Question::new(&place.settings(), &main, place.name, &["tenant_id".to_owned()]);
    let found = doctor::examine(&place.admin, &question, Breadth::Database).await.unwrap().database;
    assert_eq!(found.not_examined, []);
    let about = |id: &str| id.starts_with("classif") || id.starts_with("export-view") || id == "grant-on-column";
    let found: Vec<_> = found.findings.iter().filter(|finding| about(finding.rule.id)).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(place.listed().await.iter().all(|(_, holds)| *holds));
}

#[tokio::test]
async fn the_list_says_who_may_not_see_what_and_whether_that_holds() {
    let place = Place::new("listing").await;
    place
        .run(
            "insert into pgward.classification values
                ('public', 'people', 'gone', 'personal', '{}'), ('public', 'people', 'city', 'personal', '{nobody_here}')",
        )
        .await;
    let done = place.pgward(&["list"]).await;
    assert!(done.status.success(), "{}", said(&done));
    let text = said(&done);
    let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    assert!(row("people.mail").ends_with("personal   listing_readonly  no: listing_readonly can read it"), "{text}");
    assert!(row("people.name").ends_with("-                 -"), "{text}");
    assert!(row("people.gone").ends_with("no such column"), "{text}");
    assert!(row("people.city").ends_with("no such role: nobody_here"), "{text}");
    let sensitive = said(&place.pgward(&["list", "--class", "sensitive"]).await);
    assert!(sensitive.contains("people.phone") && !sensitive.contains("people.mail"), "{sensitive}");
    place.run("create role listing_officer login password 'x'; grant select on pgward.classification, pgward.export_view to listing_officer").await;
    let officer = place.pgward_as("listing_officer", &["list"]).await;
    assert_eq!(said(&officer), text, "it takes no superuser");
    place.run("create role listing_other login password 'x'").await;
    let other = place.pgward_as("listing_other", &["list"]).await;
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("permission denied for table classification"), "{}", said(&other));
}

#[tokio::test]
async fn comments_are_shown_first_and_taken_up_when_asked() {
    let audit = tempfile::tempdir().unwrap();
    let extra = format!("[audit]\nfile = \"{}/pgward.jsonl\"\n", audit.path().display());
    let place = Place::with("comments", &extra).await;
    place.run(PEOPLE).await;
    place
        .run(
            "create schema \"odd; schema\"; create table \"odd; schema\".t (\"c; d\" text);
            comment on column \"odd; schema\".t.\"c; d\" is 'Diagnosis.\npgward: sensitive, hidden from pgward_readonly, \"Odd; role\"';
            comment on column people.mail is 'pgward: personal, hidden from hr, pgward_readonly';
            comment on column people.phone is 'pgward: sensitive'; comment on column people.city is 'where'",
        )
        .await;
    let table = "select string_agg(format('%s.%s %s %s %s', relation, column_name, class, hidden_from, note), E'\\n' order by relation, column_name)
        from pgward.classification";
    let before = one(&place.admin, table).await;
    let done = place.pgward(&["import"]).await;
    assert_eq!(
        said(&done),
        "+ odd; schema.t.c; d: sensitive, hidden from comments_readonly, Odd; role\n\
         ~ public.people.mail: personal, also hidden from hr\n\
         database comments of cluster main: 2 to be taken up by --write, 1 known already\n"
    );
    assert_eq!(one(&place.admin, table).await, before);
    let done = place.pgward(&["import", "--write"]).await;
    assert!(said(&done).contains("2 taken up, 1 known already"), "{}", said(&done));
    let after = one(&place.admin, table).await;
    assert_eq!(
        after,
        "people.mail personal {comments_readonly,hr} since 2026\npeople.name personal {} \n\
         people.phone sensitive {comments_readonly} \nt.c; d sensitive {comments_readonly,\"Odd; role\"} "
    );
    assert!(said(&place.pgward(&["import", "--write"]).await).contains("0 taken up, 3 known"), "again");
    let log = std::fs::read_to_string(audit.path().join("pgward.admin.jsonl")).unwrap();
    assert_eq!(log.matches("\"act\":\"classification_import\"").count(), 4, "{log}");
    assert!(log.contains("comments@main"), "{log}");
    // One that is wrong stops all of them.
    place
        .run(
            "comment on column people.id is 'pgward: personal'; comment on column people.age is 'pgward: personal hidden from hr';
            comment on column people.name is 'pgward: sensitive'",
        )
        .await;
    for arguments in [&["import"][..], &["import", "--write"]] {
        let done = place.pgward(arguments).await;
        assert_eq!(done.status.code(), Some(1));
        let text = said(&done);
        assert!(text.contains("public.people.age has the tag \"personal hidden from hr\""), "{text}");
        assert!(text.contains("public.people.name says sensitive, and pgward.classification says personal"), "{text}");
    }
    assert_eq!(one(&place.admin, table).await, after);
}

#[tokio::test]
async fn groups_that_are_too_small_are_counted_and_no_value_is_told() {
    let place = Place::new("counted").await;
    place
        .run(
            "create view cities as select city, age / 10 as decade, name from people;
            create view figures as select city, count(*) as n from people group by city;
            create materialized view kept as select city, age from people;
            create view broken as select city, name::int as secret from people;
            create view nothing as select city from people where false;
            insert into pgward.export_view (schema, view, kind, k, quasi_identifiers, counted) values
                ('public', 'cities', 'anonymised', 3, '{city,decade}', null),
                ('public', 'figures', 'aggregated', 5, '{city}', 'n')",
        )
        .await;
    let count = async |arguments: &[&str]| {
        let done = place.pgward(&[&["anonymity", "--database", "counted"][..], arguments].concat()).await;
        (done.status.code().unwrap(), said(&done))
    };
    let (status, text) = count(&["--view", "public.cities"]).await;
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("by city, decade\npeople: 10, groups: 2, people in the smallest group: 3"), "{text}");
    let (status, text) = count(&["--view", "public.cities", "--k", "4"]).await;
    assert_eq!(status, 1);
    assert!(
        text.contains("groups smaller than 4: 1, people in them: 3") && text.contains("is not 4-anonymous"),
        "{text}"
    );
    let (status, text) = count(&["--view", "public.cities", "--by", "name", "--json"]).await;
    assert_eq!(status, 1);
    assert!(text.contains("\"groups_too_small\": 10") && !text.contains("name 1"), "{text}");
    let (status, text) = count(&["--view", "public.figures"]).await;
    assert_eq!(status, 1, "a row of it stands for several people");
    assert!(text.contains("people: 10, groups: 2, people in the smallest group: 3"), "{text}");
    assert_eq!(count(&["--view", "public.figures", "--k", "3"]).await.0, 0);
    assert_eq!(count(&["--view", "public.kept", "--k", "7", "--by", "city"]).await.0, 1);
    assert_eq!(count(&["--view", "public.kept", "--k", "2", "--by", "city"]).await.0, 0);
    for (arguments, why) in [
        (&["--view", "public.nowhere", "--k", "2", "--by", "city"][..], "there is no view \"public\".\"nowhere\""),
        (&["--view", "public.people", "--k", "2", "--by", "city"], "there is no view"),
        (&["--view", "public.kept", "--by", "city"], "nothing says what k is"),
        (&["--view", "public.kept", "--k", "2"], "nothing says what the quasi-identifiers"),
        (&["--view", "public.kept", "--k", "2", "--by", "town"], "has no column \"town\""),
        (&["--view", "public.nothing", "--k", "2", "--by", "city"], "shows no rows to this role"),
        (&["--view", "public.cities", "--timeout", "1ms", "--by", "(select pg_sleep(9))"], "has no column"),
    ] {
        let (status, text) = count(arguments).await;
        assert_eq!(status, 1, "{arguments:?}: {text}");
        assert!(text.contains(why), "{arguments:?}: {text}");
    }
    let (status, text) = count(&["--view", "public.broken", "--k", "2", "--by", "secret"]).await;
    assert_eq!(status, 1);
    assert!(text.contains("SQLSTATE 22P02") && !text.contains("name 1"), "{text}");
    place.run("create view slow as select city, pg_sleep(60)::text as x from people").await;
    let (status, text) = count(&["--view", "public.slow", "--k", "2", "--by", "x", "--timeout", "50ms"]).await;
    assert!(status == 1 && text.contains("SQLSTATE 57014"), "{text}");
}

#[tokio::test]
async fn a_view_that_asks_for_the_tenant_is_counted_as_that_tenants_reader_sees_it() {
    let place = Place::new("beheld").await;
    place
        .run(
            "insert into people select n, 'x', 'galle', 30, null, null, 'globex' from generate_series(1, 2) n;
            create view sound as select city from people where tenant_id = (select pgward.tenant());
            create view asks with (security_invoker) as select city from people;
            create view over as select city from asks;
            create role pgward_officer login password 'x' nobypassrls;
            grant select on people, sound, asks, over, pgward.export_view to pgward_officer",
        )
        .await;
    let count = async |role: &str, view: &str, tenant: &[&str]| {
        let arguments = ["anonymity", "--database", "beheld", "--k", "3", "--by", "city", "--view", view];
        let done = place.pgward_as(role, &[&arguments[..], tenant].concat()).await;
        (done.status.code().unwrap(), said(&done))
    };
    let (status, text) = count("", "public.sound", &[]).await;
    assert!(status == 1 && text.contains("shows no rows to this role") && text.contains("--tenant"), "{text}");
    for (role, view) in [("", "public.sound"), ("beheld_officer", "public.asks"), ("beheld_officer", "public.over")] {
        let (status, text) = count(role, view, &["--tenant", "acme"]).await;
        assert!(
            status == 0 && text.contains("people: 10, groups: 2, people in the smallest group: 3"),
            "{view}: {text}"
        );
        let (status, text) = count(role, view, &["--tenant", "globex"]).await;
        assert!(
            status == 1 && text.contains("people: 2, groups: 1") && text.contains("is not 3-anonymous"),
            "{view}: {text}"
        );
        let (status, text) = count(role, view, &["--tenant", "t1"]).await;
        assert!(status == 1 && text.contains("shows no rows to this role as tenant t1"), "{view}: {text}");
    }
    // A superuser would be shown all tenants' rows, and groups that no tenant has.
    for view in ["public.asks", "public.over"] {
        let (status, text) = count("", view, &["--tenant", "globex"]).await;
        assert!(status == 1 && text.contains("row-level security of public.people does not bind"), "{text}");
    }
    for tenant in ["beheld_own", "nobody"] {
        let (status, text) = count("", "public.sound", &["--tenant", tenant]).await;
        assert!(status == 1 && text.contains(&format!("there is no tenant {tenant} at level rows")), "{text}");
    }
}

#[tokio::test]
async fn what_a_tenant_made_is_not_run_with_an_administrators_rights() {
    let place = Place::new("handmade").await;
    place
        .run(
            "set role handmade_own; create table handmade_own.t (city text); insert into handmade_own.t values ('galle'), ('galle');
            create function handmade_own.trap() returns text language plpgsql volatile as $$ begin
                copy (select 1) to program 'false'; return 'sprung'; end $$;
            create view handmade_own.v as select city, handmade_own.trap() as x from handmade_own.t;
            create view handmade_own.plain as select city from handmade_own.t; 
            create function handmade_own.same(text, text) returns bool language sql as 'select true';
            create operator handmade_own.=== (function = handmade_own.same, leftarg = text, rightarg = text);
            create domain handmade_own.checked as text check (handmade_own.same(value, 'x')); reset role;
            create table ours (city text);
            create view by_operator as select city from ours where city operator(handmade_own.===) 'x';
            create view by_domain as select city::handmade_own.checked as city from ours;
            create view by_policy as select city from ours;
            create view around as select city, x from handmade_own.v",
        )
        .await;
    let count = async |role: &str, view: &str| {
        let arguments = ["anonymity", "--database", "handmade", "--view", view, "--k", "2", "--by", "city"];
        let done = place.pgward_as(role, &arguments).await;
        (done.status.code().unwrap(), said(&done))
    };
    for view in ["handmade_own.v", "public.around"] {
        let (status, text) = count("", view).await;
        assert_eq!(status, 1);
        assert!(text.contains("is not read") && text.contains("view handmade_own.v"), "{text}");
    }
    for (view, why) in [
        ("public.by_operator", "function handmade_own.same(text, text)"),
        ("public.by_domain", "type handmade_own.checked"),
        ("public.by_policy", "function handmade_own.same(text, text)"),
    ] {
        if view == "public.by_policy" {
            place.run("create policy p on ours using (handmade_own.same(city, 'x'))").await;
        }
        let (status, text) = count("", view).await;
        assert!(status == 1 && text.contains("is not read") && text.contains(why), "{view}: {text}");
    }
    // A role that gains nothing by it may ask.
    place.run("alter role handmade_own password 'x'; grant select on pgward.export_view to handmade_own").await;
    let (status, text) = count("handmade_own", "handmade_own.plain").await;
    assert_eq!(status, 0, "{text}");
    // Nor does a table of somebody else's stand for pgward's.
    place
        .run(
            "alter table pgward.classification rename to aside;
            create function public.sprung() returns trigger language plpgsql as $$ begin raise 'sprung'; end $$;
            create table pgward.classification (like pgward.aside including all);
            create trigger t before insert on pgward.classification for each row execute function public.sprung();
            alter table pgward.classification owner to pgward_app;
            comment on column people.city is 'pgward: personal'",
        )
        .await;
    let done = place.pgward(&["import", "--write"]).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(said(&done).contains("that this role owns"), "{}", said(&done));
}

#[tokio::test]
async fn what_people_wrote_outlives_upgrades_and_is_not_dropped_unasked() {
    let place = Place::new("kept").await;
    place.run("insert into pgward.export_view (schema, view, kind) values ('public', 'v', 'masked')").await;
    let count =
        "select (select count(*) from pgward.classification) || ' ' || (select count(*) from pgward.export_view)";
    place.install().await;
    assert_eq!(one(&place.admin, count).await, "3 1");
    place.run("drop table people").await;
    for (table, left) in [("classification", "0 1"), ("export_view", "0 0")] {
        let error = uninstall(&place.admin).await.unwrap_err().to_string();
        assert!(error.contains(&format!("pgward.{table} has rows")) && error.contains("pg_dump"), "{error}");
        place.run(&format!("delete from pgward.{table}")).await;
        assert_eq!(one(&place.admin, count).await, left);
    }
    uninstall(&place.admin).await.unwrap();
    let done = place.pgward(&["list"]).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(said(&done).contains("run pgward install"), "{}", said(&done));
}

#[tokio::test]
async fn a_row_that_makes_no_sense_cannot_be_written() {
    let place = Place::with("nonsense", "").await;
    for row in [
        "pgward.classification values ('s', 't', 'c', 'Personal Data')",
        "pgward.classification values ('s', 't', 'c', 'personal', '{null}')",
        "pgward.classification (schema, relation, class) values ('s', 't', 'personal')",
        "pgward.export_view (schema, view, kind) values ('s', 'v', 'whatever')",
        "pgward.export_view (schema, view, kind, k) values ('s', 'v', 'anonymised', 1)",
    ] {
        let refused = refused(&place.admin, &format!("insert into {row}")).await;
        assert!(["23514", "23502"].contains(&refused.as_str()), "{row}: {refused}");
    }
}

#[tokio::test]
async fn a_tenants_own_database_has_the_tables_as_well() {
    let own = "[tenants.alone]\nisolation = \"database\"\ncluster = \"main\"\ndatabase = \"alone_db\"\nhome = \"lk\"\n";
    let place = Place::with("alone", "").await;
    let file = place.folder.path().join("pgward.toml");
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + own).unwrap();
    let server = cluster().await.primary();
    server.run("postgres", "create the database", "create database alone_db").await.unwrap();
    let client = server.connect("alone_db").await.unwrap();
    let (settings, main) = (place.settings(), ClusterName::parse("main").unwrap());
    for _ in 0..2 {
        Installation::new(&settings, &main, "alone_db").run(&client).await.unwrap();
    }
    client
        .batch_execute(
            &ORDERS
                .replace("pgward_", "alone_")
                .split("alter table")
                .next()
                .unwrap()
                .replace("default pgward.tenant()", ""),
        )
        .await
        .unwrap();
    let sql = "grant select on orders to public;
        insert into pgward.classification values ('public', 'orders', 'item', 'personal', '{alone}')";
    client.batch_execute(sql).await.unwrap();
    let done = place.pgward(&["list", "--database", "alone_db"]).await;
    assert!(said(&done).contains("no: alone can read it"), "{}", said(&done));
    uninstall(&client).await.unwrap_err();
    client.batch_execute("delete from pgward.classification").await.unwrap();
    uninstall(&client).await.unwrap();
}
