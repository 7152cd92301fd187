//! The table's server goes, comes back, or is another one.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgward::local::{Authority, Cluster, Stop};

use super::{Place, gauge, get, knows, login, output, put, said, until_known};
use crate::support::{Stage, one, replicated, until};

async fn until_watched(node: &Stage) {
    until("the catalogue to be watched", async || gauge(node, "pgward_catalogue_up").await == 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_tables_server_sessions_go_on_and_a_new_start_takes_the_cache_or_none_at_all() {
    let mut control = Cluster::builder("control").start().await.unwrap();
    let place = Place::beside("outage", &control).await;
    place.add("outage_a").await;
    let node = place.node(1).await;
    until_watched(&node).await;
    let cache = place.config(1).with_file_name("catalogue.json");
    until("the cache", async || cache.exists()).await;
    assert_eq!(std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o600);
    place.add("outage_b").await;
    until_known(&node, "outage_b").await;
    until("the cache to follow", async || std::fs::read_to_string(&cache).unwrap().contains("outage_b")).await;
    let session = login(&node, "outage_a").await.unwrap();
    control.primary_mut().stop(Stop::Immediate).await.unwrap();
    until("the node to notice", async || gauge(&node, "pgward_catalogue_up").await == 0.0).await;
    assert_eq!(one(&session.client, "select current_schema()").await, "outage_a");
    assert!(login(&node, "outage_b").await.is_ok());
    assert!(get(&node, "/ready").await.starts_with("HTTP/1.1 200"));
    let older = gauge(&node, "pgward_catalogue_age_seconds").await;
    until("what is known to grow older", async || gauge(&node, "pgward_catalogue_age_seconds").await > older).await;
    node.console().await.simple_query("reload").await.unwrap();

    // Another one starts with the same cache, and serves.
    let other = place.config(2);
    std::fs::copy(&cache, other.with_file_name("catalogue.json")).unwrap();
    let second = Stage::at(other).await;
    assert!(second.settings.catalogue.as_ref().unwrap().snapshot.cached);
    assert!(login(&second, "outage_b").await.is_ok());
    // One that has none, a foreign one or a broken one does not start, and says why. Neither do commands take it.
    let start = |node: usize| {
        let mut command = place.command("run");
        command.arg(place.config(node));
        command
    };
    let refused = said(&output(start(3)).await);
    assert!(refused.contains("catalogue of tenants (control@control) cannot be read"), "{refused}");
    assert!(refused.contains("and neither can its cache") && refused.contains("catalogue.json"), "{refused}");
    let without = place.config_with(4, "");
    let mut command = place.command("run");
    command.arg(&without);
    let refused = output(command).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("there is no catalogue.cache to start from"), "{}", said(&refused));
    let foreign = std::fs::read_to_string(&cache).unwrap().replace("control@control", "control@other");
    for (text, words) in
        [(foreign.as_str(), "another catalogue"), ("{\"tenants\": \"x\"", "not what pgward has written")]
    {
        std::fs::write(place.config(5).with_file_name("catalogue.json"), text).unwrap();
        let refused = said(&output(start(5)).await);
        assert!(refused.contains(words), "{refused}");
    }
    std::fs::copy(&cache, place.config(0).with_file_name("catalogue.json")).unwrap();
    let config = place.config(0).display().to_string();
    for line in [format!("check {config}"), "tenant list".to_owned(), "tenant suspend outage_a".to_owned()] {
        let refused = place.fails(&line).await;
        assert!(refused.contains("the catalogue of tenants (control@control) cannot be read"), "{line}: {refused}");
    }

    control.primary_mut().start().await.unwrap();
    place.done("tenant suspend outage_b").await;
    for node in [&node, &second] {
        until_watched(node).await;
        until("what changed meanwhile", async || {
            node.control.shared.world.load().settings.tenants["outage_b"].suspended
        })
        .await;
    }
    assert_eq!(one(&session.client, "select 2").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pgward_that_runs_by_its_cache_says_so() {
    let mut control = Cluster::builder("says").start().await.unwrap();
    let place = Place::beside("saying", &control).await;
    place.add("saying_a").await;
    let node = place.node(1).await;
    let cache = place.config(1).with_file_name("catalogue.json");
    until("the cache", async || cache.exists()).await;
    drop(node);
    control.primary_mut().stop(Stop::Immediate).await.unwrap();
    let mut command = place.command("run");
    let mut child = command
        .arg(place.config(1))
        .stdout(std::fs::File::create(cache.with_file_name("log")).unwrap())
        .stderr(std::fs::File::create(cache.with_file_name("err")).unwrap())
        .spawn()
        .unwrap();
    let log = || {
        let read = |name| std::fs::read_to_string(cache.with_file_name(name)).unwrap();
        format!("{}{}", read("log"), read("err"))
    };
    until("the word of the cache", async || log().contains("so its cache is in force")).await;
    until("the word of the server", async || log().contains("the catalogue is not watched")).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!log().contains("cluster = \\\"main"), "definitions are not for the log: {}", log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_while_nobody_listened_is_made_up_for() {
    let place = Place::new("deaf").await;
    let node = place.node(1).await;
    until_watched(&node).await;
    let owner = place.owner().await;
    // Nobody gets in again before the change is there.
    owner.batch_execute("alter role deaf_reader nologin").await.unwrap();
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'deaf_reader'";
    assert_ne!(one(&owner, end).await, "0");
    until("the node to notice", async || gauge(&node, "pgward_catalogue_up").await == 0.0).await;
    put(&owner, "deaf_a", &place.definition()).await.unwrap();
    assert!(!knows(&node, "deaf_a"));
    owner.batch_execute("alter role deaf_reader login").await.unwrap();
    until_known(&node, "deaf_a").await;
    until_watched(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_nobody_is_told_of_is_found_by_looking() {
    let place = Place::new("polled").await;
    let path = place.config(1);
    let text = std::fs::read_to_string(&path).unwrap().replace("poll = \"1h\"", "poll = \"1s\"");
    std::fs::write(&path, text).unwrap();
    let node = Stage::at(path).await;
    until_watched(&node).await;
    let owner = place.owner().await;
    owner.batch_execute("alter table pgward_catalogue.tenants disable trigger tell").await.unwrap();
    put(&owner, "polled_a", &place.definition()).await.unwrap();
    until_known(&node, "polled_a").await;
    assert!(gauge(&node, "pgward_catalogue_age_seconds").await <= 5.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalogue_is_followed_to_the_server_that_takes_the_writes_now() {
    let mut cluster = replicated::pair("moving").await;
    let place = tempfile::tempdir().unwrap();
    let [one_, two] = {
        let ports: Vec<u16> = cluster.servers().map(pgward::local::Server::port).collect();
        [ports[0], ports[1]]
    };
    let primary = cluster.primary().connect("app").await.unwrap();
    let extra = "[catalogue]\ncluster = \"main\"\ndatabase = \"app\"\npoll = \"1h\"\n\
        [http]\naddress = \"127.0.0.1:0\"\n";
    let text = crate::support::configuration(one_, extra);
    let probe = "probe = { interval = \"100ms\", timeout = \"500ms\", down_after = \"1s\" }";
    let replica = format!(
        "[[clusters.main.servers]]\nname = \"main-2\"\nhost = \"127.0.0.1\"\nport = {two}\nregion = \"lk\"\n\
         role = \"replica\"\n"
    );
    let text = text.replace("[clusters.main]\n", &format!("[clusters.main]\n{probe}\n"));
    let text = text.replace("[tenants.kandy]", &format!("{replica}[tenants.kandy]"));
    let path = place.path().join("pgward.toml");
    std::fs::write(&path, format!("{}{text}", crate::support::HEAD)).unwrap();
    let outline = pgward::config::Draft::read(&path).unwrap().outline().unwrap();
    let catalogue = outline.catalogue.as_ref().unwrap();
    pgward::tenant::install_catalogue(&primary, &outline, catalogue).await.unwrap();
    let definition = "isolation = \"schema\"\ncluster = \"main\"\ndatabase = \"app\"\nhome = \"lk\"\n";
    put(&primary, "before", definition).await.unwrap();
    let node = Stage::at(path.clone()).await;
    assert!(knows(&node, "before"), "the service login reads it where none is named");
    until_watched(&node).await;
    cluster.primary_mut().kill().await.unwrap();
    replicated::promote(&cluster.replicas()[0]).await;
    let promoted = cluster.replicas()[0].connect("app").await.unwrap();
    promoted.batch_execute("set synchronous_commit = local").await.unwrap();
    until("the promoted server to take writes", async || put(&promoted, "after", definition).await.is_ok()).await;
    until_known(&node, "after").await;
    until_watched(&node).await;
    put(&promoted, "later", definition).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), until_known(&node, "later")).await.unwrap();
    // A command finds it, too.
    let found = pgward::catalogue::load(&path).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert!(found.tenants.contains_key("later"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalogue_is_read_and_watched_by_tls_as_its_cluster_says() {
    let control = Cluster::builder("secret").tls().hba("hostnossl all secret_reader 127.0.0.1/32 reject");
    let control = control.start().await.unwrap();
    let mut place = Place::near("secret", &control).await;
    let authorities = tempfile::tempdir().unwrap();
    let own = control.authority().unwrap().pem().to_owned();
    let another = Authority::new("another").unwrap().pem().to_owned();
    let [own, another] = [("own.crt", own), ("another.crt", another)].map(|(name, pem)| {
        let path = authorities.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    });
    let (head, rest) = place.text.split_once("[clusters.control]\ntls.mode = \"off\"").unwrap();
    let verified = |ca: &str| format!("{head}[clusters.control]\ntls = {{ ca = \"{ca}\" }}{rest}");
    let (good, bad) = (verified(&own), verified(&another));
    place.text = good;
    let mut place = place.installed().await;
    let node = place.node(1).await;
    until_watched(&node).await;
    put(&place.owner().await, "secret_a", &place.definition()).await.unwrap();
    until_known(&node, "secret_a").await;
    let encrypted =
        "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid) where usename = 'secret_reader'";
    assert_eq!(one(&place.owner().await, encrypted).await, "t");
    place.text = bad;
    let refused = place.fails("tenant list").await;
    assert!(refused.contains("cannot be read") && refused.contains("certificate"), "{refused}");
}
