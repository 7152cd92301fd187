//! The audit log: what is in it, what is not, and that nobody changes it unseen.

#[path = "support/log.rs"]
mod log;
mod support;

use std::path::Path;
use std::time::Duration;

use log::{Log, assert_good, verify};
use pgward::auth::mint;
use pgward::base::{Access, TenantId};
use pgward::proxy::Proxy;
use support::raw::{Raw, V3_0, bind, cancel_request, errors, execute, parse, sync};
use support::{HEAD, Stage, cluster, code, configuration, unix_now};
use tokio_postgres::{Client, NoTls};

/// Ends a proxy and waits until its log is closed.
async fn end(mut stage: Stage) {
    stage.control.shutdown();
    stage.stopped.take().unwrap().await.unwrap();
}

async fn console(stage: &Stage, password: &str) -> Result<Client, tokio_postgres::Error> {
    let url = format!("postgresql://admin:{password}@{}/pgward", stage.address);
    stage.try_connect(&url).await
}

/// SQLSTATE of a login that must fail.
async fn refused(stage: &Stage, user: &str, database: &str, password: &str) -> String {
    let mut raw = Raw::connect(stage.address).await;
    let messages = raw.log_in(V3_0, &[("user", user), ("database", database)], password).await;
    errors(&messages).remove(0)
}

fn token_with(stage: &Stage, tenant: &str, claims: serde_json::Value) -> String {
    let (tenant, role) = (TenantId::parse(tenant).unwrap(), Access::parse("app").unwrap());
    let claims = claims.as_object().unwrap().clone();
    mint(&stage.settings.issuers[0], &tenant, &role, Duration::from_secs(600), &claims, unix_now()).unwrap()
}

#[tokio::test]
async fn who_comes_in_and_who_does_not_is_recorded_with_the_reason() {
    let log = Log::new();
    let stage = Stage::new(&log.table("")).await;
    let token = token_with(&stage, "acme", serde_json::json!({ "sub": "ann@example.com" }));
    let mut raw = Raw::open(&format!("postgresql://acme:{token}@{}/app", stage.address)).await;
    let peer = raw.stream.local_addr().unwrap().to_string();
    // On the disk before the client was told that it is in.
    let login = log.of("login").remove(0);
    for (member, value) in [
        ("tenant", "acme"),
        ("user", "acme"),
        ("database", "app"),
        ("peer", &peer),
        ("via", "token"),
        ("issuer", "tests"),
        ("subject", "ann@example.com"),
        ("role", "app"),
    ] {
        assert_eq!(login[member], value, "{login}");
    }
    let session = login["session"].to_string();
    raw.send(support::raw::terminate()).await;
    let ended = log.await_line("session_end", &[("session", &session), ("reason", "client")]).await;
    assert!(ended["seconds"].is_number(), "{ended}");

    let good = stage.token("acme", "app");
    let unknown = stage.token("initech", "app");
    for (user, database, password, reason) in [
        ("acme", "app", "no token", "malformed"),
        ("globex", "app", good.as_str(), "wrong_user"),
        ("acme", "other", &good, "wrong_database"),
        ("initech", "app", &unknown, "unknown_tenant"),
        ("admin", "pgward", "wrong", "console_refused"),
    ] {
        assert_eq!(refused(&stage, user, database, password).await, "28000");
        let line = log.await_line("login_refused", &[("reason", reason), ("user", user)]).await;
        assert_eq!((&line["sqlstate"], &line["database"]), (&"28000".into(), &database.into()), "{line}");
        assert!(line["peer"].is_string());
    }
    let line = log.await_line("login_refused", &[("reason", "wrong_user")]).await;
    assert_eq!((&line["tenant"], &line["issuer"]), (&"acme".into(), &"tests".into()), "the token was good: {line}");

    // A token in the place of a name, and what would break a line.
    assert_eq!(refused(&stage, &good, "a\"\n\u{7}b", "x").await, "28000");
    log.await_line("login_refused", &[("user", "[token]"), ("reason", "malformed")]).await;
    assert_eq!(refused(&stage, "x", "pgward", &good).await, "28000");

    let mut abrupt = Raw::connect(stage.address).await;
    abrupt.send(b"GET / HTTP/1.1\r\n\r\n").await;
    abrupt.rest().await;
    log.await_line("login_refused", &[("reason", "protocol"), ("sqlstate", "08P01")]).await;

    let text = log.text();
    for secret in [token.as_str(), &good, &unknown, "eyJ", "no token", "console-password"] {
        assert!(!text.contains(secret), "{secret} is in\n{text}");
    }
    end(stage).await;
    assert_good(&[&log.path]);
}

#[tokio::test]
async fn a_tenant_is_not_let_in_where_its_data_may_not_be_and_that_is_recorded() {
    let log = Log::new();
    let stage = Stage::new(&log.table("")).await;
    let token = token_with(&stage, "acme", serde_json::json!({ "region": "in" }));
    assert_eq!(refused(&stage, "acme", "app", &token).await, "28000");
    let line = log.await_line("residency_refused", &[("reason", "token_region"), ("region", "in")]).await;
    assert_eq!((&line["tenant"], &line["user"], &line["sqlstate"]), (&"acme".into(), &"acme".into(), &"28000".into()));
    assert!(log.of("login_refused").is_empty(), "it is recorded once");
}

#[tokio::test]
async fn forged_contexts_switches_and_wrong_cancel_keys_are_recorded() {
    let log = Log::new();
    let stage = Stage::new(&log.table("")).await;
    let mut raw = stage.raw("acme").await;
    let session = log.of("login")[0]["session"].to_string();
    let forge = "begin; select set_config('pgward.context', '1.k1.7.globex.e30.00', false); select pgward.tenant()";
    assert_eq!(errors(&raw.query(forge).await), ["28000"]);
    let line = log.await_line("context_forged", &[("session", &session)]).await;
    assert_eq!((&line["tenant"], &line["issuer"]), (&"acme".into(), &"tests".into()));
    raw.query("rollback").await;

    let globex = stage.token("globex", "readonly");
    raw.query(&format!("set pgward.token = '{globex}'")).await;
    log.await_line("switch", &[("session", &session), ("tenant", "globex"), ("role", "readonly")]).await;
    raw.query("reset pgward.token").await;
    log.await_line("tenant_left", &[("session", &session), ("tenant", "globex")]).await;
    raw.query("set pgward.token = 'secret-and-no-token'").await;
    let line = log.await_line("switch_refused", &[("session", &session), ("reason", "malformed")]).await;
    assert!(line["tenant"].is_null() && line["sqlstate"] == "28000", "{line}");

    raw.query("select 1").await;
    log.await_line("denied", &[("session", &session), ("reason", "no_tenant"), ("sqlstate", "28000")]).await;
    let mut acme = stage.raw("acme").await;
    acme.query(&format!("begin; set pgward.token = '{globex}'")).await;
    log.await_line("denied", &[("tenant", "acme"), ("reason", "token_misplaced"), ("sqlstate", "25001")]).await;
    acme.query("rollback").await;
    acme.send([parse("s", &format!("select 1; set pgward.token = '{globex}'")), sync()].concat()).await;
    acme.ready().await;
    log.await_line("denied", &[("reason", "token_misplaced"), ("sqlstate", "25001")]).await;
    acme.send(support::raw::function_call(2077)).await;
    acme.ready().await;
    log.await_line("denied", &[("tenant", "acme"), ("reason", "function_call"), ("sqlstate", "0A000")]).await;

    let mut stranger = Raw::connect(stage.address).await;
    stranger.send(cancel_request(4711, b"guess")).await;
    stranger.rest().await;
    log.await_line("cancel_refused", &[]).await;
    raw.send(support::raw::terminate()).await;
    log.await_line("session_end", &[("session", &session)]).await;
    for secret in [globex.as_str(), "secret-and-no-token", "guess"] {
        assert!(!log.text().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn what_administrators_do_is_recorded_and_what_ends_the_log() {
    let log = Log::new();
    let stage = Stage::new(&log.table("")).await;
    assert!(console(&stage, "not-the-password").await.is_err());
    let admin = console(&stage, "console-password").await.unwrap();
    let login = log.of("login").remove(0);
    assert_eq!((&login["via"], &login["user"]), (&"console".into(), &"admin".into()));
    admin.simple_query("reload").await.unwrap();
    log.await_line("command", &[("user", "admin"), ("command", "RELOAD")]).await;
    log.await_line("reload", &[("source", "console"), ("outcome", "done")]).await;
    let text = std::fs::read_to_string(&stage.path).unwrap();
    std::fs::write(&stage.path, text.replace("[audit]", "[audit]\nkeep = 7\nrotate_size = \"1MiB\"")).unwrap();
    admin.simple_query("reload").await.unwrap();
    for fixed in ["[audit]\nbuffer = 100", "[audit]\nkey = \"0123456789abcdef0123456789abcdef\"", "[session]"] {
        let changed =
            if fixed == "[session]" { text.replace(&log.table(""), "") } else { text.replace("[audit]", fixed) };
        std::fs::write(&stage.path, changed).unwrap();
        let refused = admin.simple_query("reload").await.unwrap_err();
        assert!(refused.as_db_error().unwrap().detail().unwrap().contains("restart pgward"), "{fixed}: {refused:?}");
    }
    std::fs::write(&stage.path, "nonsense").unwrap();
    admin.simple_query("reload").await.unwrap_err();
    log.await_line("reload", &[("source", "console"), ("outcome", "refused")]).await;
    let session = stage.connect("acme").await;
    admin.simple_query("shutdown").await.unwrap();
    let mut stage = stage;
    stage.stopped.take().unwrap().await.unwrap();
    let names: Vec<String> = log.lines().iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!((names.first().unwrap().as_str(), names.last().unwrap().as_str()), ("start", "stop"), "{names:?}");
    let ends = log.of("session_end");
    assert_eq!(ends.iter().filter(|line| line["reason"] == "draining").count(), 2, "{ends:?}");
    assert_eq!(log.of("shutdown")[0]["source"], "console");
    assert!(!log.text().contains("password\""), "{}", log.text());
    drop(session);
    assert_good(&[&log.path]);
}

#[tokio::test]
async fn an_administrator_with_a_token_is_known_by_it() {
    let log = Log::new();
    let text = text_of(&log, "").await.replace("console.users", "console.token_role = \"app\"\nconsole.users");
    let stage = Stage::with(&text).await;
    let token = token_with(&stage, "acme", serde_json::json!({ "sub": "ann@example.com" }));
    let url = format!("postgresql://anyone:{token}@{}/pgward", stage.address);
    let admin = stage.try_connect(&url).await.unwrap();
    admin.simple_query("reload").await.unwrap();
    let line = log.await_line("command", &[("command", "RELOAD"), ("user", "anyone")]).await;
    assert_eq!((&line["subject"], &line["issuer"]), (&"ann@example.com".into(), &"tests".into()));
    assert!(!log.text().contains(&token));
}

#[tokio::test]
async fn users_without_a_tenant_are_recorded_too() {
    let log = Log::new();
    let users = log.folder.path().join("users.txt");
    std::fs::write(&users, "\"audited\" \"pencil-secret\"\n").unwrap();
    let server = cluster().await.primary().connect("postgres").await.unwrap();
    server.batch_execute("create role audited login password 'pencil-secret'").await.unwrap();
    let plain = format!(
        "{}[plain]\nusers_file = \"{}\"\n[plain.databases.postgres]\ncluster = \"main\"\naudit = \"statements\"\n",
        log.table(""),
        users.display()
    );
    let stage = Stage::new(&plain).await;
    let url = |password: &str| format!("postgresql://audited:{password}@{}/postgres", stage.address);
    assert_eq!(code(&stage.try_connect(&url("wrong-secret")).await.unwrap_err()), "28P01");
    let line = log.await_line("login_refused", &[("reason", "password"), ("user", "audited")]).await;
    assert_eq!(line["sqlstate"], "28P01");
    let client = stage.try_connect(&url("pencil-secret")).await.unwrap();
    log.await_line("login", &[("user", "audited"), ("database", "postgres"), ("via", "password")]).await;
    client.simple_query("select 'value-secret'").await.unwrap();
    log.await_line("statement", &[("user", "audited"), ("statement", "select ?")]).await;
    assert!(!log.text().contains("secret"), "{}", log.text());
}

const NOTED: &str = "[tenants.noted]\ncluster = \"main\"\ndatabase = \"app\"\nhome = \"lk\"\naudit = \"statements\"\n";

#[tokio::test]
async fn statements_of_a_tenant_that_wants_it_are_recorded_without_values() {
    let log = Log::new();
    let stage = Stage::new(&format!("{}{NOTED}", log.table(""))).await;
    let mut raw = stage.raw("noted").await;
    let mut other = stage.raw("acme").await;
    other.query("select 'of another tenant'").await;
    raw.query("select item from orders where item = 'secret-literal' -- secret-comment").await;
    raw.send([parse("s1", "select $1::text || 'secret-part'"), sync()].concat()).await;
    raw.ready().await;
    for _ in 0..2 {
        raw.send([bind("", "s1", &["secret-parameter"]), execute("", 0), sync()].concat()).await;
        raw.ready().await;
    }
    raw.query("prepare p as select 'secret-prepared'").await;
    raw.send([bind("", "p", &[]), execute("", 0), sync()].concat()).await;
    raw.ready().await;
    raw.query("selec 'secret-error'").await;
    raw.query(&format!("select '{}'", "secret ".repeat(20_000))).await;
    // The whole of it is streamed, and nobody has read it.
    raw.query(&format!("select '{}'", "secret ".repeat(200_000))).await;
    raw.send(support::raw::terminate()).await;
    log.await_line("session_end", &[("tenant", "noted")]).await;
    let statements = log.of("statement");
    let texts: Vec<_> = statements.iter().filter_map(|line| line["statement"].as_str()).collect();
    assert_eq!(
        texts,
        [
            "select item from orders where item = ?",
            "select $1::text || ?",
            "select $1::text || ?",
            "prepare p as select ?",
            "execute \"p\""
        ]
    );
    let lengths: Vec<_> = statements.iter().filter_map(|line| line["length"].as_u64()).collect();
    assert_eq!(lengths, [20, 140_009, 1_400_009]);
    assert!(statements[5]["sha256"].is_string(), "{}", statements[5]);
    assert!(statements.iter().all(|line| line["tenant"] == "noted"));
    assert!(!log.text().contains("secret"), "{}", log.text());
    end(stage).await;
    assert_good(&[&log.path]);
}

#[tokio::test]
async fn verify_names_what_was_done_to_a_log() {
    let log = Log::new();
    let key = log.folder.path().join("key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef\n").unwrap();
    let stage = Stage::new(&log.table(&format!("key = {{ file = \"{}\" }}", key.display()))).await;
    for _ in 0..3 {
        drop(stage.connect("acme").await);
    }
    let config = stage.path.clone();
    let keep = std::fs::read_to_string(&config).unwrap();
    end(stage).await;
    std::fs::write(&config, keep).unwrap_or_default();
    let text = log.text();
    let lines: Vec<&str> = text.lines().collect();
    let last = serde_json::from_str::<serde_json::Value>(lines[lines.len() - 1]).unwrap();
    let anchor = format!("{}:{}", last["seq"], last["hash"].as_str().unwrap());
    let key = key.to_str().unwrap();
    let examined = |lines: &[&str], more: &[&str]| {
        let copy = log.folder.path().join("copy");
        std::fs::write(&copy, lines.join("\n") + "\n").unwrap();
        verify(&[&[copy.to_str().unwrap(), "--key-file", key], more].concat())
    };
    let (code, said, _) = examined(&lines, &["--expect", &anchor]);
    assert!(code == Some(0) && said.contains(&anchor), "{said}");
    let found = |lines: &[&str], what: &str| {
        let (code, said, error) = examined(lines, &[]);
        assert!(code == Some(1) && said.contains(what), "{what} in\n{said}");
        assert!(error.contains("finding"), "{error}");
    };
    let changed = lines[2].replace("acme", "bcme");
    found(&[lines[0], lines[1], &changed, lines[3]], "copy:3: line 3 was changed");
    found(&[lines[0], lines[2], lines[3]], "copy:2: line 2 was removed");
    found(&[lines[0], lines[2], lines[1], lines[3]], "copy:3: line 2 stands behind line 3");
    found(&[lines[0], lines[1], "{}", lines[2]], "copy:3: this is no line of an audit log");
    let (code, said, _) = examined(&lines[..3], &["--expect", &anchor]);
    assert!(code == Some(1) && said.contains("was expected and is not there"), "{said}");
    let (code, said, _) = examined(&[lines[0], lines[2]], &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &json["findings"][0]["kind"], &json["findings"][0]["line"]),
        (Some(1), &"removed".into(), &2.into())
    );
    // Without the key a line cannot be made, and not be checked either.
    let (code, ..) = verify(&[log.path.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    let (code, _, error) = verify(&["/nonexistent"]);
    assert!(code == Some(1) && error.contains("/nonexistent"), "{error}");
}

async fn text_of(log: &Log, more: &str) -> String {
    format!("{HEAD}{}", configuration(cluster().await.primary().port(), &log.table(more)))
}

#[tokio::test]
async fn the_chain_goes_on_over_restarts_and_crashes() {
    let log = Log::new();
    for _ in 0..2 {
        let stage = Stage::with(&text_of(&log, "").await).await;
        drop(stage.connect("acme").await);
        // Nobody else may write to it meanwhile.
        let settings = support::parse(&text_of(&log, "").await);
        let refused = Proxy::start(stage.path.clone(), settings).await.err().unwrap();
        assert!(std::error::Error::source(&refused).unwrap().to_string().contains("another process"), "{refused}");
        end(stage).await;
    }
    let starts = log.of("start");
    assert_eq!((&starts[0]["previous"], &starts[1]["previous"]), (&"none".into(), &"verified".into()));
    assert_good(&[&log.path]);
    // A crash in the middle of a line.
    let whole = log.text();
    let cut = &whole[..whole.len() - 50];
    std::fs::write(&log.path, cut).unwrap();
    let (code, said, _) = verify(&[log.path.to_str().unwrap()]);
    assert!(code == Some(1) && said.contains("the last line is cut off"), "{said}");
    end(Stage::with(&text_of(&log, "").await).await).await;
    assert!(log.text().starts_with(cut), "what was there is there still");
    let start = log.of("start").remove(2);
    assert_eq!(
        (&start["previous"], start["torn_bytes"].as_u64()),
        (&"torn".into(), Some(cut.len() as u64 - cut.rfind('\n').unwrap() as u64 - 1))
    );
    let (code, said, note) = verify(&[log.path.to_str().unwrap()]);
    assert!(code == Some(0) && note.contains("a crash cut this line off"), "{said}{note}");
    // Another key from here on: the chain goes on, and each part needs its own.
    end(Stage::with(&text_of(&log, "key = \"0123456789abcdef0123456789abcdef\"").await).await).await;
    assert_eq!(log.of("start")[3]["previous"], "unverified");
    let key = log.folder.path().join("key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    let path = log.path.to_str().unwrap();
    assert_eq!(verify(&[path, "--key-file", key.to_str().unwrap(), "--unkeyed"]).0, Some(0));
    assert_eq!(verify(&[path, "--key-file", key.to_str().unwrap()]).0, Some(1));
}

fn files(log: &Log) -> Vec<std::path::PathBuf> {
    let mut files = pgward::audit::put_aside(&log.path).unwrap();
    files.push(log.path.clone());
    files
}

#[tokio::test]
async fn files_are_put_aside_and_removed_and_the_chain_goes_on() {
    let log = Log::new();
    let stage = Stage::with(&text_of(&log, "rotate_size = \"4KiB\"\nkeep = 2").await).await;
    let mut logins = 0;
    while log.of("rotate").iter().all(|line| line["removed_through"].is_null()) {
        drop(stage.connect("acme").await);
        logins += 1;
        assert!(logins < 1000, "{:?}", files(&log));
    }
    let config = stage.path.to_str().unwrap().to_owned();
    let text = std::fs::read_to_string(&config).unwrap();
    end(stage).await;
    let found = files(&log);
    assert!(found.len() <= 3, "{found:?}");
    for file in &found {
        assert!(std::fs::metadata(file).unwrap().len() <= 4096, "{}", file.display());
    }
    let config = log.folder.path().join("pgward.toml");
    std::fs::write(&config, text).unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let (code, said, note) = verify(&config);
    assert!(code == Some(0) && note.contains("the log begins with line"), "{said}{note}");
    // By somebody else.
    std::fs::remove_file(&found[0]).unwrap();
    let (code, said, _) = verify(&config);
    assert!(code == Some(1) && said.contains("are missing at the beginning"), "{said}");
}

#[tokio::test]
async fn a_file_that_others_put_aside_is_survived_without_a_signal() {
    let log = Log::new();
    let stage = Stage::with(&text_of(&log, "").await).await;
    drop(stage.connect("acme").await);
    log.await_line("session_end", &[]).await;
    let aside = log.folder.path().join("audit.jsonl.1");
    std::fs::rename(&log.path, &aside).unwrap();
    drop(stage.connect("globex").await);
    assert_eq!(log.of("rotate").len(), 1, "{}", log.text());
    log.await_line("login", &[("tenant", "globex")]).await;
    end(stage).await;
    assert_good(&[&aside, &log.path]);
    // And where nothing is left in the file itself.
    std::fs::rename(&log.path, log.folder.path().join("audit.jsonl.2")).unwrap();
    end(Stage::with(&text_of(&log, "").await).await).await;
    assert_eq!(log.of("start")[0]["previous"], "verified");
    let all = files(&log);
    assert_good(&all.iter().map(|path| path.as_path()).collect::<Vec<&Path>>());
}

#[tokio::test]
async fn two_proxies_in_one_process_have_logs_of_their_own() {
    let (one, two) = (Log::new(), Log::new());
    let (first, second) = (Stage::new(&one.table("")).await, Stage::new(&two.table("")).await);
    let (client, connection) = tokio_postgres::connect(&first.url("acme", "app"), NoTls).await.unwrap();
    tokio::spawn(connection);
    drop(second.connect("globex").await);
    assert_eq!(one.of("login")[0]["tenant"], "acme");
    assert_eq!(two.of("login")[0]["tenant"], "globex");
    assert_eq!(first.metric("pgward_audit_events_total{event=\"login\"}").await, 1.0);
    assert_eq!(second.metric("pgward_audit_failing").await, 0.0);
    drop(client);
    end(first).await;
    end(second).await;
    assert_good(&[&one.path]);
    assert_good(&[&two.path]);
}
