//! kill -9 at any moment of a restore: the tenant is as before or as after, and the same command goes on.

use crate::place::{Place, kill_until_done};
use crate::support::one;
use crate::{SEEN, Tenant, Witness};

/// `steps`: the moments to be killed at, in ms. `database`: where the tenant's table is, as `table`.
async fn killed(tenant: &Tenant<'_>, steps: impl Iterator<Item = u64>, database: &str, table: &str) {
    let Tenant { place, name, .. } = tenant;
    let stage = place.stage().await;
    let witness = Witness::new(&stage).await;
    let client = tenant.settle(&stage).await;
    let (export, keep) = (place.path("export").display().to_string(), place.path("keep").display().to_string());
    place.done(&format!("export {name} --into {export}")).await;
    let change = "delete from orders where item = 'a'; insert into orders (item) values ('x')";
    client.batch_execute(change).await.unwrap();
    drop(client);
    let seen = SEEN.replace("orders", table);
    let restore = format!("restore {name} --from {export} --yes --keep {keep}");
    let mut kills = 0;
    for wait in steps {
        let done = |place: &Place| place.path("keep/manifest.json").exists() && !place.path("keep.restoring").exists();
        let more = kill_until_done(place, &restore, std::iter::once(wait), done).await;
        let admin = place.admin_of(database).await;
        let now = one(&admin, &seen).await;
        assert!(["b,c,x", "a,b,c"].contains(&now.as_str()), "after {wait} ms: {now}");
        witness.sees_what_it_saw().await;
        kills += more;
        if more == 0 {
            break;
        }
    }
    assert!(kills > 2, "it was killed {kills} times only");
    place.done(&restore).await;
    assert_eq!(tenant.sees(&stage).await, "a,b,c");
    assert!(!place.read("tenants.toml").contains("suspended = true"), "it is let in, as before");
    crate::exported::left_behind(place, &place.path("")).await;
    // The first that was kept is what was there.
    let first = if place.path("keep.earlier-1").exists() { format!("{keep}.earlier-1") } else { keep };
    place.done(&format!("restore {name} --from {first} --yes --keep {}", place.path("other").display())).await;
    assert_eq!(tenant.sees(&stage).await, "b,c,x");
}

#[tokio::test]
async fn rows_are_as_before_or_as_after() {
    let place = Place::new("kill_rows").await;
    // It waits two seconds for nothing but time to pass.
    let steps = [20, 200, 900].into_iter().chain(crate::growing(2_000));
    killed(&Tenant::rows(&place), steps, "kill_rows", "(select * from orders where tenant_id = 'acme') o").await;
}

#[tokio::test]
async fn a_schema_is_as_before_or_as_after() {
    let place = Place::new("kill_schema").await;
    let tenant = Tenant::schema(&place, "kill_schema_own");
    killed(&tenant, steps(), "kill_schema", "kill_schema_own.orders").await;
}

#[tokio::test]
async fn a_database_is_as_before_or_as_after() {
    let place = Place::new("kill_database").await;
    let tenant = Tenant::database(&place, "kill_database_own");
    killed(&tenant, steps(), "kill_database_own", "public.orders").await;
}

/// All of it takes its time here, from the first moment on.
fn steps() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(40), |wait| Some(wait + 150 + wait / 20))
}
