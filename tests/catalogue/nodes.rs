//! Nodes that share a catalogue, and commands that change it.

use std::time::{Duration, Instant};

use super::{Place, gauge, get, knows, login, put, until_known};
use crate::log::parse;
use crate::support::{cluster, code, eventually, one, until};

/// What the commands promise, and a margin for a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_changes_is_so_at_all_nodes_and_a_suspended_tenant_is_out_everywhere() {
    let place = Place::new("shared").await;
    let nodes = [place.node(1).await, place.node(2).await];
    for node in &nodes {
        until("the catalogue to be watched", async || gauge(node, "pgward_catalogue_up").await == 1.0).await;
        assert!(login(node, "shared_a").await.is_err());
    }
    place.add("shared_a").await;
    for node in &nodes {
        eventually("the new tenant", SOON, async || login(node, "shared_a").await.is_ok()).await;
    }
    let sessions = [login(&nodes[0], "shared_a").await.unwrap(), login(&nodes[1], "shared_a").await.unwrap()];
    for session in &sessions {
        assert_eq!(one(&session.client, "select current_schema()").await, "shared_a");
    }
    let listed = place.done("tenant list").await;
    assert!(listed.lines().any(|line| line.starts_with("shared_a ") && line.ends_with(" no")), "{listed}");
    let shown = place.done("tenant show shared_a --json").await;
    assert!(shown.contains("\"in_catalogue\": true") && shown.contains("\"in_tenants_file\": false"), "{shown}");
    let suspended = place.done("tenant suspend shared_a").await;
    assert!(suspended.contains("is suspended in the catalogue (shared_catalogue@main)"), "{suspended}");
    let begin = Instant::now();
    for session in sessions {
        assert_eq!(session.ended().await, ("28000".to_owned(), "the tenant is suspended".to_owned()));
    }
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    place.done("tenant resume shared_a").await;
    for node in &nodes {
        eventually("the tenant to be back", SOON, async || login(node, "shared_a").await.is_ok()).await;
    }
    let removed = place.done("tenant remove shared_a --yes").await;
    assert!(removed.contains("no longer in the catalogue"), "{removed}");
    for node in &nodes {
        eventually("the tenant to be gone", SOON, async || !knows(node, "shared_a")).await;
    }
    assert_eq!(one(&place.owner().await, "select count(*) from pgward_catalogue.tenants").await, "0");
    // Who did it is in the commands' log, and that it was taken up in the nodes'.
    let read = |file: &str| parse(&std::fs::read_to_string(place.config(0).with_file_name(file)).unwrap_or_default());
    let acts: Vec<String> = read("audit.admin.jsonl").iter().map(|line| line["act"].to_string()).collect();
    assert!(acts.iter().any(|act| act == "\"catalogue_install\"") && acts.iter().any(|act| act == "\"tenant_add\""));
    let log = parse(&std::fs::read_to_string(place.config(1).with_file_name("audit.jsonl")).unwrap());
    let reloads = log.iter().filter(|line| line["event"] == "reload" && line["source"] == "catalogue");
    assert!(reloads.clone().count() >= 4 && reloads.clone().all(|line| line["outcome"] == "done"), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_bad_is_refused_with_all_that_came_with_it_and_what_was_in_force_stays() {
    let place = Place::new("bad").await;
    place.add("bad_a").await;
    let node = place.node(1).await;
    until("the catalogue to be watched", async || gauge(&node, "pgward_catalogue_up").await == 1.0).await;
    let session = login(&node, "bad_a").await.unwrap();
    let mut owner = place.owner().await;
    let transaction = owner.transaction().await.unwrap();
    put(transaction.client(), "bad_b", &place.definition()).await.unwrap();
    put(transaction.client(), "bad_c", "cluster = \"nowhere\"\ndatabase = \"x\"\nhome = \"lk\"\npasword = \"hush\"\n")
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    until("the refusal", async || gauge(&node, "pgward_catalogue_refused").await == 1.0).await;
    assert!(!knows(&node, "bad_b") && knows(&node, "bad_a"));
    assert_eq!(one(&session.client, "select 1").await, "1");
    assert!(login(&node, "bad_a").await.is_ok());
    assert!(get(&node, "/ready").await.starts_with("HTTP/1.1 200"));
    // Reloading does not get around it, and says what is wrong, of which tenant.
    let refused = node.console().await.simple_query("reload").await.unwrap_err();
    let words = format!("{:?}", refused.as_db_error().unwrap());
    assert!(words.contains("tenants.bad_c.pasword: is not a known key"), "{words}");
    let checked = place.fails(&format!("check {}", place.config(0).display())).await;
    assert!(checked.contains("tenants.bad_c.pasword: is not a known key") && !checked.contains("hush"), "{checked}");
    // Nor does a command write beside it.
    let said = place.fails("tenant suspend bad_a").await;
    assert!(said.contains("tenants.bad_c"), "{said}");
    put(&owner, "bad_c", "cluster = \"nowhere\"\ndatabase = \"x\"\nhome = \"lk\"\n").await.unwrap();
    let other = "tenants.bad_c.cluster = nowhere: is not among the clusters";
    until("the other refusal", async || {
        let refused = node.console().await.simple_query("reload").await.unwrap_err();
        format!("{:?}", refused.as_db_error().unwrap()).contains(other)
    })
    .await;
    owner.execute("delete from pgward_catalogue.tenants where name = 'bad_c'", &[]).await.unwrap();
    until_known(&node, "bad_b").await;
    assert_eq!(gauge(&node, "pgward_catalogue_refused").await, 0.0);
    assert_eq!(one(&session.client, "select 2").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_the_main_file_held_up_is_taken_up_once_that_is_put_right() {
    let mut place = Place::new("held").await;
    place.text = place.text.replace("poll = \"1h\"", "poll = \"1s\"");
    let node = place.node(1).await;
    until("the catalogue to be watched", async || gauge(&node, "pgward_catalogue_up").await == 1.0).await;
    let good = std::fs::read_to_string(&node.path).unwrap();
    super::rewrite(&node.path, &good.replace("[catalogue]\n", "[catalogue]\npol = \"1s\"\n"));
    let owner = place.owner().await;
    put(&owner, "held_a", &place.definition()).await.unwrap();
    until("the refusal", async || gauge(&node, "pgward_catalogue_refused").await == 1.0).await;
    let reads = "select seq_scan from pg_stat_user_tables where relname = 'tenants'";
    let reads = async || one(&owner, reads).await.parse::<u64>().unwrap();
    let before = reads().await;
    until("it to be tried again", async || reads().await >= before + 3).await;
    assert!(!knows(&node, "held_a"));
    super::rewrite(&node.path, &good);
    until_known(&node, "held_a").await;
    let log = place.config(1).with_file_name("audit.jsonl");
    let told = async || {
        let lines = parse(&std::fs::read_to_string(&log).unwrap());
        let reloads = lines.iter().filter(|line| line["event"] == "reload" && line["source"] == "catalogue");
        reloads.map(|line| line["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("the log", async || told().await.last().is_some_and(|outcome| outcome == "done")).await;
    assert_eq!(told().await.len(), 2, "the same refusal is recorded once: {:?}", told().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_node_which_heard_late_let_in_are_not_left_by_a_removal() {
    let mut place = Place::new("late").await;
    place.text = place.text.replace("poll = \"1h\"", "poll = \"4s\"");
    place.done("tenant add late_a --isolation rows --cluster main --database late --home lk").await;
    let tenants = cluster().await.primary().connect("late").await.unwrap();
    let table = "create table notes (text text, tenant_id text not null default pgward.tenant()); \
        grant select, insert on notes to late_app; select pgward.protect('notes')";
    tenants.batch_execute(table).await.unwrap();
    let node = place.node(1).await;
    until("the catalogue to be watched", async || gauge(&node, "pgward_catalogue_up").await == 1.0).await;
    place.owner().await.batch_execute("alter table pgward_catalogue.tenants disable trigger tell").await.unwrap();
    let session = login(&node, "late_a").await.unwrap();
    let writing =
        tokio::spawn(
            async move { while session.client.batch_execute("insert into notes values ('x')").await.is_ok() {} },
        );
    let removed = place.done("tenant remove late_a --yes").await;
    assert!(removed.contains("waiting 14 s"), "{removed}");
    writing.await.unwrap();
    assert_eq!(one(&tenants, "select count(*) from notes").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_takes_its_tenants_from_the_table_and_check_counts_them() {
    let place = Place::new("commands").await;
    place.add("commands_a").await;
    let config = place.config(0);
    let checked = place.done(&format!("check {}", config.display())).await;
    assert!(checked.contains("catalogue commands_catalogue@main: 1 tenants"), "{checked}");
    assert!(checked.contains("1 at level schema"), "{checked}");
    let token = place.done("token --tenant commands_a").await;
    assert!(!token.contains("warning"), "{token}");
    assert!(place.done("token --tenant commands_b").await.contains("there is no tenant commands_b"));
    assert!(place.done("install --cluster main").await.contains("installed in database commands of cluster main"));
    let examined = place.run("doctor --cluster main --json").await;
    assert!(String::from_utf8_lossy(&examined.stdout).contains("database commands"), "{}", super::said(&examined));
    // What the configuration itself has is not the commands' to change, and a name is in one of the two.
    let table = format!("\n[tenants.commands_old]\n{}", place.definition());
    let text = std::fs::read_to_string(&config).unwrap();
    let with = |more: &str| std::fs::write(config.with_file_name("more.toml"), format!("{text}{more}")).unwrap();
    let more = config.with_file_name("more.toml");
    with(&table);
    let mut command = place.command("tenant suspend commands_old");
    let output = super::output({
        command.env("PGWARD_CONFIG", &more);
        command
    })
    .await;
    assert!(super::said(&output).contains("which pgward does not write"), "{}", super::said(&output));
    with(&table.replace("commands_old", "commands_a"));
    let said = place.fails(&format!("check {}", more.display())).await;
    assert!(said.contains("tenants.commands_a: is in the configuration file and in the catalogue"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_configuration_says_of_the_catalogue_is_checked_and_changed_by_a_restart_only() {
    let place = Place::new("rules").await;
    let node = place.node(1).await;
    let text = std::fs::read_to_string(&node.path).unwrap();
    super::rewrite(&node.path, &text.replace("poll = \"1h\"", "poll = \"2h\""));
    let path = place.config(2);
    let check = format!("check {}", path.display());
    for (from, to, words) in [
        ("poll = \"1h\"", "poll = \"2h\"", "catalogue.poll"),
        (
            "[catalogue]\ncluster = \"main\"",
            "[catalogue]\ncluster = \"mane\"",
            "catalogue.cluster = mane: is not among",
        ),
        (
            "login = \"rules_reader\"",
            "login = \"rules_app\"",
            "catalogue.login = rules_app: is also a login of tenants",
        ),
        ("login = \"rules_reader\"\n", "logn = \"x\"\n", "did you mean login?"),
        ("master_key", "tenants_file = \"t.toml\"\nmaster_key", "tenants_file: stands beside [catalogue]"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        std::fs::write(path.with_file_name("t.toml"), "").unwrap();
        let said = place.run(&check).await;
        let said = format!("{}{:?}", super::said(&said), said.status.code());
        assert!(said.contains(words), "{to}: {said}");
        assert!(said.ends_with("Some(1)"), "{said}");
    }
    let changed = text.replace("poll = \"1h\"", "poll = \"1m\"");
    super::rewrite(&node.path, &changed);
    let refused = node.console().await.simple_query("reload").await.unwrap_err();
    let words = format!("{:?}", refused.as_db_error().unwrap());
    assert!(words.contains("catalogue has changed") && words.contains("restart pgward"), "{words}");
    super::rewrite(&node.path, text.split_once("[catalogue]").unwrap().0);
    let refused = node.console().await.simple_query("reload").await.unwrap_err();
    assert!(format!("{:?}", refused.as_db_error().unwrap()).contains("catalogue has changed"));
    assert_eq!(code(&refused), code(&node.console().await.simple_query("reload").await.unwrap_err()));
    let turned = text.replace("login = \"rules_reader\"", "login = { role = \"rules_reader\", epoch = 2 }");
    assert_ne!(turned, text);
    super::rewrite(&node.path, &turned);
    node.console().await.simple_query("reload").await.unwrap();
}
