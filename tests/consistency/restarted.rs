//! A read is meant for a replica that has what it must show, and reaches it only after the replica has restarted and has it
//! no more.

use std::sync::Arc;
use std::time::Duration;

use pgward::local::Server;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::nemesis::restart_in_place;
use super::support::replicated::{self, shown};
use super::support::{LONG, Stage, one, until};

/// Between pgward and a server: connections that come while it is closed wait.
struct Gate {
    port: u16,
    open: watch::Sender<bool>,
    /// How many have come.
    came: watch::Receiver<usize>,
}

impl Gate {
    async fn before(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), server.port());
        let (open, opened) = watch::channel(true);
        let (come, came) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                come.send_modify(|count| *count += 1);
                let mut opened = opened.clone();
                tokio::spawn(async move {
                    opened.wait_for(|open| *open).await.unwrap();
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { port, open, came }
    }
}

async fn stage_behind(gate: &Gate, cluster: &pgward::local::Cluster) -> Stage {
    let stage = replicated::stage(cluster, "", "slow_start = \"0s\"", &[]).await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let replica = &cluster.replicas()[0];
    let text = text.replace(&format!("port = {}\n", replica.port()), &format!("port = {}\n", gate.port));
    std::fs::write(&stage.path, text).unwrap();
    stage.control.reload().await.unwrap();
    until("the replica", async || shown(&stage, replica.name()).await == ["replica", "up", "no"]).await;
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_reaches_its_replica_after_a_restart_shows_no_less() {
    let cluster = replicated::pair("again").await;
    let gate = Gate::before(&cluster.replicas()[0]).await;
    let stage = Arc::new(stage_behind(&gate, &cluster).await);
    let replica = &cluster.replicas()[0];
    for server in cluster.servers() {
        server.run("postgres", "begin the log anew", "checkpoint").await.unwrap();
    }
    let client = stage.connect("acme").await;
    client.batch_execute("insert into orders (item) values ('own')").await.unwrap();
    let board = stage.control.shared.topology.boards().remove(0);
    let caught_up = async || {
        let snapshot = board.snapshot();
        let view = snapshot.servers.iter().find(|view| view.server.name.as_str() == replica.name());
        view.and_then(|view| view.lag).is_some_and(|lag| lag.bytes == 0)
    };
    until("the replica's catching up", caught_up).await;
    // That may have been so before the write. Both servers are asked each 100 ms.
    tokio::time::sleep(Duration::from_millis(500)).await;

    gate.open.send_replace(false);
    let mut came = gate.came.clone();
    came.mark_unchanged();
    let read = tokio::spawn(async move { one(&client, "select item from orders where item = 'own'").await });
    tokio::time::timeout(LONG, came.changed()).await.expect("no read for the replica").unwrap();
    // From here on it replays nothing that was committed within the hour.
    hold_back(replica, "1h").await;
    restart_in_place(replica).await;
    gate.open.send_replace(true);
    assert_eq!(read.await.unwrap(), "own", "the session has written it");
}

async fn hold_back(server: &Server, delay: &str) {
    let text = format!("alter system set recovery_min_apply_delay = '{delay}'");
    server.run("postgres", "hold the replica back", &text).await.unwrap();
    server.run("postgres", "reload", "select pg_reload_conf()").await.unwrap();
}
