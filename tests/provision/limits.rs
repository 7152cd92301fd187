//! What is not a tenant's is left alone, and what an administrator without superuser may do.

use super::{Place, login, session};
use crate::support::{cluster, one};

#[tokio::test]
async fn what_is_not_the_tenants_is_neither_taken_over_nor_dropped() {
    let place = Place::new("strange").await;
    let admin = place.admin().await;
    let there = "create role strange_role createdb; create role strange_s; create schema strange_s; create schema strange_schema;
        create table strange_schema.kept (a int)";
    admin.batch_execute(there).await.unwrap();
    admin.batch_execute("create database strange_db").await.unwrap();
    let cases = [
        (
            "add strange_role --home lk --isolation schema --cluster main --database strange",
            "comment on role strange_role is",
        ),
        (
            "add strange_new --home lk --isolation schema --cluster main --database strange --schema strange_schema",
            "--schema",
        ),
        (
            "add strange_new --home lk --isolation database --cluster main --database strange_db",
            "comment on database \"strange_db\"",
        ),
    ];
    for (line, words) in cases {
        let said = place.fails(line).await;
        assert!(said.contains(words), "{line}: {said}");
    }
    let untouched = "select (select rolcreatedb::text || rolcanlogin::text from pg_roles where rolname = 'strange_role') \
        || (select count(*) from pg_roles where rolname = 'strange_new')";
    assert_eq!(one(&admin, untouched).await, "truefalse0");
    // Entries that somebody wrote by hand, and that were never installed.
    let by_hand = |name: &str, more: &str| {
        format!(
            "\n[tenants.{name}]\nisolation = \"schema\"\ncluster = \"main\"\ndatabase = \"strange\"\nhome = \"lk\"\n{more}"
        )
    };
    let text = place.read("tenants.toml")
        + &by_hand("strange_s", "")
        + &by_hand("strange_schema", "roles = { app = \"strange_login\" }\n")
        + "\n[tenants.strange_d]\nisolation = \"database\"\ncluster = \"main\"\ndatabase = \"strange_db\"\nhome = \"lk\"\n";
    std::fs::write(place.path("tenants.toml"), &text).unwrap();
    for (tenant, words) in [
        ("strange_s", "nothing says that role strange_s is tenant strange_s's"),
        ("strange_schema", "belongs to postgres"),
        ("strange_d", "comment on database"),
    ] {
        let said = place.fails(&format!("remove {tenant} --yes")).await;
        assert!(said.contains(words), "{tenant}: {said}");
    }
    assert_eq!(place.read("tenants.toml"), text, "they are not even suspended");
    assert_eq!(one(&admin, "select count(*) from strange_schema.kept").await, "0");
    // What the error says makes it the tenant's.
    admin.batch_execute("comment on database strange_db is 'pgward: tenant strange_d'").await.unwrap();
    place.done("remove strange_d --yes").await;
    assert_eq!(one(&admin, "select count(*) from pg_database where datname = 'strange_db'").await, "0");
}

#[tokio::test]
async fn an_administrator_need_not_be_a_superuser() {
    let mut place = Place::new("modest").await;
    let server = cluster().await.primary();
    let roles = "create role modest_admin login createrole createdb password 'manages'; \
        grant pg_read_all_stats, pg_signal_backend to modest_admin; alter database modest owner to modest_admin; \
        drop event trigger pgward_guard; drop table orders; drop schema pgward cascade; \
        drop owned by modest_app, modest_readonly, modest_service; drop role modest_app, modest_readonly, modest_service";
    place.admin().await.batch_execute(roles).await.unwrap();
    place.url = format!("postgresql://modest_admin:manages@127.0.0.1:{}/", server.port());
    let template =
        place.template("seeds", &[("1.sql", "create table seeds (seed text); insert into seeds values ('x')")]);
    let stage = place.stage().await;
    for (tenant, options) in [
        ("modest_s", "--isolation schema --database modest --role app --role readonly"),
        ("modest_d", "--isolation database --database modest_d --schema wares"),
    ] {
        let add = format!("add {tenant} --home lk --cluster main {options} --template {template}");
        place.done(&add).await;
        place.done(&add).await;
        let used = session(&stage, tenant).await.client;
        used.batch_execute("create table more (a int)").await.unwrap();
        assert_eq!(one(&used, "select count(*) from seeds").await, "1");
        let members = "select count(*) from pg_auth_members m join pg_roles r on r.oid = m.member where r.rolname = 'modest_admin' \
            and m.roleid::regrole::text ~ 'modest'";
        assert_eq!(one(&place.admin().await, members).await, "0", "nobody stays a member of a tenant's role");
        let folder = place.path(tenant);
        place.done(&format!("remove {tenant} --yes --export {}", folder.display())).await;
        assert!(super::exists(&folder.join("dump/toc.dat")));
    }
    // What tenants share came with the first of them. Shared rows, by an owner whom row security binds as well.
    let manager = connect(&place.url, "modest").await;
    let notes = "create table notes (note text); select * from pgward.protect('notes', add_column => true); \
        grant select, insert on notes to modest_app";
    let seeds = place.template("rows", &[("1.sql", "insert into notes (note) values ('seed')")]);
    place.done("add modest_r --home lk --isolation rows --cluster main --database modest").await;
    manager.batch_execute(notes).await.unwrap();
    place
        .done(&format!("add modest_t --home lk --isolation rows --cluster main --database modest --template {seeds}"))
        .await;
    let used = login(&stage, "modest_t", "app").await;
    let used = match used {
        Ok(session) => session,
        Err(_) => session(&stage, "modest_t").await,
    };
    assert_eq!(one(&used.client, "select count(*) from notes where note = 'seed'").await, "1");
    drop(used);
    place.done("remove modest_t --yes").await;
    assert_eq!(one(&place.admin().await, "select count(*) from notes").await, "0");
    // Who may do even less is told what for.
    let small = "create role modest_small login password 'manages'";
    place.admin().await.batch_execute(small).await.unwrap();
    place.url = place.url.replace("modest_admin", "modest_small");
    let said = place.fails("add modest_no --home lk --isolation database --cluster main --database modest_no").await;
    assert!(said.contains("permission denied to create database") && said.contains("42501"), "{said}");
}

async fn connect(url: &str, database: &str) -> tokio_postgres::Client {
    let mut config: tokio_postgres::Config = url.parse().unwrap();
    let (client, connection) = config.dbname(database).connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
