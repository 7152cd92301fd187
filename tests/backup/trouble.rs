//! What goes wrong, and what is said of it.

use std::process::Stdio;

use pgward::sidecar::backup::Target;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::place::{Place, said};
use crate::support::{one, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_two_at_once() {
    let place = Place::new("twice").await;
    let site = place.site();
    let lock = site.lock("a test that takes its time").unwrap();
    for words in [&["backup", "run"][..], &["backup", "prune"], &["backup", "restore", "--into", "/nowhere/at/all"]] {
        let refused = place.refused(words).await;
        assert!(refused.contains("a test that takes its time") && refused.contains("nothing was done"), "{refused}");
    }
    drop(lock);
    // Nor from two machines, whose locks do not see each other.
    let other = place.postgres("postgres").await;
    let key = "select pg_try_advisory_lock(x'70677761'::int, x'6261636b'::int)::text";
    assert_eq!(one(&other, key).await, "true");
    let refused = place.refused(&["backup", "run"]).await;
    assert!(refused.contains("another pgward makes a backup of cluster main"), "{refused}");
    drop(other);
    until("the other's end", async || place.run(&["backup", "run"]).await.status.success()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_was_killed_is_gone_on_with() {
    let often = "[clusters.main.backup.options]\nmanifest-save-threshold = \"1MiB\"\n[clusters.main.repositories.near]\nregion = \"lk\"\n\
                path = \"{folder}/near\"\ncipher = \"0123456789abcdef0123456789abcdef\"\n";
    let place = Place::with("killed", "", often).await;
    let client = place.postgres("app").await;
    for table in 1..=8 {
        let sql =
            format!("create table ballast{table} as select sha512(n::text::bytea) from generate_series(1, 25000) n");
        client.batch_execute(&sql).await.unwrap();
    }
    let mut command = place.command(&["backup", "run"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("it ended before it was killed").ends_with('%') {}
    child.kill().await.unwrap();
    assert_eq!(place.labels("near").await, Vec::<String>::new());
    let output = place.run(&["backup", "run"]).await;
    let words = said(&output);
    assert!(output.status.success(), "{words}");
    assert!(words.contains("resum"), "what was there already was made anew: {words}");
    let copy = place.copy(Target::End).await;
    assert_eq!(one(&copy.connect("app").await.unwrap(), "select count(*)::text from ballast8").await, "25000");
    let left = "select count(*)::text from pg_stat_activity where application_name like 'pg%back%' and pid <> pg_backend_pid()";
    assert_eq!(one(&client, left).await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_command_was_killed_is_removed_by_the_next() {
    let place = Place::new("swept").await;
    place.done(&["backup", "run"]).await;
    let left = place.folder.join("state/main/scratch-0badcafe");
    std::fs::create_dir_all(left.join("data")).unwrap();
    std::fs::write(left.join("used"), "").unwrap();
    let copy = place.copy(Target::Consistent).await;
    assert!(!left.exists(), "what was left stays");
    // One that is in use is left alone.
    let other = place.copy(Target::Consistent).await;
    assert_eq!(one(&copy.connect("app").await.unwrap(), "select 1::text").await, "1");
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_said() {
    let place = Place::new("missing").await;
    let text = std::fs::read_to_string(&place.config).unwrap();
    let change = |from: &str, to: &str| {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from}");
        std::fs::write(&place.config, changed).unwrap();
    };
    change("[backup]\n", "[backup]\nprogram = \"/nowhere/pgbackrest\"\n");
    let refused = place.refused(&["backup", "run"]).await;
    assert!(
        refused.contains("/nowhere/pgbackrest cannot be run") && refused.contains("install the package"),
        "{refused}"
    );
    change("0123456789abcdef0123456789abcdef\"\n\n[backup]", "ffffffffffffffffffffffffffffffff\"\n\n[backup]");
    let refused = place.refused(&["backup", "run"]).await;
    assert!(refused.contains("repository near") && !refused.contains("ffffffffffffffff"), "{refused}");
    std::fs::write(&place.config, &text).unwrap();
    for (words, why) in [
        (&["backup", "run", "--cluster", "galle"][..], "there is no cluster galle"),
        (&["backup", "run", "--repository", "far"], "no repository far"),
        (&["backup", "run", "--tier", "hourly"], "there is no tier hourly"),
        (
            &["backup", "restore", "--into", "/nowhere/x", "--set", "20200101-000000F"],
            "no backup called 20200101-000000F",
        ),
    ] {
        let refused = place.refused(words).await;
        assert!(refused.contains(why), "{words:?}: {refused}");
    }
    // A repository that is gone, as with a disk that is not mounted, is not made anew behind everybody's back.
    place.done(&["backup", "run"]).await;
    for gone in ["near/backup", "near"] {
        std::fs::rename(place.folder.join(gone), place.folder.join("aside")).unwrap();
        for words in [&["backup", "run"][..], &["backup", "list"], &["backup", "status"], &["backup", "prune"]] {
            let refused = place.refused(words).await;
            assert!(refused.contains("pgward backup setup") || refused.contains("pgbackrest"), "{words:?}: {refused}");
        }
        assert!(!place.folder.join(gone).exists(), "{gone} was made anew");
        std::fs::rename(place.folder.join("aside"), place.folder.join(gone)).unwrap();
    }
    place.done(&["backup", "run"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_another_server_are_not_taken_for_the_primarys() {
    let place = Place::new("elsewhere").await;
    let other = pgward::local::Cluster::builder("other").start().await.unwrap();
    let text = std::fs::read_to_string(&place.config).unwrap();
    let (right, wrong) = (place.cluster.primary().data().display(), other.primary().data().display());
    let changed = text.replace(&right.to_string(), &wrong.to_string());
    assert_ne!(changed, text);
    std::fs::write(&place.config, changed).unwrap();
    let refused = place.refused(&["backup", "run"]).await;
    assert!(refused.contains("on this machine is not its data"), "{refused}");
}

/// Whoever is PostgreSQL's user can put a link where pgward, as root, keeps something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_in_the_folder_of_backups_leads_nowhere() {
    let place = Place::new("links").await;
    let (victim, folder) = (place.folder.join("victim"), place.folder.join("state/main"));
    std::fs::write(&victim, "untouched").unwrap();
    let linked = |name: &str| {
        let _ = std::fs::remove_file(folder.join(name));
        std::os::unix::fs::symlink(&victim, folder.join(name)).unwrap();
    };
    linked("command.lock");
    let refused = place.refused(&["backup", "run"]).await;
    assert!(refused.contains("cannot lock") && refused.contains("command.lock"), "{refused}");
    std::fs::remove_file(folder.join("command.lock")).unwrap();
    // What is put in place as a whole replaces the link.
    linked("pgbackrest.conf");
    place.done(&["backup", "run"]).await;
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(folder.join("pgbackrest.conf").symlink_metadata().unwrap().is_file());
    // Nor does a folder's.
    let (elsewhere, spool) = (place.folder.join("elsewhere"), folder.join("spool"));
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::remove_dir_all(&spool).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &spool).unwrap();
    let refused = place.refused(&["backup", "run"]).await;
    assert!(refused.contains("cannot use as a folder") && refused.contains("spool"), "{refused}");
}
