//! What is wrong with partitions in a configuration is named.

use std::path::Path;

use pgward::config;

const GOOD: &str = r#"
listen.address = "127.0.0.1:0"
master_key = "0123456789abcdef0123456789abcdef"
context.keys.k1 = "fedcba9876543210fedcba9876543210"
[[issuers]]
issuer = "tests"
audience = "pgward"
algorithms = ["HS256"]
secret = "0123456789abcdef0123456789abcdef"
[classes.gold]
retention = "1d"
[clusters.main]
logins.app = "app"
servers = [{ name = "main-1", host = "127.0.0.1", region = "lk" }]
[clusters.main.partitions.events]
database = "app"
table = "public.events"
column = "at"
[clusters.main.partitions.log]
table = "*.log"
column = "at"
[tenants.acme]
class = "gold"
cluster = "main"
database = "app"
home = "lk"
[tenants.kandy]
isolation = "schema"
cluster = "main"
database = "app"
home = "lk"
"#;

fn problems(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    match config::parse(&GOOD.replace(from, to), Path::new(".")) {
        Ok(_) => String::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn the_login_has_a_default_and_classes_are_looked_up() {
    let settings = config::parse(GOOD, Path::new(".")).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let upkeep = &settings.clusters.values().next().unwrap().upkeep;
    assert_eq!(upkeep.login.as_ref().map(|login| login.role.as_str()), Some("pgward_maintenance"));
    assert_eq!(upkeep.partitions.len(), 2);
}

#[test]
fn each_mistake_is_named() {
    for (from, to, said) in [
        ("class = \"gold\"", "class = \"silver\"", "tenants.acme.class"),
        (
            "database = \"app\"\ntable = \"public.events\"",
            "table = \"public.events\"",
            "clusters.main.partitions.events.database",
        ),
        ("\"public.events\"", "\"events\"", "clusters.main.partitions.events.table"),
        ("\"public.events\"", "\"a.b.c\"", "clusters.main.partitions.events.table"),
        ("retention = \"1d\"", "", "classes.gold.retention"),
        ("retention = \"1d\"", "retention = \"1s\"", "classes.gold.retention"),
        ("logins.app = \"app\"", "logins.app = \"app\"\nmaintenance = \"app\"", "clusters.main.maintenance"),
        ("logins.app = \"app\"", "logins.app = \"app\"\nmaintenance = \"kandy\"", "clusters.main.maintenance"),
        (
            "[clusters.main.partitions.log]\ntable = \"*.log\"",
            "[clusters.main.partitions.log]\ndatabase = \"app\"\ntable = \"public.events\"",
            "names tables that clusters.main.partitions.events names as well",
        ),
        (
            "[clusters.main.partitions.log]\ntable = \"*.log\"",
            "[clusters.main.partitions.again]\ndatabase = \"app\"\ntable = \"*.log\"\ncolumn = \"at\"\n[clusters.main.partitions.log]\ntable = \"*.log\"",
            "partitions.log.table: names tables that clusters.main.partitions.again names as well",
        ),
        ("[[issuers]]", "maintenance.turn_timeout = \"1ms\"\n[[issuers]]", "maintenance.turn_timeout"),
        ("isolation = \"schema\"", "isolation = \"schema\"\nschema = \"a.b\"", "dot in its name"),
        (
            "column = \"at\"\n[clusters.main.partitions.log]",
            "column = \"at\"\nevery = \"1 year\"\n[clusters.main.partitions.log]",
            "partitions.events.every",
        ),
        ("table = \"*.log\"\n", "table = \"*.log\"\npremake = 0\n", "partitions.log.premake"),
    ] {
        let found = problems(from, to);
        assert!(found.contains(said), "{to}: {found}");
    }
    // They are never the same table.
    let apart = "[clusters.main.partitions.again]\ndatabase = \"other\"\ntable = \"*.log\"\ncolumn = \"at\"
        [clusters.main.partitions.log]\ndatabase = \"app\"\ntable = \"*.log\"";
    assert_eq!(problems("[clusters.main.partitions.log]\ntable = \"*.log\"", apart), "");
    assert_eq!(problems("class = \"gold\"", "class = \"gold\"\nlegal_hold = \"a reason\""), "");
}
