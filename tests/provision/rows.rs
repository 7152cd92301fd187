//! Removing a tenant from tables that it shares: foreign keys in circles, partitions, other types, and what cannot be
//! followed.

use super::{Place, session};
use crate::support::one;

const TABLES: &str = "
    create table people (tenant_id text not null default pgward.tenant(), id int, boss int, home int, primary key (tenant_id, id));
    create table houses (tenant_id text not null default pgward.tenant(), id int, owner int, primary key (tenant_id, id));
    alter table people add foreign key (tenant_id, boss) references people;
    alter table people add foreign key (tenant_id, home) references houses;
    alter table houses add foreign key (tenant_id, owner) references people on delete restrict;
    create table events (at date, what text) partition by range (at);
    create table events_old partition of events for values from ('2000-01-01') to ('2020-01-01');
    create table events_new partition of events for values from ('2020-01-01') to ('2040-01-01');
    create table keyed (whose uuid not null, what text);
    create table \"Odd 'name'\" (\"the Tenant\" text not null default pgward.tenant(), gone boolean default false);
    select pgward.protect('people');
    select pgward.protect('houses');
    select pgward.protect('events', add_column => true);
    select pgward.protect('keyed', 'whose');
    alter table \"Odd 'name'\" enable row level security;
    create policy own on \"Odd 'name'\" using (not gone and \"the Tenant\" = (select pgward.tenant()));
    grant select, insert, update, delete on all tables in schema public to PLACE_app;
";

#[tokio::test]
async fn every_row_goes_whatever_the_tables_refer_to_and_no_other() {
    let place = Place::new("knotted").await;
    let admin = place.admin().await;
    admin.batch_execute(&TABLES.replace("PLACE", "knotted")).await.unwrap();
    let ids = ["acme", "0b0e7a54-9e9a-4a6f-8f8a-4c1d9f0a1b2c"];
    for id in ids {
        place.done(&format!("add {id} --home lk --isolation rows --cluster main --database knotted")).await;
        let fill = format!(
            "insert into houses values ('{id}', 1, null); insert into people values ('{id}', 1, 1, 1), ('{id}', 2, 1, 1); \
             update houses set owner = 2 where tenant_id = '{id}'; \
             insert into events (at, what, tenant_id) values ('2010-01-01', 'old', '{id}'), ('2030-01-01', 'new', '{id}'); \
             insert into \"Odd 'name'\" values ('{id}', false), ('{id}', true)"
        );
        admin.batch_execute(&fill).await.unwrap();
    }
    let keyed = format!("insert into keyed values ('{}', 'mine'), (gen_random_uuid(), 'not mine')", ids[1]);
    admin.batch_execute(&keyed).await.unwrap();
    let counts = "select concat_ws(' ', (select count(*) from people), (select count(*) from houses), \
        (select count(*) from events), (select count(*) from keyed), (select count(*) from \"Odd 'name'\"), \
        (select count(*) from orders))";
    assert_eq!(one(&admin, counts).await, "4 2 4 2 4 3");
    let removed = place.done(&format!("remove acme --yes --export {}", place.path("out").display())).await;
    assert!(removed.contains("rows in public.people"), "{removed}");
    assert_eq!(one(&admin, counts).await, "2 1 2 2 2 3");
    let manifest: serde_json::Value = serde_json::from_str(&place.read("out/manifest.json")).unwrap();
    let tables = manifest["tables"].as_array().unwrap();
    let rows = |name: &str| tables.iter().find(|table| table["table"] == name).map(|table| table["rows"].clone());
    assert_eq!(rows("public.events"), Some(2.into()), "{manifest}");
    assert_eq!(
        (rows("public.events_old"), rows("public.keyed")),
        (None, None),
        "partitions come with the whole: {manifest}"
    );
    place.done(&format!("remove {} --yes", ids[1])).await;
    assert_eq!(one(&admin, counts).await, "0 0 0 1 0 3");
}

#[tokio::test]
async fn what_cannot_be_followed_is_told_before_anything_is_done() {
    let place = Place::new("unclear").await;
    let admin = place.admin().await;
    let tables = "create table lines (order_id bigint, what text); alter table lines enable row level security; \
        create policy through on lines using (exists (select from orders o where o.id = order_id and o.tenant_id = (select pgward.tenant()))); \
        create table legacy (tenant text); alter table legacy enable row level security; \
        create policy by_setting on legacy using (tenant = current_setting('app.tenant', true))";
    admin.batch_execute(tables).await.unwrap();
    place.done("add acme --home lk --isolation rows --cluster main --database unclear").await;
    let said = place.fails("remove acme --yes").await;
    assert!(said.contains("public.lines") && said.contains("--leave"), "{said}");
    assert!(!place.read("tenants.toml").contains("suspended"));
    let output = place.run("remove acme --yes --leave public.lines").await;
    assert!(output.status.success(), "{}", super::said(&output));
    assert!(super::said(&output).contains("legacy"), "{}", super::said(&output));
}

#[tokio::test]
async fn rows_of_other_tenants_that_refer_to_the_tenants_stop_it_and_it_can_be_repeated() {
    let place = Place::new("entangled").await;
    let admin = place.admin().await;
    let tables = "create table a (id int primary key); create table b (id int primary key, a int references a); \
        select pgward.protect('a', add_column => true); select pgward.protect('b', add_column => true)";
    admin.batch_execute(tables).await.unwrap();
    place.done("add acme --home lk --isolation rows --cluster main --database entangled").await;
    let fill = "insert into a values (1, 'acme'); insert into b values (1, 1, 'witness'), (2, 1, 'acme')";
    admin.batch_execute(fill).await.unwrap();
    let folder = place.path("out");
    let remove = format!("remove acme --yes --export {}", folder.display());
    let said = place.fails(&remove).await;
    assert!(said.contains("23503"), "{said}");
    assert_eq!(one(&admin, "select count(*) from b").await, "2", "nothing was deleted");
    assert!(place.read("tenants.toml").contains("suspended = true"));
    admin.batch_execute("delete from b where id = 1").await.unwrap();
    place.done(&remove).await;
    assert!(super::exists(&place.path("out.earlier-1/manifest.json")), "the first export was moved aside");
    assert_eq!(one(&admin, "select count(*) from a").await, "0");
}

#[tokio::test]
async fn a_transaction_that_could_be_the_tenants_last_is_waited_for() {
    let place = Place::new("patient").await;
    let stage = place.stage().await;
    let witness = session(&stage, "witness").await.client;
    place.done("add acme --home lk --isolation rows --cluster main --database patient").await;
    witness.batch_execute("begin; select 1").await.unwrap();
    let said = place.fails("remove acme --yes --wait 200ms").await;
    assert!(said.contains("1 transactions of the shared logins"), "{said}");
    let removal = tokio::spawn(super::output(place.command("remove acme --yes --wait 10m")));
    witness.batch_execute("insert into orders (item) values ('seen 4'); commit").await.unwrap();
    let removed = removal.await.unwrap();
    assert!(removed.status.success(), "{}", super::said(&removed));
    assert_eq!(one(&witness, "select count(*) from orders").await, "4");
}
