//! tokio-postgres: everything prepared, everything pipelined.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, IsolationLevel, NoTls};

use crate::checks::{CLIENTS, Check, checks, each, tenant};
use crate::place::Urls;
use crate::support::{code, one, until};

pub const CHECKS: &[Check] = checks![
    shares_backends,
    prepared,
    prepared_by_text,
    prepared_many_and_closed,
    prepared_by_sql,
    prepared_again_after_ddl,
    prepared_rows_stay_as_described,
    types_of_a_tenant,
    settings_kept,
    settings_local,
    settings_rolled_back,
    settings_reset,
    transactions,
    savepoints,
    failed_transaction,
    transaction_dropped,
    read_only_and_isolation_levels,
    copy_text,
    copy_csv,
    copy_binary,
    copy_fails_midway,
    copy_given_up,
    listen,
    unlisten,
    listen_is_not_for_other_tenants,
    cancel,
    pipeline,
    pipeline_with_an_error_in_it,
    pipeline_of_a_transaction,
    portals,
    large_result_streamed,
    temporary_tables,
    advisory_locks,
    cursors_with_hold,
    several_statements_at_once,
];

struct Mine {
    client: Client,
    user: String,
    heard: Arc<Mutex<Vec<(String, String)>>>,
}

async fn connect(url: &str) -> Mine {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(n) = message {
                ear.lock().unwrap().push((n.channel().to_owned(), n.payload().to_owned()));
            }
        }
    });
    Mine { client, user: tenant(url), heard }
}

/// So many clients, of these tenants in turn.
async fn clients(count: usize, urls: &[&String]) -> Vec<Mine> {
    join_all((0..count).map(|i| connect(urls[i % urls.len()]))).await
}

async fn many(urls: &Urls) -> Vec<Mine> {
    clients(CLIENTS, &[&urls.rows, &urls.other]).await
}

async fn owners(urls: &Urls) -> Vec<Mine> {
    clients(CLIENTS, &[&urls.schema]).await
}

/// Other clients at work until it is ended, and none of them may fail.
struct Busy {
    stop: tokio::sync::watch::Sender<bool>,
    work: tokio::task::JoinHandle<Vec<()>>,
}

impl Busy {
    async fn start(count: usize, url: &String) -> Self {
        let many = clients(count, &[url]).await;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let work = tokio::spawn(async move {
            each(many, |_, mine| {
                let stopped = stopped.clone();
                async move {
                    while !*stopped.borrow() {
                        let row = mine.client.query_one("select count(*) from items, pg_sleep(0.001)", &[]).await;
                        assert_eq!(row.unwrap().get::<_, i64>(0), 100);
                    }
                }
            })
            .await
        });
        Self { stop, work }
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        self.work.await.unwrap();
    }
}

async fn shares_backends(urls: Urls) {
    let pids = each(many(&urls).await, |_, mine| async move {
        let mut pids = BTreeSet::new();
        for _ in 0..20 {
            pids.insert(mine.client.query_one("select pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0));
        }
        pids
    });
    let pids: BTreeSet<i32> = pids.await.into_iter().flatten().collect();
    match urls.backends {
        Some(backends) => assert!(pids.len() <= backends, "{} backends", pids.len()),
        None => assert_eq!(pids.len(), CLIENTS),
    }
}

// -------------------------------------------------------------------------------- prepared statements

async fn prepared(urls: Urls) {
    each(many(&urls).await, |i, Mine { client, user, .. }| async move {
        let statement = client.prepare("select name, $1::int8 + id from items where id = $2").await.unwrap();
        assert_eq!(statement.params(), [Type::INT8, Type::INT4]);
        for n in 0..50_i32 {
            let id = (i32::try_from(i).unwrap() * 50 + n) % 100 + 1;
            let row = client.query_one(&statement, &[&i64::from(n), &id]).await.unwrap();
            assert_eq!((row.get::<_, String>(0), row.get(1)), (format!("{user} {id}"), i64::from(n + id)));
        }
    })
    .await;
}

async fn prepared_by_text(urls: Urls) {
    each(clients(CLIENTS, &[&urls.rows, &urls.schema]).await, |_, Mine { client, user, .. }| async move {
        for n in 1..=30_i32 {
            let row = client.query_one("select name from items where id = $1", &[&n]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), format!("{user} {n}"));
            let row = client.query_typed("select name from items where id = $1", &[(&n, Type::INT4)]).await.unwrap();
            assert_eq!(row[0].get::<_, String>(0), format!("{user} {n}"));
        }
    })
    .await;
}

async fn prepared_many_and_closed(urls: Urls) {
    each(many(&urls).await, |i, Mine { client, .. }| async move {
        let i = i32::try_from(i).unwrap();
        for round in 0..3 {
            let mut statements = Vec::new();
            for n in 0..30 {
                statements.push(client.prepare(&format!("select {n} + $1::int4 + {round}")).await.unwrap());
            }
            for (n, statement) in statements.iter().enumerate().rev() {
                let row = client.query_one(statement, &[&i]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), i32::try_from(n).unwrap() + i + round);
            }
        }
    })
    .await;
}

async fn prepared_by_sql(urls: Urls) {
    each(many(&urls).await, |i, Mine { client, user, .. }| async move {
        let prepare = format!("prepare mine(int) as select name || ' {i}' from items where id = $1");
        client.batch_execute(&prepare).await.unwrap();
        for n in 1..=20 {
            assert_eq!(one(&client, &format!("execute mine({n})")).await, format!("{user} {n} {i}"));
        }
        client.batch_execute("deallocate mine").await.unwrap();
        assert_eq!(code(&client.batch_execute("execute mine(1)").await.unwrap_err()), "26000");
        // Kept until all have done their work.
        client
    })
    .await;
}

async fn prepared_again_after_ddl(urls: Urls) {
    let owner = connect(&urls.schema).await;
    let sql = "drop table if exists shifting; create table shifting as select 1 as a";
    owner.client.batch_execute(sql).await.unwrap();
    let select = "select * from shifting";
    let mut prepared = Vec::new();
    for Mine { client, .. } in owners(&urls).await {
        let statement = client.prepare(select).await.unwrap();
        assert_eq!(client.query_one(&statement, &[]).await.unwrap().len(), 1);
        prepared.push((client, statement));
    }
    owner.client.batch_execute("alter table shifting add b text default 'new'").await.unwrap();
    each(prepared, |_, (client, _)| async move {
        let again = client.prepare(select).await.unwrap();
        assert_eq!(again.columns().len(), 2);
        for _ in 0..5 {
            let row = client.query_one(&again, &[]).await.unwrap();
            assert_eq!((row.get::<_, i32>(0), row.get::<_, String>(1)), (1, "new".to_owned()));
        }
    })
    .await;
    owner.client.batch_execute("drop table shifting").await.unwrap();
}

/// What a statement's rows look like was told when it was prepared. PostgreSQL refuses to send others, also
/// where pgward prepares it on another backend, later.
async fn prepared_rows_stay_as_described(urls: Urls) {
    let owner = connect(&urls.schema).await;
    let sql = "drop table if exists turning; create table turning as select 1 as a";
    owner.client.batch_execute(sql).await.unwrap();
    let Mine { mut client, .. } = connect(&urls.schema).await;
    let transaction = client.transaction().await.unwrap();
    let backend = transaction.query_one("select pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
    let statement = transaction.prepare("select * from turning").await.unwrap();
    assert_eq!(transaction.query_one(&statement, &[]).await.unwrap().get::<_, i32>(0), 1);
    transaction.commit().await.unwrap();
    owner.client.batch_execute("alter table turning alter a type float4").await.unwrap();
    // Somebody else has that backend for a while.
    let mut holders = clients(3, &[&urls.schema]).await;
    let mut held = Vec::new();
    for Mine { client, .. } in &mut holders {
        let transaction = client.transaction().await.unwrap();
        let pid = transaction.query_one("select pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
        held.push((pid, transaction));
    }
    held.retain(|(pid, _)| *pid == backend);
    // As an int4, 1.0 would be 1065353216.
    match client.query_one(&statement, &[]).await {
        Ok(row) => assert_eq!(row.get::<_, i32>(0), 1, "a float4 came for an int4"),
        Err(error) => assert_eq!(code(&error), "0A000"),
    }
    drop(held);
    owner.client.batch_execute("drop table turning").await.unwrap();
}

/// The driver asks for what it does not know by statements of its own.
async fn types_of_a_tenant(urls: Urls) {
    let owner = connect(&urls.schema).await;
    let sql = "drop type if exists mood; create type mood as enum ('good', 'bad')";
    owner.client.batch_execute(sql).await.unwrap();
    each(owners(&urls).await, |_, Mine { client, .. }| async move {
        let statement = client.prepare("select $1::text::mood, array['bad']::mood[]").await.unwrap();
        assert_eq!(statement.columns()[0].type_().name(), "mood");
        assert_eq!(statement.columns()[1].type_().name(), "_mood");
        assert_eq!(client.query(&statement, &[&"good"]).await.unwrap().len(), 1);
    })
    .await;
    owner.client.batch_execute("drop type mood").await.unwrap();
}

// ------------------------------------------------------------------------------------------- settings

async fn settings_kept(urls: Urls) {
    each(many(&urls).await, |i, Mine { client, .. }| async move {
        let zone = format!("Etc/GMT+{i}");
        client.batch_execute(&format!("set timezone to '{zone}'; set application_name = 'client {i}'")).await.unwrap();
        client.execute("select set_config('app.x', $1, false)", &[&i.to_string()]).await.unwrap();
        client.batch_execute(&format!("set search_path to mine_{i}, public")).await.unwrap();
        let shown = "select current_setting('TimeZone') || current_setting('application_name')
            || current_setting('search_path') || current_setting('app.x')";
        for _ in 0..20 {
            let row = client.query_one(shown, &[]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), format!("{zone}client {i}mine_{i}, public{i}"));
        }
        // Kept until all have done their work.
        client
    })
    .await;
}

async fn settings_local(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        let before = one(&client, "show timezone").await;
        for _ in 0..10 {
            let transaction = client.transaction().await.unwrap();
            transaction.batch_execute(&format!("set local timezone to 'Etc/GMT+{i}'")).await.unwrap();
            let row = transaction.query_one("select current_setting('timezone')", &[]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), format!("Etc/GMT+{i}"));
            transaction.commit().await.unwrap();
            assert_eq!(one(&client, "show timezone").await, before);
        }
    })
    .await;
}

async fn settings_rolled_back(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        client.batch_execute(&format!("set timezone to 'Etc/GMT+{i}'")).await.unwrap();
        for _ in 0..10 {
            let transaction = client.transaction().await.unwrap();
            transaction.batch_execute("set timezone to 'Asia/Colombo'").await.unwrap();
            transaction.rollback().await.unwrap();
            assert_eq!(one(&client, "show timezone").await, format!("Etc/GMT+{i}"));
        }
        // Kept until all have done their work.
        client
    })
    .await;
}

async fn settings_reset(urls: Urls) {
    let with = |url: &String| format!("{url}?options=-c%20timezone%3DAsia/Colombo");
    let (rows, other) = (with(&urls.rows), with(&urls.other));
    each(clients(CLIENTS, &[&rows, &other]).await, |i, Mine { client, .. }| async move {
        for reset in ["reset timezone", "set timezone to default", "reset all", "discard all"] {
            client.batch_execute(&format!("set timezone to 'Etc/GMT+{i}'")).await.unwrap();
            assert_eq!(one(&client, "show timezone").await, format!("Etc/GMT+{i}"));
            client.batch_execute(reset).await.unwrap();
            assert_eq!(one(&client, "show timezone").await, "Asia/Colombo");
        }
        // Kept until all have done their work.
        client
    })
    .await;
}

// --------------------------------------------------------------------------------------- transactions

const INSERT: &str = "insert into notes (topic, id) values ($1, $2)";

async fn noted(client: &Client, topic: &str) -> Vec<i32> {
    let rows = client.query("select id from notes where topic = $1 order by id", &[&topic]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn fresh_topic(client: &Client, topic: &str) {
    client.execute("delete from notes where topic = $1", &[&topic]).await.unwrap();
}

async fn transactions(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        let topic = format!("transactions {i}");
        fresh_topic(&client, &topic).await;
        for n in 0..10_i32 {
            let transaction = client.transaction().await.unwrap();
            assert_eq!(transaction.execute(INSERT, &[&topic, &n]).await.unwrap(), 1);
            transaction.commit().await.unwrap();
            let transaction = client.transaction().await.unwrap();
            transaction.execute(INSERT, &[&topic, &1000_i32]).await.unwrap();
            transaction.rollback().await.unwrap();
        }
        assert_eq!(noted(&client, &topic).await, (0..10).collect::<Vec<_>>());
    })
    .await;
}

async fn savepoints(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        let topic = format!("savepoints {i}");
        fresh_topic(&client, &topic).await;
        let mut transaction = client.transaction().await.unwrap();
        transaction.execute(INSERT, &[&topic, &1_i32]).await.unwrap();
        let inner = transaction.savepoint("within").await.unwrap();
        inner.execute(INSERT, &[&topic, &2_i32]).await.unwrap();
        assert_eq!(code(&inner.batch_execute("select 1/0").await.unwrap_err()), "22012");
        inner.rollback().await.unwrap();
        let inner = transaction.transaction().await.unwrap();
        inner.execute(INSERT, &[&topic, &3_i32]).await.unwrap();
        inner.commit().await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(noted(&client, &topic).await, [1, 3]);
    })
    .await;
}

async fn failed_transaction(urls: Urls) {
    each(many(&urls).await, |_, Mine { client, .. }| async move {
        client.batch_execute("begin").await.unwrap();
        assert_eq!(code(&client.query("select no_such_column from items", &[]).await.unwrap_err()), "42703");
        assert_eq!(code(&client.query("select 1", &[]).await.unwrap_err()), "25P02");
        client.batch_execute("commit").await.unwrap();
        assert_eq!(one(&client, "select max(id) from items").await, "100");
    })
    .await;
}

/// The driver sends a ROLLBACK that it does not wait for.
async fn transaction_dropped(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        let topic = format!("dropped {i}");
        for _ in 0..5 {
            let transaction = client.transaction().await.unwrap();
            transaction.execute(INSERT, &[&topic, &1_i32]).await.unwrap();
            drop(transaction);
            assert!(noted(&client, &topic).await.is_empty());
        }
    })
    .await;
}

async fn read_only_and_isolation_levels(urls: Urls) {
    each(many(&urls).await, |_, Mine { mut client, .. }| async move {
        let levels = [
            (IsolationLevel::Serializable, "serializable"),
            (IsolationLevel::RepeatableRead, "repeatable read"),
            (IsolationLevel::ReadUncommitted, "read uncommitted"),
            (IsolationLevel::ReadCommitted, "read committed"),
        ];
        for (level, name) in levels {
            let transaction =
                client.build_transaction().isolation_level(level).read_only(true).deferrable(true).start().await;
            let transaction = transaction.unwrap();
            let row = transaction.query_one("select current_setting('transaction_isolation')", &[]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), name);
            let error = transaction.execute(INSERT, &[&"never", &1_i32]).await.unwrap_err();
            assert_eq!(code(&error), "25006");
        }
        assert_eq!(one(&client, "show transaction_read_only").await, "off");
        assert_eq!(one(&client, "show transaction_isolation").await, "read committed");
    })
    .await;
}

// ----------------------------------------------------------------------------------------------- COPY

async fn copy_table(client: &Client, name: &str) {
    let sql = format!("drop table if exists {name}; create table {name} (a text, b int)");
    client.batch_execute(&sql).await.unwrap();
}

async fn copy_there_and_back(urls: Urls, how: &'static str, line: fn(usize) -> String) {
    each(owners(&urls).await, |i, Mine { client, .. }| async move {
        let name = format!("copy_{how}_{i}");
        copy_table(&client, &name).await;
        let sent: String = (0..500).map(line).collect();
        let sink = client.copy_in(&format!("copy {name} from stdin with (format {how})")).await.unwrap();
        let mut sink = pin!(sink);
        for part in sent.as_bytes().chunks(777) {
            sink.send(bytes::Bytes::copy_from_slice(part)).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), 500);
        let out = client.copy_out(&format!("copy {name} to stdout with (format {how})")).await.unwrap();
        let back: Vec<bytes::Bytes> = out.try_collect().await.unwrap();
        assert_eq!(String::from_utf8(back.concat()).unwrap(), sent);
        client.batch_execute(&format!("drop table {name}")).await.unwrap();
    })
    .await;
}

async fn copy_text(urls: Urls) {
    copy_there_and_back(urls, "text", |n| format!("line\\t{n}\t{n}\n")).await;
}

async fn copy_csv(urls: Urls) {
    copy_there_and_back(urls, "csv", |n| format!("\"line \"\"{n}\"\", \",{n}\n")).await;
}

async fn copy_binary(urls: Urls) {
    each(owners(&urls).await, |i, Mine { client, .. }| async move {
        let name = format!("copy_binary_{i}");
        let types = [Type::TEXT, Type::INT4];
        copy_table(&client, &name).await;
        let sink = client.copy_in(&format!("copy {name} from stdin binary")).await.unwrap();
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
        for n in 0..500_i32 {
            writer.as_mut().write(&[&format!("line {n}"), &n]).await.unwrap();
        }
        assert_eq!(writer.finish().await.unwrap(), 500);
        let out = client.copy_out(&format!("copy {name} to stdout binary")).await.unwrap();
        let rows: Vec<_> = BinaryCopyOutStream::new(out, &types).try_collect().await.unwrap();
        for (n, row) in rows.iter().enumerate() {
            assert_eq!((row.get::<String>(0), row.get(1)), (format!("line {n}"), i32::try_from(n).unwrap()));
        }
        assert_eq!(rows.len(), 500);
        client.batch_execute(&format!("drop table {name}")).await.unwrap();
    })
    .await;
}

async fn copy_fails_midway(urls: Urls) {
    each(owners(&urls).await, |i, Mine { client, .. }| async move {
        let name = format!("copy_bad_{i}");
        copy_table(&client, &name).await;
        for _ in 0..3 {
            let sink = client.copy_in(&format!("copy {name} from stdin")).await.unwrap();
            let mut sink = pin!(sink);
            for part in 0..50 {
                sink.send(bytes::Bytes::from(format!("x\t{part}\n").repeat(100))).await.unwrap();
            }
            sink.send(bytes::Bytes::from("x\tnot a number\n")).await.unwrap();
            assert_eq!(code(&sink.finish().await.unwrap_err()), "22P02");
            assert_eq!(one(&client, &format!("select count(*) from {name}")).await, "0");
        }
        client.batch_execute(&format!("drop table {name}")).await.unwrap();
    })
    .await;
}

/// The driver sends CopyFail when a copy is dropped, and reads on when an output is.
async fn copy_given_up(urls: Urls) {
    each(owners(&urls).await, |i, Mine { client, .. }| async move {
        let name = format!("copy_left_{i}");
        copy_table(&client, &name).await;
        for _ in 0..3 {
            {
                let sink = client.copy_in(&format!("copy {name} from stdin")).await.unwrap();
                let mut sink = pin!(sink);
                sink.send(bytes::Bytes::from("x\t1\n".repeat(1000))).await.unwrap();
            }
            assert_eq!(one(&client, &format!("select count(*) from {name}")).await, "0");
            {
                let out = client.copy_out("copy (select generate_series(1, 20000)) to stdout").await.unwrap();
                let mut out = pin!(out);
                assert!(out.next().await.unwrap().is_ok());
            }
            assert_eq!(one(&client, "select max(id) from items").await, "100");
        }
        client.batch_execute(&format!("drop table {name}")).await.unwrap();
    })
    .await;
}

// ------------------------------------------------------------------------------------ LISTEN / NOTIFY

fn pairs(channel: &str, payloads: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    payloads.into_iter().map(|payload| (channel.to_owned(), payload)).collect()
}

async fn listen(urls: Urls) {
    let (listener, sender) = (connect(&urls.rows).await, connect(&urls.rows).await);
    listener.client.batch_execute("listen news").await.unwrap();
    let busy = Busy::start(8, &urls.rows).await;
    for n in 0..50 {
        sender.client.execute("select pg_notify('news', $1)", &[&format!("number {n}")]).await.unwrap();
    }
    until("the last notification", async || listener.heard.lock().unwrap().len() >= 50).await;
    busy.end().await;
    assert_eq!(*listener.heard.lock().unwrap(), pairs("news", (0..50).map(|n| format!("number {n}"))));
}

async fn unlisten(urls: Urls) {
    let (listener, sender) = (connect(&urls.rows).await, connect(&urls.rows).await);
    listener.client.batch_execute("listen first; listen second").await.unwrap();
    sender.client.batch_execute("notify first, '1'").await.unwrap();
    until("the first", async || listener.heard.lock().unwrap().len() == 1).await;
    listener.client.batch_execute("unlisten first").await.unwrap();
    sender.client.batch_execute("notify first, '2'").await.unwrap();
    sender.client.batch_execute("notify second, '3'").await.unwrap();
    until("the second", async || listener.heard.lock().unwrap().len() >= 2).await;
    let expected = [("first".to_owned(), "1".to_owned()), ("second".to_owned(), "3".to_owned())];
    assert_eq!(*listener.heard.lock().unwrap(), expected);
}

async fn listen_is_not_for_other_tenants(urls: Urls) {
    let listeners = clients(2, &[&urls.rows, &urls.other]).await;
    let senders = clients(2, &[&urls.rows, &urls.other]).await;
    for listener in &listeners {
        listener.client.batch_execute("listen shared").await.unwrap();
    }
    for word in ["first", "last"] {
        for sender in &senders {
            sender.client.batch_execute(&format!("notify shared, '{word} of {}'", sender.user)).await.unwrap();
        }
    }
    for listener in &listeners {
        let last = ("shared".to_owned(), format!("last of {}", listener.user));
        until("the last notification", async || listener.heard.lock().unwrap().contains(&last)).await;
        if urls.backends.is_some() {
            let own = ["first", "last"].map(|word| format!("{word} of {}", listener.user));
            assert_eq!(*listener.heard.lock().unwrap(), pairs("shared", own));
        }
    }
}

// ------------------------------------------------------------------------------- cancel and pipelining

async fn cancel(urls: Urls) {
    let (sleeper, watcher) = (connect(&urls.schema).await, connect(&urls.schema).await);
    let busy = Busy::start(2, &urls.schema).await;
    for n in 0..2 {
        let text = format!("select pg_sleep(3{n})");
        let running = "select count(*) from pg_stat_activity where state = 'active' and query = $1";
        let begin = Instant::now();
        let token = sleeper.client.cancel_token();
        let stop = async {
            until("the sleep", async || {
                watcher.client.query_one(running, &[&text]).await.unwrap().get::<_, i64>(0) == 1
            })
            .await;
            token.cancel_query(NoTls).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(sleeper.client.simple_query(&text), stop);
        assert_eq!(code(&outcome.unwrap_err()), "57014");
        assert!(begin.elapsed() < Duration::from_secs(5), "it took too long");
        assert_eq!(one(&sleeper.client, "select max(id) from items").await, "100");
    }
    busy.end().await;
}

async fn pipeline(urls: Urls) {
    each(many(&urls).await, |_, Mine { client, user, .. }| async move {
        let statement = client.prepare("select name from items where id = $1").await.unwrap();
        for _ in 0..5 {
            let (client, statement) = (&client, &statement);
            let names = (1..=50_i32).map(|id| async move { client.query_one(statement, &[&id]).await });
            for (name, id) in join_all(names).await.into_iter().zip(1..) {
                assert_eq!(name.unwrap().get::<_, String>(0), format!("{user} {id}"));
            }
        }
    })
    .await;
}

/// Each query is a batch of its own: an error is that query's alone.
async fn pipeline_with_an_error_in_it(urls: Urls) {
    each(many(&urls).await, |_, Mine { client, .. }| async move {
        let statement = client.prepare("select 100 / $1::int4").await.unwrap();
        for _ in 0..5 {
            let (client, statement) = (&client, &statement);
            let found = (-10..=10_i32).map(|by| async move { client.query_one(statement, &[&by]).await });
            for (found, by) in join_all(found).await.into_iter().zip(-10..) {
                match found {
                    Ok(row) => assert_eq!(row.get::<_, i32>(0), 100 / by),
                    Err(error) => assert_eq!((code(&error).as_str(), by), ("22012", 0)),
                }
            }
        }
    })
    .await;
}

async fn pipeline_of_a_transaction(urls: Urls) {
    each(many(&urls).await, |i, Mine { client, .. }| async move {
        let topic = format!("piped {i}");
        fresh_topic(&client, &topic).await;
        for n in 0..5_i32 {
            let (begin, insert, commit, rollback) = tokio::join!(
                client.batch_execute("begin"),
                async { client.query_typed(INSERT, &[(&topic, Type::TEXT), (&n, Type::INT4)]).await },
                client.batch_execute("commit"),
                client.batch_execute("begin; delete from notes; rollback"),
            );
            begin.unwrap();
            insert.unwrap();
            commit.unwrap();
            rollback.unwrap();
        }
        assert_eq!(noted(&client, &topic).await, [0, 1, 2, 3, 4]);
    })
    .await;
}

async fn portals(urls: Urls) {
    each(many(&urls).await, |_, Mine { mut client, .. }| async move {
        let transaction = client.transaction().await.unwrap();
        let portal = transaction.bind("select id from items where id > $1 order by id", &[&5_i32]).await.unwrap();
        let mut found: Vec<i32> = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, 10).await.unwrap();
            if rows.is_empty() {
                break;
            }
            found.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        }
        assert_eq!(found, (6..=100).collect::<Vec<_>>());
        transaction.commit().await.unwrap();
    })
    .await;
}

// --------------------------------------------------------------------------- large, long, and of a session

async fn large_result_streamed(urls: Urls) {
    let Mine { client, .. } = connect(&urls.rows).await;
    let busy = Busy::start(8, &urls.rows).await;
    let query = "select n, repeat(md5(n::text), 160) from generate_series(1, 10000) n";
    let rows = client.query_raw(query, std::iter::empty::<i32>()).await.unwrap();
    let mut rows = pin!(rows);
    let (mut count, mut total, mut size) = (0, 0_i64, 0);
    while let Some(row) = rows.try_next().await.unwrap() {
        count += 1;
        total += i64::from(row.get::<_, i32>(0));
        size += row.get::<_, &str>(1).len();
    }
    assert_eq!((count, total, size), (10_000, 50_005_000, 10_000 * 5120));
    busy.end().await;
}

async fn temporary_tables(urls: Urls) {
    let busy = Busy::start(6, &urls.schema).await;
    let pair = clients(2, &[&urls.schema]).await;
    for Mine { client, .. } in &pair {
        client.batch_execute("create temp table scratch (a int)").await.unwrap();
    }
    for n in 0..20_i32 {
        for (i, Mine { client, .. }) in (0..).zip(&pair) {
            client.execute("insert into scratch values ($1)", &[&(i * 100 + n)]).await.unwrap();
        }
    }
    for (i, Mine { client, .. }) in (0..).zip(&pair) {
        let row = client.query_one("select min(a), count(*) from scratch", &[]).await.unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, i64>(1)), (i * 100, 20));
    }
    busy.end().await;
}

async fn advisory_locks(urls: Urls) {
    let pair = clients(2, &[&urls.schema]).await;
    let (first, second) = (&pair[0].client, &pair[1].client);
    let busy = Busy::start(6, &urls.schema).await;
    for _ in 0..5 {
        one(first, "select pg_advisory_lock(4711)").await;
        assert_eq!(one(second, "select pg_try_advisory_lock(4711)").await, "f");
        assert_eq!(one(first, "select pg_advisory_unlock(4711)").await, "t");
        assert_eq!(one(second, "select pg_try_advisory_lock(4711)").await, "t");
        assert_eq!(one(second, "select pg_advisory_unlock(4711)").await, "t");
    }
    busy.end().await;
}

async fn cursors_with_hold(urls: Urls) {
    let Mine { client, .. } = connect(&urls.rows).await;
    let busy = Busy::start(6, &urls.rows).await;
    let declare = "begin; declare held cursor with hold for select id from items order by id; commit";
    client.batch_execute(declare).await.unwrap();
    for n in 0..10 {
        let rows = client.query("fetch 10 from held", &[]).await.unwrap();
        let found: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(found, (n * 10 + 1..=n * 10 + 10).collect::<Vec<_>>());
    }
    busy.end().await;
}

async fn several_statements_at_once(urls: Urls) {
    each(many(&urls).await, |i, Mine { client, .. }| async move {
        let topic = format!("several {i}");
        fresh_topic(&client, &topic).await;
        let insert = |id: i32| format!("insert into notes (topic, id) values ('{topic}', {id})");
        let error = client.batch_execute(&format!("{}; select 1/0; {}", insert(1), insert(2))).await.unwrap_err();
        assert_eq!(code(&error), "22012");
        client.batch_execute(&format!("{}; {}", insert(3), insert(4))).await.unwrap();
        assert_eq!(noted(&client, &topic).await, [3, 4]);
    })
    .await;
}
