//! The audit log when the disk is full, and under a flood.

#[path = "support/log.rs"]
mod log;
#[path = "support/spawned.rs"]
mod spawned;
mod support;

use std::os::unix::fs::symlink;
use std::path::Path;

use log::{Log, assert_good, parse};
use rustix::process::{Pid, Signal, kill_process};
use spawned::Spawned;
use support::raw::{Raw, V3_0, errors, gists};
use support::{HEAD, Stage, cluster, code, configuration, until};
use tokio_postgres::NoTls;

const NOTED: &str = "[tenants.noted]\ncluster = \"main\"\ndatabase = \"app\"\nhome = \"lk\"\naudit = \"statements\"\n";

/// A log whose file is a link, so that the disk behind it can be full: /dev/full is.
struct Disk {
    log: Log,
    good: std::path::PathBuf,
}

impl Disk {
    fn new() -> Self {
        let log = Log::new();
        let good = log.folder.path().join("good.jsonl");
        symlink(&good, &log.path).unwrap();
        Self { log, good }
    }

    fn lead_to(&self, path: &Path) {
        let link = self.log.folder.path().join("link");
        symlink(path, &link).unwrap();
        std::fs::rename(&link, &self.log.path).unwrap();
    }

    fn fill(&self) {
        self.lead_to(Path::new("/dev/full"));
    }

    fn free(&self) {
        self.lead_to(&self.good);
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.good).unwrap()
    }
}

async fn failing(stage: &Stage, value: f64) {
    until(&format!("pgward_audit_failing {value}"), async || stage.metric("pgward_audit_failing").await == value).await;
}

#[tokio::test]
async fn with_refuse_nobody_is_let_in_unrecorded_while_the_disk_is_full() {
    let disk = Disk::new();
    let stage = Stage::new(&format!("{}{NOTED}", disk.log.table("on_failure = \"refuse\""))).await;
    let mut before = stage.raw("acme").await;
    let mut noted = stage.raw("noted").await;
    let console = format!("postgresql://admin:console-password@{}/pgward", stage.address);
    let admin = stage.try_connect(&console).await.unwrap();
    disk.fill();

    assert_eq!(code(&stage.try_connect(&stage.url("acme", "app")).await.unwrap_err()), "58030");
    failing(&stage, 1.0).await;
    assert_eq!(code(&stage.try_connect(&console).await.unwrap_err()), "58030");
    assert_eq!(code(&admin.simple_query("reload").await.unwrap_err()), "58030");
    assert_eq!(code(&admin.simple_query("shutdown").await.unwrap_err()), "58030");
    admin.simple_query("show pools").await.unwrap();
    // Who is in stays in, unless statements are to be recorded too.
    assert_eq!(before.one("select 1").await, "1");
    let switch = format!("set pgward.token = '{}'", stage.token("globex", "app"));
    assert_eq!(errors(&before.query(&switch).await), ["58030"]);
    assert_eq!(errors(&before.query("select 1").await), ["28000"], "it is of no tenant");
    assert_eq!(gists(&noted.query("insert into orders (item) values ('unrecorded')").await), ["E 58030"]);

    disk.free();
    failing(&stage, 0.0).await;
    assert_eq!(before.query(&switch).await.last().unwrap().tag, b'Z');
    assert_eq!(before.one("select pgward.tenant()").await, "globex");
    let mut noted = stage.raw("noted").await;
    assert_eq!(noted.one("select count(*) from orders where item = 'unrecorded'").await, "0");
    admin.simple_query("shutdown").await.unwrap();
    let mut stage = stage;
    stage.stopped.take().unwrap().await.unwrap();

    assert_good(&[&disk.good]);
    let lines = parse(&disk.text());
    let events = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!((events("resume"), events("switch"), events("command")), (1, 1, 1));
    // Refusals were kept until they could be written.
    let refused: Vec<_> = lines.iter().filter(|line| line["reason"] == "audit").collect();
    assert!(refused.iter().any(|line| line["event"] == "login_refused" && line["sqlstate"] == "58030"), "{refused:?}");
    assert!(refused.iter().any(|line| line["event"] == "switch_refused"), "{refused:?}");
    assert!(refused.iter().any(|line| line["event"] == "session_end" && line["tenant"] == "noted"), "{refused:?}");
    let sessions: std::collections::BTreeSet<u64> =
        lines.iter().filter(|line| line["event"] == "login").filter_map(|line| line["session"].as_u64()).collect();
    assert_eq!(sessions.len(), 4, "those three, and the one afterwards");
}

#[tokio::test]
async fn with_drop_work_goes_on_and_the_log_says_how_much_it_missed() {
    let disk = Disk::new();
    disk.fill();
    let stage = Stage::new(&disk.log.table("on_failure = \"drop\"\nbuffer = 16")).await;
    failing(&stage, 1.0).await;
    for _ in 0..40 {
        drop(stage.connect("acme").await);
    }
    until("some are lost", async || stage.metric("pgward_audit_lost_total").await > 0.0).await;
    stage.at_rest(0).await;
    disk.free();
    failing(&stage, 0.0).await;
    let lost = stage.metric("pgward_audit_lost_total").await;
    drop(stage.connect("globex").await);
    let mut stage = stage;
    stage.control.shutdown();
    stage.stopped.take().unwrap().await.unwrap();
    assert_good(&[&disk.good]);
    let lines = parse(&disk.text());
    let told: u64 = lines.iter().filter_map(|line| line["lost"].as_u64()).sum();
    let written = lines.iter().filter(|line| line["tenant"] == "acme").count() as u64;
    assert_eq!(told as f64, lost);
    assert_eq!(told + written, 80, "logins and ends, each recorded or counted as lost");
    assert!(lines.iter().any(|line| line["tenant"] == "globex"));
}

#[tokio::test]
async fn a_log_that_cannot_be_written_at_the_start_keeps_pgward_from_starting_where_it_refuses() {
    let disk = Disk::new();
    disk.fill();
    let text = format!("{HEAD}{}", configuration(cluster().await.primary().port(), &disk.log.table("")));
    let refused = pgward::proxy::Proxy::start("none".into(), support::parse(&text)).await.err().unwrap();
    assert!(refused.to_string().contains("audit.jsonl cannot be written"), "{refused}");
    assert!(std::error::Error::source(&refused).is_some_and(|cause| cause.to_string().contains("No space left")));
}

/// The kernel lets the process write so much to a file and cuts off what goes beyond, as a disk does that fills up
/// in the middle of a line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_did_not_fit_is_taken_back() {
    let port = cluster().await.primary().port();
    let log = Log::new();
    let quiet = "[log]\nlevel = \"error\"\n";
    let text = format!("{HEAD}{}", configuration(port, &format!("{}{quiet}", log.table(""))));
    let limited = ["bash", "-c", "trap '' XFSZ; ulimit -f 16; \"$@\"; true", "limited"];
    let pgward =
        tokio::task::spawn_blocking(move || Spawned::start(Path::new(env!("CARGO_BIN_EXE_pgward")), &limited, &text));
    let pgward = pgward.await.unwrap();
    let log_in = async || {
        let url = format!("postgresql://acme:{}@{}/app", pgward.token("acme"), pgward.address);
        match tokio_postgres::connect(&url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                Ok(client)
            }
            Err(error) => Err(code(&error)),
        }
    };
    let inside = log_in().await.unwrap();
    let mut logins = 1;
    let refused = loop {
        match log_in().await {
            Ok(_) => logins += 1,
            Err(code) => break code,
        }
        assert!(logins < 1000);
    };
    assert_eq!(refused, "58030");
    inside.simple_query("select 1").await.unwrap();
    // Nothing that was told to be there is missing, and there is no half of a line.
    assert_good(&[&log.path]);
    assert_eq!(log.of("login").len(), logins);
    // Somebody makes room.
    let aside = log.folder.path().join("audit.jsonl.1");
    std::fs::rename(&log.path, &aside).unwrap();
    until("a login", async || log_in().await.is_ok()).await;
    kill_process(Pid::from_raw(i32::try_from(pgward.pid).unwrap()).unwrap(), Signal::TERM).unwrap();
    log.await_line("shutdown", &[("source", "signal")]).await;
    log.await_line("stop", &[]).await;
    assert_good(&[&aside, &log.path]);
    drop(inside);
}

#[tokio::test]
async fn a_flood_of_bad_logins_is_counted_and_leaves_others_their_place() {
    const LOGINS: usize = 3_000;
    let log = Log::new();
    let stage = Stage::new(&log.table("buffer = 64")).await;
    let address = stage.address;
    let flood: Vec<_> = (0..10)
        .map(|task| {
            tokio::spawn(async move {
                for n in 0..LOGINS / 10 {
                    let mut raw = Raw::connect(address).await;
                    let user = format!("user-{task}-{n}");
                    let parameters = [("user", user.as_str()), ("database", "app")];
                    assert_eq!(errors(&raw.log_in(V3_0, &parameters, "no token").await), ["28000"]);
                }
            })
        })
        .collect();
    let mut good = 0;
    while !flood.iter().all(tokio::task::JoinHandle::is_finished) {
        drop(stage.connect("acme").await);
        good += 1;
    }
    for task in flood {
        task.await.unwrap();
    }
    let mut stage = stage;
    stage.control.shutdown();
    stage.stopped.take().unwrap().await.unwrap();
    assert_good(&[&log.path]);
    assert_eq!(log.of("login").len(), good, "no good login is lost in the flood");
    let refused = log.of("login_refused");
    let repeats: u64 = refused.iter().filter_map(|line| line["repeats"].as_u64()).sum();
    let single = refused.iter().filter(|line| line["repeats"].is_null()).count() as u64;
    let lost: u64 = log.lines().iter().filter_map(|line| line["lost"].as_u64()).sum();
    let ends = log.of("session_end").len();
    assert!(ends <= good);
    let missing_ends = (good - ends) as u64;
    assert_eq!(single + repeats + lost - missing_ends, LOGINS as u64, "each is written, or counted");
    assert!(refused.len() < LOGINS / 10, "{} lines for {LOGINS} logins", refused.len());
}
