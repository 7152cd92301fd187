//! pgward.protect and pgward.unprotect.

use super::{Place, code, one};
use tokio_postgres::Client;

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn refused(client: &Client, sql: &str) -> String {
    code(&client.simple_query(sql).await.unwrap_err())
}

#[tokio::test]
async fn a_table_becomes_the_tenants_whatever_other_policies_say() {
    let place = Place::new("protected").await;
    place.install().await;
    let admin = place.admin().await;
    let table = "create table \"we\"\"ird; drop\" (id int primary key, item text);
        insert into \"we\"\"ird; drop\" values (1, 'of acme')";
    admin.batch_execute(table).await.unwrap();
    let name = "'\"we\"\"ird; drop\"'";
    assert_eq!(refused(&admin, &format!("select pgward.protect({name})")).await, "42703");
    let add = format!("select pgward.protect({name}, 'of tenant', add_column => true");
    assert_eq!(refused(&admin, &format!("{add})")).await, "22004", "there is a row, and nobody's");
    let advice = texts(&admin, &format!("{add}, existing => 'acme')")).await;
    assert!(advice.len() == 2 && advice[0].contains("has no index that begins with \"of tenant\""), "{advice:?}");
    assert!(advice[1].contains("tells whether another tenant has a value"), "{advice:?}");
    let more = "create index on \"we\"\"ird; drop\" (\"of tenant\", item);
        alter table \"we\"\"ird; drop\" drop constraint \"we\"\"ird; drop_pkey\", add primary key (\"of tenant\", id);
        create policy careless on \"we\"\"ird; drop\" using (true) with check (true);
        grant select, insert, update, delete on \"we\"\"ird; drop\" to protected_app";
    admin.batch_execute(more).await.unwrap();
    let again = format!("select pgward.protect({name}, 'of tenant')");
    assert_eq!(texts(&admin, &again).await, [""; 0], "nothing more to advise, and it can be repeated");
    let stage = place.stage().await;
    let (acme, globex) = (stage.connect("acme").await, stage.connect("globex").await);
    globex.batch_execute("insert into \"we\"\"ird; drop\" (id, item) values (1, 'of globex')").await.unwrap();
    for (client, own) in [(&acme, "of acme"), (&globex, "of globex")] {
        assert_eq!(one(client, "select string_agg(item, ',') from \"we\"\"ird; drop\"").await, own);
    }
    let steal = "update \"we\"\"ird; drop\" set \"of tenant\" = 'acme'";
    assert_eq!(refused(&globex, steal).await, "42501");
    assert_eq!(refused(&globex, "insert into \"we\"\"ird; drop\" values (9, 'x', 'acme')").await, "42501");
    admin.batch_execute(&format!("select pgward.unprotect({name})")).await.unwrap();
    let policies = "select count(*) from pg_policy where polname like 'pgward%'";
    assert_eq!(one(&admin, policies).await, "0");
    admin.batch_execute("drop policy careless on \"we\"\"ird; drop\"").await.unwrap();
    assert_eq!(one(&acme, "select count(*) from \"we\"\"ird; drop\"").await, "0", "closed to all");
    admin.batch_execute(&format!("select pgward.unprotect({name}, open_to_all => true)")).await.unwrap();
    assert_eq!(one(&acme, "select count(*) from \"we\"\"ird; drop\"").await, "2");
}

#[tokio::test]
async fn partitions_and_other_types_are_protected_as_well() {
    let place = Place::with("partitioned", "").await;
    // A tenant that is called by a UUID.
    let id = "0c5b1c0e-5f0a-4f3a-9d55-0a3a5a1f7c11";
    let text = format!("{}[tenants.{id}]\ncluster = \"main\"\ndatabase = \"partitioned\"\nhome = \"lk\"\n", place.text);
    let place = Place { text, ..place };
    place.install().await;
    let admin = place.admin().await;
    let tables = format!(
        "create table events (tenant_id uuid, day date) partition by range (day);
        create table events_1 partition of events for values from ('2026-01-01') to ('2026-02-01');
        insert into events values ('{id}', '2026-01-02'), (gen_random_uuid(), '2026-01-03');
        create index on events (tenant_id);
        create table docs (org varchar(40) not null, doc text, unique (org, doc));
        grant select, insert on events, events_1, docs to partitioned_app"
    );
    admin.batch_execute(&tables).await.unwrap();
    assert_eq!(texts(&admin, "select pgward.protect('events')").await, [""; 0]);
    assert_eq!(texts(&admin, "select pgward.protect('docs', 'org')").await, [""; 0]);
    let stage = place.stage().await;
    let client = stage.connect(id).await;
    for table in ["events", "events_1"] {
        assert_eq!(one(&client, &format!("select count(*) from {table}")).await, "1", "{table}");
    }
    client
        .batch_execute("insert into events (day) values ('2026-01-09'); insert into docs (doc) values ('a')")
        .await
        .unwrap();
    assert_eq!(one(&client, "select org from docs").await, id);
    let plan = texts(&client, "explain (costs off) select * from docs where doc = 'a'").await.join("\n");
    assert!(plan.contains("InitPlan"), "asked once a statement, not once a row: {plan}");
    assert_eq!(refused(&admin, "select pgward.protect('pg_catalog.pg_views')").await, "42809");
    // Only its owner can.
    assert_eq!(refused(&client, "select pgward.unprotect('docs')").await, "42501");
}
