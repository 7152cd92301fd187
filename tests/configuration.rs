//! The files in conf/ are good and complete, and a bad file is answered with everything wrong with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgward::config::{self, PoolMode, Problem, Settings};
use pgward::local::Authority;

/// A copy of conf/ with every secret that its files name.
fn conf() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root("conf")).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let secrets = folder.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    let authority = Authority::new("test").unwrap();
    let (server, client) = (authority.server(&["localhost"]).unwrap(), authority.client("pgward").unwrap());
    let key = rcgen::KeyPair::generate().unwrap();
    let random = "0123456789abcdef".repeat(4);
    let files = [
        ("ca.crt", authority.pem()),
        ("server.crt", server.certificate),
        ("server.key", server.key),
        ("client.crt", client.certificate),
        ("client.key", client.key),
        ("signing.pem", key.serialize_pem()),
        ("signing.pub.pem", key.public_key_pem()),
        ("jwks.json", "{ \"keys\": [] }".to_owned()),
        ("users.txt", "\"app\" \"a password\"\n".to_owned()),
    ];
    let passwords = ["admin.password", "console.password", "lookup.password", "ledger.password", "reporter.password"];
    let keys = ["master.key", "context.key", "audit.key", "legacy.secret", "backup.key", "s3.key", "s3.secret"]
        .into_iter()
        .chain(passwords);
    for (name, text) in files.into_iter().chain(keys.map(|name| (name, random.clone()))) {
        fs::write(secrets.join(name), text).unwrap();
    }
    folder
}

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn load(path: &Path) -> Settings {
    config::load(path).unwrap_or_else(|problems| panic!("{}:\n{}", path.display(), lines(&problems)))
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// The problems of the minimal configuration after some text was replaced or added.
fn problems(change: impl Fn(&str) -> String) -> Vec<Problem> {
    let folder = conf();
    let text = fs::read_to_string(folder.path().join("minimal.toml")).unwrap();
    config::parse(&change(&text), folder.path()).err().unwrap_or_default()
}

#[test]
fn the_reference_and_the_minimal_file_are_good() {
    let folder = conf();
    let minimal = load(&folder.path().join("minimal.toml"));
    assert_eq!((minimal.clusters.len(), minimal.tenants.len()), (1, 1));
    let reference = load(&folder.path().join("pgward.toml"));
    assert_eq!((reference.clusters.len(), reference.tenants.len(), reference.issuers.len()), (3, 4, 4));
    let plain = load(&folder.path().join("plain-pool.toml"));
    assert_eq!((plain.tenants.len(), plain.issuers.len(), plain.plain.users.len()), (0, 0, 1));
    assert_eq!(plain.plain.databases["reports"].mode, PoolMode::Session);
    assert!(plain.plain.any.is_some_and(|any| any.login.is_none() && any.database.is_none()));
}

/// Values that the reference calls defaults are the defaults.
#[test]
fn what_the_reference_calls_a_default_is_one() {
    let folder = conf();
    let minimal = load(&folder.path().join("minimal.toml"));
    let reference = load(&folder.path().join("pgward.toml"));
    assert_eq!(minimal.session, reference.session);
    assert_eq!(minimal.pool, reference.pool);
    assert_eq!(minimal.maintenance, reference.maintenance);
    assert_eq!(minimal.log, reference.log);
    let only = format!(
        "{}\n[audit]\nfile = \"audit/pgward.jsonl\"\n",
        fs::read_to_string(folder.path().join("minimal.toml")).unwrap()
    );
    let least = config::parse(&only, folder.path()).unwrap_or_else(|problems| panic!("{}", lines(&problems))).audit;
    assert_eq!(
        least.map(|audit| config::Audit { key: None, ..audit }),
        reference.audit.clone().map(|audit| config::Audit { key: None, ..audit })
    );
    assert_eq!(minimal.console.database, reference.console.database);
    assert_eq!(minimal.listen.max_clients, reference.listen.max_clients);
    assert_eq!(minimal.listen.startup_timeout, reference.listen.startup_timeout);
    assert_eq!(minimal.listen.drain_timeout, reference.listen.drain_timeout);
    assert_eq!(minimal.issuers[0].leeway, reference.issuers[0].leeway);
    let limits = |settings: &Settings, id: &str| settings.tenants.get(id).unwrap().limits;
    assert_eq!(limits(&minimal, "acme"), limits(&reference, "globex"));
    let plain = load(&folder.path().join("plain-pool.toml")).plain;
    assert_eq!(plain.lookup.unwrap().query, reference.plain.lookup.as_ref().unwrap().query);
    assert_eq!(Duration::from_secs(10), reference.plain.lookup.unwrap().cache);
    assert_eq!(plain.any.unwrap().mode, reference.plain.databases["ledger"].mode);
}

#[test]
fn the_catalogue_that_the_reference_shows_is_good_and_its_defaults_are_so() {
    let folder = conf();
    let reference = fs::read_to_string(root("conf/pgward.toml")).unwrap();
    let parsed = |text: &str| {
        let parsed = config::Draft::new(text, folder.path()).with_catalogue(&Default::default());
        parsed.unwrap_or_else(|problems| panic!("{}", lines(&problems))).catalogue.unwrap()
    };
    let shown = with_catalogue(&reference);
    let whole = parsed(&shown);
    assert_eq!((whole.database.as_str(), whole.login.role.as_str()), ("pgward", "pgward_catalogue"));
    assert_eq!(whole.cache, Some(folder.path().join("catalogue.json")));
    let least = parsed(&shown.replace("login = \"pgward_catalogue\"\n", "").replace("poll = \"30s\"\n", ""));
    assert_eq!((least.poll, least.login.role.as_str()), (whole.poll, "pgward_service"));
    assert_eq!(least.poll, Duration::from_secs(30));
}

/// How the reader asks for a key; the key is the first literal among the arguments.
const ASKING: [&str; 12] = [
    "take",
    "require",
    "optional",
    "required",
    "number",
    "duration",
    "size",
    "choice",
    "section",
    "entries",
    "claim_path",
    "file",
];

/// The keys that a source file of the reader asks for.
fn keys_asked_for(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let mut keys = Vec::new();
    for callee in ASKING {
        for (at, _) in source.match_indices(callee) {
            let whole_word = source[..at].ends_with(['.', ' ', '(', '|']);
            let rest = &source[at + callee.len()..];
            let rest = rest.strip_prefix("::<").and_then(|rest| rest.split_once(">(")).map_or(rest, |(_, rest)| rest);
            let arguments = rest.strip_prefix('(').unwrap_or(rest);
            let Some((before, literal)) = arguments.split_once('"') else { continue };
            let plain = |c: char| c.is_ascii_alphanumeric() || c.is_whitespace() || "_&,".contains(c);
            let key = literal.split('"').next().unwrap();
            let word = |c: char| c.is_ascii_lowercase() || c == '_';
            if whole_word && before.chars().all(plain) && !key.is_empty() && key.chars().all(word) {
                keys.push(key.to_owned());
            }
        }
    }
    keys
}

/// The reference with the catalogue instead of the tenants file, and as it was read.
fn with_catalogue(reference: &str) -> String {
    let (before, block) = reference.split_once("#[catalogue]").expect("a catalogue that is commented out");
    let (block, after) = block.split_once("\n\n").unwrap();
    let block = block.replace("\n#", "\n").replace("\n ", "\n# ");
    format!("{}[catalogue]{block}\n\n{after}", before.replace("tenants_file = ", "#"))
}

/// Whether a line of the reference sets the key; a commented one counts for `env` alone, since a test
/// cannot count on a variable.
fn sets(line: &str, key: &str) -> bool {
    if let Some(heading) = line.strip_prefix('[') {
        return heading.trim_matches(['[', ']']).split('.').any(|part| part == key);
    }
    let line = if key == "env" { line } else { line.split('#').next().unwrap() };
    line.match_indices(&format!("{key} =")).any(|(at, _)| at == 0 || line[..at].ends_with(' '))
}

#[test]
fn the_reference_names_every_key_that_the_reader_knows() {
    let reference = fs::read_to_string(root("conf/pgward.toml")).unwrap();
    let reference = format!("{reference}{}", with_catalogue(&reference));
    let sources = fs::read_dir(root("src/config")).unwrap().flatten();
    let mut known: Vec<String> =
        sources.flat_map(|entry| keys_asked_for(&fs::read_to_string(entry.path()).unwrap())).collect();
    known.sort();
    known.dedup();
    assert!(known.len() > 60, "only {} keys were found in the reader: {known:?}", known.len());
    let missing: Vec<&String> = known.iter().filter(|key| !reference.lines().any(|line| sets(line, key))).collect();
    assert!(missing.is_empty(), "conf/pgward.toml does not show these keys: {missing:?}");
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_near_one() {
    let found = problems(|text| format!("{text}\n[pool]\nmax_per_logn = 5\n"));
    assert_eq!(found.len(), 1, "{}", lines(&found));
    let said = found[0].to_string();
    assert!(said.contains("pool.max_per_logn") && said.contains("did you mean max_per_login?"), "{said}");
}

const WRONG: &str = r#"
mastr_key = "this-is-the-secret-of-the-misspelt-key"
master_key = "short-master-secret"

[listen]
address = "nowhere"
cores = 0
drain_timeout = "soon"

[http]
address = 9930

[log]
format = "xml"

[context]
active = "k9"
keys.k1 = "short-context-secret"
settings.search_path = "public"

[[issuers]]
issuer = "x"
audience = "pgward"
algorithms = ["none"]
secret = "short-hmac-secret"
claims.tenant = "tenant"

[console.users]
admin = ["console-secret-in-a-list"]

[pool]
max_per_login = -1

[clusters.main]
logins.app = { role = "pgward_app", password = ["login-secret-in-a-list"] }
servers = [{ name = "a", region = "lk", role = "boss" }]
patroni = { urls = "ftp://me:secret-of-the-url@db1", key = "k" }

[tenants."ac me"]
isolation = "row"
"#;

#[test]
fn every_mistake_is_named_at_once_and_no_secret_is_echoed() {
    let found = config::parse(WRONG, Path::new(".")).unwrap_err();
    let said = lines(&found);
    let paths = [
        "mastr_key",
        "master_key",
        "listen.address",
        "listen.cores",
        "listen.drain_timeout",
        "http.address",
        "log.format",
        "context.active",
        "context.keys.k1",
        "context.settings.search_path",
        "issuers[0].algorithms",
        "issuers[0].secret",
        "issuers[0].claims.tenant",
        "console.users.admin",
        "pool.max_per_login",
        "clusters.main.logins.app.password",
        "clusters.main.servers[0].host",
        "clusters.main.servers[0].role",
        "clusters.main.patroni",
        "clusters.main.patroni.urls",
        "tenants.ac me",
    ];
    for path in paths {
        assert!(found.iter().any(|problem| problem.path == path), "nothing is said about {path}:\n{said}");
    }
    for secret in
        ["this-is-the-secret", "secret-of-the-url", "-master-secret", "-context-secret", "-hmac-secret", "-in-a-list"]
    {
        assert!(!said.contains(secret), "{secret} was echoed:\n{said}");
    }
}

/// The plain file after some text was replaced.
fn plain_problems(from: &str, to: &str) -> String {
    let folder = conf();
    let text = fs::read_to_string(folder.path().join("plain-pool.toml")).unwrap();
    assert!(text.contains(from), "{from}");
    lines(&config::parse(&text.replacen(from, to, 1), folder.path()).err().unwrap_or_default())
}

const TENANT: &str = "
context.keys.k1 = \"0123456789abcdef0123456789abcdef\"
[tenants.acme]
cluster = \"main\"
database = \"books\"
home = \"here\"
[[issuers]]
issuer = \"x\"
audience = \"pgward\"
algorithms = [\"HS256\"]
secret = \"0123456789abcdef0123456789abcdef\"
";

#[test]
fn what_is_wrong_with_plain_databases_is_named() {
    let first = "[plain]\n";
    for (from, to, said) in [
        ("users_file = \"secrets/users.txt\"", "users_file = \"secrets/gone.txt\"", "plain.users_file"),
        ("mode = \"session\"", "mode = \"statement\"", "must be one of transaction, session"),
        ("cluster = \"main\"", "cluster = \"mainly\"", "plain.lookup.cluster = mainly: is not among the clusters"),
        ("[plain.databases.reports]", "[plain.databases.pgward]", "plain.databases.pgward: is the console's database"),
        ("login = { role = \"reporter\"", "login = { roll = \"reporter\"", "did you mean role?"),
        (
            "login = { role = \"pgward_lookup\", password = { file = \"secrets/lookup.password\" } }",
            "",
            "plain.lookup.login: is missing",
        ),
        (", password = { file = \"secrets/reporter.password\" }", "", "master_key: is missing"),
        (first, "[plain]\nuser_file = \"x\"\n", "did you mean users_file?"),
    ] {
        let found = plain_problems(from, to);
        assert!(found.contains(said), "{to}: {found:?}");
    }
    let tenant = |name: &str, login: &str| {
        let named = format!("[plain.databases.{name}]\ncluster = \"main\"\n{login}[plain.databases.reports]");
        let folder = conf();
        let text = fs::read_to_string(folder.path().join("plain-pool.toml")).unwrap();
        let text = text.replace(
            "tls = { mode = \"require\" }",
            "tls = { mode = \"require\" }\nlogins = { app = { role = \"pgward_app\", password = \"x\" } }",
        );
        let tenant = TENANT.split_once("[tenants").unwrap();
        let text = format!("{}{text}\n[tenants{}", tenant.0, tenant.1).replace("[plain.databases.reports]", &named);
        lines(&config::parse(&text, folder.path()).err().unwrap_or_default())
    };
    for name in ["acme", "books"] {
        let found = tenant(name, "");
        assert!(found.contains(&format!("plain.databases.{name}: is where clients of tenant acme log in")), "{found}");
    }
    assert_eq!(tenant("other", ""), "");
    let found = tenant("other", "login = { role = \"pgward_app\", password = \"x\" }\n");
    assert!(found.contains("plain.databases.other.login = pgward_app: is also a login of tenants"), "{found}");
}

#[test]
fn neither_tenants_nor_plain_databases_is_a_problem() {
    let found = lines(&config::parse("listen.address = \"127.0.0.1:0\"", Path::new(".")).unwrap_err());
    assert!(found.contains("issuers: is empty"), "{found}");
    let found = lines(&config::parse("listen.address = \"127.0.0.1:0\"\n[plain]", Path::new(".")).unwrap_err());
    assert!(found.contains("plain.databases: is empty") && found.contains("plain: has neither"), "{found}");
}

#[test]
fn an_audit_log_is_asked_for_with_its_limits() {
    let said = |audit: &str| lines(&problems(|text| format!("{text}\n[audit]\n{audit}")));
    assert_eq!(said("file = \"a\"\nrotate_size = 4096\non_failure = \"drop\""), "");
    for (audit, expected) in [
        ("", "audit.file: is missing"),
        ("file = \"a\"\nkey = \"short-secret\"", "audit.key: is shorter than 32 bytes"),
        ("file = \"a\"\nrotate_size = \"1MB\"", "audit.rotate_size = \"1MB\": must be a size from 4KiB to 64GiB"),
        ("file = \"a\"\nrotate_size = 4095", "audit.rotate_size = 4095"),
        ("file = \"a\"\non_failure = \"ignore\"", "must be one of refuse, drop"),
        ("file = \"a\"\nbuffer = 0", "audit.buffer"),
        ("file = \"a\"\nkeep = -1", "audit.keep"),
        ("files = \"a\"", "did you mean file?"),
    ] {
        let found = said(audit);
        assert!(found.contains(expected) && !found.contains("short-secret"), "{audit}: {found}");
    }
    let unkept = lines(&problems(|text| text.replace("[tenants.acme]", "[tenants.acme]\naudit = \"statements\"")));
    assert!(unkept.contains("tenants.acme.audit: asks for an audit of statements"), "{unkept}");
    let unkept = plain_problems("[plain.databases.reports]", "[plain.databases.reports]\naudit = \"statements\"");
    assert!(unkept.contains("plain.databases.reports.audit: asks for"), "{unkept}");
}

#[test]
fn broken_toml_is_named_without_quoting_the_line() {
    let found = problems(|_| "master_key = \"a-secret-in-a-broken-line".to_owned());
    let said = lines(&found);
    assert!(found.len() == 1 && !said.contains("a-secret"), "{said}");
}

fn check(path: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pgward")).arg("check").arg(path).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_prints_a_line_for_each_problem_and_a_summary_of_a_good_file() {
    let folder = conf();
    let (code, said, _) = check(&folder.path().join("pgward.toml"));
    assert_eq!(code, Some(0));
    for part in ["cluster colombo: colombo-1 in lk", "2 at level rows", "1 at level schema", "issuer legacy"] {
        assert!(said.contains(part), "{part} is missing:\n{said}");
    }
    let wrong = folder.path().join("wrong.toml");
    fs::write(&wrong, WRONG).unwrap();
    let (code, said, error) = check(&wrong);
    assert_eq!(code, Some(1));
    assert!(said.lines().count() >= 12, "{said}");
    assert!(error.contains(&format!("has {} problems", said.lines().count())), "{error}");
    let (code, said, _) = check(Path::new("/nonexistent/pgward.toml"));
    assert!(code == Some(1) && said.contains("cannot be read"), "{said}");
}
