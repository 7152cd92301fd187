//! Who may read and change the table, and what comes of two who do.

use super::{Place, login, output, put, said};
use crate::support::{Stage, cluster, code, one, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_else_changes_meanwhile_is_left_as_they_have_it() {
    let place = Place::new("racing").await;
    place.add("racing_a").await;
    let mut other = place.owner().await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("lock table pgward_catalogue.tenants in share row exclusive mode").await.unwrap();
    let theirs = format!("{}max_clients = 7\n", place.definition());
    put(transaction.client(), "racing_a", &theirs).await.unwrap();
    let command = tokio::spawn(output(place.command("tenant suspend racing_a")));
    let owner = place.owner().await;
    let waiting = "select count(*) from pg_locks where not granted and relation = 'pgward_catalogue.tenants'::regclass";
    until("the command to wait for the table", async || one(&owner, waiting).await == "1").await;
    transaction.commit().await.unwrap();
    let output = command.await.unwrap();
    let words = said(&output);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("somebody else has changed tenant racing_a"), "{words}");
    let found = "select definition from pgward_catalogue.tenants where name = 'racing_a'";
    assert_eq!(one(&owner, found).await, theirs);
    // Once more, having seen what the other wrote. Their lines stay.
    place.done("tenant suspend racing_a").await;
    assert_eq!(one(&owner, found).await, format!("{theirs}suspended = true\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_commands_that_change_different_tenants_at_once_are_both_done() {
    let place = Place::new("pair").await;
    place.add("pair_a").await;
    place.add("pair_b").await;
    let [a, b] = ["pair_a", "pair_b"].map(|id| tokio::spawn(output(place.command(&format!("tenant suspend {id}")))));
    for done in [a.await.unwrap(), b.await.unwrap()] {
        assert!(done.status.success(), "{}", said(&done));
    }
    let suspended = "select count(*) from pgward_catalogue.tenants where definition like '%suspended = true%'";
    assert_eq!(one(&place.owner().await, suspended).await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_all_rows_together_get_wrong_is_refused_to_the_second_of_two_writers() {
    let place = Place::new("together").await;
    place.add("together_a").await;
    // Behind the back of a command that has read the table: a tenant that is to have the database alone.
    let mut other = place.owner().await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("lock table pgward_catalogue.tenants in share row exclusive mode").await.unwrap();
    transaction.execute("delete from pgward_catalogue.tenants", &[]).await.unwrap();
    let alone = place.definition().replace("\"schema\"", "\"database\"");
    put(transaction.client(), "together_b", &alone).await.unwrap();
    let add = "tenant add together_c --isolation schema --cluster main --database {name} --home lk";
    let command = tokio::spawn(output(place.command(add)));
    let owner = place.owner().await;
    let waiting = "select count(*) from pg_locks where not granted and relation = 'pgward_catalogue.tenants'::regclass";
    until("the command to wait for the table", async || one(&owner, waiting).await == "1").await;
    transaction.commit().await.unwrap();
    let output = command.await.unwrap();
    let words = said(&output);
    assert!(!output.status.success() && words.contains("tenants.together_b.database"), "{words}");
    assert_eq!(one(&owner, "select string_agg(name, ',') from pgward_catalogue.tenants").await, "together_b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_role_but_the_owner_and_the_reading_login_gets_to_the_table() {
    // In the tenants' own database, with privileges that are given away beforehand.
    let server = cluster().await.primary();
    let place = Place::with("closed", "main", "closed", server, "").await;
    let admin = server.connect("closed").await.unwrap();
    admin
        .batch_execute(
            "create role closed_stranger login password 'x';
             alter default privileges grant all on tables to public, closed_stranger;
             alter default privileges grant usage on schemas to public, closed_stranger;
             alter default privileges grant execute on functions to closed_stranger",
        )
        .await
        .unwrap();
    let place = place.installed().await;
    admin.batch_execute("alter default privileges revoke all on tables from public, closed_stranger").await.unwrap();
    place.done("tenant add closed_a --isolation schema --cluster main --database closed --home lk").await;
    place.done("tenant add closed_r --isolation rows --cluster main --database closed --home lk").await;
    let node: Stage = place.node(1).await;
    for tenant in ["closed_a", "closed_r"] {
        let session = login(&node, tenant).await.unwrap();
        for sql in [
            "select * from pgward_catalogue.tenants",
            "select name from pgward_catalogue.tenants",
            "copy pgward_catalogue.tenants to stdout",
            "update pgward_catalogue.tenants set definition = ''",
            "insert into pgward_catalogue.tenants values ('x', '')",
            "truncate pgward_catalogue.tenants",
            "select pgward_catalogue.tell()",
            "create table pgward_catalogue.mine (x int)",
        ] {
            let refused = session.client.batch_execute(sql).await.unwrap_err();
            assert_eq!(code(&refused), "42501", "{tenant}: {sql}");
        }
    }
    let may = "select r.rolname || ': ' || p from pg_roles r, unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', \
        'TRUNCATE', 'REFERENCES', 'TRIGGER']) p where not r.rolsuper and r.rolname not like 'pg\\_%' \
        and has_table_privilege(r.oid, 'pgward_catalogue.tenants', p)";
    assert_eq!(one(&admin, &format!("select string_agg(x, ', ') from ({may}) t(x)")).await, "closed_reader: SELECT");
    let usage = "select string_agg(rolname, ', ') from pg_roles where not rolsuper and rolname not like 'pg\\_%' \
        and has_schema_privilege(oid, 'pgward_catalogue', 'usage')";
    assert_eq!(one(&admin, usage).await, "closed_reader");
    // Whoever can read it cannot change it, and is told what to do.
    let outline = pgward::config::Draft::read(&place.config(0)).unwrap().outline().unwrap();
    let login = outline.catalogue.unwrap().login;
    let main = pgward::base::ClusterName::parse("main").unwrap();
    let password = pgward::tenant::login_password(outline.master_key.as_ref(), &main, &login).unwrap();
    let reader = format!(
        "postgresql://closed_reader:{}@127.0.0.1:{}/",
        String::from_utf8(password.expose().to_vec()).unwrap(),
        server.port()
    );
    let mut command = place.command("tenant suspend closed_a");
    command.env("PGWARD_CATALOGUE_URL", reader);
    let refused = said(&output(command).await);
    assert!(refused.contains("only the owner of pgward_catalogue.tenants may change it"), "{refused}");
    // Installing again changes nothing and harms nobody.
    place.done("catalogue install").await;
    assert!(place.done("tenant list").await.contains("closed_a"));
    let script = place.done("catalogue install --print --without-secrets").await;
    assert!(script.contains("create table if not exists pgward_catalogue.tenants") && !script.contains("SCRAM"));
    admin.batch_execute("alter default privileges revoke all on schemas from public, closed_stranger").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_somebody_else_made_is_not_taken_over() {
    let server = cluster().await.primary();
    let place = Place::with("squatted", "main", "squatted", server, "").await;
    let admin = server.connect("squatted").await.unwrap();
    let squat = "create role squatted_other; create schema pgward_catalogue; \
        create table pgward_catalogue.tenants (name text, definition text); \
        alter table pgward_catalogue.tenants owner to squatted_other";
    admin.batch_execute(squat).await.unwrap();
    let refused = place.fails("catalogue install").await;
    assert!(refused.contains("belongs to somebody else"), "{refused}");
    // With the schema itself theirs, too, all of it has one owner, and the superuser who installs is as good as a member.
    admin.batch_execute("alter schema pgward_catalogue owner to squatted_other").await.unwrap();
    let refused = place.fails("catalogue install").await;
    assert!(refused.contains("belongs to somebody else"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_login_that_all_tenants_share_is_not_made_the_reader_of_all_definitions() {
    let server = cluster().await.primary();
    let mut place = Place::with("sharing", "main", "sharing", server, "").await;
    place.text = place.text.replace("login = \"sharing_reader\"", "login = \"sharing_app\"");
    for line in ["catalogue install", "catalogue install --print", "tenant list"] {
        let refused = place.fails(line).await;
        assert!(refused.contains("catalogue.login = sharing_app: is also a login of tenants"), "{line}: {refused}");
    }
    let admin = server.connect("sharing").await.unwrap();
    assert_eq!(one(&admin, "select count(*) from pg_namespace where nspname = 'pgward_catalogue'").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_file_is_taken_over_as_a_whole_with_its_comments_or_not_at_all() {
    let place = Place::new("moved").await;
    let file = place.config(0).with_file_name("tenants.toml");
    let [first, second] = ["moved_a", "moved_b"].map(|id| {
        let more = "max_clients = 5 # for now\n\n[tenants.ID.roles]\napp = { role = \"ID\" }\n".replace("ID", id);
        format!("# About {id}.\n[tenants.{id}]\n{}{more}\n", place.definition())
    });
    let import = format!("catalogue import {}", file.display());
    let owner = place.owner().await;
    let count = "select count(*) from pgward_catalogue.tenants";
    for (text, words) in [
        (format!("{first}{}", second.replace("\"lk\"", "\"eu\"")), "tenants.moved_b.regions"),
        (format!("{first}[limits]\nmax_clients = 5\n"), "something else than tables [tenants.NAME]"),
        (format!("{first}[tenants.\"moved b\"]\nhome = \"lk\"\n"), "has a character outside"),
        (format!("{first}x = \"hush"), "is not valid TOML"),
    ] {
        std::fs::write(&file, text).unwrap();
        let said = place.fails(&import).await;
        assert!(said.contains(words) && !said.contains("hush"), "{words}: {said}");
        assert_eq!(one(&owner, count).await, "0");
    }
    std::fs::write(&file, format!("{first}{second}")).unwrap();
    assert!(place.done(&import).await.contains("2 tenants of"));
    assert!(place.done(&import).await.contains("2 tenants of"), "twice is once");
    let found = "select definition from pgward_catalogue.tenants where name = 'moved_a'";
    let definition = one(&owner, found).await;
    assert!(
        definition.contains("max_clients = 5 # for now") && definition.contains("[roles]\napp = { role"),
        "{definition}"
    );
    let by_file = std::fs::read_to_string(place.config(0)).unwrap();
    let by_file = format!("tenants_file = \"tenants.toml\"\n{}", by_file.split_once("[catalogue]").unwrap().0);
    let by_file = pgward::config::parse(&by_file, file.parent().unwrap()).unwrap();
    let by_table = pgward::catalogue::load(&place.config(0)).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(by_file.tenants, by_table.tenants);
    place.done("tenant suspend moved_a").await;
    assert!(place.fails(&import).await.contains("there is a tenant moved_a in the catalogue"));
}

/// Begins a command that waits, does something to the catalogue meanwhile, and says how it ended.
async fn while_it_waits(place: &Place, line: &str, meanwhile: &str) -> (Option<i32>, String) {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
    let mut command = tokio::process::Command::from(place.command(line));
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    while !out.next_line().await.unwrap().expect("the command to wait").starts_with("waiting ") {}
    place.owner().await.batch_execute(meanwhile).await.unwrap();
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).await.unwrap();
    out.into_inner().read_to_string(&mut words).await.unwrap();
    (child.wait().await.unwrap().code(), words)
}

/// A tenant at level `rows` with one row, and a connection to where that is.
async fn with_a_row(name: &'static str) -> (Place, tokio_postgres::Client) {
    let mut place = Place::new(name).await;
    place.text = place.text.replace("poll = \"1h\"", "poll = \"1s\"");
    place.done(&format!("tenant add {name}_a --isolation rows --cluster main --database {name} --home lk")).await;
    let tenants = cluster().await.primary().connect(name).await.unwrap();
    let table = "create table notes (text text, tenant_id text not null default pgward.tenant()); \
        select pgward.protect('notes'); insert into notes values ('x', current_database() || '_a')";
    tenants.batch_execute(table).await.unwrap();
    (place, tenants)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_in_the_table_did_not_stop_a_removal_that_had_begun() {
    let (place, tenants) = with_a_row("begun").await;
    let hold = "update pgward_catalogue.tenants set definition = definition || E'legal_hold = \"court order\"\n'";
    let (code, words) = while_it_waits(&place, "tenant remove begun_a --yes", hold).await;
    assert!(code == Some(1) && words.contains("under legal hold (court order)"), "{words}");
    assert_eq!(one(&tenants, "select count(*) from notes").await, "1");
    place.done("tenant release begun_a").await;
    // Whether there is one by now, nobody can tell.
    let hide = "alter table pgward_catalogue.tenants rename to hidden";
    let (code, words) = while_it_waits(&place, "tenant remove begun_a --yes", hide).await;
    let unread = "the catalogue of tenants (begun_catalogue@main) cannot be read";
    assert!(code == Some(1) && words.contains(unread) && words.contains("nothing was deleted"), "{words}");
    assert_eq!(one(&tenants, "select count(*) from notes").await, "1");
    place.owner().await.batch_execute("alter table pgward_catalogue.hidden rename to tenants").await.unwrap();
    place.done("tenant remove begun_a --yes").await;
    assert_eq!(one(&tenants, "select count(*) from notes").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_changed_during_a_restore_kept_it_from_ending_or_lost_the_change() {
    let (place, tenants) = with_a_row("rewritten").await;
    let [export, keep] = ["export", "keep"].map(|name| place.config(0).with_file_name(name).display().to_string());
    place.done(&format!("tenant export rewritten_a --into {export}")).await;
    tenants.batch_execute("delete from notes").await.unwrap();
    let found = "select definition from pgward_catalogue.tenants";
    let owner = place.owner().await;
    let before = one(&owner, found).await;
    let change = "update pgward_catalogue.tenants set definition = definition || E'max_clients = 7\n'";
    let restore = format!("tenant restore rewritten_a --from {export} --yes --keep {keep}");
    let (code, words) = while_it_waits(&place, &restore, change).await;
    assert!(code == Some(0) && words.contains("is what it was\n"), "{words}");
    assert_eq!(one(&owner, found).await, format!("{before}suspended = false\nmax_clients = 7\n"));
    tenants.batch_execute("delete from notes").await.unwrap();
    let suspend = "update pgward_catalogue.tenants set definition = replace(definition, '\"restoring\"', 'true')";
    let (code, words) = while_it_waits(&place, &format!("{restore}-2"), suspend).await;
    assert!(code == Some(0) && words.contains("it is suspended"), "{words}");
    assert!(one(&owner, found).await.contains("suspended = true\n"), "by somebody, who is to lift it");
    assert_eq!(one(&tenants, "select count(*) from notes").await, "1");
}
