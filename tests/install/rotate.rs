//! Another key seals the contexts, and no client notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{ClusterName, Installation, Place, one};
use crate::support::Stage;

const KEY: &str = "context.keys.k1 = \"fedcba9876543210fedcba9876543210\"\n";
const KID: &str = "select split_part(current_setting('pgward.context'), '.', 2)";

/// Installs, and has the proxy read, a configuration with these keys.
async fn turn(place: &Place, stage: &Stage, keys: &str) {
    let text = place.text.replace(KEY, keys);
    let changed = Place { name: place.name, text: text.clone() };
    let (settings, name) = (changed.settings(), ClusterName::parse("main").unwrap());
    let installation = Installation { prune: true, ..Installation::new(&settings, &name, place.name) };
    installation.run(&place.admin().await).await.unwrap();
    std::fs::write(&stage.path, text).unwrap();
    stage.control.reload().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_changed_under_load_without_an_error_or_a_lost_client() {
    let place = Place::with("rotated", "[pool]\nmax_per_login = 4\n").await;
    place.install().await;
    let stage = place.stage().await;
    let over = Arc::new(AtomicBool::new(false));
    let mut busy = Vec::new();
    for i in 0..12 {
        let (client, over) = (stage.connect(&format!("t{i}")).await, Arc::clone(&over));
        busy.push(tokio::spawn(async move {
            let statement = client.prepare("select pgward.tenant()").await.unwrap();
            let mut done = 0;
            while !over.load(Ordering::Relaxed) {
                let seen: String = client.query_one(&statement, &[]).await.unwrap().get(0);
                assert_eq!(seen, format!("t{i}"));
                done += 1;
            }
            done
        }));
    }
    let pinned = stage.connect("acme").await;
    pinned.batch_execute("set app.x = 'mine'; create temp table own as select 1 as a").await.unwrap();
    let quiet = stage.connect("globex").await;
    assert_eq!(one(&quiet, KID).await, "k1");
    let second = "context.keys.k2 = \"an entirely different key of 32 bytes\"\n";
    turn(&place, &stage, &format!("{KEY}{second}context.active = \"k1\"\n")).await;
    assert_eq!((one(&quiet, KID).await, one(&pinned, KID).await), ("k1".to_owned(), "k1".to_owned()));
    let open = stage.connect("acme").await;
    open.batch_execute("begin; select 1").await.unwrap();
    turn(&place, &stage, &format!("{KEY}{second}context.active = \"k2\"\n")).await;
    // A transaction goes on with the key that it began with, which is still good.
    assert_eq!(
        (one(&open, KID).await, one(&open, "select pgward.tenant()").await),
        ("k1".to_owned(), "acme".to_owned())
    );
    open.batch_execute("commit").await.unwrap();
    assert_eq!(one(&open, KID).await, "k2");
    for client in [&quiet, &pinned] {
        assert_eq!(one(client, KID).await, "k2");
    }
    // What is not asked anything until the old key is gone.
    let asleep = stage.connect("t40").await;
    assert_eq!(one(&asleep, KID).await, "k2");
    turn(&place, &stage, second).await;
    let keys = one(&place.admin().await, "select string_agg(kid, ' ' order by kid) from pgward.keys").await;
    assert_eq!(keys, "for channels k2");
    for (client, tenant) in [(&quiet, "globex"), (&pinned, "acme"), (&open, "acme"), (&asleep, "t40")] {
        assert_eq!(one(client, "select pgward.tenant()").await, tenant);
    }
    assert_eq!(one(&pinned, "select current_setting('app.x') || a from own").await, "mine1");
    over.store(true, Ordering::Relaxed);
    for client in busy {
        assert!(client.await.unwrap() > 0);
    }
}
