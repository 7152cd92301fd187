//! What routes where: each statement of tests/routes/cases.txt runs through pgward, and the servers' logs tell who ran it.
//! docs/routes.md is made of the same list (`make routes`).

mod support;

use std::fmt::Write;
use std::path::Path;

use pgward::local::{Cluster, Server};
use support::raw::{Raw, copy_fail, message, query};
use support::replicated::{self, shown};
use support::{Stage, furnish, until};

const CASES: &str = include_str!("routes/cases.txt");

/// A heading, or where a statement goes.
enum Line {
    Heading(&'static str),
    Case { route: &'static str, sql: &'static str },
}

fn lines() -> impl Iterator<Item = Line> {
    CASES.lines().filter(|line| !line.trim().is_empty()).map(|line| match line.strip_prefix("# ") {
        Some(heading) => Line::Heading(heading),
        None => {
            let (route, sql) = line.split_once(" | ").unwrap();
            Line::Case { route, sql }
        }
    })
}

fn page() -> String {
    let mut out = "# What routes where

Each of these statements is run through pgward in front of a primary and a replica, and the servers' logs tell who ran it
(tests/routes.rs, in `make test`). The table is made of the list that the test goes by (`make routes`).

*replica*: while one shows what it must (docs/reading.md), else the primary. *begin*: the primary, unless
`default_transaction_read_only` is on. A function is judged by what `pg_proc` says of all functions of that name;
`random_writer()` stands for one of your own that is volatile.
"
    .to_owned();
    for line in lines() {
        match line {
            Line::Heading(heading) => write!(out, "\n## {heading}\n\n| | |\n|---|---|\n").unwrap(),
            Line::Case { route, sql } => {
                let route = route.replace("begin-read-only", "replica, all of the transaction");
                let sql = sql.replace('|', "\\|");
                writeln!(out, "| {route} | `{sql}` |").unwrap();
            }
        }
    }
    out
}

#[test]
fn the_page_has_the_list() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/routes.md"));
    if std::env::var("PGWARD_ROUTES").is_ok_and(|what| what == "page") {
        std::fs::write(path, page()).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap() == page(), "make routes writes the page");
}

const OBJECTS: &str = "
    create table t (a int, b text);
    create table orders_of (id int, total numeric, customer text);
    create sequence s;
    create function random_writer() returns int language sql volatile as 'select 1';
    insert into t values (1, 'x');
    grant all on t, s, orders_of to public;";

async fn stage(cluster: &mut Cluster) -> Stage {
    furnish(cluster).await;
    // The tests' own table of that name is another one.
    let objects = OBJECTS.replace("orders_of", "listed.orders");
    let objects = format!("create schema listed; grant usage on schema listed to public; {objects}");
    cluster.primary().run("app", "make what the list needs", &objects).await.unwrap();
    cluster.caught_up().await.unwrap();
    let stage = replicated::stage(cluster, "", "slow_start = \"0s\"", &[]).await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    let path = "[tenants.acme]\nsearch_path = [\"listed\", \"public\"]\n";
    std::fs::write(&stage.path, text.replace("[tenants.acme]\n", path)).unwrap();
    stage.control.reload().await.unwrap();
    let replica = cluster.replicas()[0].name();
    until("the replica", async || shown(&stage, replica).await == ["replica", "up", "no"]).await;
    stage
}

/// Whose log has this text.
fn ran_at<'a>(cluster: &'a Cluster, mark: &str) -> Vec<&'a Server> {
    let has = |server: &&Server| std::fs::read_to_string(server.log()).unwrap().contains(mark);
    cluster.servers().filter(has).collect()
}

/// Until the session would read from the replica.
async fn back(session: &mut Raw<tokio::net::TcpStream>, cluster: &Cluster, turn: &mut usize) {
    let replica = cluster.replicas()[0].name();
    loop {
        *turn += 1;
        let mark = format!("look {turn}.");
        // A call, so that the functions are known too.
        session.query(&format!("select lower('x') /* {mark} */")).await;
        if ran_at(cluster, &mark).iter().any(|server| server.name() == replica) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_statement_runs_where_the_list_says() {
    let builder = Cluster::builder("routes").setting("log_statement", "all").setting("max_connections", "100");
    let mut cluster = builder.replica("routes-2").start().await.unwrap();
    let stage = stage(&mut cluster).await;
    let mut session = stage.raw("acme").await;
    let (mut wrong, mut turn) = (Vec::new(), 0);
    let cases = lines().filter_map(|line| match line {
        Line::Case { route, sql } => Some((route, sql)),
        Line::Heading(_) => None,
    });
    let names = [cluster.primary().name(), cluster.replicas()[0].name()];
    for (number, (route, sql)) in cases.enumerate() {
        back(&mut session, &cluster, &mut turn).await;
        // A wrong word behind it would be an error of the whole text.
        let mark = format!("case {number}.");
        session.send([query(&format!("/* {mark} */ {sql}")), copy_fail()].concat()).await;
        session.ready().await;
        let expected = match route {
            "replica" | "begin-read-only" => names[1],
            "primary" | "begin" => names[0],
            other => panic!("{other}"),
        };
        let found: Vec<&str> = ran_at(&cluster, &mark).iter().map(|server| server.name()).collect();
        if found != [expected] {
            wrong.push(format!("{sql}: at {found:?} instead of {expected}"));
        }
        session.query("rollback").await;
    }
    session.send(message(b'X', b"")).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
