//! What the user is told: variables for shells, and lines to paste.

use super::super::failure::Failure;
use super::folder::DemoFolder;
use super::stage::Stage;

pub(super) type Variables = Vec<(&'static str, String)>;

pub(super) fn variables(stage: &Stage) -> Result<Variables, Failure> {
    let ports = stage.proxy.ports;
    let replica = stage.colombo.replicas().first().map(|server| server.url_of("app"));
    Ok(vec![
        ("URL_ACME", stage.url("acme", "app", "app")?),
        ("URL_GLOBEX", stage.url("globex", "app", "app")?),
        ("URL_ACME_READONLY", stage.url("acme", "readonly", "app")?),
        ("URL_KANDY", stage.url("kandy", "app", "app")?),
        ("URL_PUNE", stage.url("pune", "app", "pune")?),
        ("URL_ADMIN", format!("postgresql://admin:{}@127.0.0.1:{}/pgward", stage.console_password, ports.postgres)),
        ("HTTP_ADMIN", format!("http://127.0.0.1:{}", ports.http)),
        ("COLOMBO_PRIMARY", stage.colombo.primary().url_of("app")),
        ("COLOMBO_REPLICA", replica.unwrap_or_default()),
        ("MUMBAI_PRIMARY", stage.mumbai.primary().url_of("pune")),
        ("PGWARD_BIN", stage.proxy.binary.display().to_string()),
        ("PGWARD_CONFIG", stage.proxy.config.display().to_string()),
        ("PGWARD_PID", stage.proxy.pid.to_string()),
    ])
}

/// Commands and what each should show.
const TRY: [(&str, &str); 11] = [
    ("psql \"$URL_ACME\" -c 'select count(*) from orders'", "100, without any WHERE"),
    ("psql \"$URL_ACME\" -c 'select distinct tenant_id from orders'", "acme, and nobody else"),
    ("psql \"$URL_ACME\" -c \"select count(*) from orders where tenant_id = 'globex'\"", "0"),
    ("psql \"$URL_ACME\" -c \"insert into orders (item, amount) values ('tea', 9.5) returning *\"", "a row of acme's"),
    ("psql \"$URL_GLOBEX\" -c \"select count(*) from orders where item = 'tea'\"", "0: it is acme's"),
    ("psql \"$URL_ACME_READONLY\" -c 'delete from orders'", "ERROR: permission denied"),
    ("psql \"$URL_KANDY\" -c 'select count(*) from orders'", "100, from a schema of its own"),
    ("psql \"$URL_PUNE\" -c 'select count(*) from orders'", "100, from a database of its own in Mumbai"),
    ("psql \"$URL_ADMIN\" -c 'show pools'", "pgward's console: its pools"),
    ("export PGWARD_CONFIG; \"$PGWARD_BIN\" backup run --cluster colombo", "a backup of all of a cluster"),
    ("\"$PGWARD_BIN\" backup verify --cluster colombo", "restored aside, and compared with what is there"),
];

pub(super) fn text(stage: &Stage, folder: &DemoFolder) -> String {
    let ports = stage.proxy.ports;
    let mut text = format!(
        "\nReady: pgward listens on 127.0.0.1:{}, its metrics are at http://127.0.0.1:{}/metrics.\n\
         In another terminal, paste:\n\n  . '{}'\n",
        ports.postgres,
        ports.http,
        folder.file("env").display().to_string().replace('\'', "'\\''")
    );
    for (command, shows) in TRY {
        text.push_str(&format!("  {command}   # {shows}\n"));
    }
    text.push_str(&format!("\nLogs are in {}. Ctrl-C stops everything.", folder.path().display()));
    text
}
