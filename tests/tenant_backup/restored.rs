//! One tenant out of a backup of the whole cluster, while the others go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::place::session;
use crate::support::{Stage, one, until};
use crate::{SEEN, Tenant, Witness, world};

/// Writes and reads as another tenant until it is dropped, and says how long the longest took.
struct Load {
    stop: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
    done: tokio::task::JoinHandle<u64>,
}

impl Load {
    async fn begin(stage: &Stage) -> Self {
        let client = session(stage, "witness").await.client;
        let (stop, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, most) = (Arc::clone(&stop), Arc::clone(&longest));
        let done = tokio::spawn(async move {
            let mut rounds = 0;
            while !until.load(Ordering::Relaxed) {
                let begin = Instant::now();
                client.batch_execute("insert into orders (item) values ('load'); update orders set item = 'more' where item = 'load'").await.unwrap();
                assert_eq!(one(&client, "select count(*) from orders where item like 'seen%'").await, "3");
                assert_eq!(one(&client, "select count(distinct tenant_id) from orders").await, "1");
                client.batch_execute("delete from orders where item = 'more'").await.unwrap();
                most.fetch_max(u64::try_from(begin.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
                rounds += 1;
            }
            rounds
        });
        Self { stop, longest, done }
    }

    /// How many rounds there were, and the longest.
    async fn end(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.done.await.unwrap();
        (rounds, Duration::from_millis(self.longest.load(Ordering::Relaxed)))
    }
}

/// To a time between two commits, by way of a look that changes nothing.
async fn between_two_commits(tenant: &Tenant<'_>, stage: &Stage) {
    let Tenant { place, name, .. } = tenant;
    let (witness, admin) = (Witness::new(stage).await, place.admin().await);
    let client = tenant.settle(stage).await;
    client.batch_execute("insert into orders (item) values ('first')").await.unwrap();
    let between = world::now(&admin).await;
    client
        .batch_execute("insert into orders (item) values ('second'); delete from orders where item = 'a'")
        .await
        .unwrap();
    world::archived(&admin).await;
    let changed = one(&client, SEEN).await;
    let keep = place.path("keep").display().to_string();
    let load = Load::begin(stage).await;
    let looked = place.done(&format!("restore {name} --at {between}")).await;
    assert!(looked.contains("nothing was changed") && looked.contains("orders"), "{looked}");
    assert_eq!(one(&client, SEEN).await, changed);
    let begin = Instant::now();
    place.done(&format!("restore {name} --at {between} --yes --keep {keep}")).await;
    let took = begin.elapsed();
    assert_eq!(tenant.sees(stage).await, "a,b,c,first");
    let (rounds, longest) = load.end().await;
    assert!(rounds > 10, "the others were to be at work, and came to {rounds} rounds");
    assert!(longest < took / 2, "another tenant waited for {longest:?} of {took:?}");
    witness.sees_what_it_saw().await;
    // What was then, without touching what is.
    let export = place.path("export").display().to_string();
    place.done(&format!("export {name} --into {export} --at {between}")).await;
    assert!(
        place.read("export/manifest.json").contains("\"as_of\": \"to 20"),
        "{}",
        place.read("export/manifest.json")
    );
    let same = place.done(&format!("restore {name} --from {export} --yes --keep {keep}-2")).await;
    assert!(same.contains("nothing was changed"), "{same}");
    place.done(&format!("restore {name} --from {keep} --yes --keep {keep}-3")).await;
    assert_eq!(tenant.sees(stage).await, changed);
    crate::exported::left_behind(place, &place.path("")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_come_back_as_they_were_between_two_commits_while_others_work() {
    let place = world::place("between_rows").await;
    let stage = place.stage().await;
    between_two_commits(&Tenant::rows(&place), &stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_comes_back_as_it_was_between_two_commits_while_others_work() {
    let place = world::place("between_schema").await;
    let stage = place.stage().await;
    between_two_commits(&Tenant::schema(&place, "between_schema_own"), &stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_comes_back_as_it_was_between_two_commits_while_others_work() {
    let place = world::place("between_database").await;
    let stage = place.stage().await;
    between_two_commits(&Tenant::database(&place, "between_database_own"), &stage).await;
}

#[tokio::test]
async fn what_was_dropped_by_mistake_comes_back() {
    let place = world::place("dropped").await;
    let stage = place.stage().await;
    let admin = place.admin().await;
    let (schema, database) = (Tenant::schema(&place, "dropped_s"), Tenant::database(&place, "dropped_d"));
    drop(schema.settle(&stage).await);
    drop(database.settle(&stage).await);
    // Nobody has seen to it that this is archived.
    let before = world::now(&admin).await;
    admin.batch_execute("drop schema dropped_s cascade").await.unwrap();
    admin.batch_execute("drop database dropped_d with (force)").await.unwrap();
    for tenant in [&schema, &database] {
        let keep = place.path(tenant.name).display().to_string();
        let said = place.done(&format!("restore {} --at {before} --yes --keep {keep}", tenant.name)).await;
        assert!(said.contains("is not there now") && said.contains("nothing is kept"), "{said}");
        assert_eq!(tenant.sees(&stage).await, "a,b,c");
    }
}

#[tokio::test]
async fn a_time_before_the_first_backup_is_refused_and_the_tenant_goes_on() {
    let place = world::place("too_early").await;
    let stage = place.stage().await;
    let client = Tenant::rows(&place).settle(&stage).await;
    let before = place.read("tenants.toml");
    let keep = place.path("keep").display().to_string();
    let said = place.fails(&format!("restore acme --at 2001-01-01T00:00:00Z --yes --keep {keep}")).await;
    assert!(said.contains("the oldest ended at"), "{said}");
    let said = place.fails("restore acme --at 2101-01-01T00:00:00Z").await;
    assert!(said.contains("is that later than what is archived"), "{said}");
    assert!(place.fails("restore acme").await.contains("--at TIME"));
    assert_eq!(place.read("tenants.toml"), before);
    assert_eq!(one(&client, SEEN).await, "a,b,c");
    until("nothing is left", async || std::fs::read_dir(place.path("")).unwrap().count() < 6).await;
}

/// Where the tenants are written by somebody else.
#[tokio::test]
async fn a_look_at_what_would_change_asks_for_no_file_to_write() {
    let place = world::place("looked").await;
    let stage = place.stage().await;
    let tenant = Tenant::schema(&place, "looked_s");
    drop(tenant.settle(&stage).await);
    let export = place.path("export").display().to_string();
    place.done(&format!("export {} --into {export}", tenant.name)).await;
    let text = place.read("pgward.toml").replace("tenants_file = \"tenants.toml\"\n", "") + &place.read("tenants.toml");
    std::fs::write(place.path("own.toml"), text).unwrap();
    let mut command = place.command(&format!("restore {} --from {export}", tenant.name));
    let output = command.env("PGWARD_CONFIG", place.path("own.toml")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}
