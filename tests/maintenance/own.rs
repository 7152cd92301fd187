//! Tables that are one tenant's own, which may have put anything into them.

use pgward::sidecar::maintenance::{Pass, Verdict};

use crate::place::{Place, word};
use crate::support::{code, connect, one, until};

#[tokio::test]
async fn a_tenants_own_table_is_kept_by_its_class_and_its_own_login() {
    let place = Place::new("own_log").await;
    let name = "own_log_kandy";
    let owners = format!(
        "select string_agg(distinct pg_get_userbyid(c.relowner), ' ') from pg_inherits i
         join pg_class c on c.oid = i.inhrelid where i.inhparent = '{name}.log'::regclass"
    );
    assert_eq!(place.one(&owners).await, name);
    // Seven days are the class's.
    let old = format!(
        "set role {name}; set timezone to 'UTC';
         select partman.create_partition_time('{name}.log', array[date_trunc('day', now() - interval '9 days')]);
         insert into {name}.log values (now() - interval '9 days', 'nine'), (now() - interval '1 day', 'one'),
            ('1999-01-01', 'ancient');
         update partman.part_config set retention_schema = '{name}', undo_in_progress = true"
    );
    place.admin().await.batch_execute(&old).await.unwrap();
    let turn = place.turn("log").await;
    assert_eq!((turn.deeds.dropped, turn.deeds.rows), (1, 1), "{turn:?}");
    // Dropped it is, rather than put elsewhere.
    let tables = format!(
        "select count(*) from pg_class where relname like 'log_p%' and relkind = 'r'
        and relnamespace = '{name}'::regnamespace and not relispartition"
    );
    assert_eq!(place.one(&tables).await, "0");
    assert_eq!(turn.tenant.map(|tenant| tenant.to_string()).as_deref(), Some(name));
    assert_eq!(place.one(&format!("select string_agg(body, ' ') from {name}.log")).await, "one");
}

#[tokio::test]
async fn code_of_a_tenant_runs_as_nobody_but_that_tenant() {
    let place = Place::new("own_evil").await;
    let name = "own_evil_kandy";
    // Whatever may run: an index's expression, a default, a check, and a trigger that tries to be somebody else.
    let evil = format!(
        "set role {name}; set search_path to {name};
         create table seen (what text, who text, session text);
         create function see(what text) returns text language plpgsql as $$ begin
            insert into {name}.seen values (what, current_user, session_user);
            begin execute 'set role own_evil_maintenance'; insert into {name}.seen values ('became', current_user, session_user);
            exception when others then null; end;
            return what; end $$;
         create function see_always(what text) returns text immutable language sql as $$ select {name}.see(what) $$;
         create function trap() returns trigger language plpgsql as $$ begin perform {name}.see('trigger'); return old; end $$;
         create index on log ({name}.see_always('index'));
         create trigger trap before delete on log for each row execute function trap();
         alter table log alter body set default {name}.see('default'), add check ({name}.see_always('check') is not null);
         insert into log values ('1999-01-01', 'ancient')"
    );
    place.admin().await.batch_execute(&evil).await.unwrap();
    place.admin().await.batch_execute(&format!("truncate {name}.seen")).await.unwrap();
    place.change("premake = 2", "premake = 5");
    let turn = place.turn("log").await;
    let seen = place.one(&format!("select string_agg(distinct who || ' ' || session, ', ') from {name}.seen")).await;
    assert_eq!(seen, format!("{name} {name}"), "{turn:?}");
    assert_eq!(place.one(&format!("select count(*) from {name}.seen where what = 'trigger'")).await, "1", "{turn:?}");
    assert_eq!((turn.deeds.rows, turn.deeds.made), (1, 3), "{turn:?}");
}

#[tokio::test]
async fn a_tenant_sees_and_changes_no_line_of_others_in_pg_partmans_configuration() {
    let place = Place::new("own_lines").await;
    let login = connect(&format!(
        "postgresql://own_lines_kandy:{}@127.0.0.1:{}/own_lines",
        password(&place),
        place.settings().clusters.values().next().unwrap().servers[0].port
    ))
    .await
    .unwrap();
    assert_eq!(
        one(&login, "select string_agg(parent_table, ' ') from partman.part_config").await,
        "own_lines_kandy.log"
    );
    let changed = login.execute("update partman.part_config set premake = 90", &[]).await.unwrap();
    assert_eq!(changed, 1);
    let taken = login.execute("delete from partman.part_config where parent_table = 'public.events'", &[]).await;
    assert_eq!(taken.unwrap(), 0);
    assert!(login.execute("select * from partman.pgward_state", &[]).await.is_err());
    // pg_partman's background worker would work on it as somebody powerful.
    let on = login.execute("update partman.part_config set automatic_maintenance = 'on'", &[]).await.unwrap_err();
    assert_eq!(code(&on), "42501");
    // And what it has changed of its own is put right.
    place.kept().await;
    assert_eq!(place.one("select premake from partman.part_config where parent_table like '%kandy%'").await, "2");
}

fn password(place: &Place) -> String {
    let settings = place.settings();
    let tenant = settings.tenants.values().find(|tenant| tenant.id.as_str().ends_with("kandy")).unwrap();
    let login = tenant.own_logins().next().unwrap();
    let password = pgward::tenant::login_password(settings.master_key.as_ref(), &tenant.cluster, login).unwrap();
    String::from_utf8(password.expose().to_vec()).unwrap()
}

#[tokio::test]
async fn a_new_tenant_needs_no_setup_and_one_without_the_table_is_no_failure() {
    let place = Place::new("own_new").await;
    let new =
        "[tenants.own_new_galle]\nisolation = \"schema\"\ncluster = \"main\"\ndatabase = \"own_new\"\nhome = \"lk\"\n";
    place.change("[tenants.a]", &format!("{new}[tenants.a]"));
    let main = pgward::base::ClusterName::parse("main").unwrap();
    let admin = place.admin().await;
    pgward::tenant::Installation::new(&place.settings(), &main, "own_new").run(&admin).await.unwrap();
    let verdict = async || {
        let turns = place.turns().await;
        turns.into_iter().find(|turn| turn.table == "own_new_galle.log").unwrap().verdict
    };
    assert_eq!(verdict().await, Verdict::Absent);
    let table =
        "set role own_new_galle; create table own_new_galle.log (at date not null, body text) partition by range (at)";
    place.admin().await.batch_execute(table).await.unwrap();
    assert_eq!(verdict().await, Verdict::Done);
    // Gone with its tenant, it is forgotten.
    place.admin().await.batch_execute("drop schema own_new_galle cascade").await.unwrap();
    place.turns().await;
    assert_eq!(place.one("select count(*) from partman.part_config where parent_table like '%galle%'").await, "0");
}

/// It held up everybody else's tables, and was at it again ten seconds later.
#[tokio::test]
async fn a_tenants_code_that_never_ends_takes_its_turn_and_no_more() {
    let place = Place::new("own_slow").await;
    let kandy = "own_slow_kandy";
    let slow = format!(
        "set role {kandy}; create function {kandy}.wait() returns trigger language plpgsql as $$
            begin perform pg_sleep(600); return old; end $$;
         create trigger wait before delete on {kandy}.log for each row execute function {kandy}.wait();
         insert into {kandy}.log values ('1999-01-01', 'ancient')"
    );
    place.admin().await.batch_execute(&slow).await.unwrap();
    place.write(&place.text("maintenance = { turn_timeout = \"6s\" }\n"));
    let turns = place.turns().await;
    let of = |label: &str| turns.iter().find(|turn| turn.label.as_str() == label).unwrap();
    assert_eq!(word(of("log")), "timeout", "{turns:?}");
    assert!(of("log").next > Some(std::time::Duration::from_secs(3_000)), "{turns:?}");
    assert_eq!(of("events").verdict, Verdict::Done, "{turns:?}");
}

/// Tenants whose code takes long kept tables that all share from their next turn.
#[tokio::test]
async fn shared_tables_have_their_turn_again_however_long_tenants_take() {
    let place = Place::new("own_many").await;
    let (lock, interval) = ("lock_timeout = \"1m\"", "interval = \"2s\", turn_timeout = \"6s\"");
    let tenants = ["own_many_galle", "own_many_jaffna", "own_many_matara"];
    for name in tenants {
        let of = format!(
            "[tenants.{name}]\nisolation = \"schema\"\ncluster = \"main\"\ndatabase = \"own_many\"\nhome = \"lk\"\n"
        );
        place.change("[tenants.a]", &format!("{of}[tenants.a]"));
    }
    let text = std::fs::read_to_string(place.path()).unwrap();
    place.write(&text.replacen("[[issuers]]", &format!("maintenance = {{ {lock}, {interval} }}\n[[issuers]]"), 1));
    let main = pgward::base::ClusterName::parse("main").unwrap();
    let admin = place.admin().await;
    pgward::tenant::Installation::new(&place.settings(), &main, "own_many").run(&admin).await.unwrap();
    for name in tenants {
        let sql = format!(
            "set role {name}; create table {name}.log (at date not null, body text) partition by range (at);
             reset role"
        );
        admin.batch_execute(&sql).await.unwrap();
    }
    place.kept().await;
    let mut holders = Vec::new();
    for name in tenants {
        let holder = place.admin().await;
        holder.batch_execute(&format!("begin; lock table {name}.log in access exclusive mode")).await.unwrap();
        holders.push(holder);
    }
    let settings = place.settings();
    let pass = Pass::new(&settings, &main).unwrap().disposing_by(&place);
    until("a turn of tenants is cut short", async || {
        let mut turns = Vec::new();
        let all = pass.run_due(|turn| turns.push(turn)).await;
        let failed = turns.iter().filter(|turn| matches!(turn.verdict, Verdict::Failed { .. })).count();
        assert!(failed <= 1, "{turns:?}");
        let shared = turns.iter().any(|turn| turn.label.as_str() == "events" && turn.verdict == Verdict::Done);
        shared && failed == 1 && !all
    })
    .await;
}
