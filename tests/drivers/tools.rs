//! PostgreSQL's own command line tools.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::checks::{CLIENTS, Check, checks, each, tenant};
use crate::place::Urls;

pub const CHECKS: &[Check] = checks![
    psql_describes,
    psql_copies,
    psql_watches,
    psql_runs_scripts,
    psql_goes_on_after_errors,
    psql_fetches_by_cursor,
    psql_gives_every_statement_its_transaction,
    psql_describes_results,
    psql_is_interrupted,
    pg_dump_and_back,
    pg_dump_of_shared_tables,
    pg_dump_custom_and_restore,
    pgbench_simple,
    pgbench_extended,
    pgbench_prepared,
    pgbench_pipeline,
    pg_isready,
];

/// A tool's end: whether it was well, and what it said on both outputs.
struct Said {
    well: bool,
    out: String,
    err: String,
}

async fn tool(name: &str, arguments: &[&str], input: &str) -> Said {
    let mut command = Command::new(name);
    command.args(arguments).env("PGCONNECT_TIMEOUT", "10").env("PSQLRC", "/dev/null").env("LC_ALL", "C.UTF-8");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let feeder = tokio::spawn(async move {
        // A tool that ended early does not read it all.
        let _ = stdin.write_all(input.as_bytes()).await;
    });
    let output = child.wait_with_output().await.unwrap();
    feeder.abort();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { well: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A tool that must end well and complain of nothing. Says what it printed.
async fn good(name: &str, arguments: &[&str], input: &str) -> String {
    let Said { well, out, err } = tool(name, arguments, input).await;
    assert!(well && !err.contains("rror"), "{name} {arguments:?}\n{out}\n{err}");
    out
}

/// psql without decoration, stopping at the first error.
async fn psql(url: &str, input: &str) -> String {
    good("psql", &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url], input).await.trim().to_owned()
}

/// Two tenants at level `rows`, for all clients.
fn in_turn(urls: &Urls) -> Vec<String> {
    [&urls.rows, &urls.other].into_iter().cycle().take(CLIENTS).cloned().collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn named(path: &Path) -> &str {
    path.to_str().unwrap()
}

// ----------------------------------------------------------------------------------------------- psql

async fn psql_describes(urls: Urls) {
    each(vec![urls.schema; CLIENTS], |i, url| async move {
        let table = format!("described_{i}");
        let make = format!("create table {table} (a int primary key, b text not null default 'x' check (b <> ''));");
        psql(&url, &make).await;
        let said = good("psql", &["-X", "-d", &url, "-c", &format!("\\d {table}")], "").await;
        for part in [&format!(".{table}\""), "'x'::text", "PRIMARY KEY, btree (a)", "CHECK (b <> ''::text)"] {
            assert!(said.contains(part), "\\d does not show {part}:\n{said}");
        }
        for (command, part) in [("\\d", "items"), ("\\dt", "notes"), ("\\dn", &*tenant(&url)), ("\\d+", "Size")] {
            let said = good("psql", &["-X", "-d", &url, "-c", command], "").await;
            assert!(said.contains(part), "{command} does not show {part}:\n{said}");
        }
        psql(&url, &format!("drop table {table};")).await;
    })
    .await;
}

async fn psql_copies(urls: Urls) {
    each(vec![urls.schema; CLIENTS], |i, url| async move {
        let folder = Folder::new();
        let (sent, back) = (folder.file("sent.csv"), folder.file("back.csv"));
        let rows: String = (0..1000).map(|n| format!("{n},\"line {n}, \"\"quoted\"\"\"\n")).collect();
        std::fs::write(&sent, &rows).unwrap();
        let (sent, back) = (named(&sent), named(&back));
        let script = format!(
            "create table copied_{i} (a int, b text);
             \\copy copied_{i} from '{sent}' csv
             select count(*), sum(a) from copied_{i};
             \\copy (select * from copied_{i} order by a) to '{back}' csv
             copy copied_{i} from stdin;\n1000\tinline\n\\.\n
             select b from copied_{i} where a = 1000;
             drop table copied_{i};"
        );
        assert_eq!(psql(&url, &script).await, "1000|499500\ninline");
        // PostgreSQL quotes what needs it, as was done here.
        assert_eq!(std::fs::read_to_string(back).unwrap(), rows);
    })
    .await;
}

async fn psql_watches(urls: Urls) {
    each(vec![urls.rows, urls.other], |_, url| async move {
        // It ends by the division, when the fourth look finds three rows.
        let script = "delete from notes where topic = 'watched';
            with n as (insert into notes (topic) values ('watched'))
                select 'seen', 1 / (3 - count(*)) from notes where topic = 'watched' \\watch 0.05";
        let Said { out, err, .. } = tool("psql", &["-X", "-q", "-A", "-t", "-d", &url], script).await;
        assert_eq!(out.matches("seen|").count(), 3, "{out}\n{err}");
        assert!(err.contains("division by zero"), "{out}\n{err}");
    })
    .await;
}

async fn psql_runs_scripts(urls: Urls) {
    each(in_turn(&urls), |i, url| async move {
        let topic = format!("scripted {i}");
        let script = format!(
            "\\set topic '{topic}'
             delete from notes where topic = :'topic';
             begin; insert into notes (topic, id) values (:'topic', 1); savepoint s;
             insert into notes (topic, id) values (:'topic', 2); rollback to s; commit;
             begin; insert into notes (topic, id) values (:'topic', 3); rollback;
             select count(*) as n from notes where topic = :'topic' \\gset
             \\echo :n
             select format('select %L', x) from generate_series(1, 3) x \\gexec
             select tenant_id from items limit 1;"
        );
        assert_eq!(psql(&url, &script).await, format!("1\n1\n2\n3\n{}", tenant(&url)));
    })
    .await;
}

async fn psql_goes_on_after_errors(urls: Urls) {
    each(in_turn(&urls), |_, url| async move {
        let script = "\\set ON_ERROR_ROLLBACK on\nbegin;\nselect 1/0;\nselect 'still here';\ncommit;\nselect wrong;
            select 'and here';";
        let Said { out, err, .. } = tool("psql", &["-X", "-q", "-A", "-t", "-d", &url], script).await;
        assert_eq!(out.trim(), "still here\nand here", "{err}");
        assert_eq!(err.matches("ERROR:").count(), 2, "{err}");
    })
    .await;
}

async fn psql_fetches_by_cursor(urls: Urls) {
    let script = "\\set FETCH_COUNT 7\nselect id from items order by id;";
    let expected: Vec<String> = (1..=100).map(|id| id.to_string()).collect();
    each(vec![urls.rows; CLIENTS], |_, url| {
        let expected = expected.join("\n");
        async move { assert_eq!(psql(&url, script).await, expected) }
    })
    .await;
}

/// Without a transaction around them, and with one.
async fn psql_gives_every_statement_its_transaction(urls: Urls) {
    let count = "select count(*) from notes where topic = 'singly';";
    let insert = "insert into notes (topic) values ('singly');";
    psql(&urls.rows, "delete from notes where topic = 'singly';").await;
    let broken = format!("{insert}\nselect 1/0;\n{insert}");
    let stop = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &urls.rows];
    assert!(!tool("psql", &[&stop[..], &["-1"]].concat(), &broken).await.well);
    assert_eq!(psql(&urls.rows, count).await, "0");
    assert!(!tool("psql", &stop, &broken).await.well);
    assert_eq!(psql(&urls.rows, count).await, "1");
    // One message, one transaction.
    assert!(!tool("psql", &[&stop[..], &["-c", &broken]].concat(), "").await.well);
    assert_eq!(psql(&urls.rows, count).await, "1");
}

async fn psql_describes_results(urls: Urls) {
    let described = psql(&urls.rows, "select id, name, price from items \\gdesc\nselect 'on';").await;
    assert_eq!(described, "id|integer\nname|text\nprice|numeric\non");
}

/// Ctrl-C sends a cancel request, and psql goes on.
async fn psql_is_interrupted(urls: Urls) {
    let mut command = Command::new("psql");
    command.args(["-X", "-q", "-A", "-t", "-d", &urls.schema]).env("PGAPPNAME", "interrupted");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"select pg_sleep(31);\nselect 'still here';\n").await.unwrap();
    drop(stdin);
    let running = "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(31);';";
    crate::support::until("the sleep", async || psql(&urls.schema, running).await == "1").await;
    let id = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let output = tokio::time::timeout(Duration::from_secs(10), child.wait_with_output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(err.contains("canceling statement due to user request"), "{err}");
    // psql gives up a script that is interrupted; the backend is free.
    assert!(!out.contains("pg_sleep"), "{out}");
    crate::support::until("the end of the sleep", async || psql(&urls.schema, running).await == "0").await;
}

// -------------------------------------------------------------------------------------------- pg_dump

const DUMPED: &str = "
    drop table if exists dumped, dumped_too cascade;
    create table dumped (id int generated by default as identity primary key, t text, n numeric(12, 3), b bytea);
    create table dumped_too (of int references dumped, at timestamptz default '2024-02-29 12:30:00+00');
    create view dumped_view as select t from dumped where id > 10;
    create function dumped_function(int) returns int language sql as 'select $1 + 1';
    insert into dumped (t, n, b) select 'line ' || chr(9) || n, n * 1.5, decode(md5(n::text), 'hex')
        from generate_series(1, 5000) n;
    insert into dumped_too select n from generate_series(1, 100) n;";

const DROPPED: &str = "drop table dumped cascade; drop table dumped_too; drop function dumped_function;";

const PRINT: &str = "select count(*), sum(n), md5(string_agg(t || encode(b, 'hex'), ',' order by id)) from dumped;
    select count(*), max(at) = '2024-02-29 12:30:00+00' from dumped_too; select count(*) from dumped_view;
    select dumped_function(1);";

async fn pg_dump_and_back(urls: Urls) {
    psql(&urls.schema, DUMPED).await;
    let before = psql(&urls.schema, PRINT).await;
    let schema = tenant(&urls.schema);
    let text = good("pg_dump", &["-d", &urls.schema, "-n", &schema, "--no-owner"], "").await;
    for part in ["CREATE TABLE", "CREATE VIEW", "CREATE FUNCTION", "ADD CONSTRAINT dumped_pkey", "dumped_too_of_fkey"] {
        assert!(text.contains(part), "no {part} in the dump");
    }
    assert_eq!(text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count(), 5200);
    let inserts = good("pg_dump", &["-d", &urls.schema, "-t", "dumped*", "--inserts"], "").await;
    assert_eq!(inserts.matches("INSERT INTO").count(), 5100);
    // What is there already is in the way; it is all taken away, and comes back from the dump.
    let start = text.replace(&format!("CREATE SCHEMA {schema};"), "");
    let all = format!("{DROPPED} drop table items, notes;\n{start}");
    good("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &urls.schema], &all).await;
    assert_eq!(psql(&urls.schema, PRINT).await, before);
    psql(&urls.schema, DROPPED).await;
    assert_eq!(psql(&urls.schema, "select count(*) from items").await, "100");
}

/// A tenant dumps its rows, when it says that it knows of the row security.
async fn pg_dump_of_shared_tables(urls: Urls) {
    let arguments = ["-d", &urls.rows, "-t", "items", "--data-only", "--enable-row-security"];
    let text = good("pg_dump", &arguments, "").await;
    let own = tenant(&urls.rows);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert_eq!(lines.len(), 100);
    assert!(lines.iter().all(|line| line.ends_with(&format!("\t{own}"))), "rows of others");
}

async fn pg_dump_custom_and_restore(urls: Urls) {
    psql(&urls.schema, DUMPED).await;
    let before = psql(&urls.schema, PRINT).await;
    let (folder, schema) = (Folder::new(), tenant(&urls.schema));
    let file = folder.file("dump");
    let arguments = ["-d", &urls.schema, "-n", &schema, "--no-owner", "-Fc", "-f", named(&file)];
    good("pg_dump", &arguments, "").await;
    psql(&urls.schema, DROPPED).await;
    let list = good("pg_restore", &["-l", named(&file)], "").await;
    let wanted: String = list.lines().filter(|line| line.contains(" dumped")).map(|line| format!("{line}\n")).collect();
    let chosen = folder.file("list");
    std::fs::write(&chosen, wanted).unwrap();
    let arguments = ["-d", &urls.schema, "--no-owner", "-j", "2", "-L", named(&chosen), named(&file)];
    good("pg_restore", &arguments, "").await;
    assert_eq!(psql(&urls.schema, PRINT).await, before);
    psql(&urls.schema, DROPPED).await;
}

// -------------------------------------------------------------------------------------------- pgbench

async fn pgbench(urls: &Urls, mode: &str, script: &[&str]) {
    let clients = CLIENTS.to_string();
    // A thread each: pgbench waits for a Parse to be answered with all of a thread's clients.
    let arguments = ["-n", "-t", "40", "-c", &clients, "-j", &clients, "-M", mode];
    let said = good("pgbench", &[&arguments[..], script, &[&urls.schema]].concat(), "").await;
    let expected = format!("number of transactions actually processed: {0}/{0}\n", CLIENTS * 40);
    assert!(said.contains(&expected) && said.contains("number of failed transactions: 0 "), "{said}");
}

/// Its own scripts, in tables that it makes itself.
async fn pgbench_in(urls: Urls, mode: &'static str) {
    good("pgbench", &["-i", "-q", "-s", "1", "-I", "dtgvp", &urls.schema], "").await;
    for script in ["tpcb-like", "simple-update", "select-only"] {
        pgbench(&urls, mode, &["-b", script]).await;
    }
    let books = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),
        (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers),
        (select count(*) from pgbench_history)";
    assert_eq!(psql(&urls.schema, books).await, format!("t|t|{}", CLIENTS * 80), "the accounts do not add up");
    good("pgbench", &["-i", "-I", "d", &urls.schema], "").await;
}

async fn pgbench_simple(urls: Urls) {
    pgbench_in(urls, "simple").await;
}

async fn pgbench_extended(urls: Urls) {
    pgbench_in(urls, "extended").await;
}

async fn pgbench_prepared(urls: Urls) {
    pgbench_in(urls, "prepared").await;
}

async fn pgbench_pipeline(urls: Urls) {
    let folder = Folder::new();
    let file = folder.file("script");
    psql(&urls.schema, "delete from notes where topic = 'bench';").await;
    let script = "\\set n random(1, 100)\n\\startpipeline\nbegin;\nselect name from items where id = :n;
insert into notes (topic, id) values ('bench', :n);\ncommit;\nselect 1;\n\\endpipeline\n";
    std::fs::write(&file, script).unwrap();
    for mode in ["extended", "prepared"] {
        pgbench(&urls, mode, &["-f", named(&file)]).await;
    }
    let count = psql(&urls.schema, "select count(*) from notes where topic = 'bench'").await;
    assert_eq!(count, (CLIENTS * 80).to_string());
}

async fn pg_isready(urls: Urls) {
    assert!(good("pg_isready", &["-d", &urls.rows], "").await.contains("accepting connections"));
}
