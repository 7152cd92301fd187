//! The console as drivers and psql see it, over a socket.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use pgward::auth::mint;
use pgward::base::{Access, TenantId, clock};
use pgward::config;
use pgward::local::Cluster;
use pgward::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

const PASSWORD: &str = "console-password";

/// Every SHOW, by its second word.
const SHOWS: [&str; 7] = ["VERSION", "POOLS", "CLIENTS", "SERVERS", "TENANTS", "STATS", "HELP"];

/// Nobody listens on port 1.
fn configuration(tenants: &str, port: u16) -> String {
    format!(
        r#"
        listen.address = "127.0.0.1:0"
        listen.cores = 2
        listen.drain_timeout = "60s"
        master_key = "0123456789abcdef0123456789abcdef"
        console.users.admin = "{PASSWORD}"
        console.token_role = "operator"
        [[issuers]]
        issuer = "test"
        audience = "pgward"
        algorithms = ["HS256"]
        secret = "abcdef0123456789abcdef0123456789"
        leeway = "0s"
        [issuers.signing]
        algorithm = "HS256"
        key = "abcdef0123456789abcdef0123456789"
        [clusters.main]
        tls.mode = "off"
        servers = [{{ name = "main-1", host = "127.0.0.1", port = {port}, region = "lk" }}]
        {tenants}
        "#
    )
}

fn tenant(name: &str) -> String {
    // One of them can connect.
    let database = if name == "acme" { "postgres" } else { name };
    format!(
        "[tenants.{name}]\nisolation = \"database\"\ncluster = \"main\"\ndatabase = \"{database}\"\nhome = \"lk\"\n"
    )
}

/// A proxy that serves until it is dropped or told to shut down.
struct Running {
    address: SocketAddr,
    file: PathBuf,
    serving: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

async fn start(text: &str) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgward.toml");
    std::fs::write(&file, text).unwrap();
    let settings = config::load(&file).unwrap_or_else(|problems| panic!("{problems:?}"));
    let proxy = Proxy::start(file.clone(), settings).await.unwrap();
    let address = proxy.addresses[0];
    Running { address, file, serving: tokio::spawn(proxy.serve()), _folder: folder }
}

impl Running {
    fn login(&self, database: &str, user: &str, password: &str) -> Config {
        let mut login = Config::new();
        login.host("127.0.0.1").port(self.address.port()).dbname(database).user(user).password(password);
        login
    }

    async fn connect(&self) -> Client {
        connect(&self.login("pgward", "admin", PASSWORD)).await.unwrap()
    }

    fn token(&self, tenant: &str, role: &str, ttl: u64) -> String {
        let settings = config::load(&self.file).unwrap();
        let (tenant, role) = (TenantId::parse(tenant).unwrap(), Access::parse(role).unwrap());
        let ttl = Duration::from_secs(ttl);
        mint(&settings.issuers[0], &tenant, &role, ttl, &serde_json::Map::new(), clock::unix_now()).unwrap()
    }

    async fn ended(self) {
        within("the proxy's end", self.serving).await.unwrap();
    }
}

async fn connect(login: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = login.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// Rows as maps from column to text; NULL is absent.
async fn show(client: &Client, command: &str) -> Vec<BTreeMap<String, String>> {
    let messages = client.simple_query(command).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        let cells = row.columns().iter().enumerate();
        cells.filter_map(|(at, column)| Some((column.name().to_owned(), row.get(at)?.to_owned()))).collect()
    })
    .collect()
}

async fn tenants(client: &Client) -> Vec<String> {
    show(client, "SHOW TENANTS").await.into_iter().map(|row| row["tenant"].clone()).collect()
}

/// SQLSTATE and severity of what went wrong.
fn told(error: &tokio_postgres::Error) -> (String, String) {
    let error = error.as_db_error().unwrap_or_else(|| panic!("not told by the server: {error}"));
    (error.code().code().to_owned(), error.severity().to_owned())
}

/// `None` where psql is not installed.
async fn psql(running: &Running, arguments: &[&str]) -> Option<Output> {
    let mut command = tokio::process::Command::new("psql");
    command.args(["-X", "-w", "-h", "127.0.0.1", "-p", &running.address.port().to_string(), "-U", "admin"]);
    command.args(["-d", "pgward"]).args(arguments).env("PGPASSWORD", PASSWORD).kill_on_drop(true);
    match within("psql's end", command.output()).await {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("psql: {error}"),
    }
}

#[tokio::test]
async fn every_show_answers_by_both_protocols_with_the_same_columns() {
    let running = start(&configuration(&(tenant("zeta") + "suspended = true\n" + &tenant("acme")), 1)).await;
    let console = running.connect().await;
    for what in SHOWS {
        let command = format!("SHOW {what}");
        let simple = console.simple_query(&command).await.unwrap();
        let Some(SimpleQueryMessage::RowDescription(simple)) = simple.first() else { panic!("{what}: no columns") };
        let names: Vec<_> = simple.iter().map(|column| column.name().to_owned()).collect();
        let prepared = console.prepare(&command).await.unwrap();
        assert_eq!(names, prepared.columns().iter().map(|column| column.name()).collect::<Vec<_>>(), "{what}");
    }
    // Prepared, and its numbers in binary.
    let rows = console.query("show tenants", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get("tenant")).collect::<Vec<&str>>(), ["acme", "zeta"]);
    assert_eq!(rows.iter().map(|row| row.get("suspended")).collect::<Vec<&str>>(), ["no", "yes"]);
    assert_eq!(rows[0].get::<_, i64>("transactions"), 0);
    assert_eq!(rows[0].get::<_, f64>("server_seconds"), 0.0);
    assert_eq!(rows[0].get::<_, &str>("isolation"), "database");
    let version = show_row(&console, "show version").await.remove("version").unwrap();
    assert_eq!(version, format!("pgward {}", env!("CARGO_PKG_VERSION")));
    assert!(console.simple_query("").await.is_ok() && console.batch_execute(" ; ").await.is_ok());

    // Columns of the documentation are those that are sent.
    let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/console.md")).unwrap();
    for what in SHOWS {
        let heading = format!("## SHOW {what}\n");
        let section = documented.split_once(&heading).unwrap_or_else(|| panic!("docs/console.md lacks {heading}")).1;
        let section = section.split("\n## ").next().unwrap();
        let names = section.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0));
        let sent = console.prepare(&format!("SHOW {what}")).await.unwrap();
        assert_eq!(names.collect::<Vec<_>>(), sent.columns().iter().map(|c| c.name()).collect::<Vec<_>>(), "{what}");
    }
}

async fn show_row(client: &Client, command: &str) -> BTreeMap<String, String> {
    let mut rows = show(client, command).await;
    assert_eq!(rows.len(), 1, "{command}: {rows:?}");
    rows.remove(0)
}

#[tokio::test]
async fn what_is_no_command_is_refused_and_the_session_goes_on() {
    let running = start(&configuration(&tenant("acme"), 1)).await;
    let console = running.connect().await;
    let simple = console.simple_query("show pools; select 'hidden'").await.unwrap_err();
    let extended = console.prepare("select 'hidden'").await.unwrap_err();
    for error in [&simple, &extended] {
        assert_eq!(told(error), ("42601".to_owned(), "ERROR".to_owned()));
        let hint = error.as_db_error().unwrap().hint().unwrap();
        assert!(hint.contains("SHOW POOLS") && hint.contains("SHUTDOWN"), "{hint}");
        assert!(!format!("{error:?}").contains("hidden"), "{error:?}");
    }
    let several = console.prepare("show pools; show stats").await.unwrap_err();
    assert_eq!(told(&several).0, "42601");
    assert_eq!(tenants(&console).await, ["acme"]);
}

#[tokio::test]
async fn a_wrong_password_or_an_unfit_token_does_not_open_the_console() {
    let running = start(&configuration(&tenant("acme"), 1)).await;
    let app = running.token("acme", "app", 60);
    for (user, password) in [("admin", "wrong"), ("admin", ""), ("nobody", PASSWORD), ("acme", &app)] {
        let refused = connect(&running.login("pgward", user, password)).await.err();
        let Some(error) = refused else { panic!("{user} came in") };
        assert_eq!(told(&error), ("28000".to_owned(), "FATAL".to_owned()), "{user}");
    }
    let operator = running.token("acme", "operator", 60);
    let console = connect(&running.login("pgward", "anyone", &operator)).await.unwrap();
    assert_eq!(tenants(&console).await, ["acme"]);
}

#[tokio::test]
async fn a_console_session_ends_with_its_token() {
    let running = start(&configuration(&tenant("acme"), 1)).await;
    let token = running.token("acme", "operator", 2);
    let login = running.login("pgward", "anyone", &token);
    let (client, connection) = login.connect(NoTls).await.unwrap();
    let error = within("the token's end", connection).await.unwrap_err();
    assert_eq!(told(&error), ("28000".to_owned(), "FATAL".to_owned()));
    drop(client);
}

#[tokio::test]
async fn a_bad_configuration_is_refused_whole_and_a_good_one_takes_effect() {
    let running = start(&configuration(&tenant("acme"), 1)).await;
    let console = running.connect().await;
    let broken = configuration(&(tenant("acme") + &tenant("zeta")), 1)
        .replace("listen.cores = 2", "listen.cores = 0\nlisten.colour = \"red\"");
    std::fs::write(&running.file, broken).unwrap();
    let error = console.simple_query("RELOAD").await.unwrap_err();
    assert_eq!(told(&error), ("F0000".to_owned(), "ERROR".to_owned()));
    let error = error.as_db_error().unwrap();
    let detail = error.detail().unwrap();
    assert!(detail.contains("listen.cores") && detail.contains("listen.colour"), "{detail}");
    assert!(error.message().contains("the old one stays") && error.hint().is_some(), "{error:?}");
    assert_eq!(tenants(&console).await, ["acme"]);

    std::fs::write(&running.file, configuration(&(tenant("acme") + &tenant("zeta")), 1)).unwrap();
    console.simple_query("reload;").await.unwrap();
    assert_eq!(tenants(&console).await, ["acme", "zeta"]);

    // Once more, prepared: a command without rows.
    std::fs::write(&running.file, configuration(&tenant("zeta"), 1)).unwrap();
    assert!(console.query("RELOAD", &[]).await.unwrap().is_empty());
    assert_eq!(tenants(&console).await, ["zeta"]);
}

#[tokio::test]
async fn shutdown_is_answered_and_ends_every_console() {
    let running = start(&configuration(&tenant("acme"), 1)).await;
    let (idle, connection) = running.login("pgward", "admin", PASSWORD).connect(NoTls).await.unwrap();
    let console = running.connect().await;
    let answer = console.simple_query("SHOW VERSION; SHUTDOWN; SHOW VERSION").await.unwrap();
    let completed = answer.iter().filter(|message| matches!(message, SimpleQueryMessage::CommandComplete(_)));
    assert_eq!(completed.count(), 3);
    let error = within("the other console's end", connection).await.unwrap_err();
    assert_eq!(told(&error), ("57P01".to_owned(), "FATAL".to_owned()));
    drop(idle);
    // Well within the drain's 60 s, which it takes when somebody stays.
    running.ended().await;
}

#[tokio::test]
async fn psql_is_served() {
    let running = start(&configuration(&tenant("acme"), 1)).await;
    let Some(first) = psql(&running, &["-At", "-c", "SHOW VERSION"]).await else { return };
    let version = format!("pgward {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(first.stdout).unwrap(), version);
    for what in SHOWS {
        let output = psql(&running, &["-c", &format!("show {};", what.to_lowercase())]).await.unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{what}: {output:?}");
    }
    // Numbers stand to the right, so psql knows that they are numbers.
    let stats = psql(&running, &["-c", "show tenants"]).await.unwrap();
    let text = String::from_utf8(stats.stdout).unwrap();
    assert!(text.lines().any(|line| line.starts_with(" acme") && line.contains("|            0 |")), "{text}");
    let unknown = psql(&running, &["-c", "select 1"]).await.unwrap();
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert!(!unknown.status.success() && said.contains("HINT:  The commands are SHOW VERSION"), "{said}");
    std::fs::write(&running.file, "nonsense").unwrap();
    let refused = psql(&running, &["-c", "RELOAD"]).await.unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("DETAIL:") && said.contains("not valid TOML"), "{said}");
    let shutdown = psql(&running, &["-c", "SHUTDOWN"]).await.unwrap();
    assert!(shutdown.status.success(), "{shutdown:?}");
    assert_eq!(String::from_utf8(shutdown.stdout).unwrap(), "SHUTDOWN\n");
    running.ended().await;
}

// ---------------------------------------------------------------------------------------- with a server

#[tokio::test]
async fn sessions_and_their_backends_are_seen() {
    let cluster = Cluster::builder("seen").start().await.unwrap();
    let server = cluster.primary();
    server.run("postgres", "role", "create role acme login password 'acme'").await.unwrap();
    let own = tenant("acme") + "roles.app = { role = \"acme\", password = \"acme\" }\n";
    let running = start(&configuration(&own, server.port())).await;
    let console = running.connect().await;
    let mut login = running.login("acme", "acme", &running.token("acme", "app", 60));
    let app = connect(login.application_name("billing")).await.unwrap();

    app.batch_execute("begin; select 1").await.unwrap();
    let client = show_row(&console, "SHOW CLIENTS").await;
    assert_eq!(client["type"], "C");
    assert_eq!((client["tenant"].as_str(), client["application_name"].as_str()), ("acme", "billing"));
    assert_eq!((client["state"].as_str(), client["addr"].as_str()), ("idle_in_transaction", "127.0.0.1"));
    let backend = show_row(&console, "SHOW SERVERS").await;
    assert_eq!((backend["state"].as_str(), backend["tenant"].as_str()), ("active", "acme"));
    assert_eq!((&backend["link"], &backend["remote_pid"]), (&client["id"], &client["link"]));
    assert_eq!((backend["port"].clone(), backend["close_needed"].as_str()), (server.port().to_string(), "0"));
    let pool = show_row(&console, "SHOW POOLS").await;
    let numbers = ["cl_active", "cl_waiting", "sv_active", "sv_idle", "maxwait", "max"].map(|name| pool[name].as_str());
    assert_eq!(numbers, ["1", "0", "1", "0", "0", "20"]);
    assert_eq!((pool["database"].as_str(), pool["user"].as_str()), ("postgres", "acme"));
    assert_eq!((pool["cluster"].as_str(), pool["server"].as_str()), ("main", "main-1"));
    let lent = show_row(&console, "SHOW TENANTS").await;
    assert_eq!((lent["clients"].as_str(), lent["leases"].as_str(), lent["suspended"].as_str()), ("1", "1", "no"));

    app.batch_execute("commit").await.unwrap();
    // The backend goes back behind the client's answer, so what follows is awaited.
    let idle = within("the backend's return", async {
        loop {
            let row = show_row(&console, "SHOW SERVERS").await;
            if row["state"] == "idle" {
                return row;
            }
        }
    })
    .await;
    assert_eq!((idle["tenant"].as_str(), idle.get("link")), ("acme", None));
    let stats = show_row(&console, "SHOW STATS").await;
    let number = |name: &str| stats[name].parse::<u64>().unwrap();
    assert!(number("total_xact_count") >= 1 && number("total_xact_time") >= number("avg_xact_time"), "{stats:?}");
    assert_eq!(stats["tenant"], "acme");

    app.batch_execute("create temporary table t (a int)").await.unwrap();
    assert_eq!(show_row(&console, "SHOW CLIENTS").await["pinned"], "temporary_table");
}

// -------------------------------------------------------------------------------------- byte by byte

/// Logged in by hand, behind the first ReadyForQuery.
async fn raw(running: &Running) -> TcpStream {
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let body = b"\0\x03\0\0user\0admin\0database\0pgward\0\0";
    let length = u32::try_from(body.len() + 4).unwrap();
    stream.write_all(&[&length.to_be_bytes(), &body[..]].concat()).await.unwrap();
    stream.write_all(&message(b'p', &[PASSWORD.as_bytes(), b"\0"].concat())).await.unwrap();
    read_until(&mut stream, b"Z\0\0\0\x05I").await;
    stream
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !all.ends_with(end) {
        let read = within("an answer", stream.read_buf(&mut all)).await.unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&all));
    }
    all
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    within("the end", stream.read_to_end(&mut all)).await.unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

/// The types of the messages in an answer.
fn tags(mut answer: &[u8]) -> String {
    let mut tags = String::new();
    while let [tag, a, b, c, d, ..] = *answer {
        tags.push(char::from(tag));
        answer = &answer[u32::from_be_bytes([a, b, c, d]) as usize + 1..];
    }
    tags
}

#[tokio::test]
async fn frames_that_are_not_of_the_protocol_end_the_connection() {
    let running = start(&configuration(&tenant("acme"), 1)).await;
    let query_without_end = message(b'Q', b"SHOW VERSION");
    let cases: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", "08P01"),
        (b"Q\0\0\0\x01", "08P01"),
        (&query_without_end, "08P01"),
        (b"p\0\0\0\x05\0", "08P01"),
        (b"B\0\0\0\x05\0", "08P01"),
        (b"Q\x00\x01\x00\x01", "54000"),
    ];
    for (bytes, code) in cases {
        let mut stream = raw(&running).await;
        stream.write_all(bytes).await.unwrap();
        let said = read_to_end(stream).await;
        assert!(said.contains("SFATAL") && said.contains(code), "{bytes:?}: {said}");
    }
}

#[tokio::test]
async fn an_error_in_a_pipeline_skips_to_its_sync_and_no_further() {
    let running = start(&configuration(&tenant("acme"), 1)).await;
    let mut stream = raw(&running).await;
    let parse = |text: &str| message(b'P', &[b"\0", text.as_bytes(), b"\0\0\0"].concat());
    let bind = || message(b'B', b"\0\0\0\0\0\0\0\0");
    let (execute, sync) = (|| message(b'E', b"\0\0\0\0\0"), || message(b'S', b""));
    let pipeline = [
        parse("SHOW VERSION"),
        bind(),
        execute(),
        message(b'E', b"nowhere\0\0\0\0\0"),
        message(b'Q', b"RELOAD\0"),
        execute(),
        sync(),
        bind(),
        message(b'D', b"P\0"),
        execute(),
        sync(),
    ];
    // A byte at a time: nothing is taken before it is whole.
    for byte in pipeline.concat() {
        stream.write_all(&[byte]).await.unwrap();
    }
    let first = read_until(&mut stream, b"Z\0\0\0\x05I").await;
    let mut all = first;
    while tags(&all).matches('Z').count() < 2 {
        all.extend(read_until(&mut stream, b"Z\0\0\0\x05I").await);
    }
    assert_eq!(tags(&all), "12DCEZ2TDCZ");
}

#[tokio::test]
async fn a_portal_is_fetched_in_portions_and_parameters_are_refused() {
    let running = start(&configuration(&tenant("acme"), 1)).await;
    let mut stream = raw(&running).await;
    let pipeline = [
        message(b'P', b"\0SHOW HELP\0\0\0"),
        message(b'B', b"\0\0\0\0\0\0\0\0"),
        message(b'E', b"\0\0\0\0\x07"),
        message(b'E', b"\0\0\0\0\x07"),
        message(b'E', b"\0\0\0\0\x07"),
        message(b'B', b"\0\0\0\0\0\x01\0\0\0\x01x\0\0"),
        message(b'S', b""),
    ];
    stream.write_all(&pipeline.concat()).await.unwrap();
    let answer = read_until(&mut stream, b"Z\0\0\0\x05I").await;
    assert_eq!(tags(&answer), "12DDDDDDDsDDDDDDCCEZ");
    assert!(String::from_utf8_lossy(&answer).contains("take no parameters"));
}
