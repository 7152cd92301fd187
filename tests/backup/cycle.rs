//! From nothing to a restored copy, and to nothing again.

use pgward::base::clock;
use pgward::sidecar::backup::{Target, Unseen, moment, prune};

use crate::place::Place;
use crate::support::{one, until};

const DAY: u64 = 86_400;

async fn a_library_in_place_of_the_command_is_refused(place: &Place) {
    let client = &place.postgres("app").await;
    let set = async |to: &str, library: &str| {
        client.batch_execute(&format!("alter system {to}")).await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
        until("the server has read it", || async move { one(client, "show archive_library").await == library }).await;
    };
    set("set archive_library = 'basic_archive'", "basic_archive").await;
    let refused = place.refused(&["backup", "run", "--cluster", "main"]).await;
    assert!(refused.contains("archive_library is set") && refused.contains("archive_command = "), "{refused}");
    set("reset archive_library", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_cycle() {
    let place = Place::bare("cycle", "", "").await;
    let told = place.done(&["backup", "setup"]).await;
    assert!(told.contains("archive_command = '''pgbackrest'' --config="), "{told}");
    // Before the log is archived there is no backup, and it is said what to do.
    let refused = place.refused(&["backup", "run", "--cluster", "main"]).await;
    assert!(refused.contains("archive_command does not call") && refused.contains("postgresql.conf"), "{refused}");
    a_library_in_place_of_the_command_is_refused(&place).await;
    place.archived().await;

    // What is due first is what is kept longest; it serves for the rest.
    let made = place.json(&["backup", "run", "--json"]).await;
    let first = &made["backups"][0];
    assert_eq!((&first["type"], &first["tier"]), (&"full".into(), &"monthly".into()), "{made}");
    let client = place.postgres("app").await;
    client.batch_execute("insert into orders (item, amount, tenant_id) values ('late', 1, 'acme')").await.unwrap();
    let told = place.done(&["backup", "run"]).await;
    assert!(told.contains("100%\ndiff backup "), "{told}");
    let listed = place.json(&["backup", "list", "--json"]).await;
    let backups = listed["repositories"][0]["backups"].as_array().unwrap();
    assert_eq!(backups.len(), 2, "{listed}");
    assert_eq!(backups[1]["needs"][0], backups[0]["label"]);
    let kept = |n: usize| (backups[n]["kept_until"].as_u64().unwrap() - backups[n]["stopped"].as_u64().unwrap()) / DAY;
    assert_eq!((kept(0), kept(1)), (2_557, 30));
    let listed = place.done(&["backup", "list"]).await;
    assert!(listed.contains("repository near (region lk)") && listed.contains("monthly"), "{listed}");
    place.done(&["backup", "status"]).await;

    // A data folder that somebody else can start a server on, and that archives nothing.
    let into = place.folder.join("into");
    let told = place.done(&["backup", "restore", "--into", into.to_str().unwrap()]).await;
    assert!(told.contains("pg_ctl -D "), "{told}");
    let settings = std::fs::read_to_string(into.join("postgresql.auto.conf")).unwrap();
    assert!(settings.contains("archive_mode = 'off'"), "{settings}");
    let refused = place.refused(&["backup", "restore", "--into", into.to_str().unwrap()]).await;
    assert!(refused.contains("there is something in it already"), "{refused}");
    let refused = place.refused(&["backup", "restore", "--in-place", "--yes"]).await;
    assert!(refused.contains("PostgreSQL is running"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_as_the_cluster_was_between_two_commits() {
    let place = Place::new("points").await;
    place.done(&["backup", "run"]).await;
    let client = place.postgres("app").await;
    client.batch_execute("create table steps (n int)").await.unwrap();
    let insert = async |n: i32| {
        client.batch_execute(&format!("begin; insert into steps values ({n})")).await.unwrap();
        let id = one(&client, "select pg_current_xact_id()::text").await;
        client.batch_execute("commit").await.unwrap();
        id
    };
    insert(1).await;
    let time = one(&client, "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.US')").await;
    insert(2).await;
    let lsn = one(&client, "select pg_current_wal_insert_lsn()::text").await;
    let third = insert(3).await;
    client.batch_execute("select pg_create_restore_point('before four')").await.unwrap();
    insert(4).await;
    place.all_archived().await;
    let time = Target::Time(moment(&format!("{time}Z")).unwrap());
    for (target, steps) in [
        (time, "1"),
        (Target::lsn(&lsn).unwrap(), "1,2"),
        (Target::Transaction(third.parse().unwrap()), "1,2,3"),
        (Target::Name("before four".to_owned()), "1,2,3"),
        (Target::End, "1,2,3,4"),
    ] {
        let copy = place.copy(target.clone()).await;
        let found = copy.connect("app").await.unwrap();
        let sql = "select string_agg(n::text, ',' order by n) from steps";
        assert_eq!(one(&found, sql).await, steps, "{target}");
        let own = one(&found, "select count(*)::text from orders where tenant_id = 'acme'").await;
        assert_eq!(own, "100");
        assert_ne!(copy.recovered().lsn, "");
        let folder = copy.folder().to_owned();
        drop(copy);
        assert!(!folder.exists(), "a copy stays behind");
    }
    let consistent = place.copy(Target::Consistent).await;
    let there =
        one(&consistent.connect("app").await.unwrap(), "select coalesce(to_regclass('steps')::text, '-')").await;
    assert_eq!(there, "-");
    // Moments that cannot be had are told as such.
    for (target, why) in [
        (Target::Time(moment("2020-01-01T00:00:00Z").unwrap()), "the oldest ended at"),
        (Target::Name("nowhere".to_owned()), "the archived log ends before"),
    ] {
        let error = place.try_copy(target).await.err().expect("an impossible moment").to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_old_goes_and_what_is_needed_stays() {
    let place = Place::with("prune", "tiers.daily = { type = \"full\", keep = \"2d\" }\n", "").await;
    for _ in 0..3 {
        place.done(&["backup", "run", "--type", "full"]).await;
    }
    place.done(&["backup", "run", "--type", "diff"]).await;
    let before = place.labels("near").await;
    let site = place.site();
    let later = async |days: u64, dry: bool| {
        let _lock = site.lock("a test").unwrap();
        prune(&site, clock::unix_now() + days * DAY, dry, &mut Unseen).await.unwrap().gone.len()
    };
    assert_eq!(later(1, false).await, 0);
    assert_eq!(later(3, true).await, 3);
    assert_eq!(place.labels("near").await, before, "a dry run has removed something");
    assert_eq!(later(3, false).await, 3);
    assert_eq!(place.labels("near").await, before[2..3]);
    // The last one is whole, and so is the log from there on.
    let copy = place.copy(Target::End).await;
    assert_eq!(one(&copy.connect("app").await.unwrap(), "select count(*)::text from orders").await, "5200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_goes_to_its_own_repository() {
    let repositories = "[clusters.main.repositories.near]\nregion = \"lk\"\npath = \"{folder}/near\"\nencrypted = false\n\
                        [clusters.main.repositories.vault]\nregion = \"in\"\npath = \"{folder}/vault\"\n\
                        cipher = \"0123456789abcdef0123456789abcdef\"\n\
                        [clusters.main.repositories.others]\nregion = \"in\"\n";
    let repositories = format!("{repositories}[regions]\n");
    let tiers = "tiers.daily = { type = \"full\", repositories = \"near\" }\n\
                 tiers.monthly = { type = \"full\", on = 1, keep = \"2557d\", repositories = \"vault\" }\n";
    // The tenants of the stage may be in lk only, so the vault abroad is refused.
    let problems = {
        let place = Place::bare("tiers", tiers, &repositories.replace("\"in\"", "\"lk\"")).await;
        let text = std::fs::read_to_string(&place.config).unwrap();
        let abroad = text.replace(
            "[clusters.main.repositories.vault]\nregion = \"lk\"",
            "[clusters.main.repositories.vault]\nregion = \"de\"",
        );
        assert_ne!(text, abroad);
        place.done(&["backup", "setup"]).await;
        place.archived().await;
        place.done(&["backup", "run"]).await;
        let by_tier = place.json(&["backup", "list", "--json"]).await;
        let tier = |n: usize| by_tier["repositories"][n]["backups"][0]["tier"].as_str().map(str::to_owned);
        assert_eq!((tier(0).as_deref(), tier(1).as_deref()), (Some("daily"), Some("monthly")), "{by_tier}");
        assert_eq!(by_tier["repositories"].as_array().unwrap().len(), 2, "one is somebody else's");
        let refused = place.refused(&["backup", "run", "--tier", "daily", "--repository", "vault"]).await;
        assert!(refused.contains("backup.tiers.daily.repositories"), "{refused}");
        // Nothing of a repository that is encrypted can be read without its key.
        let bytes = std::fs::read(place.folder.join("vault/backup/main/backup.info")).unwrap();
        assert!(bytes.starts_with(b"Salted__"), "{}", String::from_utf8_lossy(&bytes));
        std::fs::write(&place.config, abroad).unwrap();
        place.refused(&["backup", "list"]).await
    };
    assert!(problems.contains("repository vault of cluster main is in region de"), "{problems}");
}
