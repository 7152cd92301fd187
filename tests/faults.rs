//! Networks that lose packets: nothing is refused and nothing answered, neither to who is connected nor to who would be.

#[path = "support/spawned.rs"]
mod spawned;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgward::local::{Cluster, Server};
use support::replicated::{self, pair, promote, shown};
use support::{Stage, code, one, until};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// A way to a server, in which packets can get lost.
struct Way {
    address: SocketAddr,
    lost: watch::Sender<bool>,
}

impl Way {
    async fn to(server: &Server) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), server).await
    }

    async fn at(address: SocketAddr, server: &Server) -> Self {
        let (lost, seen) = watch::channel(false);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        // As short as it may be, so that it is soon full of connections that nobody accepts: then the kernel loses the
        // packets of whoever would connect.
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, server.port(), seen));
        Self { address, lost }
    }

    /// From now on all packets are lost.
    async fn lose(&self) {
        self.lost.send_replace(true);
        let mut crowd = Vec::new();
        for _ in 0..8 {
            let connected = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(self.address)).await;
            match connected {
                Ok(stream) => crowd.push(stream.unwrap()),
                Err(_) => {
                    // They stay where they are until the end.
                    std::mem::forget(crowd);
                    return;
                }
            }
        }
        panic!("whoever connects still gets through");
    }

    fn mend(&self) {
        self.lost.send_replace(false);
    }
}

async fn accept(listener: TcpListener, port: u16, mut lost: watch::Receiver<bool>) {
    loop {
        if lost.wait_for(|lost| !lost).await.is_err() {
            return;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = lost.changed() => continue,
        };
        let (client, _) = accepted.unwrap();
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::spawn(pass(from_client, to_server, lost.clone()));
        tokio::spawn(pass(from_server, to_client, lost.clone()));
    }
}

async fn pass(
    from: tokio::net::tcp::OwnedReadHalf,
    to: tokio::net::tcp::OwnedWriteHalf,
    mut lost: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if from.readable().await.is_err() || lost.wait_for(|lost| !lost).await.is_err() {
            return;
        }
        match from.try_read(&mut buffer) {
            Ok(n) if n > 0 => {
                let mut data = &buffer[..n];
                while !data.is_empty() {
                    to.writable().await.unwrap();
                    match to.try_write(data) {
                        Ok(n) => data = &data[n..],
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

/// pgward that reaches each server of the cluster by a way of its own.
async fn stage(cluster: &Cluster, more: &str) -> (Stage, Vec<Way>) {
    let stage = replicated::stage(cluster, "[pool]\nconnect_timeout = \"1s\"\n", more, &[]).await;
    let mut text = std::fs::read_to_string(&stage.path).unwrap();
    let mut ways = Vec::new();
    for server in cluster.servers() {
        let way = Way::to(server).await;
        text = text.replace(&format!("port = {}\n", server.port()), &format!("port = {}\n", way.address.port()));
        ways.push(way);
    }
    std::fs::write(&stage.path, text).unwrap();
    stage.control.reload().await.unwrap();
    for (server, role) in cluster.servers().zip(["primary", "replica"]) {
        until("the server", async || {
            let [found, health, _] = shown(&stage, server.name()).await;
            (found.as_str(), health.as_str()) == (role, "up")
        })
        .await;
    }
    (stage, ways)
}

const READ: &str = "select count(*)::text from orders";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_behind_a_network_that_loses_packets_costs_a_pause_and_no_error() {
    let cluster = pair("lossy").await;
    let (stage, ways) = stage(&cluster, "slow_start = \"0s\"").await;
    let stage = Arc::new(stage);
    let over = Arc::new(AtomicBool::new(false));
    let reader = async |stage: Arc<Stage>, over: Arc<AtomicBool>, tenant: String| {
        let (client, mut longest) = (stage.connect(&tenant).await, Duration::ZERO);
        while !over.load(Ordering::Relaxed) {
            let asked = Instant::now();
            assert_eq!(one(&client, READ).await, "100");
            longest = longest.max(asked.elapsed());
        }
        longest
    };
    let readers: Vec<_> =
        (0..6).map(|i| tokio::spawn(reader(Arc::clone(&stage), Arc::clone(&over), format!("t{i}")))).collect();
    let by_replica = async || stage.metric("pgward_replica_transactions_total").await;
    until("reads on the replica", async || by_replica().await > 50.0).await;
    ways[1].lose().await;
    until("the replica's end", async || shown(&stage, "lossy-2").await[1] == "down").await;
    let before = by_replica().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(by_replica().await, before);
    ways[1].mend();
    until("the replica's return", async || by_replica().await > before + 50.0).await;
    // It comes and goes.
    for _ in 0..6 {
        ways[1].lost.send_replace(true);
        tokio::time::sleep(Duration::from_millis(300)).await;
        ways[1].mend();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        let longest = reader.await.unwrap();
        println!("the longest read took {longest:?}");
        // Down after 1 s, and one connection attempt of 1 s at most.
        assert!(longest < Duration::from_secs(4), "{longest:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_behind_a_network_that_loses_packets_is_found_out_within_the_bound() {
    let cluster = pair("cut").await;
    let (stage, ways) = stage(&cluster, "").await;
    let (writer, reader) = (stage.connect("acme").await, stage.connect("globex").await);
    writer.batch_execute("insert into orders (item) values ('before')").await.unwrap();
    // One that has seen what only the primary is known to have would have to wait for the next one.
    let before = stage.metric("pgward_replica_transactions_total").await;
    until("reads on the replica", async || {
        assert_eq!(one(&reader, READ).await, "100");
        stage.metric("pgward_replica_transactions_total").await > before + 5.0
    })
    .await;
    ways[0].lose().await;
    let cut = Instant::now();
    let error = writer.batch_execute("insert into orders (item) values ('lost')").await.unwrap_err();
    let took = cut.elapsed();
    println!("the writer was told after {took:?}");
    assert_eq!(code(&error), "08007", "it may have been committed");
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(one(&reader, READ).await, "100", "reads go on");
    let writer = tokio::spawn(async move {
        let client = stage.connect("acme").await;
        client.batch_execute("insert into orders (item) values ('after')").await.unwrap();
        (one(&client, "select count(*)::text from orders where item in ('before', 'after')").await, stage)
    });
    promote(&cluster.replicas()[0]).await;
    let (count, stage) = writer.await.unwrap();
    assert_eq!(count, "2");
    // Whoever was cut off is a primary still, and gets nothing.
    ways[0].mend();
    until("the fence", async || shown(&stage, "cut-1").await == ["primary", "up", "fenced"]).await;
}

/// A file in the place of /etc/hosts, for a process and its children.
struct Names(tempfile::TempDir);

impl Names {
    const NAME: &str = "db.pgward.test";

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> String {
        self.0.path().join("hosts").to_str().unwrap().to_owned()
    }

    /// The name leads there from now on.
    fn lead_to(&self, address: SocketAddr) {
        // In place, as it is mounted.
        std::fs::write(self.path(), format!("127.0.0.1 localhost\n{} {}\n", address.ip(), Self::NAME)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_to_another_server_is_followed() {
    let mut cluster = pair("name").await;
    let port = pgward::local::free_port().unwrap();
    let old = Way::at(SocketAddr::from(([127, 0, 0, 2], port)), cluster.primary()).await;
    let new = Way::at(SocketAddr::from(([127, 0, 0, 3], port)), &cluster.replicas()[0]).await;
    let names = Names::new();
    names.lead_to(new.address);
    let rules = "[clusters.main]\nprobe = { interval = \"100ms\", timeout = \"500ms\", down_after = \"1s\" }\n";
    let text = format!("{}{}", support::HEAD, support::configuration(port, ""));
    let text = text.replace("host = \"127.0.0.1\"", &format!("host = \"{}\"", Names::NAME));
    let text = text.replace("[clusters.main]\n", rules);
    let path = names.path();
    // Whoever is not root is, in a namespace of its own.
    let wrapper = ["unshare", "-rm", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\"", &path];
    let pgward = spawned::Spawned::start(std::path::Path::new(env!("CARGO_BIN_EXE_pgward")), &wrapper, &text);
    let url = format!("postgresql://acme:{}@{}/app", pgward.token("acme"), pgward.address);
    let entering = tokio::spawn(async move { support::connect(&url).await.unwrap() });
    // It leads to a replica, and nobody writes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!entering.is_finished(), "{}", pgward.log());
    names.lead_to(old.address);
    let client = entering.await.unwrap();
    client.batch_execute("insert into orders (item) values ('name')").await.unwrap();

    cluster.primary_mut().kill().await.unwrap();
    promote(&cluster.replicas()[0]).await;
    let waiting = tokio::spawn(async move {
        client.batch_execute("insert into orders (item) values ('name')").await.unwrap();
        one(&client, "select count(*) from orders where item = 'name'").await
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished());
    names.lead_to(new.address);
    assert_eq!(waiting.await.unwrap(), "2", "{}", pgward.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_reached_by_its_other_address_when_one_is_lost() {
    let cluster = pair("double").await;
    let way = Way::to(cluster.primary()).await;
    let servers = [("double-1", way.address.port())];
    let stage = replicated::in_front_of(&servers, "[pool]\nconnect_timeout = \"1s\"\n", "", &[]).await;
    let client = stage.connect("acme").await;
    client.batch_execute("insert into orders (item) values ('double')").await.unwrap();
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let port = cluster.primary().port();
    let again = format!(
        "[[clusters.main.servers]]\nname = \"again\"\nhost = \"127.0.0.1\"\nport = {port}\nregion = \"lk\"\nrole = \"replica\"\n"
    );
    std::fs::write(&stage.path, text.replace("[tenants.kandy]", &format!("{again}[tenants.kandy]"))).unwrap();
    stage.control.reload().await.unwrap();
    until("the second address", async || shown(&stage, "again").await == ["", "up", "no"]).await;
    assert_eq!(shown(&stage, "double-1").await[2], "yes", "they are not two primaries");
    way.lose().await;
    until("the other address", async || shown(&stage, "again").await[2] == "yes").await;
    let other = stage.connect("acme").await;
    other.batch_execute("insert into orders (item) values ('double')").await.unwrap();
    way.mend();
    until("the first address", async || shown(&stage, "double-1").await[1] == "up").await;
    assert_eq!(shown(&stage, "again").await[2], "yes", "nobody is disturbed");
    assert_eq!(one(&stage.connect("acme").await, "select count(*) from orders where item = 'double'").await, "2");
}
