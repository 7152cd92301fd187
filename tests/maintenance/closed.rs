//! New partitions are as closed as their table.

use crate::place::{Place, said};
use crate::support::{code, one};

/// The partition that rows of now go into.
async fn of_today(place: &Place) -> String {
    place.admin().await.batch_execute("insert into events (at, tenant_id) values (now(), 'b')").await.unwrap();
    place.one("select tableoid::regclass from events where tenant_id = 'b' limit 1").await
}

#[tokio::test]
async fn a_tenant_that_names_a_partition_gets_no_row_of_others_even_where_it_is_granted() {
    let place = Place::new("closed_rows").await;
    let today = of_today(&place).await;
    let stage = place.serving().await;
    let client = stage.connect("a").await;
    client.batch_execute("insert into events (at, body) values (now(), 'mine')").await.unwrap();
    assert_eq!(one(&client, "select string_agg(body, ' ') from events").await, "mine");
    for partition in [today.as_str(), "events_default"] {
        for sql in
            ["select * from X", "delete from X", "insert into X (at, tenant_id) values (now(), 'b')", "truncate X"]
        {
            let error = client.batch_execute(&sql.replace('X', partition)).await.unwrap_err();
            assert_eq!(code(&error), "42501", "{sql} {partition}");
        }
    }
    let grant = format!("grant select, insert, delete on {today} to closed_rows_app");
    place.admin().await.batch_execute(&grant).await.unwrap();
    assert_eq!(one(&client, &format!("select count(*) from {today}")).await, "0");
    let error = client.batch_execute(&format!("insert into {today} (at, tenant_id) values (now(), 'a')")).await;
    assert_eq!(code(&error.unwrap_err()), "42501");
}

#[tokio::test]
async fn partitions_belong_to_the_tables_owner_and_the_doctor_finds_nothing_in_them() {
    let place = Place::new("closed_owner").await;
    let owners = "select string_agg(distinct pg_get_userbyid(c.relowner) || ' ' || c.relrowsecurity || ' ' ||
        c.relforcerowsecurity || ' ' || (c.relacl is null)::text, ', ')
        from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'events'::regclass";
    assert_eq!(place.one(owners).await, "closed_owner_owner true true true");
    let output = place.pgward("doctor --json").await;
    let found = said(&output);
    assert!(found.contains("\"rule\"") || output.status.success(), "{found}");
    assert!(!found.contains("events_p") && !found.contains("events_default") && !found.contains("partman"), "{found}");
}

/// What default privileges give on the tables of the login that makes the partitions.
#[tokio::test]
async fn default_privileges_do_not_open_a_new_partition() {
    let place = Place::bare("closed_defaults").await;
    place.done("setup").await;
    let sql = "alter default privileges for role closed_defaults_maintenance grant all on tables to closed_defaults_app, public";
    place.admin().await.batch_execute(sql).await.unwrap();
    place.kept().await;
    let today = of_today(&place).await;
    let client = place.serving().await;
    let client = client.connect("a").await;
    for sql in ["select * from X", "truncate X"] {
        let error = client.batch_execute(&sql.replace('X', &today)).await.unwrap_err();
        assert_eq!(code(&error), "42501", "{sql}");
    }
}
