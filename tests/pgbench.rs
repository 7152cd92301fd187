//! pgbench as a tenant: it makes its own tables through pgward, and no transaction fails in any mode.

mod support;

use std::process::Output;

use support::{Stage, cluster};
use tokio::process::Command;

/// Fewer backends than clients, so that every transaction may come to another backend.
const BACKENDS: i64 = 4;
const CLIENTS: &str = "12";

/// Runs pgbench as kandy, who is at level `schema`.
async fn pgbench(stage: &Stage, arguments: &[&str]) -> String {
    let mut command = Command::new("pgbench");
    command.args(arguments).args(["-h", "127.0.0.1", "-p", &stage.address.port().to_string(), "-U", "kandy", "app"]);
    command.env("PGPASSWORD", stage.token("kandy", "app")).kill_on_drop(true);
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    let (said, failed) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && !failed.contains("error"), "pgbench {arguments:?}: {status}\n{said}\n{failed}");
    said.into_owned()
}

#[tokio::test]
async fn pgbench_runs_as_a_tenant_in_every_mode() {
    let stage = Stage::new(&format!("[pool]\nmax_per_login = {BACKENDS}\n")).await;
    pgbench(&stage, &["-i", "-q", "-s", "1"]).await;
    let superuser = cluster().await.primary().connect("app").await.unwrap();
    let found = superuser.query_one("select count(*) from kandy.pgbench_accounts", &[]).await.unwrap();
    assert_eq!(found.get::<_, i64>(0), 100_000, "its tables are in its schema");
    for script in ["select-only", "tpcb-like"] {
        for mode in ["simple", "extended", "prepared"] {
            // A thread each: pgbench waits for a Parse to be answered with all of a thread's clients, also
            // those that have the backends.
            let arguments = ["-n", "-T", "2", "-c", CLIENTS, "-j", CLIENTS, "-M", mode, "-b", script];
            let said = pgbench(&stage, &arguments).await;
            assert!(said.contains("number of failed transactions: 0 "), "{script}, {mode}:\n{said}");
            let done = said.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
            assert!(done.unwrap().trim().parse::<u64>().unwrap() > 0, "{script}, {mode}:\n{said}");
        }
    }
    let sql = "select count(*) from pg_stat_activity where usename = 'kandy'";
    let backends: i64 = superuser.query_one(sql, &[]).await.unwrap().get(0);
    assert!(backends <= BACKENDS, "{backends} backends");
    let books =
        "select (select sum(abalance) from kandy.pgbench_accounts) = (select sum(bbalance) from kandy.pgbench_branches)
            and (select sum(delta) from kandy.pgbench_history) = (select sum(tbalance) from kandy.pgbench_tellers)";
    assert!(superuser.query_one(books, &[]).await.unwrap().get::<_, bool>(0), "the accounts do not add up");
    assert_eq!(stage.metric("pgward_handovers_failed_total").await, 0.0);
}
