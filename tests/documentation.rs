//! The tables in docs/ say what the code does: metrics as they are scraped, errors as they are written in
//! the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgward::auth::mint;
use pgward::base::{Access, TenantId, clock};
use pgward::config;
use pgward::proxy::Proxy;
use pgward::telemetry::{CoreStats, Telemetry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of every row of every table, without heads and rules.
fn tables(markdown: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let lines: Vec<&str> = markdown.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let head = lines.get(at + 1).is_some_and(|next| next.starts_with("|---"));
        if line.starts_with("| ") && !head {
            let cells = line.trim_matches('|').split('|');
            rows.push(cells.map(|cell| cell.trim().to_owned()).collect());
        }
    }
    rows
}

/// What stands between backticks.
fn codes(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The string literals of Rust source, as they would be printed.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find('"') {
        let (literal, after) = literal(&rest[start..]).expect("a string that ends");
        found.push(literal);
        rest = after;
    }
    found
}

/// A string literal at the start of `source`, and what follows it.
fn literal(source: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut chars = source.strip_prefix('"')?.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((text, &source[at + 2..])),
            '\\' => match chars.next()?.1 {
                'n' => text.push('\n'),
                // A line that goes on.
                '\n' => {
                    let blank = chars.clone().take_while(|(_, c)| c.is_whitespace()).count();
                    for _ in 0..blank {
                        chars.next();
                    }
                }
                other => text.push(other),
            },
            c => text.push(c),
        }
    }
    None
}

/// Source up to its tests.
fn code(source: &str) -> &str {
    source.split("#[cfg(test)]").next().unwrap_or_default()
}

// ----------------------------------------------------------------------------------------- metrics

/// Type and label names.
type Metric = (String, BTreeSet<String>);

fn documented_metrics() -> BTreeMap<String, Metric> {
    let rows = tables(&read("docs/metrics.md")).into_iter().filter(|row| row[0].starts_with("`pgward_"));
    rows.map(|row| (row[0].trim_matches('`').to_owned(), (row[1].clone(), codes(&row[2])))).collect()
}

/// The families of a Prometheus text.
fn families(text: &str) -> BTreeMap<String, Metric> {
    let mut found = BTreeMap::<String, Metric>::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            found.entry(name.to_owned()).or_default().0 = kind.to_owned();
        } else if let Some((sample, labels)) = line.split_once('{')
            && !line.starts_with('#')
        {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.strip_suffix(end));
            let name = name.filter(|name| found.contains_key(*name)).unwrap_or(sample);
            let names = labels.split("=\"").filter_map(|part| part.rsplit(['{', ',', '"']).next());
            let names = names.filter(|name| !name.is_empty() && *name != "le" && !name.starts_with('}'));
            found.get_mut(name).unwrap_or_else(|| panic!("{line}: no TYPE")).1.extend(names.map(str::to_owned));
        }
    }
    found
}

/// The metrics of a core that has seen everything, and those of a proxy that is asked over HTTP.
async fn scraped() -> BTreeMap<String, Metric> {
    let (telemetry, stats) = (Telemetry::new(), CoreStats::default());
    let CoreStats { transactions, bytes_from_clients, bytes_to_clients, contexts, tenant_switches, .. } = &stats;
    let CoreStats { handovers_failed, waits, recovered, paced, moved, cancels, .. } = &stats;
    for counter in [transactions, bytes_from_clients, bytes_to_clients, contexts, tenant_switches, paced] {
        counter.set(1);
    }
    let CoreStats { replica_transactions, replica_retries, replica_waits, .. } = &stats;
    for counter in
        [handovers_failed, waits, recovered, moved, cancels, replica_transactions, replica_retries, replica_waits]
    {
        counter.set(1);
    }
    for timings in [&stats.transaction_time, &stats.wait_time, &stats.login_time] {
        timings.record(Duration::from_millis(1));
    }
    stats.error(b"28000");
    stats.login("ok");
    stats.pin("listen");
    telemetry.flush(&stats);
    for name in ["pgward_partitions_made_total", "pgward_partitions_dropped_total", "pgward_rows_expired_total"] {
        telemetry.count(name, &[("cluster", "main"), ("table", "events")], 1);
    }
    telemetry.count("pgward_backup_failures_total", &[("cluster", "main")], 1);
    let mut found = families(&telemetry.render());
    found.extend(families(&over_http().await));
    found
}

/// Of a proxy at which somebody tried to log in, so that it has a pool.
async fn over_http() -> String {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
        listen.address = "127.0.0.1:0"
        listen.cores = 1
        audit.file = "audit.jsonl"
        backup.directory = "backup"
        region = "lk"
        http.address = "127.0.0.1:0"
        master_key = "0123456789abcdef0123456789abcdef"
        [[issuers]]
        issuer = "test"
        audience = "pgward"
        algorithms = ["HS256"]
        secret = "abcdef0123456789abcdef0123456789"
        [issuers.signing]
        algorithm = "HS256"
        key = "abcdef0123456789abcdef0123456789"
        [clusters.main]
        tls.mode = "off"
        servers = [{ name = "main-1", host = "127.0.0.1", port = 1, region = "lk", data_directory = "/nowhere" }]
        repositories.near = { region = "lk", path = "near", encrypted = false }
        backup.receive_wal = "received"
        partitions.events = { database = "app", table = "public.events", column = "at" }
        [catalogue]
        cluster = "main"
        database = "pgward"
        [clusters.other]
        service = "pgward_service"
        patroni = { urls = "http://127.0.0.1:1", region = "lk" }
        [tenants.acme]
        isolation = "database"
        cluster = "main"
        database = "acme"
        home = "lk"
    "#;
    let settings = config::Draft::new(text, folder.path()).with_catalogue(&Default::default()).unwrap();
    let (tenant, role) = (TenantId::parse("acme").unwrap(), Access::parse("app").unwrap());
    let (ttl, none) = (Duration::from_secs(60), serde_json::Map::new());
    let token = mint(&settings.issuers[0], &tenant, &role, ttl, &none, clock::unix_now()).unwrap();
    let proxy = Proxy::start(PathBuf::from("none"), settings).await.unwrap();
    let mut login = tokio_postgres::Config::new();
    login.host("127.0.0.1").port(proxy.addresses[0].port()).dbname("acme").user("acme").password(token);
    let refused = login.connect(tokio_postgres::NoTls).await.err().expect("nobody listens on port 1");
    assert_eq!(refused.code().map(|code| code.code()), Some("08006"), "{refused}");
    let mut answer = String::new();
    // Once it has begun to keep backups and partitions.
    let late = ["pgward_maintenance_success_timestamp_seconds{", "pgward_backup_failing{", "pgward_wal_receiving{"];
    while late.iter().any(|name| !answer.contains(name)) {
        answer.clear();
        let mut http = tokio::net::TcpStream::connect(proxy.http.unwrap()).await.unwrap();
        http.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        http.read_to_string(&mut answer).await.unwrap();
    }
    proxy.shutdown().await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

#[tokio::test]
async fn every_metric_is_documented_with_its_type_and_its_labels() {
    let documented = documented_metrics();
    let scraped = scraped().await;
    for (name, metric) in &scraped {
        assert_eq!(documented.get(name), Some(metric), "{name} in docs/metrics.md (left) and as scraped (right)");
    }
    let gone: Vec<&String> = documented.keys().filter(|name| !scraped.contains_key(*name)).collect();
    assert!(gone.is_empty(), "docs/metrics.md has what nobody scrapes: {gone:?}");
    // And nothing was missed because this test did not make it happen.
    for file in [
        "src/telemetry/metrics.rs",
        "src/admin/http.rs",
        "src/sidecar/maintenance/board.rs",
        "src/sidecar/maintenance/keep.rs",
        "src/sidecar/backup/gauges.rs",
    ] {
        for name in literals(code(&read(file))).iter().filter(|literal| literal.starts_with("pgward_")) {
            assert!(documented.contains_key(name), "docs/metrics.md lacks {name} of {file}");
        }
    }
}

#[test]
fn every_outcome_and_every_reason_is_documented() {
    let documented: BTreeSet<String> = tables(&read("docs/metrics.md")).iter().flat_map(|row| codes(&row[0])).collect();
    let mut used = BTreeSet::new();
    for (_, source) in sources("src/session") {
        for call in ["stats.login(\"", "refused(\""] {
            let values = source.split(call).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
            used.extend(values);
        }
    }
    let labels = |file: &str, function: &str| {
        let source = read(file);
        let body = source.split(function).nth(1).unwrap().split("\n    }\n").next().unwrap().to_owned();
        literals(&body)
    };
    used.extend(labels("src/auth/error.rs", "fn outcome("));
    used.extend(labels("src/sql/facts.rs", "fn label("));
    assert!(used.len() > 25, "{used:?}");
    let missing: Vec<&String> = used.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/metrics.md lacks the outcomes or reasons {missing:?}");
}

// ------------------------------------------------------------------------------------------- audit

#[test]
fn every_event_member_and_reason_of_the_audit_log_is_documented() {
    let documented: BTreeSet<String> = tables(&read("docs/audit.md")).iter().flat_map(|row| codes(&row[0])).collect();
    let event = read("src/audit/event.rs");
    let body = event.split("fn name(").nth(1).unwrap().split("\n    }\n").next().unwrap().to_owned();
    let mut used: BTreeSet<String> = literals(&body).into_iter().collect();
    assert!(used.len() > 10, "{used:?}");
    let members = event.split("struct Members").nth(1).unwrap().split("\n}\n").next().unwrap();
    let members = members.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next());
    used.extend(members.map(str::to_owned));
    let between = |source: &str, before: &str| -> Vec<String> {
        source.split(before).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    for before in ["event: \"", "opening: Some(\"", "opening.or(Some(\""] {
        used.extend(between(code(&read("src/audit/writer.rs")), before));
    }
    for folder in ["src/session", "src/admin/console"] {
        for (_, source) in sources(folder) {
            for before in ["because(\"", "reason: \"", "stay.ends(\"", "_REGION: &str = \"", "refused(\""] {
                used.extend(between(&source, before));
            }
        }
    }
    let outcomes = read("src/auth/error.rs");
    used.extend(literals(outcomes.split("fn outcome(").nth(1).unwrap().split("\n    }\n").next().unwrap()));
    assert!(used.len() > 70, "{used:?}");
    let missing: Vec<&String> = used.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/audit.md lacks {missing:?}");
}

// ------------------------------------------------------------------------------------------ errors

/// The code of each file below a folder, by path.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.map(|path| (path.display().to_string(), code(&read(&path)).to_owned())).collect()
}

/// `{...}` and what it stands for are `…`.
fn pattern(format: &str) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('{') {
        out = out + before + "…";
        rest = after.split_once('}').unwrap().1;
    }
    out + rest
}

#[derive(Debug)]
struct Reported {
    at: String,
    severity: &'static str,
    /// Not known where the code is chosen elsewhere.
    sqlstate: Option<String>,
    message: String,
}

/// `Report::fatal(SqlState::X, "..." or format!("...")` in a source text.
fn reported(path: &str, source: &str, codes: &BTreeMap<String, String>) -> Vec<Reported> {
    let mut found = Vec::new();
    for (call, severity) in [("Report::fatal(", "FATAL"), ("Report::error(", "ERROR")] {
        for (at, _) in source.match_indices(call) {
            let arguments = source[at + call.len()..].trim_start();
            let (state, message) = arguments.split_once(',').unwrap();
            let message = message.trim_start();
            let message = message.strip_prefix("format!(").unwrap_or(message).trim_start();
            let Some((message, _)) = literal(message) else { continue };
            let line = source[..at].lines().count();
            let sqlstate = state.strip_prefix("SqlState::").map(|name| codes[name].clone());
            found.push(Reported { at: format!("{path}:{line}"), severity, sqlstate, message: pattern(&message) });
        }
    }
    found
}

/// SQLSTATE by the name of its constant.
fn sqlstates() -> BTreeMap<String, String> {
    let source = read("src/base/sqlstate.rs");
    let constants = source.lines().filter_map(|line| line.trim().strip_prefix("pub const "));
    let constants = constants.filter_map(|line| Some((line.split_once(": Self")?.0, line.split('"').nth(1)?)));
    constants.map(|(name, code)| (name.to_owned(), code.to_owned())).collect()
}

#[test]
fn every_error_is_documented_with_its_sqlstate_and_severity() {
    let codes = sqlstates();
    let mut all = Vec::new();
    for folder in ["src/session", "src/admin/console"] {
        for (path, source) in sources(folder) {
            all.extend(reported(&path, &source, &codes));
        }
    }
    // Those whose words are an error's own.
    for file in ["src/wire/startup.rs", "src/wire/frame.rs"] {
        let source = read(file);
        for after in code(&source).split("#[error(").skip(1) {
            let (message, _) = literal(after).unwrap();
            all.push(Reported { at: file.to_owned(), severity: "FATAL", sqlstate: None, message: pattern(&message) });
        }
    }
    assert!(all.len() > 40, "{all:#?}");

    let documented: Vec<Vec<String>> = tables(&read("docs/errors.md"));
    let message = |row: &[String]| row[2].trim_matches('`').to_owned();
    for error in &all {
        let row = documented.iter().find(|row| message(row) == error.message);
        let row = row.unwrap_or_else(|| panic!("docs/errors.md lacks what {} says: {error:?}", error.at));
        assert!(error.sqlstate.as_ref().is_none_or(|code| row[0].contains(code)), "{row:?} of {error:?}");
        assert!(row[1].contains(error.severity), "{row:?} of {error:?}");
    }
    for row in &documented {
        assert!(row.len() == 5 && row.iter().all(|cell| !cell.is_empty()), "docs/errors.md: {row:?}");
        assert!(row[0].split(", ").all(|code| codes.values().any(|known| known == code)), "docs/errors.md: {row:?}");
        let known = all.iter().any(|error| error.message == message(row));
        assert!(known, "docs/errors.md has what nobody says: {row:?}");
    }
}

// ------------------------------------------------------------------------------------------ doctor

#[test]
fn every_rule_of_the_doctor_is_documented_as_it_is() {
    let rows = tables(&read("docs/doctor.md")).into_iter().filter(|row| row[0].starts_with('`'));
    let documented: Vec<Vec<String>> = rows.collect();
    let row = |rule: &&pgward::doctor::Rule| {
        vec![format!("`{}`", rule.id), rule.severity.as_str().to_owned(), rule.finds.to_owned()]
    };
    let known: Vec<Vec<String>> = pgward::doctor::rules().iter().map(row).collect();
    assert_eq!(documented, known, "docs/doctor.md (left) and the rules in src/doctor/rules (right)");
}
