//! Three regions with a server each, two pgwards, each host apart in a network namespace of its own. Every way out of a
//! tenant's regions is tried, and what arrives abroad is counted.

#[path = "../support/spawned.rs"]
mod spawned;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::path::{Path, PathBuf};

use pgward::local::{Authority, Host};
use rustix::process::Signal;
use spawned::Spawned;
use support::{code, connect, one, until};
use tokio_postgres::Client;
use world::{Counter, PORT, Server, address, socket};

/// The cluster: a primary in Sri Lanka, replicas in India and Germany. acme may be in Sri Lanka alone, globex in India,
/// too. Germany is nobody's.
struct Scene {
    folder: PathBuf,
    lk: Server,
    india: Server,
    de: Server,
    colombo: Spawned,
    mumbai: Spawned,
}

const CLIENTS: u16 = 6432;
const PEERS: u16 = 6433;

impl Scene {
    async fn new() -> Self {
        world::wire();
        let programs = Host::find().unwrap();
        let folder = programs.folder(None, "borders").unwrap();
        let lk = Server::primary(&programs, &folder, "lk").await;
        support::furnish_server(PORT, |database| lk.url(database)).await;
        let india = Server::replica(&programs, &folder, "in", "lk").await;
        let de = Server::replica(&programs, &folder, "de", "lk").await;
        let authority = Authority::new("nodes").unwrap();
        let keys = folder.join("keys");
        std::fs::create_dir(&keys).unwrap();
        std::fs::write(keys.join("ca.crt"), authority.pem()).unwrap();
        for node in ["colombo", "mumbai"] {
            let identity = authority.node(node).unwrap();
            std::fs::write(keys.join(format!("{node}.crt")), identity.certificate).unwrap();
            std::fs::write(keys.join(format!("{node}.key")), identity.key).unwrap();
        }
        let start = |node: &str| node_on(node, &configuration(&keys, node));
        let (colombo, mumbai) = (start("colombo"), start("mumbai"));
        Self { folder, lk, india, de, colombo, mumbai }
    }

    fn node(&self, name: &str) -> &Spawned {
        if name == "colombo" { &self.colombo } else { &self.mumbai }
    }

    async fn enter(&self, node: &str, tenant: &str, options: &str) -> Result<Client, tokio_postgres::Error> {
        let node = self.node(node);
        connect(&format!("postgresql://{tenant}:{}@{}/app{options}", node.token(tenant), node.address)).await
    }

    /// Whether a server has been sent a text that has this in it.
    fn reached(&self, server: &Server, mark: &str) -> bool {
        server.log().contains(mark)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn node_on(node: &str, text: &str) -> Spawned {
    let wrapper = ["ip", "netns", "exec", node];
    Spawned::start_at(socket(node, CLIENTS), Path::new(env!("CARGO_BIN_EXE_pgward")), &wrapper, text)
}

fn configuration(keys: &Path, node: &str) -> String {
    let path = |name: String| keys.join(name).display().to_string();
    let nodes: String = [("colombo", "lk"), ("mumbai", "in")]
        .map(|(name, region)| {
            let (clients, peers) = (socket(name, CLIENTS), socket(name, PEERS));
            format!("[nodes.{name}]\nregion = \"{region}\"\naddress = \"{clients}\"\npeer_address = \"{peers}\"\n")
        })
        .concat();
    let extra = format!(
        "node = \"{node}\"
{nodes}
[forwarding]
listen = \"{}\"
certificate = \"{}\"
key = \"{}\"
ca = \"{}\"
",
        socket(node, PEERS),
        path(format!("{node}.crt")),
        path(format!("{node}.key")),
        path("ca.crt".to_owned()),
    );
    let replicas: String = ["in", "de"]
        .map(|region| {
            let host = address(region);
            format!(
                "[[clusters.main.servers]]\nname = \"{region}-1\"\nhost = \"{host}\"\nport = {PORT}\nregion = \"{region}\"\nrole = \"replica\"\n"
            )
        })
        .concat();
    let text = support::configuration(PORT, &extra)
        .replace("host = \"127.0.0.1\"", &format!("host = \"{}\"", address("lk")))
        .replace("[tenants.kandy]\n", &format!("{replicas}[tenants.kandy]\n"))
        .replace(
            "[clusters.main]\n",
            "[clusters.main]\nregions = [\"lk\", \"in\"]\nfailover_timeout = \"1s\"\nslow_start = \"0s\"\n\
             probe = { interval = \"100ms\", timeout = \"500ms\", down_after = \"1s\" }\n",
        )
        .replace("[tenants.acme]\n", "[tenants.acme]\nforward = \"any\"\n")
        .replace("[tenants.globex]\n", "[tenants.globex]\nregions = [\"lk\", \"in\"]\n");
    let listen = "listen = { tls = { mode = \"off\" },";
    format!("{}{text}", support::HEAD.replace("listen = {", listen))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_out_is_closed() {
    if world::leave_for_another("every_way_out_is_closed") {
        return;
    }
    let mut scene = Scene::new().await;
    let counter = Counter::at("de", &["colombo", "mumbai", "lk"]);
    // What counts sees what there is to see: the replica streams from its primary.
    scene.lk.run("create table counted ()").await;
    until("what the primary sends", async || counter.from("lk") > 0).await;

    reads_do_not_leave(&scene).await;
    tokens_and_hints_do_not_lead_out(&scene).await;
    a_node_abroad_passes_on_and_asks_nobody(&scene).await;
    a_cancel_stays(&scene).await;
    the_only_healthy_replica_abroad_is_not_used(&scene).await;
    a_rule_that_narrows_ends_what_is_under_way(&scene).await;
    failover_abroad_serves_nobody_who_may_not_be_there(&mut scene).await;
    assert_eq!(["colombo", "mumbai"].map(|node| counter.from(node)), [0, 0], "packets to a server that is nobody's");

    // That none came is not for want of a way: a pgward whose cluster is not confined asks how that server is.
    let text = std::fs::read_to_string(scene.mumbai.path()).unwrap();
    let text = text.replace("regions = [\"lk\", \"in\"]\nfailover", "failover");
    scene.mumbai.reload(|_| text.clone());
    until("a question to that server", async || counter.from("mumbai") > 0).await;
    let de = scene.de.log();
    until("a login of pgward's own", async || scene.de.log().contains("pgward_service@postgres")).await;
    assert!(!de.contains("pgward_app@"), "no login of tenants': {de}");
}

/// What reads goes to a replica that the tenant may use, and to no other.
async fn reads_do_not_leave(scene: &Scene) {
    let (acme, globex) = (scene.enter("colombo", "acme", "").await, scene.enter("colombo", "globex", "").await);
    let (acme, globex) = (acme.unwrap(), globex.unwrap());
    until("reads of globex in India", async || {
        one(&globex, "select count(*) from orders /* globex reads */").await;
        scene.reached(&scene.india, "globex reads")
    })
    .await;
    for _ in 0..20 {
        assert_eq!(one(&acme, "select count(*) from orders /* acme reads */").await, "100");
    }
    assert!(scene.reached(&scene.lk, "acme reads") && !scene.reached(&scene.india, "acme reads"));
}

async fn tokens_and_hints_do_not_lead_out(scene: &Scene) {
    for region in ["in", "de", "us"] {
        for node in ["colombo", "mumbai"] {
            let pgward = scene.node(node);
            let token = pgward.token_with("acme", serde_json::json!({ "region": region }));
            let refused = connect(&format!("postgresql://acme:{token}@{}/app", pgward.address)).await.err();
            assert_eq!(code(&refused.unwrap()), "28000", "{node} {region}");
        }
    }
    // It may be in India by its tenant, and in Sri Lanka alone by its token.
    let token = scene.colombo.token_with("globex", serde_json::json!({ "region": "lk" }));
    let narrowed = connect(&format!("postgresql://globex:{token}@{}/app", scene.colombo.address)).await.unwrap();
    for _ in 0..20 {
        one(&narrowed, "select count(*) from orders /* narrowed reads */").await;
    }
    assert!(!scene.reached(&scene.india, "narrowed reads"));
    for options in
        ["?options=-c%20pgward.route%3Dreplica", "?options=-c%20pgward.region%3Din", "?target_session_attrs=any"]
    {
        let Ok(client) = scene.enter("colombo", "acme", options).await else { continue };
        for sql in [
            "select count(*) from orders /* hinted: replica */",
            "/*+ server=in-1 */ select count(*) from orders /* hinted */",
            "set pgward.route = 'replica'",
            "select count(*) from orders /* hinted by a setting */",
            "begin read only; select count(*) from orders /* hinted in a transaction */; commit",
        ] {
            let _ = client.batch_execute(sql).await;
        }
    }
    assert!(!scene.reached(&scene.india, "hinted"), "{}", scene.india.log());
}

/// At home a client by the node abroad is served as any other; the node abroad has no business with the servers.
async fn a_node_abroad_passes_on_and_asks_nobody(scene: &Scene) {
    let acme = scene.enter("mumbai", "acme", "").await.unwrap();
    assert_eq!(one(&acme, "select count(*) from orders /* acme abroad */").await, "100");
    assert!(!scene.reached(&scene.india, "acme abroad"));
    let log = scene.lk.log();
    let asked: Vec<&str> = log.lines().filter(|line| line.contains("acme abroad")).collect();
    let by_colombo = format!("{} pgward_app@app ", address("colombo"));
    assert!(!asked.is_empty() && asked.iter().all(|line| line.starts_with(&by_colombo)), "{asked:#?}");
}

async fn a_cancel_stays(scene: &Scene) {
    let acme = scene.enter("mumbai", "acme", "").await.unwrap();
    let token = acme.cancel_token();
    let cancel = async {
        until("the statement's begin", async || scene.reached(&scene.lk, "acme sleeps")).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (ended, ()) = tokio::join!(acme.batch_execute("select pg_sleep(60) /* acme sleeps */"), cancel);
    assert_eq!(code(&ended.unwrap_err()), "57014");
}

/// The primary is frozen, and both replicas are well.
async fn the_only_healthy_replica_abroad_is_not_used(scene: &Scene) {
    let acme = scene.enter("colombo", "acme", "").await.unwrap();
    let globex = scene.enter("colombo", "globex", "?options=-c%20pgward.route%3Dreplica").await.unwrap();
    one(&acme, "select 1").await;
    one(&globex, "select 1").await;
    scene.lk.signal_all(Signal::STOP);
    let frozen = acme.batch_execute("select count(*) from orders /* acme in need */");
    let frozen = tokio::time::timeout(std::time::Duration::from_secs(5), frozen).await;
    assert!(!matches!(frozen, Ok(Ok(_))), "there is nobody to ask");
    until("reads of globex in India", async || {
        let read = globex.batch_execute("select count(*) from orders /* globex in need */").await;
        read.is_ok() && scene.reached(&scene.india, "globex in need")
    })
    .await;
    scene.lk.signal_all(Signal::CONT);
    until("the primary's return", async || {
        let Ok(client) = scene.enter("colombo", "acme", "").await else { return false };
        client.batch_execute("insert into orders (item) values ('back')").await.is_ok()
    })
    .await;
    assert!(!scene.reached(&scene.india, "acme in need"));
}

/// globex loses India while it is in a transaction there.
async fn a_rule_that_narrows_ends_what_is_under_way(scene: &Scene) {
    let globex = scene.enter("mumbai", "globex", "?options=-c%20pgward.route%3Dreplica").await.unwrap();
    globex.batch_execute("begin read only; select count(*) from orders /* globex under way */").await.unwrap();
    until("its place", async || scene.reached(&scene.india, "globex under way")).await;
    let wide = "[tenants.globex]\nregions = [\"lk\", \"in\"]\n";
    scene.mumbai.reload(|text| text.replace(wide, "[tenants.globex]\n"));
    until("its end", async || globex.is_closed()).await;
    assert!(globex.batch_execute("select 1 /* globex after all */").await.is_err());
    until("the refusal", async || {
        scene.enter("mumbai", "globex", "").await.err().is_some_and(|refused| code(&refused) == "28000")
    })
    .await;
    assert!(!scene.reached(&scene.india, "globex after all"));
    scene.mumbai.reload(|text| text.replace("[tenants.globex]\n", wide));
    until("its return", async || scene.enter("mumbai", "globex", "").await.is_ok()).await;
}

/// The primary dies, and India takes over: globex goes on there, acme nowhere.
async fn failover_abroad_serves_nobody_who_may_not_be_there(scene: &mut Scene) {
    let acme = scene.enter("colombo", "acme", "").await.unwrap();
    one(&acme, "select 1").await;
    scene.lk.kill();
    scene.india.run("select pg_promote()").await;
    until("writes of globex in India", async || {
        let Ok(globex) = scene.enter("colombo", "globex", "").await else { return false };
        globex.batch_execute("insert into orders (item) values ('globex fails over')").await.is_ok()
    })
    .await;
    assert!(scene.reached(&scene.india, "globex fails over"));
    for node in ["colombo", "mumbai"] {
        let refused = match scene.enter(node, "acme", "").await {
            Ok(client) => client.batch_execute("insert into orders (item) values ('acme fails over')").await.err(),
            Err(refused) => Some(refused),
        };
        let refused = code(&refused.unwrap());
        assert!(["42501", "28000"].contains(&refused.as_str()), "{node}: {refused}");
    }
    let _ = acme.batch_execute("select count(*) from orders /* acme fails over */").await;
    assert!(!scene.reached(&scene.india, "acme fails over"));
}
