//! A cluster whose log is archived, with one backup that all tests go by: what each of them does comes after it.

use std::process::Command;
use std::sync::Arc;

use pgward::base::ClusterName;
use pgward::local::Cluster;
use pgward::sidecar::backup::{Site, archive_command};
use tokio::sync::OnceCell;
use tokio_postgres::Client;

use crate::place::{Place, output, said};
use crate::support::{eventually, one, until};

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static BACKUP: OnceCell<()> = OnceCell::const_new();

async fn cluster() -> &'static Cluster {
    let start = async || {
        let builder = Cluster::builder("backed").setting("max_connections", "200").setting("archive_mode", "on");
        builder.setting("archive_command", "false").start().await.unwrap()
    };
    CLUSTER.get_or_init(start).await
}

/// A place on that cluster. The first one has it backed up.
pub async fn place(name: &'static str) -> Place {
    let folder = cluster().await.folder();
    let text = format!(
        "[backup]\ndirectory = {:?}\nscheduled = false\n[clusters.main.repositories.local]\nregion = \"lk\"\npath = {:?}\n\
         cipher = \"a passphrase of at least 32 bytes, for tests\"\n",
        folder.join("state"),
        folder.join("repository")
    );
    let place = Place::on(cluster().await.primary(), name, &text).await;
    BACKUP.get_or_init(|| first_backup(&place)).await;
    place
}

async fn first_backup(place: &Place) {
    let command = archive_command(&site(place));
    let admin = place.admin().await;
    admin
        .batch_execute(&format!("alter system set archive_command = '{}'", command.replace('\'', "''")))
        .await
        .unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    backup(place, "setup").await;
    // An erasure tells by the name of this session that a backup is being made.
    let session = "select count(*) > 0 from pg_stat_activity where application_name like 'pgBackRest [backup%'";
    let (made, named) =
        tokio::join!(backup(place, "run"), until("the backup's session", async || one(&admin, session).await == "t"));
    drop((made, named));
}

pub fn site(place: &Place) -> Site {
    let settings = pgward::config::load(&place.path("pgward.toml")).unwrap_or_else(|found| panic!("{found:#?}"));
    Site::open(&Arc::new(settings), &ClusterName::parse("main").unwrap()).unwrap()
}

/// `pgward backup ...` in words.
pub async fn backup(place: &Place, line: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
    command.arg("backup").args(line.split_whitespace());
    command.env("PGWARD_CONFIG", place.path("pgward.toml")).env("PGWARD_INSTALL_URL", &place.url);
    let output = output(command).await;
    assert!(output.status.success(), "{line}: {}", said(&output));
    said(&output)
}

/// The server's time, between what was committed before and what comes after.
pub async fn now(admin: &Client) -> String {
    let at = "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    one(admin, at).await
}

/// All that was committed so far can be restored to.
pub async fn archived(admin: &Client) {
    // Recovery to a moment ends at the first commit after it.
    admin
        .batch_execute("create table if not exists ticks (at timestamptz); insert into ticks values (now())")
        .await
        .unwrap();
    let segment = one(admin, "select pg_walfile_name(pg_switch_wal())").await;
    let there = format!("select coalesce(last_archived_wal, '') >= '{segment}' from pg_stat_archiver");
    eventually("the log to be archived", std::time::Duration::from_secs(60), async || one(admin, &there).await == "t")
        .await;
}
