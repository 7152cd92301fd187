//! `pgward demo` comes up, says where everything is, and leaves nothing, however it ends.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::NoTls;

/// A demo in a folder; killed with the test.
struct Demo(Child);

impl Demo {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgward"));
        command.arg("demo").arg("--dir").arg(folder).arg("--port").arg("0");
        Self(command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap())
    }

    fn ready(&mut self, folder: &Path) -> HashMap<String, String> {
        let env = folder.join("env");
        wait_for("the demo's start", || {
            assert!(self.0.try_wait().unwrap().is_none(), "the demo ended early");
            env.exists()
        });
        let text = fs::read_to_string(env).unwrap();
        let pair = |line: &str| {
            let (key, value) = line.split_once('=').unwrap();
            (key.to_owned(), value.trim_matches('\'').to_owned())
        };
        text.lines().map(pair).collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(90), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Living processes that have the folder's name on their command line, or work in its data.
fn processes(folder: &Path) -> Vec<String> {
    let name = folder.display().to_string();
    let of = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&name).then_some(line)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

async fn count(url: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query_one("select count(*) from orders", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_demo_can_be_killed_and_started_again_and_stops_without_a_trace() {
    let parent = tempfile::tempdir().unwrap();
    // PostgreSQL's user must get here, or its data would go to a folder that this test does not see.
    fs::set_permissions(parent.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let folder = parent.path().join("it's a demo");
    let mut killed = Demo::start(&folder);
    let env = killed.ready(&folder);
    for key in ["URL_ACME", "URL_GLOBEX", "URL_ACME_READONLY", "URL_KANDY", "URL_PUNE", "URL_ADMIN"] {
        assert!(env[key].starts_with("postgresql://"), "{key}");
    }
    assert!(env["HTTP_ADMIN"].starts_with("http://127.0.0.1:"));
    assert!(Path::new(&env["PGWARD_BIN"]).exists());
    assert!(fs::read_to_string(format!("/proc/{}/cmdline", env["PGWARD_PID"])).unwrap().contains("run"));
    assert_eq!(count(&env["COLOMBO_PRIMARY"]).await, 200);
    assert_eq!(count(&env["COLOMBO_REPLICA"]).await, 200);
    assert_eq!(count(&env["MUMBAI_PRIMARY"]).await, 100);

    let second = Command::new(&env["PGWARD_BIN"]).arg("demo").arg("--dir").arg(&folder).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("already running"));

    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    let mut demo = Demo::start(&folder);
    wait_for("the sweep", || {
        fs::read_to_string(folder.join("env")).map_or(true, |text| !text.contains(&env["URL_ADMIN"]))
    });
    let env = demo.ready(&folder);
    assert_eq!(count(&env["COLOMBO_REPLICA"]).await, 200);

    kill_process(Pid::from_raw(i32::try_from(demo.0.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(demo.0.wait().unwrap().code(), Some(0));
    assert!(!folder.join("env").exists());
    let left = processes(&folder);
    assert!(left.is_empty(), "still running: {left:#?}");
    let data: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("pgward-"))
        .collect();
    assert!(data.is_empty(), "data stayed: {data:?}");
}
