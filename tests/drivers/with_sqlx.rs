//! sqlx: statements kept for ever, a pool in front of pgward's, listeners that reconnect.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use sqlx::postgres::{PgAdvisoryLock, PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{Connection, Executor, Row};

use crate::checks::{CLIENTS, Check, checks, each, tenant};
use crate::place::Urls;

pub const CHECKS: &[Check] = checks![
    shares_backends,
    prepared,
    prepared_evicted,
    prepared_not_kept,
    prepared_again_after_ddl,
    settings_kept,
    settings_at_startup,
    settings_local,
    settings_rolled_back,
    transactions,
    savepoints,
    transaction_dropped,
    read_only_and_isolation_levels,
    copy_text,
    copy_csv,
    copy_binary,
    copy_fails_midway,
    listen,
    unlisten,
    listen_is_not_for_other_tenants,
    query_dropped,
    statement_timeout,
    large_result_streamed,
    temporary_tables,
    advisory_locks,
    several_statements_at_once,
    pool,
];

struct Mine {
    client: PgConnection,
    user: String,
}

/// So many clients, of these tenants in turn, each with what `how` makes of its options.
async fn with(count: usize, urls: &[&String], how: impl Fn(usize, PgConnectOptions) -> PgConnectOptions) -> Vec<Mine> {
    let connect = async |i: usize| {
        let url = urls[i % urls.len()];
        let client = PgConnection::connect_with(&how(i, url.parse().unwrap())).await.unwrap();
        Mine { client, user: tenant(url) }
    };
    join_all((0..count).map(connect)).await
}

async fn clients(count: usize, urls: &[&String]) -> Vec<Mine> {
    with(count, urls, |_, options| options).await
}

async fn many(urls: &Urls) -> Vec<Mine> {
    clients(CLIENTS, &[&urls.rows, &urls.other]).await
}

async fn single(url: &String) -> PgConnection {
    clients(1, &[url]).await.remove(0).client
}

async fn text(client: &mut PgConnection, sql: &str) -> String {
    sqlx::query_scalar(sql).fetch_one(client).await.unwrap()
}

fn code(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.map(std::borrow::Cow::into_owned).unwrap_or_else(|| format!("no SQLSTATE: {error:?}"))
}

async fn shares_backends(urls: Urls) {
    let pids = each(many(&urls).await, |_, mut mine| async move {
        let mut pids = BTreeSet::new();
        for _ in 0..20 {
            let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut mine.client).await.unwrap();
            pids.insert(pid);
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
    each(many(&urls).await, |i, Mine { mut client, user }| async move {
        for n in 0..50_i32 {
            let id = (i32::try_from(i).unwrap() * 50 + n) % 100 + 1;
            let query = sqlx::query("select name, $1::int8 + id from items where id = $2").bind(i64::from(n)).bind(id);
            let row = query.fetch_one(&mut client).await.unwrap();
            assert_eq!((row.get::<String, _>(0), row.get::<i64, _>(1)), (format!("{user} {id}"), i64::from(n + id)));
        }
        assert_eq!(client.cached_statements_size(), 1);
    })
    .await;
}

async fn prepared_evicted(urls: Urls) {
    let many = with(CLIENTS, &[&urls.rows, &urls.other], |_, options| options.statement_cache_capacity(3)).await;
    each(many, |i, Mine { mut client, .. }| async move {
        let id = i32::try_from(i).unwrap() + 1;
        for n in 0..60 {
            let sql = format!("select id + {} from items where id = $1", n % 10);
            let found: i32 = sqlx::query_scalar(&sql).bind(id).fetch_one(&mut client).await.unwrap();
            assert_eq!(found, id + n % 10);
        }
        assert!(client.cached_statements_size() <= 3);
    })
    .await;
}

async fn prepared_not_kept(urls: Urls) {
    each(many(&urls).await, |_, Mine { mut client, user }| async move {
        for n in 1..=30_i32 {
            let query = sqlx::query_scalar("select name from items where id = $1").bind(n).persistent(false);
            let name: String = query.fetch_one(&mut client).await.unwrap();
            assert_eq!(name, format!("{user} {n}"));
        }
    })
    .await;
}

async fn prepared_again_after_ddl(urls: Urls) {
    let mut owner = single(&urls.schema).await;
    owner.execute("drop table if exists shifting; create table shifting as select 1 as a").await.unwrap();
    let select = "select * from shifting";
    let mut many = clients(CLIENTS, &[&urls.schema]).await;
    for Mine { client, .. } in &mut many {
        assert_eq!(sqlx::query(select).fetch_one(client).await.unwrap().len(), 1);
    }
    owner.execute("alter table shifting add b text default 'new'").await.unwrap();
    // One keeps its old statement.
    let keeper = many.pop();
    each(many, |_, Mine { mut client, .. }| async move {
        // Closes its statement.
        client.clear_cached_statements().await.unwrap();
        for _ in 0..5 {
            let row = sqlx::query(select).fetch_one(&mut client).await.unwrap();
            assert_eq!((row.get::<i32, _>("a"), row.get::<String, _>("b")), (1, "new".to_owned()));
        }
    })
    .await;
    drop(keeper);
    owner.execute("drop table shifting").await.unwrap();
}

// ------------------------------------------------------------------------------------------- settings

async fn settings_kept(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        client.execute(&*format!("set timezone to 'Etc/GMT+{i}'; set search_path to mine_{i}, public")).await.unwrap();
        sqlx::query(&format!("set application_name to 'client {i}'")).execute(&mut client).await.unwrap();
        let set = sqlx::query("select set_config('app.x', $1, false)").bind(i.to_string());
        set.execute(&mut client).await.unwrap();
        let shown = "select current_setting('TimeZone') || current_setting('application_name')
            || current_setting('search_path') || current_setting('app.x')";
        for _ in 0..20 {
            assert_eq!(text(&mut client, shown).await, format!("Etc/GMT+{i}client {i}mine_{i}, public{i}"));
        }
        // Kept until all have done their work.
        client
    })
    .await;
}

async fn settings_at_startup(urls: Urls) {
    let how = |i: usize, options: PgConnectOptions| {
        let options = options.application_name(&format!("start {i}"));
        options.options([("work_mem", format!("{}MB", i + 1)), ("search_path", "public".to_owned())])
    };
    each(with(CLIENTS, &[&urls.rows, &urls.other], how).await, |i, Mine { mut client, .. }| async move {
        let shown = "select current_setting('TimeZone') || current_setting('application_name')
            || current_setting('search_path') || current_setting('work_mem')";
        for _ in 0..10 {
            assert_eq!(text(&mut client, shown).await, format!("UTCstart {i}public{}MB", i + 1));
        }
    })
    .await;
}

async fn settings_local(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        for _ in 0..10 {
            let mut transaction = client.begin().await.unwrap();
            transaction.execute(&*format!("set local timezone to 'Etc/GMT+{i}'")).await.unwrap();
            let zone = text(&mut transaction, "select current_setting('timezone')").await;
            assert_eq!(zone, format!("Etc/GMT+{i}"));
            transaction.commit().await.unwrap();
            assert_eq!(text(&mut client, "select current_setting('timezone')").await, "UTC");
        }
    })
    .await;
}

async fn settings_rolled_back(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        client.execute(&*format!("set timezone to 'Etc/GMT+{i}'")).await.unwrap();
        for _ in 0..10 {
            let mut transaction = client.begin().await.unwrap();
            transaction.execute("set timezone to 'Asia/Colombo'").await.unwrap();
            transaction.rollback().await.unwrap();
            assert_eq!(text(&mut client, "select current_setting('timezone')").await, format!("Etc/GMT+{i}"));
        }
        client
    })
    .await;
}

// --------------------------------------------------------------------------------------- transactions

async fn note(client: &mut PgConnection, topic: &str, id: i32) {
    let insert = sqlx::query("insert into notes (topic, id) values ($1, $2)").bind(topic).bind(id);
    assert_eq!(insert.execute(client).await.unwrap().rows_affected(), 1);
}

async fn noted(client: &mut PgConnection, topic: &str) -> Vec<i32> {
    let select = sqlx::query_scalar("select id from notes where topic = $1 order by id").bind(topic);
    select.fetch_all(client).await.unwrap()
}

async fn fresh_topic(client: &mut PgConnection, topic: &str) {
    sqlx::query("delete from notes where topic = $1").bind(topic).execute(client).await.unwrap();
}

async fn transactions(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        let topic = format!("transactions {i}");
        fresh_topic(&mut client, &topic).await;
        for n in 0..10 {
            let mut transaction = client.begin().await.unwrap();
            note(&mut transaction, &topic, n).await;
            transaction.commit().await.unwrap();
            let mut transaction = client.begin().await.unwrap();
            note(&mut transaction, &topic, 1000).await;
            transaction.rollback().await.unwrap();
        }
        assert_eq!(noted(&mut client, &topic).await, (0..10).collect::<Vec<_>>());
    })
    .await;
}

async fn savepoints(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        let topic = format!("savepoints {i}");
        fresh_topic(&mut client, &topic).await;
        let mut transaction = client.begin().await.unwrap();
        note(&mut transaction, &topic, 1).await;
        let mut within = transaction.begin().await.unwrap();
        note(&mut within, &topic, 2).await;
        assert_eq!(code(&sqlx::query("select 1/0").execute(&mut *within).await.unwrap_err()), "22012");
        assert_eq!(code(&sqlx::query("select 1").execute(&mut *within).await.unwrap_err()), "25P02");
        within.rollback().await.unwrap();
        let mut within = transaction.begin().await.unwrap();
        note(&mut within, &topic, 3).await;
        within.commit().await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(noted(&mut client, &topic).await, [1, 3]);
    })
    .await;
}

/// sqlx keeps the ROLLBACK until the connection is used again.
async fn transaction_dropped(urls: Urls) {
    let (mut client, mut other) = (single(&urls.rows).await, single(&urls.rows).await);
    for _ in 0..10 {
        let mut transaction = client.begin().await.unwrap();
        note(&mut transaction, "dropped", 1).await;
        drop(transaction);
        assert!(noted(&mut client, "dropped").await.is_empty());
        assert!(noted(&mut other, "dropped").await.is_empty());
    }
}

async fn read_only_and_isolation_levels(urls: Urls) {
    each(many(&urls).await, |_, Mine { mut client, .. }| async move {
        for level in ["serializable", "repeatable read", "read uncommitted", "read committed"] {
            let begin = format!("begin isolation level {level} read only");
            let mut transaction = client.begin_with(begin).await.unwrap();
            assert_eq!(text(&mut transaction, "select current_setting('transaction_isolation')").await, level);
            let insert = sqlx::query("insert into notes (topic) values ('never')");
            assert_eq!(code(&insert.execute(&mut *transaction).await.unwrap_err()), "25006");
            transaction.rollback().await.unwrap();
        }
        assert_eq!(text(&mut client, "select current_setting('transaction_read_only')").await, "off");
    })
    .await;
}

// ----------------------------------------------------------------------------------------------- COPY

async fn copy_table(client: &mut PgConnection, name: &str) {
    let sql = format!("drop table if exists {name}; create table {name} (a text, b int)");
    client.execute(&*sql).await.unwrap();
}

async fn copied_out(client: &mut PgConnection, sql: &str) -> Vec<u8> {
    let parts: Vec<_> = client.copy_out_raw(sql).await.unwrap().try_collect().await.unwrap();
    parts.concat()
}

async fn copy_there_and_back(urls: Urls, how: &'static str) {
    each(clients(CLIENTS, &[&urls.schema]).await, |i, Mine { mut client, .. }| async move {
        let name = format!("copy_{how}_{i}");
        copy_table(&mut client, &name).await;
        let rows = "select 'line' || chr(9) || '\"' || n, n from generate_series(1, 500) n";
        let sent = copied_out(&mut client, &format!("copy ({rows}) to stdout with (format {how})")).await;
        let mut copy = client.copy_in_raw(&format!("copy {name} from stdin with (format {how})")).await.unwrap();
        for part in sent.chunks(777) {
            copy.send(part).await.unwrap();
        }
        assert_eq!(copy.finish().await.unwrap(), 500);
        let differ = format!("select count(*) from (({rows}) except select a, b from {name}) x");
        assert_eq!(sqlx::query_scalar::<_, i64>(&differ).fetch_one(&mut client).await.unwrap(), 0);
        assert_eq!(copied_out(&mut client, &format!("copy {name} to stdout with (format {how})")).await, sent);
        client.execute(&*format!("drop table {name}")).await.unwrap();
    })
    .await;
}

async fn copy_text(urls: Urls) {
    copy_there_and_back(urls, "text").await;
}

async fn copy_csv(urls: Urls) {
    copy_there_and_back(urls, "csv").await;
}

async fn copy_binary(urls: Urls) {
    copy_there_and_back(urls, "binary").await;
}

async fn copy_fails_midway(urls: Urls) {
    each(clients(CLIENTS, &[&urls.schema]).await, |i, Mine { mut client, .. }| async move {
        let name = format!("copy_bad_{i}");
        copy_table(&mut client, &name).await;
        let sql = format!("copy {name} from stdin");
        for _ in 0..3 {
            let mut copy = client.copy_in_raw(&sql).await.unwrap();
            copy.send("x\t1\n".repeat(1000).into_bytes()).await.unwrap();
            copy.send(b"x\tnot a number\n".as_slice()).await.unwrap();
            assert_eq!(code(&copy.finish().await.unwrap_err()), "22P02");
            let mut copy = client.copy_in_raw(&sql).await.unwrap();
            copy.send("x\t1\n".repeat(1000).into_bytes()).await.unwrap();
            copy.abort("thought better of it").await.unwrap();
            let count = format!("select count(*) from {name}");
            assert_eq!(sqlx::query_scalar::<_, i64>(&count).fetch_one(&mut client).await.unwrap(), 0);
        }
        client.execute(&*format!("drop table {name}")).await.unwrap();
    })
    .await;
}

// ------------------------------------------------------------------------------------ LISTEN / NOTIFY

async fn heard(listener: &mut PgListener, count: usize) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while found.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await;
        let next = next.unwrap_or_else(|_| panic!("nothing came after {found:?}")).unwrap();
        found.push((next.channel().to_owned(), next.payload().to_owned()));
    }
    found
}

fn pairs(channel: &str, payloads: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    payloads.into_iter().map(|payload| (channel.to_owned(), payload)).collect()
}

async fn listen(urls: Urls) {
    let mut listener = PgListener::connect(&urls.rows).await.unwrap();
    listener.listen_all(["news", "more news"]).await.unwrap();
    let work = each(clients(8, &[&urls.rows]).await, |i, Mine { mut client, .. }| async move {
        for n in 0..25 {
            let channel = if i == 0 { "news" } else { "nobody's" };
            let notify = sqlx::query("select pg_notify($1, $2)").bind(channel).bind(format!("number {n}"));
            notify.execute(&mut client).await.unwrap();
        }
        if i == 0 {
            client.execute("notify \"more news\"").await.unwrap();
        }
    });
    let (found, _) = tokio::join!(heard(&mut listener, 26), work);
    let mut expected = pairs("news", (0..25).map(|n| format!("number {n}")));
    expected.push(("more news".to_owned(), String::new()));
    assert_eq!(found, expected);
}

async fn unlisten(urls: Urls) {
    let mut sender = single(&urls.rows).await;
    let mut listener = PgListener::connect(&urls.rows).await.unwrap();
    listener.listen_all(["first", "second"]).await.unwrap();
    sender.execute("notify first, '1'").await.unwrap();
    assert_eq!(heard(&mut listener, 1).await, pairs("first", ["1".to_owned()]));
    listener.unlisten("first").await.unwrap();
    sender.execute("notify first, '2'").await.unwrap();
    sender.execute("notify second, '3'").await.unwrap();
    assert_eq!(heard(&mut listener, 1).await, pairs("second", ["3".to_owned()]));
}

async fn listen_is_not_for_other_tenants(urls: Urls) {
    let mut senders = clients(2, &[&urls.rows, &urls.other]).await;
    let mut listeners = Vec::new();
    for url in [&urls.rows, &urls.other] {
        let mut listener = PgListener::connect(url).await.unwrap();
        listener.listen("shared").await.unwrap();
        listeners.push(listener);
    }
    for Mine { client, user } in senders.iter_mut().rev() {
        for word in ["first", "last"] {
            client.execute(&*format!("notify shared, '{word} of {user}'")).await.unwrap();
        }
    }
    for (listener, Mine { user, .. }) in listeners.iter_mut().zip(&senders) {
        if urls.backends.is_some() {
            let own = ["first", "last"].map(|word| format!("{word} of {user}"));
            assert_eq!(heard(listener, 2).await, pairs("shared", own));
        } else {
            assert_eq!(heard(listener, 4).await.len(), 4);
        }
    }
}

// --------------------------------------------------------------------------- large, long, and of a session

/// sqlx reads what is left of a query that nobody waits for when the connection is used again.
async fn query_dropped(urls: Urls) {
    each(clients(CLIENTS, &[&urls.rows]).await, |i, Mine { mut client, .. }| async move {
        for n in 0..3 {
            let sleep = sqlx::query("select pg_sleep(0.1)").execute(&mut client);
            assert!(tokio::time::timeout(Duration::from_millis(20), sleep).await.is_err());
            let expected = format!("{i} {n}");
            let found: String = sqlx::query_scalar("select $1").bind(&expected).fetch_one(&mut client).await.unwrap();
            assert_eq!(found, expected);
        }
    })
    .await;
}

async fn statement_timeout(urls: Urls) {
    let how = |_, options: PgConnectOptions| options.options([("statement_timeout", "100")]);
    each(with(6, &[&urls.rows, &urls.other], how).await, |_, Mine { mut client, .. }| async move {
        let begin = Instant::now();
        let sleep = sqlx::query("select pg_sleep(30)").execute(&mut client).await;
        assert_eq!(code(&sleep.unwrap_err()), "57014");
        assert!(begin.elapsed() < Duration::from_secs(5), "it took too long");
        assert_eq!(text(&mut client, "select current_setting('statement_timeout')").await, "100ms");
    })
    .await;
}

async fn large_result_streamed(urls: Urls) {
    let mut client = single(&urls.rows).await;
    let (mut count, mut total, mut size) = (0, 0_i64, 0);
    {
        let query = sqlx::query("select n, repeat(md5(n::text), 160) from generate_series(1, 10000) n");
        let mut rows = query.fetch(&mut client);
        while let Some(row) = rows.try_next().await.unwrap() {
            count += 1;
            total += i64::from(row.get::<i32, _>(0));
            size += row.get::<&str, _>(1).len();
        }
    }
    assert_eq!((count, total, size), (10_000, 50_005_000, 10_000 * 5120));
    assert_eq!(text(&mut client, "select 'on'").await, "on");
}

async fn temporary_tables(urls: Urls) {
    let mut pair = clients(2, &[&urls.schema]).await;
    for Mine { client, .. } in &mut pair {
        client.execute("create temp table scratch (a int)").await.unwrap();
    }
    for n in 0..20 {
        for (i, Mine { client, .. }) in (0..).zip(&mut pair) {
            sqlx::query("insert into scratch values ($1)").bind(i * 100 + n).execute(client).await.unwrap();
        }
    }
    for (i, Mine { client, .. }) in (0..).zip(&mut pair) {
        let row = sqlx::query("select min(a), count(*) from scratch").fetch_one(client).await.unwrap();
        assert_eq!((row.get::<i32, _>(0), row.get::<i64, _>(1)), (i * 100, 20));
    }
}

async fn advisory_locks(urls: Urls) {
    let (mut first, mut second) = (single(&urls.schema).await, single(&urls.schema).await);
    let lock = PgAdvisoryLock::new("a lock");
    for _ in 0..5 {
        let held = lock.acquire(&mut first).await.unwrap();
        assert!(lock.try_acquire(&mut second).await.unwrap().is_right(), "two have it");
        held.release_now().await.unwrap();
        let held = lock.try_acquire(&mut second).await.unwrap().left().expect("nobody has it");
        held.release_now().await.unwrap();
    }
}

async fn several_statements_at_once(urls: Urls) {
    each(many(&urls).await, |i, Mine { mut client, .. }| async move {
        let topic = format!("several {i}");
        fresh_topic(&mut client, &topic).await;
        let insert = |id: i32| format!("insert into notes (topic, id) values ('{topic}', {id})");
        let broken = format!("{}; select 1/0; {}", insert(1), insert(2));
        assert_eq!(code(&client.execute(&*broken).await.unwrap_err()), "22012");
        let good = format!("{}; {}", insert(3), insert(4));
        assert_eq!(client.execute(&*good).await.unwrap().rows_affected(), 2);
        assert_eq!(noted(&mut client, &topic).await, [3, 4]);
    })
    .await;
}

/// More tasks than connections, and more connections than backends.
async fn pool(urls: Urls) {
    let pool = PgPoolOptions::new().min_connections(12).max_connections(12).connect(&urls.rows).await.unwrap();
    let user = tenant(&urls.rows);
    each(vec![(pool.clone(), user); 24], |_, (pool, user)| async move {
        for n in 1..=10_i32 {
            let name: String =
                sqlx::query_scalar("select name from items where id = $1").bind(n).fetch_one(&pool).await.unwrap();
            assert_eq!(name, format!("{user} {n}"));
            let mut transaction = pool.begin().await.unwrap();
            assert_eq!(text(&mut transaction, "select max(tenant_id) from items").await, user);
            transaction.commit().await.unwrap();
        }
    })
    .await;
    pool.close().await;
}
