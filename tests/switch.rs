//! From tenant to tenant in one session, by `SET pgward.token`.

mod support;

use std::time::Duration;

use pgward::local::Cluster;
use support::raw::{
    Raw, bind, close, describe, errors, execute, extended, flush, gists, message, parse, pause, query, sync,
};
use support::{HEAD, Stage, code, configuration, one, until};

const ONE_BACKEND: &str = "[pool]\nmax_per_login = 1\n";
const BOUND: &str = "select set_config('pgward.token', $1, false)";
const TENANT: &str = "select pgward.tenant()";

fn set(token: &str) -> String {
    format!("SET pgward.token = '{token}'")
}

/// The tags of the commands that were completed, and the SQLSTATEs of those that were not.
fn ends(messages: &[support::raw::Message]) -> Vec<String> {
    let ends = messages.iter().filter(|message| matches!(message.tag, b'C' | b'E'));
    ends.map(|message| message.gist()[2..].trim_end_matches('\0').to_owned()).collect()
}

fn describes(message: &support::raw::Message) -> bool {
    message.tag == b'T' && message.body.starts_with(b"\0\x01set_config\0")
}

async fn clients_of(stage: &Stage) -> Vec<Option<String>> {
    let clients = stage.control.clients().await;
    let tenant = |client: &pgward::session::ClientRow| client.profile.party.as_ref().map(ToString::to_string);
    clients.iter().map(tenant).collect()
}

#[tokio::test]
async fn a_session_sees_the_tenant_of_its_token_and_nothing_without_one() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut raw = stage.raw("acme").await;
    let globex = stage.token("globex", "app");
    for _ in 0..3 {
        assert_eq!(ends(&raw.query(&set(&globex)).await), ["SET"]);
        assert_eq!(raw.one("select distinct tenant_id from orders").await, "globex");
        assert_eq!(clients_of(&stage).await, [Some("globex".to_owned())]);
        assert_eq!(ends(&raw.query("RESET pgward.token").await), ["RESET"]);
        assert_eq!(clients_of(&stage).await, [None]);
        for refused in [query(TENANT), query("begin"), [extended(TENANT), sync()].concat(), query("listen x")] {
            raw.send(refused).await;
            assert_eq!(gists(&raw.ready().await), ["E 28000", "Z I"]);
        }
        raw.send(sync()).await;
        assert_eq!(gists(&raw.ready().await), ["Z I"]);
        let acme = format!("select set_config('pgward.token', '{}', false)", stage.token("acme", "app"));
        assert_eq!(gists(&raw.query(&acme).await)[1..], ["D acme", "C SELECT 1\0", "Z I"]);
        assert_eq!(raw.one(TENANT).await, "acme");
    }
}

#[tokio::test]
async fn what_is_sent_behind_a_new_token_is_the_new_tenants() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut raw = stage.raw("acme").await;
    let (globex, t1) = (stage.token("globex", "app"), stage.token("t1", "app"));
    raw.send([query(TENANT), query(&set(&globex)), query(TENANT), query(&set(&t1)), query(TENANT)].concat()).await;
    let rows: Vec<_> = gists(&raw.ready_times(5).await).into_iter().filter(|gist| gist.starts_with('D')).collect();
    assert_eq!(rows, ["D acme", "D globex", "D t1"]);
    // What follows a bad one is refused, and so is all that was sent ahead.
    raw.send([query(TENANT), query(&set("bad")), query(TENANT), [extended(TENANT), sync()].concat()].concat()).await;
    let rest: Vec<_> =
        gists(&raw.ready_times(4).await).into_iter().filter(|gist| gist.starts_with(['D', 'E'])).collect();
    assert_eq!(rest, ["D t1", "E 28000", "E 28000", "E 28000"]);
}

#[tokio::test]
async fn a_token_that_is_not_good_leaves_no_tenant() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut raw = stage.raw("acme").await;
    let good = stage.token("acme", "app");
    let unknown = stage.token("initech", "app");
    for bad in ["x", &format!("{good}x"), &unknown, &stage.token("acme", "no_such_role")] {
        raw.query(&set(&good)).await;
        assert_eq!(raw.one(TENANT).await, "acme");
        assert_eq!(gists(&raw.query(&set(bad)).await), ["E 28000", "Z I"]);
        assert_eq!(ends(&raw.query(TENANT).await), ["28000"]);
        raw.query(&set(&good)).await;
        raw.send([parse("", BOUND), bind("", "", &[bad]), execute("", 0), sync()].concat()).await;
        assert_eq!(gists(&raw.ready().await), ["1", "2", "E 28000", "Z I"]);
        assert_eq!(ends(&raw.query(TENANT).await), ["28000"]);
    }
}

#[tokio::test]
async fn a_bound_token_switches_whatever_way_it_is_sent() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut raw = stage.raw("acme").await;
    let globex = stage.token("globex", "app");
    raw.send([parse("s", BOUND), describe('S', "s"), sync()].concat()).await;
    let told = raw.ready().await;
    assert_eq!(gists(&told)[0], "1");
    assert_eq!((told[1].tag, &told[1].body[..]), (b't', &b"\0\x01\0\0\0\x19"[..]), "a text");
    assert!(describes(&told[2]));
    raw.send([bind("p", "s", &[&globex]), describe('P', "p"), flush()].concat()).await;
    assert_eq!(raw.next().await.unwrap().tag, b'2');
    assert!(describes(&raw.next().await.unwrap()));
    raw.send([execute("p", 0), close('P', "p"), sync()].concat()).await;
    let switched = raw.ready().await;
    assert_eq!(ends(&switched), ["SELECT 1"]);
    assert!(gists(&switched).contains(&"D globex".to_owned()));
    assert_eq!(raw.one(TENANT).await, "globex");
    // In pieces, with the token cut.
    let acme = stage.token("acme", "app");
    let batch = [bind("", "s", &[&acme]), execute("", 0), sync()].concat();
    for at in [3, 12, 40, batch.len() - 30] {
        raw.query(&set(&globex)).await;
        raw.send_split(&batch, at).await;
        assert_eq!(ends(&raw.ready().await), ["SELECT 1"], "{at}");
        assert_eq!(raw.one(TENANT).await, "acme", "{at}");
    }
    raw.send([close('S', "s"), sync(), bind("", "s", &[&globex]), execute("", 0), sync()].concat()).await;
    assert_eq!(gists(&raw.ready_times(2).await), ["3", "Z I", "E 26000", "Z I"]);
    assert_eq!(raw.one(TENANT).await, "acme");
    // As NULL it resets.
    let null = message(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xff\0\0");
    raw.send([parse("", BOUND), null, execute("", 0), sync()].concat()).await;
    assert_eq!(ends(&raw.ready().await), ["SELECT 1"]);
    assert_eq!(ends(&raw.query(TENANT).await), ["28000"]);
}

#[tokio::test]
async fn in_a_transaction_or_among_others_a_token_changes_nothing() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut raw = stage.raw("acme").await;
    let globex = stage.token("globex", "app");
    raw.send([parse("s", BOUND), sync()].concat()).await;
    raw.ready().await;
    let attempts = [
        query(&set(&globex)),
        query("reset pgward.token"),
        [parse("", &set(&globex)), bind("", "", &[]), execute("", 0), sync()].concat(),
        [bind("", "s", &[&globex]), execute("", 0), sync()].concat(),
        [describe('S', "s"), sync()].concat(),
    ];
    for attempt in &attempts {
        raw.query("begin; create temp table t (a int) on commit drop").await;
        raw.send(attempt).await;
        assert_eq!(gists(&raw.ready().await), ["E 25001", "Z E"]);
        assert_eq!(ends(&raw.query(TENANT).await), ["25P02"], "the transaction has failed");
        raw.query("rollback").await;
        assert_eq!(raw.one(TENANT).await, "acme");
    }
    // In one batch with others, in front of it or behind it.
    let insert = extended("insert into orders (item) values ('mixed')");
    let switch = [parse("", BOUND), bind("", "", &[&globex]), execute("", 0)].concat();
    raw.send([&insert[..], &switch, &sync()].concat()).await;
    assert_eq!(errors(&raw.ready().await), ["25001"]);
    assert_eq!(raw.one(TENANT).await, "acme");
    raw.send([&parse("", BOUND)[..], &bind("", "", &[&globex]), &insert, &sync()].concat()).await;
    assert_eq!(errors(&raw.ready().await), ["25001"]);
    assert_eq!(raw.one(TENANT).await, "acme");
    for text in [
        format!("insert into orders (item) values ('mixed'); {}", set(&globex)),
        format!("{}; insert into orders (item) values ('mixed')", set(&globex)),
        format!("set local pgward.token = '{globex}'"),
        format!("SET \"pgward\".token = '{globex}'"),
        format!("select set_config('pgward.token', '{globex}', true)"),
        format!("set pgward.token = '{globex}' and more"),
    ] {
        assert_eq!(ends(&raw.query(&text).await), ["25001"], "{text}");
        raw.send([extended(&text), sync()].concat()).await;
        assert_eq!(errors(&raw.ready().await), ["25001"], "{text}");
        assert_eq!(raw.one(TENANT).await, "acme", "{text}");
    }
    assert_eq!(raw.one("select count(*) from orders where item = 'mixed'").await, "0");
}

#[tokio::test]
async fn nothing_of_a_tenant_goes_along_to_the_next() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut raw = stage.raw("acme").await;
    raw.query("set timezone = 'Asia/Colombo'; set app.secret = 'of acme'; create temp table t (a int)").await;
    raw.query("prepare p as select 'of acme'; declare c cursor with hold for select 1; listen c").await;
    raw.query("select pg_advisory_lock(77)").await;
    let pid = raw.one("select pg_backend_pid()").await;
    assert_eq!(stage.control.clients().await[0].pinned, Some("temporary_table"));
    let told = raw.query(&set(&stage.token("globex", "app"))).await;
    let zone = told.iter().filter_map(|message| message.parameter()).find(|(name, _)| name == "TimeZone").unwrap().1;
    assert_ne!(zone, "Asia/Colombo", "the client is told");
    assert_eq!(raw.one("show timezone").await, zone);
    assert_eq!(raw.one("select coalesce(current_setting('app.secret', true), '')").await, "");
    assert_eq!(raw.one("select count(*) from pg_class where relname = 't'").await, "0");
    assert_eq!(raw.one("select count(*) from pg_prepared_statements where name = 'p'").await, "0");
    assert_eq!(raw.one("select count(*) from pg_locks where locktype = 'advisory' and objid = 77").await, "0");
    assert_eq!(raw.one("select count(*) from pg_listening_channels()").await, "0");
    assert_eq!(raw.one("select pg_backend_pid()").await, pid, "the same backend, cleaned");
    assert_eq!(stage.control.clients().await[0].pinned, None);
}

#[tokio::test]
async fn statements_of_the_protocol_stay_and_run_as_the_new_tenant() {
    let stage = Stage::new("").await;
    let client = stage.connect("acme").await;
    let switch = client.prepare(BOUND).await.unwrap();
    let tenant = client.prepare(TENANT).await.unwrap();
    let rows = client.prepare("select count(*) from orders where tenant_id <> $1").await.unwrap();
    for i in 0..20 {
        // kandy has a schema and a login of its own.
        let name = ["globex", "t1", "kandy", "acme"][i % 4];
        let row = client.query_one(&switch, &[&stage.token(name, "app")]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), name);
        if name == "kandy" {
            assert_eq!(one(&client, "select current_user").await, "kandy");
            continue;
        }
        assert_eq!(client.query_one(&tenant, &[]).await.unwrap().get::<_, String>(0), name);
        assert_eq!(client.query_one(&rows, &[&name]).await.unwrap().get::<_, i64>(0), 0);
    }
    client.batch_execute("reset pgward.token").await.unwrap();
    assert_eq!(code(&client.query_one(&tenant, &[]).await.err().unwrap()), "28000");
    client.query_one(&switch, &[&stage.token("acme", "app")]).await.unwrap();
    assert_eq!(client.query_one(&tenant, &[]).await.unwrap().get::<_, String>(0), "acme");
}

#[tokio::test]
async fn limits_and_ends_are_those_of_the_tenant_that_a_session_is_of() {
    let port = support::cluster().await.primary().port();
    let text = format!("{HEAD}{}", configuration(port, "[limits]\nmax_clients = 2\n"));
    let stage = Stage::with(&text).await;
    let (mut one, mut two) = (stage.raw("acme").await, stage.raw("acme").await);
    let mut three = stage.raw("globex").await;
    let acme = stage.token("acme", "app");
    assert_eq!(ends(&three.query(&set(&acme)).await), ["53300"], "acme has as many clients as it may");
    // Who has no tenant keeps its place, or one token could open any number of sessions.
    one.query("reset pgward.token").await;
    assert_eq!(ends(&three.query(&set(&acme)).await), ["53300"]);
    one.query(&set(&stage.token("t1", "app"))).await;
    assert_eq!(ends(&three.query(&set(&acme)).await), ["SET"]);
    assert_eq!(ends(&one.query(&set(&acme)).await), ["53300"]);
    // A token that ends takes its session along, and none that gave it up.
    two.query(&set(&stage.token_for("globex", "app", Duration::from_secs(2)))).await;
    one.query(&set(&stage.token_for("t1", "app", Duration::from_secs(2)))).await;
    one.query("reset pgward.token").await;
    assert_eq!(gists(&two.rest().await), ["E 28000"]);
    assert_eq!(ends(&one.query(&set(&stage.token("t1", "app"))).await), ["SET"]);
    // A tenant that a reload removes takes along whoever is its client now.
    std::fs::write(&stage.path, text.replace("[tenants.t1]", "[tenants.gone]")).unwrap();
    stage.control.reload().await.unwrap();
    assert_eq!(gists(&one.rest().await), ["E 57P01"]);
    assert_eq!(three.one(TENANT).await, "acme");
    assert_eq!(ends(&three.query(&set(&stage.token("t1", "app"))).await), ["28000"]);
}

#[tokio::test]
async fn a_switch_needs_no_backend() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut holder = stage.raw("acme").await;
    let mut raw = stage.raw("acme").await;
    holder.query("begin").await;
    for name in ["globex", "t1", "acme"] {
        assert_eq!(ends(&raw.query(&set(&stage.token(name, "app"))).await), ["SET"]);
    }
    holder.query("commit").await;
    assert_eq!(raw.one(TENANT).await, "acme");
}

#[tokio::test]
async fn many_sessions_switch_at_random_and_see_their_own() {
    let stage = Stage::new("[pool]\nmax_per_login = 3\n").await;
    let tasks = (0..12).map(|i| {
        let tokens: Vec<_> = ["acme", "globex", "t1", "t2"].map(|name| (name, stage.token(name, "app"))).into();
        let url = stage.url("acme", "app");
        tokio::spawn(async move {
            let mut raw = Raw::open(&url).await;
            for round in 0..40 {
                let (name, token) = &tokens[(i * 7 + round * 3) % 4];
                let count = "select string_agg(distinct tenant_id, ',') from orders";
                raw.send([query(&set(token)), query(count), query("reset pgward.token"), query(count)].concat()).await;
                let seen: Vec<_> =
                    gists(&raw.ready_times(4).await).into_iter().filter(|gist| gist.starts_with(['D', 'E'])).collect();
                assert_eq!(seen, [format!("D {name}"), "E 28000".to_owned()]);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    until("everyone has gone", async || stage.control.client_count() == 0).await;
    pause().await;
}

#[tokio::test]
async fn no_server_is_ever_told_a_token() {
    let cluster = Cluster::builder("switch").setting("log_statement", "all").start().await.unwrap();
    support::furnish(&cluster).await;
    let stage = Stage::with(&format!("{HEAD}{}", configuration(cluster.primary().port(), ONE_BACKEND))).await;
    let mut raw = stage.raw("acme").await;
    let token = stage.token("globex", "app");
    let secret = token.rsplit('.').next().unwrap().to_owned();
    let attempts = [
        query(&set(&token)),
        [parse("", BOUND), bind("", "", &[&token]), execute("", 0), sync()].concat(),
        query(&format!("select 1; {}", set(&token))),
        query(&format!("{} nonsense", set(&token))),
        query(&format!("set \"pgward\" . token to '{token}'")),
        [extended(&format!("select set_config('pgward.token', '{token}', true)")), sync()].concat(),
    ];
    for attempt in &attempts {
        for around in [["select 'none'", "select 'none'"], ["begin", "rollback"]] {
            raw.query(around[0]).await;
            raw.send(attempt).await;
            raw.ready().await;
            raw.query(around[1]).await;
        }
    }
    raw.query(&set(&token)).await;
    raw.query("select 'the end'").await;
    let log = || std::fs::read_to_string(cluster.primary().log()).unwrap();
    until("the log is written", async || log().contains("the end")).await;
    assert!(!log().contains(&secret), "a token is in the log");
}

#[tokio::test]
async fn a_token_that_is_hidden_from_pgward_ends_the_session() {
    let stage = Stage::new(ONE_BACKEND).await;
    let globex = stage.token("globex", "app");
    let hidden = format!("do $$ begin perform set_config('pg' || 'ward.token', '{globex}', false); end $$");
    let mut raw = stage.raw("acme").await;
    raw.query(&hidden).await;
    raw.send(query(TENANT)).await;
    assert_eq!(gists(&raw.rest().await).last().unwrap(), "E 28000", "rather than going on as acme");
}

#[tokio::test]
async fn a_name_that_is_bound_switches_nothing() {
    let stage = Stage::new(ONE_BACKEND).await;
    let globex = stage.token("globex", "app");
    let mut raw = stage.raw("acme").await;
    let text = "select set_config($1, $2, false)";
    let named = [parse("s", text), bind("", "s", &["pgward.token", &globex]), execute("", 0), sync()].concat();
    let unnamed = [parse("", text), bind("", "", &["PGWARD.token", &globex]), execute("", 0), sync()].concat();
    for batch in [named, unnamed] {
        raw.send(batch).await;
        assert_eq!(gists(&raw.ready().await), ["1", "E 25001", "Z I"]);
        assert_eq!(raw.one(TENANT).await, "acme");
    }
    raw.send([parse("", text), bind("", "", &["app.x", "1"]), execute("", 0), sync()].concat()).await;
    assert_eq!(errors(&raw.ready().await), [""; 0], "another setting may be");
}

#[tokio::test]
async fn statements_made_in_one_tenant_do_not_listen_for_nobody() {
    let stage = Stage::new("").await;
    let mut raw = stage.raw("globex").await;
    raw.send([parse("l", "listen news"), sync()].concat()).await;
    raw.ready().await;
    raw.query("reset pgward.token").await;
    raw.send([bind("", "l", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(gists(&raw.ready().await), ["E 28000", "Z I"]);
    let mut acme = stage.raw("acme").await;
    acme.query("do $$ begin perform pg_notify('news', 'raw'); end $$").await;
    raw.query(&set(&stage.token("globex", "app"))).await;
    assert!(raw.query("select 1").await.iter().all(|message| message.tag != b'A'));
}

#[tokio::test]
async fn odd_orders_of_messages_are_answered_as_postgresql_would() {
    let stage = Stage::new(ONE_BACKEND).await;
    let mut raw = stage.raw("acme").await;
    let globex = stage.token("globex", "app");
    // Closing ahead, as drivers do with statements that they have lost.
    let switch = [parse("", BOUND), bind("", "", &[&globex]), execute("", 0), sync()].concat();
    raw.send([&close('S', "old")[..], &switch].concat()).await;
    assert_eq!(gists(&raw.ready().await), ["3", "1", "2", "D globex", "C SELECT 1\0", "Z I"]);
    // Preparing with a Flush, and then another statement, as asyncpg does.
    for text in [BOUND, "select 1"] {
        raw.send([parse("p", text), describe('S', "p"), flush()].concat()).await;
        raw.until(|message| message.tag == b'T').await;
        assert_eq!(ends(&raw.query(&set(&stage.token("acme", "app"))).await), ["SET"], "{text}");
        assert_eq!(raw.one(TENANT).await, "acme");
        raw.send([close('S', "p"), sync()].concat()).await;
        raw.ready().await;
    }
    // A Query behind a refused message is ignored up to the Sync.
    let refused = [parse("", BOUND), bind("", "", &["a", "b"]), query("select 1"), sync()].concat();
    raw.send(refused).await;
    assert_eq!(gists(&raw.ready().await), ["1", "E 08P01", "Z I"]);
    // Names are free again after DISCARD ALL, and taken before.
    raw.send([parse("s", BOUND), parse("s", "select 42"), sync()].concat()).await;
    assert_eq!(gists(&raw.ready().await), ["1", "E 42P05", "Z I"]);
    raw.query("discard all").await;
    raw.send([parse("s", "select 42"), bind("", "s", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(gists(&raw.ready().await), ["1", "2", "D 42", "C SELECT 1\0", "Z I"]);
    // One that is far too long is refused, and nothing hangs.
    let long = "x".repeat(2 << 20);
    raw.send([parse("", BOUND), bind("", "", &[&long]), execute("", 0), sync()].concat()).await;
    assert_eq!(gists(&raw.ready().await), ["1", "E 25001", "Z I"]);
    assert_eq!(raw.one(TENANT).await, "acme");
    // The unnamed statement of before does not come back.
    raw.query("select pg_advisory_lock(78)").await;
    raw.send([parse("", "set work_mem = '77MB'"), sync(), parse("", BOUND), sync()].concat()).await;
    raw.ready_times(2).await;
    raw.send([close('S', ""), sync(), bind("", "", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(gists(&raw.ready_times(2).await), ["3", "Z I", "E 26000", "Z I"]);
}
