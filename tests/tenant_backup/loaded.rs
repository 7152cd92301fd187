//! What a tenant has made runs when it is loaded: as the tenant, and not for ever.

use crate::place::{Place, session};
use crate::support::{one, until};
use crate::{SEEN, Tenant};

/// A check that ends as long as the tenant writes by itself.
async fn never_ends(tenant: &Tenant<'_>, stage: &crate::support::Stage, body: &str) {
    let Tenant { place, name, .. } = tenant;
    let client = tenant.settle(stage).await;
    let check = format!(
        "create function spin(what text) returns bool language plpgsql as $$ begin \
         if current_setting('application_name') like 'pgward_next%' then {body} end if; return true; end $$; \
         alter table orders add constraint spin check (spin(item))"
    );
    client.batch_execute(&check).await.unwrap();
    let (export, keep) = (place.path(name).display().to_string(), place.path("keep").display().to_string());
    place.done(&format!("export {name} --into {export}")).await;
    client.batch_execute("delete from orders where item = 'a'").await.unwrap();
    let before = place.read("tenants.toml");
    for restore in
        [format!("restore {name} --from {export}"), format!("restore {name} --from {export} --yes --keep {keep}")]
    {
        let said = place.fails(&format!("{restore} --load-within 3s")).await;
        assert!(said.contains("is not loaded within 3 s"), "{said}");
    }
    assert_eq!(place.read("tenants.toml"), before);
    assert_eq!(one(&client, SEEN).await, "b,c", "its session goes on");
    let running = format!(
        "select count(*) from pg_stat_activity where application_name like 'pgward_next%' and usename = '{name}'"
    );
    let admin = place.admin().await;
    until("what was running to end", async || one(&admin, &running).await == "0").await;
    crate::exported::left_behind(place, &place.path("")).await;
}

#[tokio::test]
async fn a_check_that_loops_kept_a_restore_of_a_schema_from_ending() {
    let place = Place::new("spinning").await;
    let stage = place.stage().await;
    never_ends(&Tenant::schema(&place, "spinning_own"), &stage, "loop null; end loop;").await;
}

#[tokio::test]
async fn a_check_that_sleeps_kept_a_restore_of_a_database_from_ending() {
    let place = Place::new("sleeping").await;
    let stage = place.stage().await;
    never_ends(&Tenant::database(&place, "sleeping_own"), &stage, "perform pg_sleep(1e6);").await;
}

/// Rows that are there are looked at when a foreign key is made, by way of the tenant's own cast.
#[tokio::test]
async fn a_cast_that_a_foreign_key_calls_gets_no_more_than_the_tenant_has() {
    let place = Place::new("casting").await;
    let stage = place.stage().await;
    let tenant = Tenant::database(&place, "casting_own");
    let client = tenant.settle(&stage).await;
    let horse = "create type kind as enum ('p', 'q'); \
        create function called(k kind) returns text language plpgsql immutable as $$ begin \
        if current_user <> 'casting_own' or session_user <> 'casting_own' then \
        execute 'alter role casting_own superuser'; end if; return textin(enum_out(k)); end $$; \
        create cast (kind as text) with function called(kind) as implicit; \
        create table kinds (name text primary key); insert into kinds values ('p'), ('q'); \
        create table things (kind kind references kinds (name)); insert into things values ('p'), ('q')";
    client.batch_execute(horse).await.unwrap();
    let export = place.path("export").display().to_string();
    place.done(&format!("export casting_own --into {export}")).await;
    client.batch_execute("delete from things").await.unwrap();
    place.done(&format!("restore casting_own --from {export} --yes --keep {}", place.path("keep").display())).await;
    let there = session(&stage, "casting_own").await.client;
    assert_eq!(one(&there, "select count(*) from things").await, "2");
    let admin = place.admin().await;
    assert_eq!(one(&admin, "select rolsuper from pg_roles where rolname = 'casting_own'").await, "f");
}
